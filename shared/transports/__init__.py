"""Transports: thin shells that carry the link's packets. ``tcp://`` (ZeroMQ), ``udp://`` and ``memory://``."""

from collections.abc import Awaitable, Callable

from shared.errors import PinholeError
from shared.transports.address import Address, parse_address
from shared.transports.base import ClientTransport, StationTransport
from shared.transports.memory import open_memory_client, open_memory_station
from shared.transports.udp import open_udp_client, open_udp_station
from shared.transports.zeromq import open_zeromq_client, open_zeromq_station

_CLIENTS: dict[str, Callable[[Address], Awaitable[ClientTransport]]] = {
    "tcp": open_zeromq_client,
    "udp": open_udp_client,
    "memory": open_memory_client,
}
_STATIONS: dict[str, Callable[[Address], Awaitable[StationTransport]]] = {
    "tcp": open_zeromq_station,
    "udp": open_udp_station,
    "memory": open_memory_station,
}


async def open_client(url: str) -> ClientTransport:
    """Open a sender's way to the station at ``url``; the station need not be there yet.

    Raises:
        PinholeError: if the URL is wrong, its scheme unknown or its host cannot be found.
    """
    address = _address(url)
    if address.scheme != "memory" and address.port == 0:
        raise PinholeError(f"{url}: a station has a port above 0; name it")
    return await _CLIENTS[address.scheme](address)


async def open_station(url: str) -> StationTransport:
    """Listen at ``url``; port 0 takes a free one, which the transport's ``url`` then names.

    Raises:
        PinholeError: if the URL is wrong, its scheme unknown, its host cannot be found or the address is taken.
    """
    address = _address(url)
    return await _STATIONS[address.scheme](address)


def _address(url: str) -> Address:
    scheme, _, rest = url.partition("://")
    if scheme in ("mqtt", "mqtts"):
        raise PinholeError(f"{url}: MQTT is not built yet; use tcp:// or udp://")
    if scheme not in _CLIENTS:
        raise PinholeError(f"{url!r} is not an address of a known kind: use tcp://host:port or udp://host:port")
    return Address(scheme, rest, 0) if scheme == "memory" else parse_address(url)


__all__ = ["ClientTransport", "StationTransport", "open_client", "open_station"]
