"""What a hostile or confused sender cannot do to a station, nor a hostile station to a sender."""

import random
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest

from fuzz.invariants import check_station
from fuzz.station import tight_limits
from shared.errors import CorruptDataError
from shared.link import (
    LayerAcknowledged,
    LayerReceived,
    LayerSent,
    LinkConfig,
    SenderSession,
    Station,
    delivered,
    reed_solomon,
)
from shared.link import station as limits
from shared.link import station_session as session_limits
from shared.link.control import Report, encode_report, parse_report
from shared.link.frames import Frame
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.packet import DataPacket, encode_data, encode_reset
from shared.link.plain import PlainIdentity, PlainSender, PlainSession
from shared.link.reassembly import COST_OF_A_PART, IncomingLayer
from shared.link.sealed import SealedSender
from shared.link.sealed_gate import SealedGate
from tests.link.virtual_wire import expected, make_wire, nothing, some_pictures, sound


def frame(sequence: int, data: bytes, *, offset: int = 0, final: bool = False) -> bytes:
    """One frame of layer 0 of 1, with a length; numbers below 128."""
    head = bytes([0x80 | 0x40 | 0x10 | (0x20 if offset else 0) | (0x08 if final else 0), sequence, 0])
    return head + (bytes([offset]) if offset else b"") + bytes([len(data)]) + data


