"""Packets as any stranger may send them: raw bytes, at every place that looks at a packet first."""

import contextlib
import zlib

from fuzz.harness import Harness, demand
from fuzz.invariants import check_station
from shared.errors import CorruptDataError
from shared.link import LinkConfig, Station
from shared.link.packet import (
    HELLO,
    SEALED,
    VERSION_BITS,
    check_version,
    encode_data,
    encode_reset,
    encode_versions,
    parse_data,
    reset_tag,
    spoken_versions,
)
from shared.link.plain import PlainGate, PlainIdentity, PlainSender, read_unproved

_KNOWN = PlainIdentity(7, 3)


def run(data: bytes) -> None:
    """Read a packet everywhere, as it is and with its checksum put right for a session."""
    _read_parts(data)
    session = PlainSender(*_KNOWN)
    station = Station(LinkConfig(packet_bytes=60), now=0.0)
    station.receive_packet(session.wrap(0, encode_data(parse_data(0, b"\0\1\xc8\5\0\0a")), known=False), 0.0, "path")
    gate = PlainGate()
    for seed in (0, _KNOWN.checksum_seed):
        for packet in (data, data + zlib.crc32(data, seed).to_bytes(4, "big")):
            with contextlib.suppress(CorruptDataError):
                gate.admit(packet)
            station.receive_packet(packet, 1.0, "path")
            check_station(station)
    answers = [packet for now in (2.0, 9.0) for _, packet in station.packets_to_send(now)]
    demand(all(len(packet) <= 60 for packet in answers), "an answer is too long")
    sender = PlainSender(*_KNOWN)
    with contextlib.suppress(CorruptDataError):
        sender.unwrap(data)


def _read_parts(data: bytes) -> None:
    try:
        packet = parse_data(data[0] if data else 0, data[1:])
    except CorruptDataError:
        pass
    else:
        demand(packet.k + packet.m <= 255 and 0 <= packet.index < packet.k + packet.m, "a place is out of range")
        demand(parse_data(packet.flags, encode_data(packet)) == packet, "a body is not what it was")
    for read in (read_unproved, check_version):
        with contextlib.suppress(CorruptDataError):
            read(data)
    tag = reset_tag(data)
    demand(tag is None or encode_reset(tag) == data, "a reset can be written in two ways")
    spoken_versions(data)


def seeds() -> list[bytes]:
    """One packet of each kind, checksums left away as well."""
    sender = PlainSender(*_KNOWN)
    bodies = [
        (0, b"\0\2\xc8\5\0\0abc"),
        (2, b"\0\2"),
        (4, b"\0\3\0\2\2\xf8\5\0\1ab"),
        (4, b"\0\3\3\2\2symbol"),
        (1, b"\0\4\0"),
    ]
    packets = [sender.wrap(flags, body, known=known) for flags, body in bodies for known in (False, True)]
    packets += [encode_reset(9), encode_versions(packets[0]), bytes([VERSION_BITS | SEALED]) + bytes(30)]
    packets += [bytes([VERSION_BITS | HELLO]) + bytes(65), b"", b"\x40\0"]
    without = [packet[:-4] for packet in packets] + [bytes([flags]) + body for flags, body in bodies]
    return [*dict.fromkeys(packets + without)]


HARNESS = Harness("packets of strangers, raw", run, seeds)
