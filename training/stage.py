"""What a training stage is: modules built from settings, a loss, a validation, sample pictures. The table of stages.

A stage knows nothing of devices, steps, checkpoints or logs; `training.trainer.Trainer` knows nothing of losses.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shared.errors import PinholeError, UsageError
from training.checkpoints import load_average, read_average
from training.data import Photographs

Losses = dict[str, Tensor]
"""Named scalars of one step. ``"total"`` is minimised over the main parameters, ``"auxiliary"``, where there is one,
over `Stage.auxiliary_parameters`; the others are logged. Neither may send gradients into the other's parameters."""

STAGES: dict[str, str] = {
    "autoencoder": "training.stages.autoencoder:AutoencoderStage",
    "prior": "training.stages.prior:PriorStage",
    "codec": "training.stages.codec:CodecStage",
    "control": "training.stages.control:ControlStage",
    "relay": "training.stages.relay:RelayStage",
    "guidance": "training.stages.guidance:GuidanceStage",
    "paper_codec": "training.paper.codec_stage:PaperCodecStage",
}
"""Stages that are trained by the trainer: name in a configuration to ``module:class``, a `Stage`."""

JOBS: dict[str, str] = {
    "quantise": "training.quantise_stage",
    "export": "training.export",
}
"""Stages that run by themselves: name to a module with a dataclass ``Settings`` and ``run(config)``."""


@dataclass(frozen=True)
class Context:
    """What a stage is given besides its settings.

    Attributes:
        device: where its modules are to live.
        run: folder that holds one folder for every stage of this run.
        start: ``[start]`` of the configuration: a part's name to the stage, folder or checkpoint it starts from.
        photographs: the training photographs; ``validation_crops`` gives held-out pictures.
        validation: how many held-out pictures to measure on.
        validation_crop: largest side of them in pixels.
    """

    device: torch.device
    run: Path
    start: Mapping[str, str]
    photographs: Photographs
    validation: int = 16
    validation_crop: int = 384

    def has(self, part: str) -> bool:
        """Whether the configuration says where ``part`` starts from."""
        return bool(self.start.get(part))

    def load(self, part: str, module: nn.Module, ignore: Iterable[str] = ()) -> None:
        """Give a module the averaged weights of the checkpoint that ``[start]`` names for ``part``.

        Args:
            part: key in ``[start]``.
            module: gets every weight it has.
            ignore: prefixes of weights in the checkpoint that it need not have.

        Raises:
            UsageError: if the configuration names no checkpoint for the part.
            PinholeError: if the checkpoint cannot be read or does not fit.
        """
        load_average(module, self.run, self._source(part), ignore)

    def average(self, part: str) -> dict[str, Tensor]:
        """Return the averaged weights of the checkpoint of ``part`` as they are; raises as `load` does."""
        return read_average(self.run, self._source(part))

    def checks(self) -> list[Tensor]:
        """Held-out pictures ``1 x 3 x h x w`` in [-1, 1] on the device, sides multiples of 64.

        Raises:
            PinholeError: if none can be used.
        """
        crops = self.photographs.validation_crops(self.validation_crop)
        checks = [crop.to(self.device) for crop, _ in zip(crops, range(self.validation), strict=False)]
        if not checks:
            raise PinholeError(
                "no held-out photograph can be used: they are unreadable or under 64 pixels, or data.validation or "
                "data.validation_crop is too small; give others, or at least 1 and 64"
            )
        return checks

    def _source(self, part: str) -> str:
        source = self.start.get(part)
        if not source:
            raise UsageError(f"no weights named for '{part}'; set {part} under [start] to a stage or a checkpoint")
        return source


class Stage(ABC):
    """One stage of training.

    A subclass names its settings' dataclass in `Settings`: every field of it is a key or table at the top level of the
    configuration file. Its constructor takes ``(settings, context)``, builds its modules on ``context.device`` and
    starts them from earlier stages by ``context.load``.

    Attributes:
        Settings: dataclass of the stage's own settings.
        trained: all that is trained, averaged and kept in checkpoints, including modules of auxiliary parameters.
            Parameters with ``requires_grad`` off are kept as they are. Modules that the stage only uses (teachers,
            metrics, the frozen part of a pipeline) stay outside.
    """

    Settings: ClassVar[type[Any]]
    trained: nn.Module

    @abstractmethod
    def __init__(self, settings: Any, context: Context) -> None:
        """Build the modules."""

    @abstractmethod
    def loss(self, batch: Tensor, progress: float) -> Losses:
        """Return the losses of one batch; called under autocast when the configuration asks for it.

        All randomness is torch's default generators, which the trainer seeds by step.

        Args:
            batch: ``B x 3 x crop x crop`` in [-1, 1] on the device.
            progress: how much of the run is done, 0 to 1.
        """

    @abstractmethod
    def validate(self, average: nn.Module) -> dict[str, float]:
        """Return figures of the averaged copy of `trained`; called without gradients, in evaluation mode."""

    def samples(self, average: nn.Module) -> Tensor | None:
        """Return pictures to look at, ``B x 3 x H x W`` in [-1, 1], or None; called as `validate` is."""
        return None

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """Parameters, all within `trained`, that the second optimiser trains on ``losses["auxiliary"]``."""
        return []


def find_stage(name: str) -> type[Stage]:
    """Import the stage's class.

    Raises:
        UsageError: if there is no such stage.
    """
    if name not in STAGES:
        raise UsageError(unknown_stage(name))
    module, _, attribute = STAGES[name].partition(":")
    found: type[Stage] = getattr(importlib.import_module(module), attribute)
    return found


def unknown_stage(name: str) -> str:
    """Return the line that tells which stages there are."""
    known = [*STAGES, *JOBS]
    near = get_close_matches(name, known, n=1)
    return f"no stage '{name}'; " + (f"did you mean '{near[0]}'?" if near else f"stages are {', '.join(known)}")
