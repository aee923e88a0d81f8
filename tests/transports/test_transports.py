"""The same link over every transport, with real sockets where there are any."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from shared.errors import PinholeError
from shared.link import LayerAcknowledged, LayerReceived, LinkConfig, SenderEvent, SenderSession, Station
from shared.transports import ClientTransport, StationTransport, open_client, open_station
from shared.transports.drive import drive_client, drive_station
from shared.transports.memory import Faults, MemoryClient

LIMIT = 60.0

ADDRESSES = {
    "zeromq": "tcp://127.0.0.1:0",
    "zeromq6": "tcp://[::1]:0",
    "udp": "udp://127.0.0.1:0",
    "udp6": "udp://[::1]:0",
    "memory": "memory://station",
}


async def _faulty_client(url: str) -> ClientTransport:
    faults = {"loss": 0.15, "duplication": 0.1, "reordering": 0.2, "corruption": 0.05}
    return MemoryClient(url.removeprefix("memory://"), Faults(seed=1, **faults), Faults(seed=2, **faults))


@asynccontextmanager
async def driven_station(
    url: str, received: list[LayerReceived], config: LinkConfig | None = None
) -> AsyncIterator[tuple[Station, StationTransport]]:
    transport = await open_station(url)
    station = Station(config or LinkConfig(), now=time.monotonic())
    wake = asyncio.Event()

    def store(event: LayerReceived) -> None:
        received.append(event)
        station.acknowledge(event.sender, event.sequence, event.layer, time.monotonic())

    task = asyncio.create_task(drive_station(station, transport, on_event=store, wake=wake, clock=time.monotonic))
    try:
        yield station, transport
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await transport.close()


async def deliver(
    session: SenderSession, transport: ClientTransport, pictures: dict[int, list[bytes]]
) -> list[SenderEvent]:
    events: list[SenderEvent] = []
    wanted = sum(map(len, pictures.values()))
    finished = asyncio.Event()
    wake = asyncio.Event()

    def note(event: SenderEvent) -> None:
        events.append(event)
        if len(events) == wanted:
            finished.set()

    for sequence, layers in pictures.items():
        session.submit(sequence, layers, time.monotonic())
    task = asyncio.create_task(drive_client(session, transport, on_event=note, wake=wake, clock=time.monotonic))
    try:
        async with asyncio.timeout(LIMIT):
            done = asyncio.create_task(finished.wait())
            await asyncio.wait([task, done], return_when=asyncio.FIRST_COMPLETED)
            assert done.done(), "the driver ended early"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await transport.close()
    return events


def some_pictures(seed: int, count: int) -> dict[int, list[bytes]]:
    chance = random.Random(seed)
    return {
        sequence: [chance.randbytes(chance.choice([1, 90, 300, 900, 2500])) for _ in range(4)]
        for sequence in range(count)
    }


def brisk(**changes: float | bool) -> LinkConfig:
    return LinkConfig(retransmit_after=0.5, flush_after=0.1, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [*ADDRESSES, "faulty memory"])
@pytest.mark.parametrize("parity", [0.0, 0.5])
def test_hundreds_of_layers_cross(kind: str, parity: float) -> None:
    async def scenario() -> None:
        received: list[LayerReceived] = []
        address = ADDRESSES[kind.removeprefix("faulty ")]
        open_: Callable[[str], Awaitable[ClientTransport]] = open_client if kind in ADDRESSES else _faulty_client
        async with driven_station(address, received) as (station, transport):
            pictures = {number: some_pictures(number, 30) for number in (11, 12)}
            sessions = {
                number: SenderSession.unsealed(
                    brisk(parity=parity, base_parity=parity), sender=number, epoch=1, now=time.monotonic()
                )
                for number in pictures
            }
            jobs = [deliver(sessions[number], await open_(transport.url), pictures[number]) for number in pictures]
            for number, events in zip(pictures, await asyncio.gather(*jobs), strict=True):
                expected = {(sequence, layer) for sequence in pictures[number] for layer in range(4)}
                assert {(event.sequence, event.layer) for event in events} == expected
                assert all(isinstance(event, LayerAcknowledged) for event in events)
                assert sessions[number].backlog_bytes == 0
            assert len(received) == 240
            for event in received:
                assert event.payload == pictures[event.sender][event.sequence][event.layer]
            if kind == "faulty memory":
                assert station.totals.packets_rejected > 0
                assert station.totals.symbols_duplicate > 0

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["zeromq", "udp"])
def test_a_station_that_comes_late_and_restarts_gets_everything(kind: str) -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "zeromq" else socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url = f"{'tcp' if kind == 'zeromq' else 'udp'}://127.0.0.1:{port}"
        pictures = some_pictures(3, 20)
        first: list[LayerReceived] = []
        second: list[LayerReceived] = []
        session = SenderSession.unsealed(
            brisk(rate=200_000.0, burst_bytes=1200), sender=5, epoch=1, now=time.monotonic()
        )
        client = await open_client(url)
        job = asyncio.create_task(deliver(session, client, pictures))
        await asyncio.sleep(0.3)
        async with driven_station(url, first), asyncio.timeout(LIMIT):
            while len(first) < 20:
                await asyncio.sleep(0.01)
        async with driven_station(url, second):
            events = await job
        assert len(events) == 80
        assert second, "the station ended after the sender, nothing was shown"
        layers = {(event.sequence, event.layer): event.payload for event in [*first, *second]}
        assert layers == {(s, i): layer for s, all_ in pictures.items() for i, layer in enumerate(all_)}

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["zeromq", "udp"])
def test_simplex_tells_what_was_sent_and_hears_nothing(kind: str) -> None:
    async def scenario() -> None:
        received: list[LayerReceived] = []
        async with driven_station(ADDRESSES[kind], received) as (station, transport):
            session = SenderSession.unsealed(brisk(simplex=True), sender=7, epoch=1, now=time.monotonic())
            pictures = some_pictures(4, 5)
            events = await deliver(session, await open_client(transport.url), pictures)
            assert len(events) == 20
            async with asyncio.timeout(LIMIT):
                while len(received) < 20:
                    await asyncio.sleep(0.01)
            assert station.totals.reports_sent == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["zeromq", "udp"])
def test_strangers_do_no_harm(kind: str) -> None:
    async def scenario() -> None:
        received: list[LayerReceived] = []
        chance = random.Random(5)
        async with driven_station(ADDRESSES[kind], received) as (station, transport):
            stranger = await open_client(transport.url)
            for _ in range(200):
                await stranger.send(chance.randbytes(chance.randrange(1, 200)))
            pictures = some_pictures(6, 5)
            session = SenderSession.unsealed(brisk(), sender=8, epoch=1, now=time.monotonic())
            await deliver(session, await open_client(transport.url), pictures)
            await stranger.close()
            assert len(received) == 20
            assert station.totals.packets_rejected + station.totals.packets_unknown > 0

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["zeromq", "udp", "memory"])
def test_an_address_in_use_is_one_clear_error(kind: str) -> None:
    async def scenario() -> None:
        transport = await open_station(ADDRESSES[kind])
        try:
            with pytest.raises(PinholeError, match="another") as caught:
                await open_station(transport.url)
            assert "\n" not in str(caught.value)
        finally:
            await transport.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://127.0.0.1:80", "known kind"),
        ("127.0.0.1:5555", "known kind"),
        ("tcp://127.0.0.1", "host:port"),
        ("udp://127.0.0.1:99999", "host:port"),
        ("udp://127.0.0.1:0", "above 0"),
        ("tcp://no-such-host.invalid:5555", "cannot be found"),
        ("udp://no-such-host.invalid:5555", "cannot be found"),
        ("tcp://" + "x" * 300 + ":5555", "cannot be found"),
    ],
)
def test_wrong_addresses_are_one_clear_error(url: str, complaint: str) -> None:
    with pytest.raises(PinholeError, match=complaint) as caught:
        asyncio.run(open_client(url))
    assert "\n" not in str(caught.value)


def test_a_zeromq_client_waits_for_its_station_instead_of_piling_up() -> None:
    async def scenario() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        client = await open_client(f"tcp://127.0.0.1:{port}")
        sending = asyncio.create_task(client.send(b"packet"))
        await asyncio.sleep(0.2)
        assert not sending.done()
        station = await open_station(f"tcp://127.0.0.1:{port}")
        async with asyncio.timeout(LIMIT):
            assert (await station.receive())[1] == b"packet"
            await sending
        await client.close()
        await client.close()
        await station.close()

    asyncio.run(scenario())
