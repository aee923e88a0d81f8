"""Brings received layers into the archive, in batches, without ever holding up the event loop."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

from receiver.archive import Archive, ReceivedLayer, Stored, StoreReport
from receiver.background import Background
from receiver.listeners import Listeners
from receiver.pictures import PictureKey
from receiver.set_aside import SetAside, cost
from receiver.status import Reporter, Status

_BATCH = 64
"""Layers per commit: one synchronisation of the index for all that arrived during the last one."""

_SENDERS_TRIED = 8
"""Of those whose layers wait aside, at each attempt: a row of failing writes must not keep the disk from the others."""

_SENDERS_TOLD = 8
"""Of whom it is said at one time that there is no place for their layers."""


class Ingest:
    """Queue between the link and the archive.

    What the storage refuses (full disk) stays queued, unacknowledged, and is tried again; when ``limit`` bytes wait,
    the listeners stop reading until there is room. Pictures that there is no place for (a folder without rights) wait
    aside, and hold up nobody; what exceeds the room for them is let go, and asked for again when there is a place.
    """

    def __init__(
        self,
        archive: Archive,
        background: Background,
        listeners: Listeners,
        *,
        acknowledge: Callable[[ReceivedLayer], None],
        refuse: Callable[[ReceivedLayer, int], None],
        ask_again: Callable[[int], None],
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
            refuse: called for every layer of a picture whose number another one has in the archive, with the largest
                sequence number of its sender there; none of that picture may be added afterwards.
            ask_again: called for a sender (its id) of whom layers were let go, when there is a place for them again.
            stored: called for every picture that got new layers, and whether the base was among them.
            status: counters to keep.
            report: where outages are told.
            limit: bytes of layers that may wait, `COST_OF_A_LAYER` for each included; half as much again aside.
            retry_after: seconds between attempts while the storage refuses.
        """
        self._archive = archive
        self._background = background
        self._listeners = listeners
        self._acknowledge = acknowledge
        self._refuse = refuse
        self._ask_again = ask_again
        self._stored = stored
        self._status = status
        self._report = report
        self._limit = limit
        self._retry_after = retry_after
        self._waiting: deque[ReceivedLayer] = deque()
        self._in_hand = 0
        self._waiting_bytes = 0
        self._aside = SetAside(limit // 2)
        self._try_aside_at = 0.0
        self._told: set[int] = set()
        self._taken: set[PictureKey] = set()
        self._colliding: set[int] = set()
        self._let_go: set[int] = set()
        self._arrived = asyncio.Event()
        self._storing = asyncio.Lock()
        self._failing = False
        self._closing = False

    @property
    def waiting(self) -> int:
        """Number of layers that are not durable yet."""
        return len(self._waiting) + self._in_hand + len(self._aside)

    @property
    def idle(self) -> bool:
        """Whether every layer is durable and has been looked at."""
        return not self._waiting and not self._aside and not self._storing.locked()

    def add(self, layer: ReceivedLayer) -> None:
        """Queue a layer."""
        self._waiting.append(layer)
        self._waiting_bytes += cost(layer)
        if self._waiting_bytes >= self._limit:
            self._listeners.close_gate()
        self._arrived.set()

    async def run(self) -> None:
        """Store what arrives until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._try_aside_at if self._aside else None):
                    await self._arrived.wait()
            self._arrived.clear()
            while self._waiting or self._aside_is_due():
                if not await self.store_batch():
                    await asyncio.sleep(self._retry_after)

    async def close(self) -> None:
        """Take nothing more, and store what has arrived as far as the storage lets it."""
        self._closing = True
        self._listeners.close_gate()
        self._put_back(self._aside.take_all())
        while (self._waiting or self._storing.locked()) and await self.store_batch():
            pass

    async def store_batch(self) -> bool:
        """Store the oldest layers and acknowledge them; return False if the storage takes nothing now (full disk)."""
        async with self._storing:
            tried = self._take_aside()
            batch = [*tried, *self._take_waiting(_BATCH - len(tried))]
            if not batch:
                self._mind_the_gate()
                return True
            self._in_hand = len(batch)
            try:
                report = await self._background.run(self._archive.store_layers, batch, {*self._taken})
            except BaseException:
                self._waiting.extendleft(reversed(batch))
                raise
            finally:
                self._in_hand = 0
            touched = self._settle(batch, report)
            if tried:
                self._follow_aside({layer.key for layer in tried}, batch, report)
            self._tell(str(report.error) if report.error else None)
            self._tell_aside(report)
            self._mind_the_gate()
            for key, base in touched.items():
                await self._stored(key, base)
            return report.error is None

    def _take_aside(self) -> list[ReceivedLayer]:
        """Layers that there may be a place for by now."""
        if not self._aside_is_due():
            return []
        tried = self._aside.take_one_of_each(_SENDERS_TRIED, _BATCH // 2)
        self._waiting_bytes += sum(map(cost, tried))
        return tried

    def _take_waiting(self, count: int) -> list[ReceivedLayer]:
        """The oldest layers that are not of a picture that waits aside."""
        taken: list[ReceivedLayer] = []
        while self._waiting and len(taken) < count:
            layer = self._waiting.popleft()
            if self._aside.holds(layer.key):
                self._set_aside(layer)
            else:
                taken.append(layer)
        return taken

    def _settle(self, batch: list[ReceivedLayer], report: StoreReport) -> dict[PictureKey, bool]:
        """Put each layer where it belongs now; return the pictures with new ones, and whether the base is one."""
        touched: dict[PictureKey, bool] = {}
        left: list[ReceivedLayer] = []
        for layer, outcome in zip(batch, report.stored, strict=True):
            if outcome is not None:
                self._waiting_bytes -= cost(layer)
                self._count(layer, outcome)
                if outcome is Stored.CONFLICT:
                    self._taken.add(layer.key)
                    self._refuse(layer, report.highest[layer.key.sender])
                else:
                    self._acknowledge(layer)
                if outcome is Stored.NEW:
                    touched[layer.key] = touched.get(layer.key, False) or layer.layer == 0
            elif layer.key in report.refused:
                self._set_aside(layer)
            else:
                left.append(layer)
        self._waiting.extendleft(reversed(left))
        if self._taken:
            # From now on none of these comes any more, so they matter only as long as something of them waits here.
            waiting = {layer.key for layer in self._waiting}
            self._taken = {key for key in self._taken if key in waiting or self._aside.holds(key)}
        return touched

    def _set_aside(self, layer: ReceivedLayer) -> None:
        self._waiting_bytes -= cost(layer)
        if not self._aside:
            self._try_aside_at = asyncio.get_running_loop().time() + self._retry_after
        self._let_go |= self._aside.put(layer)

    def _put_back(self, layers: list[ReceivedLayer]) -> None:
        self._waiting_bytes += sum(map(cost, layers))
        self._waiting.extendleft(reversed(layers))

    def _mind_the_gate(self) -> None:
        if self._waiting_bytes >= self._limit:
            self._listeners.close_gate()
        elif not self._closing:
            self._listeners.open_gate()

    def _aside_is_due(self) -> bool:
        now = asyncio.get_running_loop().time()
        return bool(self._aside) and not self._closing and now >= self._try_aside_at

    def _follow_aside(self, tried: set[PictureKey], batch: list[ReceivedLayer], report: StoreReport) -> None:
        """Where one of a sender's pictures has a place again, try the others; and at once those of further senders."""
        mended = {
            layer.key.sender
            for layer, outcome in zip(batch, report.stored, strict=True)
            if outcome is not None and layer.key in tried
        }
        for sender in mended:
            self._put_back(self._aside.take_all(sender))
        self._try_aside_at = asyncio.get_running_loop().time() + (0.0 if mended else self._retry_after)

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
            if layer.key.sender not in self._colliding:
                self._colliding.add(layer.key.sender)
                self._report.warning(
                    f"{layer.key}: layer {layer.layer} came again with other bytes, the first are kept; was the "
                    "sender's spool restored from a backup, or copied? It is asked to go on under other numbers "
                    "(more of this sender are only counted)"
                )

    def _tell_aside(self, report: StoreReport) -> None:
        """Report once of each sender that there is no place for its layers, and when there is again."""
        waiting = self._aside.senders
        for key, error in report.refused.items():
            if key.sender in waiting - self._told and len(self._told) < _SENDERS_TOLD:
                self._told.add(key.sender)
                self._report.warning(f"{error} (such layers wait unacknowledged, others go on; trying again)")
        mended = (self._told | self._let_go) - waiting
        if mended:
            mended -= {layer.key.sender for layer in self._waiting}
        for sender in mended:
            if sender in self._let_go:
                self._let_go.discard(sender)
                self._ask_again(sender)
            if sender in self._told:
                self._told.discard(sender)
                self._report.line(f"the archive takes layers of sender {sender:08x} again")

    def _tell(self, error: str | None) -> None:
        """Report the beginning and the end of an outage, not every attempt."""
        if error is not None and not self._failing:
            self._report.warning(f"{error} (nothing is acknowledged meanwhile, trying again)")
        elif error is None and self._failing:
            self._report.line("the archive takes layers again")
        self._failing = error is not None
