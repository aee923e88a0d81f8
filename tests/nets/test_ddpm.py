import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.codec.nets.ddpm import SpacedDdpm
from tests.nets.golden_vectors import Golden
from training.official import spaced_ddpm


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_golden_schedule(golden: Golden, steps: int) -> None:
    expected = golden.json("sampler/schedule")["steps"][str(steps)]
    ddpm = spaced_ddpm(steps)
    assert list(ddpm.timesteps) == expected["timesteps"]
    np.testing.assert_allclose(ddpm.betas, expected["betas"], rtol=1e-12)
    np.testing.assert_allclose(ddpm.alphas_cumprod, expected["alphas_cumprod"], rtol=1e-12)
    np.testing.assert_allclose(ddpm.posterior_variance, expected["posterior_variance"], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_golden_trajectories(golden: Golden, steps: int) -> None:
    tensors = golden.tensors("sampler/trajectories")

    def estimate(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        return 0.6 * x + 0.2 * torch.tanh(content) * t[:, None, None, None] / 1000

    content, x_t, noises, x_0 = (tensors[f"{name}_{steps}"] for name in ("content", "x_T", "noise", "x_0"))
    torch.testing.assert_close(spaced_ddpm(steps).sample(estimate, content, x_t, noises), x_0, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.sampled_from([999, 299, 60]))
def test_a_perfect_estimate_leads_back_to_the_clean_latent(steps: int, largest: int) -> None:
    ddpm = SpacedDdpm(steps, largest)
    assert ddpm.timesteps[-1] == largest
    assert list(ddpm.timesteps) == sorted(set(ddpm.timesteps))
    assert len(ddpm.timesteps) == steps
    generator = torch.Generator().manual_seed(steps)
    clean = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    share = dict(zip(ddpm.timesteps, ddpm.alphas_cumprod, strict=True))

    def estimate(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        a = float(share[int(t[0])])
        return x.sub(content, alpha=a**0.5).div((1 - a) ** 0.5)

    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    start = ddpm.add_noise(clean, steps - 1, noise)
    torch.testing.assert_close(estimate(start, torch.tensor([largest]), clean), noise)
    torch.testing.assert_close(ddpm.sample(estimate, clean, start), clean, rtol=0, atol=1e-6)


def test_sampling_repeats_with_the_same_draws_and_ignores_the_last() -> None:
    ddpm = SpacedDdpm(4)
    torch.manual_seed(5)
    start, noises = torch.randn(1, 4, 2, 2), torch.randn(4, 1, 4, 2, 2)

    def estimate(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        return 0.5 * x + content

    content = torch.zeros(1, 4, 2, 2)
    first = ddpm.sample(estimate, content, start, noises)
    assert torch.equal(first, ddpm.sample(estimate, content, start, noises[:3]))
    assert not torch.equal(first, ddpm.sample(estimate, content, start, noises.flip(0)))
    torch.manual_seed(6)
    drawn = ddpm.sample(estimate, content, start)
    torch.manual_seed(6)
    assert torch.equal(drawn, ddpm.sample(estimate, content, start))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="give 1 to 1000"):
        SpacedDdpm(steps)
