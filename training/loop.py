"""One training loop for every stage: bfloat16, warm-up and cosine, moving average of the weights, resume after a stop.

A stage supplies its modules and a loss; the loop owns steps, checkpoints and the log. A run that was killed goes on
from its last checkpoint: weights, average, optimiser and step are restored; batches are seeded by the step at which
the run (re)started, so no photograph order repeats.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

Losses = dict[str, Tensor]
"""Named scalars of one step; ``"total"`` is what is minimised, the others are logged."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage trains.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: peak rate of AdamW.
        warmup: steps of linear warm-up.
        clip: largest gradient norm.
        average: decay of the moving average of the weights that is exported.
        every: steps between checkpoints and validation.
        finish_by: seconds this run may take; the cosine then follows the clock instead of the step count, so a stage
            ends annealed on a machine of unknown speed. 0 means: no limit.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup: int = 100
    clip: float = 1.0
    average: float = 0.998
    every: int = 400
    finish_by: float = 0.0


def stage_options(description: str | None, *, batch: int, crop: int, rate: float) -> argparse.ArgumentParser:
    """Return the command line that every stage has, with the stage's own defaults.

    Args:
        description: the stage's docstring.
        batch: pictures a step.
        crop: their side in pixels.
        rate: peak learning rate.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--run", type=Path, default=Path("runs/pocket"), help="folder of all checkpoints")
    parser.add_argument("--steps", type=int, default=40000)
    parser.add_argument("--minutes", type=float, default=0.0, help="end, annealed, after so long at the latest")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--crop", type=int, default=crop)
    parser.add_argument("--rate", type=float, default=rate)
    parser.add_argument("--device", default="cpu")
    return parser


class Run:
    """One resumable training run.

    Args:
        folder: where ``checkpoint.pt`` and ``log.jsonl`` are kept.
        model: everything that is trained (and averaged).
        schedule: length, rates and intervals.
    """

    def __init__(self, folder: Path, model: nn.Module, schedule: Schedule) -> None:
        self.folder, self.model, self.schedule = folder, model, schedule
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decay, "weight_decay": 1e-3}, {"params": plain, "weight_decay": 0.0}],
            lr=schedule.learning_rate,
        )
        self.step = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "checkpoint.pt").exists():
            state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
            model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds = state["step"], state["seconds"]

    def progress(self) -> float:
        """How much of the run is done, 0 to 1, by steps or by the clock, whichever is further."""
        share = self.step / self.schedule.steps
        if self.schedule.finish_by:
            share = max(share, self.seconds / self.schedule.finish_by)
        return min(share, 1.0)

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.folder / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "checkpoint.pt")

    def train(
        self,
        batches: Iterator[Tensor],
        loss: Callable[[Tensor, float], Losses],
        validate: Callable[[nn.Module], dict[str, float]],
    ) -> None:
        """Run to the end of the schedule.

        Args:
            batches: endless training batches.
            loss: maps a batch and the progress (0 to 1) to named losses.
            validate: maps the averaged model to named figures for the log.
        """
        device = next(self.model.parameters()).device
        sums: dict[str, float] = {}
        since = time.monotonic()
        while self.progress() < 1.0:
            began = time.monotonic()
            progress = self.progress()
            warm = min(1.0, (self.step + 1) / self.schedule.warmup)
            rate = self.schedule.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            batch = next(batches).to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                losses = loss(batch, progress)
            self.optimiser.zero_grad(set_to_none=True)
            losses["total"].backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.clip)
            if torch.isfinite(norm):
                self.optimiser.step()
            self._follow()
            self.step += 1
            self.seconds += time.monotonic() - began
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if self.step % self.schedule.every == 0 or self.progress() >= 1.0:
                self.save()
                count = (self.step - 1) % self.schedule.every + 1
                record = {
                    "step": self.step,
                    "seconds": round(self.seconds),
                    "rate": rate,
                    "step_seconds": round((time.monotonic() - since) / count, 4),
                    **{k: round(v / count, 5) for k, v in sums.items()},
                    **{k: round(v, 5) for k, v in validate(self.average).items()},
                }
                with (self.folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(record) + "\n")
                print(record, flush=True)
                sums, since = {}, time.monotonic()

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.schedule.average, (1 + self.step) / (10 + self.step))
        for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)
        for kept_buffer, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
            kept_buffer.copy_(buffer)
