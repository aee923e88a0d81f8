import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from sender.feed import DEFAULT_WINDOW
from sender.intake import Intake
from sender.node import NodeSettings, SenderNode
from sender.rate import RatePolicy
from sender.renumbering import Renumbered
from sender.source import WatchedFolder, capture_time
from sender.spool import Backlog, DonePicture, Spool, SpoolFullError, WaitingLayer
from shared.errors import PinholeError
from shared.link.events import NumberTaken
from shared.picture import load_picture
from shared.transports import open_client
from shared.transports.base import ClientTransport
from tests.sender.fake_encoder import FakeEncoder
from tests.sender.ground import FAST, Ground, ground_station
from tests.sender.pictures import write_picture

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds after which a test that hangs fails; no test waits for it otherwise


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(params=["tcp", "udp"])
def url(request: pytest.FixtureRequest) -> str:
    kind = socket.SOCK_STREAM if request.param == "tcp" else socket.SOCK_DGRAM
    return f"{request.param}://127.0.0.1:{free_port(kind)}"


def expected(folder: Path) -> list[list[bytes]]:
    """The pictures of a folder as the ground must have them: each once, as the fake encoder makes them."""
    encoder = FakeEncoder()
    return [encoder.encode(load_picture(path), 2, captured=capture_time(path)) for path in sorted(folder.iterdir())]


def make_node(
    folder: Path,
    spool: Spool,
    url: str,
    lines: list[str],
    *,
    once: bool = True,
    simplex: bool = False,
    window: int = DEFAULT_WINDOW,
) -> SenderNode:
    source = WatchedFolder(folder, taken=spool.knows_revision)
    return SenderNode(
        Intake(source, FakeEncoder(), spool, RatePolicy(quality=2)),
        spool,
        replace(FAST, simplex=simplex),
        lambda: open_client(url),
        settings=NodeSettings(once=once, poll_every=0.05, silence=0.5, window=window),
        report=lines.append,
    )


@asynccontextmanager
async def running(node: SenderNode) -> AsyncIterator[None]:
    """Run a node while the body runs, then stop it as a signal would."""
    task = asyncio.create_task(node.run())
    try:
        yield
    finally:
        node.stop()
        await task


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_once_brings_every_picture_and_ends(tmp_path: Path, url: str) -> None:
    for seed in range(12):
        write_picture(tmp_path / "in" / f"{seed}.png", seed)

    async def transfer() -> Ground:
        async with ground_station(url) as ground:
            counters = await asyncio.wait_for(make_node(tmp_path / "in", spool, url, lines).run(), PATIENCE)
            assert (counters.taken, counters.done, counters.refused) == (12, 12, 0)
        return ground

    lines: list[str] = []
    with closing(Spool(tmp_path / "state")) as spool:
        ground = asyncio.run(transfer())
        assert spool.backlog == Backlog(0, 0, 0)
    assert sorted(ground.pictures()) == sorted(expected(tmp_path / "in"))
    assert len([line for line in lines if "acknowledged" in line]) == 12


