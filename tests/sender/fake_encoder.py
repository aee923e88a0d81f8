"""A deterministic encoder that needs no bundle: a thumbnail through zlib, cut into three layers."""

import zlib
from collections.abc import Sequence

import numpy as np

from shared.codec.header import PictureHeader
from shared.codec.interfaces import OperatingPoint, Pixels
from shared.errors import PinholeError

_SIDES: dict[float, int] = {1: 8, 2: 16, 3: 32}


class FakeEncoder:
    """Satisfies PictureEncoder; its layers start with a real picture header."""

    @property
    def bundle_id(self) -> bytes:
        return b"fake"

    @property
    def operating_points(self) -> Sequence[OperatingPoint]:
        return [OperatingPoint(int(quality), f"side{side}", 0.01 * side) for quality, side in _SIDES.items()]

    def encode(self, pixels: Pixels, quality: float, *, captured: int | None = None) -> list[bytes]:
        if quality not in _SIDES:
            raise PinholeError(f"quality {quality} is not one of {sorted(_SIDES)}")
        height, width, _ = pixels.shape
        side = _SIDES[quality]
        rows = np.arange(side) * height // side
        columns = np.arange(side) * width // side
        data = zlib.compress(pixels[rows][:, columns].tobytes(), 9)
        header = PictureHeader(self.bundle_id, width, height, quality, 3, captured).pack()
        first, second = len(data) // 5, len(data) // 2
        return [header + data[:first], data[first:second], data[second:]]

    def encode_within(self, pixels: Pixels, largest: int, *, captured: int | None = None) -> list[bytes]:
        for quality in sorted(_SIDES, reverse=True):
            layers = self.encode(pixels, quality, captured=captured)
            if sum(map(len, layers)) <= largest:
                return layers
        while len(layers) > 1 and sum(map(len, layers)) > largest:
            layers = layers[:-1]
        return layers
