"""The receiver: from packets to durable layers, acknowledgements, previews and pictures.

::

    listeners -> station -> ingest -> archive -> acknowledgement
                               |
                            assembler -> job queue -> engine -> archive
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from receiver.admission import Admission, tell_refusals
from receiver.archive import Archive, ReceivedLayer
from receiver.assembler import Assembler
from receiver.background import Background
from receiver.decoding import Decoding
from receiver.engine import Engine
from receiver.ingest import Ingest
from receiver.listeners import Listeners
from receiver.pictures import PictureKey
from receiver.status import Reporter, Status
from shared.errors import PinholeError
from shared.link.events import LayerReceived
from shared.link.gilbert import TELLING_PACKETS
from shared.link.station import Station
from shared.transports.drive import drive_station

_TICK = 0.25
_FAREWELL = 0.2
"""Seconds in which the last acknowledgements may leave; a lost one costs a repetition, never a layer."""


@dataclass(frozen=True)
class ReceiverConfig:
    """What an operator may set.

    Attributes:
        settle: seconds without a new layer after which an incomplete picture is fully decoded.
        full: whether full decodes are wanted beside previews.
        steps: steps of diffusion, None for the bundle's default.
        until_idle: end after so many seconds without packets, once something arrived and all is decoded; None: never.
        largest: pixels of the largest picture to decode.
        waiting_bytes: layers that may wait for the disk before the listeners stop reading; half as much again may wait
            for a place in the archive (a folder without rights).
        queue_limit: decodes that wait in memory; the others wait in the index.
        retry_after: seconds between attempts while the storage refuses.
        close_timeout: seconds that a decode under way is given at the end.
    """

    settle: float = 10.0
    full: bool = True
    steps: int | None = None
    until_idle: float | None = None
    largest: int = 64_000_000
    waiting_bytes: int = 64 << 20
    queue_limit: int = 256
    retry_after: float = 5.0
    close_timeout: float = 2.0


class Receiver:
    """One ground station. Made and used in a running event loop; `run` once."""

    def __init__(
        self,
        config: ReceiverConfig,
        *,
        archive: Archive,
        engine: Engine,
        station: Station,
        listeners: Listeners,
        report: Reporter,
        admission: Admission | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over the parts; `run` closes them.

        Args:
            config: settings.
            archive: opened, and from now on used by the receiver alone.
            engine: what decodes.
            station: the link core.
            listeners: the transports.
            report: where results and troubles are told.
            admission: looks after the station's gate; None for a station that takes unsealed packets.
            clock: seconds that never go back; the station's time.
        """
        self._config = config
        self._archive = archive
        self._engine = engine
        self._station = station
        self._listeners = listeners
        self._report = report
        self._admission = admission
        # Keys and hashes only: the layers are on disk, and there may be very many before the session can be remembered.
        self._unacknowledged: dict[tuple[PictureKey, int], int] = {}
        self._clock = clock
        self._wake = asyncio.Event()
        self._background = Background("archive")
        self.status = Status()
        self._assembler = Assembler(settle=config.settle, full=config.full)
        self._decoding = Decoding(
            archive,
            self._background,
            engine,
            self._assembler,
            full=config.full,
            steps=config.steps,
            largest=config.largest,
            queue_limit=config.queue_limit,
            retry_after=config.retry_after,
            status=self.status,
            report=report,
            clock=clock,
        )
        self._ingest = Ingest(
            archive,
            self._background,
            listeners,
            acknowledge=self._acknowledge,
            refuse=self._refuse,
            ask_again=station.forget,
            stored=self._decoding.note,
            status=self.status,
            report=report,
            limit=config.waiting_bytes,
            retry_after=config.retry_after,
        )

    @property
    def station(self) -> Station:
        """The link core, for its statistics."""
        return self._station

    @property
    def waiting(self) -> dict[str, int]:
        """How much of what waits where."""
        return {
            "to store": self._ingest.waiting,
            "to decode": len(self._decoding.queue),
            "decoding": self._decoding.queue.running,
            "settling": self._assembler.settling,
        }

    def channel(self, sender: int) -> str:
        """What the way from a sender does to packets, in words; empty while it is not known."""
        fit = self._station.channel(sender, self._clock())
        if fit is None or fit.packets < TELLING_PACKETS:
            return ""
        return f"{100 * fit.loss:.1f} % in bursts of {fit.burst:.1f}"

    async def run(self, stop: asyncio.Event) -> bool:
        """Receive until ``stop`` is set or the receiver was idle for long enough, then close everything.

        Returns:
            Whether all threads have ended; False if a decode had to be abandoned (the next start takes it up again).

        Raises:
            PinholeError: if a listener fails or the archive cannot be read at the start.
        """
        tasks: list[asyncio.Task[object]] = []
        try:
            adopted = await self._background.run(self._archive.adopt)
            if adopted:
                self._report.line(f"took over {adopted} layers that a crash had left outside the index")
            self.status.resumed = await self._decoding.resume()
            if self.status.resumed:
                self._report.line(f"going on with {self.status.resumed} pictures of an earlier run")
            tasks = [asyncio.create_task(self._drive()), asyncio.create_task(self._ingest.run())]
            tasks += [asyncio.create_task(self._decoding.work()) for _ in range(self._engine.slots)]
            tasks += [asyncio.create_task(stop.wait()), asyncio.create_task(self._tick())]
            finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
        finally:
            ended = await self._close(tasks)
        return ended

    async def _drive(self) -> None:
        await drive_station(self._station, self._listeners, on_event=self._receive, wake=self._wake, clock=self._clock)

    def _receive(self, event: LayerReceived) -> None:
        key = PictureKey(event.sender, event.sequence)
        self._ingest.add(ReceivedLayer(key, event.layer, event.layers, event.payload))

    def _acknowledge(self, layer: ReceivedLayer) -> None:
        self._unacknowledged[layer.key, layer.layer] = hash(layer.payload)
        self._acknowledge_stored()

    def _refuse(self, layer: ReceivedLayer, highest: int) -> None:
        self._station.refuse(layer.key.sender, layer.key.sequence, layer.layer, highest, self._clock())
        self._wake.set()

    def _acknowledge_stored(self) -> None:
        # What is acknowledged is never sent again, so its session must be one that a restart still knows.
        if self._admission is not None and not self._admission.before_acknowledging():
            return
        for (key, layer), payload_hash in self._unacknowledged.items():
            self._station.acknowledge(key.sender, key.sequence, layer, self._clock(), payload_hash)
        self._unacknowledged.clear()
        self._wake.set()

    def name_of(self, sender: int) -> str:
        """What people call a sender; empty where nobody has named it."""
        return "" if self._admission is None else self._admission.name_of(sender)

    async def _tick(self) -> None:
        """Keep the timers; return when the receiver has been idle for long enough."""
        packets, last_packet = 0, self._clock()
        while True:
            now = self._clock()
            await self._decoding.tick(now)
            tell_refusals(self._station, self._report, self._listeners.where)
            if self._admission is not None:
                self._admission.tick(self._station, now)
            if self._unacknowledged:
                # The session could not be remembered when these were stored, and perhaps nothing new comes.
                self._acknowledge_stored()
            if self._listeners.packets != packets:
                packets, last_packet = self._listeners.packets, now
            until_idle = self._config.until_idle
            quiet = packets > 0 and self._ingest.idle and self._decoding.idle
            if until_idle is not None and quiet and now - last_packet >= until_idle:
                return
            due = self._assembler.next_timer()
            await asyncio.sleep(_TICK if due is None else min(_TICK, max(0.01, due - now)))

    async def _close(self, tasks: list["asyncio.Task[object]"]) -> bool:
        """Store and acknowledge what has arrived, then end every part; nothing accepted is lost."""
        with contextlib.suppress(PinholeError):
            await self._ingest.close()
        if tasks and not tasks[0].done():
            self._wake.set()
            await asyncio.sleep(_FAREWELL)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._listeners.close()
        tell_refusals(self._station, self._report, self._listeners.where)
        if self._admission is not None:
            self._admission.close()
        ended = await asyncio.to_thread(self._engine.close, self._config.close_timeout)
        await asyncio.to_thread(self._background.close)
        self._archive.close()
        return ended
