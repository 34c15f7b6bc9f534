"""`sfumato data`: look at data sets, pack them, and write them out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.options import Subparsers, add_flag, add_output, add_overrides, add_verb

if TYPE_CHECKING:
    from sfumato.data.data_config import DataConfig
    from sfumato.data.dataset import Splits


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb and its own verbs."""
    parser = add_verb(
        subparsers,
        "data",
        "look at data sets, pack them, and write them out",
        "sfumato data list\n"
        "sfumato data show fashion-mnist\n"
        "sfumato data pack ~/photos data.resolution=64 --strict\n"
        "sfumato data export cifar10 'data.classes=[cat]' --output cats.npz",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    listed = add_verb(verbs, "list", "list the sets that have a name", "sfumato data list")
    listed.set_defaults(run=list_sets)

    show = _add_set_verb(
        verbs,
        "show",
        "print counts, channel statistics and duplicates, and draw images of each class",
        "sfumato data show digits\n"
        "sfumato data show cifar10 'data.classes=[cat,frog]' -o cats.png\n"
        "sfumato data show cifar10 --augment 0.8 --changes geometric colour",
    )
    add_output(show, "the picture (default: NAME.png in the current folder)")
    show.add_argument(
        "--augment",
        type=float,
        nargs="?",
        const=0.5,
        metavar="P",
        help="draw images beside augmented copies, as a discriminator sees them: ADA at "
        "probability P (default: 0.5)",
    )
    show.add_argument(
        "--changes",
        nargs="+",
        metavar="GROUP",
        help="some of blit, geometric, colour, filtering, noise, cutout (default: the first "
        "three), or diff_augment alone",
    )
    show.set_defaults(run=show_set)

    pack = _add_set_verb(
        verbs,
        "pack",
        "prepare a set for training; training does so too if necessary",
        "sfumato data pack ~/photos 'data.resolution=[64,96]' data.fit=letterbox\n"
        "sfumato data pack ~/photos --output photos-64 data.resolution=64",
    )
    add_output(pack, "also write the chosen images into this folder, as a packed set")
    pack.set_defaults(run=pack_set)

    export = _add_set_verb(
        verbs,
        "export",
        "write the images as PNG files, in one folder per class, or as .npz",
        "sfumato data export digits --output digits\n"
        "sfumato data export mnist data.limit=1000 --output mnist-1000.npz",
    )
    add_output(export, "a folder, or an .npz file (default: NAME in the current folder)")
    export.set_defaults(run=export_set)


def _add_set_verb(
    verbs: Subparsers, name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    parser = add_verb(verbs, name, summary, example)
    parser.add_argument(
        "source", metavar="NAME", help="a name of `sfumato data list`, hf:NAME, or a path"
    )
    add_overrides(parser, "data.resolution=32")
    add_flag(parser, "--strict", "refuse odd images instead of converting them")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    return parser


def list_sets(options: argparse.Namespace) -> None:
    """Print the catalogue."""
    del options
    from rich.console import Console
    from rich.table import Column, Table

    from sfumato.core.files import cache_folder
    from sfumato.data.catalogue import CATALOGUE, OTHER_SOURCES

    table = Table(Column("name", no_wrap=True), "images", "form", "from")
    for name, entry in CATALOGUE.items():
        table.add_row(name, entry.images, str(entry.form), entry.provenance)
    Console().print(table)
    print("or:")
    for form, meaning in OTHER_SOURCES.items():
        print(f"  {form:8} {meaning}")
    print(f"downloads and packed sets are in {cache_folder()} (set by SFUMATO_CACHE)")


def show_set(options: argparse.Namespace) -> None:
    """Print tables about a set and write its contact sheet."""
    from rich.console import Console

    from sfumato.core.errors import DataError
    from sfumato.data.output import COPIES, augmentation_of, augmented_sheet, contact_sheet, tables

    if options.changes is not None and options.augment is None:
        raise DataError("--changes needs --augment; give both")
    splits = _load(options)
    path = options.output or Path(f"{splits.train.name}.png")
    if options.augment is not None:
        augment = augmentation_of(options.augment, options.changes)
        path.parent.mkdir(parents=True, exist_ok=True)
        augmented_sheet(splits.train, augment).save(path, format="PNG")
        print(f"training images, each with {COPIES} augmented copies: {path}")
        return
    console = Console()
    for table in tables(splits):
        console.print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(splits).save(path, format="PNG")
    print(f"contact sheet: {path}")


def pack_set(options: argparse.Namespace) -> None:
    """Pack a set into the cache, and into a folder if asked."""
    from sfumato.data.catalogue import find
    from sfumato.data.output import write_packed_splits
    from sfumato.data.packing import pack

    if options.output is not None:
        _refuse_existing(options.output)
    config = _config(options)
    packed = pack(find(config.source), config, options.strict, options.workers)
    for name, part in (("train", packed.train), ("test", packed.test)):
        if part is not None:
            count, channels, height, width = part.images.shape
            print(f"{name}: {count} images, {channels} x {height} x {width}")
            for line in part.summary.lines():
                print(f"  {line}")
    if packed.folder is not None:
        print(f"packed: {packed.folder}")
    if options.output is not None:
        write_packed_splits(_load(options), options.output)
        print(f"written: {options.output}")


def export_set(options: argparse.Namespace) -> None:
    """Write a set as PNG files or as .npz."""
    from sfumato.data.output import write_npz, write_png_folder

    splits = _load(options)
    path = options.output or Path(splits.train.name)
    _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        write_npz(splits, path)
    else:
        write_png_folder(splits, path)
    print(f"written: {path}")


def _config(options: argparse.Namespace) -> "DataConfig":
    """The config of a source with `data.key=value` laid over it."""
    from sfumato.core.config import override, parse
    from sfumato.core.errors import ConfigError
    from sfumato.data.data_config import DataConfig

    changed = override({"data": {"source": options.source}}, options.overrides)
    if other := sorted(set(changed) - {"data"}):
        raise ConfigError(f"{other[0]!r} is not a key of a data set; write data.KEY=VALUE")
    return parse(DataConfig, changed["data"], "data")


def _load(options: argparse.Namespace) -> "Splits":
    from sfumato.data.catalogue import load

    return load(_config(options), options.strict, options.workers)


def _refuse_existing(path: Path) -> None:
    from sfumato.core.errors import DataError

    if path.exists():
        raise DataError(f"{path} exists already; remove it or choose another --output")
