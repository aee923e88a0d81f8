"""Patches for distances between sets of pictures, as in HiFiC (Mentzer et al., NeurIPS 2020, appendix A.7)."""

from collections.abc import Iterator

import numpy as np

from shared.codec.interfaces import Pixels

PATCH = 256
"""Side in pixels."""


def patches(pixels: Pixels, size: int = PATCH) -> Iterator[Pixels]:
    """Yield the whole patches of two grids, the second shifted by half a patch down and to the right.

    A 768 x 512 picture gives 6 and 2. Where a side leaves half a patch or more over, the shifted grid has as many
    patches along it as the first (as in Meta's NeuralCompression); otherwise one fewer.

    Args:
        pixels: RGB bytes ``height x width x 3``; a side shorter than ``size`` gives none.
        size: side of a patch in pixels.

    Yields:
        RGB bytes ``size x size x 3``, contiguous.
    """
    height, width = pixels.shape[:2]
    for origin in (0, size // 2):
        for top in range(origin, height - size + 1, size):
            for left in range(origin, width - size + 1, size):
                yield np.ascontiguousarray(pixels[top : top + size, left : left + size])
