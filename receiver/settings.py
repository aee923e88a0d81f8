"""How a decoder decodes: sampler, precision, batches, tiles, and what goes beyond the paper. Loads no torch."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from receiver.sampling import PURE_NOISE
from shared.errors import UsageError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Colour = Literal["none", "wavelet", "adain"]

TILE_MULTIPLE = 8
"""Tiles are multiples of so many latent positions, so that every level of a UNet halves evenly."""


@dataclass(frozen=True)
class DecoderSettings:
    """Settings of a decoder.

    Attributes:
        steps: steps of diffusion where a call names none; None for the bundle's own number, 0 for the preview.
        sampler: a name of `receiver.samplers.SAMPLERS`; None for the bundle's own.
        start: timestep that diffusion starts from, 0 to 999: 999 is pure noise, less the content variable noised to
            that timestep; None for the bundle's own.
        strength: factor of all connections from the control module, 0 (the prior alone) upwards; 1 is what was trained.
        prompt: name of a mission prompt stored in the bundle; None for the empty prompt.
        colour: how colours of the full picture are corrected by those of the preview.
        precision: arithmetic of the prior, the control module and the picture decoder; ``"auto"`` is bfloat16 where the
            device has fast units for it, and else float32. Content variable and latents are float32 always.
        channels_last: whether feature maps lie channels-last in memory.
        compile: whether the noise estimator goes through ``torch.compile`` (with CUDA graphs on a GPU), once for each
            shape.
        batch: pictures of one shape diffused together at most.
        tile: latents of more positions than this a side are diffused in tiles of that size; one position is 8 pixels.
        overlap: positions that tiles overlap at least.

    Raises:
        UsageError: if a value is out of range.
    """

    steps: int | None = None
    sampler: str | None = None
    start: int | None = None
    strength: float = 1.0
    prompt: str | None = None
    colour: Colour = "none"
    precision: Precision = "fp32"
    channels_last: bool = True
    compile: bool = False
    batch: int = 1
    tile: int = 96
    overlap: int = 16

    def __post_init__(self) -> None:
        """Check the values."""
        if self.steps is not None and self.steps < 0:
            raise UsageError("--steps must be 0 (preview) or more")
        if self.start is not None and not 0 <= self.start <= PURE_NOISE:
            raise UsageError(f"--start {self.start}: give 0 to {PURE_NOISE} (pure noise)")
        if not 0 <= self.strength <= 10:
            raise UsageError(f"--strength {self.strength:g}: give 0 (the prior alone) to 10; 1 is what was trained")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch}: give 1 or more")
        if self.tile < 4 * TILE_MULTIPLE or self.tile % TILE_MULTIPLE:
            raise UsageError(f"--tile {self.tile}: give a multiple of {TILE_MULTIPLE}, at least {4 * TILE_MULTIPLE}")
        if not 0 <= self.overlap <= self.tile // 2:
            raise UsageError(f"--overlap {self.overlap}: give 0 to half of --tile, {self.tile // 2}")

    @classmethod
    def paper(cls) -> "DecoderSettings":
        """Return the paper's way: 50 steps of spaced DDPM from pure noise, float32, one picture at a time, eagerly.

        It is the reference that faster ways are measured against.
        """
        return cls(steps=50, sampler="ddpm", start=PURE_NOISE, precision="fp32", channels_last=False, compile=False)

    def exact(self) -> "DecoderSettings":
        """Return the same in float32 and eagerly: what a picture is decoded with again whose latents overflowed."""
        return dataclasses.replace(self, precision="fp32", compile=False, batch=1)
