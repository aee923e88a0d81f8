"""Options of the commands that decode, and what they come to as settings of a decoder."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Any

import typer

from receiver.sampling import SAMPLERS
from receiver.settings import DecoderSettings
from shared.errors import UsageError

DEFAULT_BATCH = 4
"""Pictures diffused together unless told otherwise; even a CPU does them a quarter faster than one by one."""


class PrecisionChoice(StrEnum):
    """Arithmetic that can be chosen."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class ColourChoice(StrEnum):
    """Colour corrections that can be chosen."""

    NONE = "none"
    WAVELET = "wavelet"
    ADAIN = "adain"


Steps = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Diffusion steps; 0 for the preview.", show_default="the bundle's"),
]
Sampler = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"One of {', '.join(SAMPLERS)}.", show_default="the bundle's")
]
Start = Annotated[
    int | None,
    typer.Option(min=0, max=999, metavar="T", help="Timestep to start from, 999: noise.", show_default="the bundle's"),
]
Strength = Annotated[float, typer.Option(min=0, max=10, metavar="X", help="How strongly the received latents steer.")]
Prompt = Annotated[
    str | None, typer.Option(metavar="NAME", help="Mission prompt stored in the bundle.", show_default="none")
]
ColourOption = Annotated[ColourChoice, typer.Option(help="Correct colours of the full picture by the preview's.")]
PrecisionOption = Annotated[PrecisionChoice, typer.Option(help="Arithmetic; auto: bfloat16 where it is fast.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the networks for each picture size: minutes once, then faster.")
]
Batch = Annotated[
    int | None,
    typer.Option(min=1, metavar="B", help="Pictures of one size diffused together.", show_default=str(DEFAULT_BATCH)),
]
Tile = Annotated[
    int, typer.Option(metavar="P", help="Larger pictures are diffused in tiles of P x P latent positions of 8 pixels.")
]
Overlap = Annotated[int, typer.Option(metavar="P", help="Latent positions that tiles overlap at least.")]
Paper = Annotated[
    bool, typer.Option("--paper", help="The paper's way: 50 DDPM steps from noise, float32, one picture at a time.")
]


@dataclass(frozen=True)
class DecodeOptions:
    """What the command line says of decoding; attributes are those of `DecoderSettings`."""

    steps: int | None = None
    sampler: str | None = None
    start: int | None = None
    strength: float = DecoderSettings.strength
    prompt: str | None = None
    colour: ColourChoice = ColourChoice.NONE
    precision: PrecisionChoice = PrecisionChoice.AUTO
    compile: bool = False
    batch: int | None = None
    tile: int = DecoderSettings.tile
    overlap: int = DecoderSettings.overlap
    paper: bool = False

    def settings(self) -> DecoderSettings:
        """Return the decoder's settings.

        Raises:
            UsageError: if options contradict each other or are out of range.
        """
        if self.paper:
            return self._paper()
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        del given["paper"]
        batch = self.batch or DEFAULT_BATCH
        return DecoderSettings(
            **{**given, "colour": self.colour.value, "precision": self.precision.value, "batch": batch}
        )

    def _paper(self) -> DecoderSettings:
        """Return the paper's settings, if nothing else was asked for."""
        own = DecodeOptions(paper=True)
        changed = [f.name for f in fields(self) if getattr(self, f.name) != getattr(own, f.name)]
        if changed:
            raise UsageError(f"--paper fixes how pictures are decoded; leave out --{', --'.join(changed)}")
        return DecoderSettings.paper()
