"""Ledger: writes into the spool what the session reports: layers that arrived, and numbers that are taken."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sender.counters import NodeCounters
from sender.feed import Feed
from sender.renumbering import HIGHEST_BELIEVED
from sender.spool import Spool
from shared.link.events import NumberTaken, SenderEvent


class Ledger:
    """Keeps what is not written down yet; used in the event loop's thread.

    Args:
        spool: where it is written.
        feed: told of layers that the session is done with.
        thread: writes, without holding up the event loop.
        simplex: nothing comes back, layers are done when they are sent.
        counters: of the node.
        report: gets one line for every event that an operator wants to see.
    """

    def __init__(
        self,
        spool: Spool,
        feed: Feed,
        thread: ThreadPoolExecutor,
        *,
        simplex: bool,
        counters: NodeCounters,
        report: Callable[[str], None],
    ) -> None:
        self._spool = spool
        self._feed = feed
        self._thread = thread
        self._counters = counters
        self._report = report
        self._settled: list[tuple[int, int]] = []
        self._how = "sent" if simplex else "acknowledged"
        self._taken: dict[int, int] = {}
        self._writing = asyncio.Lock()
        self._doubted = False

    @property
    def renumbering(self) -> bool:
        """Whether pictures are to get new numbers, so that layers read meanwhile may be called by an old one."""
        return bool(self._taken)

    def note(self, event: SenderEvent) -> None:
        """Keep an event of the session for `write_down`."""
        if isinstance(event, NumberTaken):
            self._taken[event.sequence] = event.highest
        else:
            self._settled.append((event.sequence, event.layer))

    async def write_down(self) -> None:
        """Write down everything noted; once begun, this is not given up half-way.

        Raises:
            SpoolFullError: if the disk is full; what is not written is kept.
            SpoolError: if the spool cannot be used any more.
        """
        await asyncio.shield(self._write())

    async def _write(self) -> None:
        async with self._writing:
            layers, taken = [*self._settled], {**self._taken}
            # First what had arrived by then under the old numbers.
            if layers:
                await self._settle(layers)
            if taken:
                await self._renumber(taken)

    async def _settle(self, layers: list[tuple[int, int]]) -> None:
        done = await asyncio.get_running_loop().run_in_executor(self._thread, self._spool.settle, layers)
        del self._settled[: len(layers)]
        self._feed.settled(layers)
        for picture in done:
            self._counters.done += 1
            self._report(f"{picture.name}: picture {picture.sequence} {self._how} after {picture.age:.1f} s")

    async def _renumber(self, taken: dict[int, int]) -> None:
        believed = {sequence: highest for sequence, highest in taken.items() if highest <= HIGHEST_BELIEVED}
        if believed:
            moved = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._spool.renumber, believed, max(believed.values())
            )
            if moved and not self._counters.renumbered:
                self._report(
                    "the station has other pictures under numbers of this spool, which seems to have been restored "
                    f"from a backup, or copied; its pictures go on under new numbers, from {moved[0].sequence}"
                )
            self._counters.renumbered += len(moved)
            for picture in moved:
                self._report(f"{picture.name}: picture {picture.before} goes on as picture {picture.sequence}")
        doubtful = max(taken.keys() - believed.keys(), default=None)
        if doubtful is not None and not self._doubted:
            self._doubted = True
            self._report(
                f"the station says that it has a picture {taken[doubtful]} of this sender, which is not believed; "
                f"picture {doubtful} stays in the spool: mend the station's archive or pass a new --state"
            )
        self._feed.forget(taken)
        for sequence in taken:
            del self._taken[sequence]
