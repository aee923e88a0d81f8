"""A relay between senders and a station: over memory with losses, over real UDP sockets, and as a command."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rich.console import Console

from pinhole.relay import Relay, RelayCounters, RelaySettings
from pinhole.relay_command import run_relay
from shared.errors import PinholeError
from shared.link import LayerReceived, SenderSession
from shared.link.packet import SEALED, VERSION_BITS, encode_reset
from shared.link.plain import PlainSender
from shared.transports import open_client, open_station
from shared.transports.base import LARGEST_PACKET, ClientTransport, StationTransport
from shared.transports.memory import Faults, MemoryClient, MemoryStation
from tests.transports.delivery import LIMIT, brisk, deliver, driven, some_pictures

SEALED_PACKET = bytes([VERSION_BITS | SEALED]) + bytes(30)
UNSEALED_PACKET = bytes([VERSION_BITS]) + bytes(30)


_RUN = "import typer; from pinhole.relay_command import relay; app = typer.Typer(); app.command()(relay); app()"


@asynccontextmanager
async def relayed(
    listen: str, to: str, settings: RelaySettings | None = None
) -> AsyncIterator[tuple[Relay, str, list[str]]]:
    listener = await open_station(listen)
    lines: list[str] = []
    relay = Relay(
        [listener],
        lambda: open_client(to),
        settings or RelaySettings(insecure=True),
        report=lines.append,
        clock=time.monotonic,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    try:
        yield relay, listener.url, lines
    finally:
        stop.set()
        await task


class EveryWay:
    """A sender's antenna: all relays hear what it sends, each with its own losses."""

    def __init__(self, ways: list[ClientTransport]) -> None:
        self._ways = ways
        self._received: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._listen(way)) for way in ways]

    async def send(self, packet: bytes, priority: int = 0) -> None:
        for way in self._ways:
            await way.send(packet, priority)

    async def receive(self) -> bytes:
        return await self._received.get()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for way in self._ways:
            await way.close()

    async def _listen(self, way: ClientTransport) -> None:
        while True:
            await self._received.put(await way.receive())


def loss(name: str, seed: int) -> MemoryClient:
    return MemoryClient(name, Faults(loss=0.3, seed=seed), Faults(loss=0.3, seed=seed + 100))


async def layers_over(names: list[str]) -> int:
    """Layers that arrive, simplex and uncoded, if the relays of these names hear the sender."""
    received: list[LayerReceived] = []
    async with (
        driven(await open_station("memory://ground"), received),
        relayed("memory://one", "memory://ground"),
        relayed("memory://two", "memory://ground"),
    ):
        session = SenderSession(
            brisk(simplex=True, parity=0.0, base_parity=0.0), PlainSender(1, 1), now=time.monotonic()
        )
        antenna = EveryWay([loss(name, seed=len(name) + ord(name[0])) for name in names])
        await deliver(session, antenna, some_pictures(9, 100))
        before = -1
        while len(received) > before:
            before = len(received)
            await asyncio.sleep(0.1)
    return len({(event.sequence, event.layer) for event in received})


def test_two_relays_bring_more_of_a_simplex_sender_than_either() -> None:
    async def scenario() -> None:
        one, two = await layers_over(["one"]), await layers_over(["two"])
        both = await layers_over(["one", "two"])
        assert 200 < one < 320
        assert 200 < two < 320
        assert both > max(one, two) + 40

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["memory", "udp"])
def test_with_a_way_back_everything_arrives_through_two_relays(kind: str) -> None:
    async def scenario() -> None:
        received: list[LayerReceived] = []
        wanted = some_pictures(10, 20)
        udp = kind == "udp"
        ground = await open_station("udp://127.0.0.1:0" if udp else "memory://ground")
        async with (
            driven(ground, received),
            relayed("udp://127.0.0.1:0" if udp else "memory://one", ground.url) as (one, url_one, _),
            relayed("udp://127.0.0.1:0" if udp else "memory://two", ground.url) as (two, url_two, _),
        ):
            antenna = EveryWay(
                [Lossy(await open_client(url_one), 1), Lossy(await open_client(url_two), 2)]
                if udp
                else [loss("one", 1), loss("two", 2)]
            )
            session = SenderSession(brisk(rate=2_000_000.0), PlainSender(2, 1), now=time.monotonic())
            events = await deliver(session, antenna, wanted)
            assert len(events) == 80
            assert one.counters.up > 20
            assert two.counters.up > 20
            assert one.counters.down + two.counters.down > 0
        got = {(event.sequence, event.layer): event.payload for event in received}
        assert got == {(number, layer): data for number, layers in wanted.items() for layer, data in enumerate(layers)}
        assert len(received) == 80, "the station tells doubles"

    asyncio.run(scenario())


