"""The architecture is found in the shapes alone, at any width."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.codec.nets.control import ControlConfig, control_keys
from shared.codec.nets.lfgcm_keys import official_keys
from shared.codec.nets.unet_keys import unet_keys
from shared.codec.nets.vae_keys import vae_keys
from shared.errors import PinholeError
from tests.nets.golden_vectors import OFFICIAL_CONTROL, OFFICIAL_LFGCM, Golden
from tests.shared_folder import shared_folder
from tests.training.official_stand_ins import CONTROL_CONFIG, LFGCM_CONFIG, OVERRIDES, VAE_CONFIG, lc_state
from training.official import build_control, build_lfgcm, load_control, load_control_module
from training.official_config import (
    check_overrides,
    infer_control_config,
    infer_control_widths,
    infer_lfgcm_config,
    infer_unet_config,
    infer_vae_config,
    read_overrides,
    unet_config,
)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden(shared_folder("reference/golden"))


def control_state(config: dict[str, Any]) -> dict[str, Tensor]:
    with torch.device("meta"):
        unet, control = build_control(config)
    base, own = unet.state_dict(), control.state_dict()
    return {f"model.diffusion_model.{theirs}": base[ours] for theirs, ours in unet_keys(unet).items()} | {
        f"control_model.{theirs}": own[ours] for theirs, ours in control_keys(control).items()
    }


def lfgcm_state(config: dict[str, Any]) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = build_lfgcm(config)
    own = model.state_dict()
    return {f"preprocess_model.{theirs}": own[ours] for theirs, ours in official_keys(model).items()}


def test_the_full_size_checkpoints_give_the_official_configurations(golden: Golden) -> None:
    state = {
        name: torch.empty(shape, device="meta")
        for file in ("sd_unet_keys", "lc_checkpoint_keys")
        for name, shape in golden.json(f"full_size/{file}").items()
    }
    assert infer_lfgcm_config(state) == OFFICIAL_LFGCM
    assert infer_control_config(state) == OFFICIAL_CONTROL
    assert infer_unet_config(state) == unet_config(OFFICIAL_CONTROL)
    assert infer_control_widths(state, infer_unet_config(state)) == ControlConfig((64, 128, 256, 256), 4, 16)


def test_the_golden_checkpoints_give_their_configurations(golden: Golden) -> None:
    assert infer_lfgcm_config(golden.tensors("lfgcm/state_dict")) == golden.json("lfgcm/info")["config"]
    info = golden.json("control/info")
    found = infer_control_config(
        golden.tensors("control/state_dict"), {"control": {"num_head_channels_base": info["num_head_channels_base"]}}
    )
    assert found == {name: info[name] for name in found}


@settings(max_examples=15)
@given(
    data=st.data(),
    slices=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    widths=st.lists(st.sampled_from([2, 4, 6, 10]), min_size=4, max_size=4),
)
def test_compression_modules_of_any_widths_are_found(data: st.DataObject, slices: list[int], widths: list[int]) -> None:
    config = {
        "in_nc": data.draw(st.sampled_from([1, 3])),
        "out_nc": data.draw(st.sampled_from([4, 8])),
        "enc_mid": widths,
        "N": 4 * data.draw(st.integers(1, 4)),
        "M": sum(slices),
        "prior_nc": data.draw(st.integers(1, 9)),
        "sft_ks": data.draw(st.sampled_from([1, 3, 5])),
        "slice_num": len(slices),
        "slice_ch": slices,
    }
    state = lfgcm_state(config)
    assert infer_lfgcm_config(state) == config
    assert infer_lfgcm_config({name.removeprefix("preprocess_model."): v for name, v in state.items()}) == config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_linear_in_transformer": False, "transformer_depth": 2},
        {"channel_mult": [1, 3], "attention_resolutions": [2], "num_res_blocks": 3, "control_model_ratio": 0.25},
        {"in_channels": 8, "context_dim": 5, "control_model_ratio": 1.0},
    ],
)
def test_unets_and_controls_of_other_shapes_are_found_and_load(changes: dict[str, Any]) -> None:
    config = CONTROL_CONFIG | changes
    state = control_state(config)
    found = infer_control_config(state, OVERRIDES)
    assert found == config | {"control_model_ratio": pytest.approx(config["control_model_ratio"])}
    assert infer_unet_config(state, OVERRIDES) == unet_config(config)
    bare = {name.removeprefix("model.diffusion_model."): value for name, value in state.items()}
    assert infer_unet_config(bare, OVERRIDES) == unet_config(config)
    with torch.device("meta"):
        load_control(state, found)
        unet = UNet2DConditionModel(**infer_unet_config(state, OVERRIDES))
        widths = infer_control_widths(state, dict(unet.config), OVERRIDES)
        assert widths == ControlConfig.for_unet(unet, found["control_model_ratio"], 4)


def test_a_ratio_that_floating_point_rounds_down_gives_the_same_widths() -> None:
    assert int(4 / 196 * 196) == 3
    changes = {
        "model_channels": 196,
        "channel_mult": [1, 1],
        "attention_resolutions": [],
        "control_model_ratio": 0.0205,
    }
    state = control_state(CONTROL_CONFIG | changes)
    found = infer_control_config(state, OVERRIDES)
    assert found["control_model_ratio"] == pytest.approx(4 / 196)
    with torch.device("meta"):
        load_control(state, found)


def test_a_control_module_loads_beside_a_unet_from_elsewhere() -> None:
    state = lc_state()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_config(CONTROL_CONFIG))
    config = infer_control_widths(state, dict(unet.config), OVERRIDES)
    control = load_control_module(state, unet, config)
    assert not control.training
    own = control.state_dict()
    for theirs, ours in control_keys(control).items():
        assert torch.equal(own[ours], state[f"control_model.{theirs}"])
    extra = state | {"control_model.surprise": torch.zeros(1)}
    del extra["control_model.middle_block_out.0.bias"]
    with pytest.raises(PinholeError, match=r"missing \(control_model\.middle_block_out\.0\.bias\).*surprise"):
        load_control_module(extra, unet, config)
    with pytest.raises(PinholeError, match="levels"):
        infer_control_widths(state, dict(unet.config) | {"block_out_channels": [16, 16]}, OVERRIDES)


@pytest.mark.parametrize(("widths", "layers", "channels"), [([8, 8, 16, 16], 1, 4), ([8, 16], 2, 3), ([8], 3, 16)])
def test_autoencoders_of_any_shape_are_found(widths: list[int], layers: int, channels: int) -> None:
    config = VAE_CONFIG | {
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "in_channels": 3,
        "out_channels": 3,
        "act_fn": "silu",
    }
    make: Any = AutoencoderKL
    with torch.device("meta"):
        vae = make(**config)
    state = {f"first_stage_model.{theirs}": vae.state_dict()[ours] for theirs, ours in vae_keys(vae).items()}
    assert infer_vae_config(state, OVERRIDES) == config
    plain = infer_vae_config({name.removeprefix("first_stage_model."): value for name, value in state.items()})
    assert plain == config | {"norm_num_groups": 32, "scaling_factor": 0.18215}


def test_what_is_missing_is_named() -> None:
    lfgcm, control = lfgcm_state(LFGCM_CONFIG), control_state(CONTROL_CONFIG)
    for state, infer, name in (
        (lfgcm, infer_lfgcm_config, "preprocess_model.encoder.g_a6.weight"),
        (control, infer_control_config, "control_model.control_model.input_blocks.0.0.weight"),
        (control, infer_unet_config, "model.diffusion_model.middle_block.1.proj_in.weight"),
    ):
        without = {key: value for key, value in state.items() if key != name}
        with pytest.raises(PinholeError, match=rf"{name.split('.', 2)[2]} is missing; give"):
            infer(without)
        with pytest.raises(PinholeError, match="has the shape"):
            infer(state | {name: torch.zeros(3)})
    for infer in (infer_lfgcm_config, infer_control_config, infer_unet_config, infer_vae_config):
        with pytest.raises(PinholeError, match="is missing"):
            infer({})


def test_parts_that_do_not_belong_together_are_refused() -> None:
    state = control_state(CONTROL_CONFIG)
    other = control_state(CONTROL_CONFIG | {"channel_mult": [1, 2, 2, 2]})
    mixed = state | {name: value for name, value in other.items() if name.startswith("control_model.")}
    with pytest.raises(PinholeError, match=r"widths \[8, 16, 16, 16\] are no constant part"):
        infer_control_config(mixed)
    del state["model.diffusion_model.input_blocks.3.0.in_layers.2.weight"]
    with pytest.raises(PinholeError, match="no levels of equal blocks"):
        infer_unet_config(state)


def test_overrides_come_from_a_json_file_and_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "overrides.json"
    path.write_text(json.dumps(OVERRIDES))
    assert read_overrides(path) == OVERRIDES
    for content, message in (
        ("[1]", "not a table"),
        ('{"vea": {}}', "'vea' is no table"),
        ('{"vae": 3}', "'vae' is no table"),
        ('{"vae": {"groups": 3}}', "vae has no groups"),
        ("{", "cannot read the overrides"),
    ):
        path.write_text(content)
        with pytest.raises(PinholeError, match=message):
            read_overrides(path)
    with pytest.raises(PinholeError, match="cannot read the overrides"):
        read_overrides(tmp_path / "none.json")
    with pytest.raises(PinholeError, match="control has no heads"):
        infer_unet_config(control_state(CONTROL_CONFIG), {"control": {"heads": 3}})
    check_overrides({})
