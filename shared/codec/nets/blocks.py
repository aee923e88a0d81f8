"""Residual blocks of the official DiffEIC networks.

Shapes are ``batch x channels x height x width`` throughout.
"""

import torch
from torch import Tensor, nn


class ResidualDown(nn.Module):
    """Halve height and width: ``C_in x H x W`` to ``C_out x H/2 x W/2``.

    Two 3x3 convolutions, the first with stride 2, beside a strided pointwise one; no activation after the sum. The two
    activations have different slopes, 0.01 and 0.1, as in the official weights' network.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
        self.activation1 = nn.LeakyReLU(0.01)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.activation2 = nn.LeakyReLU(0.1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``B x C_out x H/2 x W/2`` of an input with even H and W."""
        y: Tensor = self.activation2(self.conv2(self.activation1(self.conv1(x))))
        return torch.add(y, self.skip(x))


class ResidualUp(nn.Module):
    """Double height and width: ``C_in x H x W`` to ``C_out x 2H x 2W``, by pixel shuffles on both ways."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels_in, 4 * channels_out, 1), nn.PixelShuffle(2))
        self.activation1 = nn.LeakyReLU(0.01)
        self.conv = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.activation2 = nn.LeakyReLU(0.1)
        self.skip = nn.Sequential(nn.Conv2d(channels_in, 4 * channels_out, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``B x C_out x 2H x 2W``."""
        y: Tensor = self.activation2(self.conv(self.activation1(self.expand(x))))
        return torch.add(y, self.skip(x))


class Bottleneck(nn.Module):
    """Residual block at one size whose 3x3 convolution works on half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 1),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels // 2, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return an output of the input's shape."""
        y: Tensor = self.branch(x)
        return x + y


def bottlenecks(channels: int, count: int = 3) -> list[nn.Module]:
    """Return ``count`` bottlenecks, to be unpacked into a sequence."""
    return [Bottleneck(channels) for _ in range(count)]