class Lossy:
    """A client that loses packets, both ways."""

    def __init__(self, inner: ClientTransport, seed: int) -> None:
        self._inner = inner
        self._chance = random.Random(seed)

    async def send(self, packet: bytes, priority: int = 0) -> None:
        if self._chance.random() >= 0.3:
            await self._inner.send(packet, priority)

    async def receive(self) -> bytes:
        while True:
            packet = await self._inner.receive()
            if self._chance.random() >= 0.3:
                return packet

    async def close(self) -> None:
        await self._inner.close()


def test_answers_find_the_sender_that_they_are_for() -> None:
    async def scenario() -> None:
        ground = await open_station("memory://ground")
        async with relayed("memory://relay", "memory://ground") as (relay, _, _), asyncio.timeout(LIMIT):
            senders = [MemoryClient("relay") for _ in range(20)]
            paths: dict[int, Hashable] = {}
            for number, sender in enumerate(senders):
                await sender.send(SEALED_PACKET + bytes([number]))
                path, packet = await ground.receive()
                paths[packet[-1]] = path
            assert len(set(paths.values())) == 20
            for number, path in paths.items():
                await ground.send(path, SEALED_PACKET + bytes([number]))
            for number, sender in enumerate(senders):
                assert (await sender.receive())[-1] == number
            assert (relay.counters.up, relay.counters.down, relay.counters.paths) == (20, 20, 20)
        await ground.close()

    asyncio.run(scenario())


def test_a_shared_line_has_one_connection_and_answers_go_to_all() -> None:
    async def scenario() -> None:
        ground = await open_station("memory://ground")
        settings = RelaySettings(shared=True)
        async with relayed("memory://relay", "memory://ground", settings), asyncio.timeout(LIMIT):
            senders = [MemoryClient("relay") for _ in range(3)]
            paths: set[Hashable] = set()
            for sender in senders:
                await sender.send(SEALED_PACKET)
                paths.add((await ground.receive())[0])
            assert len(paths) == 1
            await ground.send(paths.pop(), SEALED_PACKET)
            for sender in senders:
                assert await sender.receive() == SEALED_PACKET
        await ground.close()

    asyncio.run(scenario())


def test_what_is_not_the_protocols_or_not_sealed_is_dropped_and_counted_and_nothing_kept_of_it() -> None:
    async def scenario() -> None:
        ground = await open_station("memory://ground")
        settings = RelaySettings()
        async with relayed("memory://relay", "memory://ground", settings) as (relay, _, _), asyncio.timeout(LIMIT):
            stranger = MemoryClient("relay")
            other = bytes([VERSION_BITS ^ 0xC0 | SEALED]) + bytes(30)
            ear = relay._listeners[0]
            assert isinstance(ear, MemoryStation)
            ear.take(stranger, SEALED_PACKET + bytes(LARGEST_PACKET))
            for packet in (b"", SEALED_PACKET[:7], other, UNSEALED_PACKET):
                await stranger.send(packet)
            while relay.counters.foreign + relay.counters.unsealed < 5:
                await asyncio.sleep(0.01)
            assert (relay.counters.foreign, relay.counters.unsealed) == (4, 1)
            assert relay.paths == 0
            await stranger.send(SEALED_PACKET)
            path, packet = await ground.receive()
            assert packet == SEALED_PACKET
            for answer in (UNSEALED_PACKET, b"\0nonsense", encode_reset(5), SEALED_PACKET):
                await ground.send(path, answer)
            assert await stranger.receive() == encode_reset(5), "cannot be sealed, and must get through"
            assert await stranger.receive() == SEALED_PACKET
            assert (relay.counters.foreign, relay.counters.unsealed) == (5, 2)
            assert "5 foreign, 2 unsealed" in relay.counters.summary()
        await ground.close()

    asyncio.run(scenario())


