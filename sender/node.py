"""The sender node: source -> encoder -> spool -> session -> transport, and acknowledgements back into the spool.

    watched folder --poll--> Intake --take--> Spool --Feed--> SenderSession --packets--> transport ~~~ station
                            (worker thread)     ^                   |
                                                +---- Ledger -------+ LayerAcknowledged (simplex: LayerSent)

The event loop never waits for the disk or the encoder. Nothing in memory is needed to go on after ``kill -9``: the
spool holds every layer that the ground has not acknowledged, and the station stores each (sender, sequence, layer)
once however often it comes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from sender.carrier import Carrier
from sender.counters import NodeCounters
from sender.feed import DEFAULT_WINDOW, Feed
from sender.intake import Intake, Passed, Refused, Taken
from sender.ledger import Ledger
from sender.source import Capture
from sender.spool import Backlog, Spool, SpoolError, SpoolFullError
from sender.units import counted, format_bytes
from sender.wire_cost import WireCost
from shared.errors import PinholeError
from shared.link.adaptation import make_table
from shared.link.config import LinkConfig
from shared.link.envelope import SenderEnvelope
from shared.link.events import SenderEvent
from shared.link.packet import VERSION
from shared.link.plain import PlainSender
from shared.link.sender_session import SenderSession
from shared.link.statistics import SenderStatistics
from shared.transports.base import ClientTransport

_RESULT = TypeVar("_RESULT")
_RETRY_DISK = 5.0  # seconds between two attempts on a full disk


@dataclass(frozen=True)
class NodeSettings:
    """What the node does beside its parts' own settings.

    Attributes:
        once: end when everything that the source held at the start is acknowledged (simplex: sent).
        poll_every: seconds between two polls of the source.
        max_age: seconds after which what has not arrived of a picture is given up, or None to keep it for ever.
        silence: seconds without an answer after which the station counts as away.
        window: layers of each priority class in the session at once.
    """

    once: bool = False
    poll_every: float = 1.0
    max_age: float | None = None
    silence: float = 30.0
    window: int = DEFAULT_WINDOW


class SenderNode:
    """One node; ``run`` it once.

    Attributes:
        counters: of this run.
        station_away: whether the station has not answered for long.
    """

    def __init__(
        self,
        intake: Intake,
        spool: Spool,
        link: LinkConfig,
        open_transport: Callable[[], Awaitable[ClientTransport]],
        *,
        envelope: SenderEnvelope | None = None,
        settings: NodeSettings | None = None,
        report: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a node together.

        Args:
            intake: fills the spool.
            spool: open; the caller closes it after ``run``.
            link: settings of the session.
            open_transport: opens a transport to the station; called again when one fails.
            envelope: seals the session; None for one without seals.
            settings: of the node.
            report: gets one line for every event that an operator wants to see.
            clock: steady, in seconds.
        """
        self.counters = NodeCounters()
        self.station_away = False
        self._intake = intake
        self._spool = spool
        self._link = link
        self._settings = settings or NodeSettings()
        self._report = report
        self._clock = clock
        self._session = SenderSession(link, envelope or PlainSender(spool.sender, spool.epoch), now=clock())
        self._feed = Feed(spool, window=self._settings.window)
        # Where nothing comes back, what was sent is all that is known, and that was planned.
        self._cost = None if link.simplex else WireCost.expected(intake.overhead)
        self._picture_bytes = 0
        self._taken_all = False
        self._wake = asyncio.Event()  # for the driver: there is something to send
        self._changed = asyncio.Event()  # for the feed: something was taken or settled
        self._finished = asyncio.Event()
        self._carrier = Carrier(
            self._session, open_transport, on_event=self._on_event, wake=self._wake, report=report, clock=clock
        )
        # One thread each: the disk must not wait for the encoder, and neither needs two.
        self._encoder_thread = ThreadPoolExecutor(1, "encode")
        self._disk_thread = ThreadPoolExecutor(1, "spool")
        self._ledger = Ledger(
            spool, self._feed, self._disk_thread, simplex=link.simplex, counters=self.counters, report=report
        )

    @property
    def backlog(self) -> Backlog:
        """What is in the spool."""
        return self._spool.backlog

    @property
    def statistics(self) -> SenderStatistics:
        """Counters of the session."""
        return self._session.statistics

    def stop(self) -> None:
        """End ``run`` soon, with everything taken safe in the spool. Call it in the event loop's thread."""
        self._finished.set()

    async def run(self) -> NodeCounters:
        """Run until ``stop``, or with ``once`` until everything is acknowledged.

        Returns:
            The counters of this run.

        Raises:
            UsageError: if the transport's address is wrong.
            PinholeError: if the spool cannot be used any more.
        """
        table = asyncio.create_task(self._make_table())
        self._changed.set()  # what an earlier run left behind
        if self.backlog.pictures:
            left = self.backlog
            self._report(f"left from an earlier run: {counted(left.pictures)} ({format_bytes(left.payload_bytes)})")
        tasks = [
            asyncio.create_task(self._fill_spool()),
            asyncio.create_task(self._move_layers()),
            asyncio.create_task(self._carrier.carry()),
            asyncio.create_task(self._look_after()),
            asyncio.create_task(self._wait_for_end()),
        ]
        try:
            # Only the last of them returns; the others end by an error or by being cancelled.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(table, *tasks, return_exceptions=True)
            self._encoder_thread.shutdown()
            # What cannot be written down goes out once more at the next start, and the station drops it as known.
            with suppress(SpoolFullError):
                await self._ledger.write_down()
            self._disk_thread.shutdown()
        return self.counters

    async def _make_table(self) -> None:
        """Have the choice of parity ready before the first report, without holding anything up."""
        if self._link.adapt and not self._link.simplex:
            await asyncio.to_thread(make_table, (self._link.base_target, self._link.target))

    async def _wait_for_end(self) -> None:
        await self._finished.wait()

    async def _fill_spool(self) -> None:
        """Poll the source and take what it offers."""
        unreadable = False
        while True:
            captures: list[Capture] = []
            changed = False
            try:
                captures = await self._in_thread(self._encoder_thread, self._intake.poll)
                if unreadable:
                    unreadable = False
                    self._report("the source can be read again")
            except SpoolError:
                raise
            except PinholeError as error:
                if self._settings.once:
                    raise
                if not unreadable:
                    unreadable = True
                    self._report(f"{error}; looking again every {self._settings.poll_every:g} s")
            for index, capture in enumerate(captures):
                changed |= await self._take(capture, len(captures) - index)
            if self._settings.once and self._intake.found_all and not changed:
                self._taken_all = True
                self._changed.set()
                await self._finished.wait()
            await asyncio.sleep(self._settings.poll_every)

    async def _take(self, capture: Capture, waiting: int) -> bool:
        """Take one picture; return whether it changed meanwhile and will be offered again."""
        full = False
        while True:
            self._measure_cost()
            try:
                outcome = await self._in_thread(self._encoder_thread, lambda: self._intake.take(capture, waiting))
                break
            except SpoolFullError as error:
                if self._settings.once:
                    raise
                if not full:
                    full = True
                    self._report(f"{error}; no new pictures are taken until then, sending goes on")
                await asyncio.sleep(_RETRY_DISK)
        match outcome:
            case Taken(sequence, name, quality, layers, size):
                self.counters.taken += 1
                self.counters.taken_bytes += size
                self._picture_bytes = size
                self._report(f"{name}: taken as picture {sequence}, {size} bytes, {layers} layers, quality {quality:g}")
                self._changed.set()
            case Refused(_, reason):
                self.counters.refused += 1
                self._report(f"refused: {reason}")
            case Passed(_, changed):
                return changed
        return False

    def _measure_cost(self) -> None:
        """Tell the intake what a byte of layers costs on the link by now."""
        if self._cost is not None:
            so_far = self._session.statistics
            self._cost = self._cost.after(
                so_far.wire_bytes_settled, so_far.payload_bytes_settled, picture=self._picture_bytes
            )
            self._intake.overhead = self._cost.factor

    async def _move_layers(self) -> None:
        """Keep the session's window full and the spool's record of acknowledgements up to date."""
        full = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._ledger.write_down()
                full = False
            except SpoolFullError as error:
                # The station has these layers; if we die before the disk has room, they go out once more and it drops
                # them as known.
                if not full:
                    full = True
                    self._report(f"{error}; acknowledgements are kept in memory until then")
                asyncio.get_running_loop().call_later(_RETRY_DISK, self._changed.set)
            while layers := await self._in_thread(self._disk_thread, self._feed.next_layers):
                if self._ledger.renumbering:
                    break  # these may be called by a number that another picture has; they are read again
                self._feed.submit(layers, self._session, self._clock())
                self._wake.set()
            if self._settings.once and self._taken_all and not self.backlog.pictures:
                self._finished.set()

    def _on_event(self, event: SenderEvent) -> None:
        self._ledger.note(event)
        self._changed.set()

    async def _look_after(self) -> None:
        """Notice that the station went away or came back, and give up what is too old."""
        heard = self._session.statistics.reports_received
        waiting_since = self._clock()
        versions: tuple[int, ...] = ()
        while True:
            await asyncio.sleep(1.0)
            now = self._clock()
            reports = self._session.statistics.reports_received
            if reports != heard or not self._feed.in_session:
                heard, waiting_since = reports, now
                if self.station_away:
                    self.station_away = False
                    self._report("the station answers again")
            elif not self._link.simplex and not self.station_away and now - waiting_since >= self._settings.silence:
                self.station_away = True
                self._report(
                    f"the station has not answered for {self._settings.silence:g} s; "
                    f"{counted(self.backlog.pictures)} in the spool, trying for ever"
                )
            if self._session.versions_spoken != versions:
                versions = self._session.versions_spoken
                self._report(
                    f"the station speaks version {', '.join(map(str, versions))} of the link, this sender version "
                    f"{VERSION}; update the older of the two"
                )
            if self._settings.max_age is not None:
                await self._expire(self._settings.max_age)

    async def _expire(self, max_age: float) -> None:
        try:
            # First what is known to have arrived, so that it does not count as given up.
            await self._ledger.write_down()
            expired = await self._in_thread(self._disk_thread, lambda: self._spool.expire(max_age))
        except SpoolFullError:
            return  # told by who takes pictures and moves layers; tried again in a second
        if expired:
            self._session.withdraw(expired, self._clock())
            self._feed.forget(expired)
            self.counters.expired += len(expired)
            self._report(f"{counted(len(expired))} given up after {max_age:g} s")
            self._changed.set()

    @staticmethod
    async def _in_thread(thread: ThreadPoolExecutor, call: Callable[[], _RESULT]) -> _RESULT:
        return await asyncio.get_running_loop().run_in_executor(thread, call)
