"""Prior and control of a bundle, built from the plain values of its manifest."""

from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from shared.codec.nets.control import ControlConfig, ControlModule


@dataclass(frozen=True)
class DiffusionConfig:
    """Widths of the pocket prior and of its control.

    Attributes:
        latent_channels: channels of the latent and of the content variable.
        widths: channels of the UNet at H/8, H/16 and H/32.
        control_ratio: width of the control relative to the UNet.
        context_width: width of the one stored context token that stands for the empty prompt.
        heads: attention heads at H/32; the finer levels have no attention.
        groups: groups of the UNet's group normalisation.
    """

    latent_channels: int = 8
    widths: tuple[int, int, int] = (64, 80, 112)
    control_ratio: float = 0.5
    context_width: int = 32
    heads: int = 4
    groups: int = 16

    def unet(self) -> UNet2DConditionModel:
        """Return the prior with random weights."""
        unet: UNet2DConditionModel = UNet2DConditionModel(
            in_channels=self.latent_channels,
            out_channels=self.latent_channels,
            block_out_channels=self.widths,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            cross_attention_dim=self.context_width,
            # diffusers calls the number of heads the head dimension (its issue 2011).
            attention_head_dim=self.heads,
            norm_num_groups=self.groups,
            use_linear_projection=True,
        )
        return unet

    def control(self, unet: UNet2DConditionModel) -> ControlModule:
        """Return a control module for the prior, started from its weights."""
        control = ControlModule(unet, ControlConfig.for_unet(unet, self.control_ratio))
        control.initialise_from(unet)
        return control


class LatentScale(nn.Module):
    """Mean and standard deviation of every latent channel over photographs: diffusion runs on the normalised latent."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channels, 1, 1))

    def normalise(self, latent: Tensor) -> Tensor:
        """Latent ``B x C x h x w`` to zero mean and unit variance."""
        return (latent - self.mean) / self.deviation

    def restore(self, normal: Tensor) -> Tensor:
        """Undo `normalise`."""
        return normal * self.deviation + self.mean
