"""A ground station for the sender's tests: real transport, real station, layers kept in a dictionary."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from shared.link.config import LinkConfig
from shared.link.events import LayerReceived
from shared.link.station import Station
from shared.transports import open_station
from shared.transports.drive import drive_station

FAST = LinkConfig(flush_after=0.05, retransmit_after=0.3)
"""Settings under which a test on loopback does not wait long for anything."""


class Ground:
    """What arrived, by (sender, sequence, layer), as an archive would keep it: the first copy counts."""

    def __init__(self) -> None:
        self.layers: dict[tuple[int, int, int], bytes] = {}
        self.layer_counts: dict[tuple[int, int], int] = {}
        self.deliveries: Counter[tuple[int, int, int]] = Counter()
        self.contradictions: list[tuple[int, int, int]] = []
        self._changed = asyncio.Event()

    def store(self, event: LayerReceived) -> bool:
        """Keep a layer; return False if other bytes are kept under its number."""
        key = (event.sender, event.sequence, event.layer)
        self.deliveries[key] += 1
        same = self.layers.setdefault(key, event.payload) == event.payload
        if not same:
            self.contradictions.append(key)
        self.layer_counts[event.sender, event.sequence] = event.layers
        self._changed.set()
        return same

    def highest(self, sender: int) -> int:
        """The largest number of a picture of a sender."""
        return max(sequence for one, sequence in self.layer_counts if one == sender)

    def pictures(self) -> list[list[bytes]]:
        """The whole pictures, each as its layers, by sender and sequence."""
        whole = []
        for (sender, sequence), count in sorted(self.layer_counts.items()):
            layers = [self.layers.get((sender, sequence, layer)) for layer in range(count)]
            if all(layer is not None for layer in layers):
                whole.append([layer for layer in layers if layer is not None])
        return whole

    async def until(self, condition: Callable[["Ground"], bool]) -> None:
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    async def more_layers(self, count: int) -> None:
        wanted = len(self.layers) + count
        await self.until(lambda ground: len(ground.layers) >= wanted)


@asynccontextmanager
async def ground_station(url: str, *, simplex: bool = False, claimed: int | None = None) -> AsyncIterator[Ground]:
    """Listen on ``url`` while the body runs; acknowledge each layer when it is kept.

    Args:
        url: of a transport.
        simplex: say nothing.
        claimed: the largest number that it says it has, where that is not true.
    """
    ground = Ground()
    transport = await open_station(url)
    station = Station(FAST, now=time.monotonic())
    wake = asyncio.Event()

    def keep(event: LayerReceived) -> None:
        number = (event.sender, event.sequence, event.layer)
        if not ground.store(event):
            station.refuse(*number, claimed or ground.highest(event.sender), time.monotonic())
        elif not simplex:
            station.acknowledge(*number, time.monotonic())
        wake.set()

    driving = asyncio.create_task(drive_station(station, transport, on_event=keep, wake=wake, clock=time.monotonic))
    try:
        yield ground
    finally:
        driving.cancel()
        with suppress(asyncio.CancelledError):
            await driving
        await transport.close()