class Sending:
    """Sends whatever symbol is wanted, with an envelope that holds."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.envelope = PlainSender(1, 1)
        self.received: list[LayerReceived] = []

    def __call__(
        self, block: int, symbol: bytes, place: tuple[int, int, int] = (0, 1, 0), *, mute: bool = False
    ) -> None:
        packet = DataPacket(block % 65536, *place, symbol, mute=mute)
        self.station.receive_packet(self.envelope.wrap(packet.flags, encode_data(packet), known=False), 0.0, "path")
        while (event := self.station.next_event()) is not None:
            self.received.append(event)
        check_station(self.station)

    @property
    def session(self) -> session_limits.StationSession:
        return self.station._sessions[1]


@pytest.mark.parametrize("simplex", [False, True])
def test_what_a_station_has_to_say_is_bounded(simplex: bool) -> None:
    with tight_limits():
        send = Sending(Station(LinkConfig(simplex=simplex), now=0.0))
        for block in range(200):
            send(block, b"\0" if block % 2 else frame(block % 128, b"x", final=True))
            for event in send.received:
                send.station.acknowledge(1, event.sequence, event.layer, 0.0)
        if simplex:
            assert not send.session._complete
            assert not send.session._delivered.something_to_say
        most = session_limits._BLOCKS_REMEMBERED + delivered._LAYERS_REMEMBERED
        assert len(send.session._complete) + len(send.session._delivered._acknowledgements) <= most
        assert len(send.session._requests) <= session_limits._BLOCKS_REMEMBERED + session_limits._GAPS_WATCHED


def test_empty_parts_of_layers_are_not_for_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_BUFFERED_BYTES_OF_ONE", 100_000)
    send = Sending(Station(LinkConfig(), now=0.0))
    for block in range(60):
        send(block, b"".join(frame(block, b"", offset=offset) for offset in range(1, 120, 2)))
    parts = sum(len(layer._parts) for layer in send.session._layers.values())
    assert 0 < parts * COST_OF_A_PART <= 100_000


def test_layers_that_blocks_name_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_limits, "_NAMES_REMEMBERED", 1000)
    send = Sending(Station(LinkConfig(), now=0.0))
    for block in range(100):
        send(block, b"".join(frame(sequence, b"", final=True) for sequence in range(120)))
    assert sum(map(len, send.session._completed.values())) <= 1000


@pytest.mark.parametrize("coded", [False, True])
def test_a_contradiction_makes_blocks_come_again(coded: bool) -> None:
    send = Sending(Station(LinkConfig(), now=0.0))
    lie = frame(5, b"a lie", offset=20, final=True)
    first, second = frame(5, b"0123456789") + b"\0", frame(5, b"abcdefghij", offset=10, final=True)
    if coded:
        send(7, lie, (1, 2, 1))
        send(7, first, (0, 2, 1))
        send(8, second, (0, 2, 1))
        assert send.received == []
        for index, symbol in enumerate((first, second)):
            send(7, symbol, (index, 2, 1))
    else:
        for block, symbol in enumerate((lie, second, first, second)):
            send(block, symbol)
    assert [event.payload for event in send.received] == [b"0123456789abcdefghij"]


def test_block_numbers_of_a_simplex_sender_come_round() -> None:
    send = Sending(Station(LinkConfig(simplex=True), now=0.0))
    send(0, frame(1, b"never whole"), (0, 2, 1), mute=True)
    for block in (20_000, 40_000, 60_000):
        send(block, frame(2, b"", offset=1), mute=True)
    send(65_536, frame(3, b"second", final=True), (1, 2, 1), mute=True)
    send(65_536, frame(4, b"first!", final=True), (0, 2, 1), mute=True)
    assert [event.payload for event in send.received] == [b"second", b"first!"]
    assert send.session.statistics.symbols_conflicting == 0


def test_a_station_answers_nobody_before_it_knows_where_the_sender_is() -> None:
    ground, drone = SecretKey.generate(Role.STATION), SecretKey.generate(Role.SENDER)
    station = Station(LinkConfig(), now=0.0, gate=SealedGate([ground], [ListedSender("drone", drone.public)]))
    sender = SealedSender(drone, ground.public, sender=9, session=1)
    station.receive_packet(sender.hello(1200)[0], 0.0, "path")
    station.acknowledge(9, 3, 0, 0.0)  # stored in an earlier session
    assert station.packets_to_send(10.0) == []
    assert station.next_timer() is None
    station.receive_packet(sender.wrap(0, encode_data(DataPacket(0, 0, 1, 0, b"\0")), known=True), 10.0, "path")
    ((path, report),) = station.packets_to_send(20.0)
    assert path == "path"
    session = SenderSession(LinkConfig(), sender, now=0.0)
    session.submit(3, [b"stored before"], 0.0)
    session.receive_packet(report, 20.0)
    assert session.next_event() == LayerAcknowledged(3, 0)


def test_parts_put_together_in_any_order() -> None:
    chance = random.Random(4)
    for _ in range(200):
        payload = chance.randbytes(chance.randrange(1, 60))
        cuts = sorted(chance.sample(range(len(payload) + 1), min(4, len(payload))))
        ends = [*zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        parts = [Frame(1, 0, 1, start, end == len(payload), payload[start:end]) for start, end in ends]
        chance.shuffle(parts)
        layer = IncomingLayer(1)
        whole = [layer.add(part) for part in parts]
        assert payload in whole
    layer = IncomingLayer(1)
    for offset in range(5000):
        assert layer.add(Frame(1, 0, 1, offset, False, b"x")) is None
    assert layer.bytes == 5000 + COST_OF_A_PART
    assert layer.add(Frame(1, 0, 1, 5000, True, b"")) == b"x" * 5000
    with pytest.raises(CorruptDataError):
        layer.add(Frame(1, 0, 1, 5000, True, b"x"))


def test_a_picture_can_be_withdrawn_when_its_block_is_closed_and_has_not_begun() -> None:
    wire = make_wire(LinkConfig(interleave=1))
    pictures = some_pictures(1, 2, sizes=(30,))
    wire.submit(pictures)
    wire.session.withdraw([0], wire.now)
    wire.run()
    assert wire.layers() == expected({1: pictures[1]})
    assert wire.events == [LayerAcknowledged(1, 0)]


def test_a_simplex_sender_takes_no_word_of_anybody() -> None:
    session = SenderSession.unsealed(LinkConfig(simplex=True), sender=1, epoch=1, now=0.0)
    session.submit(1, [b"data"], 0.0)
    station = PlainSession(PlainIdentity(1, 1))
    session.receive_packet(station.wrap(encode_report(Report(acknowledged=((1, 1),)))), 0.0)
    session.receive_packet(encode_reset(PlainIdentity(1, 1).tag), 0.0)
    assert session.next_event() is None
    assert session.statistics.packets_rejected == 2
    assert session.packets_to_send(5.0)
    assert session.next_event() == LayerSent(1, 0)


def test_packets_filled_when_the_station_was_known_never_grow() -> None:
    config = LinkConfig(packet_bytes=60, parity=0.0, base_parity=0.0)
    wire = make_wire(config)
    wire.submit({1: [b"first"]})
    wire.run()
    pictures = some_pictures(2, 3, sizes=(200,))
    wire.submit({2 + sequence: layers for sequence, layers in pictures.items()})
    wire.up = nothing
    wire.run(until=wire.now + 1.0)
    assert max(map(len, wire.sent)) == config.packet_bytes
    # Now it has time-outs, and a station that forgot the session: packets name it wherever there is room.
    wire.run(until=wire.now + 60.0)
    wire.station = Station(config, now=wire.now)
    wire.up = sound
    wire.run()
    assert len(wire.layers()) == 4
    assert max(map(len, wire.sent)) == config.packet_bytes


class Unread(OrderedDict[Any, Any]):
    """Blocks that nobody may look through."""

    def items(self) -> Any:
        raise AssertionError("every block is looked at")


def test_to_give_up_a_layer_only_its_own_blocks_are_looked_at() -> None:
    send = Sending(Station(LinkConfig(), now=0.0))
    send(0, frame(9, b"", final=True))
    send.session._completed = Unread(send.session._completed.items())
    send(1, frame(1, b"begins") + frame(2, b"begins"))
    send(2, frame(2, b"goes on", offset=6))
    send(3, frame(2, b"!", offset=3, final=True))  # says that what came is too long
    assert [*send.session._completed] == [65536]
    send(1, frame(1, b"begins") + frame(2, b"beg"))
    send(3, frame(2, b"in", offset=3, final=True))
    assert [event.payload for event in send.received] == [b"", b"begin"]


class Counted(dict[int, bytearray]):
    """Parts of a layer that know how often somebody went through all of them."""

    passes = 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        return super().__iter__()


def test_a_layer_of_many_parts_is_put_together_once() -> None:
    data = random.Random(1).randbytes(4000)
    layer = IncomingLayer(1)
    layer._parts = parts = Counted()
    layer.add(Frame(1, 0, 1, 3990, True, data[3990:]))
    for offset in [*range(3, 3990, 2), *range(2, 3990, 2)]:
        # With all that overlaps there are more bytes than the layer has, but the first ones are wanting.
        assert layer.add(Frame(1, 0, 1, offset, False, data[offset : offset + 3])) is None
    assert layer.add(Frame(1, 0, 1, 0, False, data[:2])) == data
    assert parts.passes == 1


def test_a_block_that_contradicts_itself_is_not_tried_with_every_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0

    def count(*args: Any) -> Any:
        nonlocal tried
        tried += 1
        return restore(*args)

    restore = reed_solomon.restore_and_count
    monkeypatch.setattr(reed_solomon, "restore_and_count", count)
    send = Sending(Station(LinkConfig(), now=0.0))
    chance = random.Random(1)
    for index in range(2, 255):
        send(1, chance.randbytes(20), (index, 2, 253))
    assert send.session.unfinished_blocks == 1
    assert 2 <= tried <= 8


def test_what_is_acknowledged_again_is_said_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivered, "_LAYERS_SAID", 10)
    send = Sending(Station(LinkConfig(), now=0.0))
    send(1, b"".join(frame(sequence, b"", final=True) for sequence in range(35)))
    for event in send.received:
        send.station.acknowledge(1, event.sequence, event.layer, 0.0)
    told = []
    for second in range(1, 6):
        reports = [parse_report(packet[4:-4]) for _, packet in send.station.packets_to_send(float(second))]
        told.append(sum(len(report.acknowledged) for report in reports))
    assert told == [10, 10, 10, 5, 0]
    assert send.station.next_timer() is None


def test_numbers_of_blocks_mean_nothing_after_an_outage_in_which_they_may_have_come_round() -> None:
    send = Sending(Station(LinkConfig(), now=0.0))
    send(5, frame(1, b"first", final=True))
    send(6, frame(2, b"never whole"), (0, 2, 1))
    send.station.acknowledge(1, 1, 0, 0.0)
    send.envelope.sent += 20_000
    send(5 + 65_536, frame(3, b"second", final=True))
    assert [event.payload for event in send.received] == [b"first", b"second"]
    (report,) = [parse_report(packet[4:-4]) for _, packet in send.station.packets_to_send(1.0)]
    assert report.acknowledged == ((1, 1),), "only what was stored"
    assert report.stored is None
    assert send.session.unfinished_blocks == 0


def test_blocks_that_never_become_whole_do_not_keep_others_from_being_asked_for() -> None:
    send = Sending(Station(LinkConfig(), now=0.0))
    # Their pictures were withdrawn, so nothing more comes of them.
    for block in range(80):
        send(block, frame(1, b"x", offset=block + 1), (0, 2, 4))
    send.station.packets_to_send(10.0)
    send(100, frame(2, b"half"), (0, 2, 4))
    send(101, frame(3, b"whole", final=True))
    reports = [parse_report(packet[4:-4]) for _, packet in send.station.packets_to_send(20.0)]
    assert 100 in [request.block for report in reports for request in report.requests]
