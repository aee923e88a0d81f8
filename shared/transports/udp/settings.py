"""What a ``udp://`` address may say after its question mark, and sockets made accordingly."""

import contextlib
import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shared.errors import PinholeError, UsageError
from shared.transports.address import Address
from shared.transports.base import LARGEST_PACKET

# Of Linux's <linux/in.h> and <linux/in6.h>; Python names only some of them.
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU = 10, 2, 14
_IPV6_MTU_DISCOVER, _IPV6_MTU, _IPV6_DONTFRAG = 23, 24, 62
_ASKED_FOR = Path("/proc/net/igmp6")
_SMALLEST_PACKET = 48
_OF_GROUPS = ("interface", "ttl")
_LINK_LOCAL = 2
"""Scope of an IPv6 group, its fourth digit, up to which it means nothing without its interface (RFC 4291)."""

_HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
"""Bytes of IP and UDP headers (RFC 768, 791, 8200)."""

_RECEIVE_BUFFER = 1 << 20
_SEND_BUFFER = 1 << 16
"""Bytes asked of the kernel. What it is to send should not grow old there."""


@dataclass(frozen=True)
class UdpOptions:
    """Options of an address, checked.

    Attributes:
        mtu: largest datagram payload in bytes.
        overhead: bytes that each datagram counts more when it is paced.
        interface: name or number of the interface that multicast uses, None for the routing table's choice.
        ttl: routers that a multicast datagram may pass, plus one.
        broadcast: whether the address may be a broadcast address.
    """

    mtu: int
    overhead: int
    interface: str | None
    ttl: int
    broadcast: bool

    @classmethod
    def of_client(cls, address: Address, packet_bytes: int) -> Self:
        """Read the options of a sender's address.

        Args:
            address: as given.
            packet_bytes: largest packet that the session makes.

        Raises:
            UsageError: if one is unknown, out of range or missing, or packets do not fit ``mtu``.
        """
        address.refuse_unknown(["mtu", "overhead", "broadcast", *_OF_GROUPS])
        options = cls._read(address, packet_bytes)
        if address.host == "255.255.255.255" and not options.broadcast:
            raise _not_asked_for(address)
        return options

    @classmethod
    def of_station(cls, address: Address, packet_bytes: int) -> Self:
        """Read the options of a station's address; arguments and errors as for `of_client`."""
        address.refuse_unknown(["mtu", "interface"])
        return cls._read(address, packet_bytes)

    @classmethod
    def _read(cls, address: Address, packet_bytes: int) -> Self:
        options = cls(
            mtu=address.whole("mtu", LARGEST_PACKET, _SMALLEST_PACKET, LARGEST_PACKET),
            overhead=address.whole("overhead", 0, 0, 1000),
            interface=address.options.get("interface"),
            ttl=address.whole("ttl", 1, 0, 255),
            broadcast=bool(address.whole("broadcast", 0, 0, 1)),
        )
        if packet_bytes > options.mtu:
            raise _too_large(address, packet_bytes, options.mtu)
        return options


def check_host(address: Address, host: str) -> None:
    """Check the options against the number of the host, which a name has only when it was looked up.

    Raises:
        UsageError: if one is of no use there.
    """
    for name in _OF_GROUPS:
        if name in address.options and not is_multicast(host):
            raise UsageError(f"{address.url}: option {name} is for multicast groups; leave it out")


def is_multicast(host: str) -> bool:
    """Whether a numeric host is a group: 224.0.0.0/4 (RFC 5771) or ff00::/8 (RFC 4291)."""
    return ipaddress.ip_address(host.partition("%")[0]).is_multicast


def client_socket(address: Address, family: socket.AddressFamily, host: str, options: UdpOptions) -> socket.socket:
    """A socket that can send to ``host``; to a single host it is connected, so that only its answers are heard.

    Raises:
        OSError: if there is no way to that host now; there may be one later.
        PinholeError: if the interface does not exist or the host is a broadcast address and that was not asked for.
    """
    sock = _socket(family)
    try:
        if is_multicast(host):
            _send_to_group(address, sock, family, options)
        elif options.broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        else:
            sock.connect((host, address.port))
    except OSError as error:
        broadcast = error.errno == errno.EACCES and _is_broadcast(sock, host, address.port)
        sock.close()
        if broadcast:
            raise _not_asked_for(address) from error
        raise
    except PinholeError:
        sock.close()
        raise
    return sock


