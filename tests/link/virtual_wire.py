"""A sender and a station on a virtual clock, with a channel between them that does what a plan says."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from shared.link import LayerAcknowledged, LayerReceived, LinkConfig, SenderEvent, SenderSession, Station
from shared.link.envelope import Gate, SenderEnvelope
from shared.link.plain import PlainSender

Fate = Callable[[bytes, float], list[tuple[float, bytes]]]
"""From a packet and the time to what arrives of it, and after how long."""


def sound(packet: bytes, now: float) -> list[tuple[float, bytes]]:
    return [(0.2, packet)]


def nothing(packet: bytes, now: float) -> list[tuple[float, bytes]]:
    return []


@dataclass
class Chance:
    """A fate by lot; each packet gets through with a probability of at least 0.2."""

    seed: int
    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def __call__(self, packet: bytes, now: float) -> list[tuple[float, bytes]]:
        chance = self.random
        out = []
        for _ in range(2 if chance.random() < self.duplication else 1):
            if chance.random() < min(self.loss, 0.8):
                continue
            arriving = bytearray(packet)
            if chance.random() < min(self.corruption, 0.5):
                for _ in range(chance.randint(1, 3)):
                    arriving[chance.randrange(len(arriving))] ^= 1 << chance.randrange(8)
            out.append((0.1 + chance.random() * self.jitter, bytes(arriving)))
        return out


@dataclass
class Wire:
    session: SenderSession
    station: Station
    up: Fate = sound
    down: Fate = sound
    now: float = 0.0
    store_after: float = 0.0
    received: list[LayerReceived] = field(default_factory=list)
    events: list[SenderEvent] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    answered: list[bytes] = field(default_factory=list)
    _queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: "count[int]" = field(default_factory=count)

    def submit(self, pictures: dict[int, list[bytes]]) -> None:
        for sequence, layers in pictures.items():
            self.session.submit(sequence, layers, self.now)

    def run(self, until: float = 1e7, *, steps: int = 100_000) -> None:
        """Run to a time, or until nothing waits at the sender."""
        for _ in range(steps):
            self._exchange()
            if not self.session.backlog_bytes and not self._queue:
                return
            times = [self.session.next_timer(), self.station.next_timer()]
            times.append(self._queue[0][0] if self._queue else None)
            due = [time for time in times if time is not None]
            assert due, "work is left, but nobody wants to be woken"
            if min(due) > until:
                self.now = until
                return
            self.now = max(self.now, min(due))
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
        raise AssertionError(f"not done after {steps} steps, at {self.now} s")

    def layers(self) -> dict[tuple[int, int], bytes]:
        return {(event.sequence, event.layer): event.payload for event in self.received}

    def acknowledged(self) -> list[tuple[int, int]]:
        """Layers that the sender's owner was told of as stored, in order."""
        return [(event.sequence, event.layer) for event in self.events if isinstance(event, LayerAcknowledged)]

    def _exchange(self) -> None:
        self.session.handle_timer(self.now)
        self.station.handle_timer(self.now)
        for packet, _ in self.session.packets_to_send(self.now):
            self.sent.append(packet)
            for delay, data in self.up(packet, self.now):
                self._at(delay, lambda data=data: self._arrive(data))  # type: ignore[misc]
        for path, packet in self.station.packets_to_send(self.now):
            assert path == "path"
            self.answered.append(packet)
            for delay, data in self.down(packet, self.now):
                self._at(delay, lambda data=data: self.session.receive_packet(data, self.now))  # type: ignore[misc]
        while (event := self.session.next_event()) is not None:
            self.events.append(event)

    def _arrive(self, data: bytes) -> None:
        self.station.receive_packet(data, self.now, "path")
        while (event := self.station.next_event()) is not None:
            self.received.append(event)
            self._at(self.store_after, lambda event=event: self._store(event))  # type: ignore[misc]

    def _store(self, event: LayerReceived) -> None:
        if event.sequence in self.taken:
            self.station.refuse(event.sender, event.sequence, event.layer, max(self.taken), self.now)
        else:
            self.station.acknowledge(event.sender, event.sequence, event.layer, self.now)

    def _at(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._count), action))


def make_wire(
    config: LinkConfig | None = None,
    *,
    up: Fate = sound,
    down: Fate = sound,
    envelope: SenderEnvelope | None = None,
    gate: Gate | None = None,
) -> Wire:
    config = config or LinkConfig(rate=9600.0)
    session = SenderSession(config, envelope or PlainSender(0xCAFE0001, 1), now=0.0)
    return Wire(session, Station(config, now=0.0, gate=gate), up=up, down=down)


def some_pictures(seed: int, number: int, sizes: tuple[int, ...] = (300, 600, 700, 448)) -> dict[int, list[bytes]]:
    chance = random.Random(seed)
    return {sequence: [chance.randbytes(size) for size in sizes] for sequence in range(number)}


def expected(pictures: dict[int, list[bytes]]) -> dict[tuple[int, int], bytes]:
    return {(sequence, layer): data for sequence, layers in pictures.items() for layer, data in enumerate(layers)}
