"""Sealed sessions, and who is not let in."""

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import CorruptDataError, PinholeError
from shared.link import LayerAcknowledged, LayerSent, LinkConfig, SenderSession, Station
from shared.link.envelope import Cause, RefusedError
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.packet import HELLO, SEALED, VERSION_BITS, reset_tag
from shared.link.replay import WINDOW, ReplayWindow
from shared.link.seal import HELLO_BYTES, TAG_BYTES, SessionName, StaticSecret, encode_hello, parse_hello
from shared.link.sealed import OVERHEAD, REPORT_OVERHEAD, SealedSender
from shared.link.sealed_gate import SealedGate
from tests.link.virtual_wire import Chance, Fate, Wire, expected, make_wire, nothing, some_pictures, sound

GROUND = SecretKey.generate(Role.STATION)
DRONE = SecretKey.generate(Role.SENDER)
OTHER = SecretKey.generate(Role.SENDER)
LISTED = [ListedSender("drone", DRONE.public)]


def sealed_wire(config: LinkConfig | None = None, *, session: int = 1, up: Fate = sound, down: Fate = sound) -> Wire:
    gate = SealedGate([GROUND], LISTED)
    envelope = SealedSender(DRONE, GROUND.public, sender=DRONE.identity, session=session)
    return make_wire(config, envelope=envelope, gate=gate, up=up, down=down)


@given(
    st.integers(48, 1200),
    st.sampled_from([0.0, 0.25]),
    st.builds(
        Chance,
        seed=st.integers(0, 2**32),
        loss=st.floats(0.0, 0.5),
        duplication=st.floats(0.0, 0.5),
        corruption=st.floats(0.0, 0.3),
        jitter=st.floats(0.0, 20.0),
    ),
)
@settings(max_examples=60)
def test_every_layer_arrives_sealed(packet_bytes: int, parity: float, chance: Chance) -> None:
    config = LinkConfig(packet_bytes=packet_bytes, parity=parity, base_parity=2 * parity, rate=9600.0)
    wire = sealed_wire(config, up=chance, down=Chance(chance.seed + 1, loss=chance.loss, jitter=chance.jitter))
    pictures = some_pictures(chance.seed, 4, sizes=(120, 260))
    wire.submit(pictures)
    wire.run()
    assert wire.layers() == expected(pictures)
    assert len(wire.received) == len(wire.layers())
    assert all(isinstance(event, LayerAcknowledged) for event in wire.events)
    assert all(len(packet) <= packet_bytes for packet in wire.sent)


def test_nothing_of_a_picture_can_be_read_on_the_way() -> None:
    wire = sealed_wire()
    wire.submit({7: [b"the quick brown fox " * 20]})
    wire.run()
    assert wire.received
    assert not any(b"quick brown" in packet for packet in wire.sent)
    assert all(packet[0] & SEALED for packet in wire.sent + wire.answered)


@pytest.mark.parametrize("packet_bytes", [48, 65, 66, 1200])
def test_sealed_simplex_works_without_any_answer(packet_bytes: int) -> None:
    config = LinkConfig(rate=9600.0, simplex=True, repeats=2, packet_bytes=packet_bytes)
    wire = sealed_wire(config, up=Chance(3, loss=0.1), down=nothing)
    pictures = some_pictures(1, 6)
    wire.submit(pictures)
    wire.run()
    assert all(isinstance(event, LayerSent) for event in wire.events)
    assert wire.answered == []
    assert len(wire.layers()) >= 0.9 * len(expected(pictures))
    hellos = sum(len(packet) for packet in wire.sent if packet[0] & HELLO == HELLO)
    assert hellos < 0.06 * sum(map(len, wire.sent))


def test_a_station_that_comes_late_hears_a_simplex_sender() -> None:
    config = LinkConfig(rate=9600.0, simplex=True)
    wire = sealed_wire(config, up=nothing, down=nothing)
    pictures = some_pictures(1, 40)
    wire.submit(pictures)
    wire.run(until=20.0)
    assert not wire.received
    wire.up = Chance(1)
    wire.run()
    assert len(wire.received) > 60


