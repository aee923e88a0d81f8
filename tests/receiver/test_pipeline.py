"""The decode pipeline around stages that the tests can watch and hold up."""

import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from receiver.pictures import Painted, Stage
from receiver.pipeline import DecodePipeline
from receiver.staging import DecodeRequest
from shared.errors import CorruptDataError, PinholeError


class Stages:
    """Each layer is one letter and the rest its value; upper case letters differ in key from lower case ones."""

    bundle_id = b"test"

    def __init__(self, batch: int = 3, overlaps: bool = True) -> None:
        self.batch, self.overlaps = batch, overlaps
        self.batches: list[list[str]] = []
        self.sizes: list[tuple[int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.painting = threading.Event()
        self.diffusing = threading.Event()
        self.overlapped = False
        self.inside = 0

    def read(self, request: DecodeRequest) -> str:
        text = request.layers[0].decode()
        if text == "corrupt":
            raise CorruptDataError("layer 0 decodes to other symbols than were sent; send it again")
        return text

    def key(self, task: str) -> Hashable:
        return task.isupper()

    def diffuse(self, tasks: Sequence[str]) -> list[str]:
        self.diffusing.set()
        self.gate.wait()
        self.batches.append(list(tasks))
        self.inside += 1
        self.overlapped |= self.inside > 1
        time.sleep(0.005)
        self.inside -= 1
        if "bad" in tasks:
            raise ValueError("a defect")
        return [f"<{task}>" for task in tasks]

    def paint(self, diffused: str) -> Painted:
        self.painting.set()
        self.inside += 1
        self.overlapped |= self.inside > 1
        time.sleep(0.005)
        self.inside -= 1
        return Painted(np.zeros((1, 1, 3), np.uint8), (diffused,))

    def warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.sizes += sizes


def submit(pipeline: DecodePipeline, *texts: str) -> list["Future[Painted]"]:
    return [pipeline.submit(DecodeRequest([text.encode()], Stage.FULL, None, 0)) for text in texts]


def results(futures: Sequence["Future[Painted]"]) -> list[str]:
    return [future.result(5).flags[0] for future in futures]


def test_what_waits_with_one_key_is_diffused_together() -> None:
    stages = Stages(batch=3)
    stages.gate.clear()
    pipeline = DecodePipeline(stages)
    futures = submit(pipeline, "first")
    assert stages.diffusing.wait(5)
    futures += submit(pipeline, "a", "B", "c", "d", "e", "F")
    until = time.monotonic() + 5
    while len(pipeline._waiting) < 6 and time.monotonic() < until:
        time.sleep(0.001)
    stages.gate.set()
    assert results(futures) == ["<first>", "<a>", "<B>", "<c>", "<d>", "<e>", "<F>"]
    assert stages.batches == [["first"], ["a", "c", "d"], ["B", "F"], ["e"]]
    assert pipeline.close(5)


def test_one_bad_picture_of_a_batch_costs_the_others_nothing() -> None:
    stages = Stages(batch=3)
    stages.gate.clear()
    pipeline = DecodePipeline(stages)
    first = submit(pipeline, "first")
    assert stages.diffusing.wait(5)
    futures = submit(pipeline, "a", "bad", "corrupt", "b")
    time.sleep(0.05)
    stages.gate.set()
    assert results([*first, futures[0], futures[3]]) == ["<first>", "<a>", "<b>"]
    with pytest.raises(ValueError, match="a defect"):
        futures[1].result(5)
    with pytest.raises(CorruptDataError):
        futures[2].result(5)
    assert pipeline.close(5)


@pytest.mark.parametrize("overlaps", [True, False])
def test_painting_runs_beside_the_next_batch_only_where_that_gains(overlaps: bool) -> None:
    stages = Stages(batch=1, overlaps=overlaps)
    pipeline = DecodePipeline(stages)
    results(submit(pipeline, *"abcdefghijklmnop"))
    assert stages.overlapped == overlaps
    assert pipeline.close(5)


def test_memory_is_bounded_by_what_the_stages_may_hold() -> None:
    stages = Stages(batch=2)
    stages.gate.clear()
    pipeline = DecodePipeline(stages)
    futures = submit(pipeline, *(f"p{i}" for i in range(30)))
    assert stages.diffusing.wait(5)
    time.sleep(0.05)
    # Two batches wait, and the reader holds the one that finds no room.
    assert len(pipeline._waiting) <= 2 * stages.batch
    stages.gate.set()
    assert results(futures) == [f"<p{i}>" for i in range(30)]
    assert pipeline.close(5)


def test_a_cancelled_request_is_dropped() -> None:
    stages = Stages(batch=1)
    stages.gate.clear()
    pipeline = DecodePipeline(stages)
    futures = submit(pipeline, *"abcdefgh")
    assert stages.diffusing.wait(5)
    assert futures[-1].cancel()
    stages.gate.set()
    results(futures[:-1])
    assert pipeline.close(5)
    assert ["h"] not in stages.batches


def test_the_decoder_gets_ready_before_the_first_picture() -> None:
    stages = Stages()
    pipeline = DecodePipeline(stages, [(768, 512)])
    pipeline.wait_until_ready()
    assert stages.sizes == [(768, 512)]
    assert pipeline.close(5)
    with pytest.raises(PinholeError, match="closed"):
        submit(pipeline, "a")


class Unready(Stages):
    def warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        raise PinholeError("memory does not suffice")


def test_a_warm_up_that_fails_is_told() -> None:
    pipeline = DecodePipeline(Unready(), [(8, 8)])
    with pytest.raises(PinholeError, match="does not suffice"):
        pipeline.wait_until_ready()
    assert pipeline.close(5)
