"""Packets over a stream of bytes: what serial lines and KISS over TCP have in common."""

import asyncio
from collections.abc import Hashable
from typing import Protocol

from shared.errors import PinholeError
from shared.transports.base import PacketTooLargeError
from shared.transports.byte_queue import ByteQueue
from shared.transports.lines.framing import Framing

QUEUED_BYTES = 256 * 1024
ANSWER_BYTES = 4096
"""Bytes of answers that may wait for the line when another comes: later ones would be late, and are said again."""

_PATH = "line"


class Inbox(ByteQueue[None]):
    """Packets received and not yet fetched, where there is one way alone."""

    def __init__(self, most_bytes: int = QUEUED_BYTES) -> None:
        super().__init__(most_bytes)

    async def next(self) -> bytes:
        """Wait for a packet; errors as for `ByteQueue.get`."""
        return (await self.get())[1]


class Line(Protocol):
    """A stream of bytes both ways; what it receives, and its end, it tells by calls that it was made with."""

    @property
    def fresh(self) -> bool:
        """Whether the next frame follows on silence or on a frame that broke off."""

    async def write(self, data: bytes) -> None:
        """Send a frame; waits for its turn and while the line is full. Not to be called twice at a time.

        Raises:
            PinholeError: if the line has failed.
        """

    async def close(self) -> None:
        """Close; what was written has a moment to leave. A second call does nothing."""


class StreamEnd:
    """What a client and a station have in common: frames out, packets in.

    Give its `take` and `end` to a line, then the line to `attach`.
    """

    def __init__(self, url: str, framing: Framing, mtu: int) -> None:
        self.url = url
        self._framing = framing
        self._mtu = mtu
        self._received = Inbox()
        self._line: Line | None = None
        self._writing = asyncio.Lock()

        self._closed = False
        self.oversize = 0
        """Answers dropped because they do not fit into a frame."""

    @property
    def dropped(self) -> int:
        """Packets dropped because nobody fetched them in time."""
        return self._received.dropped

    @property
    def damaged(self) -> int:
        """Frames that noise or a foreign sender made."""
        return self._framing.damaged

    def take(self, data: bytes) -> None:
        """Take bytes that the line received."""
        for packet in self._framing.feed(data):
            self._received.put(None, packet)

    def end(self, reason: str) -> None:
        """The line has ended."""
        self._received.fail(f"{self.url}: {reason}")

    async def attach(self, line: Line) -> None:
        """Use a line, and send what goes out first.

        Raises:
            PinholeError: if it has failed already.
        """
        self._line = line
        opening = self._framing.opening()
        if opening:
            async with self._writing:
                await line.write(opening)

    async def close(self) -> None:
        """See `ClientTransport`."""
        self._closed = True
        if self._line is not None:
            await self._line.close()
        self._received.fail(f"{self.url}: closed")

    async def _send(self, packet: bytes) -> None:
        async with self._writing:
            self._received.check()
            if self._line is not None:
                await self._line.write(self._framing.encode(packet, fresh=self._line.fresh))


class StreamClient(StreamEnd):
    """A sender's end of a line."""

    async def send(self, packet: bytes, priority: int = 0) -> None:
        """See `ClientTransport`.

        Raises:
            PinholeError: if the line has failed, for example unplugged, or the packet does not fit into a frame.
        """
        if len(packet) > self._mtu:
            raise PacketTooLargeError(f"{self.url}: a packet of {len(packet)} bytes is over the limit of {self._mtu}")
        await self._send(packet)

    async def receive(self) -> bytes:
        """See `ClientTransport`.

        Raises:
            PinholeError: likewise.
        """
        return await self._received.next()


class StreamStation(StreamEnd):
    """A station's end; every sender on the line or channel has the same path.

    Answers wait in a queue of their own: a line that stands still, for flow control or a modem that hangs, must not
    hold up the senders on other lines, whom the same loop answers.
    """

    def __init__(self, url: str, framing: Framing, mtu: int) -> None:
        super().__init__(url, framing, mtu)
        self._answers: ByteQueue[None] = ByteQueue(ANSWER_BYTES + QUEUED_BYTES)
        self._writer: asyncio.Task[None] | None = None
        self.answers_dropped = 0
        """Answers dropped because the line did not take those before them."""

    async def attach(self, line: Line) -> None:
        """See `StreamEnd.attach`."""
        await super().attach(line)
        self._writer = asyncio.create_task(self._write_answers())

    async def send(self, path: Hashable, packet: bytes) -> None:
        """See `StationTransport`; dropped as well while too many wait for the line.

        Raises:
            PinholeError: if the line has failed.
        """
        if len(packet) > self._mtu:
            self.oversize += 1
        elif path == _PATH and not self._closed:
            self._received.check()
            if self._answers.held > ANSWER_BYTES:
                self.answers_dropped += 1
            else:
                self._answers.put(None, packet)
            # Where the line has room, the packet is on it when this returns.
            await asyncio.sleep(0)

    async def receive(self) -> tuple[Hashable, bytes]:
        """See `StationTransport`.

        Raises:
            PinholeError: if the line has failed.
        """
        return _PATH, await self._received.next()

    async def close(self) -> None:
        """See `StationTransport`."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await super().close()

    async def _write_answers(self) -> None:
        try:
            while True:
                await self._send((await self._answers.get())[1])
        except PinholeError:
            pass  # the line has ended, and has told so itself
        except Exception as error:
            self.end(f"answers cannot be written ({error!r})")
