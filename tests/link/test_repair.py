"""Repair on request: little is sent for nothing, whatever the round trip, and what is too old is not sent at all."""

import pytest

from shared.link import LinkConfig, Station
from shared.link.control import MOST_OTHERS
from shared.link.packet import VERSION, encode_versions
from shared.link.patience import Patience
from shared.link.stored_run import StoredRun
from tests.link.test_link_sessions import read
from tests.link.virtual_wire import Chance, Fate, expected, make_wire, nothing, some_pictures, sound


def delayed(seconds: float, fate: Fate = sound) -> Fate:
    def act(packet: bytes, now: float) -> list[tuple[float, bytes]]:
        return [(delay + seconds, data) for delay, data in fate(packet, now)]

    return act


@pytest.mark.parametrize("round_trip", [0.6, 3.0, 20.0])
@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_hardly_anything_is_sent_for_nothing_at_any_round_trip(round_trip: float, loss: float) -> None:
    config = LinkConfig(rate=9600.0, packet_bytes=256, adapt=True, latency=120.0, parity=0.0, base_parity=0.0)
    up, down = (delayed(round_trip / 2, Chance(seed, loss=loss)) for seed in (1, 2))
    wire = make_wire(config, up=up, down=down)
    pictures = some_pictures(1, 60)
    wire.submit(pictures)
    wire.run()
    assert wire.layers() == expected(pictures)
    statistics, totals = wire.session.statistics, wire.station.totals
    assert totals.bytes_spurious < (0.03 if loss else 0.001) * statistics.bytes_sent
    assert statistics.question_bytes_sent < 0.05 * statistics.bytes_sent
    if not loss:
        assert statistics.repair_symbols_sent + statistics.symbols_resent == 0


def test_lost_reports_are_made_good_by_later_ones_mostly_without_a_question() -> None:
    answers = 0

    def lose_every_other(packet: bytes, now: float) -> list[tuple[float, bytes]]:
        nonlocal answers
        answers += 1
        return sound(packet, now) if answers % 2 else []

    config = LinkConfig(rate=9600.0, parity=0.0, base_parity=0.0, packet_bytes=300)
    wire = make_wire(config, down=lose_every_other)
    pictures = some_pictures(2, 40)
    wire.submit(pictures)
    wire.run()
    assert wire.layers() == expected(pictures)
    # Half of the acknowledgements are lost, and hardly any of them is asked for.
    statistics = wire.session.statistics
    assert statistics.timeouts < 0.06 * statistics.source_symbols_sent
    assert wire.station.totals.bytes_spurious == 0


def test_a_question_carries_no_symbol_where_one_would_cost() -> None:
    answers = 0

    def lose_the_first(packet: bytes, now: float) -> list[tuple[float, bytes]]:
        nonlocal answers
        answers += 1
        return [] if answers == 1 else sound(packet, now)

    wire = make_wire(LinkConfig(parity=0.0, base_parity=0.0), down=lose_the_first)
    wire.submit({1: [bytes(900)]})
    wire.run()
    questions = [read(packet) for packet in wire.sent[1:]]
    assert questions
    assert all(packet.symbol == b"" and packet.poll for packet in questions)
    assert wire.station.totals.bytes_spurious == 0


def test_a_question_about_a_block_that_was_lost_whole_brings_it() -> None:
    sent = 0

    def lose_the_first(packet: bytes, now: float) -> list[tuple[float, bytes]]:
        nonlocal sent
        sent += 1
        return [] if sent <= 3 else sound(packet, now)

    wire = make_wire(LinkConfig(parity=0.5, base_parity=0.5), up=lose_the_first)
    wire.submit({1: [bytes(1500)]})
    wire.run()
    assert wire.layers() == {(1, 0): bytes(1500)}


def test_what_is_withdrawn_is_not_sent_any_more() -> None:
    wire = make_wire(LinkConfig(rate=2400.0, packet_bytes=300, burst_bytes=300))
    pictures = some_pictures(3, 8)
    wire.submit(pictures)
    wire.run(until=8.0)
    assert wire.session.statistics.packets_sent
    arrived = {sequence for sequence, _ in wire.layers()}
    wire.session.withdraw(range(1, 8), wire.now)
    before = wire.session.statistics.bytes_sent
    wire.run()
    later = {event.sequence for event in wire.events}
    assert wire.session.backlog_bytes == 0
    assert {(0, layer) for layer in range(4)} <= wire.layers().keys()
    assert later <= arrived | {0}
    assert wire.session.statistics.layers_withdrawn > 20
    assert wire.session.statistics.bytes_sent - before < 3 * 2048, "only what was left of the picture that is kept"


