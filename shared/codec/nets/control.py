"""The control module of DiffEIC: a narrow encoder that steers a frozen diffusion UNet by the content variable.

Data flow (Li et al., IEEE TCSVT 2025, section III-C, after ControlNet-XS, Zavadski et al. 2023; all connections go
from the control to the base)::

    latent ----------> base input blocks --+--> base middle --+--> base output blocks --> noise estimate
                              ^ every block               ^        ^ every block, before the skip is joined
    latent, content -> control input blocks -> control middle -'   '-- control input features, deepest first

Every connection is a pointwise convolution that starts at zero, so an untrained control changes nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shared.codec.nets.unet_keys import Step, encoder_keys, input_steps, middle_step, output_steps


@dataclass(frozen=True)
class ControlConfig:
    """What a control module has of its own; all else follows the base UNet.

    Attributes:
        widths: channels of every level, as many levels as the base has.
        content_channels: channels of the content variable.
        head_channels: channels of one attention head.
    """

    widths: tuple[int, ...]
    content_channels: int = 4
    head_channels: int = 16

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel, ratio: float = 0.2, head_channels: int = 16) -> "ControlConfig":
        """Return the configuration with every width of the base times ``ratio`` and content like the base's latent."""
        widths = tuple(int(width * ratio) for width in unet.config["block_out_channels"])
        return cls(widths, int(unet.config["in_channels"]), head_channels)


class ControlEncoder(nn.Module):
    """Encoder and middle of a UNet like the base, at the control's widths and with random weights."""

    def __init__(self, unet: UNet2DConditionModel, config: ControlConfig) -> None:
        super().__init__()
        base: dict[str, Any] = {name: value for name, value in unet.config.items() if not name.startswith("_")}
        first, second = unet.time_embedding.linear_1, unet.time_embedding.linear_2
        changes = {
            "block_out_channels": config.widths,
            "in_channels": base["in_channels"] + config.content_channels,
            "attention_head_dim": tuple(max(1, width // config.head_channels) for width in config.widths),
            "norm_num_groups": 1,
            "time_embedding_dim": second.out_features,
        }
        narrow = UNet2DConditionModel(**{**base, **changes})
        # The embedding is not narrowed: it takes the sinusoids of the base, and as many as the base.
        self.time_embedding = TimestepEmbedding(first.in_features, second.out_features)
        self.conv_in = narrow.conv_in
        self.down_blocks = narrow.down_blocks
        self.mid_block = narrow.mid_block
        for module in self.modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = _largest_divisor(module.num_channels, base["norm_num_groups"])


class ControlModule(nn.Module):
    """Control encoder and its connections to a base UNet, which it is given at every call and does not own.

    Buffers: ``strengths``, the factor of every connection (input blocks, middle, output blocks), ones unless loaded.

    Attributes:
        recompute: whether activations inside blocks are computed again in the backward pass and not kept. It saves most
            of the memory of training, the base's activations included, for a second forward pass.

    Args:
        unet: the base; only its shape is looked at.
        config: widths of the control.
    """

    strengths: Tensor

    def __init__(self, unet: UNet2DConditionModel, config: ControlConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ControlEncoder(unet, config)
        ours = [step.out_channels for step in input_steps(self.encoder)]
        theirs = [step.out_channels for step in input_steps(unet)]
        middle = middle_step(unet).out_channels
        before_outputs = [middle, *(step.out_channels for step in output_steps(unet)[:-1])]
        self.to_inputs = nn.ModuleList(map(_zero_conv, ours, theirs))
        self.to_middle = _zero_conv(middle_step(self.encoder).out_channels, middle)
        self.to_outputs = nn.ModuleList(map(_zero_conv, reversed(ours), before_outputs))
        self.register_buffer("strengths", torch.ones(2 * len(ours) + 1))
        self.recompute = False

    @torch.no_grad()
    def initialise_from(self, unet: UNet2DConditionModel) -> None:
        """Start the encoder from the leading part of every weight of the base, and the connections from zero.

        Where the control is wider than the base (its first convolution also takes the content variable), the base's
        weight is repeated first.
        """
        source = unet.state_dict()
        for name, target in self.encoder.state_dict().items():
            value = source[name]
            value = value.repeat([-(-wanted // got) for wanted, got in zip(target.shape, value.shape, strict=True)])
            target.copy_(value[tuple(slice(size) for size in target.shape)])
        for conv in (*self.to_inputs, self.to_middle, *self.to_outputs):
            for parameter in conv.parameters():
                parameter.zero_()

    def _run(self, step: Step, x: Tensor, *inputs: Any) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            again: Tensor = checkpoint(step, x, *inputs, use_reentrant=False)
            return again
        return step(x, *inputs)

    def forward(
        self,
        unet: UNet2DConditionModel,
        latent: Tensor,
        timesteps: Tensor | int,
        context: Tensor | None,
        content: Tensor,
        strength: float = 1.0,
    ) -> Tensor:
        """Estimate the noise in a latent.

        Args:
            unet: the base that the control was made for.
            latent: noisy latent ``B x C x h x w``.
            timesteps: diffusion timesteps, ``B`` or one for all, 0 to 999.
            context: text embedding ``B x tokens x width`` (or ``1 x ...`` for all); None if the base has no attention.
            content: content variable ``B x C' x h x w``.
            strength: factor of all connections; 0 gives the base alone.

        Returns:
            Noise estimate ``B x C x h x w``.
        """
        sinusoids = unet.get_time_embed(latent, timesteps)
        embedding, own_embedding = unet.time_embedding(sinusoids), self.encoder.time_embedding(sinusoids)
        if context is not None and len(context) != len(latent):
            context = context.expand(len(latent), -1, -1)
        factors = list(strength * self.strengths)

        x, control = latent, torch.cat((latent, content), 1)
        skips: list[Tensor] = []
        features: list[Tensor] = []
        for step, own_step, connect in zip(input_steps(unet), input_steps(self.encoder), self.to_inputs, strict=True):
            x = self._run(step, x, embedding, context)
            control = self._run(own_step, control, own_embedding, context)
            features.append(control)
            x = x.addcmul(connect(control), factors.pop(0))
            skips.append(x)

        x = self._run(middle_step(unet), x, embedding, context)
        control = self._run(middle_step(self.encoder), control, own_embedding, context)
        x = x.addcmul(self.to_middle(control), factors.pop(0))

        for step, connect in zip(output_steps(unet), self.to_outputs, strict=True):
            x = x.addcmul(connect(features.pop()), factors.pop(0))
            x = torch.cat((x, skips.pop()), 1)
            # Sizes that do not halve evenly are met again on the way up.
            x = self._run(step, x, embedding, context, tuple(skips[-1].shape[-2:]) if skips else None)
        estimate: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return estimate


def control_keys(control: ControlModule) -> dict[str, str]:
    """Map official names of a control module (no outer ``control_model.`` prefix) to ours."""
    keys = {f"control_model.{ldm}": f"encoder.{name}" for ldm, name in encoder_keys(control.encoder).items()}
    for leaf in ("weight", "bias"):
        for i in range(len(control.to_inputs)):
            keys[f"enc_zero_convs_out.{i}.0.{leaf}"] = f"to_inputs.{i}.{leaf}"
            keys[f"dec_zero_convs_out.{i}.0.{leaf}"] = f"to_outputs.{i}.{leaf}"
        keys[f"middle_block_out.0.{leaf}"] = f"to_middle.{leaf}"
    keys["scale_list"] = "strengths"
    return keys


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


def _zero_conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, 1)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv
