"""Hellos, and the gate of a sealed station: what it lets in, and what it must not forget.

An input is a row of steps. Hellos are made with right MACs around wild contents, or are any bytes.
"""

import contextlib

from fuzz.harness import Harness, Reader, demand
from shared.errors import CorruptDataError
from shared.link.envelope import Admitted, RefusedError
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.packet import HELLO, VERSION_BITS, Incoming
from shared.link.seal import HELLO_BYTES, SessionName, StaticSecret, _hello, encode_hello, parse_hello
from shared.link.sealed import SealedSender, SealedSession
from shared.link.sealed_gate import Remembered, SealedGate

_STATIONS = [SecretKey(Role.STATION, 3, bytes([number]) * 32, b"t" * 32) for number in (40, 41)]
_SECRETS = [
    SecretKey(Role.SENDER, identity, bytes([number]) * 32, b"v" * 32)
    for number, identity in enumerate((4, 4, 5), start=50)
]
"""The first two are the old and the new key of one sender."""

_LISTED = [ListedSender(name, secret.public) for name, secret in zip("aab", _SECRETS, strict=True)]
_STATICS = [[StaticSecret.of_sender(secret, station.public) for station in _STATIONS] for secret in _SECRETS]
_KEYS = {sender.key.seal for sender in _LISTED}
_IDENTITIES = {sender.key.identity for sender in _LISTED}
_FIRST, _SECOND = 1, 2


class _World:
    """A gate with two keys and three listed senders, and what it has let in."""

    def __init__(self) -> None:
        self.gate = SealedGate(_STATIONS, _LISTED)
        self.sent: list[bytes] = []
        self.senders: list[SealedSender] = []
        self.taken: dict[tuple[bytes, int], set[int]] = {}
        self.newest: dict[bytes, int] = {}

    def step(self, reader: Reader) -> None:
        """Do what the next bytes say."""
        kind = reader.byte() % 9
        if kind == 0:
            self._admit(reader.piece())
        elif kind == 1:
            self._admit(bytes([VERSION_BITS | HELLO | reader.byte() % 4]) + reader.piece())
        elif kind == 2:
            number, part = reader.byte() % len(_SECRETS), reader.byte() % 4
            name = SessionName(_SECRETS[number].identity, reader.number())
            self._admit(_hello(name, part, reader.piece(), _STATICS[number][reader.byte() % 2].hello_key))
        elif kind == 3 and len(self.senders) < 8:
            secret, station = reader.choose(_SECRETS), reader.choose(_STATIONS)
            claimed = reader.choose([secret.identity, 4, 5, 6])
            self.senders.append(SealedSender(secret, station.public, sender=claimed, session=reader.number()))
            for packet in self.senders[-1].hello(48 + 100 * (reader.byte() & 1)):
                self._admit(packet)
        elif kind == 4 and self.senders:
            sender = reader.choose(self.senders)
            self._admit(sender.wrap(reader.byte() & 7, reader.piece(), known=True))
        elif kind == 5 and self.sent:
            self._admit(reader.choose(self.sent))
        elif kind == 6 and self.sent:
            flipped = bytearray(reader.choose(self.sent))
            if flipped:
                flipped[reader.byte() % len(flipped)] ^= 1 << reader.byte() % 8
                self._admit(bytes(flipped))
        elif kind == 7:
            self.gate = SealedGate(_STATIONS, _LISTED, self.gate.memory())
        elif kind == 8:
            chosen = reader.byte()
            self.gate.set_allowed([sender for number, sender in enumerate(_LISTED) if chosen >> number & 1])

    def _admit(self, packet: bytes) -> None:
        self.sent.append(packet)
        try:
            admitted = self.gate.admit(packet)
        except RefusedError:
            admitted = None
        if admitted is not None and isinstance(admitted.envelope, SealedSession):
            self._check(admitted, admitted.envelope)
        self._check_gate()

    def _check(self, admitted: Admitted, session: SealedSession) -> None:
        if admitted.incoming is not None:
            taken = self.taken.setdefault((session.ephemeral, session.name.session), set())
            demand(admitted.incoming.counter not in taken, "a packet is taken twice")
            taken.add(admitted.incoming.counter)
        listed = next(listed for listed in self.gate._listed.values() if session in listed.sessions)
        key = listed.sender.key.seal
        demand(session.name.session >= self.newest.get(key, 0), "an old session is taken for a new one")
        self.newest[key] = session.name.session

    def _check_gate(self) -> None:
        sessions = [session for listed in self.gate._listed.values() for session in listed.sessions]
        demand(len({session.name.identity for session in sessions}) == len(sessions), "a sender has two sessions")
        by_tag = [session for same in self.gate._by_tag.values() for session in same]
        demand(all(self.gate._by_tag.values()), "an empty list is kept for a tag")
        demand({*map(id, by_tag)} == {*map(id, sessions)}, "sessions and their tags disagree")
        memory = self.gate.memory()
        demand(memory.sessions.keys() <= _KEYS, "something is kept of a stranger")
        demand(all(isinstance(word, Remembered) for word in memory.sessions.values()), "a memory is none")
        demand(memory.ids.keys() <= _IDENTITIES, "a stranger has an id")
        ids = [sender for senders in memory.ids.values() for sender in senders]
        demand(len({*ids}) == len(ids), "an id belongs to two senders")


