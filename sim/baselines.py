"""WebP and AVIF at a given number of bytes: what an ordinary codec makes of the same budget.

At full size the highest quality that fits is taken. Where even the lowest quality is too large, the picture is scaled
down before encoding and back up after decoding: of several scales, each at its highest quality that fits, the one with
the highest PSNR is shown, which is as kind to the codec as a search over PSNR can be.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, features

from shared.codec.interfaces import Pixels
from sim.metrics import psnr

Codec = Literal["WebP", "AVIF"]
CODECS: tuple[Codec, ...] = ("WebP", "AVIF")
_OPTIONS: dict[Codec, dict[str, object]] = {
    "WebP": {"method": 6},
    "AVIF": {"speed": 6, "subsampling": "4:2:0", "max_threads": 2},
}
_SCALES = (0.75, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
# PSNR has one summit over the scale; a scale this far below the best one seen need not be followed further down.
_WORSE_BY = 1.0


@dataclass(frozen=True)
class Baseline:
    """A picture as another codec brings it within a byte budget.

    Attributes:
        codec: name of the codec.
        size: bytes of the file, container included.
        quality: the codec's quality setting, 0 to 100.
        smallest_full_size: bytes of the smallest file at full size, where that did not fit the budget; else None.
        coded_width: pixels of the picture that was coded.
        coded_height: pixels of the picture that was coded.
        pixels: decoded, and scaled back to the original size, ``height x width x 3``.
    """

    codec: Codec
    size: int
    quality: int
    smallest_full_size: int | None
    coded_width: int
    coded_height: int
    pixels: Pixels

    @property
    def note(self) -> str:
        """Say in one sentence how the picture was made to fit."""
        if self.smallest_full_size is None:
            return f"full size, quality {self.quality}"
        return (
            f"smallest {self.codec} at full size is {self.smallest_full_size:,} bytes; "
            f"shown: downscaled to {self.coded_width}x{self.coded_height}, quality {self.quality}, and back up"
        )


def available(codec: Codec) -> bool:
    """Return whether this machine's Pillow can write the codec."""
    return bool(features.check(codec.lower()))


def encode_at(pixels: Pixels, codec: Codec, largest: int) -> Baseline | None:
    """Encode a picture into at most ``largest`` bytes.

    Args:
        pixels: RGB bytes ``height x width x 3``.
        codec: one of ``CODECS``.
        largest: the byte budget, container included.

    Returns:
        The result, or None if not even a twentieth of the size fits.
    """
    image = Image.fromarray(pixels)
    found = _highest_quality(image, codec, largest)
    if found is not None:
        quality, data = found
        decoded = _decode(data, image.size)
        return Baseline(codec, len(data), quality, None, image.width, image.height, decoded)
    smallest = len(_encode(image, codec, 0))
    best: tuple[float, Baseline] | None = None
    for scale in _SCALES:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.resize(size, Image.Resampling.LANCZOS)
        found = _highest_quality(small, codec, largest)
        if found is None:
            continue
        quality, data = found
        decoded = _decode(data, image.size)
        merit = psnr(pixels, decoded)
        if best is None or merit > best[0]:
            best = (merit, Baseline(codec, len(data), quality, smallest, *size, decoded))
        elif merit < best[0] - _WORSE_BY:
            break
    return best[1] if best else None


def _highest_quality(image: Image.Image, codec: Codec, largest: int) -> tuple[int, bytes] | None:
    lowest = _encode(image, codec, 0)
    if len(lowest) > largest:
        return None
    best, low, high = (0, lowest), 0, 100
    while low < high:
        middle = (low + high + 1) // 2
        data = _encode(image, codec, middle)
        if len(data) <= largest:
            best, low = (middle, data), middle
        else:
            high = middle - 1
    return best


def _encode(image: Image.Image, codec: Codec, quality: int) -> bytes:
    target = io.BytesIO()
    image.save(target, codec, quality=quality, **_OPTIONS[codec])
    return target.getvalue()


def _decode(data: bytes, size: tuple[int, int]) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        decoded = image.convert("RGB")
    if decoded.size != size:
        decoded = decoded.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(decoded)
