"""Spatial feature transform (Wang et al., CVPR 2018): a reference map scales and shifts a feature map, per pixel."""

import torch
from torch import Tensor, nn

HIDDEN_CHANNELS = 128
"""Channels between the reference and its scale and shift; the same at every width of the network."""


class SpatialFeatureTransform(nn.Module):
    """``x * (1 + gamma) + beta``, gamma and beta convolved from a reference of x's height and width.

    Args:
        channels: C, channels of x.
        reference_channels: P, channels of the reference.
        kernel: side of the convolutions.
    """

    def __init__(self, channels: int, reference_channels: int, kernel: int = 3) -> None:
        super().__init__()
        padding = kernel // 2
        self.shared = nn.Sequential(
            nn.Conv2d(reference_channels, HIDDEN_CHANNELS, kernel, padding=padding), nn.LeakyReLU(0.2)
        )
        self.gamma = nn.Conv2d(HIDDEN_CHANNELS, channels, kernel, padding=padding)
        self.beta = nn.Conv2d(HIDDEN_CHANNELS, channels, kernel, padding=padding)

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Transform ``B x C x H x W`` by a reference ``B x P x H x W``."""
        hidden = self.shared(reference)
        scaled: Tensor = x * (1 + self.gamma(hidden)) + self.beta(hidden)
        return scaled


class SftResidual(nn.Module):
    """Residual block of two rounds of transform, activation and 3x3 convolution, both on the same reference."""

    def __init__(self, channels: int, reference_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.sft1 = SpatialFeatureTransform(channels, reference_channels, kernel)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.sft2 = SpatialFeatureTransform(channels, reference_channels, kernel)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Transform ``B x C x H x W`` by a reference ``B x P x H x W``."""
        y = self.conv1(self.activation(self.sft1(x, reference)))
        y = self.conv2(self.activation(self.sft2(y, reference)))
        return torch.add(x, y)
