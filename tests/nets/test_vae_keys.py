"""Names of autoencoder and UNet against those that diffusers' own converter gives."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders import single_file_utils
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from shared.codec.nets.unet_keys import unet_keys
from shared.codec.nets.vae_keys import linear_weight, modern_vae_name, vae_keys
from shared.errors import PinholeError
from tests.nets.golden_vectors import OFFICIAL_CONTROL
from training.official_config import unet_config

THEIRS: Any = single_file_utils  # diffusers gives its converters no types


def autoencoder(widths: tuple[int, ...], layers: int, groups: int) -> Any:
    make: Any = AutoencoderKL
    return make(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=layers,
        norm_num_groups=groups,
    )


def numbered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A number of its own in every tensor, so that mixed up names show."""
    return {
        name: torch.full(value.shape, float(i), device=value.device) for i, (name, value) in enumerate(state.items())
    }


@pytest.mark.parametrize(("widths", "layers"), [((8, 8, 16, 16), 1), ((4, 8), 2), ((8, 16, 16), 3)])
def test_the_autoencoder_converts_as_in_diffusers(widths: tuple[int, ...], layers: int) -> None:
    vae = autoencoder(widths, layers, 4)
    own = numbered(vae.state_dict())
    keys = vae_keys(vae)
    assert sorted(keys.values()) == sorted(own)
    ldm = {f"first_stage_model.{theirs}": own[ours] for theirs, ours in keys.items()}
    ldm = {
        name: value[..., None, None] if ".attn_1." in name and value.ndim == 2 else value for name, value in ldm.items()
    }
    converted = THEIRS.convert_ldm_vae_checkpoint(dict(ldm), dict(vae.config))
    assert converted.keys() == own.keys()
    for name, value in own.items():
        assert torch.equal(converted[name], value), name
        theirs = next(t for t, ours in keys.items() if ours == name)
        assert torch.equal(linear_weight(ldm[f"first_stage_model.{theirs}"], tuple(value.shape)), value)


def test_the_full_size_networks_convert_as_in_diffusers() -> None:
    with torch.device("meta"):
        vae = autoencoder((128, 256, 512, 512), 2, 32)
        unet = UNet2DConditionModel(**unet_config(OFFICIAL_CONTROL))
    own = vae.state_dict()
    keys = vae_keys(vae)
    assert len(keys) == len(own) == 248
    # What the published checkpoint calls them.
    assert keys["encoder.down.0.block.0.norm1.weight"] == "encoder.down_blocks.0.resnets.0.norm1.weight"
    assert keys["encoder.down.2.downsample.conv.bias"] == "encoder.down_blocks.2.downsamplers.0.conv.bias"
    assert keys["decoder.up.3.block.2.conv2.weight"] == "decoder.up_blocks.0.resnets.2.conv2.weight"
    assert keys["decoder.up.1.upsample.conv.weight"] == "decoder.up_blocks.2.upsamplers.0.conv.weight"
    assert keys["decoder.up.0.block.0.nin_shortcut.bias"] == "decoder.up_blocks.3.resnets.0.conv_shortcut.bias"
    assert keys["decoder.mid.attn_1.proj_out.weight"] == "decoder.mid_block.attentions.0.to_out.0.weight"
    assert keys["encoder.norm_out.weight"] == "encoder.conv_norm_out.weight"
    assert keys["post_quant_conv.weight"] == "post_quant_conv.weight"
    ldm = {f"first_stage_model.{theirs}": own[ours] for theirs, ours in keys.items()}
    converted = THEIRS.convert_ldm_vae_checkpoint(ldm, dict(vae.config))
    assert {name: value.shape for name, value in converted.items()} == {n: v.shape for n, v in own.items()}

    own = unet.state_dict()
    ldm = {f"model.diffusion_model.{theirs}": own[ours] for theirs, ours in unet_keys(unet).items()}
    converted = THEIRS.convert_ldm_unet_checkpoint(ldm, dict(unet.config))
    assert converted.keys() == own.keys()
    assert all(converted[name] is own[name] for name in own)


def test_an_autoencoder_with_other_layers_is_refused() -> None:
    make: Any = AutoencoderKL
    blocks = ("AttnDownEncoderBlock2D", "DownEncoderBlock2D")
    with torch.device("meta"):
        vae = make(
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=blocks,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )
    with pytest.raises(PinholeError, match=r"encoder\.down_blocks\.0\.attentions.* has no place"):
        vae_keys(vae)


def test_old_names_of_the_attention_become_new_ones() -> None:
    for old, new in {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}.items():
        for half in ("encoder", "decoder"):
            place = f"{half}.mid_block.attentions.0"
            assert modern_vae_name(f"{place}.{old}.weight") == f"{place}.{new}.weight"
            assert modern_vae_name(f"{place}.{new}.bias") == f"{place}.{new}.bias"
    assert modern_vae_name("encoder.conv_in.weight") == "encoder.conv_in.weight"


def test_only_pointwise_convolutions_of_the_wanted_weight_are_squeezed() -> None:
    assert linear_weight(torch.ones(3, 2, 1, 1), (3, 2)).shape == (3, 2)
    for shape in ((3, 2, 1, 1), (3, 2), (3, 2, 3, 3), (3,)):
        value = torch.ones(shape)
        assert linear_weight(value, (4, 2)) is value
        assert linear_weight(value, shape) is value