def test_once_on_an_empty_folder_ends_without_a_station(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with closing(Spool(tmp_path / "state")) as spool:
        node = make_node(tmp_path / "in", spool, f"tcp://127.0.0.1:{free_port()}", [])
        assert asyncio.run(asyncio.wait_for(node.run(), PATIENCE)).taken == 0


def test_a_simplex_link_ends_when_everything_is_sent(tmp_path: Path, url: str) -> None:
    for seed in range(5):
        write_picture(tmp_path / "in" / f"{seed}.png", seed)

    async def transfer() -> Ground:
        async with ground_station(url, simplex=True) as ground:
            node = make_node(tmp_path / "in", spool, url, [], simplex=True)
            await asyncio.wait_for(node.run(), PATIENCE)
            assert node.statistics.reports_received == 0
            await asyncio.wait_for(ground.until(lambda ground: len(ground.pictures()) == 5), PATIENCE)
        return ground

    with closing(Spool(tmp_path / "state")) as spool:
        ground = asyncio.run(transfer())
        assert spool.backlog == Backlog(0, 0, 0)
    assert sorted(ground.pictures()) == sorted(expected(tmp_path / "in"))


def test_pictures_that_come_while_it_runs_and_bad_ones(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "in"
    write_picture(folder / "first.png", 1)

    async def transfer() -> Ground:
        async with ground_station(url) as ground:
            node = make_node(folder, spool, url, lines, once=False)
            async with running(node):
                await asyncio.wait_for(ground.until(lambda ground: len(ground.pictures()) == 1), PATIENCE)
                (folder / "bad.png").write_bytes(b"nothing")
                write_picture(folder / "second.png", 2)
                await asyncio.wait_for(ground.until(lambda ground: len(ground.pictures()) == 2), PATIENCE)
                await asyncio.wait_for(until(lambda: node.counters.done == 2 and node.counters.refused), PATIENCE)
        return ground

    lines: list[str] = []
    with closing(Spool(tmp_path / "state")) as spool:
        ground = asyncio.run(transfer())
    (folder / "bad.png").unlink()
    assert sorted(ground.pictures()) == sorted(expected(folder))
    assert len([line for line in lines if "bad.png" in line]) == 1


def test_the_station_may_be_away_and_the_node_restarted(tmp_path: Path, url: str) -> None:
    for seed in range(6):
        write_picture(tmp_path / "in" / f"{seed}.png", seed)

    async def without_a_station() -> None:
        node = make_node(tmp_path / "in", spool, url, lines)
        async with running(node):
            await asyncio.wait_for(until(lambda: node.counters.taken == 6 and node.station_away), PATIENCE)

    async def with_a_late_station() -> Ground:
        node = make_node(tmp_path / "in", spool, url, lines)
        task = asyncio.create_task(node.run())
        await asyncio.wait_for(until(lambda: node.station_away), PATIENCE)
        async with ground_station(url) as ground:
            counters = await asyncio.wait_for(task, PATIENCE)
        assert (counters.taken, counters.done) == (0, 6)
        return ground

    lines: list[str] = []
    with closing(Spool(tmp_path / "state")) as spool:
        asyncio.run(without_a_station())
        assert spool.backlog.pictures == 6
    assert len([line for line in lines if "has not answered" in line]) == 1
    with closing(Spool(tmp_path / "state")) as spool:
        ground = asyncio.run(with_a_late_station())
    assert sorted(ground.pictures()) == sorted(expected(tmp_path / "in"))
    assert any("6 pictures" in line and "earlier run" in line for line in lines)


def test_a_source_that_goes_away_ends_once_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with closing(Spool(tmp_path / "state")) as spool:
        node = make_node(tmp_path / "in", spool, f"tcp://127.0.0.1:{free_port()}", [])
        (tmp_path / "in").rmdir()
        with pytest.raises(PinholeError, match="--source"):
            asyncio.run(asyncio.wait_for(node.run(), PATIENCE))


class Breaking:
    """A real transport that fails after a few packets, as a modem that is unplugged."""

    def __init__(self, inner: ClientTransport, packets: int) -> None:
        self._inner = inner
        self._left = packets

    async def send(self, packet: bytes, priority: int = 0) -> None:
        self._left -= 1
        if self._left < 0:
            raise OSError("unplugged")
        await self._inner.send(packet, priority)

    async def receive(self) -> bytes:
        return await self._inner.receive()

    async def close(self) -> None:
        await self._inner.close()


def test_a_link_that_fails_is_opened_again(tmp_path: Path, url: str) -> None:
    for seed in range(4):
        write_picture(tmp_path / "in" / f"{seed}.png", seed)
    opened: list[ClientTransport] = []

    async def open_again() -> ClientTransport:
        if len(opened) == 1:
            opened.append(opened[0])
            raise PinholeError("no way to that host")
        opened.append(await open_client(url))
        return Breaking(opened[-1], 2 if len(opened) == 1 else 10**6)

    async def transfer() -> Ground:
        async with ground_station(url) as ground:
            node = SenderNode(
                Intake(WatchedFolder(tmp_path / "in"), FakeEncoder(), spool, RatePolicy(quality=2)),
                spool,
                FAST,
                open_again,
                settings=NodeSettings(once=True, poll_every=0.05),
                report=lines.append,
            )
            await asyncio.wait_for(node.run(), PATIENCE)
        return ground

    lines: list[str] = []
    with closing(Spool(tmp_path / "state")) as spool:
        ground = asyncio.run(transfer())
    assert sorted(ground.pictures()) == sorted(expected(tmp_path / "in"))
    assert len(opened) == 3
    assert len([line for line in lines if "unplugged" in line]) == 1


def test_what_is_too_old_is_given_up_whether_or_not_it_has_been_sent(tmp_path: Path) -> None:
    for seed in range(5):
        write_picture(tmp_path / "in" / f"{seed}.png", seed)

    async def wait() -> None:
        node = SenderNode(
            Intake(WatchedFolder(tmp_path / "in"), FakeEncoder(), spool, RatePolicy(quality=2)),
            spool,
            FAST,
            lambda: open_client(f"tcp://127.0.0.1:{free_port()}"),
            settings=NodeSettings(poll_every=0.05, max_age=0.01, window=2),
            report=lines.append,
        )
        async with running(node):
            await asyncio.wait_for(until(lambda: node.counters.expired == 5), PATIENCE)
            assert node.counters.taken == 5
            assert node.statistics.layers_withdrawn > 0

    lines: list[str] = []
    with closing(Spool(tmp_path / "state")) as spool:
        asyncio.run(wait())
        assert spool.waiting_bases(0, 9) == []
    assert any("given up" in line for line in lines)


def pictures_with(folder: Path, seeds: Iterable[int]) -> Path:
    for seed in seeds:
        write_picture(folder / f"{seed}.png", seed)
    return folder


class FullForAWhile(Spool):
    """A spool whose disk is full the first times that something is written."""

    refusals = 2

    def _refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise SpoolFullError("the disk is full; free some space")


class FullWhenTaking(FullForAWhile):
    def take(
        self, name: str, digest: bytes, revision: str, *, captured: int, quality: float, layers: Sequence[bytes]
    ) -> int:
        self._refuse()
        return super().take(name, digest, revision, captured=captured, quality=quality, layers=layers)


class FullWhenSettling(FullForAWhile):
    def settle(self, layers: Iterable[tuple[int, int]]) -> list[DonePicture]:
        self._refuse()
        return super().settle(layers)


class FullWhenExpiring(FullForAWhile):
    def expire(self, max_age: float, *, keep: Collection[int] = ()) -> list[int]:
        self._refuse()
        return super().expire(max_age, keep=keep)


def test_a_full_disk_only_puts_off_giving_up(tmp_path: Path) -> None:
    write_picture(tmp_path / "in" / "0.png", 0)

    async def wait() -> None:
        node = SenderNode(
            Intake(WatchedFolder(tmp_path / "in"), FakeEncoder(), spool, RatePolicy(quality=2)),
            spool,
            FAST,
            lambda: open_client(f"tcp://127.0.0.1:{free_port()}"),
            settings=NodeSettings(poll_every=0.05, max_age=0.01),
            report=lambda line: None,
        )
        async with running(node):
            await asyncio.wait_for(until(lambda: node.counters.expired == 1), PATIENCE)

    with closing(FullWhenExpiring(tmp_path / "state")) as spool:
        asyncio.run(wait())
        assert spool.refusals == 0


def test_what_cannot_be_written_down_at_the_end_stays_in_the_spool(tmp_path: Path, url: str) -> None:
    write_picture(tmp_path / "in" / "0.png", 0)

    async def transfer() -> None:
        async with ground_station(url) as ground:
            node = make_node(tmp_path / "in", spool, url, [], once=False)
            async with running(node):
                await asyncio.wait_for(ground.until(lambda ground: len(ground.pictures()) == 1), PATIENCE)
                await asyncio.wait_for(until(lambda: node.statistics.layers_acknowledged), PATIENCE)

    with closing(FullWhenSettling(tmp_path / "state")) as spool:
        spool.refusals = 10**6
        asyncio.run(transfer())
        assert spool.backlog.pictures == 1


def test_a_node_can_be_stopped_while_it_connects(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()

    async def stop() -> None:
        connecting, given_up = asyncio.Event(), asyncio.Event()

        async def connect() -> ClientTransport:
            connecting.set()
            try:
                await asyncio.Event().wait()
            finally:
                given_up.set()
            raise AssertionError

        node = SenderNode(
            Intake(WatchedFolder(tmp_path / "in"), FakeEncoder(), spool, RatePolicy(quality=2)),
            spool,
            FAST,
            connect,
            report=lambda line: None,
        )
        async with running(node):
            await connecting.wait()
        assert given_up.is_set()

    with closing(Spool(tmp_path / "state")) as spool:
        asyncio.run(asyncio.wait_for(stop(), PATIENCE))


class FullWhenRenumbering(FullForAWhile):
    def renumber(self, sequences: Iterable[int], highest: int) -> list[Renumbered]:
        self._refuse()
        return super().renumber(sequences, highest)


@pytest.mark.parametrize("full", [False, True])
def test_a_spool_from_a_backup_takes_new_numbers_and_loses_nothing(
    tmp_path: Path, url: str, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second life's pictures, some have the numbers of the first life's, one is older than the backup."""
    monkeypatch.setattr("sender.node._RETRY_DISK", 0.05)
    kind = FullWhenRenumbering if full else Spool

    async def run(state: str, folder: Path, lines: list[str], renumbered: int = 0) -> None:
        clock[0] += 1000.0  # by which an unsealed station knows the later start
        with closing(kind(tmp_path / state, clock=lambda: clock[0])) as spool:
            node = make_node(folder, spool, url, lines, window=3)
            counters = await asyncio.wait_for(node.run(), PATIENCE)
            assert spool.backlog == Backlog(0, 0, 0)
            assert (counters.done, counters.renumbered) == (len([*folder.iterdir()]), renumbered)

    async def two_lives() -> Ground:
        async with ground_station(url) as ground:
            await run("state", pictures_with(tmp_path / "before", [0, 1]), first)
            shutil.copytree(tmp_path / "state", tmp_path / "backup")
            await run("state", pictures_with(tmp_path / "first", range(10, 14)), first)
            await run("backup", pictures_with(tmp_path / "second", range(20, 26)), second, renumbered=4)
        return ground

    clock = [1_700_000_000.0]
    first: list[str] = []
    second: list[str] = []
    ground = asyncio.run(two_lives())
    wanted = [layers for name in ("before", "first", "second") for layers in expected(tmp_path / name)]
    assert sorted(ground.pictures()) == sorted(wanted)
    assert not [line for line in first if "goes on" in line]
    assert len([line for line in second if "restored from a backup, or copied" in line]) == 1
    moved = [line for line in second if "goes on as picture" in line]
    assert len(moved) == 4
    assert {int(line.split(": picture ")[1].split()[0]) for line in moved} == {3, 4, 5, 6}
    assert min(int(line.rsplit(" ", 1)[1]) for line in moved) > 6


def test_layers_read_while_a_number_is_found_to_be_taken_go_out_under_the_new_one_only(tmp_path: Path) -> None:
    folder = pictures_with(tmp_path / "in", [1])
    url = f"tcp://127.0.0.1:{free_port()}"

    async def transfer() -> Ground:
        async with ground_station(url) as ground:
            node = make_node(folder, spool, url, [])
            loop, read = asyncio.get_running_loop(), node._feed.next_layers

            def slow() -> list[WaitingLayer]:
                layers = read()
                if layers and layers[0].sequence == 1:
                    told = asyncio.run_coroutine_threadsafe(tell(node), loop)
                    told.result(PATIENCE)
                return layers

            node._feed.next_layers = slow  # type: ignore[method-assign]
            counters = await asyncio.wait_for(node.run(), PATIENCE)
            assert (counters.done, counters.renumbered) == (1, 1)
        return ground

    async def tell(node: SenderNode) -> None:
        node._on_event(NumberTaken(1, 9))

    with closing(Spool(tmp_path / "state")) as spool:
        ground = asyncio.run(transfer())
    assert ground.pictures() == expected(folder)
    assert {sequence for _, sequence, _ in ground.deliveries} == {10}


def test_a_station_that_has_counted_too_far_is_not_believed(tmp_path: Path, url: str) -> None:
    folder = pictures_with(tmp_path / "in", [1])

    async def transfer() -> None:
        async with ground_station(url, claimed=2**32 - 2) as ground:
            ground.layers[spool.sender, 1, 0] = b"something else"
            node = make_node(folder, spool, url, lines, once=False)
            async with running(node):
                await asyncio.wait_for(until(lambda: any("not believed" in line for line in lines)), PATIENCE)
                pictures_with(folder, [2])
                await asyncio.wait_for(until(lambda: node.counters.done), PATIENCE)
            assert node.counters.renumbered == 0

    lines: list[str] = []
    with closing(Spool(tmp_path / "state")) as spool:
        asyncio.run(transfer())
        assert [layer.sequence for layer in spool.waiting_bases(0, 9)] == [1]
        assert spool.take("next", b"d", "r", captured=0, quality=1, layers=[b"x"]) == 3


@pytest.mark.parametrize("kind", [FullWhenTaking, FullWhenSettling])
def test_a_full_disk_is_waited_out(
    tmp_path: Path, url: str, kind: type[FullForAWhile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sender.node._RETRY_DISK", 0.05)
    for seed in range(3):
        write_picture(tmp_path / "in" / f"{seed}.png", seed)

    async def transfer() -> Ground:
        async with ground_station(url) as ground:
            node = make_node(tmp_path / "in", spool, url, lines, once=False)
            async with running(node):
                await asyncio.wait_for(until(lambda: node.counters.done == 3), PATIENCE)
        return ground

    lines: list[str] = []
    with closing(kind(tmp_path / "state")) as spool:
        ground = asyncio.run(transfer())
        assert spool.backlog == Backlog(0, 0, 0)
    assert sorted(ground.pictures()) == sorted(expected(tmp_path / "in"))
    assert len([line for line in lines if "disk is full" in line]) == 1


def start_driver(folder: Path, state: Path, url: str, *flags: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.sender.node_driver", str(folder), str(state), url, "24000", *flags]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def test_kill_9_in_mid_transfer_loses_and_repeats_nothing(tmp_path: Path) -> None:
    folder, state, url = tmp_path / "in", tmp_path / "state", f"tcp://127.0.0.1:{free_port()}"

    async def run_to_the_end() -> None:
        process = start_driver(folder, state, url, "once")
        _, output = await asyncio.wait_for(asyncio.to_thread(process.communicate), PATIENCE)
        assert process.returncode == 0, output

    async def transfer() -> Ground:
        async with ground_station(url) as ground:
            # An emptied spool must not begin to count again.
            write_picture(folder / "first.png", 99)
            await run_to_the_end()
            assert len(ground.pictures()) == 1
            with closing(Spool(state)) as spool:
                starts.append(spool.epoch)
            for seed in range(10):
                write_picture(folder / f"{seed}.png", seed)
            for kill in range(3):
                process = start_driver(folder, state, url)
                try:
                    await asyncio.wait_for(ground.more_layers(4), PATIENCE)
                finally:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                assert process.returncode == -signal.SIGKILL
                write_picture(folder / f"later-{kill}.png", 100 + kill)
            assert len(ground.pictures()) < 14, "nothing was left to be sent after the kills"
            await run_to_the_end()
        return ground

    starts: list[int] = []
    ground = asyncio.run(transfer())
    # A sequence number that was used twice would show as a contradiction or as a missing picture.
    assert ground.contradictions == []
    assert len({sender for sender, _ in ground.layer_counts}) == 1
    assert sorted(ground.pictures()) == sorted(expected(folder))
    assert len(ground.layer_counts) == 14
    with closing(Spool(state)) as spool:
        assert spool.backlog == Backlog(0, 0, 0)
        assert (spool.epoch - starts[0]) % 65536 == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_node_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    write_picture(tmp_path / "in" / "a.png", 1)
    process = start_driver(tmp_path / "in", tmp_path / "state", f"tcp://127.0.0.1:{free_port()}")
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if "taken as picture 1" in line:
            break
    process.send_signal(number)
    rest, _ = process.stderr.read(), process.wait(PATIENCE)
    assert process.returncode == 0, "".join(seen) + rest
    assert "1 wait in the spool" in rest
    assert "Traceback" not in rest
