"""Quality: how finely a picture is coded, from 1 (fewest bytes) to the number of the bundle's operating points.

A whole number is an operating point. One set of weights serves them all, each with a gain for every latent channel, and
training draws points in between with the logarithms of the gains interpolated linearly; so every number in between is a
quality too (continuous rate by interpolated gains: Cui et al., "Asymmetric Gained Deep Image Compression", CVPR 2021).
Between operating points that have weights of their own, as the paper's have, there is nothing to interpolate: such
bundles have whole qualities only. Qualities lie on a grid of 1/16, which binary floating point holds exactly and a
picture header names in one byte.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.codec.interfaces import OperatingPoint
from shared.errors import UsageError

QUALITY_STEPS = 16
"""Qualities from one operating point to the next."""

HIGHEST_QUALITY = 1 + 255 / QUALITY_STEPS
"""The highest that one byte can name."""

_LOWEST_RATE = 1e-6  # bit per pixel


def choose_quality(points: Sequence[OperatingPoint], wanted: float) -> float:
    """Return the quality nearest to the one a user asks for.

    Args:
        points: the bundle's, numbered from 1.
        wanted: 1 to the number of operating points.

    Returns:
        ``wanted``, rounded to the nearest 1/16, or to the nearest whole number where the operating points on both sides
        have different weights.

    Raises:
        UsageError: if it is outside the bundle's range, or not a number.
    """
    last = points[-1].quality
    if not 1 <= wanted <= last:
        raise UsageError(f"quality {wanted:g} is not in this bundle; give 1 to {last}, whole or in steps of 1/16")
    quality = round(wanted * QUALITY_STEPS) / QUALITY_STEPS
    return quality if _is_served(points, quality) else float(round(wanted))


def quality_grid(points: Sequence[OperatingPoint]) -> list[float]:
    """Return every quality of a bundle, lowest first."""
    grid = (1 + step / QUALITY_STEPS for step in range((points[-1].quality - 1) * QUALITY_STEPS + 1))
    return [quality for quality in grid if _is_served(points, quality)]


def _is_served(points: Sequence[OperatingPoint], quality: float) -> bool:
    below = int(quality) - 1
    return quality == int(quality) or points[below].weights == points[below + 1].weights


def quality_text(quality: float) -> str:
    """Write a quality as people do: ``3``, ``3.25``."""
    return f"{quality:g}"


def quality_name(points: Sequence[OperatingPoint], quality: float) -> str:
    """Name a quality by its operating point, or by the two that it lies between."""
    below = points[int(quality) - 1].name
    return below if quality == int(quality) else f"between {below} and {points[int(quality)].name}"


def interpolate(values: NDArray[np.float64], quality: float) -> NDArray[np.float64]:
    """Interpolate positive values between operating points, linearly in their logarithms.

    Args:
        values: above 0, ``operating points x ...``; the first row belongs to quality 1.
        quality: 1 to the number of rows.

    Returns:
        One row, ``...``; at a whole quality exactly that of the operating point.
    """
    below = int(quality) - 1
    share = quality - int(quality)
    row: NDArray[np.float64] = values[below]
    if share:  # the exponential of a logarithm is not always the number itself
        row = np.exp((1 - share) * np.log(row) + share * np.log(values[below + 1]))
    return row


def expected_rate(points: Sequence[OperatingPoint], quality: float) -> float:
    """Return the mean rate at a quality in bit per pixel, log-linear between the operating points' measured rates."""
    # The manifest of a bundle that is still being measured has zeros.
    rates = np.maximum([point.bits_per_pixel for point in points], _LOWEST_RATE)
    return float(interpolate(rates, quality))
