"""All kinds of transports, what each is expected to do, and what is not asked of one, with the reason."""

import socket
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import NamedTuple

from shared.transports.base import LARGEST_PACKET
from shared.transports.lines.byte_stream import QUEUED_BYTES
from shared.transports.zeromq.credit import LARGEST_WINDOW
from tests.transports.places import FAULTS, Bonded, Channel, Makes, Memory, Mqtt, Place, Relayed, Udp, Wire, ZeroMQ

UNREAD = 1 << 19
"""Bytes that stations of UDP, MQTT and memory keep for their owners in these tests."""


class Behaviour(Enum):
    CROSSING = "hundreds of layers cross, sealed and unsealed, uncoded, coded and adaptive"
    LATE = "a station that comes late and restarts gets everything"
    SIMPLEX = "what was sent is told, and nothing is heard"
    STRANGERS = "strangers do no harm and are counted"
    IN_USE = "an address in use is one clear error"
    ADDRESSES = "wrong addresses are one clear error"
    NOBODY = "send waits or packets are lost while nobody is there"
    UNREAD = "what is handed over and not fetched is bounded"
    CLOSING = "what waits ends when its transport is closed, and closing twice does nothing"
    LEAKS = "nothing is left open"
    LARGEST = "the largest packet crosses, a larger one is told or counted"
    ANSWERS = "answers find the sender that they are for"
    ROAMING = "answers follow a sender to another path"
    TROUBLE = "a lost connection is told and nothing else is"


class Nobody(Enum):
    """What becomes of packets while no station is there."""

    WAIT = "they wait at the sender, one at a time"
    LOST = "they are lost"
    UNHEARD = "they go out on the line"


