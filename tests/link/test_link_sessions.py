import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import PinholeError
from shared.link import LayerAcknowledged, LayerSent, LinkConfig, SenderSession, Station, station
from shared.link.packet import DataPacket, encode_data, parse_data
from shared.link.plain import PlainSender, read_unproved
from shared.link.round_trip import LONGEST_WAIT
from tests.link.virtual_wire import Chance, expected, make_wire, nothing, some_pictures, sound

chances = st.builds(
    Chance,
    seed=st.integers(0, 2**32),
    loss=st.floats(0.0, 0.6),
    duplication=st.floats(0.0, 0.5),
    corruption=st.floats(0.0, 0.3),
    jitter=st.floats(0.0, 20.0),
)
configs = st.builds(
    LinkConfig,
    packet_bytes=st.integers(48, 1200),
    parity=st.sampled_from([0.0, 0.1, 0.25, 1.0]),
    base_parity=st.sampled_from([0.0, 0.5, 2.0]),
    interleave=st.integers(1, 5),
    flush_after=st.sampled_from([0.0, 2.0]),
    rate=st.sampled_from([None, 2400.0, 64000.0]),
    retransmit_after=st.sampled_from([0.5, 5.0]),
)
picture_sets = st.dictionaries(
    st.integers(0, 2**32 - 1), st.lists(st.binary(max_size=400), min_size=1, max_size=5), min_size=1, max_size=8
)


@given(configs, picture_sets, chances, chances, st.sampled_from([0.0, 0.1, 30.0]))
@settings(max_examples=120, deadline=None)
def test_every_layer_arrives_as_submitted_and_is_acknowledged(
    config: LinkConfig, pictures: dict[int, list[bytes]], up: Chance, down: Chance, store_after: float
) -> None:
    wire = make_wire(config, up=up, down=down)
    wire.store_after = store_after
    wire.submit(pictures)
    wire.run()
    wanted = expected(pictures)
    # Empty layers leave no backlog, so the run may end before their acknowledgements.
    acknowledged = {*wire.acknowledged()}
    assert {key for key, data in wanted.items() if data} <= acknowledged <= wanted.keys()
    assert all(isinstance(event, LayerAcknowledged) for event in wire.events)
    assert len(wire.events) == len(acknowledged)
    assert len(wire.received) == len(wire.layers())
    assert {key: wanted[key] for key in wire.layers()} == wire.layers()
    assert acknowledged <= wire.layers().keys()
    assert all(len(packet) <= config.packet_bytes for packet in wire.sent)


@pytest.mark.parametrize("number", [1, 4])
def test_overhead_of_a_picture_without_parity(number: int) -> None:
    wire = make_wire(LinkConfig(rate=9600.0, parity=0.0, base_parity=0.0))
    wire.submit({1999: [bytes(10)]})
    wire.run()
    before = wire.session.statistics.bytes_sent
    pictures = some_pictures(1, number)
    wire.submit({2000 + sequence: layers for sequence, layers in pictures.items()})
    wire.run()
    assert wire.session.statistics.bytes_sent - before - 2048 * number <= 41 * number


def test_without_loss_nothing_is_repaired_and_nothing_comes_twice() -> None:
    wire = make_wire()
    wire.submit(some_pictures(1, 12))
    wire.run()
    assert wire.layers() == expected(some_pictures(1, 12))
    assert wire.session.statistics.symbols_resent == 0
    assert wire.session.statistics.timeouts == 0
    assert wire.station.totals.requests_sent == 0
    # Acknowledgements are few: many layers share one.
    assert sum(map(len, wire.answered)) < 0.03 * wire.session.statistics.bytes_sent


@pytest.mark.parametrize("parity", [0.0, 0.25])
@pytest.mark.parametrize("number", [4, 6, 7])
def test_base_layers_of_all_pictures_go_first(parity: float, number: int) -> None:
    wire = make_wire(LinkConfig(rate=9600.0, parity=parity, base_parity=2 * parity))
    wire.submit(some_pictures(2, number))
    wire.run()
    order = [event.layer for event in wire.received]
    assert order[:number] == [0] * number
    assert len(order) == 4 * number


