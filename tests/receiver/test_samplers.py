import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receiver.noise import NoiseSource, PictureNoise, stack_noise
from receiver.samplers import SAMPLERS, check_sampling, evaluations, sample
from receiver.sampling import PURE_NOISE, equivalent
from shared.codec.nets.ddpm import TRAINING_STEPS, NoiseModel, SpacedDdpm, training_alphas_cumprod
from shared.errors import UsageError
from tests.nets.golden_vectors import Golden
from tests.shared_folder import shared_folder

SHAPE = (4, 8, 8)
DETERMINISTIC = [name for name, info in SAMPLERS.items() if not info.random]
STARTS = [PURE_NOISE, 499, 199]
SHARES = torch.from_numpy(training_alphas_cumprod())

MEAN, DEVIATION = 0.7, 0.5
"""Of the data that `gaussian_model` knows, every position for itself."""


def gaussian_model(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
    """Estimate the noise as nobody can better, for data that are normal."""
    share = SHARES[t][:, None, None, None]
    variance = share * DEVIATION**2 + 1 - share
    return ((1 - share).sqrt() * (x.double() - share.sqrt() * MEAN) / variance).float()


def any_model(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
    """Estimate something that depends on all it gets, position by position."""
    return 0.6 * x + 0.2 * torch.tanh(content) * t[:, None, None, None] / 1000


def run(
    name: str,
    model: NoiseModel = any_model,
    *,
    steps: int = 4,
    start: int = PURE_NOISE,
    noises: Sequence[NoiseSource] = (PictureNoise(1), PictureNoise(2)),
    content: Tensor | None = None,
) -> Tensor:
    if content is None:
        content = torch.full((len(noises), *SHAPE), MEAN)
    return sample(name, model, content, steps=steps, start=start, noises=noises, device="cpu")


def start_latent(start: int, content: Tensor, noises: Sequence[NoiseSource]) -> Tensor:
    noise, share = stack_noise(noises, 0, tuple(content.shape[1:])), float(SHARES[start])
    return noise if start == PURE_NOISE else content * share**0.5 + noise * (1 - share) ** 0.5


class Recorded:
    """Noise that was recorded elsewhere."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self._draws = draws

    def draw(self, index: int, shape: tuple[int, ...]) -> Tensor:
        assert self._draws[index].shape == shape
        return self._draws[index]


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_golden_trajectories_of_the_paper(steps: int) -> None:
    tensors = Golden(shared_folder("reference/golden")).tensors("sampler/trajectories")
    content, x_t, noises, x_0 = (tensors[f"{name}_{steps}"] for name in ("content", "x_T", "noise", "x_0"))
    recorded = [Recorded([x_t[row], *noises[:, row]]) for row in range(len(content))]
    found = run("ddpm", steps=steps, noises=recorded, content=content)
    torch.testing.assert_close(found, x_0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("start", [*STARTS, 0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_timesteps_are_those_of_the_grid_and_evaluations_are_what_is_said(name: str, start: int) -> None:
    for steps in (1, 2, 3, 7, 20):
        if steps > start + 1:
            continue
        inputs: list[tuple[int, Tensor]] = []

        def model(x: Tensor, t: Tensor, content: Tensor, inputs: list[tuple[int, Tensor]] = inputs) -> Tensor:
            assert x.dtype == torch.float32
            assert t.dtype == torch.int64
            assert len(set(t.tolist())) == 1
            inputs.append((int(t[0]), x))
            return any_model(x, t, content)

        run(name, model, steps=steps, start=start)
        visited = [timestep for timestep, _ in inputs]
        assert len(visited) == evaluations(name, steps)
        assert sorted(set(visited)) == list(SpacedDdpm(steps, start, trailing=name != "ddpm").timesteps)
        assert visited == sorted(visited, reverse=True)
        assert visited[0] == start
        # All see the same start, whatever scale they work in.
        expected = start_latent(start, torch.full((2, *SHAPE), MEAN), (PictureNoise(1), PictureNoise(2)))
        torch.testing.assert_close(inputs[0][1], expected, rtol=1e-5, atol=1e-5)


@given(st.integers(0, PURE_NOISE), st.integers(1, 1000))
def test_the_trailing_grid_has_equal_parts(start: int, steps: int) -> None:
    steps = min(steps, start + 1)
    kept = SpacedDdpm(steps, start, trailing=True).timesteps
    assert len(kept) == steps
    assert kept[-1] == start
    assert kept[0] >= 0
    parts = np.diff([-1, *kept])
    assert parts.min() >= 1
    assert parts.max() - parts.min() <= 1


def test_counts_of_evaluations() -> None:
    assert [evaluations(name, 20) for name in ("ddpm", "dpm++", "plms", "heun")] == [20, 20, 21, 39]
    assert {evaluations(name, 1) for name in SAMPLERS} == {1}
    assert {evaluations(name, 0) for name in SAMPLERS} == {0}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_converge_to_the_solution_of_the_flow(name: str, start: int) -> None:
    noises = (PictureNoise(1), PictureNoise(2))
    share = float(SHARES[start])
    x_t = start_latent(start, torch.full((2, *SHAPE), MEAN), noises)
    # The probability flow keeps every position at its own quantile.
    marginal = (share * DEVIATION**2 + 1 - share) ** 0.5
    exact = MEAN + DEVIATION * (x_t - share**0.5 * MEAN) / marginal
    errors = [
        float((run(name, gaussian_model, steps=n, start=start, noises=noises) - exact).abs().max()) for n in (1, 8, 160)
    ]
    assert errors[0] > 0.3
    assert errors[1] < 0.95 * errors[0]
    first_order = name == "ddim" or SAMPLERS[name].same_as == "ddim"
    assert errors[2] < (0.07 if first_order else 0.04)


def posterior_moments(steps: int, start: int) -> tuple[float, float]:
    """Mean and deviation of what DDPM makes with `gaussian_model` of content at `MEAN`: its steps are linear."""
    chain = SpacedDdpm(steps, start)
    share = float(SHARES[start])
    relay = start < PURE_NOISE
    mean, variance = (share**0.5 * MEAN, 1 - share) if relay else (0.0, 1.0)

    def step(x: float, place: int) -> float:
        point = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
        at = torch.tensor([chain.timesteps[place]])
        a = float(SHARES[at])
        guess = (1 - a) ** 0.5 * (x - a**0.5 * MEAN) / (a * DEVIATION**2 + 1 - a)
        return float(chain.step(point, place, torch.full_like(point, guess), torch.zeros_like(point)))

    for place in reversed(range(steps)):
        slope = step(1.0, place) - step(0.0, place)
        mean = step(0.0, place) + slope * mean
        variance = slope**2 * variance + (float(chain.posterior_variance[place]) if place else 0.0)
    return mean, variance**0.5


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("steps", [2, 10, 100])
def test_ddpm_has_the_right_mean_and_deviation(steps: int, start: int) -> None:
    content = torch.full((2, 4, 64, 64), MEAN)
    found = run("ddpm", gaussian_model, steps=steps, start=start, content=content)
    mean, deviation = posterior_moments(steps, start)
    five = 5 * deviation / math.sqrt(found.numel())
    assert abs(float(found.mean()) - mean) < five
    assert abs(float(found.std()) - deviation) < five


@pytest.mark.parametrize("name", ["ddpm", "dpm++sde", "euler-a"])
def test_random_samplers_come_to_the_datas_distribution_from_pure_noise(name: str) -> None:
    found = run(name, gaussian_model, steps=250, content=torch.zeros(2, 4, 32, 32))
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.04)
    assert float(found.std()) == pytest.approx(DEVIATION, abs=0.04)


@pytest.mark.parametrize("start", [PURE_NOISE, 299])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_comes_out_the_same_alone_in_a_batch_and_in_any_order(name: str, start: int) -> None:
    contents = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    alone = [
        run(name, steps=5, start=start, noises=[PictureNoise(seed)], content=content[None])[0]
        for seed, content in enumerate(contents)
    ]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2]):
        # Nothing may come from torch's own generator.
        torch.manual_seed(len(order))
        noises, content = [PictureNoise(seed) for seed in order], torch.stack([contents[seed] for seed in order])
        batch = run(name, steps=5, start=start, noises=noises, content=content)
        assert all(torch.equal(row, alone[seed]) for row, seed in zip(batch, order, strict=True))


@pytest.mark.parametrize("name", SAMPLERS)
def test_torchs_generator_is_left_alone_and_steps_draw_what_they_say(name: str) -> None:
    asked: list[int] = []

    class Watched(PictureNoise):
        def draw(self, index: int, shape: tuple[int, ...]) -> Tensor:
            asked.append(index)
            return super().draw(index, shape)

    before = torch.get_rng_state()
    run(name, steps=4, noises=[Watched(1)])
    assert torch.equal(torch.get_rng_state(), before)
    # The last step adds no noise.
    assert asked == ([0, 1, 2, 3] if SAMPLERS[name].random else [0])


@settings(max_examples=100)
@given(st.sampled_from(list(SAMPLERS)), st.integers(0, PURE_NOISE), st.integers(1, 30))
def test_samplers_that_are_said_to_agree_do_and_no_others(name: str, start: int, steps: int) -> None:
    steps = min(steps, start + 1)
    twin = equivalent(name, steps)
    found, other = run(name, steps=steps, start=start), run(twin, steps=steps, start=start)
    torch.testing.assert_close(found, other, rtol=1e-3, atol=1e-3)
    assert evaluations(name, steps) == evaluations(twin, steps)
    assert equivalent(twin, steps) == twin


@pytest.mark.parametrize("steps", [2, 5])
def test_samplers_that_are_not_said_to_agree_differ(steps: int) -> None:
    apart = sorted({equivalent(name, steps) for name in SAMPLERS})
    found = [run(name, steps=steps) for name in apart]
    assert len(apart) == (5 if steps == 2 else 9)
    for number, one in enumerate(found):
        assert all(not torch.allclose(one, other, rtol=0, atol=1e-2) for other in found[:number])


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_the_ancestral_sampler_is_that_of_diffusers_too(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = SpacedDdpm(steps, trailing=True)
    noises = [PictureNoise(1), PictureNoise(2)]
    content = torch.full((2, *SHAPE), MEAN)
    scheduler: Any = cast(Any, EulerAncestralDiscreteScheduler)(
        steps, trained_betas=chain.betas.tolist(), timestep_spacing="trailing", prediction_type="epsilon"
    )
    scheduler.set_timesteps(steps)
    drawn: list[Tensor] = [stack_noise(noises, index, SHAPE) for index in range(1, steps + 1)]
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor", lambda *_, **__: drawn.pop(0)
    )
    x = stack_noise(noises, 0, SHAPE) / float(chain.alphas_cumprod[-1]) ** 0.5
    for place in scheduler.timesteps:
        t = torch.full((2,), chain.timesteps[int(place)])
        guess = any_model(scheduler.scale_model_input(x, place), t, content)
        x = scheduler.step(guess, place, x, return_dict=False)[0]
    torch.testing.assert_close(run("euler-a", steps=steps, noises=noises), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_perfect_estimate_leads_to_the_clean_latent_in_any_number_of_steps(name: str) -> None:
    def knowing(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        share = SHARES[t][:, None, None, None]
        return ((x.double() - share.sqrt() * content.double()) / (1 - share).sqrt()).float()

    content = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(3))
    for steps, start in [(1, 999), (2, 999), (15, 999), (1, 199), (6, 199), (200, 199), (1, 0), (2, 1)]:
        found = run(name, knowing, steps=steps, start=start, content=content)
        torch.testing.assert_close(found, content, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_latents_stay_float32_whatever_the_model_computes_in(name: str) -> None:
    def half(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        assert x.dtype == content.dtype == torch.float32
        return any_model(x, t, content).bfloat16()

    content = torch.full((2, *SHAPE), MEAN, dtype=torch.bfloat16)
    found = run(name, half, steps=3, content=content)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_steps_are_the_content_itself(name: str) -> None:
    content = torch.full((1, *SHAPE), MEAN)
    assert torch.equal(run(name, steps=0, noises=[PictureNoise(1)], content=content), content)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ddmp", 4, 999), f"there is no sampler ddmp; give one of {', '.join(SAMPLERS)}"),
        (("ddpm", 201, 199), r"201 diffusion steps from timestep 199: give 0 \(preview\) to 200"),
        (("unipc", -1, 999), r"-1 diffusion steps from timestep 999: give 0 \(preview\) to 1000"),
        (("ddim", 1, 1000), r"diffusion cannot start at timestep 1000; give 0 to 999"),
        (("ddim", 1, -1), r"diffusion cannot start at timestep -1; give 0 to 999"),
    ],
)
def test_wrong_settings_are_one_line(arguments: tuple[str, int, int], message: str) -> None:
    name, steps, start = arguments
    for refuse in (
        lambda: check_sampling(name, steps, start),
        lambda: run(name, steps=steps, start=start),
    ):
        check: Callable[[], object] = refuse
        with pytest.raises(UsageError, match=message.replace("+", r"\+")) as caught:
            check()
        assert "\n" not in str(caught.value)


def test_every_step_count_and_start_in_range_is_taken() -> None:
    for name in SAMPLERS:
        check_sampling(name, 1000, 999)
        check_sampling(name, 0, 0)
        check_sampling(name, 1, 0)


def test_pictures_without_noise_are_refused() -> None:
    with pytest.raises(ValueError, match="2 pictures and 1 noises"):
        run("ddpm", noises=[PictureNoise(1)], content=torch.zeros((2, *SHAPE)))


def test_the_last_timestep_is_the_diffusions() -> None:
    assert TRAINING_STEPS - 1 == PURE_NOISE
    assert np.isclose(float(SHARES[PURE_NOISE]), 0.0047, atol=1e-4)
