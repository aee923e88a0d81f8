"""Framings: exact bytes, and property tests of decoding whatever a line delivers."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.transports.base import LARGEST_PACKET
from shared.transports.lines.ax25 import HEADER_BYTES, Ax25Framing, encode_call_sign
from shared.transports.lines.framing import CobsFraming, Framing, KissFraming, TncParameter, stuff, unstuff

KINDS = ["cobs", "cobs sparing flow bytes", "kiss", "kiss port 12", "ax.25"]

# Bytes that framings treat in their own way are more likely here than by chance.
SPECIAL = st.sampled_from([0x00, 0x01, 0x11, 0x13, 0x31, 0x7D, 0xC0, 0xDB, 0xDC, 0xDD, 0xFF])
BYTES = st.lists(SPECIAL | st.integers(0, 255), max_size=700).map(bytes)
PACKETS = st.lists(BYTES.filter(len), max_size=8)


def call(text: str) -> bytes:
    encoded = encode_call_sign(text)
    assert encoded is not None
    return encoded


def framing(kind: str, end: int = 0) -> Framing:
    if kind == "ax.25":
        return Ax25Framing(KissFraming(), call(f"N0CALL-{end}"), call("PINHOL"))
    if kind.startswith("cobs"):
        return CobsFraming(spare_flow_bytes=kind != "cobs")
    return KissFraming(12 if kind.endswith("12") else 0)


def fed(decoder: Framing, data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [packet for start, end in pairwise(places) for packet in decoder.feed(data[start:end])]


@pytest.mark.parametrize("kind", KINDS)
@given(packets=PACKETS, cuts=st.lists(st.integers(0, 10_000), max_size=20), fresh=st.booleans())
def test_packets_cross_however_the_stream_is_cut(kind: str, packets: list[bytes], cuts: list[int], fresh: bool) -> None:
    encoder, decoder = framing(kind), framing(kind, end=1)
    stream = encoder.opening() + b"".join(encoder.encode(packet, fresh=fresh) for packet in packets)
    assert fed(decoder, stream, cuts) == packets
    assert decoder.damaged == decoder.ignored == 0


@pytest.mark.parametrize("kind", KINDS)
@given(noise=BYTES, packets=PACKETS, fresh=st.booleans())
def test_after_any_garbage_at_most_one_packet_is_lost_and_none_of_a_fresh_start(
    kind: str, noise: bytes, packets: list[bytes], fresh: bool
) -> None:
    encoder, decoder = framing(kind), framing(kind, end=1)
    decoder.feed(noise)
    got = decoder.feed(b"".join(encoder.encode(packet, fresh=fresh and not i) for i, packet in enumerate(packets)))
    kept = got[len(got) - len(packets) :] if len(got) >= len(packets) else [None, *got]
    assert kept[1:] == packets[1:]
    if packets and (fresh or not kind.startswith("cobs")):
        assert kept[0] == packets[0]


@pytest.mark.parametrize("kind", KINDS)
@given(packets=PACKETS, at=st.integers(0, 100_000), bit=st.integers(0, 7))
def test_a_flipped_bit_harms_two_packets_at_most(kind: str, packets: list[bytes], at: int, bit: int) -> None:
    encoder, decoder = framing(kind), framing(kind, end=1)
    stream = bytearray(b"".join(encoder.encode(packet, fresh=False) for packet in packets))
    if stream:
        stream[at % len(stream)] ^= 1 << bit
    got = decoder.feed(bytes(stream))
    missing = list(packets)
    for packet in got:
        if packet in missing:
            missing.remove(packet)
    assert len(missing) <= 2


@pytest.mark.parametrize("kind", KINDS)
@given(noise=st.lists(BYTES, max_size=5))
def test_noise_raises_nothing_and_is_told_or_taken_as_packets(kind: str, noise: list[bytes]) -> None:
    decoder = framing(kind)
    for data in noise:
        assert all(decoder.feed(data))


@given(BYTES)
def test_cobs_has_no_zeros_and_costs_what_the_paper_says(packet: bytes) -> None:
    frame = stuff(packet)
    assert 0 not in frame
    assert len(frame) <= len(packet) + max(1, -(-len(packet) // 254))
    assert unstuff(frame) == packet
    if packet:
        assert len(CobsFraming().encode(packet, fresh=False)) == len(frame) + 1


@given(BYTES)
def test_flow_bytes_are_spared(packet: bytes) -> None:
    frame = CobsFraming(spare_flow_bytes=True).encode(packet, fresh=True)
    assert not {0x11, 0x13} & set(frame)


def test_flow_bytes_that_a_driver_puts_in_are_passed_over() -> None:
    frame = CobsFraming(spare_flow_bytes=True).encode(b"a\x11b\x13c\x7dd", fresh=False)
    assert CobsFraming(spare_flow_bytes=True).feed(b"\x11".join(bytes([b]) for b in frame)) == [b"a\x11b\x13c\x7dd"]


@pytest.mark.parametrize(
    ("packet", "frame"),
    [  # the examples of the paper's encoding as they are commonly listed
        (b"\x00", "0101"),
        (b"\x00\x00", "010101"),
        (b"\x11\x22\x00\x33", "0311220233"),
        (b"\x11\x22\x33\x44", "0511223344"),
        (b"\x11\x00\x00\x00", "0211010101"),
        (bytes(range(1, 255)), "ff" + bytes(range(1, 255)).hex()),
        (bytes(range(255)), "01ff" + bytes(range(1, 255)).hex()),
        (bytes(range(1, 256)), "ff" + bytes(range(1, 255)).hex() + "02ff"),
        (bytes([*range(2, 256), 0]), "ff" + bytes(range(2, 256)).hex() + "0101"),
        (bytes([*range(3, 256), 0, 1]), "fe" + bytes(range(3, 256)).hex() + "0201"),
    ],
)
def test_cobs_bytes(packet: bytes, frame: str) -> None:
    assert stuff(packet).hex() == frame
    assert CobsFraming().encode(packet, fresh=True).hex() == "00" + frame + "00"


def test_kiss_bytes() -> None:
    parameters = [TncParameter(1, 50), TncParameter(2, 0xC0)]
    assert KissFraming(0, parameters).opening().hex() == "c00132c0" + "c002dbdcc0"
    assert KissFraming().encode(b"TEST", fresh=False).hex() == "c00054455354c0"
    assert KissFraming(5).encode(b"\xc0\xdb", fresh=False).hex() == "c050dbdcdbddc0"
    assert KissFraming(12).encode(b"x", fresh=False).hex() == "c0dbdc78c0"


def test_kiss_ignores_other_commands_and_ports_and_drops_wrong_escapes() -> None:
    decoder = KissFraming(1)
    assert decoder.feed(bytes.fromhex("c0c0c0 1061c0 1161c0 0061c0 ffc0 10c0 10db61c0 10dbc0 1062c0")) == [b"a", b"b"]
    assert decoder.ignored == 4
    assert decoder.damaged == 2


def test_ax25_bytes() -> None:
    framing_ = Ax25Framing(KissFraming(), call("n0call-7"), call("PINHOL"))
    destination = bytes(ord(letter) << 1 for letter in "PINHOL") + b"\xe0"
    source = bytes(ord(letter) << 1 for letter in "N0CALL") + b"\x6f"
    assert framing_.encode(b"abc", fresh=False) == b"\xc0\x00" + destination + source + b"\x03\xf0abc\xc0"
    assert HEADER_BYTES == 16
    assert encode_call_sign("AB1C") == bytes(ord(letter) << 1 for letter in "AB1C  ") + b"\x60"


@pytest.mark.parametrize("text", ["", "TOOLONG", "N0CALL-16", "N0CALL-", "N0 CAL", "Ä1BC", "N0CALL-7\n"])
def test_wrong_call_signs_are_none(text: str) -> None:
    assert encode_call_sign(text) is None


def test_ax25_takes_digipeated_frames_and_leaves_others_and_own_ones() -> None:
    kiss, ours = KissFraming(), Ax25Framing(KissFraming(), call("N0CALL-1"), call("PINHOL"))

    def received(frame: bytes) -> list[bytes]:
        return ours.feed(kiss.encode(frame, fresh=False))

    def last(address: bytes) -> bytes:
        return address[:-1] + bytes([address[-1] | 1])

    to, other, own, relay = call("PINHOL"), call("N0CALL-2"), call("N0CALL-1"), call("WIDE1-1")
    assert received(to + other + last(relay) + b"\x03\xf0data") == [b"data"]
    assert received(to + last(other) + b"\x03\xf0data") == [b"data"]
    assert received(to + last(own) + b"\x03\xf0data") == []
    assert received(to + last(other) + b"\x03\xccdata") == []
    assert received(to + last(other) + b"\x2f\xf0data") == []
    assert received(last(to) + b"\x03\xf0data") == []
    assert received(to + other) == []
    assert received((to + other) * 8) == []
    assert ours.ignored == 6


@pytest.mark.parametrize("kind", KINDS)
def test_endless_frames_are_bounded_counted_and_passed_over(kind: str) -> None:
    encoder, decoder = framing(kind), framing(kind, end=1)
    decoder.feed(encoder.encode(b"x", fresh=True)[:-1])
    for _ in range(100):
        assert decoder.feed(b"\x55" * 5000) == []
    inner = decoder._inner if isinstance(decoder, Ax25Framing) else decoder
    assert len(inner._frame) <= 2 * LARGEST_PACKET + 1000  # type: ignore[attr-defined]
    delimiter = b"\0" if kind.startswith("cobs") else b"\xc0"
    assert decoder.feed(delimiter + encoder.encode(b"next", fresh=False)) == [b"next"]
    assert decoder.damaged == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("byte", [0x00, 0x11, 0x55, 0xC0])
def test_the_largest_packet_fits(kind: str, byte: int) -> None:
    size = LARGEST_PACKET - (HEADER_BYTES if kind == "ax.25" else 0)
    packet = bytes([byte]) * size
    assert framing(kind, end=1).feed(framing(kind).encode(packet, fresh=True)) == [packet]
