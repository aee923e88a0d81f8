"""Whole deliveries over any transport: pictures to send, a driven session and a driven station."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from shared.link import LayerReceived, LinkConfig, SenderEvent, SenderSession, Station
from shared.transports.base import ClientTransport, StationTransport
from shared.transports.drive import drive_client, drive_station

LIMIT = 60.0
"""Seconds after which a test is given up; nothing here is fast or slow by intent."""


def some_pictures(seed: int, count: int) -> dict[int, list[bytes]]:
    """So many pictures of four layers."""
    chance = random.Random(seed)
    return {
        sequence: [chance.randbytes(chance.choice([1, 90, 300, 900, 2500])) for _ in range(4)]
        for sequence in range(count)
    }


def layers_of(pictures: dict[int, list[bytes]]) -> dict[tuple[int, int], bytes]:
    """The same by picture and layer."""
    return {(sequence, layer): data for sequence, layers in pictures.items() for layer, data in enumerate(layers)}


def stored(received: list[LayerReceived], sender: int) -> dict[tuple[int, int], bytes]:
    """As the archive does: the first of each layer of a sender counts, others must be the same."""
    kept: dict[tuple[int, int], bytes] = {}
    for event in received:
        if event.sender == sender:
            assert kept.setdefault((event.sequence, event.layer), event.payload) == event.payload
    return kept


def brisk(**changes: float | bool) -> LinkConfig:
    """Settings for the short ways of this machine."""
    return LinkConfig(retransmit_after=0.5, flush_after=0.1, **changes)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool], *tasks: "asyncio.Task[None]") -> None:
    """Wait for a condition, while none of the tasks ends."""
    async with asyncio.timeout(LIMIT):
        while not condition():
            for task in tasks:
                assert not task.done(), f"ended early: {task.exception()!r}"
            await asyncio.sleep(0.005)


@asynccontextmanager
async def driven(
    transport: StationTransport, received: list[LayerReceived], station: Station | None = None
) -> AsyncIterator[Station]:
    """A station on an open transport, which acknowledges whatever it receives; closes the transport at the end."""
    station = station or Station(LinkConfig(), now=time.monotonic())
    wake = asyncio.Event()

    def store(event: LayerReceived) -> None:
        received.append(event)
        station.acknowledge(event.sender, event.sequence, event.layer, time.monotonic())

    task = asyncio.create_task(drive_station(station, transport, on_event=store, wake=wake, clock=time.monotonic))
    try:
        yield station
        assert not task.done(), f"the station's driver ended early: {task.exception()!r}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await transport.close()


@asynccontextmanager
async def carried(
    session: SenderSession, transport: ClientTransport, events: list[SenderEvent]
) -> "AsyncIterator[asyncio.Task[None]]":
    """A sender's driver on an open transport; closes the transport at the end."""
    task = asyncio.create_task(
        drive_client(session, transport, on_event=events.append, wake=asyncio.Event(), clock=time.monotonic)
    )
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await transport.close()


async def deliver(
    session: SenderSession, transport: ClientTransport, pictures: dict[int, list[bytes]]
) -> list[SenderEvent]:
    """Submit pictures and drive the session until each layer has its event."""
    events: list[SenderEvent] = []
    for sequence, layers in pictures.items():
        session.submit(sequence, layers, time.monotonic())
    async with carried(session, transport, events) as task:
        await until(lambda: len(events) >= sum(map(len, pictures.values())), task)
    return events
