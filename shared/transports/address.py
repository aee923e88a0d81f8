"""Addresses of transports: ``scheme://host:port``."""

import asyncio
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from shared.errors import PinholeError


@dataclass(frozen=True)
class Address:
    """A parsed transport URL.

    Attributes:
        scheme: ``tcp``, ``udp``, ``memory``, ...
        host: name or number, an IPv6 number without its brackets; for ``memory`` the name of the station.
        port: 0 to 65535; a station that listens on 0 gets a free one.
    """

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """The address as it is written."""
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """A host as it stands in a URL: IPv6 numbers in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def parse_address(url: str) -> Address:
    """Parse a URL with host and port; ``*`` as host means every interface.

    Raises:
        PinholeError: if it is not of the form ``scheme://host:port``.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None or parts.path not in ("", "/") or parts.query or parts.username:
        raise PinholeError(f"{url!r} is not an address: write it as {_scheme_of(url)}://host:port")
    return Address(parts.scheme, host, port)


async def resolve(address: Address, *, kind: socket.SocketKind, passive: bool) -> tuple[socket.AddressFamily, str]:
    """Look up a host.

    Args:
        address: what to look up.
        kind: stream or datagram socket.
        passive: to listen there rather than to connect.

    Returns:
        Address family and number of the first answer.

    Raises:
        PinholeError: if the host has no address.
    """
    if address.host == "*":
        return socket.AF_INET, "0.0.0.0"
    flags = socket.AI_PASSIVE if passive else 0
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=kind, flags=flags)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PinholeError(f"{address.url}: the host cannot be found ({reason}); check its name") from error
    family, _, _, _, numeric = found[0]
    # A link-local IPv6 number is nothing without its interface, which getaddrinfo returns apart from it.
    host = socket.getnameinfo(numeric, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
    return family, host


def cannot_listen(url: str, reason: str) -> PinholeError:
    """The error for a station address that cannot be taken."""
    return PinholeError(f"{url}: cannot listen there ({reason.lower()}); choose another address or stop what uses it")


def _scheme_of(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    return scheme if separator and scheme.isalnum() else "tcp"
