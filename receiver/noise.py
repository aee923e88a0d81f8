"""Noise of the diffusion, drawn by a counter: any draw of any picture can be had at once, in any order, on any machine.

A picture's noise depends on its own seed and on nothing else, so it decodes the same alone, in a batch and after any
other picture. Random bits come from Philox (Salmon et al. 2011), which NumPy promises never to change ("Compatibility
guarantee" of ``numpy.random.Philox``). No such promise holds for NumPy's ``standard_normal`` (NEP 19) nor for torch's
generators, so the bits are made normal here, by Box and Muller (1958).
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.random import Philox
from torch import Tensor

SEED_BITS = 63
"""Bits of a seed that count; the others are left out, so that every integer is a seed."""

_HALF = 32
_HALF_MASK = np.uint64((1 << _HALF) - 1)
# Blocks of random bits are numbered by the lowest of the counter's four 64-bit words, draws by the next one: a draw
# would need 2^64 blocks to reach the draw after it.
_DRAW_SHIFT = 64


class NoiseSource(Protocol):
    """Where a picture's noise comes from."""

    def draw(self, index: int, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers, float32 on the CPU; the same arguments always give the same numbers.

        Args:
            index: 0 for the start noise, i + 1 for the noise of sampler step i, counted from the noisy end.
            shape: ``C, h, w``, without a batch axis.
        """


class PictureNoise:
    """All noise of one picture; satisfies ``NoiseSource``.

    The same on every machine up to the last bit of a float32, which the logarithm of another processor may turn.

    Args:
        seed: of the picture; its lowest 63 bits count.
    """

    def __init__(self, seed: int) -> None:
        self._key = seed & ((1 << SEED_BITS) - 1)

    def draw(self, index: int, shape: tuple[int, ...]) -> Tensor:
        """Return draw ``index``; see ``NoiseSource.draw``.

        Raises:
            ValueError: if index is negative.
        """
        if index < 0:
            raise ValueError(f"draw {index} of a picture's noise: give 0 or more")
        count = math.prod(shape)
        words = Philox(key=self._key, counter=index << _DRAW_SHIFT).random_raw((count + 1) // 2)
        # One half of each word is the radius, the other the angle. Radii keep off the logarithm's pole at 0.
        radius = (words >> np.uint64(_HALF)).astype(np.float64)
        radius += 0.5
        radius *= 2.0**-_HALF
        np.log(radius, out=radius)
        radius *= -2
        np.sqrt(radius, out=radius)
        angle = (words & _HALF_MASK).astype(np.float64)
        angle *= math.tau * 2.0**-_HALF
        normal = np.empty((len(words), 2), np.float32)
        np.multiply(radius, np.cos(angle), out=normal[:, 0], casting="same_kind")
        np.multiply(radius, np.sin(angle), out=normal[:, 1], casting="same_kind")
        return torch.from_numpy(normal.reshape(-1)[:count].reshape(shape))


def stack_noise(noises: Sequence[NoiseSource], index: int, shape: tuple[int, ...]) -> Tensor:
    """Return draw ``index`` of several pictures as a batch, ``B x C x h x w``, float32 on the CPU.

    Args:
        noises: one for each picture.
        index: as in ``NoiseSource.draw``.
        shape: of one picture, ``C, h, w``.
    """
    return torch.stack([noise.draw(index, shape) for noise in noises])
