"""The samplers by name: what there is, what each costs, and which settings it takes. Loads neither torch nor diffusers.

Each visits ``steps`` timesteps, the start first. The paper's sampler visits the paper's grid, evenly spaced from the
start down to 0. All others visit the *trailing* grid (Lin et al. 2024), which does not spend its last evaluation where
hardly any noise is left: the fewer the steps, the more that gains, and solvers of higher order need it, for the paper's
grid has them extrapolate over a last step that is the longest of all in the noise's logarithm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from shared.errors import UsageError

PURE_NOISE = 999
"""The start at which nothing of the content variable is left; every earlier one is a relay start."""
DEFAULT_SAMPLER = "ddpm"
"""Of a bundle that names none."""


@dataclass(frozen=True)
class SamplerInfo:
    """What is to be known about a sampler before it runs.

    Attributes:
        summary: for people, in a few words.
        random: whether its steps draw noise; the start always does.
        trailing: whether it visits the trailing grid and not the paper's.
        same_as: the sampler that it agrees with up to rounding; empty if with none.
        per_step: evaluations of the network for each step but the last, which takes one.
        once: evaluations on top where there is more than one step.
        first_order: the sampler that it agrees with as long as it knows but one estimate before the last, which is to
            say at two steps; empty if with none.
    """

    summary: str
    random: bool = False
    trailing: bool = True
    same_as: str = ""
    per_step: int = 1
    once: int = 0
    first_order: str = ""


SAMPLERS: Mapping[str, SamplerInfo] = MappingProxyType(
    {
        "ddpm": SamplerInfo("ancestral, as in the paper (Ho et al. 2020)", random=True, trailing=False),
        "ddim": SamplerInfo("deterministic, first order (Song et al. 2021)"),
        "euler": SamplerInfo("first order (Karras et al. 2022)", same_as="ddim"),
        "euler-a": SamplerInfo("ancestral, as ddpm on the other grid (Karras et al. 2022)", random=True),
        "dpm++": SamplerInfo("DPM-Solver++(2M), second order (Lu et al. 2022)", first_order="ddim"),
        "dpm++sde": SamplerInfo(
            "DPM-Solver++(2M) of the stochastic equation (Lu et al. 2022)", random=True, first_order="euler-a"
        ),
        "unipc": SamplerInfo("predictor and corrector, second order (Zhao et al. 2023)", first_order="ddim"),
        "deis": SamplerInfo("exponential integrator, second order (Zhang and Chen 2023)", first_order="ddim"),
        "plms": SamplerInfo("linear multistep, fourth order (Liu et al. 2022)", once=1),
        "heun": SamplerInfo("second order, two evaluations a step (Karras et al. 2022)", per_step=2),
    }
)
"""Every sampler, the paper's first."""


def evaluations(name: str, steps: int) -> int:
    """Return how often a sampler evaluates the network, which is what decoding time is made of.

    Raises:
        UsageError: if there is no such sampler.
    """
    info = sampler_info(name)
    return info.per_step * (steps - 1) + 1 + (info.once if steps > 1 else 0) if steps else 0


def equivalent(name: str, steps: int) -> str:
    """Return the sampler that gives the same picture up to rounding and needs not be measured twice.

    One step is the estimate of the clean latent for all of them.

    Returns:
        The first of them in `SAMPLERS`, often the sampler itself.

    Raises:
        UsageError: if there is no such sampler.
    """
    info = sampler_info(name)
    if steps <= 1:
        return next(iter(SAMPLERS))
    return info.same_as or (info.first_order if steps == 2 else "") or name


def sampler_info(name: str) -> SamplerInfo:
    """Look a sampler up.

    Raises:
        UsageError: if there is no such sampler.
    """
    try:
        return SAMPLERS[name]
    except KeyError:
        raise UsageError(f"there is no sampler {name}; give one of {', '.join(SAMPLERS)}") from None


def check_sampling(name: str, steps: int, start: int) -> None:
    """Check the settings of a decode.

    Args:
        name: of the sampler.
        steps: 0 for the preview, which runs no sampler, to ``start + 1``.
        start: timestep that diffusion starts from, 0 to 999 (pure noise).

    Raises:
        UsageError: naming the one that is wrong.
    """
    sampler_info(name)
    if not 0 <= start <= PURE_NOISE:
        raise UsageError(f"diffusion cannot start at timestep {start}; give 0 to {PURE_NOISE} (pure noise)")
    if not 0 <= steps <= start + 1:
        raise UsageError(f"{steps} diffusion steps from timestep {start}: give 0 (preview) to {start + 1}")