def run(data: bytes) -> None:
    """Read a hello; give a gate a row of packets; give a sender the input as a report."""
    with contextlib.suppress(CorruptDataError):
        hello = parse_hello(data)
        demand(len(data) <= HELLO_BYTES and data == hello.covered + hello.mac, "a hello is not what it was")
    reader = Reader(data)
    world = _World()
    while reader:
        world.step(reader)
    for sender in world.senders[:2]:
        for report in (data, bytes([VERSION_BITS | 0x28, sender.tag]) + data):
            _refuse(sender, report)


def _refuse(sender: SealedSender, report: bytes) -> None:
    opened: Incoming | None = None
    with contextlib.suppress(CorruptDataError):
        opened = sender.unwrap(report)
    demand(opened is None, "a report is taken that nobody sealed")
    demand(not sender._lives, "something is kept of a report that nobody sealed")


def seeds() -> list[bytes]:
    """Hellos, whole and in halves, sessions one after the other, a change of keys, a restart."""
    name = SessionName(4, 9)
    key = _STATICS[0][0].hello_key
    whole = encode_hello(name, 4, 0, bytes(range(32)), key, 1200)
    halves = encode_hello(name, 4, 7, bytes(range(32)), key, 48)
    packet = bytes([4, 0, 2, 6]) + b"\0\1body"
    first, second, third = b"\3\0\0\0\0\5\0", b"\3\0\1\0\0\6\1", b"\3\1\0\0\0\6\0"
    wild = b"".join(
        bytes([2, number, part, 0, 9, len(content)]) + content + b"\0"
        for number, part, content in (
            (0, 0, bytes(4) + bytes(4) + bytes(range(32))),
            (1, _FIRST, bytes(4) + bytes(range(16))),
            (1, _SECOND, bytes(4) + bytes(range(16))),
        )
    )
    rows = [
        first + packet * 3 + b"\5\1\5\2" + b"\7" + b"\5\1" + packet,
        first + packet + second + packet + third + packet + b"\5\0\5\1\5\2",
        first + packet + b"\x08\x06" + packet + b"\x08\x07" + packet + b"\5\0" + packet,
        first + packet + b"\6\0\3\1\6\1\2\2\6\1\1\4",
        wild + packet,
        b"\3\2\0\1\0\4\0" + first + b"\3\2\0\2\0\5\0",
    ]
    raw = [b"\0" + bytes([len(data)]) + data for data in (*whole, *halves)]
    return [*whole, *halves, *raw, b"".join(raw), *rows, b""]


HARNESS = Harness("hellos, and what a sealed gate lets in", run, seeds, 2048)
