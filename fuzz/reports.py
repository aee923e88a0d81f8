"""A sender that gets reports in order outside and wild inside.

An input is a row of steps: reports, pictures, time. Invariants are checked after every step.
"""

import contextlib
from collections.abc import Callable

from fuzz.harness import Harness, Reader, demand, piece
from shared.errors import CorruptDataError
from shared.link import LayerAcknowledged, LinkConfig, NumberTaken, SenderSession
from shared.link.control import Echo, Report, Request, StoredBlocks, TakenNumbers, encode_report, parse_report
from shared.link.envelope import StationEnvelope
from shared.link.gilbert import GilbertFit
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.packet import encode_reset
from shared.link.plain import PlainIdentity, PlainSender, PlainSession
from shared.link.sealed import SealedSender
from shared.link.sealed_gate import SealedGate

_STATION = SecretKey(Role.STATION, 3, b"s" * 32, b"t" * 32)
_SENDER = SecretKey(Role.SENDER, 4, b"u" * 32, b"v" * 32)
_MOST_LAYERS = 200


def _config(mode: int) -> LinkConfig:
    parity = (0.0, 0.5)[mode >> 1 & 1]
    return LinkConfig(
        packet_bytes=(120, 48)[mode >> 2 & 1],
        parity=parity,
        base_parity=parity,
        interleave=2,
        adapt=bool(mode & 8),
        rate=(None, 9600.0)[mode >> 4 & 1],
        burst_bytes=240,
        simplex=bool(mode & 32),
    )


class _World:
    """A sender, and the envelope of a station that it believes."""

    def __init__(self, mode: int) -> None:
        self.now = 0.0
        self.config = _config(mode)
        self.submitted: set[tuple[int, int]] = set()
        self.said: set[tuple[int, int]] = set()
        sender, self.station = _sealed() if mode & 1 else _plain()
        self.session = SenderSession(self.config, sender, now=0.0)
        self.tag = sender.tag
        self._submit(0, [b"base" * 20, b"more" * 30])
        self._send()
        self._take_events()

    def step(self, reader: Reader) -> None:
        """Do what the next bytes say."""
        reader.choose(_STEPS)(self, reader)
        self._take_events()
        self._check()

    def _take_events(self) -> None:
        while (event := self.session.next_event()) is not None:
            if isinstance(event, NumberTaken):
                mine = {key for key in self.submitted - self.said if key[0] == event.sequence}
                demand(bool(mine) and event.highest >= event.sequence, "a number is taken that was not waited for")
                self.submitted -= mine
                continue
            key = (event.sequence, event.layer)
            demand(key in self.submitted and key not in self.said, "a layer is told of that was not waited for")
            demand(isinstance(event, LayerAcknowledged) is not self.config.simplex, "an event is of the wrong kind")
            self.said.add(key)

    def report(self, reader: Reader) -> None:
        """A report with any contents."""
        self.session.receive_packet(self.station.wrap(reader.piece()), self.now)

    def noise(self, reader: Reader) -> None:
        """Any bytes."""
        self.session.receive_packet(reader.piece(), self.now)

    def reset(self, reader: Reader) -> None:
        """Somebody says that the station does not know the session."""
        self.session.receive_packet(encode_reset(self.tag), self.now)

    def submit(self, reader: Reader) -> None:
        """Some layers of a picture."""
        self._submit(reader.byte(), [bytes(reader.byte()) for _ in range(reader.byte() % 4 + 1)])

    def withdraw(self, reader: Reader) -> None:
        """A picture is too old."""
        sequence = reader.byte()
        self.session.withdraw([sequence], self.now)
        self.submitted = {key for key in self.submitted if key[0] != sequence or key in self.said}

    def wait(self, reader: Reader) -> None:
        """Time passes, and what may go out goes out."""
        self.now += reader.number() / 64
        self.session.handle_timer(self.now)
        self._send()

    def _submit(self, sequence: int, layers: list[bytes]) -> None:
        if len(self.submitted) < _MOST_LAYERS and (sequence, 0) not in self.submitted:
            self.session.submit(sequence, layers, self.now)
            self.submitted |= {(sequence, layer) for layer in range(len(layers))}
            self.said = {key for key in self.said if key[0] != sequence}

    def _send(self) -> None:
        for data, priority in self.session.packets_to_send(self.now):
            demand(len(data) <= self.config.packet_bytes and priority in (0, 1), "a packet is too long")
        timer = self.session.next_timer()
        demand(timer is None or timer > self.now, "time stands still")

    def _check(self) -> None:
        outstanding = self.session._outstanding
        left = {*outstanding}
        demand(left <= self.submitted, "something waits that was not submitted")
        demand(outstanding.backlog_bytes == sum(len(outstanding[key].payload) for key in left), "a wrong backlog")
        for block in outstanding.blocks:
            demand(block.layers <= left and bool(block.layers) and not block.done, "a block is kept for nothing")
        demand(not left or self.config.simplex or self._has_timer(), "work is left, but nobody wants to be woken")

    def _has_timer(self) -> bool:
        return self.session.next_timer() is not None


