"""Numbers of pictures that the station's owner has given to others: a sender restored from a backup, or copied."""

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.station import tight_limits
from shared.errors import CorruptDataError
from shared.link import LayerAcknowledged, LinkConfig, NumberTaken, SenderSession, Station
from shared.link.control import Echo, Report, StoredBlocks, TakenNumbers, encode_report, pack_report, parse_report
from shared.link.plain import PlainSender
from tests.link.test_link_sessions import chances, configs, picture_sets
from tests.link.test_station_bounds import Sending, frame
from tests.link.virtual_wire import Chance, Wire, expected, make_wire, some_pictures, sound

sequences = st.integers(0, 2**32 - 1)
UNCODED = LinkConfig(parity=0.0, base_parity=0.0)


def taken(wire: Wire) -> list[int]:
    return [event.sequence for event in wire.events if isinstance(event, NumberTaken)]


def reports(packets: list[bytes]) -> list[Report]:
    return [parse_report(packet[4:-4]) for packet in packets]


@given(st.sets(sequences, min_size=1, max_size=300), sequences, st.integers(20, 1200), st.booleans())
@settings(max_examples=60, deadline=None)
@example({2**32 - 1}, 2**32 - 1, 20, True)
def test_reports_say_all_of_them_in_packets_of_any_size(
    numbers: set[int], highest: int, room: int, company: bool
) -> None:
    said = TakenNumbers(max(highest, *numbers, 0), tuple(sorted(numbers)))
    report = Report(taken=said)
    assert parse_report(encode_report(report)) == report
    if company:
        report = Report(
            tuple((number, 1) for number in said.sequences), (), (3,), Echo(1, 2), StoredBlocks(0, 5, b""), taken=said
        )
    messages = pack_report(report, room)
    assert all(len(message) <= room for message in messages)
    parts = [part.taken for part in map(parse_report, messages) if part.taken is not None]
    assert [number for part in parts for number in part.sequences] == [*said.sequences]
    assert {part.highest for part in parts} == {said.highest}


@pytest.mark.parametrize(
    "part",
    [[5], [4, 5], [5, 5, 0], [9, 5, 1, 0], [2**32, 5], [5, -1], [5, True], [5, b"\5"], [7, 5, 1, 2], [2**32 - 1] * 3],
)
def test_numbers_that_cannot_be_are_refused(part: list[object]) -> None:
    with pytest.raises(CorruptDataError):
        parse_report(msgpack.packb([[], [], [], [], [], [], part]))


@given(configs, picture_sets, chances, chances, st.sampled_from([0.0, 0.1, 30.0]), st.data())
@settings(max_examples=60, deadline=None)
def test_each_is_told_once_and_no_layer_of_it_is_acknowledged(
    config: LinkConfig,
    pictures: dict[int, list[bytes]],
    up: Chance,
    down: Chance,
    store_after: float,
    data: st.DataObject,
) -> None:
    wire = make_wire(config, up=up, down=down)
    wire.store_after = store_after
    wire.taken = data.draw(st.sets(st.sampled_from(sorted(pictures))))
    # Empty layers leave no backlog, so the run could end before anything is said of them.
    pictures = {sequence: [b"x" + layer for layer in layers] for sequence, layers in pictures.items()}
    wire.submit(pictures)
    wire.run()
    assert sorted(taken(wire)) == sorted(wire.taken)
    assert len(wire.events) == len({*wire.acknowledged()}) + len(wire.taken)
    assert {*wire.acknowledged()} == {key for key in expected(pictures) if key[0] not in wire.taken}
    assert {event.highest for event in wire.events if isinstance(event, NumberTaken)} <= {max(wire.taken, default=0)}
    assert wire.session.statistics.numbers_taken == len(wire.taken)


