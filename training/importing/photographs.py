"""Crops of photographs that an imported entropy path is calibrated on, and others that its rate is measured on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from training.data import find_photographs, read_photograph

SIDES = (512, 256, 384)
"""Sides of the crops in turn, pixels, all multiples of 64."""
SMALLEST = 256
"""Photographs with a shorter side than this are passed over."""
HELD_OUT = 4
"""One photograph and one crop in so many are for measuring only."""


@dataclass(frozen=True)
class CalibrationCrops:
    """Square crops as RGB bytes ``side x side x 3``.

    Attributes:
        fitted: grids and coding tables are fitted to these.
        measured: rates are measured on these; they come from other photographs where there are two and more.
        photographs: how many photographs all of them come from.
    """

    fitted: tuple[Pixels, ...]
    measured: tuple[Pixels, ...]
    photographs: int


def cut_crops(folder: Path, count: int, seed: int = 231) -> CalibrationCrops:
    """Cut ``count`` crops of the photographs below a folder, the same at every call.

    Args:
        folder: searched with its subfolders.
        count: 2 or more; a quarter of them, at least one, is for measuring.
        seed: where all choices come from.

    Raises:
        PinholeError: if the folder does not exist or holds no photograph that is large enough.
    """
    if not folder.is_dir():
        raise PinholeError(f"--calibrate {folder} is no folder; give one with photographs")
    paths = find_photographs(folder)
    generator = np.random.default_rng(seed)
    shuffled = [paths[i] for i in generator.permutation(len(paths))]
    measured = max(1, count // HELD_OUT)
    held_out = max(1, len(shuffled) // HELD_OUT) if len(shuffled) > 1 else 0
    used: set[Path] = set()
    groups = (shuffled[:held_out], shuffled[held_out:])
    # A single photograph, or the only one that can be used, has to do for both.
    measured_crops, fitted_crops = (
        _crops(own, wanted, generator, used) or _crops(other, wanted, generator, used)
        for wanted, own, other in ((measured, *groups), (count - measured, *reversed(groups)))
    )
    if not measured_crops:
        raise PinholeError(
            f"{folder}: no photograph has {SMALLEST} pixels and more on its shorter side; give larger ones"
        )
    return CalibrationCrops(tuple(fitted_crops), tuple(measured_crops), len(used))


def _crops(
    paths: Sequence[Path], count: int, generator: np.random.Generator, used: set[Path]
) -> list[NDArray[np.uint8]]:
    """Cut crops of one photograph after the other, and again from the first one until there are enough."""
    crops: list[NDArray[np.uint8]] = []
    while len(crops) < count:
        before = len(crops)
        for path, pixels in _usable(paths):
            side = min(SIDES[len(crops) % len(SIDES)], min(pixels.shape[:2]) // 64 * 64)
            top, left = (int(generator.integers(length - side + 1)) for length in pixels.shape[:2])
            crops.append(np.array(pixels[top : top + side, left : left + side]))
            used.add(path)
            if len(crops) == count:
                break
        if len(crops) == before:
            break
    return crops


def _usable(paths: Sequence[Path]) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    for path in paths:
        pixels = read_photograph(path)
        if pixels is not None and min(pixels.shape[:2]) >= SMALLEST:
            yield path, pixels
