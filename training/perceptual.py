"""ST-LPIPS, the shift-tolerant perceptual metric (Ghildyal and Liu, ECCV 2022), from ``stlpips-pytorch``.

The one perceptual metric whose weights come inside a package. Train against the Alex trunk and report the VGG trunk, so
that what is reported is not what was optimised.
"""

from typing import Literal

import torch
from stlpips_pytorch import stlpips
from torch import Tensor, nn


class StLpips(nn.Module):
    """Mean ST-LPIPS distance of two batches of pictures, frozen.

    Args:
        trunk: ``"alex"`` or ``"vgg"``.
    """

    def __init__(self, trunk: Literal["alex", "vgg"]) -> None:
        super().__init__()
        self.metric = stlpips.LPIPS(net=trunk, variant="shift_tolerant", verbose=False).requires_grad_(False)

    def forward(self, picture: Tensor, reference: Tensor) -> Tensor:
        """Distance of ``B x 3 x H x W`` pictures in [-1, 1], a scalar of 0 (same) upwards."""
        distance: Tensor = self.metric(picture, reference).mean()
        return distance

    def train(self, mode: bool = True) -> "StLpips":
        """Stay in evaluation mode: the metric has dropout that must never act."""
        del mode
        return super().train(False)


def measure(metric: StLpips, picture: Tensor, reference: Tensor) -> float:
    """Distance of one pair as a number, without gradients."""
    with torch.no_grad():
        return float(metric(picture, reference))
