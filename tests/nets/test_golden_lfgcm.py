import pytest
import torch
from torch import Tensor

from shared.codec.nets.checkerboard import keep_anchors, merge
from shared.codec.nets.lfgcm import Lfgcm
from shared.codec.nets.lfgcm_keys import derived_entries, official_keys
from tests.nets.golden_vectors import OFFICIAL_LFGCM, Golden
from training.official import build_lfgcm, load_lfgcm

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def model(golden: Golden) -> Lfgcm:
    return load_lfgcm(golden.tensors("lfgcm/state_dict"), golden.json("lfgcm/info"))


@pytest.fixture(scope="module")
def expected(golden: Golden) -> dict[str, Tensor]:
    return golden.tensors("lfgcm/tensors")


def assert_same_map(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_golden_feature_maps(model: Lfgcm, expected: dict[str, Tensor]) -> None:
    y = model.analysis(expected["image"], expected["guidance_latent"])
    assert_same_map(y, expected["y"])
    assert_same_map(model.hyper_analysis(y, expected["guidance_latent"]), expected["z"])
    assert_same_map(model.entropy_parameters.hyper(expected["z_hat"]), expected["hyper_params"])
    assert_same_map(model.reference_decoder(expected["z_hat"]), expected["f_c"])
    assert_same_map(model.decode(expected["y_hat"], expected["z_hat"]), expected["content"])


def test_golden_parameter_heads_slice_by_slice(model: Lfgcm, expected: dict[str, Tensor]) -> None:
    net, hyper = model.entropy_parameters, expected["hyper_params"]
    for i, (start, end) in enumerate(zip(net.config.offsets, net.config.offsets[1:], strict=False)):
        previous, current = expected["y_hat"][:, :start], expected["y_hat"][:, start:end]
        anchor = torch.cat(net.anchor(i, hyper, previous), 1)
        assert_same_map(anchor, expected[f"params_anchor_{i}"])
        nonanchor = torch.cat(net.nonanchor(i, hyper, keep_anchors(current), previous), 1)
        assert_same_map(nonanchor, expected[f"params_nonanchor_{i}"])


def test_golden_symbols_are_exact(model: Lfgcm, expected: dict[str, Tensor]) -> None:
    z = model.hyper_analysis(
        y := model.analysis(expected["image"], expected["guidance_latent"]), expected["guidance_latent"]
    )
    symbols = model.prior.symbols(z)
    assert torch.equal(symbols, torch.round(expected["z_hat"] - model.prior.medians).int())
    z_hat = model.prior.reconstruct(symbols)
    y_hat, scales, means = model.entropy_parameters(y, model.entropy_parameters.hyper(z_hat))
    halves = [
        torch.cat([expected[f"params_{half}_{i}"].chunk(2, 1)[part] for i in range(len(model.config.slices))], 1)
        for part in (0, 1)
        for half in ("anchor", "nonanchor")
    ]
    assert_same_map(scales, merge(*halves[:2]))
    expected_means = merge(*halves[2:])
    expected_symbols = torch.round(expected["y_hat"] - expected_means).int()
    assert torch.equal(torch.round(y_hat - means).int(), expected_symbols)
    assert len(set(expected_symbols.flatten().tolist())) > 10


def test_golden_forward_pass(model: Lfgcm, expected: dict[str, Tensor], golden: Golden) -> None:
    output = model(expected["image"], expected["guidance_latent"])
    assert_same_map(output.content, expected["forward_content"])
    pixels = expected["image"].shape[-1] * expected["image"].shape[-2]
    bits = -sum(float(likelihood.double().log2().sum()) for likelihood in output.likelihoods)
    assert bits / pixels == pytest.approx(golden.json("lfgcm/info")["eval_forward_quantised_bpp"], rel=1e-4)


def test_full_size_lfgcm_keys_map_one_to_one(golden: Golden) -> None:
    prefix = "preprocess_model."
    listed = {
        name.removeprefix(prefix): tuple(shape)
        for name, shape in golden.json("full_size/lc_checkpoint_keys").items()
        if name.startswith(prefix)
    }
    with torch.device("meta"):
        model = build_lfgcm(OFFICIAL_LFGCM)
    own = model.state_dict()
    keys = official_keys(model)
    assert sorted(keys.values()) == sorted(own)
    assert {*keys, *derived_entries()} == set(listed)
    assert len(listed) == 563
    assert {name: tuple(own[ours].shape) for name, ours in keys.items()} == {name: listed[name] for name in keys}
    assert sum(p.numel() for p in model.parameters()) == 51_493_188
