"""Colour correction: the full picture takes its broad colours from the preview.

Diffusion paints detail that the layers do not hold, and on the way may tint whole regions. The preview comes from the
layers alone: it lacks detail, but its broad colours are what was sent. Two ways to bring both together, after StableSR
(Wang et al., IJCV 2024):

``wavelet``
    Split both pictures by the undecimated ("a trous") wavelet transform (Holschneider et al. 1989; Shensa 1992) in
    `LEVELS` levels; the low-pass residual comes from the preview, every detail level from the full picture. Works place
    by place, so it also mends a tint that only one region has.
``adain``
    Adaptive instance normalisation (Huang and Belongie, ICCV 2017) on the pixels: every channel of the full picture is
    scaled and shifted to the preview's mean and standard deviation over the whole picture.

Both are computed in whole numbers or from exact statistics, so that the same pictures give the same bytes on every
machine and a picture corrected in strips is the one corrected in one piece.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError, UsageError

METHODS = ("none", "wavelet", "adain")
"""What ``correct_colour`` can do."""

LEVELS = 5
"""Levels of the wavelet transform. The low-pass residual has a standard deviation of about 13 pixels."""

HALO = 2**LEVELS - 1
"""Pixels around a place that its low-pass residual depends on."""

STRIP_SAMPLES = 1 << 22
"""Samples (pixels times channels) that are worked on at once, without the halo."""


def correct_colour(picture: Pixels, preview: Pixels, method: str, *, strip_samples: int = STRIP_SAMPLES) -> Pixels:
    """Give a decoded picture the broad colours of its preview.

    Args:
        picture: RGB bytes ``height x width x 3``, from diffusion.
        preview: of the same shape, from the same layers without diffusion.
        method: one of `METHODS`; ``"none"`` returns the picture itself.
        strip_samples: bounds the working memory (about 16 bytes a sample, halo of the strip included) and changes
            nothing else.

    Returns:
        RGB bytes of the same shape; equal to ``picture`` where both pictures are the same.

    Raises:
        UsageError: if there is no such method.
        PinholeError: if the pictures are not two RGB pictures of one shape.
    """
    check_method(method)
    for name, pixels in (("picture", picture), ("preview", preview)):
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise PinholeError(f"{name} of {pixels.shape} {pixels.dtype} is not RGB bytes; colours cannot be corrected")
    if picture.shape != preview.shape:
        raise PinholeError(
            f"picture of {picture.shape} and preview of {preview.shape} differ; decode both from the same layers"
        )
    if method == "none":
        return picture
    return (_wavelet if method == "wavelet" else _adain)(picture, preview, strip_samples)


def check_method(method: str) -> None:
    """Refuse what is not one of `METHODS`.

    Raises:
        UsageError: naming the method and the choice.
    """
    if method not in METHODS:
        raise UsageError(f"colour correction {method!r} is not known; choose from {', '.join(METHODS)}")


def _wavelet(picture: Pixels, preview: Pixels, strip_samples: int) -> Pixels:
    """Add the low-pass residual of the difference: by linearity the same as swapping residuals, for half the work."""
    height, width = picture.shape[:2]
    columns = _mirrored(-HALO, width + HALO, width)
    corrected = np.empty_like(picture)
    for start, stop in _strips(picture, strip_samples):
        rows = _mirrored(start - HALO, stop + HALO, height)
        difference = preview[rows].astype(np.int32)
        difference -= picture[rows]
        low = _low_pass(_low_pass(difference[:, columns], 1), 0)
        low += picture[start:stop]
        corrected[start:stop] = low.clip(0, 255)
    return corrected


def _low_pass(samples: NDArray[np.int32], axis: int) -> NDArray[np.int32]:
    """Filter along one axis, which gets `HALO` shorter at both ends; rounded to whole levels on the second axis.

    The filter is [1 2 1] at dilations 1, 2, 4, ...: every level multiplies by 4, five levels on both axes by 2^20, and
    a difference of at most 255 levels stays below 2^28.
    """
    for level in range(LEVELS):
        step = 2**level
        length = samples.shape[axis]
        before, middle, after = (
            samples[(slice(None),) * axis + (slice(first, first + length - 2 * step),)] for first in (0, step, 2 * step)
        )
        filtered = before + after
        filtered += middle
        filtered += middle
        samples = filtered
    if axis == 0:
        shift = 4 * LEVELS
        samples += 1 << (shift - 1)
        samples >>= shift
    return samples


def _mirrored(start: int, stop: int, length: int) -> NDArray[np.intp]:
    """Return the indices ``start`` to ``stop``, those outside ``0 ... length - 1`` mirrored with the edge repeated.

    Mirrored so, a picture of any size goes on without end, and a filter with symmetric taps keeps the symmetry: one
    extension before the first level is the same as one before each.
    """
    folded = np.arange(start, stop) % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


def _adain(picture: Pixels, preview: Pixels, strip_samples: int) -> Pixels:
    """Map every channel through a table of 256 entries: statistics of bytes are sums over their histogram."""
    ours, theirs = _histograms(picture, strip_samples), _histograms(preview, strip_samples)
    corrected = np.empty_like(picture)
    levels = np.arange(256, dtype=np.float64)
    for channel in range(3):
        mean, deviation = _statistics(ours[channel])
        wanted_mean, wanted_deviation = _statistics(theirs[channel])
        # A channel of one level has no contrast to scale: its level becomes the wanted mean.
        scale = wanted_deviation / deviation if deviation > 0 else 0.0
        table = np.rint((levels - mean) * scale + wanted_mean).clip(0, 255).astype(np.uint8)
        for start, stop in _strips(picture, strip_samples):
            corrected[start:stop, :, channel] = table[picture[start:stop, :, channel]]
    return corrected


def _histograms(pixels: Pixels, strip_samples: int) -> NDArray[np.int64]:
    """Return how often every level occurs, ``3 x 256``."""
    counts = np.zeros((3, 256), np.int64)
    for start, stop in _strips(pixels, strip_samples):
        for channel in range(3):
            counts[channel] += np.bincount(pixels[start:stop, :, channel].ravel(), minlength=256)
    return counts


def _statistics(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return mean and standard deviation in levels of a histogram."""
    levels = np.arange(256, dtype=np.float64)
    mean = float(counts @ levels / counts.sum())
    return mean, float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum()))


def _strips(pixels: Pixels, strip_samples: int) -> Iterator[tuple[int, int]]:
    """Yield first and last row (not included) of strips of about so many samples, but not much less than the halo."""
    height, width = pixels.shape[:2]
    # A strip much lower than its halo would spend most of its work there.
    rows = max(2 * HALO, strip_samples // (3 * width))
    for start in range(0, height, rows):
        yield start, min(start + rows, height)
