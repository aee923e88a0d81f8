"""The trainer: learns, resumes exactly, saves on signals, survives bad gradients, refuses foreign checkpoints."""

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.errors import PinholeError, UsageError
from tests.training.test_training_data import make_photographs
from training.checkpoints import read_average, read_checkpoint
from training.config import Config, DataConfig, LogConfig, OptimiseConfig
from training.data import PhotographCache
from training.schedule import learning_rate, run_progress
from training.stage import Context, Losses, Stage, find_stage
from training.trainer import MOST_SKIPPED, Trainer, make_accelerator


@dataclass(frozen=True)
class TinySettings:
    broken_from: int = 1 << 30
    kill_at: int = -1


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.level = nn.Parameter(torch.zeros(3))
        self.frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)


class TinyStage(Stage):
    """Learns to double a noisy picture; the auxiliary parameter learns the picture's mean colour."""

    Settings = TinySettings

    def __init__(self, settings: TinySettings, context: Context) -> None:
        self.settings, self.steps = settings, 0
        self.trained: TinyNet = TinyNet().to(context.device)
        if context.has("tiny"):
            context.load("tiny", self.trained)
        self.checks = context.checks()

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        return [self.trained.level]

    def loss(self, batch: Tensor, progress: float) -> Losses:
        self.steps += 1
        if self.steps == self.settings.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        total = F.mse_loss(self.trained.conv(batch + 0.1 * torch.randn_like(batch)).float(), 2 * batch)
        if self.steps > self.settings.broken_from:
            total = total * float("nan")
        auxiliary = (batch.mean((0, 2, 3)) - self.trained.level).square().sum()
        return {"total": total, "auxiliary": auxiliary, "error": total.detach()}

    def validate(self, average: nn.Module) -> dict[str, float]:
        assert isinstance(average, TinyNet)
        return {"check": float(F.mse_loss(average.conv(self.checks[0]), 2 * self.checks[0]))}

    def samples(self, average: nn.Module) -> Tensor | None:
        assert isinstance(average, TinyNet)
        pictures: Tensor = average.conv(self.checks[0])
        return pictures


@pytest.fixture
def photographs(tmp_path: Path) -> PhotographCache:
    return PhotographCache(make_photographs(tmp_path / "photos"), tmp_path / "cache", 64)


def config(run: Path, **changes: Any) -> Config:
    optimise = OptimiseConfig(
        steps=8, learning_rate=0.05, warmup=2, accumulate=2, precision="no", auxiliary_learning_rate=0.02
    )
    values: dict[str, Any] = {
        "source": Path("tiny.toml"),
        "stage": "tiny",
        "name": "tiny",
        "run": run,
        "photographs": run,
        "device": "cpu",
        "seed": 3,
        "data": DataConfig(batch=2, crop=64, smallest=64),
        "optimise": optimise,
        "log": LogConfig(every=4, samples_every=4, tensorboard=False),
        "start": {},
        "settings": TinySettings(),
    }
    return Config(**{**values, **changes})


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal to the last bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("stop", [3, 4])
def test_a_resumed_run_equals_one_that_was_never_stopped(
    tmp_path: Path, photographs: PhotographCache, stop: int, precision: Any
) -> None:
    settings = config(tmp_path / "whole")
    settings = replace(settings, optimise=replace(settings.optimise, precision=precision))
    assert Trainer(settings, TinyStage, photographs).train() == 0
    cut = replace(settings, run=tmp_path / "cut")
    Trainer(cut, TinyStage, photographs).train(until=stop)
    assert read_checkpoint(cut.folder / "checkpoint.pt")["step"] == stop
    torch.rand(7)  # what another process drew must not matter
    Trainer(cut, TinyStage, photographs).train()
    whole, resumed = (read_checkpoint(c.folder / "checkpoint.pt") for c in (settings, cut))
    for part in ("model", "average", "optimisers", "step", "skipped"):
        assert same(whole[part], resumed[part]), part
    figures = [json.loads((c.folder / "log.jsonl").read_text().splitlines()[-1]) for c in (settings, cut)]
    assert [f["step"] for f in figures] == [8, 8]
    assert figures[0]["check"] == figures[1]["check"]


