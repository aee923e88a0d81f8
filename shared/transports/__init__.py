"""Transports: thin shells that carry the link's packets.

``tcp://`` (ZeroMQ), ``mqtt://`` and ``mqtts://``, ``udp://``, ``serial://``, ``kiss://`` and ``memory://``.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from shared.errors import UsageError
from shared.transports.address import Address, parse_address, without_password
from shared.transports.base import ClientTransport, StationTransport
from shared.transports.lines.serial_line import (
    check_serial,
    open_serial_client,
    open_serial_station,
    parse_kiss_tcp,
    parse_serial,
)
from shared.transports.memory import open_memory_client, open_memory_station, parse_memory, refuse_memory
from shared.transports.mqtt.ends import check_mqtt, open_mqtt_client, open_mqtt_station, parse_mqtt
from shared.transports.options import ClientOptions, StationOptions, TlsOptions, options_for
from shared.transports.udp.client import check_udp_client, open_udp_client
from shared.transports.udp.station import check_udp_station, open_udp_station
from shared.transports.zeromq import (
    check_zeromq_client,
    check_zeromq_station,
    open_zeromq_client,
    open_zeromq_station,
)


class _Kind(NamedTuple):
    """A kind of transport: how its addresses are read, what checks them, and what opens its ends."""

    parse: Callable[[str], Address]
    check_client: Callable[[Address, ClientOptions], object]
    check_station: Callable[[Address, StationOptions], object]
    client: Callable[[Address, ClientOptions], Awaitable[ClientTransport]]
    station: Callable[[Address, StationOptions], Awaitable[StationTransport]]


_ZEROMQ = _Kind(parse_address, check_zeromq_client, check_zeromq_station, open_zeromq_client, open_zeromq_station)
_UDP = _Kind(parse_address, check_udp_client, check_udp_station, open_udp_client, open_udp_station)
_MQTT = _Kind(parse_mqtt, check_mqtt, check_mqtt, open_mqtt_client, open_mqtt_station)
_SERIAL = _Kind(parse_serial, check_serial, check_serial, open_serial_client, open_serial_station)
_MEMORY = _Kind(parse_memory, refuse_memory, refuse_memory, open_memory_client, open_memory_station)
_KINDS: dict[str, _Kind] = {
    "tcp": _ZEROMQ,
    "udp": _UDP,
    "mqtt": _MQTT,
    "mqtts": _MQTT,
    "serial": _SERIAL,
    "kiss": _SERIAL,
    "kiss+tcp": _SERIAL._replace(parse=parse_kiss_tcp),
    "memory": _MEMORY,
}


def check_address(url: str, options: ClientOptions | StationOptions) -> None:
    """Check all that can be known of a command's address without a network or a device, before anything is begun.

    Args:
        url: of a station for `ClientOptions`, to listen on for `StationOptions`.
        options: of the transport.

    Raises:
        UsageError: if it is wrong, of no known kind, or ``memory://``, which leads nowhere outside one process.
        PinholeError: if a file that the options name cannot be used.
    """
    kind = _kind(url)
    if isinstance(options, ClientOptions):
        kind.check_client(_station_address(url), options)
    else:
        kind.check_station(kind.parse(url), options)


async def open_client(url: str, options: ClientOptions | None = None) -> ClientTransport:
    """Open a sender's way to the station at ``url``; neither the station nor its host's name need be there yet.

    Raises:
        UsageError: if the URL is wrong or its scheme unknown.
        PinholeError: if there is no way there now: a device or modem is missing, a broker refuses this sender.
    """
    return await _kind(url).client(_station_address(url), options or ClientOptions())


async def open_station(url: str, options: StationOptions | None = None) -> StationTransport:
    """Listen at ``url``; port 0 takes a free one, which the transport's ``url`` then names.

    Raises:
        UsageError: if the URL is wrong or its scheme unknown.
        PinholeError: if its host cannot be found, the address is taken, a device is missing, or a broker refuses this
            station.
    """
    kind = _kind(url)
    return await kind.station(kind.parse(url), options or StationOptions())


def _station_address(url: str) -> Address:
    address = _kind(url).parse(url)
    if address.scheme in ("tcp", "udp") and address.port == 0:
        raise UsageError(f"{url}: a station has a port above 0; name it")
    if address.host == "*":
        raise UsageError(f"{url}: a station has a host, and * is none; name it")
    return address


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
    "check_address",
    "open_client",
    "open_station",
    "options_for",
]
