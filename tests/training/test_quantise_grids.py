"""Fake quantisation is the integer program: the same integers, and gradients that learn something."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shared.codec.entropy.backend import Maps, NumpyBackend
from shared.codec.entropy.coding import LatentCoder, LatentLayout
from shared.codec.entropy.integer import Integers
from shared.codec.entropy.program import EntropyProgram
from shared.codec.nets.entropy_parameters import EntropyParameters, EntropyParametersConfig
from shared.codec.nets.factorised_prior import FactorisedPrior
from shared.codec.nets.likelihood import gaussian_likelihood
from shared.errors import PinholeError
from training.calibration import calibrate
from training.fake_quantise import FakeQuantised
from training.grids import Grids, plan_grids, rescale, whole_weights
from training.quantise import program_on
from training.table_fit import fit_tables, model_tables

CONFIG = EntropyParametersConfig(
    latent_channels=12,
    hyper_channels=6,
    slices=(2, 4, 6),
    hyper_decoder_widths=(10, 12),
    channel_context_widths=(12, 8),
)
LAYOUT = LatentLayout(6, (2, 4, 6), (1, 2))


def latents(seed: int, loud: float = 2.0, count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = loud * torch.randn(count, 12, 8, 12, generator=generator)
    return y, torch.randn(count, 6, 2, 3, generator=generator).mul(3).round()


@pytest.fixture(scope="module")
def model() -> EntropyParameters:
    torch.manual_seed(5)
    made = EntropyParameters(CONFIG).eval()
    for head in (*made.anchor_heads, *made.nonanchor_heads):
        torch.nn.init.ones_(head[-1].bias[: len(head[-1].bias) // 2].data)
    return made


@pytest.fixture(scope="module")
def grids(model: EntropyParameters) -> Grids:
    return plan_grids(model, calibrate(model, [latents(seed) for seed in range(4)]))


@pytest.fixture(scope="module")
def program(model: EntropyParameters, grids: Grids) -> EntropyProgram:
    return program_on(model, grids)


class Watched(NumpyBackend):
    """Keeps the scales of the last pass, of which the coder hands on table numbers only."""

    scales: Integers

    def anchor(self, index: int, hyper: Maps, earlier: Integers) -> tuple[Integers, Integers, Maps]:
        self.scales, means, channel = super().anchor(index, hyper, earlier)
        return self.scales, means, channel

    def nonanchor(self, index: int, hyper: Maps, channel: Maps, anchors: Integers) -> tuple[Integers, Integers]:
        self.scales, means = super().nonanchor(index, hyper, channel, anchors)
        return self.scales, means


@pytest.mark.parametrize("loud", [0.1, 2.0, 60.0])
def test_fake_quantised_forward_is_the_integer_program(
    model: EntropyParameters, grids: Grids, program: EntropyProgram, loud: float
) -> None:
    """Means, scales and symbols, to the last unit, also far outside the calibrated range."""
    y, z = latents(20, loud)
    terms = FakeQuantised(model, grids)(y, z)
    backend = Watched(program)
    for number in range(len(y)):
        fixed = np.rint(y[number : number + 1].numpy() * 16).astype(np.int32)
        y_hat, seen = np.zeros_like(fixed), np.zeros(fixed.shape, bool)
        ours = {name: getattr(terms, name)[number : number + 1].detach().numpy() for name in ("scales", "y_hat")}
        coder = LatentCoder(LAYOUT, model_tables(FactorisedPrior(6)), backend)
        for _, passes in coder._layers(z[number : number + 1].numpy().astype(np.int32), y_hat):
            for channels, mask, _, means in passes:
                assert np.array_equal(ours["scales"][0, channels][:, mask] * 256, backend.scales[0][:, mask])
                symbols = (fixed[0, channels][:, mask] - means + 8) >> 4
                y_hat[0, channels, mask] = (symbols * 16 + means).T
                seen[0, channels, mask] = True
        assert seen.all()
        assert np.array_equal(ours["y_hat"] * 16, y_hat)


def test_every_weight_gets_a_gradient_and_learning_lowers_the_rate(model: EntropyParameters, grids: Grids) -> None:
    tuned = EntropyParameters(CONFIG)
    tuned.load_state_dict(model.state_dict())
    quantised = FakeQuantised(tuned, grids)
    y, z = latents(30, count=4)

    def bits() -> Tensor:
        terms = quantised(y, z)
        return -torch.log2(gaussian_likelihood(terms.residual, terms.scales)).mean()

    first = bits()
    first.backward()  # type: ignore[no-untyped-call]
    for name, parameter in tuned.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    optimiser = torch.optim.Adam(tuned.parameters(), lr=1e-2)
    for _ in range(25):
        optimiser.zero_grad()
        bits().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert float(bits()) < 0.95 * float(first)
    program_on(tuned, grids).check_exact()


def test_grids_survive_a_checkpoint(grids: Grids, model: EntropyParameters, tmp_path: Path) -> None:
    torch.save(grids.state(), tmp_path / "grids.pt")
    again = Grids.from_state(torch.load(tmp_path / "grids.pt", weights_only=True))
    assert program_on(model, again).to_bytes() == program_on(model, grids).to_bytes()
    with pytest.raises(PinholeError, match="holds no grids"):
        Grids.from_state({"layers": {}})


def test_a_quiet_channel_has_a_finer_grid(model: EntropyParameters) -> None:
    quiet = EntropyParameters(CONFIG)
    quiet.load_state_dict(model.state_dict())
    last = quiet.get_submodule("hyper_decoder.4")
    assert isinstance(last, nn.ConvTranspose2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight[:, 3] *= 0.1
        last.bias[3] *= 0.1
    planned = plan_grids(quiet, calibrate(quiet, [latents(1)]))
    steps = planned.layers["hyper_decoder.4"].outputs
    assert steps[3] < 0.5 * np.median(steps)


@settings(deadline=None, max_examples=40)
@given(st.floats(1e-6, 10), st.integers(0, 2**32 - 1))
def test_whole_weights_stay_within_seven_bits_and_float32(size: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = EntropyParameters(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size)
    grids = plan_grids(model, calibrate(model, [latents(3, count=1)]))
    for name, grid in grids.layers.items():
        conv = model.get_submodule(name)
        assert isinstance(conv, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
        weight, bias, _ = whole_weights(conv, grid)
        assert weight.abs().max() <= 63
        assert torch.equal(weight, weight.round())
        axes = (0, 2, 3) if isinstance(conv, torch.nn.ConvTranspose2d) else (1, 2, 3)
        assert float((weight.abs().sum(axes) * 128 + bias.abs()).max()) < 2**24


@settings(deadline=None, max_examples=200)
@given(st.floats(2.0**-23, 2.0**13))
def test_rescaling_is_close_to_its_ratio(ratio: float) -> None:
    made = rescale(np.array([ratio]), -1, 1)
    assert 0 < made.multiplier[0] < 1 << 15
    assert abs(made.multiplier[0] * 2.0 ** -int(made.shift[0]) / ratio - 1) < 2.0**-14


def test_fitted_tables_shorten_what_they_were_fitted_to(program: EntropyProgram) -> None:
    backend = NumpyBackend(program)
    torch.manual_seed(1)
    coder = LatentCoder(LAYOUT, model_tables(FactorisedPrior(6)), backend)
    y, z = latents(40, loud=2.0, count=12)
    pictures = [(y[i : i + 1].numpy(), z[i : i + 1].numpy(), 1.0) for i in range(12)]
    fitted = LatentCoder(LAYOUT, fit_tables(coder, pictures[:8]), backend)
    for table in (*fitted.tables.hyper, *fitted.tables.latent):
        assert table.counts.sum() == 1 << 16
        assert table.counts.min() >= 1

    def bits(chosen: LatentCoder, part: int) -> float:
        return sum(chosen.encode(a, b, b"").ideal_bits[part] for a, b, _ in pictures[8:])

    assert bits(fitted, 0) < bits(coder, 0), "hyper-latent, on pictures not fitted to"
    assert bits(fitted, 2) < bits(coder, 2), "latent, on pictures not fitted to"


def test_a_heavier_picture_pulls_the_tables_to_itself(program: EntropyProgram) -> None:
    backend = NumpyBackend(program)
    coder = LatentCoder(LAYOUT, model_tables(FactorisedPrior(6)), backend)
    y, z = latents(50, count=2)
    z[0], z[1] = 0, 4
    pictures = [(y[i : i + 1].numpy(), z[i : i + 1].numpy()) for i in range(2)]
    bits = []
    for weights in ((9.0, 1.0), (1.0, 9.0)):
        fitted = fit_tables(coder, [(*p, w) for p, w in zip(pictures, weights, strict=True)])
        bits.append(LatentCoder(LAYOUT, fitted, backend).encode(*pictures[0], b"").ideal_bits[0])
    assert bits[0] < bits[1]
