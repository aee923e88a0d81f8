"""Samplers behind one function: the paper's spaced DDPM, and what diffusers offers.

diffusers' schedulers choose timesteps of their own, each in its own way: some pass the start by, some stop above the
clean latent, some do both where the step count does not divide the number of timesteps. So every scheduler is built
on the *spaced chain*, the diffusion whose only timesteps are those that are visited (Nichol and Dhariwal 2021,
section 4). All of them then go through the timesteps they are given and end at the clean latent, from any start.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from receiver.noise import NoiseSource, stack_noise
from receiver.sampling import PURE_NOISE, SAMPLERS, check_sampling, evaluations
from shared.codec.nets.ddpm import NoiseModel, SpacedDdpm

__all__ = ["SAMPLERS", "check_sampling", "evaluations", "sample"]

Estimate = Callable[[Tensor, int], Tensor]
"""``estimate(x, place)``: the noise in x at a kept timestep, by its place in `SpacedDdpm.timesteps`."""
Draw = Callable[[int], Tensor]
"""``draw(step)``: noise like the latent for a step, counted from the noisy end."""


class Solver(Protocol):
    """A sampler on a chain."""

    def __call__(self, chain: SpacedDdpm, estimate: Estimate, latent: Tensor, draw: Draw) -> Tensor:
        """Take a latent from the chain's largest timestep to the clean one, ``B x C x h x w``."""


@torch.no_grad()
def sample(
    name: str,
    model: NoiseModel,
    content: Tensor,
    *,
    steps: int,
    start: int,
    noises: Sequence[NoiseSource],
    device: torch.device | str,
) -> Tensor:
    """Sample clean latents of a batch of pictures.

    The latent is float32 all the way, whatever the model computes in. A picture's result depends on its own content and
    noise alone, as far as the model's does.

    Args:
        name: one of `SAMPLERS`.
        model: noise estimator.
        content: content variables, normalised, ``B x C x h x w``.
        steps: 0, which returns the content as it is, to ``start + 1``; see `evaluations` for what a step costs.
        start: 999 to start from pure noise, as the paper does; below, from the content noised to this timestep, the
            relay start (RDEIC, Li et al. 2024).
        noises: one for each picture; see ``NoiseSource`` for which draw is used where.
        device: where the latent is kept and the model is called.

    Returns:
        Normalised latents ``B x C x h x w``, float32 on ``device``, not clipped.

    Raises:
        UsageError: if there is no such sampler, or it cannot take these steps from this start.
        ValueError: if there are not as many noises as pictures.
    """
    check_sampling(name, steps, start)
    if len(noises) != len(content):
        raise ValueError(f"{len(content)} pictures and {len(noises)} noises; give one for each")
    content = content.to(device, torch.float32)
    if steps == 0:
        return content
    chain = SpacedDdpm(steps, start, trailing=SAMPLERS[name].trailing)

    def draw(index: int) -> Tensor:
        return stack_noise(noises, index, tuple(content.shape[1:])).to(device)

    def estimate(x: Tensor, place: int) -> Tensor:
        t = torch.full((len(x),), chain.timesteps[place], dtype=torch.int64, device=device)
        return model(x, t, content).float()

    latent = draw(0)
    if start < PURE_NOISE:
        latent = chain.add_noise(content, steps - 1, latent)
    # The clean latent has no noise of its own: what the last step would draw is not used.
    return _SOLVERS[name](
        chain, estimate, latent, lambda step: draw(step + 1) if step < steps - 1 else torch.zeros_like(latent)
    )


def _ancestral(chain: SpacedDdpm, estimate: Estimate, latent: Tensor, draw: Draw) -> Tensor:
    """The paper's own sampler, on any grid."""
    for step, place in enumerate(reversed(range(len(chain.timesteps)))):
        latent = chain.step(latent, place, estimate(latent, place), draw(step))
    return latent


