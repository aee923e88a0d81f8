"""The losses' mathematics, against an estimator that knows the truth."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shared.codec.nets.ddpm import NoiseModel, SpacedDdpm, training_alphas_cumprod
from training.models import diffuse
from training.paper.objectives import (
    bits_per_pixel,
    noise_error,
    relay_error,
    relay_sample,
    relay_state,
    residual_weight,
)


def latents(count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    z0 = torch.randn(count, 4, 6, 5)
    return z0, z0 + 0.4 * torch.randn_like(z0), torch.randn_like(z0)


def oracle(z0: Tensor) -> NoiseModel:
    """Estimate that leads from any noisy latent to the clean one."""
    shares = torch.as_tensor(training_alphas_cumprod()).float()

    def estimate(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        share = shares[t][:, None, None, None]
        return (x - share.sqrt() * z0) / (1 - share).sqrt()

    return estimate


def test_the_rate_counts_all_symbols_of_all_pictures() -> None:
    likelihoods = (torch.full((2, 3, 4, 4), 0.25), torch.full((2, 1, 1, 1), 0.5))
    assert float(bits_per_pixel(likelihoods, torch.zeros(2, 3, 64, 64))) == pytest.approx((96 * 2 + 2) / (2 * 64 * 64))


def test_the_constants_are_those_published() -> None:
    # RDEIC, T = 300: abar 0.5922, residual weight 0.8299.
    assert float(training_alphas_cumprod()[299]) == pytest.approx(0.5922, abs=1e-4)
    assert residual_weight(299) == pytest.approx(0.8299, abs=1e-4)


@given(start=st.integers(1, 999))
def test_the_relay_starts_at_the_noised_content_variable(start: int) -> None:
    z0, zc, noise = latents()
    t = torch.full((2,), start)
    torch.testing.assert_close(relay_state(z0, zc, t, noise, start), diffuse(zc, t, noise), rtol=1e-4, atol=1e-5)


@given(start=st.integers(1, 999), data=st.data())
def test_the_truth_has_no_error(start: int, data: st.DataObject) -> None:
    z0, zc, noise = latents()
    t = torch.tensor(data.draw(st.lists(st.integers(0, start), min_size=2, max_size=2)))
    assert float(noise_error(oracle(z0), z0, zc, t, noise)) < 1e-4
    assert float(relay_error(oracle(z0), z0, zc, t, noise, start)) < 1e-4


def test_errors_are_mean_squares() -> None:
    z0, zc, noise = latents()
    t = torch.tensor([100, 299])

    def blind(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        return torch.zeros_like(x)

    assert float(noise_error(blind, z0, zc, t, noise)) == pytest.approx(float(noise.square().mean()), rel=1e-5)
    share = torch.as_tensor(training_alphas_cumprod()).float()[t][:, None, None, None]
    expected = ((1 - share) / share * (noise + (zc - z0) / residual_weight(299)).square()).mean()
    assert float(relay_error(blind, z0, zc, t, noise, 299)) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_whole_relay_ends_at_the_clean_latent_and_has_gradients(steps: int) -> None:
    z0, zc, _ = latents()
    asked: list[int] = []

    def estimate(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        asked.append(int(t[0]))
        return oracle(z0)(x, t, content)

    torch.testing.assert_close(relay_sample(estimate, zc, steps, 299), z0, rtol=1e-3, atol=1e-3)
    assert asked == sorted(SpacedDdpm(steps, 299).timesteps, reverse=True)
    weight = torch.ones((), requires_grad=True)
    picture = relay_sample(lambda x, t, c: weight * x, zc, steps, 299)
    (gradient,) = torch.autograd.grad(picture.square().mean(), weight)
    assert float(gradient.abs()) > 0
