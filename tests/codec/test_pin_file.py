import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec import pin
from shared.codec.pin import frame_bytes, pack_pin, read_pin, unpack_pin, write_pin
from shared.errors import CorruptDataError, PinholeError

LAYERS = st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=15)


def sealed(body: bytes) -> bytes:
    """Append the checksum that makes hand-made bytes pass the first check."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@given(LAYERS)
def test_layers_come_back(layers: list[bytes]) -> None:
    data = pack_pin(layers)
    assert unpack_pin(data) == layers
    assert unpack_pin(data, salvage=True) == layers
    assert len(data) == sum(map(len, layers)) + frame_bytes([len(layer) for layer in layers])


def test_the_format_byte_by_byte() -> None:
    base = bytes(range(200))
    expected = b"\x9eP" + b"\x13" + b"\xc8\x01" + b"\x02" + base + b"ab" + b"c"
    assert pack_pin([base, b"ab", b"c"]) == expected + zlib.crc32(expected).to_bytes(4, "little")


def test_the_frame_of_four_layers_is_small() -> None:
    assert frame_bytes([100, 300, 500, 900]) == 12
    assert frame_bytes([16_383, 16_383, 16_383, 1_000_000]) == 13


@given(LAYERS, st.data())
def test_any_truncation_is_one_error(layers: list[bytes], data: st.DataObject) -> None:
    whole = pack_pin(layers)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CorruptDataError) as caught:
        unpack_pin(whole[:cut], "x.pin")
    assert str(caught.value).startswith("x.pin ")
    assert "\n" not in str(caught.value)


@given(LAYERS, st.data())
def test_any_flipped_bit_is_one_error(layers: list[bytes], data: st.DataObject) -> None:
    damaged = bytearray(pack_pin(layers))
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptDataError):
        unpack_pin(bytes(damaged))


@given(LAYERS, st.binary(min_size=1, max_size=20))
def test_bytes_after_the_end_are_found(layers: list[bytes], more: bytes) -> None:
    with pytest.raises(CorruptDataError):
        unpack_pin(pack_pin(layers) + more)


@given(st.binary(max_size=60), st.booleans(), st.booleans())
def test_any_bytes_are_layers_or_one_error(body: bytes, magic: bool, salvage: bool) -> None:
    body = (b"\x9eP" if magic else b"") + body
    for data in (body, sealed(body)):
        try:
            layers = unpack_pin(data, salvage=salvage)
        except CorruptDataError:
            continue
        assert 1 <= len(layers) <= 15
        assert all(layers)


@given(LAYERS, st.data())
def test_salvage_returns_the_layers_that_end_inside(layers: list[bytes], data: st.DataObject) -> None:
    whole = pack_pin(layers)
    cut = data.draw(st.integers(0, len(whole) - 1))
    end = len(whole) - 4 - sum(map(len, layers))
    complete = 0
    for layer in layers[:-1]:
        end += len(layer)
        complete += end <= cut
    if complete == 0:
        with pytest.raises(CorruptDataError):
            unpack_pin(whole[:cut], salvage=True)
    else:
        assert unpack_pin(whole[:cut], salvage=True) == layers[:complete]


def test_a_truncated_file_says_how_much_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "cut.pin"
    layers = [b"a" * 50, b"b" * 60, b"c" * 70, b"d" * 80]
    write_pin(path, layers)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(CorruptDataError, match=r"cut\.pin is damaged .* 2 of 4 layers look whole; .*--salvage"):
        read_pin(path)
    assert read_pin(path, salvage=True) == layers[:2]


@pytest.mark.parametrize(
    "body",
    [
        b"\x9eP\x10",  # no layer
        b"\x9eP\x11",  # one empty layer
        b"\x9eP\x12\x05abcde",  # an empty last layer
        b"\x9eP\x12\x00abc",  # an empty first layer
        b"\x9eP\x12\x7fabc",  # longer than the file
        b"\x9eP\x12\x81\x00abc",  # a length that is not in its shortest form
        b"\x9eP\x12\xff\xff\xff\xff\xff\x01abc",  # a length without end
        b"\x9eP\x13\x01",  # lengths cut off
    ],
)
def test_wrong_lengths_under_a_right_checksum(body: bytes) -> None:
    for salvage in (False, True):
        with pytest.raises(CorruptDataError, match="lengths"):
            unpack_pin(sealed(body), salvage=salvage)


def test_other_files_and_versions_are_told_apart() -> None:
    with pytest.raises(CorruptDataError, match=r"no \.pin file"):
        unpack_pin(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(CorruptDataError, match="version 2"):
        unpack_pin(sealed(b"\x9eP\x21abc"))


@pytest.mark.parametrize("layers", [[], [b"x"] * 16, [b""], [b"x", b""]])
def test_what_cannot_be_written_is_refused(tmp_path: Path, layers: list[bytes]) -> None:
    with pytest.raises(PinholeError):
        write_pin(tmp_path / "x.pin", layers)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_far_too_large_are_neither_read_nor_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pin, "MAX_FILE_BYTES", 100)
    with pytest.raises(PinholeError, match="at most 100 bytes"):
        write_pin(tmp_path / "x.pin", [b"x" * 100])
    (tmp_path / "x.pin").write_bytes(b"\x9eP" + bytes(1000))
    with pytest.raises(CorruptDataError, match="larger"):
        read_pin(tmp_path / "x.pin")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match=r"absent\.pin: No such file"):
        read_pin(tmp_path / "absent.pin")
    with pytest.raises(PinholeError, match="directory"):
        read_pin(tmp_path)
