import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import CorruptDataError
from shared.link.control import Echo, Report, Request, encode_report, parse_report
from shared.link.frames import Cursor, Ending, Piece, fill_symbol, read_frames
from shared.link.packet import (
    CONTROL_OVERHEAD,
    LARGEST_HEADER,
    DataPacket,
    SessionIdentity,
    data_overhead,
    encode_control,
    encode_data,
    encode_reset,
    split_packet,
)
from shared.link.reassembly import IncomingLayer
from shared.varint import decode_varint, encode_varint, varint_length

identities = st.builds(SessionIdentity, st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1))


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
        draw(st.binary(min_size=1, max_size=80)),
        poll=draw(st.booleans()),
        mute=draw(st.booleans()),
        long=draw(st.booleans()),
    )


@given(identities, data_packets())
def test_data_packets_come_back(identity: SessionIdentity, packet: DataPacket) -> None:
    data = encode_data(identity, packet)
    assert len(data) == data_overhead(coded=packet.coded, long=packet.long) + len(packet.symbol)
    split = split_packet(data)
    assert split.belongs_to(identity.checksum_seed)
    assert split.data() == packet
    assert split.identity == (identity if packet.long else None)
    assert split.tag == (None if packet.long else identity.tag)
    assert not split.control


@given(identities, data_packets(), st.data())
def test_a_flipped_burst_is_noticed(identity: SessionIdentity, packet: DataPacket, data: st.DataObject) -> None:
    sound = encode_data(identity, packet)
    damaged = bytearray(sound)
    start = data.draw(st.integers(0, len(damaged) - 1))
    for index in range(start, min(start + 4, len(damaged))):
        damaged[index] ^= data.draw(st.integers(1 if index == start else 0, 255))
    try:
        split = split_packet(bytes(damaged))
    except CorruptDataError:
        return
    found = split.identity or identity
    # A header flipped from long to short or back is no burst any more, but 32 bits still stand.
    assert not split.belongs_to(found.checksum_seed)


@given(identities, identities, data_packets())
def test_packets_of_others_are_told_apart(mine: SessionIdentity, other: SessionIdentity, packet: DataPacket) -> None:
    split = split_packet(encode_data(other, packet))
    assert split.belongs_to(mine.checksum_seed) == (mine == other)


@given(st.binary(max_size=80))
@settings(max_examples=500)
def test_random_bytes_are_at_most_corrupt(data: bytes) -> None:
    try:
        split = split_packet(data)
        split.data()
    except CorruptDataError:
        pass
    for reader in (parse_report, lambda symbol: list(read_frames(symbol))):
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
    assert data_overhead(coded=False, long=False) == 8
    assert data_overhead(coded=True, long=False) == 11
    assert data_overhead(coded=True, long=True) == LARGEST_HEADER == 16
    identity = SessionIdentity(7, 1)
    assert len(encode_control(identity, b"")) == CONTROL_OVERHEAD == len(encode_reset(3))


def test_sealed_and_foreign_packets_are_refused() -> None:
    data = bytearray(encode_data(SessionIdentity(7, 1), DataPacket(0, 0, 1, 0, b"x")))
    for change, complaint in ((0x20, "sealed"), (0x80, "version")):
        other = bytes([data[0] ^ change, *data[1:]])
        with pytest.raises(CorruptDataError, match=complaint):
            split_packet(other)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_epochs_wrap(one: int, other: int) -> None:
    newer = SessionIdentity(1, one).is_newer_than(SessionIdentity(1, other))
    assert newer == (0 < (one - other) % 65536 < 32768)
    assert SessionIdentity(1, 0).is_newer_than(SessionIdentity(1, 65535))


reports = st.builds(
    Report,
    st.dictionaries(st.integers(0, 2**32 - 1), st.integers(0, 65535), max_size=20).map(
        lambda pictures: tuple(sorted(pictures.items()))
    ),
    st.lists(st.builds(Request, st.integers(0, 65535), st.integers(0, 255), st.binary(max_size=32)), max_size=5).map(
        tuple
    ),
    st.lists(st.integers(0, 65535), max_size=5).map(tuple),
    st.none() | st.builds(Echo, st.integers(0, 65535), st.integers(0, 254), st.integers(0, 2**32 - 1)),
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
