"""UDP transport: one packet a datagram, where packets really get lost."""

import asyncio
import contextlib
import socket
from collections.abc import Hashable
from typing import Any

from shared.errors import PinholeError
from shared.transports.address import Address, bracketed, cannot_listen, resolve

_PACKETS_QUEUED = 1024
_RECEIVE_BUFFER = 1 << 20
"""Bytes asked of the kernel; it may give less."""


class _Datagrams(asyncio.DatagramProtocol):
    """Queues what arrives, drops what exceeds the queue, and lets senders wait while the socket is full."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[Hashable, bytes]] = asyncio.Queue(_PACKETS_QUEUED)
        self.dropped = 0
        self.errors = 0
        self._writable = asyncio.Event()
        self._writable.set()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        try:
            self.received.put_nowait((addr, data))
        except asyncio.QueueFull:
            self.dropped += 1

    def error_received(self, exc: Exception) -> None:
        # A port where nobody listens yet answers by ICMP. That is one more lost packet; the link goes on trying.
        self.errors += 1

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()

    async def until_writable(self) -> None:
        await self._writable.wait()


class _UdpEnd:
    """What both ends have in common."""

    def __init__(self, transport: asyncio.DatagramTransport, datagrams: _Datagrams) -> None:
        self._transport = transport
        self._datagrams = datagrams

    @property
    def dropped(self) -> int:
        """Packets dropped because nobody fetched them in time."""
        return self._datagrams.dropped

    @property
    def errors(self) -> int:
        """Packets that the network refused."""
        return self._datagrams.errors

    async def close(self) -> None:
        """See `ClientTransport`."""
        self._transport.close()

    async def _send(self, packet: bytes, to: tuple[str, int] | None) -> None:
        await self._datagrams.until_writable()
        if not self._transport.is_closing():
            self._transport.sendto(packet, to)


class UdpClient(_UdpEnd):
    """A sender's socket; open it with `open_udp_client`."""

    async def send(self, packet: bytes) -> None:
        """See `ClientTransport`."""
        await self._send(packet, None)

    async def receive(self) -> bytes:
        """See `ClientTransport`."""
        return (await self._datagrams.received.get())[1]


class UdpStation(_UdpEnd):
    """A station's socket; open it with `open_udp_station`. A path is the sender's address as last seen."""

    def __init__(self, transport: asyncio.DatagramTransport, datagrams: _Datagrams) -> None:
        super().__init__(transport, datagrams)
        host, port = transport.get_extra_info("sockname")[:2]
        self.url = f"udp://{bracketed(host)}:{port}"

    async def send(self, path: Hashable, packet: bytes) -> None:
        """See `StationTransport`."""
        if isinstance(path, tuple):
            await self._send(packet, path)

    async def receive(self) -> tuple[Hashable, bytes]:
        """See `StationTransport`."""
        return await self._datagrams.received.get()


async def open_udp_client(address: Address) -> UdpClient:
    """Open a socket whose packets go to a station.

    Raises:
        PinholeError: if the host cannot be found or there is no way to it.
    """
    family, host = await resolve(address, kind=socket.SOCK_DGRAM, passive=False)
    try:
        transport, datagrams = await asyncio.get_running_loop().create_datagram_endpoint(
            _Datagrams, remote_addr=(host, address.port), family=family
        )
    except OSError as error:
        raise PinholeError(f"{address.url}: there is no way to that host ({(error.strerror or '').lower()})") from error
    _widen(transport)
    return UdpClient(transport, datagrams)


async def open_udp_station(address: Address) -> UdpStation:
    """Listen for senders.

    Raises:
        PinholeError: if the host cannot be found or the address is taken.
    """
    family, host = await resolve(address, kind=socket.SOCK_DGRAM, passive=True)
    try:
        transport, datagrams = await asyncio.get_running_loop().create_datagram_endpoint(
            _Datagrams, local_addr=(host, address.port), family=family
        )
    except OSError as error:
        raise cannot_listen(address.url, error.strerror or str(error)) from error
    _widen(transport)
    return UdpStation(transport, datagrams)


def _widen(transport: asyncio.DatagramTransport) -> None:
    with contextlib.suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