def _plain() -> tuple[PlainSender, StationEnvelope]:
    return PlainSender(4, 1), PlainSession(PlainIdentity(4, 1))


def _sealed() -> tuple[SealedSender, StationEnvelope]:
    sender = SealedSender(_SENDER, _STATION.public, sender=4, session=1)
    admitted = SealedGate([_STATION], [ListedSender("drone", _SENDER.public)]).admit(sender.hello(1200)[0])
    if admitted is None:
        raise AssertionError("a hello is not understood")
    return sender, admitted.envelope


_STEPS: tuple[Callable[[_World, Reader], None], ...] = (
    _World.report,
    _World.wait,
    _World.submit,
    _World.withdraw,
    _World.reset,
    _World.noise,
)
_REPORT, _WAIT, _SUBMIT, _WITHDRAW, _RESET, _NOISE = range(6)


def run(data: bytes) -> None:
    """Read the input as a report; then play it as a row of steps."""
    with contextlib.suppress(CorruptDataError):
        report = parse_report(data)
        again = parse_report(encode_report(report))
        demand(again.requests == report.requests and again.stored == report.stored, "a report is not what it was")
        demand(again.fit == report.fit and again.echo == report.echo, "a report is not what it was")
        demand(again.taken == report.taken, "a report is not what it was")
        demand(sorted(again.acknowledged) == sorted(report.acknowledged), "a report is not what it was")
    reader = Reader(data)
    world = _World(reader.byte())
    while reader:
        world.step(reader)


def seeds() -> list[bytes]:
    """Reports of all kinds, and rows of them in every mode."""
    reports = [
        Report(),
        Report(acknowledged=((0, 1), (7, 3))),
        Report(requests=(Request(0, 2, b"\1"), Request(1, 0, b"")), echo=Echo(3, 20)),
        Report(complete=(0, 1), stored=StoredBlocks(0, 1, b"\1")),
        Report(fit=GilbertFit(0.1, 2.5, 300), echo=Echo(1, 0)),
        Report(fit=GilbertFit(0.9, 4000.0, 65535), stored=StoredBlocks(65535, 16384, b"\xff" * 32)),
        Report(acknowledged=((2, 1),), taken=TakenNumbers(70000, (0, 2, 5))),
    ]
    packed = [encode_report(report) for report in reports]
    rows = b"".join(
        bytes([_REPORT]) + piece(message) + bytes([_WAIT, 1, 0, _SUBMIT, number + 1, 2, 30, 90, 9])
        for number, message in enumerate(packed)
    )
    rows += bytes([_WITHDRAW, 2, _RESET, _WAIT, 20, 0, _NOISE, 2, 0x88, 1, _WAIT, 60, 0])
    return [*packed, *(bytes([mode]) + rows for mode in (0, 1, 2, 6, 8, 9, 13, 18, 24, 32))]


HARNESS = Harness("a sender, given reports that are in order outside", run, seeds)