def test_paths_are_bounded_and_silent_ones_closed() -> None:
    async def scenario() -> None:
        ground = await open_station("memory://ground")
        settings = RelaySettings(most_paths=10, idle=0.3)
        async with relayed("memory://relay", "memory://ground", settings) as (relay, _, _), asyncio.timeout(LIMIT):
            for _ in range(200):
                await MemoryClient("relay").send(SEALED_PACKET)
                assert relay.paths <= 10
            while relay.counters.paths < 200:
                await asyncio.sleep(0.01)
            assert relay.counters.evicted == 190
            while relay.paths or relay._ending:
                await asyncio.sleep(0.05)
        await ground.close()

    asyncio.run(scenario())


class DeadEnd:
    """A connection that takes nothing, or fails."""

    def __init__(self, failing: bool) -> None:
        self._failing = failing

    async def send(self, packet: bytes, priority: int = 0) -> None:
        if self._failing:
            raise OSError(5, "out of order")
        await asyncio.Event().wait()

    async def receive(self) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("failing", [True, False])
def test_what_waits_is_bounded_in_bytes_while_the_station_is_away(failing: bool) -> None:
    async def scenario() -> None:
        listener = await open_station("memory://relay")
        lines: list[str] = []

        async def open_() -> ClientTransport:
            return DeadEnd(failing)

        relay = Relay([listener], open_, RelaySettings(path_bytes=10_000), report=lines.append, clock=time.monotonic)
        stop = asyncio.Event()
        task = asyncio.create_task(relay.run(stop))
        sender = MemoryClient("relay")
        for _ in range(500):
            await sender.send(SEALED_PACKET + bytes(1000))
            assert relay.waiting_bytes <= 10_000
        assert relay.counters.crowded > 480
        assert len(lines) == (1 if failing else 0)
        stop.set()
        await task
        assert relay.counters.crowded + relay.counters.failed == 500

    asyncio.run(scenario())


def test_a_failing_listener_ends_the_relay_with_its_error() -> None:
    class Broken:
        url = "broken://"

        async def send(self, path: Hashable, packet: bytes) -> None: ...

        async def receive(self) -> tuple[Hashable, bytes]:
            raise PinholeError("the antenna fell down")

        async def close(self) -> None: ...

    async def scenario() -> None:
        listeners: list[StationTransport] = [Broken(), await open_station("memory://relay")]
        relay = Relay(listeners, lambda: open_client("memory://x"), RelaySettings(), report=print, clock=time.monotonic)
        with pytest.raises(PinholeError, match="fell down"):
            await relay.run(asyncio.Event())
        await (await open_station("memory://relay")).close()

    asyncio.run(scenario())


def test_the_summary_of_nothing() -> None:
    assert "dropped: none" in RelayCounters().summary()


def test_addresses_of_no_use_are_told_at_once() -> None:
    for listen, to in (("udp://127.0.0.1:0", "tcp://127.0.0.1:0"), ("udp://x", "udp://127.0.0.1:9")):
        with pytest.raises(PinholeError):
            asyncio.run(run_relay([listen], to, RelaySettings(), Console(quiet=True)))


def test_the_command_relays_until_it_is_told_to_stop(repository: Path) -> None:
    async def scenario() -> None:
        ground = await open_station("udp://127.0.0.1:0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        arguments = f"--listen udp://127.0.0.1:{port} --to {ground.url}".split()
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, *arguments],
            cwd=repository,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "300"},
        )
        try:
            sender = await open_client(f"udp://127.0.0.1:{port}")
            answer = asyncio.create_task(sender.receive())
            async with asyncio.timeout(LIMIT):
                while not answer.done():
                    await sender.send(SEALED_PACKET)
                    try:
                        async with asyncio.timeout(0.2):
                            path, packet = await ground.receive()
                    except TimeoutError:
                        continue
                    assert packet == SEALED_PACKET
                    await ground.send(path, SEALED_PACKET)
                    await asyncio.wait([answer], timeout=0.2)
            assert answer.result() == SEALED_PACKET
            await sender.close()
            process.send_signal(signal.SIGTERM)
            _, errors = await asyncio.to_thread(process.communicate, timeout=LIMIT)
        finally:
            process.kill()
        await ground.close()
        assert process.returncode == 0, errors
        assert f"relaying from udp://127.0.0.1:{port}" in errors
        assert "on 1 path; dropped: none" in errors

    asyncio.run(scenario())
