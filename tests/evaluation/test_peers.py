import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared.codec.interfaces import Pixels
from shared.errors import CorruptDataError, UsageError
from sim.metrics import psnr
from sim.photographs import PHOTOGRAPHS
from training.evaluation.peers import LARGEST, PEERS, SMALLEST, colour, ffmpeg, missing_peers, search, select_peers
from training.evaluation.peers.peer import Peer
from training.evaluation.peers.search import choose

PICTURES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


class Ladder(Peer):
    """A codec whose file at setting n has ``sizes[n]`` bytes."""

    name = "Ladder"

    def __init__(self, sizes: Sequence[int], release: str = "1") -> None:
        self.sizes, self.release = sizes, release
        self.settings = tuple(range(len(sizes)))
        self.encoded: list[int] = []

    def _version(self) -> str:
        return f"ladder {self.release}"

    def missing(self) -> str | None:
        return None

    def encode(self, pixels: Pixels, setting: int) -> bytes:
        self.encoded.append(setting)
        return bytes([setting]) * self.sizes[setting]

    def decode(self, data: bytes, width: int, height: int) -> Pixels:
        return np.full((height, width, 3), data[0], np.uint8)

    def describe(self, setting: int) -> str:
        return f"rung {setting}"


@pytest.fixture(scope="module")
def photograph() -> Pixels:
    """Detail and an odd size: 75 x 101 pixels."""
    return np.ascontiguousarray(PHOTOGRAPHS[0].pixels()[60:135, 180:281])


@given(PICTURES)
def test_colour_conversion_loses_nothing(pixels: Pixels) -> None:
    assert np.array_equal(colour.to_pixels(*colour.to_planes(pixels)), pixels)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 255, 255), (1023, 512, 512)),
        ((0, 0, 0), (0, 512, 512)),
        # H.273, equations for full range with Kr = 0.2126 and Kb = 0.0722.
        ((255, 0, 0), (217, 395, 1023)),
        ((0, 0, 255), (74, 1023, 465)),
    ],
)
def test_levels_are_those_of_bt709_at_full_range(rgb: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    y, cb, cr = colour.to_planes(np.array([[rgb]], np.uint8))
    levels = colour.quantise_luma(y, 10), colour.quantise_chroma(cb, 10), colour.quantise_chroma(cr, 10)
    assert tuple(int(level[0, 0]) for level in levels) == expected


def test_halved_chroma_sits_on_even_columns_between_rows() -> None:
    rows, columns = np.mgrid[0:48, 0:64].astype(np.float32)
    inside = slice(4, -4)
    assert np.allclose(colour.halve(columns)[inside, inside], columns[::2, ::2][inside, inside], atol=1e-3)
    assert np.allclose(colour.halve(rows)[inside, inside], rows[::2, ::2][inside, inside] + 0.5, atol=1e-3)
    for plane in (rows, columns):
        again = colour.double(colour.halve(plane))
        assert np.allclose(again[8:-8, 8:-8], plane[8:-8, 8:-8], atol=1e-3)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=120), st.integers(1, 520))
def test_choice_is_the_smallest_file_that_is_large_enough(sizes: list[int], target: int) -> None:
    sizes.sort()
    asked: list[int] = []

    def size_of(setting: int) -> int:
        asked.append(setting)
        return sizes[setting]

    setting, note = choose(range(len(sizes)), size_of, target)
    enough = [size for size in sizes if size >= target]
    assert sizes[setting] == (min(enough) if enough else sizes[-1])
    assert len(asked) == len(set(asked)) <= 16 + len(sizes).bit_length()
    if note == LARGEST:
        assert not enough
    elif note == SMALLEST:
        assert sizes[0] == sizes[setting] > target
    else:
        assert enough


@given(st.lists(st.integers(-3, 12), min_size=1, max_size=100), st.integers(50, 900))
def test_choice_holds_on_sizes_that_are_not_monotone(differences: list[int], target: int) -> None:
    sizes = np.maximum(1, 100 + np.cumsum(differences)).tolist()
    setting, note = choose(range(len(sizes)), sizes.__getitem__, target)
    if note == LARGEST:
        assert sizes[setting] < target
        assert sizes[-1] < target
    else:
        assert sizes[setting] >= target
        # A dip right beside the answer is found.
        beside = [sizes[near] for near in (setting - 1, setting + 1) if 0 <= near < len(sizes)]
        assert note == SMALLEST or any(size < target for size in sizes) or min(sizes) == target
        assert all(size < target or size >= sizes[setting] for size in beside)


