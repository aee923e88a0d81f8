"""The trainer of every stage: steps, schedule, average, exact resume, logs; one CPU or many GPUs through accelerate.

A run that was stopped and resumed equals, bit for bit on a CPU, the run that was not, as long as the schedule counts
steps and not minutes: the checkpoint holds weights, average and optimisers, and everything else (which crops, which
noise, which learning rate) is a function of seed, process, step and time trained.
"""

import dataclasses
import json
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, set_seed
from torch import Tensor, nn

from shared.errors import PinholeError, UsageError
from shared.files import write_atomically
from training.average import WeightAverage
from training.checkpoints import FILE, load_weights, read_checkpoint, save_checkpoint
from training.config import Config
from training.crops import crop_batches
from training.data import Photographs
from training.interrupt import Interruption
from training.journal import Journal, Means
from training.schedule import learning_rate, run_progress
from training.stage import Context, Losses, Stage

MOST_SKIPPED = 50
"""So many steps in a row without a finite gradient end the run: it will not recover by itself."""
_STEP_SEEDS = 1 << 20
"""Distance of the seeds of two processes, larger than the steps that are likely."""


class _LossModule(nn.Module):
    """The stage's loss as a module's forward pass: what accelerate and data parallelism know how to wrap."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.trained = stage.trained
        # In a tuple, so that modules the stage only uses do not become this module's.
        self._stage = (stage,)

    def forward(self, batch: Tensor, progress: float) -> Losses:
        return self._stage[0].loss(batch, progress)


class Trainer:
    """One resumable run of one stage.

    Args:
        config: the stage's configuration.
        stage: its class.
        photographs: what it trains on.

    Raises:
        PinholeError: if the checkpoint in the stage's folder does not fit the configuration.
    """

    def __init__(self, config: Config, stage: type[Stage], photographs: Photographs) -> None:
        self.config = config
        self.accelerator = make_accelerator(config.device, config.optimise.precision, config.optimise.accumulate)
        config.folder.mkdir(parents=True, exist_ok=True)
        set_seed(config.seed)
        self.stage = stage(
            config.settings,
            Context(
                self.accelerator.device,
                config.run,
                config.start,
                photographs,
                config.data.validation,
                config.data.validation_crop,
            ),
        )
        model = self.stage.trained.train()
        self.average = WeightAverage(model, config.optimise.average)
        self._auxiliary = self.stage.auxiliary_parameters()
        own = {id(p) for p in self._auxiliary}
        self._main = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
        optimisers: list[torch.optim.Optimizer] = [_adamw(self._main, config)]
        if self._auxiliary:
            rate, betas = config.optimise.auxiliary_learning_rate, config.optimise.auxiliary_betas
            optimisers.append(
                torch.optim.AdamW(self._auxiliary, lr=rate, betas=betas, weight_decay=config.optimise.weight_decay)
            )
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self._since_record, self._recorded_at, self._skipped_in_row = 0, 0.0, 0
        self._means = Means()
        checkpoint = config.folder / FILE
        if checkpoint.exists():
            self._resume(read_checkpoint(checkpoint), optimisers)
        self._optimisers = [self.accelerator.prepare_optimizer(o) for o in optimisers]
        self._loss = self.accelerator.prepare_model(_LossModule(self.stage))
        first = self.step * config.optimise.accumulate
        place = (self.accelerator.process_index, self.accelerator.num_processes)
        self._batches = crop_batches(photographs, config.data, config.seed, first, *place)
        self.journal = Journal(config.folder, config.log, self.step, self.accelerator.is_main_process)

    @property
    def progress(self) -> float:
        """How much of the run is done, 0 to 1."""
        return run_progress(self.config.optimise, self.step, self.seconds)

    def train(self, until: int | None = None) -> int:
        """Train to the end of the schedule.

        Args:
            until: stop, with a checkpoint, after so many steps of the whole run; for tests and for sharing a machine.

        Returns:
            0, or the number of the signal that ended the run early, after a checkpoint.

        Raises:
            PinholeError: if the gradients stay not finite.
        """
        if self.progress >= 1:
            return 0
        if self.accelerator.is_main_process:
            write_atomically(self.config.folder / "config.json", describe(self.config).encode())
        with Interruption() as interruption:
            while self.progress < 1 and not self._agree(interruption.signal):
                self._train_step()
                if self.step % self.config.log.every == 0 or self.progress >= 1:
                    self._record()
                elif self.step == until:
                    self._save()
                if self.step == until:
                    break
            if interruption.signal:
                self._save()
        self.journal.close()
        return interruption.signal

    def _train_step(self) -> None:
        began = time.monotonic()
        progress = self.progress
        set_seed(self.config.seed + self.step + _STEP_SEEDS * (1 + self.accelerator.process_index))
        rate = learning_rate(self.config.optimise, self.step, progress)
        for group in self._optimisers[0].param_groups:
            group["lr"] = rate
        for _ in range(self.config.optimise.accumulate):
            with self.accelerator.accumulate(self._loss):
                batch = next(self._batches).to(self.accelerator.device, memory_format=torch.channels_last)
                losses: Losses = self._loss(batch, progress)
                total = losses["total"]
                if "auxiliary" in losses:
                    total = total + losses["auxiliary"]
                self.accelerator.backward(total)
                self._means.add(losses)
        self._update()
        self.average.follow(self.stage.trained, self.step)
        self.step += 1
        self._since_record += 1
        self.seconds = self._agree(self.seconds + time.monotonic() - began)

    def _update(self) -> None:
        """Take the optimisers' step, or skip it where a gradient is not finite."""
        limit = self.config.optimise.clip or float("inf")
        norms = [nn.utils.clip_grad_norm_(self._main, limit)]
        if self._auxiliary:
            norms.append(nn.utils.clip_grad_norm_(self._auxiliary, limit))
        if all(bool(torch.isfinite(norm)) for norm in norms):
            for optimiser in self._optimisers:
                optimiser.step()
            self._skipped_in_row = 0
        else:
            self.skipped += 1
            self._skipped_in_row += 1
        for optimiser in self._optimisers:
            optimiser.zero_grad()
        if self._skipped_in_row >= MOST_SKIPPED:
            raise PinholeError(
                f"{self.config.name}: {MOST_SKIPPED} steps in a row had no finite gradient at step {self.step}; "
                "go back to an older checkpoint or lower optimise.learning_rate"
            )

    def _record(self) -> None:
        """Checkpoint, validate and write one line of the log."""
        figures: dict[str, int | float] = {
            "seconds": round(self.seconds),
            "learning_rate": self._optimisers[0].param_groups[0]["lr"],
            "step_seconds": (self.seconds - self._recorded_at) / max(self._since_record, 1),
            **self._means.take(),
        }
        if self.skipped:
            figures["skipped"] = self.skipped
        self._since_record, self._recorded_at = 0, self.seconds
        self._save()
        if self.accelerator.is_main_process:
            with torch.no_grad():
                figures.update(self.stage.validate(self.average.module))
                self.journal.record(self.step, figures)
                every = self.config.log.samples_every
                if self.progress >= 1 or (every and self.step % every == 0):
                    self.journal.pictures(self.step, self.stage.samples(self.average.module))
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.config.folder,
                {
                    "stage": self.config.stage,
                    "model": self.stage.trained.state_dict(),
                    "average": self.average.module.state_dict(),
                    "optimisers": [o.state_dict() for o in self._optimisers],
                    "step": self.step,
                    "seconds": self.seconds,
                    "skipped": self.skipped,
                    "since_record": self._since_record,
                    "recorded_at": self._recorded_at,
                    "means": self._means.state(),
                    "seed": self.config.seed,
                },
            )
        self.accelerator.wait_for_everyone()

    def _resume(self, state: dict[str, Any], optimisers: list[torch.optim.Optimizer]) -> None:
        where = str(self.config.folder / FILE)
        if "optimisers" not in state or state.get("stage") != self.config.stage:
            raise PinholeError(
                f"{where} is no checkpoint to go on from with stage '{self.config.stage}'; "
                "set another name, or name it under [start] to begin from its weights"
            )
        if state["seed"] != self.config.seed:
            raise PinholeError(f"{where} was trained with seed {state['seed']}; set seed to that or set another name")
        load_weights(self.stage.trained, state["model"], where)
        load_weights(self.average.module, state["average"], where)
        if len(state["optimisers"]) != len(optimisers):
            raise PinholeError(f"{where} has other optimisers than this configuration; set another name")
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            try:
                optimiser.load_state_dict(saved)
            except ValueError as error:
                raise PinholeError(f"{where}: optimiser does not fit ({error}); set another name") from error
        self.step, self.seconds, self.skipped = state["step"], state["seconds"], state["skipped"]
        self._since_record, self._recorded_at = state["since_record"], state["recorded_at"]
        self._means.restore(state["means"])

    def _agree(self, value: Any) -> Any:
        """Return the main process's value in every process: all must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return value
        return broadcast_object_list([value])[0]


def make_accelerator(device: str, precision: str, accumulate: int) -> Accelerator:
    """Return accelerate's handle on this process's device.

    Raises:
        UsageError: if the device is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device '{device}'; choose auto, cpu or cuda (CUDA_VISIBLE_DEVICES says which)")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' but torch finds none; install a CUDA build of torch or take --device cpu")
    # accelerate keeps its state for the whole process; stages of one process may differ in precision and device.
    if AcceleratorState._shared_state:
        alone = int(AcceleratorState().num_processes) == 1
        AcceleratorState._reset_state(reset_partial_state=alone)
    # Phases of a loss leave parameters out, which data parallelism must expect.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision=precision,
        gradient_accumulation_steps=accumulate,
        kwargs_handlers=[unused],
    )


def describe(config: Config) -> str:
    """Return the whole configuration as JSON, for the record beside the checkpoint."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    for name in ("data", "optimise", "log", "settings"):
        values[name] = dataclasses.asdict(values[name])
    return json.dumps(values, indent=1, default=str) + "\n"


def _adamw(parameters: list[nn.Parameter], config: Config) -> torch.optim.AdamW:
    """AdamW whose weight decay spares biases and gains."""
    settings = config.optimise
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate, betas=settings.betas)
