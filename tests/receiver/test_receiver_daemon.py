import asyncio
import contextlib
import errno
import gc
import os
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from receiver.admission import Admission
from receiver.archive import Archive, ReceivedLayer
from receiver.daemon import Receiver, ReceiverConfig
from receiver.engine import LocalEngine
from receiver.listeners import Listeners
from receiver.pictures import PictureKey, Stage, State
from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from shared.link.config import LinkConfig
from shared.link.events import NumberTaken, SenderEvent
from shared.link.station import Station
from tests.receiver.fake_decoder import BUNDLE, FakeDecoder, make_layers
from tests.receiver.sending import TestSender, free_port, send, until

SENDER = 0x2A
CONFIG = ReceiverConfig(settle=0.3, retry_after=0.05, close_timeout=2.0)


class Lines:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)

    def warning(self, text: str) -> None:
        self.warned.append(text)


class Running:
    """A receiver in this process, listening on a real ZeroMQ and a real UDP socket."""

    def __init__(
        self,
        folder: Path,
        decoder: FakeDecoder,
        config: ReceiverConfig = CONFIG,
        admission: Admission | None = None,
    ) -> None:
        self.archive_url = str(folder / "archive")
        self.decoder = decoder
        self.config = config
        self.admission = admission
        self.tcp = f"tcp://127.0.0.1:{free_port()}"
        self.udp = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        self.lines = Lines()
        self.stop = asyncio.Event()
        self.receiver: Receiver

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator["Running"]:
        loop = asyncio.get_running_loop()
        self.receiver = Receiver(
            self.config,
            archive=Archive(self.archive_url, bundle_id=BUNDLE),
            engine=LocalEngine(self.decoder),
            station=Station(LinkConfig(), now=loop.time()),
            listeners=await Listeners.open([self.tcp, self.udp]),
            report=self.lines,
            admission=self.admission,
            clock=loop.time,
        )
        task = asyncio.create_task(self.receiver.run(self.stop))
        try:
            yield self
        finally:
            self.stop.set()
            assert await task

    def picture(self, sequence: int, stage: Stage, sender: int = SENDER) -> Pixels:
        return np.asarray(Image.open(Path(self.archive_url) / f"{sender:08x}/{sequence}/{stage}.png"))

    def shown(self, sequence: int, stage: Stage, sender: int = SENDER) -> bool:
        return (Path(self.archive_url) / f"{sender:08x}/{sequence}/{stage}.png").exists()


def decoded(layers: Sequence[bytes], sequence: int, sender: int = SENDER) -> Pixels:
    return FakeDecoder().decode(layers, seed=PictureKey(sender, sequence).seed)


def states(running: Running) -> dict[int, State]:
    archive = Archive(running.archive_url, bundle_id=BUNDLE)
    found = {record.key.sequence: record.state for record in archive.index.pictures()}
    archive.close()
    return found


def test_several_senders_over_zeromq_and_udp_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with Running(tmp_path, FakeDecoder()).started() as running:
            status = running.receiver.status
            await asyncio.gather(
                send(running.tcp, {n: make_layers(n) for n in range(4)}, sender=1),
                send(running.tcp, {n: make_layers(n) for n in range(3)}, sender=2),
                send(running.udp, {n: make_layers(n) for n in range(5)}, sender=3),
            )
            await until(lambda: status.decoded == 12)
        assert (status.pictures, status.layers, status.duplicates, status.previews) == (12, 36, 0, 12)
        assert status.by_sender == {1: 4, 2: 3, 3: 5}
        for sender, pictures in status.by_sender.items():
            for sequence in range(pictures):
                layers = make_layers(sequence)
                assert np.array_equal(running.picture(sequence, Stage.FULL, sender), decoded(layers, sequence, sender))
        assert running.lines.warned == []
        facts = Image.open(tmp_path / "archive/00000001/0/picture.png").info
        assert facts["pinhole:layers"] == "3/3"
        assert "invented" in facts["Disclaimer"]

    asyncio.run(run())


def test_an_incomplete_picture_is_decoded_after_settling_and_again_with_its_late_layer(tmp_path: Path) -> None:
    async def run() -> None:
        layers = make_layers(7)
        running = Running(tmp_path, FakeDecoder())
        async with running.started(), TestSender().connected(running.tcp) as sender:
            sender.submit(7, layers[:1], total=3)
            await until(lambda: running.shown(7, Stage.FULL))
            assert np.array_equal(running.picture(7, Stage.PREVIEW), FakeDecoder().preview(layers[:1]))
            assert np.array_equal(running.picture(7, Stage.FULL), decoded(layers[:1], 7))
            sender.submit(7, layers[2:], first=2, total=3)
            await until(lambda: (7, 2) in sender.acknowledged)
            sender.submit(7, layers[1:2], first=1, total=3)
            await until(lambda: running.receiver.status.refined == 2)
        assert np.array_equal(running.picture(7, Stage.PREVIEW), FakeDecoder().preview(layers))
        assert np.array_equal(running.picture(7, Stage.FULL), decoded(layers, 7))
        assert running.receiver.status.decoded == 1

    asyncio.run(run())