def test_a_base_layer_overtakes_refinements_that_wait() -> None:
    wire = make_wire()
    wire.submit(some_pictures(3, 8))
    wire.run(until=8.0)
    arrived = len(wire.received)
    wire.submit({100: [bytes(200), bytes(200)]})
    wire.run()
    later = [(event.sequence, event.layer) for event in wire.received[arrived:]]
    # What was on the wire or waited for its rest comes before; everything else after.
    assert later.index((100, 0)) < 6
    assert later.index((100, 1)) > len(later) - 6


def test_a_record_is_delivered_before_its_block_is_complete() -> None:
    wire = make_wire(LinkConfig(rate=2400.0, burst_bytes=1200))
    wire.submit(some_pictures(4, 4, sizes=(900,)))
    while not wire.received and wire.now < 60:
        wire.run(until=wire.now + 0.5)
    assert wire.received
    assert wire.station.totals.blocks_completed == 0


def test_layers_after_a_lost_symbol_are_delivered_without_it() -> None:
    lost: list[bytes] = []

    def lose_the_first(packet: bytes, now: float) -> list[tuple[float, bytes]]:
        if not lost:
            lost.append(packet)
            return []
        return sound(packet, now)

    wire = make_wire(LinkConfig(simplex=True, parity=0.0, base_parity=0.0), up=lose_the_first)
    wire.submit(some_pictures(5, 8, sizes=(300,)))
    wire.run()
    assert 3 <= len(wire.received) < 8


def test_the_code_repairs_a_burst_without_asking() -> None:
    sent = 0

    def lose_a_burst(packet: bytes, now: float) -> list[tuple[float, bytes]]:
        nonlocal sent
        sent += 1
        return [] if sent in (2, 3) else sound(packet, now)

    wire = make_wire(LinkConfig(rate=9600.0, base_parity=1.0), up=lose_a_burst)
    wire.submit(some_pictures(6, 4, sizes=(900,)))
    wire.run()
    assert wire.layers() == expected(some_pictures(6, 4, sizes=(900,)))
    assert wire.station.totals.symbols_recovered == 2
    assert wire.session.statistics.timeouts == 0


def test_repair_is_new_symbols_of_the_same_block_and_no_more_than_needed() -> None:
    sent = 0

    def lose_some(packet: bytes, now: float) -> list[tuple[float, bytes]]:
        nonlocal sent
        sent += 1
        return [] if sent in (1, 2, 3, 4) else sound(packet, now)

    wire = make_wire(LinkConfig(rate=9600.0, base_parity=0.25), up=lose_some)
    wire.submit(some_pictures(7, 4, sizes=(1500,)))
    wire.run()
    assert wire.layers() == expected(some_pictures(7, 4, sizes=(1500,)))
    statistics = wire.session.statistics
    assert statistics.symbols_resent == 0
    packets = [read(packet) for packet in wire.sent]
    assert len({packet.block for packet in packets}) == 1
    assert len({packet.index for packet in packets}) == len(packets)
    k = packets[0].k
    assert len(packets) == k + 4


def test_lost_acknowledgements_are_repeated() -> None:
    answers = 0

    def lose_the_first_answers(packet: bytes, now: float) -> list[tuple[float, bytes]]:
        nonlocal answers
        answers += 1
        return [] if answers <= 6 else sound(packet, now)

    wire = make_wire(down=lose_the_first_answers)
    wire.submit(some_pictures(8, 3))
    wire.run()
    assert {*wire.acknowledged()} == expected(some_pictures(8, 3)).keys()
    assert len(wire.received) == 12


def test_a_dead_station_costs_little_and_loses_nothing() -> None:
    wire = make_wire(LinkConfig(rate=64000.0), up=nothing)
    wire.submit(some_pictures(9, 10))
    wire.run(until=60.0)
    before = wire.session.statistics.packets_sent
    wire.run(until=3600.0 * 6)
    asked = wire.session.statistics.packets_sent - before
    assert 3600 * 6 / LONGEST_WAIT / 2 < asked < 3600 * 6 / LONGEST_WAIT + 30
    assert wire.session.backlog_bytes == 10 * 2048
    wire.up = sound
    wire.run()
    assert wire.layers() == expected(some_pictures(9, 10))
    assert wire.now < 3600 * 6 + 2 * LONGEST_WAIT


def test_a_station_that_forgot_everything_gets_the_rest() -> None:
    wire = make_wire()
    pictures = some_pictures(10, 8)
    wire.submit(pictures)
    wire.run(until=9.0)
    acknowledged = {*wire.acknowledged()}
    assert 0 < len(acknowledged) < 32
    stored = wire.layers()
    wire.station = Station(wire.session.config, now=wire.now)
    wire.run()
    assert {*wire.acknowledged()} == expected(pictures).keys()
    assert stored | wire.layers() == expected(pictures)
    assert wire.session.statistics.resets_received > 0