def test_search_uses_what_the_cache_holds(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    ladder = Ladder(range(10, 250, 5))
    first = search(ladder, pixels, 101, tmp_path)
    assert (first.size, first.setting, first.note) == (105, "rung 19", "")
    assert first.pixels.shape == (4, 5, 3)
    assert first.pixels[0, 0, 0] == 19
    again = Ladder(range(10, 250, 5))
    second = search(again, pixels, 101, tmp_path)
    assert again.encoded == []
    assert second.data == first.data
    assert second.encode_seconds == first.encode_seconds
    # Another picture, another version: nothing of the first may answer for them.
    other = Ladder(range(11, 251, 5), release="2")
    assert search(other, pixels, 101, tmp_path).size == 101
    search(again, pixels + np.uint8(1), 101, tmp_path)
    assert again.encoded


def test_a_damaged_cache_entry_is_made_again(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    search(Ladder([30, 60, 90]), pixels, 50, tmp_path)
    for path in tmp_path.rglob("1"):
        content = bytearray(path.read_bytes())
        content[10] ^= 1
        path.write_bytes(content)
    mended = Ladder([30, 60, 90])
    assert search(mended, pixels, 50, tmp_path).data == bytes([1]) * 60
    assert mended.encoded == [1]


def test_targets_out_of_reach_are_noted() -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    smallest = search(Ladder([30, 60, 90]), pixels, 10)
    assert (smallest.size, smallest.note) == (30, SMALLEST)
    largest = search(Ladder([30, 60, 90]), pixels, 100)
    assert (largest.size, largest.note) == (90, LARGEST)
    exact = search(Ladder([30, 60, 90]), pixels, 30)
    assert (exact.size, exact.note) == (30, "")


def test_search_of_a_real_codec_meets_its_target(photograph: Pixels, tmp_path: Path) -> None:
    webp = PEERS["WebP"]
    found = search(webp, photograph, 1500, tmp_path)
    sizes = [len(webp.encode(photograph, quality)) for quality in webp.settings]
    assert found.size >= 1500
    # Sizes may dip a little somewhere off the place where the search ends.
    assert found.size <= 1.03 * min(size for size in sizes if size >= 1500)
    assert found.pixels.shape == photograph.shape


@pytest.mark.parametrize("name", PEERS)
def test_peer_codes_odd_sizes_well_and_orders_its_settings(
    name: str, photograph: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluation.peers.still.LONGEST_DECODE", 3.0)
    peer = PEERS[name]
    if (reason := peer.missing()) is not None:
        pytest.skip(reason)
    height, width = photograph.shape[:2]
    small, middle, large = (
        peer.encode(photograph, peer.settings[place]) for place in (0, len(peer.settings) // 2, len(peer.settings) - 1)
    )
    assert len(small) <= len(middle) < len(large)
    decoded = peer.decode(large, width, height)
    assert decoded.shape == photograph.shape
    assert decoded.dtype == np.uint8
    # A wrong matrix or range costs more than what is left to 30 dB.
    assert psnr(photograph, decoded) > 33
    assert np.abs(decoded.mean(axis=(0, 1)) - photograph.mean(axis=(0, 1))).max() < 0.6
    assert peer.describe(peer.settings[0]) != peer.describe(peer.settings[-1])
    for damaged in (b"", b"no picture", small[: len(small) // 4]):
        with pytest.raises(CorruptDataError):
            peer.decode(damaged, 3 * width, 3 * height)


@pytest.mark.parametrize("name", ["HEVC", "VVC"])
def test_video_peer_is_not_charged_for_messages(name: str, photograph: Pixels) -> None:
    peer = PEERS[name]
    if (reason := peer.missing()) is not None:
        pytest.skip(reason)
    stream = peer.encode(photograph, 40)
    units = [unit for unit in re.split(rb"\x00{2,3}\x01", stream) if unit]
    types = [unit[0] >> 1 & 63 if name == "HEVC" else unit[1] >> 3 for unit in units]
    coded, messages = (range(0, 32), {35, 39, 40}) if name == "HEVC" else (range(0, 12), {20, 23, 24})
    assert sum(kind in coded for kind in types) == 1
    assert not messages & set(types)
    assert b"x265" not in stream


def test_jpeg_2000_carries_no_comment(photograph: Pixels) -> None:
    assert b"OpenJPEG" not in PEERS["JPEG 2000"].encode(photograph, 200)


def test_peers_are_named_as_people_write_them() -> None:
    assert [peer.name for peer in select_peers(["vvc", "jpegxl", "JPEG-2000", "VVC"])] == [
        "VVC",
        "JPEG XL",
        "JPEG 2000",
    ]
    with pytest.raises(UsageError, match="no peer FLIF"):
        select_peers(["FLIF"])


def test_an_ffmpeg_without_an_encoder_leaves_the_peer_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "codecs", lambda: (frozenset({"libx265"}), frozenset({"hevc", "vvc"})))
    lines = missing_peers()
    assert "HEVC" not in lines
    assert "VVC is left out" in lines["VVC"]
    assert "libvvenc" in lines["VVC"]
    assert "JPEG XL" in lines
