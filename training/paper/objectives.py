"""The denoising terms of the loss, and the rate: functions of tensors, without modules or settings.

Symbols: ``z0`` clean latent, ``zc`` content variable, both ``B x C x h x w``; ``t`` timesteps ``B``, int64; abar the
share of the signal's variance left at t.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from shared.codec.nets.ddpm import NoiseModel, SpacedDdpm, training_alphas_cumprod
from shared.codec.nets.likelihood import bits
from training.models import diffuse, signal_share


def bits_per_pixel(likelihoods: Sequence[Tensor], picture: Tensor) -> Tensor:
    """Mean rate of pictures ``B x 3 x H x W`` whose symbols have these likelihoods, a scalar."""
    pixels = len(picture) * picture.shape[2] * picture.shape[3]
    return torch.stack([bits(likelihood) for likelihood in likelihoods]).sum() / pixels


def noise_error(model: NoiseModel, z0: Tensor, zc: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the noise estimate, a scalar (DiffEIC, section III-D)."""
    return functional.mse_loss(model(diffuse(z0, t, noise), t, zc), noise)


def residual_weight(start: int) -> float:
    """``sqrt(1 / abar - 1)`` at the start timestep: the residual's length in units of the noise (RDEIC)."""
    return math.sqrt(1 / float(training_alphas_cumprod()[start]) - 1)


def relay_state(z0: Tensor, zc: Tensor, t: Tensor, noise: Tensor, start: int) -> Tensor:
    """Latent on the way from the noised content variable to the clean latent.

    ``sqrt(abar) z0 + sqrt(1 - abar) (noise + (zc - z0) / residual_weight)``: at ``t = start`` exactly ``zc`` with its
    noise, so the sampler may start there; at 0 almost ``z0``. The residual goes away together with the noise, on the
    base's own schedule (RDEIC, Li et al. 2024).

    Args:
        z0: clean latent.
        zc: content variable.
        t: timesteps, 0 to ``start``.
        noise: standard normal draw like ``z0``.
        start: timestep that the sampler starts from.
    """
    return diffuse(z0, t, noise + (zc - z0) / residual_weight(start))


def relay_error(model: NoiseModel, z0: Tensor, zc: Tensor, t: Tensor, noise: Tensor, start: int) -> Tensor:
    """Squared error of the clean latent that the model's estimate leads to, a scalar; arguments as `relay_state`."""
    x = relay_state(z0, zc, t, noise, start)
    share = signal_share(t)
    estimate = (x - (1 - share).sqrt() * model(x, t, zc)) / share.sqrt()
    return functional.mse_loss(estimate, z0)


def relay_sample(model: NoiseModel, zc: Tensor, steps: int, start: int) -> Tensor:
    """Run the whole sampler from the noised content variable, with gradients; noise is torch's default generator's.

    Args:
        model: noise estimator.
        zc: content variable.
        steps: 1 to ``start + 1``.
        start: timestep to start from.

    Returns:
        Estimated clean latent like ``zc``.
    """
    ddpm = SpacedDdpm(steps, start)
    return ddpm.sample(model, zc, ddpm.add_noise(zc, steps - 1, torch.randn_like(zc)))
