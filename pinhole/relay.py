"""A relay: passes packets between senders and a station unopened, with the answers.

It has no keys and needs none. Of a packet it looks at the first byte and the length alone.

    sender ~~> station transport, a path each --> bounded queue --> a connection of its own to the station
           <~~                                <--------------------
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields

from shared.errors import PinholeError
from shared.link.packet import SEALED, VERSION_BITS, VERSION_MASK, reset_tag, spoken_versions
from shared.transports.base import LARGEST_PACKET, ClientTransport, PacketTooLargeError, StationTransport
from shared.transports.together import run_together

_SMALLEST_PACKET = 8
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
"""Seconds between two attempts to open a connection."""

_LINGER = 1.0
"""Seconds at the end in which packets on their way may leave."""

_LOOK_EVERY = 1.0


@dataclass
class RelayCounters:
    """What a relay did; numbers of packets, but for what says bytes.

    Attributes:
        up: passed on to the station.
        up_bytes: their bytes.
        down: passed back to senders.
        down_bytes: their bytes.
        foreign: dropped, for they are no packets of this protocol's version or have no such length.
        unsealed: dropped, for only sealed ones are passed on.
        oversize: dropped, for the way to the station takes no such large ones.
        crowded: dropped, for too many waited already.
        failed: dropped, for a connection failed while it had them.
        paths: senders' addresses seen, each time that one came (back).
        evicted: paths given up for newer ones.
        outages: times that a connection to the station failed or could not be opened.
    """

    up: int = 0
    up_bytes: int = 0
    down: int = 0
    down_bytes: int = 0
    foreign: int = 0
    unsealed: int = 0
    oversize: int = 0
    crowded: int = 0
    failed: int = 0
    paths: int = 0
    evicted: int = 0
    outages: int = 0

    def summary(self) -> str:
        """One line for an operator."""
        dropped = [
            f"{getattr(self, field.name)} {name}"
            for field in fields(self)
            if (name := _DROPS.get(field.name)) and getattr(self, field.name)
        ]
        return (
            f"{self.up} packets ({self.up_bytes} bytes) passed on, {self.down} ({self.down_bytes} bytes) back, "
            f"on {self.paths} {'path' if self.paths == 1 else 'paths'}; dropped: {', '.join(dropped) or 'none'}"
            + (f"; the station's side failed {self.outages} times" if self.outages else "")
        )


_DROPS = {
    "foreign": "foreign",
    "unsealed": "unsealed",
    "oversize": "too large for the way",
    "crowded": "for want of room",
    "failed": "in failures",
}


@dataclass(frozen=True)
class RelaySettings:
    """Bounds of a relay.

    Attributes:
        insecure: pass on packets that are not sealed.
        most_paths: paths that have a connection at once; the one silent for longest gives way.
        idle: seconds of silence, both ways, after which a path's connection is closed.
        path_bytes: bytes of one path that may wait.
        shared: all paths use one connection, and answers go to all: for lines that have but one end. Senders drop what
            is not theirs.
    """

    insecure: bool = False
    most_paths: int = 256
    idle: float = 300.0
    path_bytes: int = 64 * 1024
    shared: bool = False


Path = tuple[int, Hashable]
"""Number of the listener, and its name for the peer."""


class _Upstream:
    """A connection to the station, what waits for it, and who gets the answers."""

    def __init__(self) -> None:
        self.packets: deque[bytes] = deque()
        self.waiting_bytes = 0
        self.arrived = asyncio.Event()
        self.used_at = 0.0
        self.sending = False
        self.task: asyncio.Task[None] | None = None

    def put(self, packet: bytes) -> None:
        self.packets.append(packet)
        self.waiting_bytes += len(packet)
        self.arrived.set()

    async def wait(self) -> None:
        while not self.packets:
            self.arrived.clear()
            await self.arrived.wait()

    def take(self) -> bytes:
        packet = self.packets.popleft()
        self.waiting_bytes -= len(packet)
        return packet


class Relay:
    """One relay; `run` it once. Owns the listeners from then on.

    Args:
        listeners: open transports of senders.
        open_upstream: opens a connection to the station.
        settings: bounds.
        report: gets one line when the station's side fails and when it works again.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        listeners: Sequence[StationTransport],
        open_upstream: Callable[[], Awaitable[ClientTransport]],
        settings: RelaySettings,
        *,
        report: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.counters = RelayCounters()
        self._listeners = list(listeners)
        self._open_upstream = open_upstream
        self._settings = settings
        self._report = report
        self._clock = clock
        self._paths: OrderedDict[Path, _Upstream] = OrderedDict()
        self._common = _Upstream() if settings.shared else None
        self._ending: set[asyncio.Task[None]] = set()
        self._failing = False

    @property
    def paths(self) -> int:
        """Paths known now."""
        return len(self._paths)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait for the station's side."""
        return sum(upstream.waiting_bytes for upstream in self._upstreams())

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until ``stop`` is set, then let what waits leave, for a moment, and close everything.

        Raises:
            PinholeError: if a listener fails.
            OSError: likewise.
        """
        tasks: list[asyncio.Task[object]] = [asyncio.create_task(stop.wait())]
        tasks += [asyncio.create_task(self._listen(number)) for number in range(len(self._listeners))]
        tasks.append(asyncio.create_task(self._expire()))
        try:
            finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
            until = self._clock() + _LINGER
            while self._clock() < until and any(one.packets or one.sending for one in self._upstreams()):
                await asyncio.sleep(0.01)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for upstream in self._upstreams():
                self._close(upstream)
            await asyncio.gather(*self._ending, return_exceptions=True)
            for listener in self._listeners:
                await listener.close()

    def _upstreams(self) -> list[_Upstream]:
        return list(self._paths.values()) if self._common is None else [self._common]

    async def _listen(self, number: int) -> None:
        while True:
            peer, packet = await self._listeners[number].receive()
            if self._passes(packet):
                self._pass_up((number, peer), packet)

    def _passes(self, packet: bytes) -> bool:
        """Whether a packet may be one of this protocol's; counts it if not."""
        if not _SMALLEST_PACKET <= len(packet) <= LARGEST_PACKET or packet[0] & VERSION_MASK != VERSION_BITS:
            self.counters.foreign += 1
            return False
        if not (packet[0] & SEALED or self._settings.insecure):
            self.counters.unsealed += 1
            return False
        return True

    def _passes_back(self, packet: bytes) -> bool:
        """The same for a packet of the station."""
        # Its two answers to packets of nobody that it knows cannot be sealed, and need not be.
        return spoken_versions(packet) is not None or reset_tag(packet) is not None or self._passes(packet)

    def _pass_up(self, path: Path, packet: bytes) -> None:
        upstream = self._paths.get(path)
        if upstream is None:
            upstream = self._common or _Upstream()
            if len(self._paths) >= self._settings.most_paths:
                self._forget(next(iter(self._paths)))
                self.counters.evicted += 1
            self._paths[path] = upstream
            self.counters.paths += 1
        self._paths.move_to_end(path)
        upstream.used_at = self._clock()
        if upstream.waiting_bytes + len(packet) > self._settings.path_bytes and upstream.packets:
            self.counters.crowded += 1
            return
        upstream.put(packet)
        if upstream.task is None:
            upstream.task = asyncio.create_task(self._serve(None if upstream is self._common else path, upstream))

    def _forget(self, path: Path) -> None:
        upstream = self._paths.pop(path)
        if upstream is not self._common:
            self._close(upstream)

    def _close(self, upstream: _Upstream) -> None:
        self.counters.failed += len(upstream.packets)
        upstream.packets.clear()
        upstream.waiting_bytes = 0
        if upstream.task is not None:
            upstream.task.cancel()
            self._ending.add(upstream.task)
            upstream.task.add_done_callback(self._ending.discard)

    async def _expire(self) -> None:
        """Close what was silent for long; also brings a defect of a connection's task to light."""
        while True:
            await asyncio.sleep(min(_LOOK_EVERY, self._settings.idle))
            now = self._clock()
            for path, upstream in list(self._paths.items()):
                if upstream.task is not None and upstream.task.done():
                    upstream.task.result()
                if now - upstream.used_at >= self._settings.idle:
                    self._forget(path)

    async def _serve(self, path: Path | None, upstream: _Upstream) -> None:
        """Keep a connection to the station for as long as there is something to carry."""
        pause = _FIRST_PAUSE
        while True:
            await upstream.wait()
            began = self._clock()
            try:
                transport = await self._open_upstream()
                try:
                    await self._carry(path, upstream, transport)
                finally:
                    with suppress(OSError, PinholeError):
                        await transport.close()
            except (OSError, PinholeError) as error:
                self.counters.outages += 1
                if not self._failing:
                    self._failing = True
                    self._report(f"the station's side fails ({error}); trying again for ever")
            if self._clock() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _carry(self, path: Path | None, upstream: _Upstream, transport: ClientTransport) -> None:
        await run_together(self._carry_up(upstream, transport), self._carry_down(path, upstream, transport))

    async def _carry_up(self, upstream: _Upstream, transport: ClientTransport) -> None:
        while True:
            await upstream.wait()
            packet = upstream.take()
            upstream.sending = True
            passed = False
            try:
                await transport.send(packet)
                passed = True
            except PacketTooLargeError as error:
                # Anybody can make one; the connection is as good as before.
                passed = True
                if not self.counters.oversize:
                    self._report(f"dropped: {error} (more of this kind are only counted)")
                self.counters.oversize += 1
                continue
            finally:
                upstream.sending = False
                self.counters.failed += not passed
            self.counters.up += 1
            self.counters.up_bytes += len(packet)
            if self._failing:
                self._failing = False
                self._report("the station's side takes packets again")

    async def _carry_down(self, path: Path | None, upstream: _Upstream, transport: ClientTransport) -> None:
        while True:
            packet = await transport.receive()
            upstream.used_at = self._clock()
            if not self._passes_back(packet):
                continue
            for number, peer in [*self._paths] if path is None else [path]:
                # A sender that has gone must not end the way of the others.
                with suppress(OSError, PinholeError):
                    await self._listeners[number].send(peer, packet)
                    self.counters.down += 1
                    self.counters.down_bytes += len(packet)
