"""UDP transport: one packet a datagram, where packets really get lost.

To a single host, a multicast group that several stations may hear, or a broadcast address; answers come from a station
to where the packets came from. Whatever the network says against a packet makes it a lost packet, which the link
repairs: a modem that is not up yet, or an interface that comes and goes, never ends a sender.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Hashable
from functools import partial

from shared.errors import PinholeError
from shared.transports.address import Address, bracketed, cannot_listen, resolve
from shared.transports.byte_queue import ByteQueue
from shared.transports.options import ClientOptions, StationOptions
from shared.transports.pacing import Pacer
from shared.transports.trouble import Trouble
from shared.transports.udp.settings import (
    UdpOptions,
    check_fit,
    client_socket,
    is_multicast,
    station_socket,
    still_in_group,
)
from shared.transports.udp.sockets import UdpCounters, UdpSocket

_QUEUED_AT_SENDER = 1 << 18
_QUEUED_AT_STATION = 1 << 22
"""Bytes that wait for the owner; what exceeds them is dropped."""

_PACKETS_IN_A_BURST = 2

_LOOK_EVERY = 5.0
"""Seconds between two looks at whether the network still brings a group's datagrams."""

_OF_NO_WAY = {errno.EADDRNOTAVAIL, errno.EHOSTUNREACH, errno.EINVAL, errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV}
"""Errors after which a connected socket may be bound to what this machine no longer is."""


class _UdpEnd:
    """What both ends have in common."""

    def __init__(self, url: str, most_bytes: int) -> None:
        self.url = url
        self._received: ByteQueue[Hashable] = ByteQueue(most_bytes)
        self.counters = UdpCounters()

    @property
    def dropped(self) -> int:
        """Packets dropped because nobody fetched them in time."""
        return self._received.dropped

    @property
    def errors(self) -> int:
        """Packets that the network refused."""
        return self.counters.errors


class UdpClient(_UdpEnd):
    """A sender's way; open it with `open_udp_client`.

    Args:
        address: of the station, as given.
        family: of its number.
        host: its number.
        options: of the address.
        pacer: what packets wait for.
        trouble: keeps why packets do not leave.

    Raises:
        PinholeError: if there can never be a way there; that there is none now is no error.
    """

    def __init__(
        self,
        address: Address,
        family: socket.AddressFamily,
        host: str,
        options: UdpOptions,
        pacer: Pacer,
        trouble: Trouble,
    ) -> None:
        super().__init__(address.url, _QUEUED_AT_SENDER)
        self._address = address
        self._family = family
        self._host = host
        self._options = options
        self._pacer = pacer
        self._socket: UdpSocket | None = None
        self._trouble = trouble
        self._open()

    @property
    def trouble(self) -> str | None:
        """Why the last packet did not leave, in one line; None if it did."""
        return self._trouble.current

    async def send(self, packet: bytes, priority: int = 0) -> None:
        """See `ClientTransport`; waits for the packet's turn at the rate of the link."""
        await self._pacer.wait(len(packet) + self._options.overhead)
        self._received.check()
        if len(packet) > self._options.mtu:
            self._note(OSError(errno.EMSGSIZE, "message too long"), packet)
            self.counters.errors += 1
            self.counters.oversize += 1
            return
        if self._socket is None:
            self._try_to_open()
        if self._socket is None:
            self.counters.errors += 1
            return
        error = await self._socket.send(packet, self._to)
        # Without a rate nothing above has let others run.
        await asyncio.sleep(0)
        self._received.check()
        self._note(error, packet)
        if error is not None and error.errno in _OF_NO_WAY and self._to is None and self._socket is not None:
            self._socket.close()
            self._socket = None

    async def receive(self) -> bytes:
        """See `ClientTransport`."""
        return (await self._received.get())[1]

    async def close(self) -> None:
        """See `ClientTransport`."""
        self._received.fail(f"{self.url}: closed")
        self._pacer.stop()
        if self._socket is not None:
            self._socket.close()

    def check_fit(self, packet_bytes: int) -> None:
        """Check the largest packet of the session against the way, as far as the kernel knows it now.

        Raises:
            PinholeError: if it does not fit.
        """
        if self._socket is not None:
            check_fit(self._address, self._socket.sock, packet_bytes)

    @property
    def _to(self) -> tuple[str | int, ...] | None:
        """Where each datagram must be told to go; connected sockets know."""
        whole_group = self._options.broadcast or is_multicast(self._host)
        return (self._host, self._address.port) if whole_group else None

    def _open(self) -> None:
        try:
            sock = client_socket(self._address, self._family, self._host, self._options)
        except OSError as error:
            self._note(error)
            return
        self._socket = UdpSocket(sock, self._received, self.counters, self._note)

    def _try_to_open(self) -> None:
        """Open once more; what was no mistake at first, such as the interface's name, may have become one."""
        try:
            self._open()
        except PinholeError as error:
            self._trouble.note(str(error))

    def _note(self, error: OSError | None, packet: bytes = b"") -> None:
        if error is None:
            self._trouble.over()
        elif error.errno == errno.EMSGSIZE:
            size = f" of {len(packet)} bytes" if packet else ""
            self._trouble.note(f"{self._address.url}: packets{size} do not fit there; make them smaller")
        else:
            self._trouble.note(f"{self._address.url}: packets cannot leave ({(error.strerror or str(error)).lower()})")


