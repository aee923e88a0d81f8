from typing import Any

import pytest
import torch
from torch import Tensor

from shared.codec.nets.control import control_keys
from shared.codec.nets.lfgcm_keys import derived_entries, official_keys
from shared.codec.nets.unet_keys import unet_keys
from shared.errors import PinholeError
from tests.nets.golden_vectors import fill_plainly, plain_numbers
from training.official import build_control, build_lfgcm, load_control, load_lfgcm

LFGCM: dict[str, Any] = {
    "in_nc": 3,
    "out_nc": 4,
    "enc_mid": [4, 6, 8, 10],
    "N": 8,
    "M": 12,
    "prior_nc": 4,
    "sft_ks": 3,
    "slice_num": 3,
    "slice_ch": [2, 4, 6],
}
CONTROL: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [1],
    "context_dim": 6,
    "control_model_ratio": 0.25,
    "num_head_channels_base": 16,
    "num_head_channels_control": 4,
    "use_linear_in_transformer": False,
    "transformer_depth": 2,
}


@pytest.fixture(scope="module")
def lfgcm_state() -> dict[str, Tensor]:
    model = build_lfgcm(LFGCM)
    fill_plainly(model, "lfgcm")
    own = model.state_dict()
    state = {theirs: own[ours].half() for theirs, ours in official_keys(model).items()}
    empty = torch.zeros(0, dtype=torch.int32)
    return state | {name: empty if value is None else value.clone() for name, value in derived_entries().items()}


@pytest.fixture(scope="module")
def control_state() -> dict[str, Tensor]:
    unet, control = build_control(CONTROL)
    fill_plainly(unet, "unet")
    fill_plainly(control, "control")
    base, own = unet.state_dict(), control.state_dict()
    return {f"model.diffusion_model.{theirs}": base[ours].half() for theirs, ours in unet_keys(unet).items()} | {
        f"control_model.{theirs}": own[ours].half() for theirs, ours in control_keys(control).items()
    }


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"preprocess_model.{name}": value for name, value in state.items()}


def test_lfgcm_loads_with_and_without_prefix_and_beside_other_parts(
    lfgcm_state: dict[str, Tensor], control_state: dict[str, Tensor]
) -> None:
    others = {"betas": torch.zeros(1000), "first_stage_model.encoder.conv_in.bias": torch.zeros(2)}
    whole = prefixed(lfgcm_state) | control_state | others
    picture, guidance = plain_numbers("picture", (1, 3, 64, 128)), plain_numbers("guidance", (1, 4, 8, 16))
    outputs = []
    for state in (lfgcm_state, prefixed(lfgcm_state), whole):
        model = load_lfgcm(state, {"config": LFGCM, "seed": 1})
        assert not model.training
        assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
        outputs.append(model.analysis(picture, guidance))
    assert outputs[0].shape == (1, 12, 4, 8)
    assert all(torch.equal(outputs[0], output) for output in outputs)
    load_control(whole, CONTROL)


def test_lfgcm_loads_the_prior_as_older_compressai_names_it(lfgcm_state: dict[str, Tensor]) -> None:
    names = {"matrices.": "_matrix", "biases.": "_bias", "factors.": "_factor"}
    old = {}
    for name, value in lfgcm_state.items():
        for modern, older in names.items():
            name = name.replace(f"entropy_bottleneck.{modern}", f"entropy_bottleneck.{older}")
        old[name] = value
    assert "entropy_bottleneck._matrix0" in old
    loaded, expected = load_lfgcm(prefixed(old), LFGCM), load_lfgcm(lfgcm_state, LFGCM)
    for name, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with pytest.raises(PinholeError, match="twice"):
        load_lfgcm(lfgcm_state | old, LFGCM)


def test_every_official_weight_lands_in_its_own_place(
    lfgcm_state: dict[str, Tensor], control_state: dict[str, Tensor]
) -> None:
    model = load_lfgcm(lfgcm_state, LFGCM)
    for theirs, ours in official_keys(model).items():
        assert torch.equal(model.state_dict()[ours], lfgcm_state[theirs].float())
    unet, control = load_control(control_state, CONTROL)
    for theirs, ours in unet_keys(unet).items():
        assert torch.equal(unet.state_dict()[ours], control_state[f"model.diffusion_model.{theirs}"].float())
    for theirs, ours in control_keys(control).items():
        assert torch.equal(control.state_dict()[ours], control_state[f"control_model.{theirs}"].float())
    assert not any(parameter.requires_grad for parameter in unet.parameters())


def test_missing_and_unknown_keys_are_named_in_one_error(
    lfgcm_state: dict[str, Tensor], control_state: dict[str, Tensor]
) -> None:
    state = prefixed(lfgcm_state) | {"preprocess_model.surprise": torch.zeros(1)}
    del state["preprocess_model.encoder.g_a3.bias"]
    with pytest.raises(PinholeError, match=r"1 missing \(encoder\.g_a3\.bias\); 1 unknown \(surprise\)") as caught:
        load_lfgcm(state, LFGCM)
    assert "\n" not in str(caught.value)
    damaged = control_state | {"control_model.surprise": torch.zeros(1)}
    del damaged["model.diffusion_model.out.0.bias"]
    with pytest.raises(
        PinholeError, match=r"missing \(model\.diffusion_model\.out\.0\.bias\); .*control_model\.surprise"
    ):
        load_control(damaged, CONTROL)
    with pytest.raises(PinholeError, match=r"missing \(.*, \.\.\.\)"):
        load_lfgcm({}, LFGCM)


def test_weights_of_another_width_are_refused(lfgcm_state: dict[str, Tensor]) -> None:
    with pytest.raises(
        PinholeError, match=r"shapes do not fit the config \(.*is \(12, 10, 3, 3\), not \(14, 10, 3, 3\)"
    ):
        load_lfgcm(lfgcm_state, LFGCM | {"M": 14, "slice_ch": [2, 4, 8]})


def test_other_constants_than_the_papers_are_refused(lfgcm_state: dict[str, Tensor]) -> None:
    name = "gaussian_conditional.scale_bound"
    with pytest.raises(PinholeError, match=r"gaussian_conditional\.scale_bound is not the constant"):
        load_lfgcm(lfgcm_state | {name: torch.tensor([0.2])}, LFGCM)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"N": "many"}, "not a number"),
        ({"enc_mid": [1, 2]}, "not a number"),
        ({"slice_num": 4}, "slice_num 4"),
        ({"M": 13}, "do not sum"),
    ],
)
def test_lfgcm_configs_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PinholeError, match=message):
        build_lfgcm(LFGCM | changes)


def test_a_control_config_without_an_entry_is_refused() -> None:
    with pytest.raises(PinholeError, match="context_dim"):
        build_control({name: value for name, value in CONTROL.items() if name != "context_dim"})
