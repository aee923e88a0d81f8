"""NIQE, how far a picture's statistics lie from those of natural photographs (no reference needed).

Mittal, Soundararajan and Bovik, "Making a Completely Blind Image Quality Analyzer", IEEE SPL 20(3), 2013. Luminance is
normalised locally (MSCN), its values and the products of neighbours are fitted by generalised Gaussians in patches of
96 x 96 pixels at two scales (36 features), and a multivariate Gaussian over the patches is compared with that of
natural photographs. The published model of natural photographs may not travel with us, so ours is refitted
(`training.evaluation.metrics.fit_niqe`): **its values must not be set beside published NIQE values.**
"""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import gamma

from shared.codec.interfaces import Pixels
from shared.errors import CorruptDataError, PinholeError

Floats = NDArray[np.float64]

NAME = "NIQE (refitted)"
PATCH = 96
"""Side of a patch in pixels of the first scale; half of it in the second."""
FEATURES = 36
SMALLEST_SIDE = 2 * PATCH
"""Fewer than 2 x 2 patches say nothing about their own spread."""
SHARPNESS = 0.75
"""The model takes only patches at least this sharp, as a share of the photograph's sharpest (paper, section II-B)."""
MODEL = Path(__file__).resolve().parent.parent / "data" / "niqe.npz"

# Neighbours whose products are fitted: right, below, and the two diagonals.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
_SHAPES = np.arange(0.2, 10.0, 0.001)
# E|x|^2 / E x^2 of a generalised Gaussian; it grows with the shape, so the shape can be looked up.
_RATIOS = gamma(2.0 / _SHAPES) ** 2 / (gamma(1.0 / _SHAPES) * gamma(3.0 / _SHAPES))


@dataclass(frozen=True)
class NiqeModel:
    """Multivariate Gaussian of the features of natural photographs.

    Attributes:
        mean: 36 values.
        covariance: ``36 x 36``.
        photographs: how many it was fitted to.
        patches: how many patches of them were sharp enough.
    """

    mean: Floats
    covariance: Floats
    photographs: int
    patches: int

    def save(self, path: Path) -> None:
        """Write the model as an ``.npz`` file."""
        np.savez_compressed(
            path,
            mean=self.mean,
            covariance=self.covariance,
            photographs=np.int64(self.photographs),
            patches=np.int64(self.patches),
        )

    @classmethod
    def load(cls, path: Path = MODEL) -> "NiqeModel":
        """Read a model.

        Raises:
            PinholeError: if the file cannot be read.
            CorruptDataError: if it is no NIQE model.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                mean, covariance = np.asarray(file["mean"], np.float64), np.asarray(file["covariance"], np.float64)
                model = cls(mean, covariance, int(file["photographs"]), int(file["patches"]))
        except OSError as error:
            raise PinholeError(
                f"{path}: cannot be read ({error.strerror or error}); fit it again with "
                "python -m training.evaluation.metrics.fit_niqe"
            ) from error
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise CorruptDataError(f"{path}: is no NIQE model; fit it again") from error
        if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
            raise CorruptDataError(f"{path}: is no NIQE model of {FEATURES} features; fit it again")
        return model


def niqe(pixels: Pixels, model: NiqeModel) -> float | None:
    """Return the distance from natural photographs, 0 (natural) upwards (paper, equation 10).

    Memory grows with the picture, by an estimated 100 bytes a pixel: under 1 GB for 4K.

    Args:
        pixels: RGB bytes ``height x width x 3``.
        model: what natural is.

    Returns:
        None where a side is shorter than 192 pixels or fewer than two patches hold any texture.
    """
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        return None
    features, _ = patch_features(luminance(pixels))
    if len(features) < 2:
        return None
    difference = features.mean(axis=0) - model.mean
    pooled = (np.cov(features, rowvar=False) + model.covariance) / 2.0
    # The pseudo-inverse, as in the paper's own code: features of synthetic pictures may depend on each other.
    squared = float(difference @ np.linalg.pinv(pooled, hermitian=True) @ difference)
    return float(np.sqrt(max(squared, 0.0)))


def fit(photographs: Iterable[Pixels]) -> NiqeModel:
    """Fit the model of natural photographs to the sharp patches of ``photographs``.

    Photographs with a side under 192 pixels are passed over.

    Raises:
        PinholeError: if too few patches are found for 36 features.
    """
    kept: list[Floats] = []
    for pixels in photographs:
        if min(pixels.shape[:2]) < SMALLEST_SIDE:
            continue
        features, sharpness = patch_features(luminance(pixels))
        if len(features):
            kept.append(features[sharpness > SHARPNESS * sharpness.max()])
    patches = np.concatenate(kept) if kept else np.empty((0, FEATURES))
    if len(patches) <= FEATURES:
        raise PinholeError(
            f"only {len(patches)} sharp patches found, more than {FEATURES} are needed; "
            f"give more photographs of at least {SMALLEST_SIDE} pixels a side"
        )
    return NiqeModel(patches.mean(axis=0), np.cov(patches, rowvar=False), len(kept), len(patches))


def luminance(pixels: Pixels) -> Floats:
    """Return the luma of ITU-R BT.601, 0 to 255 in whole numbers, as the paper's code converts 8-bit pictures."""
    return np.asarray(np.rint(pixels @ np.array([0.299, 0.587, 0.114])), np.float64)