@pytest.mark.parametrize("parity", [0.0, 0.5])
def test_what_is_given_back_arrives_under_another_number(parity: float) -> None:
    wire = make_wire(LinkConfig(rate=9600.0, parity=parity, base_parity=parity))
    pictures = some_pictures(3, 6)
    wire.taken = {1, 4}
    wire.submit(pictures)
    wire.run()
    wire.taken = {1, 4, 99}  # the highest that the owner has
    wire.submit({sequence + 100: pictures[sequence] for sequence in taken(wire)})
    wire.run()
    assert {*wire.acknowledged()} == {
        (sequence + 100 * (sequence in (1, 4)), layer) for sequence, layer in expected(pictures)
    }


def test_a_lost_report_is_said_again_when_the_sender_asks() -> None:
    def late(packet: bytes, now: float) -> list[tuple[float, bytes]]:
        return sound(packet, now) if now > 8.0 else []

    wire = make_wire(UNCODED, down=late)
    wire.taken = {7}
    wire.submit({7: [b"base"], 8: [b"other"]})
    wire.run()
    assert taken(wire) == [7]
    assert wire.acknowledged() == [(8, 0)]
    assert sum(report.taken is not None for report in reports(wire.answered)) > 1


def test_late_and_repeated_reports_change_nothing() -> None:
    wire = make_wire(UNCODED)
    wire.taken = {7}
    wire.submit({7: [b"base"]})
    wire.run()
    (first,) = [packet for packet in wire.answered if parse_report(packet[4:-4]).taken is not None]
    wire.submit({70: [b"base"]})
    wire.run()
    events = [*wire.events]
    for _ in range(3):
        wire.session.receive_packet(first, wire.now)
    assert wire.session.next_event() is None
    assert wire.events == events == [NumberTaken(7, 7), LayerAcknowledged(70, 0)]


def test_without_a_conflict_reports_are_as_they_were() -> None:
    wire = make_wire(up=Chance(5, loss=0.3), down=Chance(6, loss=0.3))
    wire.submit(some_pictures(2, 8))
    wire.run()
    assert wire.answered
    assert all(packet[4] <= 0x96 for packet in wire.answered), "a report has more than six parts"


def test_a_station_that_starts_again_finds_out_again() -> None:
    wire = make_wire(UNCODED, down=lambda packet, now: [])
    wire.taken = {7}
    wire.submit({7: [b"base", b"more"], 8: [b"other"]})
    wire.run(until=3.0)
    wire.down = sound
    wire.station = Station(UNCODED, now=wire.now)
    wire.run()
    assert taken(wire) == [7]
    assert wire.acknowledged() == [(8, 0)]


def test_no_layer_of_the_picture_is_handed_over_any_more() -> None:
    send = Sending(Station(LinkConfig(), now=0.0))
    send(1, frame(5, b"the base", final=True))
    send(2, frame(6, b"half", final=False), (0, 2, 1))
    send.station.refuse(1, 6, 0, 90, 0.0)
    send.station.refuse(1, 5, 0, 90, 0.0)
    assert not send.session._layers
    send(3, frame(5, b"again", final=True) + frame(6, b"whole", final=True) + frame(7, b"new", final=True))
    assert [event.sequence for event in send.received] == [5, 7]
    # Blocks with parts of it are never called stored.
    send.station.acknowledge(1, 7, 0, 0.0)
    said = reports([packet for _, packet in send.station.packets_to_send(1.0)])
    assert [report.taken for report in said] == [TakenNumbers(90, (5, 6))]
    assert [report.stored for report in said] == [None]
    assert [report.complete for report in said] == [(1, 3)]
    # What has gone before is said again when its symbols come again, and that only.
    send(1, frame(5, b"the base", final=True))
    said = reports([packet for _, packet in send.station.packets_to_send(2.0)])
    assert [report.taken for report in said] == [TakenNumbers(90, (5,))]


