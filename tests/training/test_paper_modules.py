"""The modules of the paper's ablations: shapes at any size, gradients to every weight, and what must not matter."""

import copy
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shared.codec.nets.control import ControlConfig, ControlModule
from shared.codec.nets.lfgcm import Lfgcm, LfgcmConfig
from shared.codec.nets.sft import FUSIONS, SftResidual, fusion_factory, position_code
from shared.errors import PinholeError

SMALL: dict[str, Any] = {
    "analysis_widths": (8, 8, 12, 12),
    "hyper_channels": 8,
    "latent_channels": 12,
    "reference_channels": 4,
    "slices": (4, 8),
}
VARIANTS: list[dict[str, Any]] = [{"fusion": name} for name in FUSIONS] + [{"guidance": False}]


def lfgcm(**changes: Any) -> Lfgcm:
    torch.manual_seed(1)
    return Lfgcm(LfgcmConfig(**SMALL, **changes))


def inputs(height: int = 64, width: int = 128) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.rand(2, 3, height, width), torch.randn(2, 4, height // 8, width // 8)


@pytest.mark.parametrize("name", FUSIONS)
@settings(max_examples=8)
@given(height=st.integers(1, 9), width=st.integers(1, 9))
def test_a_fusion_keeps_any_size_and_depends_on_both_inputs(name: str, height: int, width: int) -> None:
    torch.manual_seed(3)
    block = SftResidual(6, fusion_factory(name, 4, 3))
    x, reference = torch.randn(2, 6, height, width), torch.randn(2, 4, height, width)
    x.requires_grad_()
    reference.requires_grad_()
    fused = block(x, reference)
    assert fused.shape == x.shape
    for gradient in torch.autograd.grad(fused.square().sum(), (x, reference)):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", FUSIONS)
def test_pictures_of_a_batch_do_not_touch_one_another(name: str) -> None:
    fusion = fusion_factory(name, 4, 3)(6)
    x, reference = torch.randn(2, 6, 4, 6), torch.randn(2, 4, 4, 6)
    alone = fusion(x[1:], reference[1:])
    torch.testing.assert_close(fusion(x, reference)[1:], alone, rtol=1e-4, atol=1e-5)


def test_attention_knows_where_its_references_lie() -> None:
    fusion = fusion_factory("cross-attention", 4, 1)(6)
    x, reference = torch.randn(1, 6, 4, 6), torch.randn(1, 4, 4, 6)
    moved = fusion(x, reference.roll(1, 3))
    assert not torch.allclose(fusion(x, reference), moved, atol=1e-4)


def test_every_position_has_its_own_code() -> None:
    code = position_code(7, 11, 128, torch.zeros(())).flatten(2)[0].T
    assert code.shape == (77, 128)
    assert float(code.abs().max()) <= 1
    distances = torch.cdist(code, code) + torch.eye(77) * 10
    assert float(distances.min()) > 0.3


def test_an_unknown_fusion_is_named() -> None:
    with pytest.raises(PinholeError, match=r"unknown fusion 'film'; give one of sft, addition"):
        LfgcmConfig(fusion="film")
    with pytest.raises(PinholeError, match="unknown fusion 'film'"):
        fusion_factory("film", 4, 3)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_gradients_reach_every_weight_of_every_variant(variant: dict[str, Any]) -> None:
    model = lfgcm(**variant)
    with torch.no_grad():
        # Fresh latents all round to zero, and what multiplies zeros has no gradient.
        for projection in (model.analysis.project, model.hyper_analysis.project):
            for parameter in projection.parameters():
                parameter.mul_(30)
    picture, guidance = inputs()
    output = model(picture, guidance)
    assert output.z_hat.any()
    assert output.content.shape == guidance.shape
    assert output.y_hat.shape == (2, 12, 4, 8)
    assert output.z_hat.shape == (2, 8, 1, 2)
    loss = output.content.square().mean() - sum(torch.log(p).mean() for p in output.likelihoods)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if n != "prior.quantiles"), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_guidance_acts_where_there_is_some(variant: dict[str, Any]) -> None:
    model = lfgcm(**variant).eval()
    picture, guidance = inputs()
    with torch.no_grad():
        y, other = model.analysis(picture, guidance), model.analysis(picture, -guidance)
        z, other_z = model.hyper_analysis(y, guidance), model.hyper_analysis(y, -guidance)
        if variant.get("guidance", True):
            assert not torch.allclose(y, other)
            assert not torch.allclose(z, other_z)
        else:
            assert torch.equal(y, other)
            assert torch.equal(z, other_z)
            assert torch.equal(y, model.analysis(picture, None))
            assert model(picture, None).content.shape == guidance.shape


