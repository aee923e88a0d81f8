"""Light convolutional blocks for the pocket bundle: depthwise 3x3 and pointwise convolutions.

Pointwise convolutions are matrix products, which small processors run several times faster than 3x3 convolutions of
the same arithmetic. The depthwise kernel is 3x3 and not larger because oneDNN trains depthwise 5x5 in bfloat16 thirty
times slower; a deeper stack makes up for the smaller reach. No block normalises over the picture: a statistic taken
over the whole picture would tie every pixel to the picture's size, which breaks tiles and odd sizes. Borders are padded
by replication, because zeros would be darker than any real neighbour and leave a dark rim.
"""

import torch
from torch import Tensor, nn


class LightBlock(nn.Module):
    r"""Residual block ``x + gain * pointwise(GELU(pointwise(depthwise3x3(x))))``.

    Data flow (shapes are ``batch x channels x height x width``; nothing changes shape)::

        x --> depthwise 3x3 --> 1x1 to 2C --> GELU --> 1x1 to C --> * gain --> + --> out
         \___________________________________________________________________/

    Args:
        channels: C, channels in and out.
        expansion: hidden width of the pointwise pair in units of C.
    """

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, padding_mode="replicate")
        self.expand = nn.Conv2d(channels, expansion * channels, 1)
        self.activation = nn.GELU()
        self.project = nn.Conv2d(expansion * channels, channels, 1)
        # A small gain makes the stack start near the identity, which replaces normalisation early in training.
        self.gain = nn.Parameter(torch.full((1, channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Return a feature map of the same shape."""
        y: Tensor = self.project(self.activation(self.expand(self.depthwise(x))))
        return x + self.gain * y


def light_stack(channels: int, depth: int) -> nn.Sequential:
    """Return ``depth`` light blocks in sequence at ``channels`` channels."""
    return nn.Sequential(*(LightBlock(channels) for _ in range(depth)))


def upsample(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return a pointwise convolution and a pixel shuffle: ``C_in x H x W`` to ``C_out x 2H x 2W``."""
    return nn.Sequential(nn.Conv2d(channels_in, 4 * channels_out, 1), nn.PixelShuffle(2))
