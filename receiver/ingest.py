"""Brings received layers into the archive, in batches, without ever holding up the event loop."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice

from receiver.archive import Archive, ReceivedLayer, Stored
from receiver.background import Background
from receiver.listeners import Listeners
from receiver.pictures import PictureKey
from receiver.status import Reporter, Status

_BATCH = 64
"""Layers per commit: one synchronisation of the index for all that arrived during the last one."""

_COST_OF_A_LAYER = 1024
"""Bytes that a waiting layer is reckoned to take besides its payload, so that empty ones are bounded too."""


class Ingest:
    """Queue between the link and the archive.

    What the storage refuses (full disk) stays queued, unacknowledged, and is tried again; when ``limit`` bytes wait,
    the listeners stop reading until there is room.
    """

    def __init__(
        self,
        archive: Archive,
        background: Background,
        listeners: Listeners,
        *,
        acknowledge: Callable[[ReceivedLayer], None],
        stored: Callable[[PictureKey, bool], Awaitable[None]],
        status: Status,
        report: Reporter,
        limit: int,
        retry_after: float,
    ) -> None:
        """Start empty.

        Args:
            archive: where layers go.
            background: the thread that owns the archive.
            listeners: what to hold back.
            acknowledge: called for every layer that is durable.
            stored: called for every picture that got new layers, and whether the base was among them.
            status: counters to keep.
            report: where outages are told.
            limit: bytes of layers that may wait, `_COST_OF_A_LAYER` for each included.
            retry_after: seconds between attempts while the storage refuses.
        """
        self._archive = archive
        self._background = background
        self._listeners = listeners
        self._acknowledge = acknowledge
        self._stored = stored
        self._status = status
        self._report = report
        self._limit = limit
        self._retry_after = retry_after
        self._waiting: deque[ReceivedLayer] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._storing = asyncio.Lock()
        self._failing = False
        self._closing = False

    @property
    def waiting(self) -> int:
        """Number of layers that are not durable yet."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether every layer is durable and has been looked at."""
        return not self._waiting and not self._storing.locked()

    def add(self, layer: ReceivedLayer) -> None:
        """Queue a layer."""
        self._waiting.append(layer)
        self._waiting_bytes += len(layer.payload) + _COST_OF_A_LAYER
        if self._waiting_bytes >= self._limit:
            self._listeners.close_gate()
        self._arrived.set()

    async def run(self) -> None:
        """Store what arrives until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if not await self.store_batch():
                    await asyncio.sleep(self._retry_after)

    async def close(self) -> None:
        """Take nothing more, and store what has arrived as far as the storage lets it."""
        self._closing = True
        self._listeners.close_gate()
        while self._waiting and await self.store_batch():
            pass

    async def store_batch(self) -> bool:
        """Store the oldest layers and acknowledge them; return False if the storage refused one."""
        async with self._storing:
            batch = list(islice(self._waiting, _BATCH))
            report = await self._background.run(self._archive.store_layers, batch)
            touched: dict[PictureKey, bool] = {}
            for layer, outcome in zip(batch, report.stored, strict=False):
                self._waiting.popleft()
                self._waiting_bytes -= len(layer.payload) + _COST_OF_A_LAYER
                self._count(layer, outcome)
                self._acknowledge(layer)
                if outcome is Stored.NEW:
                    touched[layer.key] = touched.get(layer.key, False) or layer.layer == 0
            self._tell(str(report.error) if report.error else None)
            if self._waiting_bytes < self._limit and not self._closing:
                self._listeners.open_gate()
            for key, base in touched.items():
                await self._stored(key, base)
            return report.error is None

    def _count(self, layer: ReceivedLayer, outcome: Stored) -> None:
        if outcome is Stored.NEW:
            self._status.layers += 1
            self._status.layer_bytes += len(layer.payload)
            if layer.layer == 0:
                self._status.pictures += 1
                self._status.by_sender[layer.key.sender] += 1
        elif outcome is Stored.DUPLICATE:
            self._status.duplicates += 1
        else:
            self._status.conflicts += 1
            self._report.warning(
                f"{layer.key}: layer {layer.layer} came again with other bytes, the first are kept; "
                "do two senders share an id?"
            )

    def _tell(self, error: str | None) -> None:
        """Report the beginning and the end of an outage, not every attempt."""
        if error is not None and not self._failing:
            self._report.warning(f"{error} (nothing is acknowledged meanwhile, trying again)")
        elif error is None and self._failing:
            self._report.line("the archive takes layers again")
        self._failing = error is not None
