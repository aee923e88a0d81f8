"""Training photographs: found, split into training and held-out ones, decoded once or on the fly, cropped at random.

Cropping from decoded pixels (`PhotographCache`) is what lets two cores spend their time on the networks and not on
WebP. Sets too large for that are decoded crop by crop (`PhotographFolder`), in worker processes.
"""

import hashlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from shared.errors import PinholeError
from shared.files import write_atomically

SUFFIXES = {".webp", ".png", ".jpg", ".jpeg"}
VALIDATION_SHARE = 40
"""One photograph in so many is held out for validation."""

Entry = tuple[int, int, int, bool]
"""A photograph in a cache: offset in bytes, height, width, whether it is held out."""


def find_photographs(folder: Path) -> list[Path]:
    """Return every photograph below ``folder``, sorted by path.

    Raises:
        PinholeError: if there is none.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise PinholeError(f"{folder}: no photographs found; give a folder with PNG, JPEG or WebP pictures")
    return found


def _digest(path: Path) -> int:
    return int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big")


def is_validation(path: Path) -> bool:
    """Whether the photograph is held out; decided by its name alone, so that it holds for every run."""
    return _digest(path) % VALIDATION_SHARE == 0


def held_out(paths: Sequence[Path]) -> set[Path]:
    """The photographs that are held out: `is_validation`, and at least one, so that a small folder has a check too."""
    return {p for p in paths if is_validation(p)} or {min(paths, key=_digest)}


def read_photograph(path: Path) -> NDArray[np.uint8] | None:
    """Return ``height x width x 3`` bytes, or None, with one line on standard error, if the file cannot be read."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    # Pillow raises these and more for damaged files of its many formats.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        print(f"warning: {path} left out, it cannot be read ({error})", file=sys.stderr)
        return None


