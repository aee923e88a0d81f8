"""How near a decoded picture is to its original."""

import numpy as np
import torch
from pytorch_msssim import ms_ssim as _ms_ssim

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError

# Four halvings leave the 11-pixel window of the fifth scale room only from here on.
SMALLEST_SIDE = 161


def psnr(original: Pixels, decoded: Pixels) -> float:
    """Return the peak signal-to-noise ratio over all RGB values in decibels; infinite for equal pictures.

    Args:
        original: RGB bytes ``height x width x 3``.
        decoded: of the same shape.

    Raises:
        PinholeError: if the shapes differ.
    """
    _same_shape(original, decoded)
    error = float(np.mean((original.astype(np.float64) - decoded.astype(np.float64)) ** 2))
    return float("inf") if error == 0.0 else float(10.0 * np.log10(255.0**2 / error))


def ms_ssim(original: Pixels, decoded: Pixels) -> float | None:
    """Return the multi-scale structural similarity, 0 to 1 (Wang, Simoncelli and Bovik, Asilomar 2003; 5 scales).

    Args:
        original: RGB bytes ``height x width x 3``.
        decoded: of the same shape.

    Returns:
        The mean over the three channels, or None where a side is shorter than 161 pixels: five scales do not fit.

    Raises:
        PinholeError: if the shapes differ.
    """
    _same_shape(original, decoded)
    if min(original.shape[:2]) < SMALLEST_SIDE:
        return None
    first, second = (torch.tensor(p, dtype=torch.float32).permute(2, 0, 1)[None] for p in (original, decoded))
    with torch.inference_mode():
        return float(_ms_ssim(first, second, data_range=255.0, size_average=True))


def bits_per_pixel(size: int, pixels: Pixels) -> float:
    """Return the rate of ``size`` bytes spent on a picture ``height x width x 3``."""
    return size * 8.0 / (pixels.shape[0] * pixels.shape[1])


def _same_shape(original: Pixels, decoded: Pixels) -> None:
    if original.shape != decoded.shape:
        raise PinholeError(
            f"pictures of {original.shape} and {decoded.shape} cannot be compared; decode with the bundle that encoded"
        )
