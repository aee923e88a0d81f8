"""What coding costs: the float model's own estimate, the integer path's code length, and the bytes really written."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.codec.entropy.coding import CHECK_BYTES, UNIT, LatentCoder
from shared.codec.nets.entropy_parameters import EntropyParameters
from shared.codec.nets.factorised_prior import FactorisedPrior
from shared.codec.nets.likelihood import gaussian_likelihood
from training.models import Codec, per_picture_bits

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EntropyCost:
    """Cost of coding some pictures at one operating point.

    Attributes:
        quality: of the operating point, from 1.
        pixels: of all pictures.
        model_bits: the float model's estimate with hard rounding: its own means, its own symbols.
        ideal_bits: code length of the integer path's symbols under the shipped tables.
        actual_bits: what the range coder wrote, without headers and checksums.
        check_bits: the layers' checksums.
        error: squared error of the decoded latent with the integer path's means, relative to the float path's.
    """

    quality: float
    pixels: int
    model_bits: float
    ideal_bits: float
    actual_bits: float
    check_bits: float
    error: float

    @property
    def integer_cost(self) -> float:
        """Rate of the integer path relative to the float model, less 1."""
        return self.ideal_bits / self.model_bits - 1

    @property
    def coder_cost(self) -> float:
        """Bytes written relative to the ideal code length of their symbols, less 1."""
        return self.actual_bits / self.ideal_bits - 1

    @property
    def checked_cost(self) -> float:
        """The same with the layers' checksums counted in."""
        return (self.actual_bits + self.check_bits) / self.ideal_bits - 1

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"quality {self.quality:g}: {self.model_bits / self.pixels:.5f} bit per pixel by the float model, "
            f"integer path {self.integer_cost:+.2%}, range coder {self.coder_cost:+.2%} "
            f"({self.checked_cost:+.2%} with checksums), latent error {self.error - 1:+.1%}"
        )


@dataclass(frozen=True)
class EntropyNetworks:
    """What estimates the rate of latents in floating point.

    Attributes:
        entropy: means and scales of the latent.
        prior: density of the hyper-latent.
    """

    entropy: EntropyParameters
    prior: FactorisedPrior

    @classmethod
    def of(cls, model: "EntropyNetworks | Codec") -> "EntropyNetworks":
        """Return those of a codec; the networks themselves as they are."""
        if isinstance(model, EntropyNetworks):
            return model
        return cls(model.compression.entropy, model.compression.prior)


@torch.no_grad()
def float_terms(model: EntropyNetworks | Codec, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Code latents by the float model with hard rounding.

    Args:
        model: the networks, or the codec that has them.
        y: ``B x M x h x w``, its gain applied.
        z: ``B x N x h/4 x w/4``.

    Returns:
        ``(bits, error)``: bits of every picture, and the decoded latent's summed squared error, ``B`` each.
    """
    model = EntropyNetworks.of(model)
    z_hat = model.prior.quantise(z)
    y_hat, scales, means = model.entropy.rate_terms(y, model.entropy.hyper(z_hat))
    bits = per_picture_bits(model.prior.likelihood(z_hat)) + per_picture_bits(
        gaussian_likelihood(y_hat - means, scales)
    )
    return bits, (y_hat - y).square().flatten(1).sum(1)


def measure_cost(
    model: EntropyNetworks | Codec,
    coder: LatentCoder,
    quality: float,
    latents: Iterable[tuple[Floats, Floats]],
    patch: int = 256,
) -> EntropyCost:
    """Code latents of pictures by the float model and by the integer path.

    Args:
        model: networks that make the estimate, or the codec that has them.
        coder: the integer path.
        quality: named in the result.
        latents: ``(y, z)`` of every picture, gain applied, medians of z taken away.
        patch: pixels that one position of y stands for.

    Raises:
        ValueError: if there is no picture.
    """
    sums, pixels = np.zeros(6), 0
    networks = EntropyNetworks.of(model)
    for y, z in latents:
        whole_z = torch.from_numpy(z) + networks.prior.medians
        bits, error = float_terms(networks, torch.from_numpy(y), whole_z)
        coded = coder.encode(y, z, b"")
        check = CHECK_BYTES * len(coded.payloads)
        written = sum(map(len, coded.payloads)) - check
        path_error = np.square(coded.y_hat / UNIT - y).sum()
        sums += (float(bits), sum(coded.ideal_bits), 8 * written, 8 * check, float(path_error), float(error))
        pixels += patch * y.shape[2] * y.shape[3]
    if not pixels:
        raise ValueError("no pictures to measure on")
    floats, ideal, actual, checks, integer_error, error = sums.tolist()
    return EntropyCost(quality, pixels, floats, ideal, actual, checks, integer_error / error)


def mean_integer_cost(costs: Sequence[EntropyCost]) -> float:
    """Mean over operating points of the integer path's relative cost."""
    return float(np.mean([cost.integer_cost for cost in costs]))
