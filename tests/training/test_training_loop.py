"""The training loop: it learns, it goes on where it stopped, it leaves a whole checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.loop import Losses, Run, Schedule


def batches(seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(4, 3, 8, 8, generator=generator)


def train(folder: Path, steps: int) -> Run:
    torch.manual_seed(1)
    model = nn.Conv2d(3, 3, 1)
    run = Run(folder, model, Schedule(steps, learning_rate=0.05, warmup=2, every=5))

    def loss(batch: Tensor, progress: float) -> Losses:
        return {"total": F.mse_loss(model(batch), 2 * batch)}

    def validate(average: nn.Module) -> dict[str, float]:
        batch = next(batches(99))
        with torch.no_grad():
            return {"error": float(F.mse_loss(average(batch), 2 * batch))}

    run.train(batches(run.step), loss, validate)
    return run


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = train(tmp_path, 10)
    assert first.step == 10
    again = Run(tmp_path, nn.Conv2d(3, 3, 1), Schedule(10))
    assert again.step == 10
    for saved, kept in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(saved, kept)
    for saved, kept in zip(first.average.parameters(), again.average.parameters(), strict=True):
        assert torch.equal(saved, kept)
    assert again.optimiser.state_dict()["state"]
    assert train(tmp_path, 60).step == 60
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(5, 61, 5))
    assert records[-1]["error"] < 0.5 * records[0]["error"]
    assert not (tmp_path / "checkpoint.partial").exists()


def test_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    done = train(tmp_path, 5)
    weights = [p.clone() for p in done.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(weights, train(tmp_path, 5).model.parameters(), strict=True))
