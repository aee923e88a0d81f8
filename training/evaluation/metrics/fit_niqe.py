"""Fit NIQE's model of natural photographs: ``python -m training.evaluation.metrics.fit_niqe PHOTOGRAPHS -o FILE``."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from training.data import find_photographs
from training.evaluation.metrics import niqe

SCALE = 2.0 / 3.0
"""Photographs are shrunk by this before fitting: what lossy storage did to their finest detail is no nature."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and write the model; returns the exit status."""
    parser = argparse.ArgumentParser(prog="fit_niqe", description="Fit NIQE's model of natural photographs.")
    parser.add_argument("photographs", type=Path, help="folder of photographs, searched in depth")
    parser.add_argument("-o", "--output", type=Path, default=niqe.MODEL, help="file to write (default: the one used)")
    parser.add_argument("--scale", type=float, default=SCALE, help="shrink photographs to this share of their sides")
    options = parser.parse_args(arguments)
    if not 0.0 < options.scale <= 1.0:
        parser.error(f"--scale {options.scale}: give a share above 0, up to 1")
    try:
        paths = find_photographs(options.photographs)
        model = niqe.fit(_shrunk(track(paths, "Photographs", transient=True), options.scale))
        model.save(options.output)
    except (PinholeError, OSError) as error:
        print(f"fit_niqe: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {model.patches} sharp patches of {model.photographs} photographs")
    return 0


def _shrunk(paths: Iterable[Path], scale: float) -> Iterator[Pixels]:
    for path in paths:
        with Image.open(path) as image:
            size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            picture = image.convert("RGB")
            yield np.asarray(picture if scale == 1.0 else picture.resize(size, Image.Resampling.LANCZOS))


if __name__ == "__main__":
    sys.exit(main())
