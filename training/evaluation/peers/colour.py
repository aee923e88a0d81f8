"""RGB to YCbCr planes and back, for encoders that take nothing else.

BT.709 matrix, full range (ITU-T H.273, matrix coefficients 1, full-range flag 1): no level is lost to headroom.
Chroma at half resolution sits on the even luma columns and between the rows (H.273, chroma location 0), where the
cross-component prediction of VVC expects it.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.codec.interfaces import Pixels

_RED, _BLUE = 0.2126, 0.0722
_FORWARD = np.array(
    [
        [_RED, 1 - _RED - _BLUE, _BLUE],
        [-_RED / (2 - 2 * _BLUE), -(1 - _RED - _BLUE) / (2 - 2 * _BLUE), 0.5],
        [0.5, -(1 - _RED - _BLUE) / (2 - 2 * _RED), -_BLUE / (2 - 2 * _RED)],
    ]
)
_INVERSE = np.linalg.inv(_FORWARD)

Plane = NDArray[np.float32]
"""Samples ``height x width``; luma in [0, 1], chroma in [-0.5, 0.5]."""


def to_planes(pixels: Pixels) -> tuple[Plane, Plane, Plane]:
    """Return Y, Cb and Cr of RGB bytes ``height x width x 3``, all at full resolution."""
    planes = (pixels.astype(np.float64) / 255) @ _FORWARD.T
    y, cb, cr = np.moveaxis(planes, 2, 0).astype(np.float32)
    return y, cb, cr


def to_pixels(y: Plane, cb: Plane, cr: Plane) -> Pixels:
    """Return RGB bytes ``height x width x 3`` of three planes at full resolution; what is out of range is clipped."""
    rgb = np.stack([y, cb, cr], axis=2).astype(np.float64) @ _INVERSE.T
    pixels: Pixels = np.round(rgb * 255).clip(0, 255).astype(np.uint8)
    return pixels


def halve(plane: Plane) -> Plane:
    """Low-pass (Lanczos) and subsample a chroma plane of even sides by two in both directions."""
    height, width = plane.shape
    # A box that starts half a sample early puts sample k on column 2k; the added column is what it reaches into.
    padded = Image.fromarray(np.pad(plane, ((0, 0), (1, 0)), mode="edge"))
    box = (0.5, 0, width + 0.5, height)
    return np.asarray(padded.resize((width // 2, height // 2), Image.Resampling.LANCZOS, box=box))


def double(plane: Plane) -> Plane:
    """Interpolate (bicubic) a plane that `halve` made back to twice its sides."""
    height, width = plane.shape
    padded = Image.fromarray(np.pad(plane, ((0, 0), (0, 1)), mode="edge"))
    box = (0.25, 0, width + 0.25, height)
    return np.asarray(padded.resize((2 * width, 2 * height), Image.Resampling.BICUBIC, box=box))


def quantise_luma(plane: Plane, bits: int) -> NDArray[np.uint16]:
    """Return luma as integers of so many bits, full range."""
    top = (1 << bits) - 1
    luma: NDArray[np.uint16] = np.round(plane * top).clip(0, top).astype(np.uint16)
    return luma


def quantise_chroma(plane: Plane, bits: int) -> NDArray[np.uint16]:
    """Return chroma as integers of so many bits, full range, zero at half."""
    top = (1 << bits) - 1
    chroma: NDArray[np.uint16] = np.round(plane * top + (1 << (bits - 1))).clip(0, top).astype(np.uint16)
    return chroma


def expand_luma(samples: NDArray[np.uint16], bits: int) -> Plane:
    """Undo `quantise_luma`."""
    return samples.astype(np.float32) / np.float32((1 << bits) - 1)


def expand_chroma(samples: NDArray[np.uint16], bits: int) -> Plane:
    """Undo `quantise_chroma`."""
    return (samples.astype(np.float32) - np.float32(1 << (bits - 1))) / np.float32((1 << bits) - 1)
