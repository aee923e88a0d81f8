"""Small picture files for the sender's tests."""

import os
from pathlib import Path

import numpy as np
from PIL import Image


def write_picture(path: Path, seed: int, *, modified: float | None = None, exif: Image.Exif | None = None) -> Path:
    """Write a 48x32 picture of seeded noise; give it the modification time ``modified``."""
    noise = np.random.default_rng(seed).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if exif is None:
        Image.fromarray(noise).save(path)
    else:
        Image.fromarray(noise).save(path, exif=exif)
    if modified is not None:
        os.utime(path, (modified, modified))
    return path