def test_a_station_that_forgot_its_sessions_hears_of_them_again() -> None:
    wire = sealed_wire()
    pictures = some_pictures(10, 8)
    wire.submit(pictures)
    wire.run(until=9.0)
    stored = wire.layers()
    assert 0 < len(stored) < 32
    wire.station = Station(wire.session.config, now=wire.now, gate=SealedGate([GROUND], LISTED))
    wire.run()
    assert stored | wire.layers() == expected(pictures)


def captured(session: int = 5) -> Wire:
    wire = sealed_wire(session=session)
    wire.submit(some_pictures(2, 3))
    wire.run()
    return wire


def replay(wire: Wire, station: Station) -> None:
    for packet in wire.sent:
        station.receive_packet(packet, wire.now, "stranger")
    assert station.next_event() is None
    answers = [packet for path, packet in station.packets_to_send(wire.now + 5.0) if path == "stranger"]
    assert all(reset_tag(packet) is not None for packet in answers), "a stranger is asked who it is, and told nothing"


def test_a_replayed_session_is_dropped_while_it_lasts() -> None:
    wire = captured()
    before = wire.station.totals
    replay(wire, wire.station)
    after = wire.station.totals
    assert after.packets_replayed - before.packets_replayed == sum(packet[0] & HELLO == SEALED for packet in wire.sent)
    assert after.packets_received == before.packets_received
    # The way to the sender is that of its last own packet.
    assert wire.station._sessions[DRONE.identity].path == "path"


@pytest.mark.parametrize("later", [5, 6])
def test_a_replayed_session_is_dropped_after_a_restart(later: int) -> None:
    wire = captured(session=5)
    gate = wire.station._gate
    assert isinstance(gate, SealedGate)
    remembered = gate.memory()
    if later == 6:
        newer = captured_by(gate, 6)
        assert newer.received
        remembered = gate.memory()
    station = Station(LinkConfig(), now=0.0, gate=SealedGate([GROUND], LISTED, remembered))
    replay(wire, station)
    totals = station.totals
    assert totals.packets_received == 0
    if later == 5:
        assert totals.packets_replayed > 0, "the same session, known from before: only new packets are taken"
    else:
        assert totals.packets_stale > 0
        assert totals.packets_unknown > 0


def captured_by(gate: SealedGate, session: int) -> Wire:
    wire = make_wire(envelope=SealedSender(DRONE, GROUND.public, sender=DRONE.identity, session=session), gate=gate)
    wire.submit(some_pictures(4, 2))
    wire.run()
    return wire


def test_a_packet_of_yesterdays_session_is_dropped() -> None:
    wire = captured(session=5)
    yesterday = SenderSession(
        LinkConfig(), SealedSender(DRONE, GROUND.public, sender=DRONE.identity, session=4), now=0.0
    )
    yesterday.submit(1, [bytes(100)], 0.0)
    for packet, _ in yesterday.packets_to_send(5.0):
        wire.station.receive_packet(packet, wire.now, "path")
    assert wire.station.totals.packets_stale == 1
    assert wire.station.totals.packets_unknown > 0
    assert wire.station.next_event() is None


def test_an_unlisted_sender_gets_nothing_in_and_is_told_of_once() -> None:
    wire = captured()
    for number in range(50):
        session = SenderSession(
            LinkConfig(), SealedSender(OTHER, GROUND.public, sender=OTHER.identity, session=number), now=0.0
        )
        session.submit(1, [bytes(100)], 0.0)
        for packet, _ in session.packets_to_send(5.0):
            wire.station.receive_packet(packet, wire.now, "stranger")
    assert wire.station.totals.packets_unlisted == 50
    assert wire.station.next_event() is None
    told = [*iter(wire.station.next_refusal, None)]
    assert len([refusal for refusal in told if refusal.cause is Cause.UNLISTED_SENDER]) == 1
    assert f"{OTHER.identity:08x}" in next(r.detail for r in told if r.cause is Cause.UNLISTED_SENDER)
    assert len({refusal.cause for refusal in told}) == len(told)


