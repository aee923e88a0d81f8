"""Where the receiver makes things up: how far decodes of one picture with different seeds differ.

The layers of a picture leave much open, and diffusion fills it in by chance, steered by a seed. Where several seeds
paint the same, the layers (or the prior, see below) settled it; where they differ, the picture shows one of many
pictures that the layers allow. So the map tells readable from invented: a number plate that changes from seed to seed
was not sent.

What it cannot say: how far the picture is from the truth. It is the spread of the decoder's paintings and not an error:
a prior that is sure of itself paints the same wrong thing with every seed and shows no spread there. A large spread is
a reason not to trust, a small one no reason to trust; measured fidelity needs a reference from the sender.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from receiver.png import encode_png
from shared.codec.interfaces import Pixels
from shared.errors import PinholeError, UsageError

FULL_SCALE = 32.0
"""Standard deviation in levels that the map shows as white, the same for every picture so that maps compare.

Grey rises with the square root, ``grey = 255 * sqrt(deviation / FULL_SCALE)``: few levels of spread are the rule and
must be seen, tens of levels happen and must not all be white. Grey 64 is 2 levels, 128 is 8.
"""

_SEED_BITS = 63
# Weights of sRGB's primaries (ITU-R BT.709), on the bytes as they are, which is luma and not luminance.
_RED, _GREEN, _BLUE = 0.2126, 0.7152, 0.0722
_STRIP_PIXELS = 1 << 20


@dataclass(frozen=True)
class Uncertainty:
    """Spread of a picture's decodes over seeds.

    Attributes:
        deviation: standard deviation of luma at every pixel in levels, ``height x width`` float32, 0 to 180.3. The
            estimate from a sample (divisor ``count - 1``), so that its square does not grow with the number of seeds.
        count: number of decodes, 2 or more.
    """

    deviation: NDArray[np.float32]
    count: int

    @property
    def level(self) -> float:
        """The picture's uncertainty as one number: root mean square of `deviation`, levels."""
        return math.sqrt(float(np.square(self.deviation).mean(dtype=np.float64)))

    @property
    def mean(self) -> float:
        """Mean of `deviation`, levels; at few seeds somewhat below what many seeds would give."""
        return float(self.deviation.mean(dtype=np.float64))

    def picture(self) -> NDArray[np.uint8]:
        """Return the map as grey bytes ``height x width``: black 0, white `FULL_SCALE` levels and above (see there)."""
        grey = np.empty(self.deviation.shape, np.uint8)
        for rows in _strips(self.deviation.shape):
            grey[rows] = np.rint(255 * np.sqrt(self.deviation[rows] / FULL_SCALE)).clip(0, 255)
        return grey

    def png(self, facts: Mapping[str, str] | None = None) -> bytes:
        """Return the map as a grey PNG file that says its own scale, number of seeds and level.

        Args:
            facts: further text chunks, see `encode_png`.
        """
        own = {
            "pinhole:uncertainty-white": f"{FULL_SCALE:g} levels, square root scale",
            "pinhole:uncertainty-level": f"{self.level:.3f} levels",
            "pinhole:uncertainty-seeds": str(self.count),
        }
        return encode_png(self.picture(), {**own, **(facts or {})})


class UncertaintyAccumulator:
    """Takes decodes of one picture one after another and keeps none of them (Welford 1962): 8 bytes a pixel.

    ::

        accumulator = UncertaintyAccumulator()
        for seed in seeds_for(picture_seed, 4):
            accumulator.add(decoder.decode(layers, seed=seed))
        accumulator.result().level
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = np.empty((0, 0), np.float32)
        self._squares = np.empty((0, 0), np.float32)

    def add(self, pixels: Pixels) -> None:
        """Take one decode, RGB bytes ``height x width x 3``.

        Raises:
            PinholeError: if it is not RGB bytes or not of the size of those before.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise PinholeError(f"decode of {pixels.shape} {pixels.dtype} is not RGB bytes; it has no luma to compare")
        shape = pixels.shape[:2]
        if self._count == 0:
            self._mean, self._squares = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        elif shape != self._mean.shape:
            raise PinholeError(
                f"decodes of {self._mean.shape} and {shape} pixels cannot be compared; decode the same layers"
            )
        self._count += 1
        for rows in _strips(shape):
            luma = _luma(pixels[rows])
            before = luma - self._mean[rows]
            self._mean[rows] += before / self._count
            self._squares[rows] += before * (luma - self._mean[rows])

    def result(self) -> Uncertainty:
        """Return the spread of what was added so far; more can be added afterwards.

        Raises:
            UsageError: if that were less than two decodes.
        """
        check_count(self._count)
        deviation = self._squares / (self._count - 1)
        # Rounding can leave a pixel a hair below nothing.
        np.sqrt(np.maximum(deviation, 0, out=deviation), out=deviation)
        return Uncertainty(deviation, self._count)


def measure_uncertainty(
    decode: Callable[[int], Pixels], seed: int, count: int, first: Pixels | None = None
) -> Uncertainty:
    """Decode a picture with several seeds and return how far the decodes differ.

    Args:
        decode: decodes the picture with a seed, RGB bytes ``height x width x 3``.
        seed: the picture's own.
        count: number of seeds, 2 or more.
        first: the decode with the picture's own seed, where it is at hand.

    Raises:
        UsageError: if ``count`` is less than 2.
        PinholeError: from ``decode``.
    """
    check_count(count)
    accumulator = UncertaintyAccumulator()
    for number, one in enumerate(seeds_for(seed, count)):
        accumulator.add(first if number == 0 and first is not None else decode(one))
    return accumulator.result()


def check_count(count: int) -> None:
    """Refuse a number of seeds that has no spread.

    Raises:
        UsageError: below 2.
    """
    if count < 2:
        raise UsageError(f"uncertainty from {count} decode{'' if count == 1 else 's'} is not defined; give 2 or more")


def seeds_for(seed: int, count: int) -> list[int]:
    """Return distinct seeds to decode one picture with: its own, and others that follow from it.

    Args:
        seed: the picture's own.
        count: how many.

    Returns:
        ``count`` seeds of 63 bits: ``seed`` in its lowest 63 bits, which are all that decoders use of it, then ones
        spread by NumPy's seed sequence. More seeds begin with those of fewer.
    """
    own = seed & ((1 << _SEED_BITS) - 1)
    seeds = dict.fromkeys([own][:count])
    number = 0
    while len(seeds) < count:
        number += 1
        state = np.random.SeedSequence(own, spawn_key=(number,)).generate_state(1, np.uint64)
        seeds.setdefault(int(state[0]) >> (64 - _SEED_BITS))
    return list(seeds)


def _luma(pixels: Pixels) -> NDArray[np.float32]:
    """Return luma in levels, 0 to 255."""
    red, green, blue = (pixels[..., channel].astype(np.float32) for channel in range(3))
    luma: NDArray[np.float32] = red * np.float32(_RED) + green * np.float32(_GREEN) + blue * np.float32(_BLUE)
    return luma


def _strips(shape: tuple[int, ...]) -> list[slice]:
    """Return slices of rows that hold about `_STRIP_PIXELS` pixels each, so that temporary arrays stay small."""
    rows = max(1, _STRIP_PIXELS // shape[1])
    return [slice(start, start + rows) for start in range(0, shape[0], rows)]
