"""What brokers and ZeroMQ peers may hand to a transport: topics, presence payloads, byte credit."""

import contextlib

from fuzz.harness import Harness, Reader, demand, piece
from shared.errors import CorruptDataError
from shared.link.keys import Role
from shared.transports.mqtt.presence import (
    Presence,
    PresenceTable,
    State,
    encode_presence,
    is_group_name,
    parse_presence,
)
from shared.transports.mqtt.shards import own_shards
from shared.transports.mqtt.topics import Topics, UpTopic
from shared.transports.zeromq.credit import Allowance, Grant, Hello, Tally, parse_message

_LIMIT = 3
_LARGEST = 2**32 - 1


def run(data: bytes) -> None:
    """Take a row of topics and payloads, then of credit messages."""
    reader = Reader(data)
    topics = Topics(reader.choose(("pinhole", "a/b")))
    table = PresenceTable(_LIMIT)
    credit = _Credit()
    while reader:
        if reader.byte() & 1:
            credit.take(reader.piece(), reader.byte())
        else:
            _take_message(topics, table, reader.piece(), reader.piece())


def _take_message(topics: Topics, table: PresenceTable, name: bytes, payload: bytes) -> None:
    _check_payload(payload)
    text = name.decode("utf-8", "replace")
    try:
        topic = topics.parse(text)
    except CorruptDataError:
        return
    if isinstance(topic, UpTopic):
        demand(topics.up(topic.sender, topic.priority) == text, "a topic can be written in two ways")
        return
    demand(topics.state(topic.role, topic.identity, birth=topic.birth) == text, "a topic can be written in two ways")
    with contextlib.suppress(CorruptDataError):
        table.take(topic, payload)
    demand(len(table) <= _LIMIT, "the table of presence has no bound")
    shards = own_shards(5, "ground", 0xFFFF, table)
    demand(shards <= {*range(16)}, "a shard is out of range")


def _check_payload(payload: bytes) -> None:
    try:
        presence = parse_presence(payload)
    except CorruptDataError:
        return
    demand(parse_presence(encode_presence(presence)) == presence, "presence is not what it was")
    demand(presence.group == "" or is_group_name(presence.group), "a group has a name that it must not have")


class _Credit:
    """The counters of both ends of a connection."""

    def __init__(self) -> None:
        self._allowance, self._tally = Allowance(1000), Tally(1000)

    def take(self, message: bytes, size: int) -> None:
        """Take a message; then packets of ``size`` bytes go both ways."""
        parsed = parse_message(message)
        if isinstance(parsed, Grant):
            self._allowance.granted(parsed.total)
        elif isinstance(parsed, Hello):
            self._tally = Tally(parsed.window, parsed.start)
        else:
            demand(parsed is None, "a message is of no kind")
        if parsed is not None:
            demand(parsed.encode() == message, "a message can be written in two ways")
        if self._allowance.fits(size):
            self._allowance.spend(size)
        demand(0 <= self._allowance.under_way <= _LARGEST, "credit is out of range")
        demand(0 <= self._allowance.sent <= _LARGEST, "a count is out of range")
        self._tally.take(size)
        demand(0 <= self._tally.grant.total <= _LARGEST, "a grant is out of range")
        if self._tally.due:
            self._tally.told()
            demand(not self._tally.due, "a grant is due for ever")


def seeds() -> list[bytes]:
    """Messages as both ends write them."""
    topics = Topics("pinhole")
    rows = []
    for role in Role:
        for birth, state in ((True, State.ALIVE), (False, State.CLOSED), (False, State.LOST)):
            topic = topics.state(role, 0xCAFE, birth=birth).encode()
            plain = encode_presence(Presence(77, 3, state))
            group = encode_presence(Presence(77, 3, state, "ground", 0x0F0F))
            rows.append(b"\0" + piece(topic) + piece(plain) + b"\0" + piece(topic) + piece(group))
    many = b"".join(
        b"\0"
        + piece(topics.state(Role.STATION, number, birth=True).encode())
        + piece(encode_presence(Presence(number, 1, State.ALIVE, "ground", 0xFFFF)))
        for number in range(6)
    )
    rows += [many, b"".join(rows), b"\0" + piece(topics.up(0x1234, 1).encode()) + piece(b"")]
    credit: list[Grant | Hello] = [Grant(100), Grant(2**32 - 5), Hello(4000, 2**32 - 300), Hello(0, 0), Grant(90)]
    rows.append(b"".join(b"\1" + piece(message.encode()) + b"\xff" for message in credit))
    return [b"\0" + row for row in rows]


HARNESS = Harness("MQTT topics and presence, ZeroMQ byte credit", run, seeds)