def test_a_sender_that_takes_anothers_id_is_a_forger() -> None:
    thief = SecretKey(Role.SENDER, DRONE.identity, OTHER.seal, OTHER.curve)
    station = Station(LinkConfig(), now=0.0, gate=SealedGate([GROUND], LISTED))
    session = SenderSession(LinkConfig(), SealedSender(thief, GROUND.public, sender=thief.identity, session=1), now=0.0)
    session.submit(1, [bytes(100)], 0.0)
    for packet, _ in session.packets_to_send(5.0):
        station.receive_packet(packet, 5.0, "stranger")
    assert station.totals.packets_forged == 1
    assert station.senders == []


def test_a_listed_sender_cannot_take_anothers_id() -> None:
    gate = SealedGate([GROUND], [*LISTED, ListedSender("other", OTHER.public)])
    captured_by(gate, 5)
    assert gate.name_of(DRONE.identity) == "drone"
    thief = SealedSender(OTHER, GROUND.public, sender=DRONE.identity, session=9)
    with pytest.raises(RefusedError, match="claims the id") as caught:
        gate.admit(thief.hello(1200)[0])
    assert caught.value.cause is Cause.FORGED


def test_every_flipped_bit_of_a_packet_is_noticed() -> None:
    wire = sealed_wire()
    wire.submit({1: [b"x" * 30]})
    wire.run(until=0.0)
    wire.now = 3.0
    sent = [packet for packet, _ in wire.session.packets_to_send(3.0)]
    gate = SealedGate([GROUND], LISTED)
    hello, *data = sent
    for packet in sent:
        for bit in range(8 * len(packet)):
            flipped = bytearray(packet)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(RefusedError):
                gate.admit(bytes(flipped))
        assert gate.admit(packet) is not None
    assert parse_hello(hello).counter == 0
    assert data


def test_unsealed_packets_are_not_taken_by_a_station_with_keys() -> None:
    station = Station(LinkConfig(), now=0.0, gate=SealedGate([GROUND], LISTED))
    session = SenderSession.unsealed(LinkConfig(), sender=DRONE.identity, epoch=1, now=0.0)
    session.submit(1, [bytes(100)], 0.0)
    for packet, _ in session.packets_to_send(5.0):
        station.receive_packet(packet, 5.0, "path")
    assert station.totals.packets_not_sealed > 0
    assert station.next_event() is None
    assert station.next_timer() is None


def test_sealed_packets_at_a_station_without_keys_are_told_of() -> None:
    station = Station(LinkConfig(), now=0.0)
    session = SenderSession(LinkConfig(), SealedSender(DRONE, GROUND.public, sender=DRONE.identity, session=1), now=0.0)
    session.submit(1, [bytes(100)], 0.0)
    for packet, _ in session.packets_to_send(5.0):
        station.receive_packet(packet, 5.0, "path")
    refusal = station.next_refusal()
    assert refusal is not None
    assert refusal.cause is Cause.SEALED


