"""Names of a diffusers autoencoder and those that the latent diffusion (LDM) code gives the same layers.

LDM numbers the levels of both encoder and decoder from the finest, so diffusers' up blocks run the other way. Its
attention is made of pointwise convolutions where diffusers has linear layers: the same numbers with two more axes.
"""

import re
from collections.abc import Iterator

from torch import Tensor, nn

from shared.errors import PinholeError

_CONVOLUTIONS = (
    "quant_conv",
    "post_quant_conv",
    *(f"{half}.conv_{end}" for half in ("encoder", "decoder") for end in ("in", "out")),
)
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def vae_keys(vae: nn.Module) -> dict[str, str]:
    """Map LDM names (no ``first_stage_model.`` prefix) to diffusers names for a whole ``AutoencoderKL``.

    Raises:
        PinholeError: if it has other layers than Stable Diffusion's autoencoder.
    """
    paths = dict(_layers(vae))
    names = {path: ldm for ldm, path in paths.items()}
    keys = {}
    for name in vae.state_dict():
        path, _, leaf = name.rpartition(".")
        if path not in names:
            raise PinholeError(f"autoencoder: {name} has no place in Stable Diffusion's; give one of its shape")
        keys[f"{names[path]}.{leaf}"] = name
    return keys


def modern_vae_name(name: str) -> str:
    """Spell an attention's name in a diffusers autoencoder as diffusers does now; other names are returned as they are.

    Published autoencoders, that of Stable Diffusion 2.1 among them, have the names from before version 0.16.
    """
    return re.sub(
        r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.", lambda m: f"{m[1]}{_OLD_ATTENTION[m[2]]}.", name
    )


def linear_weight(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the weight of a pointwise convolution ``C' x C x 1 x 1`` as that of the linear layer ``C' x C``.

    Args:
        value: tensor of an LDM checkpoint.
        shape: what diffusers' layer has. If that is not ``value``'s shape less two axes of one, ``value`` is returned.
    """
    return value[..., 0, 0] if tuple(value.shape) == (*shape, 1, 1) else value


def _layers(vae: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of LDM's and diffusers' path of every layer with weights."""
    for path in _CONVOLUTIONS:
        yield path, path
    for half, down, sampler in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        yield f"{half}.norm_out", f"{half}.conv_norm_out"
        yield from _middle(f"{half}.mid", f"{half}.mid_block")
        levels = len(getattr(getattr(vae, half), f"{down}_blocks"))
        for i, block in enumerate(getattr(getattr(vae, half), f"{down}_blocks")):
            ldm = f"{half}.{down}.{i if half == 'encoder' else levels - 1 - i}"
            path = f"{half}.{down}_blocks.{i}"
            for j in range(len(block.resnets)):
                yield from _resnet(f"{ldm}.block.{j}", f"{path}.resnets.{j}")
            yield f"{ldm}.{sampler}.conv", f"{path}.{sampler}rs.0.conv"


def _middle(ldm: str, path: str) -> Iterator[tuple[str, str]]:
    yield from _resnet(f"{ldm}.block_1", f"{path}.resnets.0")
    yield from _resnet(f"{ldm}.block_2", f"{path}.resnets.1")
    for theirs, ours in _ATTENTION.items():
        yield f"{ldm}.attn_1.{theirs}", f"{path}.attentions.0.{ours}"


def _resnet(ldm: str, path: str) -> Iterator[tuple[str, str]]:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield f"{ldm}.{name}", f"{path}.{name}"
    yield f"{ldm}.nin_shortcut", f"{path}.conv_shortcut"
