import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import CorruptDataError
from shared.link.control import Echo, Report, Request, StoredBlocks, encode_report, parse_report
from shared.link.envelope import Cause, RefusedError
from shared.link.frames import Cursor, Ending, Piece, fill_symbol, read_frames
from shared.link.gilbert import GilbertFit
from shared.link.packet import (
    COUNTERS,
    VERSION,
    DataPacket,
    encode_data,
    encode_reset,
    encode_versions,
    parse_data,
    place_bytes,
    reset_tag,
    spoken_versions,
    unwrap_counter,
)
from shared.link.plain import PlainGate, PlainIdentity, PlainSender, read_unproved
from shared.link.reassembly import IncomingLayer
from shared.link.seal import parse_hello
from shared.varint import decode_varint, encode_varint, varint_length

identities = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1))


@st.composite
def data_packets(draw: st.DrawFn) -> DataPacket:
    k = draw(st.integers(1, 254))
    m = draw(st.integers(1, 255 - k))
    coded = draw(st.booleans())
    return DataPacket(
        draw(st.integers(0, 2**16 - 1)),
        draw(st.integers(0, k + m - 1)) if coded else 0,
        k if coded else 1,
        m if coded else 0,
        draw(st.binary(min_size=1 if coded else 0, max_size=80)),
        poll=draw(st.booleans()),
        mute=draw(st.booleans()),
    )


def wrapped(envelope: PlainSender, packet: DataPacket, *, known: bool) -> bytes:
    return envelope.wrap(packet.flags, encode_data(packet), known=known)


@given(identities, data_packets(), data_packets())
def test_unsealed_packets_come_back(identity: tuple[int, int], first: DataPacket, second: DataPacket) -> None:
    sender, gate = PlainSender(*identity), PlainGate()
    for number, (packet, known) in enumerate([(first, False), (second, True)]):
        data = wrapped(sender, packet, known=known)
        overhead = sender.overhead(known=known) + place_bytes(coded=packet.coded)
        assert len(data) == overhead + len(packet.symbol)
        admitted = gate.admit(data)
        assert admitted.envelope.sender == identity[0]
        assert admitted.incoming is not None
        assert admitted.incoming.counter % COUNTERS == number
        assert parse_data(admitted.incoming.flags, admitted.incoming.body) == packet
        assert read_unproved(data)[2] == admitted.incoming.body


@given(identities, data_packets(), st.booleans(), st.data())
def test_a_flipped_burst_is_noticed(
    identity: tuple[int, int], packet: DataPacket, known: bool, data: st.DataObject
) -> None:
    sender, gate = PlainSender(*identity), PlainGate()
    gate.admit(wrapped(sender, packet, known=False))
    damaged = bytearray(wrapped(sender, packet, known=known))
    start = data.draw(st.integers(0, len(damaged) - 1))
    for index in range(start, min(start + 4, len(damaged))):
        damaged[index] ^= data.draw(st.integers(1 if index == start else 0, 255))
    # A header flipped from long to short or back is no burst any more, but 32 bits still stand.
    with pytest.raises(RefusedError):
        gate.admit(bytes(damaged))


@given(identities, identities, data_packets())
def test_packets_of_others_are_told_apart(mine: tuple[int, int], other: tuple[int, int], packet: DataPacket) -> None:
    gate = PlainGate()
    envelope = gate.admit(wrapped(PlainSender(*mine), packet, known=False)).envelope
    data = wrapped(PlainSender(*other), packet, known=True)
    if mine == other:
        assert gate.admit(data).envelope is envelope
    else:
        with pytest.raises(RefusedError):
            gate.admit(data)


@given(st.binary(max_size=80))
@settings(max_examples=500)
def test_random_bytes_are_at_most_corrupt(data: bytes) -> None:
    readers = (
        parse_report,
        PlainGate().admit,
        PlainSender(1, 1).unwrap,
        read_unproved,
        reset_tag,
        spoken_versions,
        parse_hello,
        lambda body: parse_data(body[0] if body else 0, body[1:]),
        lambda symbol: list(read_frames(symbol)),
    )
    for reader in readers:
        try:
            reader(data)
        except CorruptDataError:
            continue


@given(st.recursive(st.none() | st.integers() | st.binary(max_size=5) | st.text(max_size=3), st.lists))
@settings(max_examples=300)
def test_any_other_message_is_no_report(message: object) -> None:
    try:
        packed = msgpack.packb(message)
    except OverflowError:
        return
    try:
        report = parse_report(packed)
    except CorruptDataError:
        return
    assert parse_report(encode_report(report)) == report


def test_header_sizes() -> None:
    sender = PlainSender(7, 1)
    assert sender.overhead(known=True) + place_bytes(coded=False) == 10
    assert sender.overhead(known=True) + place_bytes(coded=True) == 13
    assert sender.overhead(known=False) + place_bytes(coded=True) == 18
    session = PlainGate().admit(sender.wrap(0, b"\0\0x", known=False)).envelope
    assert len(session.wrap(b"")) == session.overhead == 8
    assert len(encode_reset(3)) == 6


