import copy
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from shared.codec.nets.control import ControlConfig, ControlModule
from shared.errors import PinholeError

POCKET: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (16, 24, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 2,
}
PLAIN: dict[str, Any] = POCKET | {
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "mid_block_type": "UNetMidBlock2D",
}
CROSS: dict[str, Any] = POCKET | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 12,
    "use_linear_projection": True,
}


def pair(
    arguments: dict[str, Any], widths: tuple[int, ...] = (8, 12, 20)
) -> tuple[UNet2DConditionModel, ControlModule]:
    torch.manual_seed(4)
    unet = UNet2DConditionModel(**arguments).eval()
    return unet, ControlModule(unet, ControlConfig(widths, content_channels=8, head_channels=4)).eval()


def open_connections(control: ControlModule) -> None:
    with torch.no_grad():
        for conv in (*control.to_inputs, control.to_middle, *control.to_outputs):
            for parameter in conv.parameters():
                parameter.normal_(std=0.1)


@pytest.mark.parametrize("arguments", [PLAIN, CROSS], ids=["plain", "cross"])
@pytest.mark.parametrize("size", [(8, 12), (9, 7), (5, 4)])
def test_an_untrained_control_leaves_the_base_as_it_is(arguments: dict[str, Any], size: tuple[int, int]) -> None:
    unet, control = pair(arguments)
    latent, content = torch.randn(2, 8, *size), torch.randn(2, 8, *size)
    context = torch.randn(1, 5, 12) if arguments is CROSS else None
    timesteps = torch.tensor([3, 700])
    with torch.no_grad():
        base = unet(latent, timesteps, context if context is None else context.expand(2, -1, -1)).sample
        torch.testing.assert_close(control(unet, latent, timesteps, context, content), base)
        open_connections(control)
        torch.testing.assert_close(control(unet, latent, timesteps, context, content, strength=0.0), base)
        full = control(unet, latent, timesteps, context, content)
        half = control(unet, latent, timesteps, context, content, strength=0.5)
    assert full.shape == latent.shape
    assert float((full - base).abs().max()) > float((half - base).abs().max()) > 1e-3


def test_every_connection_and_the_content_have_an_effect() -> None:
    unet, control = pair(CROSS)
    open_connections(control)
    latent, content, context = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 8, 8), torch.randn(1, 5, 12)
    assert len(control.strengths) == 2 * 6 + 1
    with torch.no_grad():
        full = control(unet, latent, 500, context, content)
        assert not torch.allclose(full, control(unet, latent, 500, context, -content))
        assert not torch.allclose(full, control(unet, latent, 20, context, content))
        for k in range(len(control.strengths)):
            muted = copy.deepcopy(control)
            muted.strengths[k] = 0
            assert not torch.allclose(full, muted(unet, latent, 500, context, content), atol=1e-5)


def test_gradients_reach_all_of_the_control_and_none_of_a_frozen_base() -> None:
    unet, control = pair(PLAIN)
    unet.requires_grad_(False)
    open_connections(control)
    latent, content = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 8, 8)
    loss = control(unet, latent, 10, None, content).square().mean()
    for gradient in torch.autograd.grad(loss, list(control.parameters())):
        assert float(gradient.abs().max()) > 0
    assert not any(name.startswith("unet") for name, _ in control.named_parameters())


@pytest.mark.parametrize("arguments", [PLAIN, CROSS], ids=["plain", "cross"])
def test_initialisation_takes_the_leading_part_of_the_base(arguments: dict[str, Any]) -> None:
    unet, control = pair(arguments)
    open_connections(control)
    control.initialise_from(unet)
    base = unet.state_dict()
    for name, value in control.encoder.state_dict().items():
        if name == "conv_in.weight":
            assert torch.equal(value, torch.cat((base[name], base[name]), 1)[:8])
        else:
            assert torch.equal(value, base[name][tuple(slice(size) for size in value.shape)])
    for conv in (*control.to_inputs, control.to_middle, *control.to_outputs):
        assert all(not parameter.any() for parameter in conv.parameters())


def test_config_for_a_unet_scales_its_widths() -> None:
    unet, _ = pair(CROSS)
    assert ControlConfig.for_unet(unet, ratio=0.5) == ControlConfig((8, 12, 16), content_channels=8, head_channels=16)


def test_norm_groups_divide_every_width() -> None:
    _, control = pair(CROSS, widths=(6, 9, 20))
    groups = {(m.num_channels, m.num_groups) for m in control.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {(6, 6), (9, 3), (20, 5)}


def test_unsupported_base_blocks_are_named() -> None:
    arguments = PLAIN | {"down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D")}
    with pytest.raises(PinholeError, match=r"down_blocks\.1 is a AttnDownBlock2D"):
        pair(arguments)
    with pytest.raises(PinholeError, match="middle block"):
        pair(PLAIN | {"mid_block_type": None})
