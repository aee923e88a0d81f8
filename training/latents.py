"""Latents of training crops, made once and kept in memory: all that the entropy model needs to be fitted or trained."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.entropy_costs import float_terms
from training.models import Codec, random_points


class EntropyModel(nn.Module):
    """The part of a codec that the integer path replaces: ``entropy.*`` and ``prior.*`` of its compression module."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.entropy, self.prior = codec.compression.entropy, codec.compression.prior


@dataclass(frozen=True)
class LatentSet:
    """Latents of crops, as the entropy path is given them.

    Attributes:
        y: ``n x M x h x w``, gain applied, float16: at most as coarse as the codec's grid of 2^-4 up to 128.
        z: ``n x N x h/4 x w/4``, rounded, int16.
        weight: ``n``; the inverse of the mean bits of crops at a like operating point, so that one percent counts the
            same at every one.
    """

    y: Tensor
    z: Tensor
    weight: Tensor

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(y, z, weight)`` of some crops, float32."""
        return self.y[chosen].float(), self.z[chosen].float(), self.weight[chosen]

    def pictures(self, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield ``(y, z, weight)`` of at most ``count`` crops one by one, spread over the set."""
        for index in np.linspace(0, len(self.y) - 1, min(count, len(self.y))).astype(int):
            yield self.batch(torch.tensor([index]))

    def arrays(self, count: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], float]]:
        """As `pictures`, for NumPy."""
        for y, z, weight in self.pictures(count):
            yield y.cpu().numpy(), z.cpu().numpy(), float(weight)


@torch.no_grad()
def make_latents(codec: Codec, batches: Iterator[Tensor], count: int) -> LatentSet:
    """Encode training crops at random real-valued operating points.

    Args:
        codec: the codec.
        batches: crops ``B x 3 x H x W`` in [-1, 1].
        count: how many at least.
    """
    points = codec.compression.config.operating_points
    device = next(codec.parameters()).device
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    while sum(len(part[0]) for part in parts) < count:
        picture = next(batches).to(device)
        point = random_points(len(picture), points, device)
        y, z = codec.compression.encode(picture, codec.encoder(picture), point)
        bits, _ = float_terms(codec, y, z)
        z_hat = codec.compression.prior.quantise(z)
        parts.append((y.half(), z_hat.round().to(torch.int16), point.round().long(), bits))
    y, z, nearest, bits = (torch.cat(part) for part in zip(*parts, strict=True))
    total = torch.zeros(points, device=device).index_add_(0, nearest, bits)
    number = torch.zeros(points, device=device).index_add_(0, nearest, torch.ones_like(bits))
    mean = total / number.clamp_min(1)
    return LatentSet(y, z, 1 / mean[nearest].clamp_min(1.0))


def latent_digest(codec: Codec) -> str:
    """Hash of all weights that latents depend on, which tells whether an entropy model was trained on them."""
    digest = hashlib.sha256()
    compression = codec.compression
    for module in (codec.encoder, compression.analysis, compression.hyper_analysis):
        for value in module.state_dict().values():
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    digest.update(compression.gain.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
