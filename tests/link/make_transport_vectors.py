"""The part of ``docs/vectors/link-v2.json`` that is about transports; see ``tests.link.make_vectors``."""

from typing import Any

from shared.link.keys import Role
from shared.transports.lines.ax25 import Ax25Framing, encode_call_sign
from shared.transports.lines.framing import CobsFraming, Framing, KissFraming, TncParameter
from shared.transports.mqtt.presence import Presence, State, encode_presence
from shared.transports.mqtt.shards import owner
from shared.transports.mqtt.topics import SHARDS, Topics, shard_of
from shared.transports.zeromq.credit import Allowance, Grant, Hello

Vectors = dict[str, Any]


def credit_vectors() -> Vectors:
    """The ZeroMQ transport's own messages."""
    allowance = Allowance(3000)
    grants = []
    for sent, total in ((1200, 0), (1200, 1200), (600, 600), (0, 3000), (0, 5000)):
        allowance.spend(sent)
        allowance.granted(total)
        grants.append({"spend": sent, "total": total, "under_way": allowance.under_way, "sent": allowance.sent})
    return {
        "grants": [{"total": total, "message": Grant(total).encode().hex()} for total in (0, 1200, 2**32 - 1)],
        "hellos": [
            {"window": window, "start": start, "message": Hello(window, start).encode().hex()}
            for window, start in ((2400, 0), (1 << 18, 0xFFFFFF00))
        ],
        "sequence": {"window": 3000, "steps": grants},
    }


FRAMED_PACKETS = (
    b"\x11",
    b"\x00",
    b"\x00\x00\x01\x00",
    bytes([0xC0, 0xDB, 0xDC, 0xDD, 0x7D, 0x11, 0x13]),
    bytes(range(1, 255)),
    bytes(range(1, 256)),
    bytes(range(256)),
)


def make_framings(call_sign: str = "N0CALL-7") -> dict[str, Framing]:
    """The framings of the file, those with call signs as this one uses them."""
    source, destination = encode_call_sign(call_sign), encode_call_sign("PINHOL")
    if source is None or destination is None:
        raise RuntimeError("no call sign")
    return {
        "cobs": CobsFraming(),
        "cobs_xonxoff": CobsFraming(spare_flow_bytes=True),
        "kiss": KissFraming(parameters=[TncParameter(1, 30), TncParameter(2, 0xC0)]),
        "kiss_port_12": KissFraming(port=12),
        "kiss_ax25": Ax25Framing(KissFraming(), source, destination),
    }


def framing_vectors() -> Vectors:
    """Packets in streams of bytes."""
    return {
        name: {
            "opening": framing.opening().hex(),
            "packets": [
                {"packet": packet.hex(), "bytes": framing.encode(packet, fresh=False).hex()}
                for packet in FRAMED_PACKETS
            ],
            "after_silence": framing.encode(FRAMED_PACKETS[0], fresh=True).hex(),
        }
        for name, framing in make_framings().items()
    }


PRESENCES = (
    Presence(0x89ABCDEF, 1, State.ALIVE),
    Presence(0x89ABCDEF, 1, State.LOST),
    Presence(7, 300, State.CLOSED),
    Presence(0xFFFFFFFF, 2, State.ALIVE, "antennas", 0x10FF),
)


def mqtt_vectors(sender: int, station: int) -> Vectors:
    """Topics, shards and presence messages."""
    topics = Topics()
    stations = {station: 0xFFFF, 0x00000002: 0xFFFF, 0xCAFE0003: 0x00FF}
    return {
        "shards": [{"sender": one, "shard": shard_of(one)} for one in (0, 1, sender, 0xFFFFFFFF)],
        "topics": {
            "base": topics.up(sender, 0),
            "refinement": topics.up(sender, 1),
            "down": topics.down(sender),
            "sender_birth": topics.state(Role.SENDER, sender, birth=True),
            "station_death": topics.state(Role.STATION, station, birth=False),
            "group": topics.up_filter(3, "antennas"),
        },
        "presence": [
            {
                "incarnation": word.incarnation,
                "counter": word.counter,
                "state": word.state.name.lower(),
                "group": word.group,
                "shards": word.shards,
                "payload": encode_presence(word).hex(),
            }
            for word in PRESENCES
        ],
        "group": {
            "willing": [[*entry] for entry in stations.items()],
            "owners": [owner(shard, stations) for shard in range(SHARDS)],
        },
    }
