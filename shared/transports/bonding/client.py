"""Several links at once for one sender: all together, or one after another. The station listens on all of them."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from shared.errors import PinholeError, UsageError
from shared.transports.base import LARGEST_PACKET, ClientTransport, KeepsConnection, PacketTooLargeError
from shared.transports.bonding.choice import LinkChoice, Mode
from shared.transports.lines.byte_stream import Inbox
from shared.transports.together import run_together

PATIENCE = 30.0
UNCONNECTED_FOR = 5.0
"""Seconds for which a link may lack its connection before what it holds goes another way: it may be back at once."""

_LOOK_EVERY = 0.5
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
"""Seconds between two attempts to open a link."""

_LINGER = 1.0


@dataclass(frozen=True)
class Link:
    """One of a sender's links.

    Attributes:
        name: what people call it, such as its URL.
        open: opens its transport; called again whenever that fails.
        rate: bit/s that it takes, None for no limit.
        burst_bytes: bytes that may leave at once, at least a packet.
    """

    name: str
    open: Callable[[], Awaitable[ClientTransport]]
    rate: float | None = None
    burst_bytes: int = 2400


@dataclass(eq=False)
class _Waiting:
    """A packet that no link has taken yet; ``taken`` is None for one that a link gave back."""

    packet: bytes
    priority: int
    taken: "asyncio.Future[None] | None"


class _Slot:
    """The one packet that a link is busy with."""

    def __init__(self) -> None:
        self.held: _Waiting | None = None
        self.given = asyncio.Event()

    def give(self, waiting: _Waiting) -> None:
        self.held = waiting
        self.given.set()

    def take_back(self) -> _Waiting | None:
        held, self.held = self.held, None
        return held


class BondedClient:
    """See `ClientTransport`; open it with `BondedClient.open`, in a running event loop.

    A link that fails is opened again in the background, for ever; what it held goes over another one, and so does a
    copy of what a stuck one holds, after `UNCONNECTED_FOR` seconds where it lacks its connection, else when patience is
    over. While none can be used, ``send`` waits.
    """

    def __init__(
        self,
        links: Sequence[Link],
        mode: Mode,
        *,
        patience: float = PATIENCE,
        simplex: bool = False,
        report: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to open the links.

        Args:
            links: at least one, the best first.
            mode: ``bond`` or ``fallback``, see `LinkChoice`.
            patience: seconds after which a silent or stuck link is no good.
            simplex: there is no way back on any link.
            report: gets one line for every link that fails, returns, or takes over.
            clock: seconds that never go back.
        """
        self._links = list(links)
        self._report = report
        self._clock = clock
        self._mode = mode
        self._choice = LinkChoice(
            [link.rate for link in links],
            [link.burst_bytes for link in links],
            mode=mode,
            patience=patience,
            simplex=simplex,
            now=clock(),
        )
        self._inbox = Inbox()
        self._waiting: deque[_Waiting] = deque()
        self._changed = asyncio.Event()
        self._slots = [_Slot() for _ in links]
        self._errors: dict[int, str] = {}
        self._tried = asyncio.Event()
        self._open_links: set[int] = set()
        self._one_was_open = False
        self._closed = False
        self._defect: BaseException | None = None
        self._carrier: int | None = None
        self.packets = [0] * len(self._links)
        """Packets that each link has passed on."""
        self._tasks = [asyncio.create_task(self._keep(number)) for number in range(len(self._links))]
        self._tasks.append(asyncio.create_task(self._dispatch()))
        for task in self._tasks:
            task.add_done_callback(self._note_end)

    @classmethod
    async def open(
        cls,
        links: Sequence[Link],
        mode: Mode,
        *,
        patience: float = PATIENCE,
        simplex: bool = False,
        report: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Open links; arguments as for the constructor. Returns when the first can be used or all were tried once.

        Raises:
            UsageError: if the address of one is wrong; where another can be used before that shows, it is reported.
            PinholeError: if there is no link.
        """
        if not links:
            raise PinholeError("a sender needs at least one link")
        client = cls(links, mode, patience=patience, simplex=simplex, report=report, clock=clock)
        try:
            while not client._open_links and len(client._errors) < len(links):
                client._tried.clear()
                await client._tried.wait()
                client._check()
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def dropped(self) -> int:
        """Packets dropped because nobody fetched them in time."""
        return self._inbox.dropped

    async def send(self, packet: bytes, priority: int = 0) -> None:
        """See `ClientTransport`; waits until a link takes the packet.

        Raises:
            PinholeError: if it is larger than any link's burst or than any packet, or the client is closed.
        """
        self._check()
        if len(packet) > min(self._choice.largest(), LARGEST_PACKET):
            raise PacketTooLargeError(f"a packet of {len(packet)} bytes is larger than what any link takes at once")
        waiting = _Waiting(packet, priority, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._changed.set()
        try:
            if waiting.taken is not None:
                await waiting.taken
        finally:
            # Cancelled: nobody waits for it any more.
            with suppress(ValueError):
                self._waiting.remove(waiting)

    async def receive(self) -> bytes:
        """See `ClientTransport`: the next packet of any link."""
        try:
            return await self._inbox.next()
        except PinholeError:
            self._check()
            raise

    async def close(self) -> None:
        """See `ClientTransport`."""
        if not self._closed:
            self._closed = True
            until = self._clock() + _LINGER
            while self._clock() < until and any(self._slots[number].held for number in self._open_links):
                await asyncio.sleep(0.01)
            for task in self._tasks:
                task.cancel()
            self._end("the links are closed")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _check(self) -> None:
        if self._defect is not None:
            raise self._defect
        if self._closed:
            raise PinholeError("the links are closed")

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        """A background task ends only at the end, or by a defect that its owner must hear of."""
        if not task.cancelled() and task.exception() is not None and self._defect is None:
            self._defect = task.exception()
            self._tried.set()
            self._end("a link has a defect")

    def _end(self, reason: str) -> None:
        self._inbox.fail(reason)
        for waiting in self._waiting:
            if waiting.taken is not None and not waiting.taken.done():
                waiting.taken.set_exception(self._defect or PinholeError(reason))
        self._waiting.clear()

    async def _dispatch(self) -> None:
        """Give waiting packets to links, what was given back before what is new."""
        while True:
            self._changed.clear()
            now = self._clock()
            for number in self._choice.stalled(now):
                self._report(f"{self._links[number].name}: stuck; going on without it")
                held = self._slots[number].held
                if held is not None:
                    self._give_back(held)
            at = self._choice.next_stall()
            if self._waiting:
                waiting = self._waiting[0]
                turn = self._choice.choose(len(waiting.packet), waiting.priority, now)
                if turn.link is not None:
                    self._waiting.popleft()
                    self._slots[turn.link].give(waiting)
                    if waiting.taken is not None and not waiting.taken.done():
                        waiting.taken.set_result(None)
                    self._tell_carrier()
                    continue
                at = min(at, turn.at)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if at == float("inf") else max(0.0, at - now)):
                    await self._changed.wait()

    def _tell_carrier(self) -> None:
        carrier = self._choice.carrier
        if self._mode is Mode.FALLBACK and carrier is not None and carrier != self._carrier:
            self._carrier = carrier
            self._report(f"{self._links[carrier].name}: carries the packets now")

    def _give_back(self, held: _Waiting) -> None:
        self._waiting.appendleft(_Waiting(held.packet, held.priority, None))
        self._changed.set()

    async def _keep(self, number: int) -> None:
        """Keep one link open."""
        link = self._links[number]
        pause = _FIRST_PAUSE
        while True:
            began = self._clock()
            try:
                transport = await link.open()
                try:
                    self._note_open(number)
                    await self._use(number, transport)
                finally:
                    self._open_links.discard(number)
                    with suppress(OSError, PinholeError):
                        await transport.close()
            except UsageError as error:
                # An address that no time mends; but it must not take from the owner the links that work.
                if not self._one_was_open:
                    raise
                self._note_failure(number, error, "going on without it")
                return
            except (OSError, PinholeError) as error:
                self._note_failure(number, error)
            if self._clock() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _note_open(self, number: int) -> None:
        self._open_links.add(number)
        self._one_was_open = True
        if self._errors.pop(number, None) is not None:
            self._report(f"{self._links[number].name}: open again")
        self._choice.opened(number, self._clock())
        self._changed.set()
        self._tried.set()

    def _note_failure(self, number: int, error: Exception, then: str = "opening it again for ever") -> None:
        if number not in self._errors:
            self._report(f"{self._links[number].name}: failed ({error}); {then}")
        self._errors[number] = str(error)
        held = self._slots[number].take_back()
        self._slots[number].given.clear()
        if held is not None:
            self._give_back(held)
        self._choice.failed(number, self._clock())
        self._changed.set()
        self._tried.set()

    async def _use(self, number: int, transport: ClientTransport) -> None:
        """Carry packets both ways until the transport fails."""
        await run_together(
            self._talk(number, transport), self._listen(number, transport), self._watch(number, transport)
        )

    async def _talk(self, number: int, transport: ClientTransport) -> None:
        slot = self._slots[number]
        while True:
            await slot.given.wait()
            held = slot.held
            if held is not None:
                await transport.send(held.packet, held.priority)
                self.packets[number] += 1
            slot.given.clear()
            slot.held = None
            self._choice.finished(number, self._clock())
            self._changed.set()

    async def _listen(self, number: int, transport: ClientTransport) -> None:
        while True:
            packet = await transport.receive()
            self._choice.heard(number, self._clock())
            self._inbox.put(None, packet)
            self._changed.set()

    async def _watch(self, number: int, transport: ClientTransport) -> None:
        """Give a link up that waits for its connection to come back, before patience is over."""
        since: float | None = None
        while isinstance(transport, KeepsConnection):
            await asyncio.sleep(_LOOK_EVERY)
            if not transport.lacks_connection:
                since = None
            elif since is None:
                since = self._clock()
            elif self._clock() - since >= UNCONNECTED_FOR:
                self._choice.stuck(number)
                self._changed.set()
