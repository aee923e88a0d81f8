"""The samplers by name: what there is, what each costs, and which settings it takes. Loads neither torch nor diffusers.

All of them visit the paper's grid of timesteps: ``steps`` of them, evenly spaced from the start down to 0 and rounded.
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
        same_as: the sampler that it agrees with up to rounding on the grid that all share; empty if with none.
        per_step: evaluations of the network for each step but the last, which takes one.
        once: evaluations on top where there is more than one step.
    """

    summary: str
    random: bool = False
    same_as: str = ""
    per_step: int = 1
    once: int = 0


SAMPLERS: Mapping[str, SamplerInfo] = MappingProxyType(
    {
        "ddpm": SamplerInfo("ancestral, as in the paper (Ho et al. 2020)", random=True),
        "ddim": SamplerInfo("deterministic, first order (Song et al. 2021)"),
        "dpm++": SamplerInfo("DPM-Solver++(2M), second order (Lu et al. 2022)"),
        "dpm++sde": SamplerInfo("DPM-Solver++(2M) of the stochastic equation (Lu et al. 2022)", random=True),
        "unipc": SamplerInfo("predictor and corrector, second order (Zhao et al. 2023)"),
        "deis": SamplerInfo("exponential integrator, third order (Zhang and Chen 2023)"),
        "plms": SamplerInfo("linear multistep, fourth order (Liu et al. 2022)", once=1),
        "heun": SamplerInfo("second order, two evaluations a step (Karras et al. 2022)", per_step=2),
        "euler": SamplerInfo("first order (Karras et al. 2022)", same_as="ddim"),
        "euler-a": SamplerInfo("ancestral, first order (Karras et al. 2022)", random=True, same_as="ddpm"),
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
