"""The frozen parts of Stable Diffusion: autoencoder and UNet, from a folder in the diffusers layout or the hub."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from shared.codec.nets.ddpm import FIRST_BETA, LAST_BETA, TRAINING_STEPS
from shared.errors import PinholeError

T = TypeVar("T")

SCHEDULE = {
    "prediction_type": "epsilon",
    "beta_schedule": "scaled_linear",
    "beta_start": FIRST_BETA,
    "beta_end": LAST_BETA,
    "num_train_timesteps": TRAINING_STEPS,
}
"""What the sampler takes for granted of the UNet's own training."""
LATENT_STRIDE = 8
"""Pixels to one position of the latent."""


class StableDiffusion(nn.Module):
    """Autoencoder and UNet, frozen and in evaluation mode.

    Args:
        vae: the autoencoder, 8 pixels to a position.
        unet: the noise estimator in its latent space.

    Raises:
        PinholeError: if the two do not belong together or the autoencoder has another stride.
    """

    vae: Any  # diffusers gives its AutoencoderKL no types

    def __init__(self, vae: Any, unet: UNet2DConditionModel) -> None:
        super().__init__()
        stride = 2 ** (len(vae.config["block_out_channels"]) - 1)
        if stride != LATENT_STRIDE:
            raise PinholeError(f"autoencoder shrinks sides by {stride}; give one that shrinks them by {LATENT_STRIDE}")
        if unet.config["in_channels"] != vae.config["latent_channels"]:
            raise PinholeError(
                f"UNet takes {unet.config['in_channels']} channels but the latent has {vae.config['latent_channels']}; "
                "give an autoencoder and a UNet that belong together"
            )
        self.vae, self.unet = vae, unet
        self.scaling = float(vae.config["scaling_factor"])
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "StableDiffusion":
        """Stay in evaluation mode: these networks are frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, picture: Tensor, sample: bool) -> Tensor:
        """Latent of pictures, about unit variance.

        Args:
            picture: ``B x 3 x H x W`` in [-1, 1], H and W multiples of 8.
            sample: whether to draw from the posterior, as in training, or to take its mean, as when pictures are sent.

        Returns:
            ``B x 4 x H/8 x W/8``, float32.
        """
        posterior = self.vae.encode(picture).latent_dist
        latent = posterior.sample() if sample else posterior.mode()
        scaled: Tensor = self.scaling * latent.float()
        return scaled

    def decode(self, latent: Tensor) -> Tensor:
        """Picture ``B x 3 x H x W``, about [-1, 1] and not clipped, of ``B x 4 x H/8 x W/8``, with gradients."""
        picture: Tensor = self.vae.decode(latent / self.scaling).sample
        return picture


def load_stable_diffusion(source: str) -> StableDiffusion:
    """Load the two networks in float32 on the CPU.

    Args:
        source: folder in the diffusers layout, or hub id.

    Raises:
        PinholeError: if parts are missing or damaged, or the UNet was trained to predict something else than the noise
            of Stable Diffusion's schedule.
    """
    check_schedule(source)
    vae = _read(source, "vae", AutoencoderKL.from_pretrained, torch_dtype=torch.float32)
    unet = _read(source, "unet", UNet2DConditionModel.from_pretrained, torch_dtype=torch.float32)
    return StableDiffusion(vae, unet)


def build_stable_diffusion(source: str) -> StableDiffusion:
    """Build the two networks of their configs alone, with random weights, on torch's default device.

    Raises:
        PinholeError: as `load_stable_diffusion`.
    """
    make: Any = AutoencoderKL
    vae = make.from_config(_read(source, "vae", AutoencoderKL.load_config))
    unet = UNet2DConditionModel.from_config(_read(source, "unet", UNet2DConditionModel.load_config))
    return StableDiffusion(vae, unet)


def check_schedule(source: str) -> None:
    """Make sure that the UNet estimates noise, and on the schedule that `SpacedDdpm` has.

    Raises:
        PinholeError: if it does not, or the scheduler's config cannot be read.
    """
    config: dict[str, Any] = dict(_read(source, "scheduler", DDPMScheduler.load_config))
    for name, expected in SCHEDULE.items():
        # The prediction type came later than the first models, which all estimate noise.
        found = config.get(name, "epsilon" if name == "prediction_type" else None)
        if found != expected:
            raise PinholeError(
                f"{source}: the scheduler's {name} is {found}, but must be {expected}; give Stable Diffusion 2.1-base"
            )


def _read(source: str, folder: str, read: Callable[..., T], **options: Any) -> T:
    try:
        return read(source, subfolder=folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PinholeError(
            f"cannot load {folder}/ of {source} ({reason}); "
            "set model.stable_diffusion to a folder in the diffusers layout or a hub id that can be reached"
        ) from error