def test_training_learns_and_leaves_its_record(tmp_path: Path, photographs: PhotographCache) -> None:
    settings = config(tmp_path)
    settings = replace(
        settings, optimise=replace(settings.optimise, steps=60, accumulate=1), log=LogConfig(every=20, samples_every=40)
    )
    trainer = Trainer(settings, TinyStage, photographs)
    frozen = trainer.stage.trained.state_dict()["frozen.weight"].clone()
    trainer.train()
    records = [json.loads(line) for line in (settings.folder / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [20, 40, 60]
    assert records[-1]["error"] < 0.5 * records[0]["error"]
    assert records[-1]["auxiliary"] < records[0]["auxiliary"]
    assert {p.name for p in (settings.folder / "samples").iterdir()} == {"0000040.png", "0000060.png"}
    assert any((settings.folder / "tensorboard").iterdir())
    assert json.loads((settings.folder / "config.json").read_text())["optimise"]["steps"] == 60
    average = read_average(tmp_path, "tiny")
    assert torch.equal(average["frozen.weight"], frozen)
    assert not list(settings.folder.glob("*.part"))
    # A finished run trains no further, and another stage can start from it.
    again = Trainer(settings, TinyStage, photographs)
    again.train()
    assert again.step == 60
    other = Trainer(replace(settings, name="other", start={"tiny": "tiny"}), TinyStage, photographs)
    assert same(other.stage.trained.state_dict(), average)


def test_a_signal_saves_and_stops(tmp_path: Path, photographs: PhotographCache) -> None:
    before = signal.getsignal(signal.SIGTERM)
    settings = config(tmp_path, settings=TinySettings(kill_at=5))
    assert Trainer(settings, TinyStage, photographs).train() == signal.SIGTERM
    assert read_checkpoint(settings.folder / "checkpoint.pt")["step"] == 3
    assert signal.getsignal(signal.SIGTERM) is before
    assert Trainer(replace(settings, settings=TinySettings()), TinyStage, photographs).train() == 0


def test_steps_without_a_finite_gradient_are_skipped_counted_and_end_the_run(
    tmp_path: Path, photographs: PhotographCache
) -> None:
    settings = config(tmp_path, settings=TinySettings(broken_from=8))
    Trainer(settings, TinyStage, photographs).train()
    state = read_checkpoint(settings.folder / "checkpoint.pt")
    assert state["skipped"] == 4
    assert all(bool(torch.isfinite(value).all()) for value in state["model"].values())
    endless = replace(settings, name="endless", optimise=replace(settings.optimise, steps=MOST_SKIPPED + 20))
    with pytest.raises(PinholeError, match="no finite gradient"):
        Trainer(endless, TinyStage, photographs).train()


def test_foreign_checkpoints_are_refused(tmp_path: Path, photographs: PhotographCache) -> None:
    settings = config(tmp_path)
    Trainer(settings, TinyStage, photographs).train(until=1)
    with pytest.raises(PinholeError, match="set another name"):
        Trainer(replace(settings, stage="other"), TinyStage, photographs)
    with pytest.raises(PinholeError, match="seed 3"):
        Trainer(replace(settings, seed=4), TinyStage, photographs)
    (settings.folder / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(PinholeError, match="no readable checkpoint"):
        Trainer(settings, TinyStage, photographs)
    with pytest.raises(PinholeError, match=r"mend \[start\]"):
        Trainer(replace(settings, name="new", start={"tiny": "nowhere"}), TinyStage, photographs)


def test_checkpoints_of_the_first_version_can_be_started_from(tmp_path: Path, photographs: PhotographCache) -> None:
    (tmp_path / "old").mkdir(parents=True)
    state = TinyNet().state_dict()
    torch.save(
        {"average": state, "model": state, "optimiser": {}, "step": 9, "seconds": 1.0}, tmp_path / "old/checkpoint.pt"
    )
    trainer = Trainer(config(tmp_path, start={"tiny": "old"}), TinyStage, photographs)
    assert same(trainer.stage.trained.state_dict(), state)
    smaller = dict(state)
    del smaller["level"]
    torch.save({"average": smaller}, tmp_path / "old/checkpoint.pt")
    with pytest.raises(PinholeError, match="lacks level"):
        Trainer(config(tmp_path, start={"tiny": "old"}), TinyStage, photographs)


def test_the_cosine_follows_the_clock_where_that_is_further() -> None:
    schedule = OptimiseConfig(steps=100, warmup=10, learning_rate=1.0, finish_by_minutes=1)
    assert run_progress(schedule, 50, 0) == 0.5
    assert run_progress(schedule, 10, 45) == 0.75
    assert run_progress(schedule, 10, 99) == 1.0
    assert learning_rate(schedule, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(schedule, 50, 1.0) == pytest.approx(schedule.floor)
    assert learning_rate(replace(schedule, cosine=False), 50, 1.0) == 1.0


def test_unknown_stages_and_devices_name_the_mend() -> None:
    with pytest.raises(UsageError, match="did you mean 'codec'"):
        find_stage("codek")
    with pytest.raises(UsageError, match="choose auto, cpu or cuda"):
        make_accelerator("tpu", "no", 1)
