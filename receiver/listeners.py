"""Several transports as one: whatever a station listens on, its link core sees a single stream of packets."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Self

from shared.transports import StationOptions, options_for
from shared.transports.base import StationTransport
from shared.transports.lasting import open_lasting_station

_WAITING_PACKETS = 256


@dataclass(frozen=True)
class Path:
    """Return address: which listener, and its own address of the peer."""

    listener: int
    peer: Hashable


class Listeners:
    """A station transport made of others.

    ``open_gate`` and ``close_gate`` hold reading back while layers wait for the disk: stream transports then slow their
    senders down, datagrams are dropped by the system and repaired later, and memory stays bounded.

    Those that `open` opens are opened again for ever when they fail; the others go on.
    """

    def __init__(self, transports: Sequence[StationTransport]) -> None:
        """Take over transports that are open, in a running event loop; one that fails for good ends the reception."""
        self._transports = list(transports)
        self._packets: asyncio.Queue[tuple[Path, bytes] | Exception] = asyncio.Queue(_WAITING_PACKETS)
        self._gate = asyncio.Event()
        self._gate.set()
        self._pumps = [asyncio.create_task(self._pump(number)) for number in range(len(self._transports))]
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
            options: of all of them; see `options_for`.
            report: gets one line when a transport fails and when it is open again.

        Raises:
            PinholeError: if one cannot be opened; the others are closed again.
        """
        opened: list[StationTransport] = []
        try:
            for url in urls:
                own = options_for(url, options or StationOptions())
                opened.append(await open_lasting_station(url, own, report))
        except BaseException:
            for transport in opened:
                await transport.close()
            raise
        return cls(opened)

    @property
    def url(self) -> str:
        """Where the station listens, all addresses, with the ports that were really taken."""
        return ", ".join(transport.url for transport in self._transports)

    def where(self, path: object) -> str:
        """A path in words."""
        if not isinstance(path, Path):
            return "nowhere"
        return f"{_in_words(path.peer)} at {self._transports[path.listener].url}"

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
            await self._transports[path.listener].send(path.peer, packet)
        except Exception:  # one peer that vanished must not end the reception of all others
            self.unsent += 1

    async def close(self) -> None:
        """Close every transport."""
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for transport in self._transports:
            await transport.close()

    async def _pump(self, number: int) -> None:
        try:
            while True:
                peer, packet = await self._transports[number].receive()
                await self._packets.put((Path(number, peer), packet))
        except Exception as error:  # also a defect in opening again must end the reception, not leave it deaf
            await self._packets.put(error)


def _in_words(peer: object) -> str:
    if isinstance(peer, tuple) and len(peer) >= 2:
        return f"{peer[0]}:{peer[1]}"
    return peer.hex() if isinstance(peer, bytes) else str(peer)
