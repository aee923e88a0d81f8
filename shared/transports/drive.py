"""Runs the link core over a transport: carries packets, keeps time, hands on events."""

import asyncio
from collections.abc import Callable

from shared.link.events import LayerReceived, SenderEvent
from shared.link.sender_session import SenderSession
from shared.link.station import Station
from shared.transports.base import ClientTransport, StationTransport
from shared.transports.together import run_together


async def drive_client(
    session: SenderSession,
    transport: ClientTransport,
    *,
    on_event: Callable[[SenderEvent], None],
    wake: asyncio.Event,
    clock: Callable[[], float],
) -> None:
    """Drive a sender session until cancelled.

    Args:
        session: the session; its owner submits to it in the same event loop.
        transport: the way to the station; stays open.
        on_event: called for each event, in order.
        wake: set it after `SenderSession.submit`.
        clock: seconds, from the clock the session was made with.

    Raises:
        OSError: if the transport fails.
    """

    def hand_on() -> None:
        while (event := session.next_event()) is not None:
            on_event(event)

    async def listen() -> None:
        while True:
            session.receive_packet(await transport.receive(), clock())
            hand_on()
            wake.set()

    async def talk() -> None:
        while True:
            wake.clear()
            now = clock()
            session.handle_timer(now)
            for packet, priority in session.packets_to_send(now):
                await transport.send(packet, priority)
            hand_on()
            await _until(wake, session.next_timer(), clock)

    await run_together(listen(), talk())


async def drive_station(
    station: Station,
    transport: StationTransport,
    *,
    on_event: Callable[[LayerReceived], None],
    wake: asyncio.Event,
    clock: Callable[[], float],
) -> None:
    """Drive a station until cancelled; arguments as for `drive_client`, ``wake`` to be set after an acknowledgement.

    The station must have no other transport, for it answers every sender through this one.

    Raises:
        OSError: if the transport fails.
    """

    async def listen() -> None:
        while True:
            path, packet = await transport.receive()
            station.receive_packet(packet, clock(), path)
            while (event := station.next_event()) is not None:
                on_event(event)
            wake.set()

    async def talk() -> None:
        while True:
            wake.clear()
            now = clock()
            station.handle_timer(now)
            for path, packet in station.packets_to_send(now):
                await transport.send(path, packet)
            await _until(wake, station.next_timer(), clock)

    await run_together(listen(), talk())


async def _until(wake: asyncio.Event, at: float | None, clock: Callable[[], float]) -> None:
    """Wait until it is time or somebody wakes us; always lets other tasks run."""
    delay = None if at is None else max(0.0, at - clock())
    if delay == 0.0:
        await asyncio.sleep(0)
        return
    try:
        async with asyncio.timeout(delay):
            await wake.wait()
    except TimeoutError:
        pass
