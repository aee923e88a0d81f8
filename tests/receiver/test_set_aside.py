"""Pictures that the archive has no place for hold up no others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from receiver.archive import Archive, ReceivedLayer
from receiver.background import Background
from receiver.daemon import ReceiverConfig
from receiver.ingest import Ingest
from receiver.listeners import Listeners
from receiver.pictures import PictureKey
from receiver.set_aside import MOST_SENDERS, SetAside, cost
from receiver.status import Status
from tests.receiver.fake_decoder import BUNDLE, FakeDecoder, make_layers, received
from tests.receiver.sending import TestSender, send, until
from tests.receiver.test_receiver_daemon import Lines, Running
from tests.receiver.test_receiver_ingest import Gate

BROKEN, SOUND = 1, 2
EMPTY = cost(received(1, 1, 0)) - len(received(1, 1, 0).payload)


def layer(sender: int, sequence: int, number: int = 0, payload: bytes = b"") -> ReceivedLayer:
    return ReceivedLayer(PictureKey(sender, sequence), number, 16, payload)


def test_layers_wait_in_order_and_everybody_has_a_turn() -> None:
    aside = SetAside(1 << 20)
    for sender in (1, 2, 3):
        for sequence in (1, 2):
            for number in (0, 1):
                assert aside.put(layer(sender, sequence, number)) == set()
    assert aside.put(layer(1, 1, 1)) == set()
    assert len(aside) == 12, "the same layer waits once"
    assert aside.take_one_of_each(2, 3) == [layer(one, 1, number) for one in (1, 2) for number in (0, 1)]
    assert not aside.holds(PictureKey(1, 1))
    assert aside.take_one_of_each(9, 3) == [
        layer(one, sequence, n) for one, sequence in ((3, 1), (1, 2)) for n in (0, 1)
    ]
    assert aside.take_all(3) == [layer(3, 2, 0), layer(3, 2, 1)]
    assert aside.take_all(3) == []
    assert aside.senders == {2}
    assert aside.take_all() == [layer(2, 2, 0), layer(2, 2, 1)]
    assert len(aside) == 0
    assert not aside.senders


def test_what_exceeds_the_room_is_let_go_of_whoever_has_most_but_one_of_each_stays() -> None:
    aside = SetAside(10 * EMPTY)
    for sequence in range(10):
        assert aside.put(layer(1, sequence)) == set()
    assert aside.put(layer(1, 10)) == {1}
    assert aside.put(layer(2, 0)) == {1}
    assert aside.put(layer(2, 1, payload=bytes(5 * EMPTY))) == {1, 2}
    assert aside.senders == {1, 2}
    assert aside.holds(PictureKey(1, 0))
    assert aside.holds(PictureKey(2, 0))
    for sender in range(1000):
        aside.put(layer(sender, 0))
    assert len(aside.senders) == len(aside) == MOST_SENDERS


class Ingesting:
    """An ingest with a real archive, in which one sender has a file where its folder must be."""

    def __init__(self, folder: Path, limit: int = 64 << 20) -> None:
        self.obstacle = folder / "archive" / f"{BROKEN:08x}"
        self.archive = Archive(str(folder / "archive"), bundle_id=BUNDLE)
        self.obstacle.write_text("in the way")
        self.acknowledged: list[tuple[int, int, int]] = []
        self.asked: list[int] = []
        self.lines = Lines()
        self.gate = Gate()
        self.background = Background("test")
        self.ingest = Ingest(
            self.archive,
            self.background,
            cast(Listeners, self.gate),
            acknowledge=lambda one: self.acknowledged.append((*one.key, one.layer)),
            refuse=lambda one, highest: None,
            ask_again=self.asked.append,
            stored=self._stored,
            status=Status(),
            report=self.lines,
            limit=limit,
            retry_after=0.05,
        )

    @staticmethod
    async def _stored(key: PictureKey, base: bool) -> None:
        pass

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.ingest.run())
        try:
            yield
        finally:
            await self.ingest.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.background.close()
            self.archive.close()


def test_others_go_on_and_what_was_refused_is_stored_in_order_later(tmp_path: Path) -> None:
    async def run() -> None:
        one = Ingesting(tmp_path)
        async with one.running():
            # Far more than a batch of them is before the others.
            for sequence in range(200):
                one.ingest.add(received(BROKEN, sequence, 0))
            for sequence in range(100):
                one.ingest.add(received(SOUND, sequence, 0))
            for sequence in range(200):
                one.ingest.add(received(BROKEN, sequence, 1))
            await until(lambda: len(one.acknowledged) == 100)
            assert {sender for sender, _, _ in one.acknowledged} == {SOUND}
            await asyncio.sleep(0.3)
            assert one.ingest.waiting == 400
            assert not one.ingest.idle
            assert len(one.lines.warned) == 1
            assert f"{BROKEN:08x}" in one.lines.warned[0]
            assert "others go on" in one.lines.warned[0]
            one.obstacle.unlink()
            await until(lambda: one.ingest.idle)
            late = one.acknowledged[100:]
            assert len(late) == 400
            for sequence in range(200):
                assert [n for _, known, n in late if known == sequence] == [0, 1], "in order"
        assert one.lines.said == [f"the archive takes layers of sender {BROKEN:08x} again"]
        assert len(one.lines.warned) == 1
        assert one.asked == []
        assert one.gate.is_open() is False, "closed with the ingest"

    asyncio.run(run())


def test_what_waits_for_a_place_is_bounded_and_asked_for_again_when_there_is_one(tmp_path: Path) -> None:
    async def run() -> None:
        one = Ingesting(tmp_path, limit=40 * EMPTY)
        async with one.running():
            for sequence in range(200):
                one.ingest.add(layer(BROKEN, sequence))
                await asyncio.sleep(0)
            await until(lambda: one.ingest.waiting <= 20)
            assert one.gate.is_open(), "others may go on"
            await asyncio.sleep(0.2)
            assert one.asked == []
            one.obstacle.unlink()
            await until(lambda: one.ingest.idle)
            await until(lambda: one.asked == [BROKEN])
            assert len(one.acknowledged) <= 20

    asyncio.run(run())


def test_few_places_are_tried_again_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        one = Ingesting(tmp_path)
        async with one.running():
            for sequence in range(1000):
                one.ingest.add(received(BROKEN, sequence, 0))
            await until(lambda: bool(one.lines.warned) and not one.ingest._waiting and not one.ingest._in_hand)
            attempts: list[str] = []
            write = one.archive.files.write

            def counted(name: str, data: bytes) -> None:
                attempts.append(name)
                write(name, data)

            with monkeypatch.context() as patched:
                patched.setattr(one.archive.files, "write", counted)
                since = asyncio.get_running_loop().time()
                await asyncio.sleep(0.5)
                times = (asyncio.get_running_loop().time() - since) / 0.05
                assert 0 < len(attempts) <= times + 1, "one of this sender each time"

    asyncio.run(run())


def test_a_restart_stores_at_the_end_what_has_a_place_by_then(tmp_path: Path) -> None:
    async def run() -> None:
        one = Ingesting(tmp_path)
        one.ingest._retry_after = 1000.0
        async with one.running():
            one.ingest.add(received(BROKEN, 1, 0))
            await until(lambda: bool(one.lines.warned))
            one.obstacle.unlink()
        assert one.acknowledged == [(BROKEN, 1, 0)]

    asyncio.run(run())


def test_a_sender_without_a_place_sends_all_again_when_it_has_one(tmp_path: Path) -> None:
    async def run() -> None:
        config = ReceiverConfig(settle=0.3, retry_after=0.05, close_timeout=2.0, waiting_bytes=16 * EMPTY)
        running = Running(tmp_path, FakeDecoder(), config)
        obstacle = tmp_path / "archive" / f"{BROKEN:08x}"
        obstacle.parent.mkdir()
        obstacle.write_text("in the way")
        async with running.started(), TestSender(sender=BROKEN).connected(running.tcp) as end:
            for sequence in range(20):
                end.submit(sequence, make_layers(sequence))
            await until(lambda: bool(running.lines.warned))
            for sequence in range(5):
                await send(running.tcp, {n: make_layers(n) for n in range(10)}, sender=10 + sequence)
            assert end.acknowledged == []
            obstacle.unlink()
            await until(lambda: end.session.backlog_bytes == 0)
            assert sorted(end.acknowledged) == [(sequence, number) for sequence in range(20) for number in range(3)]
        assert len([line for line in running.lines.warned if "cannot write" in line]) == 1

    asyncio.run(run())
