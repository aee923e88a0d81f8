import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from shared.codec.nets.control import ControlModule, control_keys
from shared.codec.nets.unet_keys import unet_keys
from tests.nets.golden_vectors import OFFICIAL_CONTROL, Golden
from training.official import build_control, load_control

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def models(golden: Golden) -> tuple[UNet2DConditionModel, ControlModule]:
    return load_control(golden.tensors("control/state_dict"), golden.json("control/info"))


@pytest.fixture(scope="module")
def expected(golden: Golden) -> dict[str, Tensor]:
    return golden.tensors("control/tensors")


def test_golden_noise_estimates(
    models: tuple[UNet2DConditionModel, ControlModule], expected: dict[str, Tensor]
) -> None:
    unet, control = models
    inputs = [expected[name] for name in ("latent", "timesteps", "context", "content")]
    eps, base = expected["eps"], expected["eps_without_control"]
    torch.testing.assert_close(control(unet, *inputs), eps, rtol=1e-4, atol=1e-4 * float(eps.abs().max()))
    for estimate in (control(unet, *inputs, strength=0.0), unet(*inputs[:3]).sample):
        torch.testing.assert_close(estimate, base, rtol=1e-4, atol=1e-4 * float(base.abs().max()))
    assert float((eps - base).abs().max()) > 0.01


def test_golden_parameter_counts(models: tuple[UNet2DConditionModel, ControlModule], golden: Golden) -> None:
    info = golden.json("control/info")
    unet, control = models
    assert sum(p.numel() for p in unet.parameters()) == info["params_base"]
    assert sum(p.numel() for p in control.parameters()) == info["params_control"]


def test_full_size_unet_and_control_keys_map_one_to_one(golden: Golden) -> None:
    with torch.device("meta"):
        unet, control = build_control(OFFICIAL_CONTROL)
    parts = (
        (unet, unet_keys(unet), "model.diffusion_model.", "full_size/sd_unet_keys", 686),
        (control, control_keys(control), "control_model.", "full_size/lc_checkpoint_keys", 349),
    )
    for model, keys, prefix, file, count in parts:
        listed = {
            name.removeprefix(prefix): tuple(shape)
            for name, shape in golden.json(file).items()
            if name.startswith(prefix)
        }
        own = model.state_dict()
        assert len(listed) == len(keys) == count
        assert sorted(keys.values()) == sorted(own)
        assert {theirs: tuple(own[ours].shape) for theirs, ours in keys.items()} == listed
    assert len(golden.json("full_size/lc_checkpoint_keys")) == 349 + 563
    assert sum(p.numel() for p in control.parameters()) == 24_410_240