@pytest.mark.parametrize("first", ["stored", "taken"])
def test_of_two_stations_one_may_have_the_conflict(first: str) -> None:
    """The session takes what comes first; whatever is not acknowledged then goes back to its owner."""
    session = SenderSession(UNCODED, PlainSender(1, 1), now=0.0)
    session.submit(7, [b"base", b"more"], 0.0)
    stations = {"stored": Station(UNCODED, now=0.0), "taken": Station(UNCODED, now=0.0)}
    for packet, _ in session.packets_to_send(0.0):
        for name, station in stations.items():
            station.receive_packet(packet, 0.0)
            while (received := station.next_event()) is not None:
                if name == "taken":
                    station.refuse(1, 7, received.layer, 7, 0.0)
                elif received.layer == 0:
                    station.acknowledge(1, 7, 0, 0.0)
    for name in sorted(stations, key=lambda name: name != first):
        for _, packet in stations[name].packets_to_send(1.0):
            session.receive_packet(packet, 1.0)
    events = [*iter(session.next_event, None)]
    assert events == [LayerAcknowledged(7, 0)] * (first == "stored") + [NumberTaken(7, 7)]
    assert session.backlog_bytes == 0


def test_what_waited_since_an_earlier_session_does_not_speak_for_other_bytes_of_the_present_one() -> None:
    station = Station(LinkConfig(), now=0.0)
    before = Sending(station)
    before(1, frame(5, b"first", final=True) + frame(6, b"first", final=True) + frame(7, b"same", final=True))
    now = Sending(station)
    now.envelope = PlainSender(1, 2)
    now(1, frame(5, b"other", final=True) + frame(7, b"same", final=True))
    for event in before.received:
        station.acknowledge(1, event.sequence, event.layer, 0.0, hash(event.payload))
    station.refuse(1, 5, 0, 7, 0.0)
    said = reports([packet for _, packet in station.packets_to_send(1.0)])
    assert [(report.acknowledged, report.taken) for report in said] == [(((7, 1),), TakenNumbers(7, (5,)))]
    # Nor for bytes that come only now.
    now(2, frame(6, b"other", final=True))
    assert [event.payload for event in now.received] == [b"other", b"same", b"other"]


def test_a_simplex_station_says_nothing_and_a_simplex_sender_hears_nothing() -> None:
    send = Sending(Station(LinkConfig(simplex=True), now=0.0))
    send(1, frame(5, b"base", final=True))
    send.station.refuse(1, 5, 0, 9, 0.0)
    assert send.station.packets_to_send(100.0) == []
    assert not send.session._delivered.something_to_say


def test_what_is_remembered_of_them_is_bounded() -> None:
    with tight_limits():
        send = Sending(Station(LinkConfig(), now=0.0))
        for sequence in range(100):
            send(sequence, frame(sequence, b"x", final=True))
            send.station.refuse(1, sequence, 0, 1000 - sequence, 0.0)
        for sequence in range(100, 1000):
            send.station.refuse(1, sequence, 0, 2000, 0.0)
    said = reports([packet for _, packet in send.station.packets_to_send(1.0)])
    numbers = [number for report in said if report.taken for number in report.taken.sequences]
    assert numbers == [*range(994, 1000)]


def test_a_station_that_knows_nothing_of_a_sender_is_told_nothing() -> None:
    station = Station(LinkConfig(), now=0.0)
    station.refuse(5, 1, 0, 1, 0.0)
    assert station.senders == []


def test_a_picture_that_is_given_back_leaves_shared_blocks_to_the_others() -> None:
    """Four base layers share a coded block; the others of it are still repaired and acknowledged."""
    wire = make_wire(LinkConfig(rate=9600.0, parity=0.5, base_parity=0.5, interleave=4), up=Chance(3, loss=0.4))
    pictures = some_pictures(4, 4, sizes=(300,))
    wire.taken = {2}
    wire.submit(pictures)
    wire.run()
    assert taken(wire) == [2]
    assert sorted(wire.acknowledged()) == [(0, 0), (1, 0), (3, 0)]
