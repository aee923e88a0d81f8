"""Qualities and the picture header that names them, without a bundle."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinhole.cli import run
from shared.codec.header import VERSION, PictureHeader
from shared.codec.interfaces import OperatingPoint
from shared.codec.pin import write_pin
from shared.codec.quality import (
    HIGHEST_QUALITY,
    QUALITY_STEPS,
    choose_quality,
    expected_rate,
    interpolate,
    quality_grid,
    quality_name,
    quality_text,
)
from shared.errors import CorruptDataError, PinholeError, UsageError

POINTS = [OperatingPoint(number, name, 0.02 * number) for number, name in enumerate(("low", "middle", "high"), 1)]
QUALITIES = st.integers(0, 255).map(lambda step: 1 + step / QUALITY_STEPS)
HEADERS = st.builds(
    PictureHeader,
    st.binary(min_size=4, max_size=4),
    st.integers(1, 65535),
    st.integers(1, 65535),
    QUALITIES,
    st.integers(1, 15),
    st.none() | st.integers(0, 2**32 - 1),
)


@given(HEADERS, st.binary(max_size=20))
def test_headers_come_back(header: PictureHeader, rest: bytes) -> None:
    packed = header.pack()
    assert len(packed) == (10 if header.captured is None else 14)
    assert PictureHeader.unpack(packed + rest) == (header, len(packed))


@given(st.binary(max_size=20))
def test_any_bytes_are_a_header_or_one_error(data: bytes) -> None:
    try:
        header, length = PictureHeader.unpack(data)
    except CorruptDataError:
        return
    assert header.pack() == data[:length]
    assert 1 <= header.quality <= HIGHEST_QUALITY


@pytest.mark.parametrize("quality", [0.9375, 2.53, HIGHEST_QUALITY + 1 / 16, float("nan"), float("inf")])
def test_a_header_never_names_another_quality_than_was_asked_for(quality: float) -> None:
    with pytest.raises(PinholeError, match="quality"):
        PictureHeader(b"test", 8, 8, quality, 4).pack()


def test_headers_of_other_versions_are_refused_by_name() -> None:
    packed = PictureHeader(b"test", 8, 8, 2, 4).pack()
    assert packed[0] & 0x0F != 1, "a reader of version 1 looks for a 1 in the low four bits"
    for version in (0, 1, 3):
        with pytest.raises(CorruptDataError, match=f"version {version}; this Pinhole reads version {VERSION}"):
            PictureHeader.unpack(bytes([packed[0] & 0xFC | version]) + packed[1:])
    with pytest.raises(CorruptDataError, match="reserved"):
        PictureHeader.unpack(bytes([packed[0] | 0x08]) + packed[1:])


def test_the_first_header_byte_and_the_quality_byte() -> None:
    packed = PictureHeader(b"test", 8, 8, 2.25, 3, 0).pack()
    assert (packed[0], packed[9]) == (3 << 4 | 0x04 | VERSION, 20)


@given(st.floats(1, 3))
def test_wishes_are_rounded_to_the_grid(wanted: float) -> None:
    quality = choose_quality(POINTS, wanted)
    assert abs(quality - wanted) <= 1 / 32
    assert quality in quality_grid(POINTS)
    assert PictureHeader.unpack(PictureHeader(b"test", 8, 8, quality, 4).pack())[0].quality == quality


@pytest.mark.parametrize("wanted", [0.5, 0.99, 3.01, 99, float("nan"), float("inf"), -1])
def test_wishes_outside_the_bundle_are_one_line(wanted: float) -> None:
    with pytest.raises(UsageError, match=f"quality {wanted:g} is not in this bundle; give 1 to 3"):
        choose_quality(POINTS, wanted)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6), st.data())
def test_interpolation_meets_the_points_and_stays_between_them(values: list[float], data: st.DataObject) -> None:
    column = np.array(values)[:, None]
    for number, value in enumerate(values, 1):
        assert interpolate(column, number)[0] == value
    step = data.draw(st.integers(0, (len(values) - 1) * QUALITY_STEPS - 1))
    quality = 1 + step / QUALITY_STEPS
    below, above = values[int(quality) - 1], values[int(quality)]
    got = interpolate(column, quality)[0]
    assert min(below, above) * (1 - 1e-12) <= got <= max(below, above) * (1 + 1e-12)
    # Equal steps of quality are equal factors.
    share = quality - int(quality)
    assert got == pytest.approx(below * (above / below) ** share)


def test_expected_rates_grow_over_the_grid() -> None:
    rates = [expected_rate(POINTS, quality) for quality in quality_grid(POINTS)]
    assert len(rates) == 2 * QUALITY_STEPS + 1
    assert rates == sorted(set(rates))
    assert (rates[0], rates[-1]) == (POINTS[0].bits_per_pixel, POINTS[-1].bits_per_pixel)
    unmeasured = [OperatingPoint(number, "new", 0.0) for number in (1, 2)]
    assert expected_rate(unmeasured, 1.5) > 0


def test_qualities_are_written_and_named() -> None:
    assert [quality_text(quality) for quality in (3, 3.0, 3.25, 2.0625, 16.9375)] == [
        "3",
        "3",
        "3.25",
        "2.0625",
        "16.9375",
    ]
    assert quality_name(POINTS, 3) == "high"
    assert quality_name(POINTS, 1.5) == "between low and middle"


@pytest.mark.parametrize(("quality", "shown"), [(3.25, "3.25"), (3.0, "3")])
def test_info_shows_the_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str], quality: float, shown: str) -> None:
    write_pin(tmp_path / "a.pin", [PictureHeader(b"none", 40, 20, quality, 1).pack() + b"base"])
    assert run(["info", str(tmp_path / "a.pin")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " quality " in line]
    assert f" {shown} " in line
