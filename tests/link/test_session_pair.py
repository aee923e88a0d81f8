"""Stateful tests of a sender and a station: whatever happens on the way between them and to their owners.

A machine plays one picture's worth of trouble after another: loss, doubling, reordering, damage, replays, noise, owners
that crash, ends that start again. What must hold is checked after every step, and at the end a sound channel must
bring everything that is still outstanding within bounded time.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fuzz.invariants import check_station, check_totals
from fuzz.station import tight_limits
from shared.link import LayerAcknowledged, LayerReceived, LayerSent, LinkConfig, NumberTaken, SenderSession, Station
from shared.link.envelope import Admitted, SenderEnvelope
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.plain import PlainSender
from shared.link.seal import SealingKey
from shared.link.sealed import SealedSender, SealedSession
from shared.link.sealed_gate import GateMemory, SealedGate

GROUND = SecretKey.generate(Role.STATION)
DRONE = SecretKey.generate(Role.SENDER)
STRANGER = SecretKey.generate(Role.SENDER)
LISTED = [ListedSender("drone", DRONE.public)]
SENDER = DRONE.identity

_PATIENCE = 4000.0
"""Seconds of a sound channel after which everything must be acknowledged; the longest wait of a sender is 120."""

_STEPS = 20_000
_CAPTURED = 400
"""Packets that a recorder on the way keeps."""

_MOST_LAYERS = 60
_MOST_TAKEN = 6
_HARDLY_ENOUGH = (16_000, 30)
"""Bytes that a station may keep, and layers that it may remember; the largest block here needs nearly as many."""

_OVER_DUE = 1e-6
_ROUNDING = 1e-3

Key = tuple[int, int]


class WatchedGate(SealedGate):
    """Notes which counters were taken of which session, and that none is taken twice."""

    taken: dict[bytes, set[int]]

    def admit(self, data: bytes) -> Admitted | None:
        admitted = super().admit(data)
        if admitted is not None and admitted.incoming is not None:
            assert isinstance(admitted.envelope, SealedSession)
            taken = self.taken.setdefault(admitted.envelope.ephemeral, set())
            assert admitted.incoming.counter not in taken, "a packet was taken twice"
            taken.add(admitted.incoming.counter)
        return admitted


class SealWatch:
    """Stands in for `SealingKey` at both ends: no key may ever seal two packets with one counter."""

    def __init__(self) -> None:
        self.used: set[tuple[bytes, int]] = set()
        self._keys: dict[int, bytes] = {}
        self._init, self._seal = SealingKey.__init__, SealingKey.seal
        self._patches = (
            patch.object(SealingKey, "__init__", lambda key, raw: self._made(key, raw)),
            patch.object(SealingKey, "seal", lambda key, counter, *rest: self._sealed(key, counter, *rest)),
        )
        for each in self._patches:
            each.start()

    def _made(self, key: SealingKey, raw: bytes) -> None:
        self._init(key, raw)
        self._keys[id(key)] = raw
        # Nothing may take its place in memory while it counts.
        self._alive = [*getattr(self, "_alive", ()), key]

    def _sealed(self, key: SealingKey, counter: int, header: bytes, body: bytes) -> bytes:
        pair = (self._keys[id(key)], counter)
        assert pair not in self.used, "a nonce was used twice"
        self.used.add(pair)
        return self._seal(key, counter, header, body)

    def stop(self) -> None:
        for each in self._patches:
            each.stop()


class Budget:
    """Checks that in any interval no more was sent than a rate and a burst allow."""

    def __init__(self, config: LinkConfig) -> None:
        self._rate = None if config.rate is None else config.rate / 8
        self._burst = config.burst_bytes
        self._sent = 0
        self._lowest = float("inf")

    def sent(self, size: int, now: float) -> None:
        if self._rate is None:
            return
        # Bytes in (a, b] are at most burst + rate (b - a) for every a: keep the lowest of what was sent before each.
        self._lowest = min(self._lowest, self._sent - self._rate * now)
        self._sent += size
        assert self._sent - self._rate * now - self._lowest <= self._burst + _ROUNDING, "over the budget"


class SessionPair(RuleBasedStateMachine):
    """A sender and a station with a way back."""

    simplex = False
    sealed: bool

    def __init__(self) -> None:
        super().__init__()
        self.seals = SealWatch()
        self.now = 0.0
        self.in_flight: list[tuple[bool, bytes]] = []
        self.captured: list[bytes] = []
        self.submitted: dict[Key, tuple[bytes, int]] = {}
        self.stored: set[Key] = set()
        self.settled: set[Key] = set()
        self.withdrawn: set[Key] = set()
        self.taken_numbers: set[int] = set()
        self.to_store: list[LayerReceived] = []
        self.taken: dict[bytes, set[int]] = {}
        self.starts = 0
        self.sequence = 0
        self.stranger = 0

    @initialize(
        sealed=st.booleans(),
        packet_bytes=st.sampled_from([48, 60, 66, 100, 300, 1200]),
        parity=st.sampled_from([0.0, 0.3, 1.0]),
        adapt=st.booleans(),
        interleave=st.integers(1, 3),
        flush_after=st.sampled_from([0.0, 2.0]),
        rate=st.sampled_from([None, 2400.0, 64000.0]),
        repeats=st.integers(1, 2),
        large=st.sampled_from([0, 2**14 - 2, 2**32 - 80]),
        worn=st.booleans(),
    )
    def start(
        self,
        sealed: bool,
        packet_bytes: int,
        parity: float,
        adapt: bool,
        interleave: int,
        flush_after: float,
        rate: float | None,
        repeats: int,
        large: int,
        worn: bool,
    ) -> None:
        self.sealed = sealed
        self.first_number = 0xFFF0 if worn else 0
        self.sequence = large
        self.config = LinkConfig(
            packet_bytes=packet_bytes,
            parity=parity,
            base_parity=min(2 * parity, 2.0),
            adapt=adapt,
            interleave=interleave,
            flush_after=flush_after,
            rate=rate,
            burst_bytes=max(packet_bytes, 200),
            simplex=self.simplex,
            repeats=repeats if self.simplex else 1,
            retransmit_after=2.0,
        )
        self.session = self._session()
        self.station = Station(self.config, now=0.0, gate=self._gate())

    # What owners do.

    @precondition(lambda self: len(self.submitted) < _MOST_LAYERS)
    @rule(sizes=st.lists(st.sampled_from([0, 1, 5, 30, 47, 120, 400]), min_size=1, max_size=4), later=st.integers(0, 2))
    def submit(self, sizes: list[int], later: int) -> None:
        """A new picture, of which the last layers may follow later."""
        sequence, self.sequence = self.sequence, self.sequence + 1
        for layer, size in enumerate(sizes):
            # Nothing in it repeats, so that a wrong offset shows.
            pattern = b"".join((1000 * (sequence % 60) + 50 * layer + at).to_bytes(2, "big") for at in range(size))
            self.submitted[sequence, layer] = (pattern[:size], len(sizes))
        self._submit(sequence, range(max(1, len(sizes) - later)))

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        """Layers that were left for later, or are on their way already."""
        sequence, layer = data.draw(st.sampled_from(sorted(self.submitted)))
        self._submit(sequence, [layer])

    @precondition(lambda self: self.submitted and not self.simplex)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """A picture is too old; the owner forgets that it was there."""
        sequence = data.draw(st.sampled_from(sorted({sequence for sequence, _ in self.submitted})))
        self.session.withdraw([sequence], self.now)
        self.withdrawn |= {key for key in self.submitted if key[0] == sequence}

    @rule(number=st.integers(1, 6))
    def store(self, number: int) -> None:
        """The station's owner has stored layers."""
        for event in self.to_store[:number]:
            key = (event.sequence, event.layer)
            if event.sequence in self.taken_numbers and key not in self.stored:
                self.station.refuse(event.sender, *key, max(self.taken_numbers), self.now)
                continue
            self.stored.add(key)
            self.station.acknowledge(event.sender, *key, self.now)
        del self.to_store[:number]
        self._exchange()

    @precondition(lambda self: self.submitted and len(self.taken_numbers) < _MOST_TAKEN)
    @rule(data=st.data())
    def collide(self, data: st.DataObject) -> None:
        """It turns out that the station's owner has another picture under a number, from a former life of the spool."""
        sequence = data.draw(st.sampled_from(sorted({sequence for sequence, _ in self.submitted})))
        self.taken_numbers.add(sequence)

    @rule()
    def restart_sender(self) -> None:
        """The sender's owner starts again, and submits what is not acknowledged."""
        self.starts += 1
        self.session = self._session()
        for sequence, layer in sorted(self.submitted):
            if (sequence, layer) not in self.settled | self.withdrawn:
                self._submit(sequence, [layer])

    @rule(remember=st.booleans())
    def restart_station(self, remember: bool) -> None:
        """The station's owner crashes: what it was about to store is lost."""
        gate = self.station._gate
        memory = gate.memory() if remember and isinstance(gate, SealedGate) else None
        if memory is None:
            self.taken = {}  # it may take everything again, and can know nothing better
        self.to_store.clear()
        self.station = Station(self.config, now=self.now, gate=self._gate(memory))

    # What happens on the way.

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.25, 0.3, 1.0, 2.5, 6.0, 30.0, 130.0]))
    def wait(self, seconds: float) -> None:
        """Time passes, packet by packet; nothing arrives meanwhile."""
        until = self.now + seconds
        for _ in range(_STEPS):
            self._exchange()
            times = [time for time in (self.session.next_timer(), self.station.next_timer()) if time is not None]
            if not times or min(times) > until:
                break
            self.now = max(self.now, min(times))
        else:
            raise AssertionError("time stands still")
        self.now = until
        self._exchange()

    @precondition(lambda self: self.in_flight)
    @rule(number=st.integers(1, 12), last=st.booleans())
    def deliver(self, number: int, last: bool) -> None:
        """Packets arrive, in order or in the opposite one."""
        if last:
            self.in_flight.reverse()
        arriving = self.in_flight[:number]
        del self.in_flight[:number]
        if last:
            self.in_flight.reverse()
        for up, packet in arriving:
            self._arrive(up, packet)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), fate=st.sampled_from(["lose", "double", "delay", "burst"]))
    def trouble(self, data: st.DataObject, fate: str) -> None:
        """A packet is lost, comes twice, or late; or several are lost in a row."""
        at = data.draw(st.integers(0, len(self.in_flight) - 1))
        if fate == "burst":
            del self.in_flight[at : at + 4]
            return
        packet = self.in_flight.pop(at)
        if fate == "double":
            self._arrive(*packet)
            self._arrive(*packet)
        elif fate == "delay":
            self.in_flight.append(packet)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), flips=st.lists(st.integers(0, 2**20), min_size=1, max_size=3), cut=st.booleans())
    def corrupt(self, data: st.DataObject, flips: list[int], cut: bool) -> None:
        """A packet is damaged on the way, and must change nothing."""
        up, packet = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        damaged = bytearray(packet)
        for flip in flips:
            damaged[flip // 8 % len(damaged)] ^= 1 << flip % 8
        if cut:
            del damaged[len(damaged) // 2 :]
        if bytes(damaged) != packet:
            self._refuse(up, bytes(damaged))

    @precondition(lambda self: self.captured)
    @rule(data=st.data(), number=st.integers(1, 5), other_path=st.booleans())
    def replay(self, data: st.DataObject, number: int, other_path: bool) -> None:
        """Somebody plays recorded packets of the sender, of whatever session."""
        at = data.draw(st.integers(0, len(self.captured) - 1))
        for packet in self.captured[at : at + number]:
            self._arrive(True, packet, "stranger" if other_path and self.sealed else "path")

    @rule(up=st.booleans(), noise=st.binary(max_size=80))
    def noise(self, up: bool, noise: bytes) -> None:
        """Bytes that nobody sent."""
        self._refuse(up, noise)

    @rule(up=st.booleans())
    def foreign(self, up: bool) -> None:
        """Packets of another pair: a sender that is not listed, or another's reports."""
        self.stranger += 1
        envelope: SenderEnvelope
        if self.sealed:
            envelope = SealedSender(STRANGER, GROUND.public, sender=SENDER, session=self.stranger)
            packets = [*envelope.hello(1200), envelope.wrap(0, b"\0\0\x88foreign", known=True)]
        else:
            envelope = SealedSender(DRONE, GROUND.public, sender=SENDER, session=self.stranger)
            packets = [*envelope.hello(1200)]
        for packet in packets:
            self._refuse(up, packet)

    # What must hold.

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "station"):
            check_station(self.station)
            check_totals(self.station)
            outstanding = {*self.session._outstanding}
            assert self.session.backlog_bytes == sum(len(self.submitted[key][0]) for key in outstanding)

    @invariant()
    def what_is_done_is_stored(self) -> None:
        if not self.simplex:
            assert self.settled <= self.stored

    def teardown(self) -> None:
        """With a sound channel from now on all that was submitted arrives and is acknowledged."""
        try:
            if hasattr(self, "station"):
                self._finish()
        finally:
            self.seals.stop()

    def _finish(self) -> None:
        for sequence, layer in sorted(self.submitted):
            if (sequence, layer) not in self.settled | self.withdrawn:
                self._submit(sequence, [layer])
        end = self.now + _PATIENCE
        queue: list[tuple[float, int, Callable[[], None]]] = []
        numbers = count()
        for _ in range(_STEPS):
            self._exchange()
            for up, packet in self.in_flight:
                arrive = lambda up=up, packet=packet: self._arrive(up, packet)  # noqa: E731
                heapq.heappush(queue, (self.now + 0.3, next(numbers), arrive))
            self.in_flight.clear()
            self.store(len(self.to_store))
            if self._is_done():
                return
            times = [self.session.next_timer(), self.station.next_timer(), queue[0][0] if queue else None]
            due = [time for time in times if time is not None]
            assert due, f"work is left, but nobody wants to be woken: {self._left()}"
            self.now = max(self.now, min(due))
            assert self.now < end, f"not done in time: {self._left()}"
            while queue and queue[0][0] <= self.now:
                heapq.heappop(queue)[2]()
        raise AssertionError(f"not done in so many steps: {self._left()}")

    def _is_done(self) -> bool:
        return not [*self.session._outstanding]

    def _left(self) -> list[Key]:
        return [*self.session._outstanding]

    # The machinery.

    def _submit(self, sequence: int, layers: range | list[int]) -> None:
        total = self.submitted[sequence, layers[0]][1]
        payloads = [self.submitted[sequence, layer][0] for layer in layers]
        self.withdrawn -= {(sequence, layer) for layer in layers}
        self.settled -= {(sequence, layer) for layer in layers}
        self.session.submit(sequence, payloads, self.now, first_layer=layers[0], total_layers=total)

    def _session(self) -> SenderSession:
        self.budget = Budget(self.config)
        envelope: SealedSender | PlainSender
        if self.sealed:
            envelope = SealedSender(DRONE, GROUND.public, sender=SENDER, session=self.starts)
        else:
            envelope = PlainSender(SENDER, (self.starts + 0xFFFE) % 0x10000)
        # Sessions that have lasted for long: packets and blocks are about to begin again at 0.
        envelope.sent = self.first_number
        session = SenderSession(self.config, envelope, now=self.now)
        session._outstanding._next_number = self.first_number
        return session

    def _gate(self, memory: GateMemory | None = None) -> SealedGate | None:
        if not self.sealed:
            return None
        gate = WatchedGate([GROUND], LISTED, memory)
        gate.taken = self.taken
        return gate

    def _exchange(self) -> None:
        """Let both ends do what is due now."""
        self.session.handle_timer(self.now)
        self.station.handle_timer(self.now)
        for packet, priority in self.session.packets_to_send(self.now):
            assert len(packet) <= self.config.packet_bytes
            assert priority in (0, 1)
            self.budget.sent(len(packet), self.now)
            self.in_flight.append((True, packet))
            self.captured.append(packet)
        del self.captured[:-_CAPTURED]
        for path, packet in self.station.packets_to_send(self.now):
            assert not self.simplex
            assert path in ("path", "stranger")
            assert len(packet) <= self.config.packet_bytes
            if path == "path":
                self.in_flight.append((False, packet))
        for timer in (self.session.next_timer(), self.station.next_timer()):
            assert timer is None or timer > self.now, "time stands still"
        self._take_events()

    def _take_events(self) -> None:
        while (event := self.session.next_event()) is not None:
            if isinstance(event, NumberTaken):
                self._renumber(event)
                continue
            assert isinstance(event, LayerSent if self.simplex else LayerAcknowledged)
            key = (event.sequence, event.layer)
            assert key in self.submitted
            assert key not in self.settled, "a layer was told of twice"
            assert key not in self.withdrawn, "a layer was told of that had been withdrawn"
            self.settled.add(key)

    def _renumber(self, event: NumberTaken) -> None:
        """As a sender's owner does: what has not arrived of the picture goes on under a number of its own."""
        assert not self.simplex
        assert event.sequence in self.taken_numbers
        assert event.highest in self.taken_numbers
        assert event.highest >= event.sequence
        left = {key for key in self.submitted if key[0] == event.sequence} - self.settled - self.withdrawn
        assert left, "a number is taken of which nothing was outstanding"
        assert not any(key in self.session._outstanding for key in left)
        sequence, self.sequence = self.sequence, self.sequence + 1
        for _, layer in sorted(left):
            self.submitted[sequence, layer] = self.submitted[event.sequence, layer]
            self._submit(sequence, [layer])
        self.withdrawn |= left

    def _arrive(self, up: bool, packet: bytes, path: str = "path") -> None:
        if not up:
            self.session.receive_packet(packet, self.now)
            self._take_events()
            return
        self.station.receive_packet(packet, self.now, path)
        while (received := self.station.next_event()) is not None:
            assert received.sender == SENDER
            expected = self.submitted[received.sequence, received.layer]
            assert (received.payload, received.layers) == expected, "a layer is not what was submitted"
            self.to_store.append(received)

    def _refuse(self, up: bool, packet: bytes) -> None:
        """Give an end a packet that must change nothing."""
        before = self._state()
        self._arrive(up, packet)
        assert self._state() == before, "a packet of nobody changed something"

    def _state(self) -> object:
        sessions: OrderedDict[object, object] = OrderedDict(
            (sender, (session.path, session.statistics.packets_received, session.buffered_bytes, session.next_timer()))
            for sender, session in self.station._sessions.items()
        )
        gate = self.station._gate
        memory = gate.memory() if isinstance(gate, SealedGate) else None
        mine = (self.session.statistics.reports_received, self.session.backlog_bytes, [*self.session._outstanding])
        return sessions, memory, mine, len(self.to_store)


class SimplexPair(SessionPair):
    """A sender that hears nothing."""

    simplex = True

    def _is_done(self) -> bool:
        return not [*self.session._outstanding] and not self.in_flight


class TightPair(SessionPair):
    """A station with hardly any memory: it forgets all the time, and yet everything arrives."""

    def __init__(self) -> None:
        super().__init__()
        self._limits = tight_limits(*_HARDLY_ENOUGH)
        self._limits.__enter__()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self._limits.__exit__(None, None, None)


_PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
_QUICK = settings(max_examples=150, stateful_step_count=40, phases=_PHASES)
_THOROUGH = settings(max_examples=150, stateful_step_count=80, phases=_PHASES)

MACHINES = {"with a way back": SessionPair, "simplex": SimplexPair, "hardly any memory": TightPair}


def _play(machine: type[SessionPair], profile: settings) -> None:
    run_state_machine_as_test(machine, settings=settings(profile, suppress_health_check=[*HealthCheck]))


@pytest.mark.parametrize("name", MACHINES)
def test_a_pair_survives_everything(name: str) -> None:
    _play(MACHINES[name], _QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_a_pair_survives_everything_for_longer(name: str) -> None:
    _play(MACHINES[name], _THOROUGH)
