"""A station that gets packets in order outside and wild inside: checks and seals hold, bodies and times do not.

An input is a row of steps; each begins with a byte that says which. Invariants are checked after every step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fuzz.harness import Harness, Reader, demand
from fuzz.invariants import check_station, check_totals
from shared.link import LayerReceived, LinkConfig, SenderSession, Station, delivered
from shared.link import station as limits
from shared.link import station_session as session_limits
from shared.link.envelope import Gate, SenderEnvelope
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.packet import CODED, LONG, MUTE, POLL, SEALED, reset_tag, spoken_versions
from shared.link.plain import PlainSender, read_unproved
from shared.link.sealed import SealedSender
from shared.link.sealed_gate import SealedGate

_STATION = SecretKey(Role.STATION, 3, b"s" * 32, b"t" * 32)
_SECRETS = [SecretKey(Role.SENDER, 4 + number, bytes([number]) * 32, b"v" * 32) for number in range(2)]
_LISTED = [ListedSender(f"drone{secret.identity}", secret.public) for secret in _SECRETS]
_SENDERS = 2
_BODY_FLAGS = CODED | POLL | MUTE

_TIGHT = (
    (limits, "MOST_UNFINISHED_BLOCKS", 4),
    (limits, "MOST_SESSIONS", 1),
    (session_limits, "_BLOCKS_REMEMBERED", 5),
)


@contextmanager
def tight_limits(most_bytes: int = 3000, most_layers: int = 6) -> Iterator[None]:
    """Bounds so small that a few packets reach them.

    Args:
        most_bytes: for the unfinished work of one sender.
        most_layers: that are remembered of one sender.
    """
    tight = (
        *_TIGHT,
        (limits, "MOST_BUFFERED_BYTES", 3 * most_bytes // 2),
        (limits, "MOST_BUFFERED_BYTES_OF_ONE", most_bytes),
        (session_limits, "_NAMES_REMEMBERED", most_layers),
        (delivered, "_LAYERS_REMEMBERED", most_layers),
    )
    before = [(module, name, getattr(module, name)) for module, name, _ in tight]
    for module, name, value in tight:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


class _World:
    """A station, its owner, and those who send to it."""

    def __init__(self, mode: int) -> None:
        self.sealed = bool(mode & 1)
        self.config = LinkConfig(packet_bytes=48 if mode & 2 else 1200, simplex=bool(mode & 4))
        self.now = 0.0
        self.starts = [0] * _SENDERS
        self.senders = [self._sender(number) for number in range(_SENDERS)]
        self.sent: list[bytes] = []
        self.events: list[LayerReceived] = []
        self.station = Station(self.config, now=0.0, gate=self._gate())

    def step(self, reader: Reader) -> None:
        """Do what the next bytes say."""
        reader.choose(_STEPS)(self, reader)
        while (event := self.station.next_event()) is not None:
            self.events.append(event)
        while self.station.next_refusal() is not None:
            pass
        check_station(self.station)

    def data(self, reader: Reader) -> None:
        """A packet that is in order but for its body, heard or lost."""
        sender = reader.choose(self.senders)
        flags = reader.byte()
        packet = sender.wrap(flags & _BODY_FLAGS, reader.piece(), known=bool(flags & LONG))
        self.sent.append(packet)
        if not flags & SEALED:
            self._hear(packet)

    def hello(self, reader: Reader) -> None:
        """A sealed sender makes itself known."""
        sender = reader.choose(self.senders)
        for packet in sender.hello(48 + reader.byte() % 2 * 100):
            self.sent.append(packet)
            self._hear(packet)

    def again(self, reader: Reader) -> None:
        """An earlier packet comes again, or is heard now for the first time."""
        if self.sent:
            self._hear(reader.choose(self.sent))

    def noise(self, reader: Reader) -> None:
        """Any bytes."""
        self._hear(reader.piece())

    def wait(self, reader: Reader) -> None:
        """Time passes, and the station says what it has to say."""
        self.now += reader.number() / 64
        self.station.handle_timer(self.now)
        for path, packet in self.station.packets_to_send(self.now):
            demand(path == "path", "a packet is for nobody")
            demand(not self.config.simplex, "a station answers where there is no way back")
            stranger = reset_tag(packet) is not None or spoken_versions(packet) is not None
            demand(stranger or len(packet) <= self.config.packet_bytes, "a report is too long")
        timer = self.station.next_timer()
        demand(timer is None or timer > self.now, "time stands still")

    def store(self, reader: Reader) -> None:
        """The owner has stored some of the layers."""
        for _ in range(min(reader.byte(), len(self.events))):
            event = self.events.pop(0)
            self.station.acknowledge(event.sender, event.sequence, event.layer, self.now)

    def store_old(self, reader: Reader) -> None:
        """The owner says that a layer is stored that this station does not know."""
        self.station.acknowledge(reader.choose(self.senders).sender, reader.byte(), reader.byte() % 16, self.now)

    def refuse(self, reader: Reader) -> None:
        """The owner has other bytes under the number of a layer, whether this station knows of that or not."""
        sender = reader.choose(self.senders).sender
        self.station.refuse(sender, reader.byte(), reader.byte() % 16, reader.number(), self.now)

    def restart_sender(self, reader: Reader) -> None:
        """A sender starts again."""
        number = reader.byte() % _SENDERS
        self.starts[number] += 1
        self.senders[number] = self._sender(number)

    def restart_station(self, reader: Reader) -> None:
        """The station starts again, with or without what it should remember."""
        gate = self.station._gate
        remembers = isinstance(gate, SealedGate) and bool(reader.byte() & 1)
        self.events.clear()
        self.station = Station(self.config, now=self.now, gate=self._gate(gate if remembers else None))

    def forget(self, reader: Reader) -> None:
        """A key is revoked."""
        self.station.forget(reader.choose(self.senders).sender)

    def _hear(self, packet: bytes) -> None:
        self.station.receive_packet(packet, self.now, "path")

    def _sender(self, number: int) -> SenderEnvelope:
        if not self.sealed:
            return PlainSender(_SECRETS[number].identity, self.starts[number])
        secret = _SECRETS[number]
        return SealedSender(secret, _STATION.public, sender=secret.identity, session=self.starts[number])

    def _gate(self, before: Gate | None = None) -> Gate | None:
        if not self.sealed:
            return None
        return SealedGate([_STATION], _LISTED, before.memory() if isinstance(before, SealedGate) else None)


_STEPS: tuple[Callable[[_World, Reader], None], ...] = (
    _World.data,
    _World.again,
    _World.wait,
    _World.store,
    _World.hello,
    _World.noise,
    _World.store_old,
    _World.restart_sender,
    _World.restart_station,
    _World.forget,
    _World.refuse,
)
_DATA, _AGAIN, _WAIT, _STORE, _HELLO = range(5)
_REFUSE = 10


def run(data: bytes) -> None:
    """Play a row of steps."""
    reader = Reader(data)
    mode = reader.byte()
    if mode & 8:
        with tight_limits():
            _play(_World(mode), reader)
    else:
        _play(_World(mode), reader)


def _play(world: _World, reader: Reader) -> None:
    while reader:
        world.step(reader)
    check_totals(world.station)


def seeds() -> list[bytes]:
    """Sessions as senders make them: coded and not, large packets and small ones, with losses and answers."""
    return [
        bytes([mode]) + _scripted(packet_bytes, parity, lost, sealed=bool(mode & 1))
        for mode, packet_bytes, parity, lost in (
            (0, 200, 0.0, 0),
            (0, 120, 0.5, 0),
            (1, 120, 0.5, 3),
            (2, 48, 1.0, 2),
            (3, 48, 0.0, 4),
            (4, 100, 0.5, 3),
            (8, 90, 0.5, 2),
            (9, 90, 0.0, 3),
            (10, 48, 1.0, 3),
        )
    ]


def _scripted(packet_bytes: int, parity: float, lost: int, *, sealed: bool) -> bytes:
    """Steps that play what a sender of a few pictures sends; of every ``lost`` packets one is lost."""
    config = LinkConfig(packet_bytes=packet_bytes, parity=parity, base_parity=parity, interleave=2)
    session = SenderSession(config, PlainSender(4, 0), now=0.0)
    for sequence in range(3):
        session.submit(sequence, [bytes([sequence]) * 70, b"second" * 20, b""], 0.0)
    script = bytearray([_HELLO, 0, 1] if sealed else [])
    sent = [packet.data for now in (0.0, 5.0) for packet in session.packets_to_send(now)]
    for number, packet in enumerate(sent):
        flags, _, body = read_unproved(packet)
        heard = not lost or number % lost != lost - 1
        script += bytes([_DATA, 0, flags & _BODY_FLAGS | (0 if heard else SEALED), len(body)]) + body
        if number % 4 == 3:
            script += bytes([_WAIT, 0, 30, _STORE, 3, _AGAIN, number % 5])
    script += bytes([_REFUSE, 0, 2, 1, 0, 50, _AGAIN, 1, _WAIT, 0, 20, _REFUSE, 0, 1, 0, 2, 0])
    return bytes(script + bytes([_WAIT, 0, 200, _STORE, 200, _WAIT, 0, 20]))


HARNESS = Harness("a station and its gate, given packets that are in order outside", run, seeds)