class Photographs(ABC):
    """Photographs split into training and held-out ones.

    Attributes:
        training: how many may be trained on.
        validation: how many are held out.
        smallest: no photograph has a shorter side than this many pixels.
    """

    smallest: int

    @property
    @abstractmethod
    def training(self) -> Sequence[object]:
        """Entries that may be trained on."""

    @property
    @abstractmethod
    def validation(self) -> Sequence[object]:
        """Entries that are held out."""

    @abstractmethod
    def load(self, held_out: bool, index: int) -> NDArray[np.uint8] | None:
        """Return photograph ``index`` of one of the two splits, ``height x width x 3``; None if it cannot be used."""

    def random_crop(
        self, generator: np.random.Generator, crop: int, share: tuple[float, float] | None = None
    ) -> NDArray[np.uint8]:
        """Cut a random square of a random photograph, flipped at random.

        Args:
            generator: where all choices come from.
            crop: side in pixels.
            share: the photograph is first scaled so that ``crop`` is such a share of its shorter side.

        Returns:
            ``crop x crop x 3`` bytes.

        Raises:
            PinholeError: if a hundred photographs in a row could not be used.
        """
        for _ in range(100):
            pixels = self.load(False, int(generator.integers(len(self.training))))
            if pixels is None:
                continue
            if share is not None:
                pixels = _scaled(pixels, crop, generator.uniform(*share))
            if min(pixels.shape[:2]) < crop:
                continue
            top = generator.integers(pixels.shape[0] - crop + 1)
            left = generator.integers(pixels.shape[1] - crop + 1)
            piece = pixels[top : top + crop, left : left + crop]
            return piece[:, ::-1] if generator.random() < 0.5 else piece
        raise PinholeError(f"no photograph of {crop} pixels and more among a hundred; lower data.crop or give others")

    def batches(self, size: int, crop: int, seed: int) -> Iterator[torch.Tensor]:
        """Yield endless batches ``size x 3 x crop x crop`` in [-1, 1], random places, flipped at random."""
        generator = np.random.default_rng(seed)
        while True:
            yield to_tensor(np.stack([self.random_crop(generator, crop) for _ in range(size)]))

    def validation_crops(self, crop: int) -> Iterator[torch.Tensor]:
        """Yield the centre crop ``1 x 3 x h x w`` of every held-out photograph, sides at most ``crop`` and /64."""
        for index in range(len(self.validation)):
            pixels = self.load(True, index)
            if pixels is None or min(pixels.shape[:2]) < 64:
                continue
            height, width = (min(crop, side) // 64 * 64 for side in pixels.shape[:2])
            top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
            yield to_tensor(pixels[None, top : top + height, left : left + width])


class PhotographCache(Photographs):
    """Photographs decoded into ``cache`` (on first use, and again when the folder has changed), read by memory map.

    Args:
        folder: where the photographs lie.
        cache: folder for ``pixels.bin`` (RGB bytes, one picture after the other), ``index.json`` and
            ``fingerprint.txt`` (hash of the names, sizes and times of the photographs).
        smallest: photographs with a shorter side than this many pixels are left out.

    Raises:
        PinholeError: if there are fewer than two photographs that can be used.
    """

    def __init__(self, folder: Path, cache: Path, smallest: int = 256) -> None:
        self.smallest = smallest
        paths = find_photographs(folder)
        wanted = fingerprint(folder, paths, smallest)
        stamp = cache / "fingerprint.txt"
        if not stamp.exists() or stamp.read_text().strip() != wanted:
            _decode_all(paths, cache, smallest)
            write_atomically(stamp, wanted.encode())
        self._pixels = np.memmap(cache / "pixels.bin", dtype=np.uint8, mode="r")
        self._entries: list[Entry] = [tuple(e) for e in json.loads((cache / "index.json").read_text())]
        self._split = ([e for e in self._entries if not e[3]], [e for e in self._entries if e[3]])

    def picture(self, entry: Entry) -> NDArray[np.uint8]:
        """Return one photograph as ``height x width x 3`` bytes."""
        offset, height, width, _ = entry
        return self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    @property
    def training(self) -> list[Entry]:
        """Entries that may be trained on."""
        return self._split[0]

    @property
    def validation(self) -> list[Entry]:
        """Entries that are held out."""
        return self._split[1]

    def load(self, held_out: bool, index: int) -> NDArray[np.uint8]:
        """Return photograph ``index`` of one of the two splits."""
        return self.picture(self._split[held_out][index])


class PhotographFolder(Photographs):
    """Photographs decoded whenever a crop is cut: for sets larger than the disk has room for.

    Args:
        folder: where the photographs lie.
        smallest: photographs with a shorter side than this many pixels are passed over as they are met.

    Raises:
        PinholeError: if there are fewer than two photographs.
    """

    def __init__(self, folder: Path, smallest: int = 256) -> None:
        self.smallest = smallest
        paths = find_photographs(folder)
        _require_two(len(paths), folder)
        kept = held_out(paths)
        self._split = ([p for p in paths if p not in kept], sorted(kept))
        self._unreadable: set[Path] = set()

    @property
    def training(self) -> list[Path]:
        """Photographs that may be trained on."""
        return self._split[0]

    @property
    def validation(self) -> list[Path]:
        """Photographs that are held out."""
        return self._split[1]

    def load(self, held_out: bool, index: int) -> NDArray[np.uint8] | None:
        """Decode photograph ``index`` of one of the two splits; None if it is too small or cannot be read."""
        path = self._split[held_out][index]
        if path in self._unreadable:
            return None
        pixels = read_photograph(path)
        if pixels is None:
            self._unreadable.add(path)  # so that one file is one warning
            return None
        return pixels if min(pixels.shape[:2]) >= self.smallest else None


def fingerprint(folder: Path, paths: Sequence[Path], smallest: int) -> str:
    """Hash of the photographs' names, sizes and modification times, in hexadecimal."""
    digest = hashlib.sha256(f"{smallest} {VALIDATION_SHARE}\n".encode())
    for path in paths:
        status = path.stat()
        digest.update(f"{path.relative_to(folder).as_posix()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Bytes ``B x H x W x 3`` to float32 ``B x 3 x H x W`` in [-1, 1], channels-last in memory."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _decode_all(paths: Sequence[Path], cache: Path, smallest: int) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "fingerprint.txt").unlink(missing_ok=True)
    partial = cache / f"pixels.{os.getpid()}.part"
    usable: list[tuple[Path, int, int, int]] = []
    offset = 0
    try:
        with partial.open("wb") as out:
            for path in paths:
                pixels = read_photograph(path)
                if pixels is None or min(pixels.shape[:2]) < smallest:
                    continue
                out.write(pixels.tobytes())
                usable.append((path, offset, pixels.shape[0], pixels.shape[1]))
                offset += pixels.size
        _require_two(len(usable), paths[0].parent, smallest)
        kept = held_out([path for path, *_ in usable])
        # A process that still maps the old file keeps it: the new one takes its name only.
        partial.replace(cache / "pixels.bin")
    except OSError as error:
        raise PinholeError(
            f"cannot write {cache / 'pixels.bin'}: {error}; free space or set data.cache = false"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    entries = [[offset, height, width, path in kept] for path, offset, height, width in usable]
    write_atomically(cache / "index.json", json.dumps(entries).encode())


def _require_two(count: int, folder: Path, smallest: int = 1) -> None:
    if count < 2:
        raise PinholeError(
            f"{folder}: {count} usable photographs (shorter side of at least {smallest} pixels); give two or more, "
            "one of which is held out, or lower data.smallest"
        )


def _scaled(pixels: NDArray[np.uint8], crop: int, share: float) -> NDArray[np.uint8]:
    """Scale so that ``crop`` is ``share`` of the shorter side."""
    height, width = pixels.shape[:2]
    factor = crop / share / min(height, width)
    size = (max(crop, round(width * factor)), max(crop, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
