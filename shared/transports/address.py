"""Addresses of transports: ``scheme://[user@]host[:port][/path][?option=value&...]`` (RFC 3986)."""

import asyncio
import ipaddress
import math
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from shared.errors import PinholeError, UsageError
from shared.settings import refuse_unknown


@dataclass(frozen=True)
class Address:
    """A parsed transport URL.

    Attributes:
        scheme: ``tcp``, ``udp``, ``mqtt``, ``serial``, ``memory``, ...
        host: name or number, an IPv6 number without its brackets; for ``memory`` the name of the station; empty for a
            device of this machine.
        port: 0 to 65535; a station that listens on 0 gets a free one.
        path: what stands between port and options, without percent signs; ``""`` or with a leading slash.
        username: before the host, or None.
        options: from the query, each name once.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    username: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The address as it is written, without its user and options."""
        port = f":{self.port}" if self.host else ""
        return f"{self.scheme}://{bracketed(self.host)}{port}{self.path}"

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Check the names of the options.

        Raises:
            UsageError: if one is not among ``known``.
        """
        try:
            refuse_unknown(self.options, known, self.url)
        except PinholeError as error:
            raise UsageError(str(error)) from None

    def number(self, name: str, default: float, lowest: float, highest: float) -> float:
        """An option that is a number.

        Raises:
            UsageError: if it is none, or not within ``lowest`` to ``highest``.
        """
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lowest <= value <= highest:
            raise UsageError(f"{self.url}: option {name} is {text!r}; give a number from {lowest:g} to {highest:g}")
        return value

    def whole(self, name: str, default: int, lowest: int, highest: int) -> int:
        """An option that is a whole number; arguments and errors as for `number`."""
        value = self.number(name, default, lowest, highest)
        if value != int(value):
            raise UsageError(f"{self.url}: option {name} is {value:g}; give a whole number")
        return int(value)


def bracketed(host: str) -> str:
    """A host as it stands in a URL: IPv6 numbers in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def without_password(url: str) -> str:
    """A URL as it may be shown to anybody."""
    # To the last @, for a password may hold a slash, and an address that nobody can parse is shown as well.
    return re.sub(r"^([^:/]*:/+)?([^/@:]*):.*@", r"\1\2:...@", url, flags=re.DOTALL)


def parse_address(
    url: str, *, default_port: int | None = None, device: bool = False, path: bool = False, user: bool = False
) -> Address:
    """Parse a URL; ``*`` as host means every interface.

    Args:
        url: the URL.
        default_port: for a URL without one; None demands one.
        device: the URL names a device of this machine, ``scheme:///dev/...``, instead of host and port.
        path: a path may follow the port.
        user: a user may stand before the host.

    Raises:
        UsageError: if it is not of the form that these say.
    """
    form = "/dev/..." if device else "host:port" if default_port is None else "host"
    wrong = UsageError(f"{without_password(url)!r} is not an address: write it as {_scheme_of(url)}://{form}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise wrong from None
    if parts.password is not None and user:
        raise UsageError(
            f"{without_password(url)}: an address, which others can read, holds no password; write "
            f"{_scheme_of(url)}://USER@... and name a file with it by --password-file"
        )
    if ":" in host:
        host = host.replace("%25", "%")  # the interface of a link-local number as RFC 6874 writes it
    elif not _may_be_found(host):
        raise wrong
    options = dict(pairs)
    if len(options) < len(pairs) or (parts.username is not None and not user) or "#" in url or not url.isprintable():
        raise wrong
    if device:
        if host or port is not None or len(parts.path) < 2:
            raise wrong
        return Address(parts.scheme, "", 0, unquote(parts.path), None, options)
    port = default_port if port is None else port
    if not host or port is None or (parts.path not in ("", "/") and not path):
        raise wrong
    return Address(parts.scheme, host, port, unquote(parts.path.rstrip("/")), parts.username, options)


def is_number(host: str) -> bool:
    """Whether a host is a number, which needs no looking up."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


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
    return (await resolve_all(address, kind=kind, passive=passive))[0]


async def resolve_all(
    address: Address, *, kind: socket.SocketKind, passive: bool
) -> list[tuple[socket.AddressFamily, str]]:
    """Look up a host; arguments and errors as for `resolve`, but returns all answers, the likeliest first."""
    if address.host == "*":
        return [(socket.AF_INET, "0.0.0.0")]
    flags = socket.AI_PASSIVE if passive else 0
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=kind, flags=flags)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PinholeError(f"{address.url}: the host cannot be found ({reason}); check its name") from error
    # A link-local IPv6 number is nothing without its interface, which getaddrinfo returns apart from it.
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return [(family, socket.getnameinfo(numeric, flags)[0]) for family, _, _, _, numeric in found]


def cannot_listen(url: str, reason: str) -> PinholeError:
    """The error for a station address that cannot be taken."""
    return PinholeError(f"{url}: cannot listen there ({reason.lower()}); choose another address or stop what uses it")


def _may_be_found(host: str) -> bool:
    """Whether a host's name has the form of one, so that it may be found at some time."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _scheme_of(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    return scheme if separator and scheme.isalnum() else "tcp"
