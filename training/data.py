"""Training photographs: found, split, decoded once into one memory-mapped file, cropped at random.

Cropping from decoded pixels is what lets two cores spend their time on the networks and not on WebP.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from shared.errors import PinholeError

SUFFIXES = {".webp", ".png", ".jpg", ".jpeg"}
VALIDATION_SHARE = 40
"""One photograph in so many is held out for validation."""


def find_photographs(folder: Path) -> list[Path]:
    """Return every photograph below ``folder``, sorted by path.

    Raises:
        PinholeError: if there is none.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise PinholeError(f"{folder}: no photographs found; give a folder with PNG, JPEG or WebP pictures")
    return found


def is_validation(path: Path) -> bool:
    """Whether the photograph is held out; decided by its name alone, so that it holds for every run."""
    digest = hashlib.sha256(path.name.encode()).digest()
    return int.from_bytes(digest[:4], "big") % VALIDATION_SHARE == 0


class PhotographCache:
    """Photographs of one split, decoded into ``cache`` (made on first use) and read through a memory map.

    Args:
        folder: where the photographs lie.
        cache: folder for ``pixels.bin`` (RGB bytes, one picture after the other) and ``index.json``.
        smallest: photographs with a shorter side than this many pixels are left out.
    """

    def __init__(self, folder: Path, cache: Path, smallest: int = 256) -> None:
        index_file, pixel_file = cache / "index.json", cache / "pixels.bin"
        if not index_file.exists():
            cache.mkdir(parents=True, exist_ok=True)
            entries = []
            offset = 0
            with pixel_file.open("wb") as out:
                for path in find_photographs(folder):
                    with Image.open(path) as image:
                        pixels = np.asarray(image.convert("RGB"))
                    if min(pixels.shape[:2]) < smallest:
                        continue
                    out.write(pixels.tobytes())
                    entries.append([offset, pixels.shape[0], pixels.shape[1], is_validation(path)])
                    offset += pixels.size
            index_file.write_text(json.dumps(entries))
        self._pixels = np.memmap(pixel_file, dtype=np.uint8, mode="r")
        self._entries: list[tuple[int, int, int, bool]] = [tuple(e) for e in json.loads(index_file.read_text())]

    def picture(self, entry: tuple[int, int, int, bool]) -> NDArray[np.uint8]:
        """Return one photograph as ``height x width x 3`` bytes."""
        offset, height, width, _ = entry
        return self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    @property
    def training(self) -> list[tuple[int, int, int, bool]]:
        """Entries that may be trained on."""
        return [e for e in self._entries if not e[3]]

    @property
    def validation(self) -> list[tuple[int, int, int, bool]]:
        """Entries that are held out."""
        return [e for e in self._entries if e[3]]

    def batches(self, size: int, crop: int, seed: int) -> Iterator[torch.Tensor]:
        """Yield endless batches ``size x 3 x crop x crop`` in [-1, 1], random places, flipped at random."""
        generator = np.random.default_rng(seed)
        entries = self.training
        while True:
            batch = np.empty((size, crop, crop, 3), np.uint8)
            for i in range(size):
                entry = entries[generator.integers(len(entries))]
                top = generator.integers(entry[1] - crop + 1)
                left = generator.integers(entry[2] - crop + 1)
                piece = self.picture(entry)[top : top + crop, left : left + crop]
                batch[i] = piece[:, ::-1] if generator.random() < 0.5 else piece
            yield to_tensor(batch)

    def validation_crops(self, crop: int) -> Iterator[torch.Tensor]:
        """Yield the centre crop ``1 x 3 x h x w`` of every held-out photograph, sides at most ``crop`` and /64."""
        for entry in self.validation:
            height, width = (min(crop, side) // 64 * 64 for side in entry[1:3])
            top, left = (entry[1] - height) // 2, (entry[2] - width) // 2
            yield to_tensor(self.picture(entry)[None, top : top + height, left : left + width])


def to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Bytes ``B x H x W x 3`` to float32 ``B x 3 x H x W`` in [-1, 1], channels-last in memory."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
