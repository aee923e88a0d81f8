"""The sender node: source -> encoder -> spool -> session -> transport, and acknowledgements back into the spool.

    watched folder --poll--> Intake --take--> Spool --Feed--> SenderSession --packets--> transport ~~~ station
                            (worker thread)     ^                   |
                                                +---- settled ------+ LayerAcknowledged (simplex: LayerSent)

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

from sender.feed import DEFAULT_WINDOW, Feed
from sender.intake import Intake, Passed, Refused, Taken
from sender.source import Capture
from sender.spool import Backlog, Spool, SpoolError, SpoolFullError
from sender.units import counted, format_bytes
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
from shared.transports.drive import drive_client

_RESULT = TypeVar("_RESULT")
_RETRY_DISK = 5.0  # seconds between two attempts on a full disk
_LONGEST_PAUSE = 60.0  # seconds between two attempts to open the transport


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


@dataclass
class NodeCounters:
    """What this run of the node did; numbers of pictures, and bytes of layers taken.

    Attributes:
        taken: put into the spool.
        taken_bytes: their layers' bytes.
        done: acknowledged whole (simplex: sent), pictures of earlier runs among them.
        refused: could not be read or encoded.
        expired: given up for their age.
    """

    taken: int = 0
    taken_bytes: int = 0
    done: int = 0
    refused: int = 0
    expired: int = 0


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
        self._open_transport = open_transport
        self._settings = settings or NodeSettings()
        self._report = report
        self._clock = clock
        self._session = SenderSession(link, envelope or PlainSender(spool.sender, spool.epoch), now=clock())
        self._feed = Feed(spool, window=self._settings.window)
        self._settled: list[tuple[int, int]] = []
        self._writing = asyncio.Lock()
        self._taken_all = False
        self._wake = asyncio.Event()  # for the driver: there is something to send
        self._changed = asyncio.Event()  # for the feed: something was taken or settled
        self._finished = asyncio.Event()
        # One thread each: the disk must not wait for the encoder, and neither needs two.
        self._encoder_thread = ThreadPoolExecutor(1, "encode")
        self._disk_thread = ThreadPoolExecutor(1, "spool")

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
            PinholeError: if the transport's address is of no use, or the spool cannot be used any more.
        """
        transport = await self._open_transport()
        table = asyncio.create_task(self._make_table())
        self._changed.set()  # what an earlier run left behind
        if self.backlog.pictures:
            left = self.backlog
            self._report(f"left from an earlier run: {counted(left.pictures)} ({format_bytes(left.payload_bytes)})")
        tasks = [
            asyncio.create_task(self._fill_spool()),
            asyncio.create_task(self._move_layers()),
            asyncio.create_task(self._carry(transport)),
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
            await self._settle()
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
                self._report(f"{name}: taken as picture {sequence}, {size} bytes, {layers} layers, quality {quality:g}")
                self._changed.set()
            case Refused(_, reason):
                self.counters.refused += 1
                self._report(f"refused: {reason}")
            case Passed(_, changed):
                return changed
        return False

    async def _move_layers(self) -> None:
        """Keep the session's window full and the spool's record of acknowledgements up to date."""
        full = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._settle()
                full = False
            except SpoolFullError as error:
                # The station has these layers; if we die before the disk has room, they go out once more and it drops
                # them as known.
                if not full:
                    full = True
                    self._report(f"{error}; acknowledgements are kept in memory until then")
                asyncio.get_running_loop().call_later(_RETRY_DISK, self._changed.set)
            while layers := await self._in_thread(self._disk_thread, self._feed.next_layers):
                self._feed.submit(layers, self._session, self._clock())
                self._wake.set()
            if self._settings.once and self._taken_all and not self.backlog.pictures:
                self._finished.set()

    async def _settle(self) -> None:
        """Write down what the session has reported; once begun, this is not given up half-way."""
        await asyncio.shield(self._write_down())

    async def _write_down(self) -> None:
        async with self._writing:
            layers, self._settled = self._settled, []
            if not layers:
                return
            try:
                done = await self._in_thread(self._disk_thread, lambda: self._spool.settle(layers))
            except SpoolFullError:
                self._settled = layers + self._settled
                raise
        self._feed.settled(layers)
        for picture in done:
            self.counters.done += 1
            how = "sent" if self._link.simplex else "acknowledged"
            self._report(f"{picture.name}: picture {picture.sequence} {how} after {picture.age:.1f} s")

    def _on_event(self, event: SenderEvent) -> None:
        self._settled.append((event.sequence, event.layer))
        self._changed.set()

    async def _carry(self, transport: ClientTransport) -> None:
        """Drive the session over the transport; open another one for as long as it takes when it fails."""
        pause = 1.0
        failed = False
        while True:
            began = self._clock()
            try:
                try:
                    await drive_client(
                        self._session, transport, on_event=self._on_event, wake=self._wake, clock=self._clock
                    )
                finally:
                    await transport.close()
            except (OSError, PinholeError) as error:
                if self._clock() - began > _LONGEST_PAUSE:
                    pause, failed = 1.0, False
                if not failed:
                    failed = True
                    self._report(f"link failed ({error}); pictures stay in the spool, connecting again for ever")
            transport, pause = await self._open_again(pause)

    async def _open_again(self, pause: float) -> tuple[ClientTransport, float]:
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                return await self._open_transport(), pause
            except (OSError, PinholeError):
                continue  # reported when the link failed

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
        # First what is known to have arrived, so that it does not count as given up.
        with suppress(SpoolFullError):
            await self._settle()
        expired = await self._in_thread(self._disk_thread, lambda: self._spool.expire(max_age))
        if expired:
            self._session.withdraw(expired, self._clock())
            self._feed.forget(expired)
            self.counters.expired += len(expired)
            self._report(f"{counted(len(expired))} given up after {max_age:g} s")
            self._changed.set()

    @staticmethod
    async def _in_thread(thread: ThreadPoolExecutor, call: Callable[[], _RESULT]) -> _RESULT:
        return await asyncio.get_running_loop().run_in_executor(thread, call)