def normalise(grey: Floats) -> tuple[Floats, Floats]:
    """Return the mean-subtracted contrast-normalised values and the local deviation (paper, equations 1 to 3).

    Args:
        grey: luminance ``height x width``, 0 to 255.

    Returns:
        Both ``height x width``; the window is a Gaussian of 7 x 7 pixels.
    """
    mean = gaussian_filter(grey, 7.0 / 6.0, radius=3, mode="nearest")
    square = gaussian_filter(grey * grey, 7.0 / 6.0, radius=3, mode="nearest")
    deviation = np.sqrt(np.abs(square - mean * mean))
    return (grey - mean) / (deviation + 1.0), deviation


def asymmetric_gaussian(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit zero-mode asymmetric generalised Gaussians by their moments (Lasmar, Stitou and Berthoumieu, ICIP 2009).

    Args:
        values: samples ``n x m``, one distribution a row.

    Returns:
        Shape (0.2 to 10), left scale and right scale, ``n`` each; not finite where a side has no samples.
    """
    square = values * values
    left, right = values < 0, values > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        left_deviation = np.sqrt((square * left).sum(axis=1) / left.sum(axis=1))
        right_deviation = np.sqrt((square * right).sum(axis=1) / right.sum(axis=1))
        skew = left_deviation / right_deviation
        ratio = np.abs(values).mean(axis=1) ** 2 / square.mean(axis=1)
        ratio *= (skew**3 + 1.0) * (skew + 1.0) / (skew**2 + 1.0) ** 2
        shape = np.interp(ratio, _RATIOS, _SHAPES)
    scale = np.sqrt(gamma(1.0 / shape) / gamma(3.0 / shape))
    return shape, left_deviation * scale, right_deviation * scale


def patch_features(grey: Floats) -> tuple[Floats, Floats]:
    """Return the features and the sharpness of every whole patch that holds texture.

    Args:
        grey: luminance ``height x width``, 0 to 255, sides at least 96; what no whole patch covers at the right and at
            the bottom is left out.

    Returns:
        ``n x 36`` features (18 of each scale) and ``n`` mean local deviations; patches without texture are left out.
    """
    rows, columns = (side // PATCH for side in grey.shape)
    grey = grey[: rows * PATCH, : columns * PATCH]
    normalised, deviation = normalise(grey)
    sharpness = _patches(deviation, PATCH).mean(axis=1)
    first = _scale_features(normalised, PATCH)
    # Bicubic with the kernel stretched over the pixels that fall together, as the paper's code halves pictures.
    image = Image.fromarray(grey.astype(np.float32))
    half = np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC), np.float64)
    second = _scale_features(normalise(half)[0], PATCH // 2)
    features = np.concatenate([first, second], axis=1)
    textured = np.isfinite(features).all(axis=1)
    return features[textured], sharpness[textured]


def _scale_features(normalised: Floats, size: int) -> Floats:
    """Return ``n x 18`` features: shape and scale of the values, then of each neighbour product."""
    patches = _patches(normalised, size)
    shape, left, right = asymmetric_gaussian(patches)
    features = [shape, (left + right) / 2.0]
    squares = patches.reshape(-1, size, size)
    for down, across in _NEIGHBOURS:
        # Within its own patch and around its edges, as the paper's code has it.
        product = squares * np.roll(squares, (down, across), axis=(1, 2))
        shape, left, right = asymmetric_gaussian(product.reshape(len(squares), -1))
        features += [shape, (right - left) * gamma(2.0 / shape) / gamma(1.0 / shape), left, right]
    return np.stack(features, axis=1)


def _patches(values: Floats, size: int) -> Floats:
    """Cut ``height x width`` values into rows of ``size * size``, one for each patch."""
    rows, columns = values.shape[0] // size, values.shape[1] // size
    return values.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(rows * columns, size * size)
