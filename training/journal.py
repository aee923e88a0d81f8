"""What a run writes for people: ``log.jsonl``, a line on the terminal, TensorBoard files, grids of sample pictures."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid, save_image

from training.config import LogConfig

Figure = int | float


class Journal:
    """The log of one stage, written by the main process only.

    Args:
        folder: the stage's folder; gets ``log.jsonl``, ``samples/STEP.png`` and ``tensorboard/``.
        config: what is written.
        step: step that the run goes on from; later events of a killed run are hidden from TensorBoard.
        enabled: whether this process writes.
    """

    def __init__(self, folder: Path, config: LogConfig, step: int, enabled: bool = True) -> None:
        self._folder, self._enabled = folder, enabled
        self._writer: SummaryWriter | None = None
        if enabled and config.tensorboard:
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def record(self, step: int, figures: dict[str, Figure]) -> None:
        """Write one line of figures."""
        if not self._enabled:
            return
        record = {"step": step, **{name: _short(value) for name, value in figures.items()}}
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        print(" ".join(f"{name} {value}" for name, value in record.items()), flush=True)
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Tensor | None) -> None:
        """Write a grid of pictures ``B x 3 x H x W`` in [-1, 1], four a row."""
        if not self._enabled or pictures is None:
            return
        grid = make_grid(pictures.detach().float().cpu().clamp(-1, 1).add(1).div(2), nrow=4)
        (self._folder / "samples").mkdir(exist_ok=True)
        save_image(grid, self._folder / "samples" / f"{step:07d}.png")
        if self._writer is not None:
            self._writer.add_image("samples", grid, step)

    def close(self) -> None:
        """Flush everything."""
        if self._writer is not None:
            self._writer.close()


class Means:
    """Running means of named losses between two records; kept as tensors, so that no step waits for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take one step's losses; a loss that only some steps have is averaged over those."""
        for name, value in losses.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Return the means and begin again."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state(self) -> dict[str, tuple[float, int]]:
        """Plain values, for a checkpoint."""
        return {name: (float(total), self._counts[name]) for name, total in self._sums.items()}

    def restore(self, state: dict[str, tuple[float, int]]) -> None:
        """Take the values back."""
        self._sums = {name: torch.tensor(total, dtype=torch.float64) for name, (total, _) in state.items()}
        self._counts = {name: count for name, (_, count) in state.items()}


def _short(value: Figure) -> Figure:
    return float(f"{value:.5g}") if isinstance(value, float) else value