def _is_broadcast(sock: socket.socket, host: str, port: int) -> bool:
    """Whether that is why a host was refused; a route may prohibit it too, and only for a time."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.connect((host, port))
    except OSError:
        return False
    return True


def check_fit(address: Address, sock: socket.socket, packet_bytes: int) -> None:
    """Check packets against what the kernel knows of a connected socket's way.

    Raises:
        UsageError: if the largest packet would not fit a datagram there.
    """
    level, option = (socket.IPPROTO_IPV6, _IPV6_MTU) if sock.family == socket.AF_INET6 else (socket.IPPROTO_IP, _IP_MTU)
    with contextlib.suppress(OSError):  # a socket that is not connected has no way yet
        fits = sock.getsockopt(level, option) - _HEADERS[sock.family]
        if packet_bytes > fits:
            raise _too_large(address, packet_bytes, fits)


def station_socket(address: Address, family: socket.AddressFamily, host: str, options: UdpOptions) -> socket.socket:
    """A socket that hears ``host``: a number of this machine, a group, or ``*``: every interface, IPv6 and IPv4.

    Raises:
        OSError: if the address is taken or not of this machine.
        PinholeError: if the interface does not exist.
    """
    if address.host == "*":
        with contextlib.suppress(OSError):
            return _listening(address, socket.AF_INET6, "::", options)
        # No IPv6 on this machine, or the address is taken, which the next attempt will tell.
    return _listening(address, family, host, options)


def _listening(address: Address, family: socket.AddressFamily, host: str, options: UdpOptions) -> socket.socket:
    sock = _socket(family)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        if is_multicast(host):
            # Every station of the machine that listens so gets its copy.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _join(address, sock, family, host, options.interface)
        else:
            sock.bind((host, address.port))
    except (OSError, PinholeError):
        sock.close()
        raise
    return sock


def _socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    # A datagram that does not fit must fail here: in fragments, every one of them would have to arrive.
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_DO)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return sock


def _send_to_group(address: Address, sock: socket.socket, family: socket.AddressFamily, options: UdpOptions) -> None:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, options.ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        if options.interface is not None:
            index = _index(address, options.interface)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, options.ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        if options.interface is not None:
            request = _mreqn(address, "0.0.0.0", options.interface)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)


def _join(
    address: Address, sock: socket.socket, family: socket.AddressFamily, host: str, interface: str | None
) -> None:
    """Bind a socket to a group, so that it hears nothing else, and ask the network for it."""
    if family == socket.AF_INET6:
        group = host.partition("%")[0]
        index = _index6(address, host, interface)
        if not index and int(group[3], 16) <= _LINK_LOCAL:
            raise UsageError(f"{address.url}: groups of one link need the name of it; add ?interface=NAME")
        sock.bind((group, address.port, 0, index))
    else:
        sock.bind((host, address.port))
    _ask_for(address, sock, host, interface)


def _ask_for(address: Address, sock: socket.socket, host: str, interface: str | None) -> None:
    if sock.family == socket.AF_INET6:
        group = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        request = group + struct.pack("@I", _index6(address, host, interface))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _mreqn(address, host, interface))


def still_in_group(address: Address, sock: socket.socket, host: str, interface: str | None) -> bool:
    """Ask for a group again: an interface that went away, such as a USB adapter, comes back without.

    Returns:
        False if the socket is bound to an interface that will not come back, so that another one must be made.
    """
    if sock.family == socket.AF_INET6 and not interface and "%" not in host and _forgotten(host):
        return False
    with contextlib.suppress(OSError, PinholeError):  # EADDRINUSE while all is well, others while there is no interface
        if sock.family == socket.AF_INET6 and sock.getsockname()[3] not in (0, _index6(address, host, interface)):
            return False
        _ask_for(address, sock, host, interface)
    return True


def _forgotten(group: str) -> bool:
    """Whether no interface asks for an IPv6 group any more.

    The kernel holds a group that was asked for on any interface for the same as one that it asks for on none now.
    """
    try:
        return socket.inet_pton(socket.AF_INET6, group).hex() not in _ASKED_FOR.read_text()
    except OSError:
        return False


def _index6(address: Address, host: str, interface: str | None) -> int:
    chosen = interface or host.partition("%")[2]
    return _index(address, chosen) if chosen else 0


def _mreqn(address: Address, group: str, interface: str | None) -> bytes:
    """The ``struct ip_mreqn`` of ip(7), with the interface by its number or by its index."""
    local, index = "0.0.0.0", 0
    if interface is not None:
        try:
            local = str(ipaddress.IPv4Address(interface))
        except ValueError:
            index = _index(address, interface)
    return struct.pack("@4s4si", socket.inet_aton(group), socket.inet_aton(local), index)


def _index(address: Address, interface: str) -> int:
    if interface.isdecimal():
        return int(interface)
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise PinholeError(f"{address.url}: there is no interface {interface!r} here; there are {known}") from error


def _not_asked_for(address: Address) -> UsageError:
    return UsageError(f"{address.url}: to send to a broadcast address, add ?broadcast=1")


def _too_large(address: Address, packet_bytes: int, fits: int) -> UsageError:
    return UsageError(
        f"{address.url}: packets of {packet_bytes} bytes do not fit datagrams there, which carry {fits}; "
        "make packets smaller"
    )
