"""Settings of the paper's training: which modules, which of its losses.

The defaults are the paper's (Li et al., IEEE TCSVT 2025, section IV-A, and the official code); every ablation is one or
two settings away from them.
"""

from dataclasses import dataclass, field
from typing import Literal

from shared.codec.nets.ddpm import TRAINING_STEPS
from shared.codec.nets.lfgcm import LfgcmConfig


@dataclass(frozen=True)
class ModelSettings:
    """The modules.

    Attributes:
        stable_diffusion: folder in the diffusers layout (``vae/``, ``unet/``, ``scheduler/``, and for the prompt
            ``tokenizer/`` and ``text_encoder/``) or hub id; it must predict noise on Stable Diffusion's schedule, as
            2.1-base does.
        empty_prompt: safetensors file with the embedding of the empty prompt as ``context``; where it is not set, the
            folder's ``empty_prompt.safetensors``, and without that the folder's text encoder, run once.
        control_ratio: width of the control relative to the UNet: 0.2 in the paper; 0.5 and 1 are its ablations.
        head_channels: channels of one attention head of the control.
        recompute: whether the activations of UNet and control are computed again in the backward pass and not kept.
        lfgcm: the compression module, with the ablations of fusion and guidance.
    """

    stable_diffusion: str = "stabilityai/stable-diffusion-2-1-base"
    empty_prompt: str = ""
    control_ratio: float = 0.2
    head_channels: int = 16
    recompute: bool = False
    lfgcm: LfgcmConfig = field(default_factory=LfgcmConfig)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: if one is out of range.
        """
        if not 0 < self.control_ratio <= 1:
            raise ValueError(f"control_ratio is {self.control_ratio}; give more than 0 and at most 1")
        if self.head_channels < 1:
            raise ValueError(f"head_channels is {self.head_channels}; give 1 or more")


@dataclass(frozen=True)
class LossSettings:
    """``denoising * D + rate * bpp + alignment * MSE(content variable, latent)``; the objective says what D is.

    Attributes:
        objective: ``"noise"``: the paper's error of the noise estimate, timesteps uniform in 0 to 999. ``"relay"``:
            error of the clean latent estimated from states between noised latent and noised content variable, timesteps
            uniform in 0 to ``start`` (RDEIC's independent training). ``"unrolled"``: errors of the picture after the
            whole sampler of ``steps`` steps from ``start`` (RDEIC's fixed-step fine-tuning).
        denoising: weight of D; the paper's 1.
        rate: lambda, weight of the rate in bit per pixel; the paper's 1, 2, 4, 8 or 16, more is fewer bytes.
        alignment: weight of the alignment; the paper's 2, and 0 in the ablation.
        perception: weight of ST-LPIPS (Alex) within D of ``"unrolled"``, beside the squared error of the picture.
        start: timestep that relay and unrolled sampler start from.
        steps: steps of the unrolled sampler; a step picks one of these counts at random.
        sample_steps: steps of the sampler that paints sample pictures.
    """

    objective: Literal["noise", "relay", "unrolled"] = "noise"
    denoising: float = 1.0
    rate: float = 1.0
    alignment: float = 2.0
    perception: float = 0.5
    start: int = 299
    steps: tuple[int, ...] = (2,)
    sample_steps: int = 20

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: if one is out of range.
        """
        for name in ("denoising", "rate", "alignment", "perception"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 or more")
        if not 0 < self.start < TRAINING_STEPS:
            raise ValueError(f"start is {self.start}; give a timestep from 1 to {TRAINING_STEPS - 1}")
        if not self.steps or not all(1 <= count <= self.start + 1 for count in (*self.steps, self.sample_steps)):
            raise ValueError(
                f"steps is {list(self.steps)} and sample_steps {self.sample_steps}; "
                f"give step counts from 1 to start + 1 = {self.start + 1}"
            )


@dataclass(frozen=True)
class PaperSettings:
    """All settings of stage ``paper_codec``: tables ``[model]`` and ``[loss]``."""

    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