def test_layers_sent_again_after_a_restart_of_the_sender_are_acknowledged_and_counted(tmp_path: Path) -> None:
    async def run() -> None:
        running = Running(tmp_path, FakeDecoder())
        async with running.started():
            await send(running.tcp, {1: make_layers(1)}, epoch=1)
            await until(lambda: running.receiver.status.decoded == 1)
            await send(running.tcp, {1: make_layers(1)}, epoch=2)
        status = running.receiver.status
        assert (status.layers, status.duplicates, status.decoded, status.refined) == (3, 3, 1, 0)

    asyncio.run(run())


def test_a_corrupt_layer_is_never_shown_and_the_layers_before_it_are(tmp_path: Path) -> None:
    async def run() -> None:
        pictures = {number: make_layers(number) for number in range(3)}
        pictures[0][0] = pictures[0][0][:-1] + bytes([pictures[0][0][-1] ^ 0x40])
        pictures[1][2] = pictures[1][2][:-1] + bytes([pictures[1][2][-1] ^ 0x40])
        running = Running(tmp_path, FakeDecoder())
        async with running.started():
            await send(running.tcp, pictures)
            # How many prefixes are tried depends on how many layers were there when a decode began.
            await until(lambda: running.receiver.status.decoded == 2 and running.receiver.status.corrupt >= 2)
            await until(lambda: not any(running.receiver.waiting.values()))
        assert not running.shown(0, Stage.PREVIEW)
        assert not running.shown(0, Stage.FULL)
        assert np.array_equal(running.picture(1, Stage.FULL), decoded(make_layers(1)[:2], 1))
        assert np.array_equal(running.picture(2, Stage.FULL), decoded(make_layers(2), 2))
        assert states(running) == {0: State.CORRUPT, 1: State.DECODED, 2: State.DECODED}
        assert all("picture 0" in line or "picture 1" in line for line in running.lines.warned)

    asyncio.run(run())


def test_foreign_and_oversized_pictures_are_archived_but_not_decoded(tmp_path: Path) -> None:
    async def run() -> None:
        running = Running(tmp_path, FakeDecoder())
        async with running.started():
            pictures = {n: make_layers(n, bundle=b"else") for n in range(3)}
            pictures[3] = make_layers(3, width=60_000, height=60_000)
            await send(running.tcp, pictures)
            await until(lambda: running.receiver.status.unknown_bundle + running.receiver.status.refused == 4)
        assert running.decoder.calls == []
        assert len(running.lines.warned) == 2
        assert b"else".hex() in running.lines.warned[0]
        assert "--max-megapixels" in running.lines.warned[1]
        found = states(running)
        assert [found[n] for n in range(3)] == [State.UNKNOWN_BUNDLE] * 3
        assert (tmp_path / "archive/0000002a/2/layer-2.bin").read_bytes() == make_layers(2)[2]

    asyncio.run(run())