def test_memory_stays_flat_under_a_hundred_thousand_forged_packets() -> None:
    wire = captured()
    chance = random.Random(1)
    tag = next(packet[1] for packet in wire.sent if packet[0] & HELLO == SEALED)
    hello = next(packet for packet in wire.sent if packet[0] & HELLO == HELLO)

    def forge(number: int) -> bytes:
        kind = number % 5
        if kind == 0:  # for the tag of a session that is there
            return bytes([VERSION_BITS | SEALED, tag]) + chance.randbytes(60)
        if kind == 1:  # for any tag
            return bytes([VERSION_BITS | SEALED | number % 8, number % 256]) + chance.randbytes(60)
        if kind == 2:  # a hello of any sender
            return bytes([VERSION_BITS | HELLO]) + chance.randbytes(HELLO_BYTES - 1)
        if kind == 3:  # a hello of the listed one
            return hello[:10] + chance.randbytes(HELLO_BYTES - 10)
        return chance.randbytes(chance.randrange(80))

    def strike(number: int) -> None:
        for one in range(number):
            wire.station.receive_packet(forge(one), wire.now + one * 1e-3, ("stranger", one))
            if one % 100 == 0:
                wire.station.packets_to_send(wire.now + one * 1e-3)

    strike(2000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        strike(100_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000
    assert wire.station.senders == [DRONE.identity]
    assert wire.station.totals.packets_refused >= 100_000
    wire.now += 200.0
    wire.station.packets_to_send(wire.now)
    wire.submit({50: [b"still there"]})
    wire.run()
    assert wire.layers()[50, 0] == b"still there"


def test_a_revoked_key_is_out_at_once() -> None:
    wire = captured()
    gate = wire.station._gate
    assert isinstance(gate, SealedGate)
    assert gate.set_allowed([]) == [DRONE.identity]
    wire.station.forget(DRONE.identity)
    before = len(wire.received)
    wire.submit({60: [b"x"]})
    wire.run(until=wire.now + 60.0)
    assert len(wire.received) == before
    assert wire.station.totals.packets_unlisted > 0
    gate.set_allowed(LISTED)
    wire.run()
    assert wire.layers()[60, 0] == b"x"


def test_keys_of_both_ends_are_rotated_without_a_gap() -> None:
    new_ground = SecretKey.generate(Role.STATION, identity=GROUND.identity)
    new_drone = SecretKey.generate(Role.SENDER, identity=DRONE.identity)
    both = [*LISTED, ListedSender("drone", new_drone.public)]
    gate = SealedGate([new_ground, GROUND], both)
    old = captured_by(gate, 10)
    for secret, station, session in [(DRONE, new_ground, 11), (new_drone, GROUND, 12), (new_drone, new_ground, 13)]:
        wire = make_wire(
            envelope=SealedSender(secret, station.public, sender=DRONE.identity, session=session), gate=gate
        )
        wire.submit(some_pictures(session, 2))
        wire.run()
        assert wire.layers() == expected(some_pictures(session, 2))
    # A recording of the old key's last session cannot push the new key's session out.
    for packet in old.sent:
        with pytest.raises(RefusedError):
            gate.admit(packet)
    assert gate.name_of(DRONE.identity) == "drone"


def test_two_starts_have_no_key_in_common_even_with_one_session_number() -> None:
    first, second = (SealedSender(DRONE, GROUND.public, sender=DRONE.identity, session=3) for _ in range(2))
    one, two = (envelope.wrap(0, bytes(40), known=True) for envelope in (first, second))
    assert one[:4] == two[:4]
    assert one[4:] != two[4:]
    gate = SealedGate([GROUND], LISTED)
    gate.admit(first.hello(1200)[0])
    gate.admit(one)
    for packet in (second.hello(1200)[0], two):
        with pytest.raises(RefusedError):
            gate.admit(packet)


def test_a_sender_takes_no_answer_twice_and_none_of_another_station() -> None:
    sender = SealedSender(DRONE, GROUND.public, sender=DRONE.identity, session=3)
    gate = SealedGate([GROUND], LISTED)
    admitted = gate.admit(sender.hello(1200)[0])
    assert admitted is not None
    answer = admitted.envelope.wrap(b"report")
    assert sender.unwrap(answer).body == b"report"
    with pytest.raises(CorruptDataError):
        sender.unwrap(answer)
    with pytest.raises(CorruptDataError):
        sender.unwrap(sender.wrap(0, b"report", known=True))


def test_a_restarted_station_seals_its_reports_with_another_key() -> None:
    sender = SealedSender(DRONE, GROUND.public, sender=1, session=3)
    gate = SealedGate([GROUND], LISTED)
    answers = []
    for _ in range(2):
        admitted = gate.admit(sender.hello(1200)[0])
        assert admitted is not None
        answers.append(admitted.envelope.wrap(bytes(40)))
        gate = SealedGate([GROUND], LISTED, gate.memory())
    assert answers[0][:4] == answers[1][:4]
    assert answers[0][12:] != answers[1][12:]
    assert [sender.unwrap(answer).body for answer in answers] == [bytes(40)] * 2
    for answer in answers:
        with pytest.raises(CorruptDataError):
            sender.unwrap(answer)


def test_a_sender_that_missed_more_reports_than_can_be_counted_hears_again_after_a_hello() -> None:
    sender = SealedSender(DRONE, GROUND.public, sender=1, session=3)
    gate = SealedGate([GROUND], LISTED)
    admitted = gate.admit(sender.hello(1200)[0])
    assert admitted is not None
    station = admitted.envelope
    first = station.wrap(b"first")
    assert sender.unwrap(first).body == b"first"
    for _ in range(40_000):
        station.wrap(b"lost")
    with pytest.raises(CorruptDataError):
        sender.unwrap(station.wrap(b"too far on"))
    again = gate.admit(sender.hello(1200)[0])
    assert again is not None
    assert again.envelope is station
    assert sender.unwrap(station.wrap(b"heard")).body == b"heard"
    gate.admit(sender.hello(1200)[0])
    assert sender.unwrap(station.wrap(b"and again")).counter == 1, "nothing new is begun without need"
    with pytest.raises(CorruptDataError):
        sender.unwrap(first)


def test_a_hello_in_halves_makes_the_same_session() -> None:
    sender = SealedSender(DRONE, GROUND.public, sender=DRONE.identity, session=3)
    halves = sender.hello(48)
    assert [len(half) for half in halves] == [46, 46]
    gate = SealedGate([GROUND], LISTED)
    assert gate.admit(halves[1]) is None
    assert gate.admit(halves[0]) is not None
    admitted = gate.admit(sender.wrap(0, b"body", known=True))
    assert admitted is not None
    assert admitted.incoming is not None
    assert admitted.incoming.body == b"body"


def test_a_long_silence_does_not_lose_count() -> None:
    sender = SealedSender(DRONE, GROUND.public, sender=DRONE.identity, session=3)
    gate = SealedGate([GROUND], LISTED)
    gate.admit(sender.hello(1200)[0])
    gate.admit(sender.wrap(0, b"first", known=True))
    for _ in range(70_000):
        sender.wrap(0, b"unheard", known=True)
    lost = sender.wrap(0, b"lost", known=True)
    with pytest.raises(RefusedError):
        gate.admit(lost)
    gate.admit(sender.hello(1200)[0])
    admitted = gate.admit(sender.wrap(0, b"heard", known=True))
    assert admitted is not None
    assert admitted.incoming is not None
    assert (admitted.incoming.counter, admitted.incoming.body) == (70_002, b"heard")


def test_a_session_number_out_of_range_is_refused() -> None:
    with pytest.raises(PinholeError, match="40 bits"):
        SealedSender(DRONE, GROUND.public, sender=1, session=1 << 40)


def test_an_ephemeral_key_that_agrees_on_nothing_is_refused() -> None:
    static = StaticSecret.of_sender(DRONE, GROUND.public)
    (hello,) = encode_hello(SessionName(DRONE.identity, 9), 1, 0, bytes(32), static.hello_key, 1200)
    with pytest.raises(RefusedError) as caught:
        SealedGate([GROUND], LISTED).admit(hello)
    assert caught.value.cause is Cause.FORGED


def test_overhead_is_as_documented() -> None:
    assert OVERHEAD == 4 + TAG_BYTES == 20
    assert REPORT_OVERHEAD == 28
    assert HELLO_BYTES == 66


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=200), st.integers(0, 50))
def test_the_replay_window_takes_each_number_once(counters: list[int], floor: int) -> None:
    window = ReplayWindow(floor)
    taken: set[int] = set()
    for counter in counters:
        highest = max(taken, default=floor - 1)
        expected_new = counter >= floor and counter not in taken and counter > highest - WINDOW
        assert window.is_new(counter) == expected_new
        if expected_new:
            window.take(counter)
            taken.add(counter)
    assert window.next == max(taken, default=floor - 1) + 1
