"""Several transports as one: whatever a station listens on, its link core sees a single stream of packets."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self
from urllib.parse import urlsplit

from shared.errors import PinholeError
from shared.transports import StationOptions, open_station
from shared.transports.base import StationTransport

_WAITING_PACKETS = 256
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts to open a transport that failed."""


@dataclass(frozen=True)
class Path:
    """Return address: which listener, and its own address of the peer."""

    listener: int
    peer: Hashable


@dataclass
class _Listener:
    """One address: how it is opened, and the transport that is open there now."""

    url: str
    open: Callable[[], Awaitable[StationTransport]] | None
    transport: StationTransport


class Listeners:
    """A station transport made of others.

    ``open_gate`` and ``close_gate`` hold reading back while layers wait for the disk: stream transports then slow their
    senders down, datagrams are dropped by the system and repaired later, and memory stays bounded.

    A transport that fails, such as a modem that was unplugged, is opened again for ever; the others go on.
    """

    def __init__(
        self,
        transports: Sequence[StationTransport],
        openers: Sequence[Callable[[], Awaitable[StationTransport]]] = (),
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Take over transports that are open, in a running event loop.

        Args:
            transports: the transports.
            openers: opens each of them again; without them a transport that fails ends the reception.
            report: gets one line when a transport fails and when it is open again.
        """
        self._listeners = [
            _Listener(transport.url, openers[number] if openers else None, transport)
            for number, transport in enumerate(transports)
        ]
        self._report = report
        self._packets: asyncio.Queue[tuple[Path, bytes] | Exception] = asyncio.Queue(_WAITING_PACKETS)
        self._gate = asyncio.Event()
        self._gate.set()
        self._pumps = [asyncio.create_task(self._pump(number)) for number in range(len(self._listeners))]
        self.packets = 0
        self.packet_bytes = 0
        self.unsent = 0
        """Packets that a transport refused to send (peer gone); the link repairs what matters."""

    @classmethod
    async def open(
        cls,
        urls: Sequence[str],
        options: StationOptions | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """Open a transport for every URL.

        Args:
            urls: where to listen.
            options: of all of them.
            report: as for the constructor.

        Raises:
            PinholeError: if one cannot be opened; the others are closed again.
        """
        opened: list[StationTransport] = []
        try:
            for url in urls:
                opened.append(await open_station(url, options))
        except PinholeError:
            for transport in opened:
                await transport.close()
            raise
        # The address that was really taken, so that a listener on port 0 comes back where its senders look for it.
        openers = [
            partial(open_station, _again(url, transport.url), options)
            for url, transport in zip(urls, opened, strict=True)
        ]
        return cls(opened, openers, report)

    @property
    def url(self) -> str:
        """Where the station listens, all addresses, with the ports that were really taken."""
        return ", ".join(listener.transport.url for listener in self._listeners)

    def where(self, path: object) -> str:
        """A path in words."""
        if not isinstance(path, Path):
            return "nowhere"
        return f"{_in_words(path.peer)} at {self._listeners[path.listener].url}"

    def open_gate(self) -> None:
        """Go on reading."""
        self._gate.set()

    def close_gate(self) -> None:
        """Stop reading; sending goes on."""
        self._gate.clear()

    async def receive(self) -> tuple[Path, bytes]:
        """Return the next packet and where it came from; see `StationTransport`."""
        item = await self._packets.get()
        await self._gate.wait()
        if isinstance(item, Exception):
            raise item
        self.packets += 1
        self.packet_bytes += len(item[1])
        return item

    async def send(self, path: Hashable, packet: bytes) -> None:
        """Send a packet back the way others came."""
        if not isinstance(path, Path):
            self.unsent += 1
            return
        try:
            await self._listeners[path.listener].transport.send(path.peer, packet)
        except Exception:  # one peer that vanished must not end the reception of all others
            self.unsent += 1

    async def close(self) -> None:
        """Close every transport."""
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for listener in self._listeners:
            await listener.transport.close()

    async def _pump(self, number: int) -> None:
        try:
            await self._read(number, self._listeners[number])
        except Exception as error:  # also a defect in opening again must end the reception, not leave it deaf
            await self._packets.put(error)

    async def _read(self, number: int, listener: _Listener) -> None:
        while True:
            try:
                while True:
                    peer, packet = await listener.transport.receive()
                    await self._packets.put((Path(number, peer), packet))
            except (OSError, PinholeError) as error:
                if listener.open is None:
                    raise
                self._report(f"{listener.url} failed ({error}); opening it again for ever")
                await self._reopen(listener, listener.open)

    async def _reopen(self, listener: _Listener, open_: Callable[[], Awaitable[StationTransport]]) -> None:
        with contextlib.suppress(OSError, PinholeError):
            await listener.transport.close()
        pause = _FIRST_PAUSE
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                listener.transport = await open_()
            except (OSError, PinholeError):
                continue  # told when it failed
            self._report(f"{listener.url} is open again")
            return


def _again(asked: str, taken: str) -> str:
    """The URL to open again: as it was asked for, with the port that was taken where any free one was wanted."""
    parts = urlsplit(asked)
    return parts._replace(netloc=urlsplit(taken).netloc).geturl() if parts.netloc.endswith(":0") else asked


def _in_words(peer: object) -> str:
    if isinstance(peer, tuple) and len(peer) >= 2:
        return f"{peer[0]}:{peer[1]}"
    return peer.hex() if isinstance(peer, bytes) else str(peer)
