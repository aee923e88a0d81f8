"""Transport addresses with their options, and the sessions that a station remembers on disk."""

import contextlib
import ipaddress
from pathlib import Path

import msgpack

from fuzz.harness import Harness, demand
from receiver.admission import SessionMemory
from shared.errors import CorruptDataError, PinholeError
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.sealed import SealedSender
from shared.link.sealed_gate import Remembered, SealedGate
from shared.transports import _KINDS
from shared.transports.address import Address
from shared.transports.lines.serial_line import _framing
from shared.transports.mqtt.settings import read_settings
from shared.transports.udp.settings import UdpOptions, check_host
from shared.transports.zeromq.curve import wants_curve

_STATION = SecretKey(Role.STATION, 3, b"s" * 32, b"t" * 32)
_SENDER = SecretKey(Role.SENDER, 4, b"u" * 32, b"v" * 32)


def run(data: bytes) -> None:
    """Read the input as an address of each kind, and as a memory."""
    text = data.decode("utf-8", "replace")
    scheme, separator, rest = text.partition("://")
    for kind in [scheme] if scheme in _KINDS else _KINDS:
        try:
            address = _KINDS[kind].parse(f"{kind}{separator}{rest}")
            demand(0 <= address.port <= 65535, "a port is out of range")
            demand(kind == "memory" or "\0" not in address.host, "a host has a zero byte")
            _read_options(address)
        except PinholeError:
            pass
    _read_memory(data)


def _read_options(address: Address) -> None:
    if address.scheme.startswith("mqtt"):
        for station in (False, True):
            try:
                settings = read_settings(address, station=station)
            except PinholeError:
                continue
            demand(0 < settings.shards < 1 << 16 and settings.keepalive >= 5, "a setting is out of range")
    elif address.scheme == "udp":
        try:
            host = str(ipaddress.ip_address(address.host))
        except ValueError:
            host = "127.0.0.1"
        for read in (UdpOptions.of_client, UdpOptions.of_station):
            try:
                options = read(address, 48)
                check_host(address, host)
            except PinholeError:
                continue
            demand(48 <= options.mtu <= 65507 and 0 <= options.ttl <= 255, "an option is out of range")
    elif address.scheme == "tcp":
        wants_curve(address)
    elif address.scheme != "memory":
        framing, mtu = _framing(address)
        demand(48 <= mtu <= 65507, "an option is out of range")
        framing.opening()


def _read_memory(data: bytes) -> None:
    try:
        memory = SessionMemory(Path("memory"))._parse(data)
    except PinholeError:
        return
    gate = SealedGate([_STATION], [ListedSender("drone", _SENDER.public)], memory)
    sender = SealedSender(_SENDER, _STATION.public, sender=4, session=1000)
    for packet in (*sender.hello(1200), sender.wrap(0, b"body", known=True)):
        with contextlib.suppress(CorruptDataError):
            gate.admit(packet)
    demand(memory.sessions.keys() <= gate.memory().sessions.keys(), "a memory has forgotten somebody")
    packed = msgpack.packb([2, *([[key, *rest] for key, rest in part.items()] for part in memory)])
    demand(SessionMemory(Path("memory"))._parse(packed) == memory, "a memory is not what it was")


def seeds() -> list[bytes]:
    """Addresses as the documents have them, and memories as `SessionMemory.store` writes them."""
    urls = [
        "tcp://ground.example:5555",
        "tcp://*:5555?curve=1",
        "udp://192.0.2.7:7000?mtu=1200&overhead=28",
        "udp://[ff02::1]:7000?interface=eth0&ttl=3",
        "udp://255.255.255.255:9?broadcast=1",
        "mqtt://user%40x@broker.example/site/a?keepalive=60&qos_base=1&qos_refinements=0&timeout=2.5",
        "mqtts://broker:8884?share=ground&shards=0-7,12&receive_maximum=20&session_expiry=3600",
        "serial:///dev/ttyUSB0?baud=9600&flow=xonxoff&parity=E&half_duplex=1&mtu=512",
        "kiss:///dev/ttyS0?baud=1200&port=2&txdelay=300&persistence=63&slottime=100&fullduplex=0&callsign=N0CALL-7",
        "kiss+tcp://localhost?callsign=N0CALL&destination=K1ABC&mtu=255",
        "memory://name",
    ]
    entries = [[_SENDER.public.seal, *Remembered(900, 17, 4)], [b"k" * 32, *Remembered(0, 0, 0)]]
    memories = [msgpack.packb([1, entries[:count]]) for count in range(3)]
    memories.append(msgpack.packb([1, [[_SENDER.public.seal, *Remembered(1000, 70000, 4)]]]))
    memories += [msgpack.packb([2, entries, [[4, 4, 17], [5, 0]][:count]]) for count in range(3)]
    memories.append(msgpack.packb([3, entries, []]))
    return [*(url.encode() for url in urls), *memories]


HARNESS = Harness("transport addresses and options, a station's memory", run, seeds, 1024)