@pytest.mark.parametrize("silent", [0.0, 20.0])
def test_layers_that_a_dead_station_had_but_did_not_store_come_again_soon(silent: float) -> None:
    """The station says it has a block and dies before it stores the layers: its successor must not wait for long."""
    config = LinkConfig(rate=None, flush_after=0.0, retransmit_after=1.0)
    wire = make_wire(config)
    wire.store_after = 1e9
    wire.session.submit(1, [b"a" * 300, b"b" * 900], 0.0)
    wire.run(until=3.0)
    assert len(wire.received) == 2
    assert not wire.events
    wire.station, wire.store_after = Station(config, now=3.0), 0.0
    if silent:
        wire.down = nothing
        wire.session.submit(2, [b"c" * 100], wire.now)
        wire.run(until=3.0 + silent)
        wire.down = sound
    wire.session.submit(3, [b"d" * 100], wire.now)
    started = wire.now
    wire.run(until=started + 12.0)
    acknowledged = {*wire.acknowledged()}
    assert {(1, 0), (1, 1), (3, 0)} <= acknowledged


def test_a_new_start_of_the_sender_takes_the_place_of_the_old() -> None:
    wire = make_wire()
    pictures = some_pictures(11, 4)
    wire.submit(pictures)
    wire.run(until=4.0)
    old = wire.session
    assert 0 < len(wire.events) < 16
    wire.session = SenderSession.unsealed(old.config, sender=0xCAFE0001, epoch=2, now=wire.now)
    wire.submit(pictures)
    first = len(wire.received)
    wire.run()
    assert len(wire.received) - first == 16, "delivered layers come again for a session that submits them again"
    old.submit(99, [bytes(100)], wire.now)
    for packet, _ in old.packets_to_send(wire.now + 100):
        wire.station.receive_packet(packet, wire.now)
    assert wire.station.totals.packets_stale + wire.station.totals.packets_unknown > 0
    assert wire.station.next_event() is None


def test_simplex_sends_all_and_tells_when() -> None:
    config = LinkConfig(rate=9600.0, simplex=True, repeats=3)
    wire = make_wire(config, up=Chance(1, loss=0.3), down=nothing)
    pictures = some_pictures(12, 5)
    wire.submit(pictures)
    wire.run()
    sent = {(event.sequence, event.layer) for event in wire.events if isinstance(event, LayerSent)}
    assert sent == expected(pictures).keys()
    assert len(wire.events) == 20
    assert wire.layers() == expected(pictures)
    assert wire.answered == []


def test_uncoded_simplex_repeats_as_well() -> None:
    config = LinkConfig(rate=9600.0, simplex=True, repeats=2, parity=0.0, base_parity=0.0)
    wire = make_wire(config)
    wire.submit(some_pictures(13, 3))
    wire.run()
    symbols = [(packet.block, packet.index) for packet in map(read, wire.sent)]
    assert len(symbols) == 2 * len(set(symbols))
    assert len(wire.events) == 12
    assert wire.layers() == expected(some_pictures(13, 3))


def test_submitting_twice_sends_once() -> None:
    wire = make_wire()
    pictures = some_pictures(14, 2)
    wire.submit(pictures)
    wire.submit(pictures)
    assert wire.session.backlog_bytes == 4096
    wire.run()
    assert len(wire.received) == len(wire.events) == 8


def test_layers_can_follow_one_by_one() -> None:
    wire = make_wire()
    layers = some_pictures(15, 1)[0]
    wire.session.submit(7, layers[:1], 0.0, total_layers=4)
    wire.run()
    wire.session.submit(7, layers[1:], wire.now, first_layer=1)
    wire.run()
    assert [event.layers for event in wire.received] == [4, 4, 4, 4]
    assert wire.layers() == {(7, index): layer for index, layer in enumerate(layers)}


@pytest.mark.parametrize(
    ("sequence", "layers", "first", "total"),
    [(-1, 1, 0, None), (2**32, 1, 0, None), (0, 17, 0, None), (0, 2, 3, 4), (0, 1, -1, 4)],
)
def test_impossible_submissions_are_refused(sequence: int, layers: int, first: int, total: int | None) -> None:
    wire = make_wire()
    with pytest.raises(PinholeError):
        wire.session.submit(sequence, [b"x"] * layers, 0.0, first_layer=first, total_layers=total)
    assert wire.session.backlog_bytes == 0


