"""The blocks of a diffusers UNet in the order of the latent diffusion (LDM) code, and the names both give them.

LDM counts an encoder's convolutions in, residual blocks and downsamplings as ``input_blocks``, and a decoder's
residual blocks as ``output_blocks``, each with its attention and, at the end of a level, its upsampling. Control
connections are defined between these blocks, and checkpoints are named after them, so both use this walk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from shared.errors import PinholeError

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TIME = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
_OUT = {"out.0": "conv_norm_out", "out.2": "conv_out"}


class Encoder(Protocol):
    """Time embedding, encoder and middle, as a diffusers UNet has them."""

    @property
    def conv_in(self) -> nn.Module:
        """First convolution."""

    @property
    def down_blocks(self) -> nn.ModuleList:
        """Levels, the finest first."""

    @property
    def mid_block(self) -> nn.Module | None:
        """Middle block."""


class UNet(Encoder, Protocol):
    """A whole UNet, as in diffusers."""

    @property
    def up_blocks(self) -> nn.ModuleList:
        """Levels, the coarsest first."""


@dataclass(frozen=True)
class Step:
    """One LDM block: layers that run one after the other, each with its path below the UNet."""

    layers: tuple[tuple[str, nn.Module], ...]

    @property
    def out_channels(self) -> int:
        """Channels of the step's output."""
        return int(getattr(self.layers[0][1], "out_channels"))  # noqa: B009

    def __call__(
        self, x: Tensor, embedding: Tensor, context: Tensor | None, size: tuple[int, ...] | None = None
    ) -> Tensor:
        """Run the layers.

        Args:
            x: ``B x C x H x W``.
            embedding: time embedding ``B x E``.
            context: text embedding ``B x tokens x width`` for cross-attention, or None.
            size: height and width that an upsampling goes to; None doubles both.

        Returns:
            ``B x C' x H' x W'``.
        """
        for _, layer in self.layers:
            if isinstance(layer, ResnetBlock2D):
                x = layer(x, embedding)
            elif isinstance(layer, Transformer2DModel):
                x = layer(x, encoder_hidden_states=context, return_dict=False)[0]
            elif isinstance(layer, Upsample2D):
                x = layer(x, size)
            else:
                x = layer(x)
        return x


def _level(path: str, block: nn.Module, samplers: str) -> tuple[list[Step], list[tuple[str, nn.Module]]]:
    """Return the residual blocks with their attentions, and the resampling layers, of one level."""
    resnets = getattr(block, "resnets", ())
    attentions = getattr(block, "attentions", None) or [None] * len(resnets)
    steps = []
    for j, (resnet, attention) in enumerate(zip(resnets, attentions, strict=True)):
        if not isinstance(resnet, ResnetBlock2D) or not isinstance(attention, Transformer2DModel | None):
            raise PinholeError(
                f"UNet block {path} is a {type(block).__name__}; use (CrossAttn)DownBlock2D and UpBlock2D"
            )
        layers: list[tuple[str, nn.Module]] = [(f"{path}.resnets.{j}", resnet)]
        if attention is not None:
            layers.append((f"{path}.attentions.{j}", attention))
        steps.append(Step(tuple(layers)))
    return steps, [(f"{path}.{samplers}.{k}", s) for k, s in enumerate(getattr(block, samplers, None) or ())]


def input_steps(net: Encoder) -> list[Step]:
    """Return the encoder's blocks in LDM order; each one's output is kept as a skip.

    Raises:
        PinholeError: if there are blocks other than diffusers' plain and cross-attention ones.
    """
    steps = [Step((("conv_in", net.conv_in),))]
    for i, block in enumerate(net.down_blocks):
        level, samplers = _level(f"down_blocks.{i}", block, "downsamplers")
        steps += level
        steps += [Step((sampler,)) for sampler in samplers]
    return steps


def middle_step(net: Encoder) -> Step:
    """Return the middle as one step.

    Raises:
        PinholeError: if there is none, or it is not built of residual blocks and transformers.
    """
    resnets: Sequence[nn.Module] = getattr(net.mid_block, "resnets", ())
    attentions: Sequence[nn.Module] = getattr(net.mid_block, "attentions", ())
    if not resnets or len(resnets) != len(attentions) + 1:
        raise PinholeError("UNet middle block is not supported; use UNetMidBlock2DCrossAttn or UNetMidBlock2D")
    layers: list[tuple[str, nn.Module]] = [("mid_block.resnets.0", resnets[0])]
    for j, (attention, resnet) in enumerate(zip(attentions, resnets[1:], strict=True)):
        layers += [(f"mid_block.attentions.{j}", attention), (f"mid_block.resnets.{j + 1}", resnet)]
    return Step(tuple(layers))


def output_steps(net: UNet) -> list[Step]:
    """Return the decoder's blocks in LDM order; each takes one skip, the deepest first.

    Raises:
        PinholeError: if there are blocks other than diffusers' plain and cross-attention ones.
    """
    steps: list[Step] = []
    for i, block in enumerate(net.up_blocks):
        level, samplers = _level(f"up_blocks.{i}", block, "upsamplers")
        level[-1] = Step((*level[-1].layers, *samplers))
        steps += level
    return steps


def _layer_keys(ldm: str, path: str, layer: nn.Module) -> Iterator[tuple[str, str]]:
    if isinstance(layer, ResnetBlock2D):
        inverse = {ours: theirs for theirs, ours in _RESNET.items()}
    elif isinstance(layer, Downsample2D):
        inverse = {"conv": "op"}
    else:
        inverse = {}
    for name in layer.state_dict():
        module, _, leaf = name.rpartition(".")
        yield ".".join(p for p in (ldm, inverse.get(module, module), leaf) if p), f"{path}.{name}"


def _step_keys(prefix: str, step: Step) -> Iterator[tuple[str, str]]:
    for j, (path, layer) in enumerate(step.layers):
        yield from _layer_keys(f"{prefix}.{j}", path, layer)


def _with_leaves(names: Mapping[str, str]) -> dict[str, str]:
    return {f"{ldm}.{leaf}": f"{path}.{leaf}" for ldm, path in names.items() for leaf in ("weight", "bias")}


def encoder_keys(net: Encoder) -> dict[str, str]:
    """Map LDM names to diffusers names for time embedding, encoder and middle of a UNet or of a control encoder."""
    keys = _with_leaves(_TIME)
    for n, step in enumerate(input_steps(net)):
        keys.update(_step_keys(f"input_blocks.{n}", step))
    keys.update(_step_keys("middle_block", middle_step(net)))
    return keys


def unet_keys(unet: UNet) -> dict[str, str]:
    """Map LDM names (no ``model.diffusion_model.`` prefix) to diffusers names for a whole UNet."""
    keys = encoder_keys(unet)
    for n, step in enumerate(output_steps(unet)):
        keys.update(_step_keys(f"output_blocks.{n}", step))
    keys.update(_with_leaves(_OUT))
    return keys