class Wrong(NamedTuple):
    """An address of no use, what the complaint must hold, and the end that has it: both by default."""

    url: str
    complaint: str
    ends: str = "client station"


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        name: of the test.
        place: makes a place for one test.
        nobody: what becomes of packets while no station is there.
        unread: bytes that may be handed over to a station that fetches nothing, and be delivered in the end.
        largest: bytes of its largest packet.
        refuses: a larger one is an error; otherwise it is lost and counted.
        survives: a lost connection is reported and mended; otherwise it is an error at both ends.
        senders: how many may be there at a time.
        wrong: addresses.
    """

    name: str
    place: Makes
    nobody: Nobody
    unread: int
    largest: int = LARGEST_PACKET
    refuses: bool = True
    survives: bool = True
    senders: int = 3
    wrong: tuple[Wrong, ...] = ()


_ZEROMQ_WRONG = (
    Wrong("tcp://127.0.0.1", "host:port"),
    Wrong("tcp://127.0.0.1:99999", "host:port"),
    Wrong("tcp://127.0.0.1:0", "above 0", "client"),
    Wrong("tcp://127.0.0.1:5/path", "host:port"),
    Wrong("tcp://127.0.0.1:5?mtu=4", "unknown setting 'mtu'"),
    Wrong("tcp://127.0.0.1:5?curve=2", "option curve"),
    Wrong("tcp://no-such-host.invalid:5555", "cannot be found", "station"),
    Wrong("tcp://" + "x" * 300 + ":5555", "host:port"),
    Wrong("tcp://203.0.113.77:5555", "cannot listen", "station"),
)
_UDP_WRONG = (
    Wrong("udp://127.0.0.1", "host:port"),
    Wrong("udp://127.0.0.1:99999", "host:port"),
    Wrong("udp://127.0.0.1:0", "above 0", "client"),
    Wrong("udp://127.0.0.1:9?mtv=1400", "did you mean 'mtu'"),
    Wrong("udp://127.0.0.1:9?mtu=1000", "do not fit"),
    Wrong("udp://no-such-host.invalid:5555", "cannot be found", "station"),
    Wrong("udp://a..b:5555", "host:port"),
    Wrong("udp://203.0.113.77:5555", "cannot listen", "station"),
)
_MQTT_WRONG = (
    Wrong("mqtt://", "write it as mqtt://host"),
    Wrong("mqtt://127.0.0.1:0", "above 0"),
    Wrong("mqtt://127.0.0.1/a/#", "write it as"),
    Wrong("mqtt://127.0.0.1/a/+", "topics"),
    Wrong("mqtt://127.0.0.1?qos=1", "unknown setting 'qos'"),
    Wrong("mqtt://127.0.0.1?keepalive=1", "option keepalive"),
    Wrong("mqtt://127.0.0.1?share=a", "unknown setting 'share'", "client"),
    Wrong("mqtt://a..b", "write it as mqtt://host"),
)
_SERIAL_WRONG = (
    Wrong("serial://host:80?baud=9600", "/dev/"),
    Wrong("serial:///dev/null", r"\?baud=9600"),
    Wrong("serial:///dev/null?baud=fast", "baud"),
    Wrong("serial:///dev/null?baud=9600", "no serial device"),
    Wrong("serial:///dev/no-such?baud=9600", "no such device"),
    Wrong("serial:///dev/null?baud=9600&txdelay=1", "txdelay"),
    Wrong("serial:///dev/null?baud=9600&mtu=500", "mtu"),
)
_KISS_WRONG = (
    Wrong("kiss:///dev/null?baud=9600", "no serial device"),
    Wrong("kiss:///dev/no-such?baud=9600", "no such device"),
    Wrong("kiss:///dev/null?baud=9600&flow=xonxoff", "KISS"),
    Wrong("kiss:///dev/null?baud=9600&port=16", "port"),
    Wrong("kiss:///dev/null?baud=9600&mtu=500", "mtu"),
)
_CHANNEL_WRONG = (
    Wrong("kiss+tcp://", "host"),
    Wrong("kiss+tcp://127.0.0.1:0", "above 0"),
    Wrong("kiss+tcp://127.0.0.1?baud=9600", "baud"),
    Wrong("kiss+tcp://127.0.0.1:1", "cannot connect"),
    Wrong("kiss+tcp://no-such-host.invalid", "cannot connect"),
)
_MEMORY_WRONG = (
    Wrong("memory://", "memory://name"),
    Wrong("memory://name?option=1", "memory://name"),
    Wrong("http://127.0.0.1:80", "known kind"),
    Wrong("127.0.0.1:5555", "known kind"),
    Wrong("", "known kind"),
)

_DATAGRAMS = UNREAD + (1 << 21)
"""With what the kernel keeps."""

_BROKERED = UNREAD + (1 << 20)
"""With what is on its way over the broker."""

_LINE = QUEUED_BYTES + 3 * LARGEST_PACKET
"""With what the driver and the cable keep."""


def _kinds() -> list[Kind]:
    baud = "baud=4000000"
    wait, lost, unheard = Nobody.WAIT, Nobody.LOST, Nobody.UNHEARD
    return [
        Kind("zeromq", ZeroMQ, wait, LARGEST_WINDOW, wrong=_ZEROMQ_WRONG),
        Kind("zeromq6", partial(ZeroMQ, host="[::1]"), wait, LARGEST_WINDOW),
        Kind("curve", partial(ZeroMQ, curve=True), wait, LARGEST_WINDOW),
        Kind("udp", Udp, lost, _DATAGRAMS, refuses=False, wrong=_UDP_WRONG),
        # 40 bytes of IPv6 and 8 of UDP in the 65,536 of Linux's loopback.
        Kind("udp6", partial(Udp, host="[::1]"), lost, _DATAGRAMS, largest=65488, refuses=False),
        Kind("mqtt", Mqtt, lost, _BROKERED, refuses=False, wrong=_MQTT_WRONG),
        _line("serial", f"serial://{{}}?{baud}", LARGEST_PACKET, _SERIAL_WRONG),
        _line("kiss", f"kiss://{{}}?{baud}", 2048, _KISS_WRONG),
        Kind("channel", Channel, unheard, _LINE, largest=2048, survives=False, wrong=_CHANNEL_WRONG),
        Kind("memory", Memory, lost, UNREAD, wrong=_MEMORY_WRONG),
        Kind("faulty", partial(Memory, faults=FAULTS), lost, UNREAD),
        Kind("bonded", Bonded, lost, _DATAGRAMS),
        Kind("relayed", Relayed, lost, _DATAGRAMS, refuses=False),
    ]


def _line(name: str, url: str, largest: int, wrong: tuple[Wrong, ...]) -> Kind:
    def place(folder: Path) -> Place:
        return Wire(folder, url)

    return Kind(name, place, Nobody.UNHEARD, _LINE, largest=largest, survives=False, senders=1, wrong=wrong)


KINDS = {kind.name: kind for kind in _kinds()}

_DAMAGED_ON_PURPOSE = "its packets are damaged on purpose: alike is only what the link has repaired"
_OF_UDP = "its station's address is one of UDP, which stands for it"

NOT_ASKED: dict[tuple[str, Behaviour], str] = {
    ("zeromq6", Behaviour.ADDRESSES): "addresses are read before their family is known; zeromq stands for it",
    ("curve", Behaviour.ADDRESSES): "addresses are those of zeromq, which stands for it; test_zeromq knows the keys",
    ("udp6", Behaviour.ADDRESSES): "addresses are read before their family is known; udp stands for it",
    ("mqtt", Behaviour.IN_USE): "a broker lets the newer client of an id in and tells the older one; test_mqtt",
    ("serial", Behaviour.ANSWERS): "two ends, one sender",
    ("kiss", Behaviour.ANSWERS): "two ends, one sender",
    ("channel", Behaviour.ANSWERS): "everybody on a channel hears everybody; the link tells whose an answer is",
    ("channel", Behaviour.IN_USE): "a modem takes several programs",
    ("memory", Behaviour.TROUBLE): "there is no connection to lose",
    ("faulty", Behaviour.TROUBLE): "there is no connection to lose",
    ("faulty", Behaviour.ADDRESSES): "it is not opened by an address",
    ("faulty", Behaviour.NOBODY): _DAMAGED_ON_PURPOSE,
    ("faulty", Behaviour.UNREAD): _DAMAGED_ON_PURPOSE,
    ("faulty", Behaviour.LARGEST): _DAMAGED_ON_PURPOSE,
    ("faulty", Behaviour.ANSWERS): _DAMAGED_ON_PURPOSE,
    ("bonded", Behaviour.ADDRESSES): "each link has an address of its own kind",
    ("bonded", Behaviour.IN_USE): _OF_UDP,
    ("relayed", Behaviour.ADDRESSES): "each side has an address of its own kind; test_relay has the command",
    ("relayed", Behaviour.IN_USE): _OF_UDP,
}
"""What is not asked of a kind, and why."""


def asked(behaviour: Behaviour) -> list[Kind]:
    """The kinds that must show a behaviour."""
    return [kind for kind in KINDS.values() if (kind.name, behaviour) not in NOT_ASKED and not _lacks_ipv6(kind)]


def _lacks_ipv6(kind: Kind) -> bool:
    return kind.name.endswith("6") and not _HAS_IPV6


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


_HAS_IPV6 = _has_ipv6()
