"""Transports: thin shells that carry the link's packets.

``tcp://`` (ZeroMQ), ``mqtt://`` and ``mqtts://``, ``udp://``, ``serial://``, ``kiss://`` and ``memory://``.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from shared.errors import UsageError
from shared.transports.address import Address, parse_address, without_password
from shared.transports.base import ClientTransport, StationTransport
from shared.transports.lines.serial_line import open_serial_client, open_serial_station, parse_kiss_tcp, parse_serial
from shared.transports.memory import open_memory_client, open_memory_station, parse_memory
from shared.transports.mqtt.ends import open_mqtt_client, open_mqtt_station, parse_mqtt
from shared.transports.options import ClientOptions, StationOptions, TlsOptions
from shared.transports.udp.ends import open_udp_client, open_udp_station
from shared.transports.zeromq import open_zeromq_client, open_zeromq_station


class _Kind(NamedTuple):
    """A kind of transport: how its addresses are read, and what opens its ends."""

    parse: Callable[[str], Address]
    client: Callable[[Address, ClientOptions], Awaitable[ClientTransport]]
    station: Callable[[Address, StationOptions], Awaitable[StationTransport]]


_KINDS: dict[str, _Kind] = {
    "tcp": _Kind(parse_address, open_zeromq_client, open_zeromq_station),
    "udp": _Kind(parse_address, open_udp_client, open_udp_station),
    "mqtt": _Kind(parse_mqtt, open_mqtt_client, open_mqtt_station),
    "mqtts": _Kind(parse_mqtt, open_mqtt_client, open_mqtt_station),
    "serial": _Kind(parse_serial, open_serial_client, open_serial_station),
    "kiss": _Kind(parse_serial, open_serial_client, open_serial_station),
    "kiss+tcp": _Kind(parse_kiss_tcp, open_serial_client, open_serial_station),
    "memory": _Kind(parse_memory, open_memory_client, open_memory_station),
}


async def open_client(url: str, options: ClientOptions | None = None) -> ClientTransport:
    """Open a sender's way to the station at ``url``; the station need not be there yet.

    Raises:
        UsageError: if the URL is wrong or its scheme unknown.
        PinholeError: if its host cannot be found.
    """
    kind = _kind(url)
    address = kind.parse(url)
    if address.scheme in ("tcp", "udp") and address.port == 0:
        raise UsageError(f"{url}: a station has a port above 0; name it")
    return await kind.client(address, options or ClientOptions())


async def open_station(url: str, options: StationOptions | None = None) -> StationTransport:
    """Listen at ``url``; port 0 takes a free one, which the transport's ``url`` then names.

    Raises:
        UsageError: if the URL is wrong or its scheme unknown.
        PinholeError: if its host cannot be found or the address is taken.
    """
    kind = _kind(url)
    return await kind.station(kind.parse(url), options or StationOptions())


def _kind(url: str) -> _Kind:
    kind = _KINDS.get(url.partition("://")[0])
    if kind is None:
        kinds = ", ".join(f"{scheme}://" for scheme in _KINDS if scheme != "memory")
        raise UsageError(
            f"{without_password(url)!r} is not an address of a known kind: use {kinds}, as in tcp://host:port"
        )
    return kind


__all__ = [
    "ClientOptions",
    "ClientTransport",
    "StationOptions",
    "StationTransport",
    "TlsOptions",
    "open_client",
    "open_station",
]