def test_a_layer_too_large_is_refused() -> None:
    with pytest.raises(PinholeError, match="layer 1"):
        make_wire().session.submit(0, [b"x", bytes((4 << 20) + 1)], 0.0)


def test_large_layers_cross_many_blocks() -> None:
    wire = make_wire(LinkConfig(), up=Chance(3, loss=0.05, jitter=0.3))
    pictures = some_pictures(16, 2, sizes=(5000, 400_000))
    wire.submit(pictures)
    wire.run()
    assert wire.layers() == expected(pictures)


def test_more_blocks_than_numbers_on_the_wire() -> None:
    wire = make_wire(LinkConfig(packet_bytes=48, parity=0.0, base_parity=0.0))
    wire.store_after = 0.01
    pictures = {sequence: [random.Random(sequence).randbytes(3000)] for sequence in range(750)}
    for start in range(0, 750, 150):
        wire.submit({sequence: pictures[sequence] for sequence in range(start, start + 150)})
        wire.run()
    assert wire.session.statistics.source_symbols_sent > 65536
    assert wire.layers() == expected(pictures)
    assert wire.session.statistics.symbols_resent == 0


@given(st.lists(st.binary(max_size=100), max_size=30), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_hostile_packets_are_dropped_and_counted(packets: list[bytes], seed: int) -> None:
    wire = make_wire()
    pictures = some_pictures(17, 2)
    wire.submit(pictures)
    chance = random.Random(seed)
    for data in packets:
        wire.run(until=wire.now + 0.5)
        wire.session.receive_packet(data, wire.now)
        wire.station.receive_packet(data, wire.now, "path")
        for sample in (wire.sent, wire.answered):
            if sample:
                spoiled = bytearray(chance.choice(sample))
                spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
                wire.session.receive_packet(bytes(spoiled), wire.now)
                wire.station.receive_packet(bytes(spoiled), wire.now, "path")
    wire.run()
    assert wire.layers() == expected(pictures)
    if packets:
        assert wire.session.statistics.packets_rejected > 0


def read(data: bytes) -> DataPacket:
    incoming = read_unproved(data)
    return parse_data(incoming.flags, incoming.body)


def forged(sender: int, epoch: int, block: int, index: int, k: int, m: int, symbol: bytes) -> bytes:
    packet = DataPacket(block, index, k, m, symbol)
    return PlainSender(sender, epoch).wrap(packet.flags, encode_data(packet), known=False)


def test_well_made_packets_of_liars_never_raise_and_stay_within_bounds() -> None:
    chance = random.Random(1)
    ground = Station(LinkConfig(), now=0.0)
    for number in range(6000):
        sender, epoch = chance.randrange(8), chance.randrange(3)
        k = chance.randint(1, 200)
        m = chance.randint(0, 255 - k)
        symbol = chance.choice([b"\xc8\x05\x12", b"\xe8\x05\x12\x07", b"\xc0\x05\x12", b"\x00", b""])
        symbol += chance.randbytes(chance.randint(1, 40))
        index = chance.randrange(k + m) if k + m > 1 else 0
        ground.receive_packet(forged(sender, epoch, chance.randrange(600), index, k, m, symbol), number / 10, "liar")
        while ground.next_event() is not None:
            pass
        ground.packets_to_send(number / 10)
    assert ground.totals.packets_rejected > 0
    assert ground.totals.blocks_dropped > 0


def test_strangers_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station, "MOST_SESSIONS", 50)
    monkeypatch.setattr(station, "MOST_BUFFERED_BYTES", 200_000)
    ground = Station(LinkConfig(), now=0.0)
    for sender in range(300):
        for block in range(4):
            data = forged(sender, 1, block, 20, 20, 5, bytes(1100))
            ground.receive_packet(data, float(sender), sender)
    assert len(ground.senders) == 50
    assert ground.totals.sessions_dropped == 250
    assert ground.totals.blocks_dropped >= 250 * 4
    assert sum(ground._sessions[sender].buffered_bytes for sender in ground.senders) == ground._buffered <= 200_000


