"""Metrics that need no weights of networks: PSNR, MS-SSIM and NIQE."""

from dataclasses import dataclass

from shared.codec.interfaces import Pixels
from sim import metrics
from training.evaluation.metrics import niqe
from training.evaluation.metrics.interfaces import check_same_shape


class Psnr:
    """Peak signal-to-noise ratio over all RGB values in decibels; infinite for equal pictures."""

    name = "PSNR"
    note = ""

    def measure(self, original: Pixels, decoded: Pixels) -> float | None:
        """See `PictureMetric.measure`."""
        return metrics.psnr(original, decoded)


class MsSsim:
    """Multi-scale structural similarity, 0 to 1; needs sides of 161 pixels."""

    name = "MS-SSIM"
    note = ""

    def measure(self, original: Pixels, decoded: Pixels) -> float | None:
        """See `PictureMetric.measure`."""
        return metrics.ms_ssim(original, decoded)


@dataclass(frozen=True)
class Niqe:
    """Distance of the decoded picture from natural photographs, 0 upwards; the original is not looked at.

    Attributes:
        model: what natural is.
    """

    model: niqe.NiqeModel
    name: str = niqe.NAME
    note: str = "statistics of natural photographs refitted: not to be set beside published NIQE values"

    def measure(self, original: Pixels, decoded: Pixels) -> float | None:
        """See `PictureMetric.measure`; None below 192 pixels a side."""
        check_same_shape(original, decoded)
        return niqe.niqe(decoded, self.model)
