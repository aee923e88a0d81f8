"""Rounding and likelihoods that gradients can pass: what the rate term of training is made of.

Everything here computes in float32 whatever the surrounding autocast says: likelihoods near 1e-9 do not survive
bfloat16.
"""

from typing import Any

import torch
from torch import Tensor

LIKELIHOOD_BOUND = 1e-9
"""No likelihood is taken to be smaller, so that one outlier cannot make the rate infinite."""
SCALE_BOUND = 0.11
"""Smallest standard deviation of a Gaussian of the latent; also the first entry of the scale table."""


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return torch.round(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.bound = bound
        return values.clamp_min(bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * ((values >= ctx.bound) | (gradient < 0)), None


def round_straight_through(values: Tensor) -> Tensor:
    """Round half to even; the gradient passes as if nothing had been rounded."""
    rounded: Tensor = _Round.apply(values)
    return rounded


def lower_bound(values: Tensor, bound: float) -> Tensor:
    """``max(values, bound)`` whose gradient also passes below the bound where it leads upwards.

    A plain maximum would leave a value below the bound without gradient for ever.
    """
    bounded: Tensor = _LowerBound.apply(values, bound)
    return bounded


def add_uniform_noise(values: Tensor) -> Tensor:
    """Add noise uniform in [-0.5, 0.5), the differentiable stand-in for rounding (Balle et al. 2017, section 3)."""
    return values + torch.rand_like(values) - 0.5


def _normal_cdf(values: Tensor) -> Tensor:
    # The complementary error function keeps its precision in the lower tail, where 1 + erf would cancel.
    return 0.5 * torch.erfc(values * -(2**-0.5))


def gaussian_likelihood(residual: Tensor, scales: Tensor) -> Tensor:
    """Probability of the unit bin around ``residual`` under a zero-mean Gaussian (Minnen et al. 2018, section 2).

    Args:
        residual: latent minus mean, rounded or with uniform noise added; any shape.
        scales: standard deviations, same shape; values below 0.11 count as 0.11.

    Returns:
        Likelihoods in [1e-9, 1], float32, same shape.
    """
    distance = residual.float().abs()
    scales = lower_bound(scales.float(), SCALE_BOUND)
    likelihood = _normal_cdf((0.5 - distance) / scales) - _normal_cdf((-0.5 - distance) / scales)
    return lower_bound(likelihood, LIKELIHOOD_BOUND)


def bits(likelihood: Tensor) -> Tensor:
    """Total bits of symbols with these likelihoods, a scalar."""
    return -torch.log2(likelihood).sum()