def test_one_sender_cannot_hold_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station, "MOST_BUFFERED_BYTES_OF_ONE", 20_000)
    ground = Station(LinkConfig(), now=0.0)
    for block in range(100):
        ground.receive_packet(forged(1, 1, block, 20, 20, 5, bytes(1000)), 0.0)
        symbol = b"\xe0" + bytes([block]) + b"\x12\x07" + bytes(900)
        ground.receive_packet(forged(1, 1, 1000 + block, 0, 1, 0, symbol), 0.0)
    assert ground._buffered <= 20_000
    assert ground.totals.blocks_dropped > 50
    assert ground.totals.layers_dropped > 0


@pytest.mark.parametrize("share", [20_000, 60_000])
def test_a_station_short_of_memory_still_gets_everything(share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station, "MOST_BUFFERED_BYTES_OF_ONE", share)
    wire = make_wire(LinkConfig(parity=0.25, packet_bytes=300, retransmit_after=1.0), up=Chance(2, loss=0.2))
    pictures = some_pictures(18, 12, sizes=(300, 4000, 4000))
    wire.submit(pictures)
    wire.run()
    assert wire.layers() == expected(pictures)


def test_a_symbol_that_lied_past_its_checksum_is_put_right_by_the_code() -> None:
    config = LinkConfig(base_parity=1.0, packet_bytes=200)
    session = SenderSession.unsealed(config, sender=1, epoch=1, now=0.0)
    pictures = some_pictures(19, 4, sizes=(400,))
    for sequence, layers in pictures.items():
        session.submit(sequence, layers, 0.0)
    packets = [read(packet) for packet, _ in session.packets_to_send(3.0)]
    k = packets[0].k
    ground = Station(config, now=0.0)
    # Only repair symbols, one of them false: the restored symbols are no frames, so the station waits for more.
    for packet in packets[k - 1 :]:
        symbol = packet.symbol
        if packet.index == k:
            symbol = bytes(byte ^ 0xA5 for byte in symbol)
        data = forged(1, 1, packet.block, packet.index, packet.k, packet.m, symbol)
        ground.receive_packet(data, 3.0, "path")
    assert ground.totals.symbols_conflicting > 0
    for packet in packets[:2]:
        ground.receive_packet(forged(1, 1, packet.block, packet.index, packet.k, packet.m, packet.symbol), 3.0, "path")
    received = {}
    while (event := ground.next_event()) is not None:
        received[event.sequence, event.layer] = event.payload
    assert received == expected(pictures)
    assert ground.totals.columns_repaired > 0


def test_a_round_trip_longer_than_the_floor_is_learnt() -> None:
    def slow(packet: bytes, now: float) -> list[tuple[float, bytes]]:
        return [(6.0, packet)]

    wire = make_wire(LinkConfig(rate=9600.0, retransmit_after=5.0), up=slow, down=slow)
    wire.submit(some_pictures(20, 12))
    wire.run()
    assert wire.layers() == expected(some_pictures(20, 12))
    assert wire.session.statistics.round_trip == pytest.approx(12.0, rel=0.2)
    before = wire.session.statistics.timeouts
    wire.submit({1000 + number: layers for number, layers in some_pictures(21, 12).items()})
    wire.run()
    assert wire.session.statistics.timeouts == before


def test_senders_share_a_station() -> None:
    ground = Station(LinkConfig(), now=0.0)
    config = LinkConfig()
    sessions = {number: SenderSession.unsealed(config, sender=number, epoch=0, now=0.0) for number in range(300)}
    for number, session in sessions.items():
        session.submit(1, [number.to_bytes(2, "big"), b"refinement"], 0.0)
    # The second round has short headers, in which 300 senders share 256 tags.
    for round_ in range(2):
        now = 3.0 + 10 * round_
        for number, session in sessions.items():
            for packet, _ in session.packets_to_send(now):
                ground.receive_packet(packet, now, number)
        while (event := ground.next_event()) is not None:
            if event.layer == 0:
                assert event.payload == event.sender.to_bytes(2, "big")
            ground.acknowledge(event.sender, event.sequence, event.layer, now)
        for path, packet in ground.packets_to_send(now + 1):
            assert isinstance(path, int)
            sessions[path].receive_packet(packet, now + 1)
        for number, session in sessions.items():
            assert session.backlog_bytes == 0
            session.submit(2 + round_, [number.to_bytes(2, "big")], now + 1)
    assert ground.totals.packets_unknown == 0
    assert ground.totals.layers_received == 900
