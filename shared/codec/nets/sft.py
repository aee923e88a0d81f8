"""How a reference map steers a feature map: the spatial feature transform of the paper, and what it was compared with.

The transform is that of Wang et al. (CVPR 2018): the reference scales and shifts the features, per pixel. The ablations
of DiffEIC put addition, concatenation and cross-attention in its place. All four convolve the reference to 128 hidden
channels first, so that they differ in nothing but the fusion.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import PinholeError

HIDDEN_CHANNELS = 128
"""Channels between the reference and its scale and shift; the same at every width of the network."""
ATTENTION_HEADS = 4
"""Heads of the cross-attention, of 32 channels each."""
LONGEST_WAVE = 10_000.0
"""Longest wavelength of the position code in radians per pixel, as in Vaswani et al. (NeurIPS 2017)."""

FusionFactory = Callable[[int], nn.Module]
"""Makes the fusion for features of so many channels; it is called with ``(features, reference)``."""


def _reference_encoder(reference_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(reference_channels, HIDDEN_CHANNELS, kernel, padding=kernel // 2), nn.LeakyReLU(0.2))


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
        self.shared = _reference_encoder(reference_channels, kernel)
        self.gamma = nn.Conv2d(HIDDEN_CHANNELS, channels, kernel, padding=padding)
        self.beta = nn.Conv2d(HIDDEN_CHANNELS, channels, kernel, padding=padding)

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Transform ``B x C x H x W`` by a reference ``B x P x H x W``."""
        hidden = self.shared(reference)
        scaled: Tensor = x * (1 + self.gamma(hidden)) + self.beta(hidden)
        return scaled


class AdditionFusion(nn.Module):
    """``x + beta``: the spatial feature transform without its scale. Arguments as there."""

    def __init__(self, channels: int, reference_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.shared = _reference_encoder(reference_channels, kernel)
        self.beta = nn.Conv2d(HIDDEN_CHANNELS, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Fuse ``B x C x H x W`` with a reference ``B x P x H x W``."""
        return torch.add(x, self.beta(self.shared(reference)))


class ConcatenationFusion(nn.Module):
    """One convolution of x and the encoded reference, ``C + 128`` channels to C. Arguments as above."""

    def __init__(self, channels: int, reference_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.shared = _reference_encoder(reference_channels, kernel)
        self.merge = nn.Conv2d(channels + HIDDEN_CHANNELS, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Fuse ``B x C x H x W`` with a reference ``B x P x H x W``."""
        merged: Tensor = self.merge(torch.cat((x, self.shared(reference)), 1))
        return merged


class CrossAttentionFusion(nn.Module):
    """``x + project(attention)``: every position of x asks all positions of the reference.

    Queries come from x, keys and values from the encoded reference, 4 heads of 32 channels. Attention alone does not
    know where a position lies, so queries and keys get a sine code of row and column, made for the size at hand. Time
    grows with the square of the number of positions. Arguments as above.
    """

    def __init__(self, channels: int, reference_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.shared = _reference_encoder(reference_channels, kernel)
        self.query = nn.Conv2d(channels, HIDDEN_CHANNELS, 1)
        self.key = nn.Conv2d(HIDDEN_CHANNELS, HIDDEN_CHANNELS, 1)
        self.value = nn.Conv2d(HIDDEN_CHANNELS, HIDDEN_CHANNELS, 1)
        self.project = nn.Conv2d(HIDDEN_CHANNELS, channels, 1)

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Fuse ``B x C x H x W`` with a reference ``B x P x H x W``."""
        hidden = self.shared(reference)
        position = position_code(x.shape[2], x.shape[3], HIDDEN_CHANNELS, x)
        attended = functional.scaled_dot_product_attention(
            _to_heads(self.query(x) + position), _to_heads(self.key(hidden) + position), _to_heads(self.value(hidden))
        )
        maps = attended.transpose(2, 3).reshape(len(x), HIDDEN_CHANNELS, *x.shape[2:])
        return torch.add(x, self.project(maps))


def _to_heads(maps: Tensor) -> Tensor:
    """``B x 128 x H x W`` to ``B x heads x HW x 32``."""
    return maps.reshape(len(maps), ATTENTION_HEADS, -1, maps.shape[2] * maps.shape[3]).transpose(2, 3)


def position_code(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Sines and cosines of row and column at wavelengths of 2 pi to ``LONGEST_WAVE`` 2 pi pixels.

    Args:
        height: H, rows.
        width: W, columns.
        channels: C, a multiple of 4: a quarter each for sine and cosine of row and column.
        like: tensor whose device and dtype the code gets.

    Returns:
        ``1 x C x H x W`` in [-1, 1].
    """
    count = channels // 4
    exponents = torch.arange(count, device=like.device, dtype=torch.float32) / count
    frequencies = torch.exp(-math.log(LONGEST_WAVE) * exponents)[:, None]
    rows = (frequencies * torch.arange(height, device=like.device))[:, :, None].expand(-1, -1, width)
    columns = (frequencies * torch.arange(width, device=like.device))[:, None].expand(-1, height, -1)
    return torch.cat((rows.sin(), rows.cos(), columns.sin(), columns.cos()))[None].to(like.dtype)


class Unguided(nn.Module):
    """No fusion: the features pass as they are, and the reference (None where there is none) is not looked at."""

    def forward(self, x: Tensor, reference: Tensor | None) -> Tensor:
        """Return ``B x C x H x W`` unchanged."""
        return x


FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "sft": SpatialFeatureTransform,
    "addition": AdditionFusion,
    "concatenation": ConcatenationFusion,
    "cross-attention": CrossAttentionFusion,
}
"""Fusions by their name in a config."""


def fusion_factory(name: str, reference_channels: int, kernel: int) -> FusionFactory:
    """Return what makes the fusion of that name.

    Args:
        name: a key of `FUSIONS`.
        reference_channels: P, channels of the reference.
        kernel: side of the convolutions, odd.

    Raises:
        PinholeError: if there is no fusion of that name.
    """
    if name not in FUSIONS:
        raise PinholeError(f"unknown fusion {name!r}; give one of {', '.join(FUSIONS)}")
    return partial(FUSIONS[name], reference_channels=reference_channels, kernel=kernel)


def unguided(channels: int) -> nn.Module:
    """Make no fusion; a `FusionFactory`."""
    return Unguided()


class SftResidual(nn.Module):
    """Residual block of two rounds of fusion, activation and 3x3 convolution, both on the same reference.

    Args:
        channels: C, channels of x.
        fusion: makes the two fusions; in the paper they are spatial feature transforms.
    """

    def __init__(self, channels: int, fusion: FusionFactory) -> None:
        super().__init__()
        self.sft1 = fusion(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.sft2 = fusion(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, reference: Tensor | None) -> Tensor:
        """Transform ``B x C x H x W`` by a reference ``B x P x H x W``."""
        y = self.conv1(self.activation(self.sft1(x, reference)))
        y = self.conv2(self.activation(self.sft2(y, reference)))
        return torch.add(x, y)