def test_withdrawing_everything_while_the_station_is_away_leaves_nothing_to_do() -> None:
    wire = make_wire(LinkConfig(rate=9600.0, adapt=True), up=nothing)
    wire.submit(some_pictures(4, 5))
    wire.run(until=30.0)
    wire.session.withdraw(range(5), wire.now)
    assert wire.session.backlog_bytes == 0
    assert wire.session.next_timer() is None
    assert wire.session.packets_to_send(wire.now) == []


def test_an_answer_of_another_version_is_told_and_changes_nothing() -> None:
    wire = make_wire()
    wire.submit({1: [bytes(100)]})
    wire.run(until=3.0)
    other = Station(wire.session.config, now=3.0)
    foreign = bytes([0x40 | wire.sent[0][0] & 0x3F]) + wire.sent[0][1:]
    other.receive_packet(foreign, 3.0, "path")
    assert other.totals.packets_other_version == 1
    ((_, answer),) = other.packets_to_send(3.0)
    told = []
    # The first answers a packet that this sender never sent.
    for data in (answer, encode_versions(wire.sent[0])):
        wire.session.receive_packet(data, 3.0)
        told.append(wire.session.versions_spoken)
    assert told == [(), (VERSION,)]
    wire.run()
    assert wire.layers() == {(1, 0): bytes(100)}


def test_answers_of_versions_are_not_answered() -> None:
    stations = [Station(LinkConfig(), now=0.0) for _ in range(2)]
    packets = [bytes([0x40, 1, 1, 2, 3])]
    for number in range(4):
        for packet in packets:
            stations[number % 2].receive_packet(packet, 10.0 * number, "other")
        packets = [packet for _, packet in stations[number % 2].packets_to_send(10.0 * number)]
        assert len(packets) == (number == 0)
    stations[0].receive_packet(bytes([0x01, 1, 1, 2, 3]), 100.0, "stranger")
    assert stations[0].packets_to_send(100.0) == []


def test_a_clean_link_stays_known_to_be_clean() -> None:
    wire = make_wire(LinkConfig(adapt=True, rate=64000.0, packet_bytes=300))
    chance = some_pictures(9, 2000, sizes=(700, 2000))
    for sequence, layers in chance.items():
        wire.session.submit(sequence, layers, wire.now)
        wire.run(until=wire.now + 1.0)
        assert sequence < 100 or wire.session._parity.repairs(0, 8, wire.now) == 0


def test_answers_of_versions_are_no_way_to_flood_anybody() -> None:
    station = Station(LinkConfig(), now=0.0)
    for number in range(1000):
        station.receive_packet(bytes([0x40, number % 256, 1, 2, 3]), number / 1000, "path")
    assert len(station.packets_to_send(1.0)) == 1


def test_waits_double_from_the_first_question_until_the_round_trip_is_known() -> None:
    config = LinkConfig(retransmit_after=5.0, parity=0.0, base_parity=0.0)
    wire = make_wire(config, up=delayed(10.0), down=delayed(10.0))
    wire.submit({1: [bytes(900)]})
    wire.run()
    assert wire.session.statistics.timeouts <= 2
    assert Patience(5.0, 0.0).round_trip.smoothed is None


def test_a_stored_run_leaves_a_gap_behind_that_lies_too_far_back() -> None:
    stored: set[int] = set()
    run = StoredRun(stored.__contains__)
    assert run.say(100) is None
    run.heard_of(100)
    assert run.say(100) is None
    stored |= {100, 101, 103}
    said = run.say(103)
    assert said is not None
    assert [*said.numbers()] == [100, 101, 103]
    stored |= set(range(104, 104 + 2 * MOST_OTHERS))
    said = run.say(103 + 2 * MOST_OTHERS)
    assert said is not None
    numbers = [*said.numbers()]
    assert 102 not in numbers
    assert numbers[-1] == 103 + 2 * MOST_OTHERS
    assert set(numbers) <= stored


def test_a_stored_run_wraps_with_the_numbers_on_the_wire() -> None:
    stored = set(range(65530, 65545))
    run = StoredRun(stored.__contains__)
    run.heard_of(65530)
    said = run.say(65544)
    assert said is not None
    assert [*said.numbers()] == [number % 65536 for number in range(65530, 65545)]


def test_a_long_silence_keeps_nothing_of_what_was_withdrawn() -> None:
    wire = make_wire(LinkConfig(base_parity=0.0, parity=0.0, packet_bytes=200, rate=9600.0), up=nothing)
    for hour in range(40):
        wire.submit({100 * hour + sequence: [bytes(300)] for sequence in range(10)})
        wire.run(wire.now + 3600.0)
        wire.session.withdraw(range(100 * hour, 100 * hour + 9), wire.now)
    outstanding = len([*wire.session._outstanding.blocks])
    assert 0 < len(wire.session._patience._postponed) <= 2 * outstanding
    wire.up = sound
    wire.run(wire.now + 600.0)
    assert len(wire.received) == 40
    assert wire.session.backlog_bytes == 0