@pytest.mark.parametrize(
    ("change", "cause"), [(0x20, Cause.SEALED), (0x40, Cause.OTHER_VERSION), (0x08, Cause.DAMAGED)]
)
def test_packets_that_are_not_for_this_gate_are_refused(change: int, cause: Cause) -> None:
    data = wrapped(PlainSender(7, 1), DataPacket(0, 0, 1, 0, b"x"), known=False)
    with pytest.raises(RefusedError) as caught:
        PlainGate().admit(bytes([data[0] ^ change]) + data[1:])
    assert caught.value.cause is cause


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_epochs_wrap(one: int, other: int) -> None:
    newer = PlainIdentity(1, one).is_newer_than(PlainIdentity(1, other))
    assert newer == (0 < (one - other) % 65536 < 32768)
    assert PlainIdentity(1, 0).is_newer_than(PlainIdentity(1, 65535))


@given(st.integers(0, 255))
def test_resets_come_back(tag: int) -> None:
    data = encode_reset(tag)
    assert reset_tag(data) == tag
    assert reset_tag(data[:-1] + bytes([data[-1] ^ 1])) is None


def test_an_answer_to_another_version_names_ours() -> None:
    ours = wrapped(PlainSender(7, 1), DataPacket(0, 0, 1, 0, b"x"), known=False)
    answer = encode_versions(ours)
    assert spoken_versions(answer) == (VERSION,)
    assert spoken_versions(answer[:-1]) is None
    assert spoken_versions(encode_versions(b"\x40" + ours[1:])) is None, "an answer to what we never sent"
    with pytest.raises(CorruptDataError):
        PlainSender(7, 1).unwrap(answer)


@given(st.integers(0, 2**40), st.integers(-30000, 30000))
def test_counters_unwrap_to_the_nearest(highest: int, step: int) -> None:
    assert unwrap_counter((highest + step) % COUNTERS, highest, COUNTERS) == highest + step


reports = st.builds(
    Report,
    st.dictionaries(st.integers(0, 2**32 - 1), st.integers(0, 65535), max_size=20).map(
        lambda pictures: tuple(sorted(pictures.items()))
    ),
    st.lists(st.builds(Request, st.integers(0, 65535), st.integers(0, 255), st.binary(max_size=32)), max_size=5).map(
        tuple
    ),
    st.lists(st.integers(0, 65535), max_size=5).map(tuple),
    st.none() | st.builds(Echo, st.integers(0, 65535), st.integers(0, 2**32 - 1)),
    st.none() | st.builds(StoredBlocks, st.integers(0, 65535), st.integers(0, 1 << 14), st.binary(max_size=32)),
    st.none()
    | st.builds(
        lambda *wire: GilbertFit.from_wire(wire),
        st.integers(0, 9999),
        st.integers(16, 65535),
        st.integers(0, 65535),
    ),
)


@given(reports)
def test_reports_come_back(report: Report) -> None:
    assert parse_report(encode_report(report)) == report


@given(st.integers(0, 2**40))
def test_varints_come_back(value: int) -> None:
    data = encode_varint(value)
    assert len(data) == varint_length(value)
    assert decode_varint(b"?" + data + b"!", 1, 2**40) == (value, 1 + len(data))
    with pytest.raises(CorruptDataError):
        decode_varint(data[:-1], 0, 2**40)


@pytest.mark.parametrize("data", [b"\x80\x00", b"\xff" * 12, b"\x81\x01"])
def test_bad_varints_are_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        decode_varint(data, 0, 128)


@st.composite
def piece_lists(draw: st.DrawFn) -> list[Piece]:
    pieces = []
    sequences = st.integers(0, 5) | st.integers(0, 2**32 - 1)
    for sequence in draw(st.lists(sequences, min_size=1, max_size=4, unique=True)):
        layers = draw(st.sampled_from([2, 4]) | st.integers(1, 16))
        for layer in draw(st.sets(st.integers(0, layers - 1), min_size=1, max_size=4)):
            pieces.append(Piece(sequence, layer, layers, draw(st.binary(max_size=300))))
    return pieces


@given(piece_lists(), st.integers(16, 400), st.sampled_from(Ending))
@settings(max_examples=300)
def test_frames_bring_every_piece_whatever_the_symbol_size(pieces: list[Piece], room: int, ending: Ending) -> None:
    layers: dict[tuple[int, int], IncomingLayer] = {}
    whole: dict[tuple[int, int], bytes] = {}
    cursor = Cursor()
    while cursor.item < len(pieces):
        symbol, after = fill_symbol(pieces, cursor, room, ending)
        assert after != cursor
        assert len(symbol) <= room
        cursor = after
        if ending is not Ending.CUT:
            symbol = symbol.ljust(room, b"\0")
        for frame in read_frames(symbol):
            key = (frame.sequence, frame.layer)
            payload = layers.setdefault(key, IncomingLayer(frame.layers)).add(frame)
            if payload is not None:
                whole[key] = payload
    assert whole == {(piece.sequence, piece.layer): piece.payload for piece in pieces}


@pytest.mark.parametrize(
    "symbol",
    [
        b"\x80",
        b"\xc7\x01\x00",
        b"\x00\x01",
        b"\xc8\x05\x21",
        b"\xcc\x05\x12",
        b"\x8c",
        b"\xd8\x05\x00\x09a",
        b"\xc0",
        b"\xc0\x05",
    ],
)
def test_malformed_frames_are_corrupt(symbol: bytes) -> None:
    with pytest.raises(CorruptDataError):
        list(read_frames(symbol))
