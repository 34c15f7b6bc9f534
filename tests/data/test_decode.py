"""Every kind of odd image: what becomes of its pixels, and what is noted."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from sfumato.data.decode import UnusableImageError, decode

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(decode(content).image)


def two_halves() -> Image.Image:
    """4 wide, 2 high; red on the left, blue on the right."""
    image = Image.new("RGB", (4, 2), RED)
    image.paste(BLUE, (2, 0, 4, 2))
    return image


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_the_pixels_back(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    options = {"lossless": True} if form == "WEBP" else {}
    decoded = decode(encoded(Image.fromarray(noise), form, **options))
    assert np.array_equal(np.asarray(decoded.image), noise)
    assert decoded.notes == set()


def test_grey_stays_grey() -> None:
    assert decode(encoded(Image.new("L", (3, 3), 77))).image.mode == "L"
    assert (pixels(encoded(Image.new("1", (3, 3), 1))) == 255).all()


def test_sixteen_bit_grey_is_scaled_so_that_both_ends_are_met() -> None:
    """v / 257 rounded to nearest: 128 is the last value that goes to 0, 129 the first to 1."""
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    decoded = decode(encoded(Image.fromarray(values)))
    assert decoded.notes == {"16-bit"}
    assert np.asarray(decoded.image).tolist() == [np.rint(values[0] / 257).astype(int).tolist()]


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_sixteen_bit_colour_is_counted_and_keeps_its_upper_byte(
    colour_type: int, channels: int
) -> None:
    """Pillow writes no such PNG: here it is put together by hand (RFC 2083)."""
    values = np.full((2, 3, channels), 65535, dtype=">u2")
    values[0, 0], values[0, 1] = 0, 0x80FF
    header = struct.pack(">IIBBBBB", 3, 2, 16, colour_type, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    decoded = decode(content)
    assert decoded.notes >= {"16-bit"}
    assert np.asarray(decoded.image)[0, :, 0].tolist() == [0, 0x80, 255]


def test_sixteen_bits_a_pixel_are_not_sixteen_a_channel() -> None:
    header = b"BM" + struct.pack("<IHHI", 54 + 16, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, 3, 2, 1, 16, 0, 16, 0, 0, 0, 0)
    assert decode(header + bytes(16)).notes == set()


def test_cmyk_is_converted() -> None:
    decoded = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert decoded.notes == {"cmyk"}
    red = np.asarray(decoded.image).reshape(-1, 3).mean(0)
    assert red[0] > 240
    assert red[1:].max() < 15


def test_palette_is_converted() -> None:
    decoded = decode(encoded(two_halves().quantize(4)))
    assert decoded.notes == {"palette"}
    assert np.array_equal(np.asarray(decoded.image), np.asarray(two_halves()))


def test_transparency_is_kept_and_noted_only_where_there_is_some() -> None:
    half = Image.new("RGBA", (2, 1), (*RED, 255))
    half.putpixel((1, 0), (*RED, 0))
    assert decode(encoded(half)).notes == {"transparent"}
    assert decode(encoded(half)).image.mode == "RGBA"
    opaque = decode(encoded(Image.new("RGBA", (2, 2), (*GREEN, 255))))
    assert (opaque.image.mode, opaque.notes) == ("RGB", set())


def test_transparent_palette_colour() -> None:
    image = two_halves().quantize(4)
    transparent = image.getpixel((0, 0))
    decoded = decode(encoded(image, transparency=transparent))
    assert decoded.notes == {"palette", "transparent"}
    assert np.asarray(decoded.image)[0, :, 3].tolist() == [0, 0, 255, 255]


# EXIF orientation -> where the top left pixel of the stored image belongs, by the standard.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_undone(orientation: int) -> None:
    stored = np.random.default_rng(1).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(Image.fromarray(stored), exif=exif.tobytes()))
    assert np.array_equal(np.asarray(decoded.image), UPRIGHT[orientation](stored))
    assert decoded.notes == ({"rotated"} if orientation > 1 else set())


def test_first_frame_of_an_animation() -> None:
    first, second = two_halves(), Image.new("RGB", (4, 2), GREEN)
    content = encoded(first, "GIF", save_all=True, append_images=[second])
    decoded = decode(content)
    assert "animated" in decoded.notes
    assert np.array_equal(np.asarray(decoded.image), np.asarray(first))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(50_000, 50_000), (12_000, 12_000)])
def test_decompression_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(UnusableImageError) as refused:
        decode(png_claiming(*size))
    assert refused.value.kind == "bomb"


def test_large_photograph_is_no_bomb() -> None:
    """Pillow alone would warn above 89 megapixels."""
    from sfumato.data.decode import open_image

    assert open_image(png_claiming(11_000, 11_000)).size == (11_000, 11_000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(two_halves())[:40],
        encoded(Image.effect_noise((64, 64), 50), "JPEG")[:900],
        encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"),
        png_claiming(100, 100),
    ],
    ids=["empty", "text", "svg", "cut-png", "cut-jpeg", "float", "too-little-data"],
)
def test_what_cannot_be_decoded_is_unreadable(content: bytes) -> None:
    with pytest.raises(UnusableImageError) as refused:
        decode(content)
    assert refused.value.kind == "unreadable"


def test_flipped_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    sources = [
        encoded(Image.effect_noise((24, 24), 80).convert("RGB"), form)
        for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
    ]
    for round_number in range(60):
        for content in sources:
            damaged = bytearray(content)
            for at in rng.integers(0, len(damaged), 1 + round_number % 8):
                damaged[at] = rng.integers(0, 256)
            with contextlib.suppress(UnusableImageError):
                assert decode(bytes(damaged)).image.mode in ("L", "RGB", "RGBA")