def test_without_guidance_the_sender_is_smaller_and_the_synthesis_the_same() -> None:
    with_guidance, without = lfgcm(), lfgcm(guidance=False)
    count = {
        name: sum(p.numel() for p in m.analysis.parameters()) for name, m in (("a", with_guidance), ("b", without))
    }
    assert count["b"] < count["a"]
    assert with_guidance.synthesis.state_dict().keys() == without.synthesis.state_dict().keys()
    assert not any(k.startswith(("analysis.reference", "hyper_analysis.reference")) for k in without.state_dict())


def unet() -> UNet2DConditionModel:
    torch.manual_seed(4)
    model: UNet2DConditionModel = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(20, 40),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
    ).requires_grad_(False)
    return model


def open_connections(control: ControlModule) -> None:
    with torch.no_grad():
        for conv in (*control.to_inputs, control.to_middle, *control.to_outputs):
            for parameter in conv.parameters():
                nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize(("ratio", "widths"), [(0.2, (4, 8)), (0.5, (10, 20)), (1.0, (20, 40))])
def test_control_of_every_width_steers_and_learns(ratio: float, widths: tuple[int, ...]) -> None:
    base = unet()
    control = ControlModule(base, ControlConfig.for_unet(base, ratio, head_channels=2))
    control.initialise_from(base)
    assert control.config.widths == widths
    latent, content, context = torch.randn(2, 4, 8, 6), torch.randn(2, 4, 8, 6), torch.randn(1, 5, 12)
    times = torch.tensor([10, 900])
    with torch.no_grad():
        alone = base(latent, times, context.expand(2, -1, -1)).sample
        torch.testing.assert_close(control(base, latent, times, context, content), alone)
    open_connections(control)
    loss = control(base, latent, times, context, content).square().mean()
    gradients = torch.autograd.grad(loss, list(control.parameters()))
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


def test_a_control_of_full_width_starts_as_a_copy_of_the_base() -> None:
    base = unet()
    control = ControlModule(base, ControlConfig.for_unet(base, 1.0))
    control.initialise_from(base)
    own, theirs = control.encoder.state_dict(), base.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own if name != "conv_in.weight")


def test_recomputed_activations_give_the_same_gradients() -> None:
    base = unet()
    control = ControlModule(base, ControlConfig.for_unet(base, 0.5, head_channels=2))
    control.initialise_from(base)
    open_connections(control)
    again = copy.deepcopy(control)
    again.recompute = True
    latent, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 12)
    contents = [torch.randn(1, 4, 8, 8).requires_grad_()]
    contents.append(contents[0].detach().clone().requires_grad_())
    kept: list[int] = []
    for module, content in zip((control, again), contents, strict=True):
        sizes: list[int] = []

        def pack(value: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            loss = module(base, latent, 500, context, content).square().mean()
        loss.backward()
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]
    assert torch.equal(contents[0].grad, contents[1].grad)  # type: ignore[arg-type]
    for first, second in zip(control.parameters(), again.parameters(), strict=True):
        assert torch.equal(first.grad, second.grad)  # type: ignore[arg-type]
