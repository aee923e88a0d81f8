"""Distances and judgements on the features of one perceptual trunk, which is run once for both.

The trunk is ST-LPIPS' AlexNet (Ghildyal and Liu, ECCV 2022). The judge is the discriminator of an adversarial loss on
its frozen features (projected GAN, Sauer et al., NeurIPS 2021): small heads learn far faster than a discriminator of
pixels, which matters on two cores.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.perceptual import StLpips

JUDGED = slice(1, 4)
"""Stages of the trunk that the judge sees: H/4 to H/8 in AlexNet."""
Features = list[Tensor]


class PerceptualTrunk(nn.Module):
    """Frozen features, and the ST-LPIPS distance computed of them."""

    def __init__(self) -> None:
        super().__init__()
        self.metric = StLpips("alex").metric
        self.judged_channels: list[int] = self.metric.chns[JUDGED]

    def train(self, mode: bool = True) -> "PerceptualTrunk":
        """Stay in evaluation mode: the metric has dropout that must never act."""
        del mode
        return super().train(False)

    def forward(self, pictures: Tensor) -> Features:
        """Feature maps of pictures ``B x 3 x H x W`` in [-1, 1], sides of 32 pixels and more."""
        return list(self.metric.net(self.metric.scaling_layer(pictures)))

    def distance(self, ours: Features, theirs: Features) -> Tensor:
        """Mean ST-LPIPS of two batches given by their features, a scalar of 0 (same) upwards."""
        parts = [
            layer((_unit(a.float()) - _unit(b.float())).square()).mean()
            for layer, a, b in zip(self.metric.lins, ours, theirs, strict=True)
        ]
        return torch.stack(parts).sum()


class Judge(nn.Module):
    """Tells real features from painted ones, position by position; one head for every feature map.

    Args:
        channels: channels of every feature map.
        width: channels within a head.
    """

    def __init__(self, channels: list[int], width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(count, width, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 1, 1),
            )
            for count in channels
        )

    def forward(self, features: Features) -> Features:
        """Judgements of the maps that `JUDGED` selects, higher for real, each ``B x 1 x h x w``."""
        return [head(f).float() for head, f in zip(self.heads, features[JUDGED], strict=True)]

    def own_loss(self, real: Features, painted: Features) -> Tensor:
        """Hinge loss of the judge; no gradient reaches the features."""
        pairs = zip(self([f.detach() for f in real]), self([f.detach() for f in painted]), strict=True)
        return torch.stack([F.relu(1 - a).mean() + F.relu(1 + b).mean() for a, b in pairs]).mean()

    def painter_loss(self, painted: Features) -> Tensor:
        """What the painter minimises: how little real its features look; no gradient reaches the judge."""
        self.requires_grad_(False)
        judgements = self(painted)
        self.requires_grad_(True)
        return -torch.stack([j.mean() for j in judgements]).mean()


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
