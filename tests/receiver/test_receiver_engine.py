import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from receiver.engine import LocalEngine
from receiver.jobs import Job, JobQueue
from receiver.pictures import Painted, PictureKey, Stage
from receiver.staging import DecodeRequest
from shared.codec.interfaces import Pixels
from shared.errors import CorruptDataError, PinholeError
from tests.receiver.fake_decoder import FakeDecoder, make_layers


def request(layers: Sequence[bytes], stage: Stage = Stage.PREVIEW) -> DecodeRequest:
    return DecodeRequest(layers, stage, None, 5)


def test_previews_and_pictures_come_from_the_decoder() -> None:
    async def run() -> tuple[Painted, Painted]:
        engine = LocalEngine(FakeDecoder())
        preview, picture = await asyncio.gather(
            engine.decode(request(make_layers(1))), engine.decode(request(make_layers(1), Stage.FULL))
        )
        assert engine.close(5.0)
        return preview, picture

    preview, picture = asyncio.run(run())
    assert np.array_equal(preview.pixels, FakeDecoder().preview(make_layers(1)))
    assert np.array_equal(picture.pixels, FakeDecoder().decode(make_layers(1), seed=5))


class Unreliable(FakeDecoder):
    def preview(self, layers: Sequence[bytes]) -> Pixels:
        if layers[0] == b"bug":
            raise ZeroDivisionError("a defect in the decoder")
        if layers[0] == b"exit":
            raise SystemExit(3)
        return super().preview(layers)


def test_whatever_a_picture_does_the_engine_lives() -> None:
    async def run() -> Painted:
        engine = LocalEngine(Unreliable())
        with pytest.raises(ZeroDivisionError):
            await engine.decode(request([b"bug"]))
        with pytest.raises(RuntimeError, match="SystemExit"):
            await engine.decode(request([b"exit"]))
        base = make_layers(1)[0]
        with pytest.raises(CorruptDataError):
            await engine.decode(request([base[:-1] + bytes([base[-1] ^ 1])]))
        painted = await engine.decode(request(make_layers(1)))
        engine.close(5.0)
        with pytest.raises(PinholeError, match="closed"):
            await engine.decode(request(make_layers(1)))
        return painted

    assert asyncio.run(run()).pixels.shape == (8, 12, 3)


class Stuck(FakeDecoder):
    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Event()
        self.release = threading.Event()

    def preview(self, layers: Sequence[bytes]) -> Pixels:
        self.started.set()
        self.release.wait()
        return super().preview(layers)


def test_closing_abandons_a_decode_that_does_not_end_and_starts_no_other() -> None:
    async def run() -> None:
        decoder = Stuck()
        engine = LocalEngine(decoder)
        tasks = [asyncio.create_task(engine.decode(request(make_layers(n)))) for n in range(3)]
        await asyncio.to_thread(decoder.started.wait)
        assert not engine.close(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        decoder.release.set()
        assert engine.close(5.0)
        assert decoder.calls == [("preview", 1)] or decoder.calls == [("preview", 3)]

    asyncio.run(run())


def test_the_queue_gives_unseen_pictures_first_and_the_oldest_of_those() -> None:
    async def run() -> list[Job]:
        queue = JobQueue(10)
        jobs = [
            Job(PictureKey(1, 1), Stage.FULL, 1.0),
            Job(PictureKey(1, 1), Stage.PREVIEW, 1.0, refines=True),
            Job(PictureKey(1, 3), Stage.PREVIEW, 3.0),
            Job(PictureKey(1, 2), Stage.PREVIEW, 2.0),
            Job(PictureKey(1, 0), Stage.FULL, 0.0, refines=True),
        ]
        assert all(queue.put(job) for job in jobs)
        assert queue.put(jobs[0])
        assert len(queue) == 5
        return [await queue.get() for _ in range(5)]

    order = asyncio.run(run())
    assert [(job.stage, job.key.sequence) for job in order] == [
        (Stage.PREVIEW, 2),
        (Stage.PREVIEW, 3),
        (Stage.PREVIEW, 1),
        (Stage.FULL, 1),
        (Stage.FULL, 0),
    ]


def test_a_full_queue_refuses_and_remembers_that_it_did() -> None:
    async def run() -> None:
        queue = JobQueue(1)
        assert queue.put(Job(PictureKey(1, 1), Stage.FULL, 1.0))
        assert not queue.put(Job(PictureKey(1, 2), Stage.FULL, 1.0))
        assert queue.refused
        await queue.get()
        queue.done()
        assert not queue.idle
        queue.refused = False
        assert queue.idle

    asyncio.run(run())
