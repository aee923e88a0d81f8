"""Does a UNet estimate noise? Shapes cannot tell: the 768-pixel Stable Diffusion 2.1, which estimates v, has the same.

At the last timestep a latent is noise and little else, so an estimate of the noise is its input again, while v is about
minus the clean latent and has little to do with it (v: Salimans and Ho 2022).
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from shared.codec.nets.ddpm import TRAINING_STEPS
from shared.errors import PinholeError

SIDE = 32
"""Height and width of the latent that is tried."""
EXPECTED = 0.5
"""A UNet that estimates noise correlates more than this with its input at the last timestep."""


def meta_unet(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """Return a UNet of shapes without weights.

    Raises:
        PinholeError: if diffusers cannot build one.
    """
    try:
        with torch.device("meta"):
            unet: UNet2DConditionModel = UNet2DConditionModel.from_config(dict(config))
    except (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PinholeError(f"Stable Diffusion's UNet cannot be built ({reason}); give Stable Diffusion 2.1") from error
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def noise_correlation(config: Mapping[str, Any], state: Mapping[str, Tensor], context: Tensor) -> float:
    """Return how far a UNet's estimate at the last timestep correlates with noise that it is given, -1 to 1.

    Args:
        config: diffusers' configuration.
        state: tensors in diffusers' layout, any precision; computed with in float32.
        context: embedding of the prompt, ``1 x tokens x width``.

    Raises:
        PinholeError: if the estimate is not finite.
    """
    unet = meta_unet(config)
    unet.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, int(unet.config["in_channels"]), SIDE, SIDE, generator=generator)
    timesteps = torch.tensor([TRAINING_STEPS - 1])
    estimate = unet(noise, timesteps, context.float()).sample
    if not torch.isfinite(estimate).all():
        raise PinholeError("Stable Diffusion's UNet gives numbers that are not finite; the checkpoint is damaged")
    return float(torch.corrcoef(torch.stack((noise.ravel(), estimate.ravel())))[0, 1].nan_to_num(0.0))
