"""Integer layers carried in floating point: the same result on every machine, in any order of summation.

A layer convolves 8-bit activations with 7-bit weights, adds a bias, rescales by a 15-bit multiplier and a shift, and
looks the result up in a 256-entry table where an activation function follows::

    acc = conv(x, weight) + bias                      |acc| < 2^24: float32 holds every partial sum exactly
    out = floor((acc * multiplier + 2^(shift-1)) / 2^shift)      exact in float64: the product stays below 2^39
    out = table[clip(out, -128, 127) + 128]           or clip(out, low, high)

Nothing here knows which network the layers make up; `shared.codec.entropy.program` does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from shared.errors import PinholeError

Integers = NDArray[np.int32]
"""Integer feature maps, shape ``1 x channels x height x width``."""

EXACT = 1 << 24
"""float32 holds every integer below this magnitude."""
WEIGHT_LIMIT = 63
"""7-bit weights: 8-bit ones would saturate in the int8 kernels of processors without VNNI."""
MULTIPLIER_LIMIT = (1 << 15) - 1


@dataclass(frozen=True)
class Rescale:
    """Multiplication by ``multiplier / 2^shift`` with rounding half up, then clipping.

    Attributes:
        multiplier: int64 ``channels``, 0 to 2^15 - 1.
        shift: int64 ``channels``, 1 to 40.
        low: smallest result.
        high: largest result.
    """

    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]
    low: int
    high: int

    def __call__(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rescale ``1 x channels x h x w`` integers below 2^24 in magnitude."""
        multiplier, shift = self.multiplier[:, None, None], self.shift[:, None, None]
        scaled = (values * multiplier + (1 << (shift - 1))) >> shift
        clipped: NDArray[np.int64] = np.clip(scaled, self.low, self.high)
        return clipped


@dataclass(frozen=True)
class IntegerLayer:
    """One convolution with its bias, rescaling and activation table.

    Attributes:
        weight: int8, ``out x in x k x k``; for a transposed convolution ``in x out x k x k``.
        bias: int32, ``out``.
        rescale: from the sum to the output's grid.
        stride: 1, or 2 for a transposed convolution that doubles height and width.
        transposed: whether this is a transposed convolution.
        table: int16, 256 activation values for inputs -128 to 127, or None.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    rescale: Rescale
    stride: int = 1
    transposed: bool = False
    table: NDArray[np.int16] | None = None

    @property
    def padding(self) -> int:
        """Zeros on each side: half the kernel."""
        return self.weight.shape[-1] // 2

    def check_exact(self, largest_input: int = 128) -> None:
        """Assert that no partial sum can leave the range float32 holds exactly.

        Raises:
            PinholeError: if for some output channel ``sum(|w|) * largest_input + |b|`` reaches 2^24.
        """
        axes = (0, 2, 3) if self.transposed else (1, 2, 3)
        bound = np.abs(self.weight.astype(np.int64)).sum(axes) * largest_input + np.abs(self.bias.astype(np.int64))
        if bound.max() >= EXACT:
            raise PinholeError(f"integer layer is not exact in float32: a sum may reach {bound.max()}; quantise again")
        if np.abs(self.weight.astype(np.int64)).max(initial=0) > WEIGHT_LIMIT:
            raise PinholeError(f"integer layer has weights beyond {WEIGHT_LIMIT}; quantise again")
        if self.rescale.multiplier.min() < 0 or self.rescale.multiplier.max() > MULTIPLIER_LIMIT:
            raise PinholeError("integer layer has a multiplier outside 15 bits; quantise again")


def run_layer(layer: IntegerLayer, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Run one layer in NumPy, the reference that every other backend must equal.

    Args:
        layer: the layer.
        x: ``1 x in x h x w`` integers within 8 bits.

    Returns:
        ``1 x out x h' x w'`` integers.
    """
    acc = _convolve(layer, x) + layer.bias[:, None, None]
    out = layer.rescale(acc)
    return out if layer.table is None else layer.table.astype(np.int64)[out + 128]


def _convolve(layer: IntegerLayer, x: NDArray[np.int64]) -> NDArray[np.int64]:
    weight = layer.weight.astype(np.int64)
    kernel = weight.shape[-1]
    if layer.transposed:
        # A transposed convolution is zero insertion followed by a plain one with the kernel turned round.
        stretched = np.zeros((1, x.shape[1], x.shape[2] * layer.stride, x.shape[3] * layer.stride), np.int64)
        stretched[:, :, :: layer.stride, :: layer.stride] = x
        x, weight = stretched, weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    padded = np.pad(x[0], ((0, 0), (layer.padding,) * 2, (layer.padding,) * 2))
    windows = sliding_window_view(padded, (kernel, kernel), axis=(1, 2))  # type: ignore[call-overload]
    columns = windows.transpose(0, 3, 4, 1, 2).reshape(-1, x.shape[2] * x.shape[3])
    # The product runs in float64, where BLAS is fast and 2^24 is far from inexact.
    product = weight.reshape(len(weight), -1).astype(np.float64) @ columns.astype(np.float64)
    sums: NDArray[np.int64] = np.rint(product).astype(np.int64).reshape(1, len(weight), x.shape[2], x.shape[3])
    return sums