class Disk:
    """Lets renames fail the way a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.refused = 0
        replace = os.replace

        def guarded(source: str, target: str) -> None:
            if self.full:
                self.refused += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source)
            replace(source, target)

        monkeypatch.setattr(os, "replace", guarded)


def test_a_full_disk_acknowledges_nothing_and_all_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)

    async def run() -> None:
        running = Running(tmp_path, FakeDecoder())
        async with running.started(), TestSender().connected(running.tcp) as sender:
            sender.submit(1, make_layers(1))
            await until(lambda: running.receiver.status.decoded == 1 and len(sender.acknowledged) == 3)
            disk.full = True
            sender.submit(2, make_layers(2))
            await until(lambda: disk.refused >= 3)
            assert [sequence for sequence, _ in sender.acknowledged] == [1, 1, 1]
            disk.full = False
            await until(lambda: running.receiver.status.decoded == 2)
            await until(lambda: sender.session.backlog_bytes == 0)
        assert len(running.lines.warned) == 1
        assert "No space left on device" in running.lines.warned[0]
        assert "the archive takes layers again" in running.lines.said

    asyncio.run(run())


def test_what_waited_for_the_disk_does_not_acknowledge_another_picture_of_a_restored_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)

    async def run() -> None:
        running = Running(tmp_path, FakeDecoder())
        async with running.started():
            disk.full = True
            async with TestSender(epoch=1).connected(running.tcp) as first:
                first.submit(1, make_layers(1))
                await until(lambda: running.receiver.waiting["to store"] == 3)
            given_back: list[SenderEvent] = []
            restored = TestSender(epoch=2)
            monkeypatch.setattr(restored, "_note", given_back.append)
            async with restored.connected(running.tcp):
                restored.submit(1, make_layers(2))
                await until(lambda: running.receiver.waiting["to store"] == 6)
                disk.full = False
                await until(lambda: restored.session.backlog_bytes == 0 and bool(given_back))
        assert given_back == [NumberTaken(1, 1)]

    asyncio.run(run())


def test_a_full_disk_holds_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)

    async def run() -> None:
        config = ReceiverConfig(settle=0.3, retry_after=0.05, waiting_bytes=1000)
        running = Running(tmp_path, FakeDecoder(), config)
        async with running.started(), TestSender().connected(running.tcp) as sender:
            disk.full = True
            for number in range(60):
                sender.submit(number, make_layers(number))
            await until(lambda: disk.refused >= 5)
            # One packet may carry a few layers past the limit, but not all 180 of them.
            assert 0 < running.receiver.waiting["to store"] < 60
            disk.full = False
            await until(lambda: running.receiver.status.decoded == 60)

    asyncio.run(run())


class Failing(FakeDecoder):
    def decode(self, layers: Sequence[bytes], *, steps: int | None = None, seed: int = 0) -> Pixels:
        if layers[0] == make_layers(1)[0]:
            raise MemoryError("out of memory\non the accelerator")
        return super().decode(layers, steps=steps, seed=seed)


def test_a_defect_in_one_decode_is_one_line_and_tried_again_at_the_next_start(tmp_path: Path) -> None:
    async def run() -> None:
        first = Running(tmp_path, Failing())
        async with first.started():
            await send(first.tcp, {n: make_layers(n) for n in range(3)})
            await until(lambda: first.receiver.status.decoded == 2 and first.receiver.status.failures == 1)
        assert len(first.lines.warned) == 1
        assert "MemoryError" in first.lines.warned[0]
        second = Running(tmp_path, FakeDecoder())
        async with second.started():
            await until(lambda: second.receiver.status.decoded == 1)
        assert second.receiver.status.resumed == 1
        assert second.decoder.calls == [("decode", 3)]

    asyncio.run(run())


def test_more_pictures_than_the_queue_holds_are_all_decoded(tmp_path: Path) -> None:
    async def run() -> None:
        config = ReceiverConfig(settle=0.3, queue_limit=4, retry_after=0.05, until_idle=0.5)
        running = Running(tmp_path, FakeDecoder(seconds=0.005), config)
        async with running.started():
            await send(running.tcp, {n: make_layers(n) for n in range(50)})
            await until(lambda: running.receiver.status.decoded == 50)
        assert set(states(running).values()) == {State.DECODED}

    asyncio.run(run())


def test_previews_only(tmp_path: Path) -> None:
    async def run() -> None:
        config = ReceiverConfig(full=False, until_idle=0.2)
        running = Running(tmp_path, FakeDecoder(), config)
        async with running.started():
            await send(running.tcp, {1: make_layers(1)})
            await until(lambda: running.shown(1, Stage.PREVIEW))
        assert not running.shown(1, Stage.FULL)
        assert all(stage == "preview" for stage, _ in running.decoder.calls)

    asyncio.run(run())


def test_noise_on_the_port_is_dropped(tmp_path: Path) -> None:
    async def run() -> None:
        running = Running(tmp_path, FakeDecoder())
        async with running.started():
            host, port = running.udp.removeprefix("udp://").split(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
                for size in range(0, 1400, 7):
                    noise.sendto(os.urandom(size), (host, int(port)))
            await send(running.udp, {1: make_layers(1)})
            await until(lambda: running.receiver.status.decoded == 1)
        assert running.receiver.status.pictures == 1

    asyncio.run(run())


def test_a_port_in_use_is_one_clear_error_and_leaves_the_others_free(tmp_path: Path) -> None:
    async def run() -> None:
        free = f"tcp://127.0.0.1:{free_port()}"
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            used = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(PinholeError, match=str(taken.getsockname()[1])):
                await Listeners.open([free, used])
        listeners = await Listeners.open([free])
        await listeners.close()

    asyncio.run(run())


class Forgetful(Admission):
    """Cannot store which sessions are old for the first few times that it is asked."""

    def __init__(self) -> None:
        self.refusals = 12

    def tick(self, station: Station, now: float) -> None:
        pass

    def before_acknowledging(self) -> bool:
        self.refusals -= 1
        return self.refusals < 0

    def close(self) -> None:
        pass


def kept_layers(sender: int) -> list[ReceivedLayer]:
    return [one for one in gc.get_objects() if type(one) is ReceivedLayer and one.key.sender == sender]


def test_layers_stored_while_their_session_could_not_be_remembered_are_acknowledged_later(tmp_path: Path) -> None:
    async def run() -> None:
        forgetful = Forgetful()
        async with Running(tmp_path, FakeDecoder(), admission=forgetful).started() as running:
            async with TestSender(sender=0xFEED).connected(running.tcp) as end:
                end.submit(1, make_layers(1))
                await until(lambda: running.receiver.status.layers == 3)
                assert end.acknowledged == []
                # Of what is on disk, no more than its number is kept for that time.
                await until(lambda: not kept_layers(0xFEED))
                assert end.acknowledged == []
                # Nothing more is sent; what waits is acknowledged all the same.
                await until(lambda: end.session.backlog_bytes == 0)
            assert forgetful.refusals < 0

    asyncio.run(run())
