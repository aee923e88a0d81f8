"""The options of an MQTT address, ``mqtt://[user@]host[:port][/prefix][?option=value&...]``.

For senders and stations:

* ``keepalive``: seconds without traffic after which either side probes the other, 60; 1.5 times as long without a word
  and the broker takes the connection for broken.
* ``timeout``: seconds for each step of a connection, 20; more where round trips are long.
* ``receive_maximum``: messages of QoS 1 not yet acknowledged, each way, 20.
* ``session_expiry``: seconds for which the broker keeps the session after a connection broke, 3600.

For senders: ``qos_base``, 1, and ``qos_refinements``, 0: 0 at most once, 1 at least once.

For stations: ``share``, the name of a group of stations that divide the senders among themselves, and ``shards``, such
as ``0-7,12``, the shards that this station takes, in a group those that it is willing to take; all of 0-15 by default.
"""

from dataclasses import dataclass, replace
from urllib.parse import unquote

from shared.errors import UsageError
from shared.transports.address import Address, parse_address
from shared.transports.mqtt.presence import LONGEST_GROUP, is_group_name
from shared.transports.mqtt.shards import ALL_SHARDS
from shared.transports.mqtt.topics import DEFAULT_PREFIX, SHARDS, Topics

_COMMON = ("keepalive", "timeout", "receive_maximum", "session_expiry")
_OF_SENDERS = ("qos_base", "qos_refinements")
_OF_STATIONS = ("share", "shards")
_PORT, _TLS_PORT = 1883, 8883


@dataclass(frozen=True)
class MqttSettings:
    """What an address says beside where the broker is; the module's docstring names the options.

    Attributes:
        topics: under the address's prefix.
        username: None to show none.
        qos: of base layers and of refinements.
        group: of stations, or None.
        shards: bit set.
    """

    topics: Topics
    username: str | None
    keepalive: int
    timeout: float
    receive_maximum: int
    session_expiry: int
    qos: tuple[int, int]
    group: str | None
    shards: int


def parse_mqtt(url: str) -> Address:
    """Read an address; its path is the prefix of topics, ``/pinhole`` if it has none.

    Raises:
        UsageError: if it is of another form.
    """
    tls = url.partition("://")[0] == "mqtts"
    address = parse_address(url, default_port=_TLS_PORT if tls else _PORT, path=True, user=True)
    if address.port == 0:
        raise UsageError(f"{address.url}: a broker has a port above 0; name it or leave it out")
    return address if address.path else replace(address, path=f"/{DEFAULT_PREFIX}")


def read_settings(address: Address, *, station: bool) -> MqttSettings:
    """Read the options of an address.

    Raises:
        UsageError: if one is unknown at this end or has a wrong value.
    """
    address.refuse_unknown([*_COMMON, *(_OF_STATIONS if station else _OF_SENDERS)])
    group = address.options.get("share")
    if group is not None and not is_group_name(group):
        raise UsageError(
            f"{address.url}: option share is {group!r}; name the group with 1 to {LONGEST_GROUP} letters, without / + #"
        )
    return MqttSettings(
        topics=Topics(address.path.removeprefix("/")),
        username=None if address.username is None else unquote(address.username),
        keepalive=address.whole("keepalive", 60, 5, 3600),
        timeout=address.number("timeout", 20.0, 1.0, 600.0),
        receive_maximum=address.whole("receive_maximum", 20, 1, 65535),
        session_expiry=address.whole("session_expiry", 3600, 0, 2**32 - 2),
        qos=(address.whole("qos_base", 1, 0, 1), address.whole("qos_refinements", 0, 0, 1)),
        group=group,
        shards=_parse_shards(address),
    )


def _parse_shards(address: Address) -> int:
    text = address.options.get("shards")
    if text is None:
        return ALL_SHARDS
    shards = 0
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        ends = [int(end) for end in (first, last) if end.isascii() and end.isdigit() and len(end) <= 2]
        if len(ends) < 2 or not ends[0] <= ends[1] < SHARDS:
            raise UsageError(
                f"{address.url}: option shards is {text!r}; give numbers from 0 to {SHARDS - 1} as in 0-7,12"
            )
        shards |= sum(1 << shard for shard in range(ends[0], ends[1] + 1))
    return shards