class UdpStation(_UdpEnd):
    """A station's socket; open it with `open_udp_station`. A path is the sender's address as last seen.

    Args:
        sock: bound, non-blocking; closed with the station.
        still_heard: asked now and then by stations of multicast groups; false if only another socket can hear again.
    """

    def __init__(self, sock: socket.socket, still_heard: Callable[[], bool] | None = None) -> None:
        host, port = sock.getsockname()[:2]
        super().__init__(f"udp://{bracketed(host.partition('%')[0])}:{port}", _QUEUED_AT_STATION)
        wildcard = ipaddress.ip_address(host.partition("%")[0]).is_unspecified
        self._socket = UdpSocket(sock, self._received, self.counters, answers_as_asked=wildcard)
        self._keeper = None if still_heard is None else asyncio.create_task(self._keep_hearing(still_heard))

    async def send(self, path: Hashable, packet: bytes) -> None:
        """See `StationTransport`."""
        if isinstance(path, tuple):
            await self._socket.send(packet, path)

    async def receive(self) -> tuple[Hashable, bytes]:
        """See `StationTransport`."""
        return await self._received.get()

    async def close(self) -> None:
        """See `StationTransport`."""
        self._received.fail(f"{self.url}: closed")
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._socket.close()

    async def _keep_hearing(self, still_heard: Callable[[], bool]) -> None:
        while still_heard():
            await asyncio.sleep(_LOOK_EVERY)
        self._received.fail(f"{self.url}: the interface of the group has gone")


async def open_udp_client(address: Address, options: ClientOptions) -> UdpClient:
    """Open a way to a station, a group or everybody; nothing is sent yet.

    Raises:
        PinholeError: if the host cannot be found, an option is wrong, or packets are too large for the way.
    """
    family, host = await resolve(address, kind=socket.SOCK_DGRAM, passive=False)
    read = UdpOptions.of_client(address, host, options.packet_bytes)
    pacer = Pacer(options.rate, _PACKETS_IN_A_BURST * (options.packet_bytes + read.overhead))
    client = UdpClient(address, family, host, read, pacer, Trouble(options.report))
    try:
        client.check_fit(options.packet_bytes)
    except BaseException:
        await client.close()
        raise
    return client


async def open_udp_station(address: Address, options: StationOptions) -> UdpStation:
    """Listen for senders, to a multicast group if the address is one.

    Raises:
        PinholeError: if the host cannot be found, an option is wrong or the address is taken.
    """
    family, host = await resolve(address, kind=socket.SOCK_DGRAM, passive=True)
    read = UdpOptions.of_station(address, host, options.packet_bytes)
    try:
        sock = station_socket(address, family, host, read)
    except OSError as error:
        raise cannot_listen(address.url, error.strerror or str(error)) from error
    return UdpStation(
        sock, partial(still_in_group, address, sock, host, read.interface) if is_multicast(host) else None
    )