class _Scheduled:
    """A scheduler of diffusers; the object keeps no state of a run.

    Args:
        scheduler: its class.
        random: whether its steps take noise.
        scaled: whether its latent is divided by the square root of the signal's share, so that noise is added to a
            signal that stays the same (Karras et al. 2022); it scales the model's input back itself.
        options: for the class.
    """

    def __init__(
        self, scheduler: Callable[..., Any], *, random: bool = False, scaled: bool = False, **options: Any
    ) -> None:
        self._scheduler, self._random, self._scaled, self._options = scheduler, random, scaled, options

    def __call__(self, chain: SpacedDdpm, estimate: Estimate, latent: Tensor, draw: Draw) -> Tensor:
        scheduler = _build(self._scheduler, chain, timestep_spacing="trailing", **self._options)
        # With as many steps as the chain has timesteps, "trailing" is all of them, the largest first.
        scheduler.set_timesteps(len(chain.timesteps))
        x = latent / float(chain.alphas_cumprod[-1]) ** 0.5 if self._scaled else latent
        for step, place in enumerate(scheduler.timesteps):
            noise = {"variance_noise": draw(step)} if self._random else {}
            guess = estimate(scheduler.scale_model_input(x, place), int(place))
            x = scheduler.step(guess, place, x, return_dict=False, **noise)[0]
        return x


def _deis(chain: SpacedDdpm, estimate: Estimate, latent: Tensor, draw: Draw) -> Tensor:
    """DEIS, which integrates over the logarithm of the noise and so cannot reach the clean latent.

    It goes down to the chain's smallest timestep, from where the last step is what all others take there.
    """
    x, steps = latent, len(chain.timesteps)
    if steps > 1:
        # Its "linspace" leaves out the smallest timestep and ends there. Its third order loses more to rounding than it
        # gains: the coefficients are differences of nearly equal float32 numbers.
        options = {"timestep_spacing": "linspace", "solver_order": 2, "lower_order_final": False}
        scheduler = _build(DEISMultistepScheduler, chain, **options)
        scheduler.set_timesteps(steps - 1)
        for place in scheduler.timesteps:
            x = scheduler.step(estimate(x, int(place)), place, x, return_dict=False)[0]
    # Down from place 0 the posterior is the estimated clean latent itself.
    return chain.step(x, 0, estimate(x, 0), x)


def _build(scheduler: Callable[..., Any], chain: SpacedDdpm, **options: Any) -> Any:
    """Make a scheduler whose training timesteps are the chain's; a new one for each run, because they keep state."""
    betas = chain.betas.tolist()
    return scheduler(trained_betas=betas, num_train_timesteps=len(betas), prediction_type="epsilon", **options)


_SOLVERS: Mapping[str, Solver] = {
    "ddpm": _ancestral,
    "ddim": _Scheduled(DDIMScheduler, clip_sample=False, set_alpha_to_one=True),
    "dpm++": _Scheduled(
        DPMSolverMultistepScheduler, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    ),
    "dpm++sde": _Scheduled(
        DPMSolverMultistepScheduler,
        random=True,
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
    ),
    "unipc": _Scheduled(UniPCMultistepScheduler, solver_order=2, final_sigmas_type="zero"),
    "deis": _deis,
    "plms": _Scheduled(PNDMScheduler, skip_prk_steps=True, set_alpha_to_one=True),
    "heun": _Scheduled(HeunDiscreteScheduler, scaled=True),
    "euler": _Scheduled(EulerDiscreteScheduler, scaled=True),
    # Karras' ancestral step is the paper's in another scaling. diffusers' own draws from a generator of
    # torch, which no picture's noise can be handed to.
    "euler-a": _ancestral,
}
assert _SOLVERS.keys() == SAMPLERS.keys()
assert all(
    SAMPLERS[name].random == solver._random for name, solver in _SOLVERS.items() if isinstance(solver, _Scheduled)
)
