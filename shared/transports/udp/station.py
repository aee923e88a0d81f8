"""The station's end of the UDP transport."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Hashable
from functools import partial

from shared.transports.address import Address, bracketed, cannot_listen, is_number, resolve
from shared.transports.options import StationOptions
from shared.transports.udp.settings import UdpOptions, check_host, is_multicast, station_socket, still_in_group
from shared.transports.udp.sockets import UdpEnd, UdpSocket

_QUEUED = 1 << 22
"""Bytes that wait for the owner; what exceeds them is dropped."""

_LOOK_EVERY = 5.0
"""Seconds between two looks at whether the network still brings a group's datagrams."""


class UdpStation(UdpEnd):
    """A station's socket; open it with `open_udp_station`. A path is the sender's address as last seen.

    Args:
        sock: bound, non-blocking; closed with the station.
        still_heard: asked now and then by stations of multicast groups; false if only another socket can hear again.
    """

    def __init__(self, sock: socket.socket, still_heard: Callable[[], bool] | None = None) -> None:
        host, port = sock.getsockname()[:2]
        super().__init__(f"udp://{bracketed(host.partition('%')[0])}:{port}", _QUEUED)
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


async def open_udp_station(address: Address, options: StationOptions) -> UdpStation:
    """Listen for senders, to a multicast group if the address is one.

    Raises:
        PinholeError: if the host cannot be found, an option is wrong or the address is taken.
    """
    family, host = await resolve(address, kind=socket.SOCK_DGRAM, passive=True)
    read = UdpOptions.of_station(address, options.packet_bytes)
    check_host(address, host)
    try:
        sock = station_socket(address, family, host, read)
    except OSError as error:
        raise cannot_listen(address.url, error.strerror or str(error)) from error
    return UdpStation(
        sock, partial(still_in_group, address, sock, host, read.interface) if is_multicast(host) else None
    )


def check_udp_station(address: Address, options: StationOptions) -> UdpOptions:
    """Read the options of an address, as far as that needs no network.

    Raises:
        UsageError: if one is unknown, out of range or of no use there, or packets do not fit ``mtu``.
    """
    read = UdpOptions.of_station(address, options.packet_bytes)
    if is_number(address.host) or address.host == "*":
        check_host(address, "0.0.0.0" if address.host == "*" else address.host)
    return read
