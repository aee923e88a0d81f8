from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sender.units import format_bytes, format_rate, parse_rate
from shared.errors import PinholeError


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("9.6kbps", 9600),
        ("2400bps", 2400),
        ("0.5Mbps", 500_000),
        ("64 kbit/s", 64_000),
        ("64Kb/s", 64_000),
        ("1Gbps", 1e9),
        ("1200", 1200),
        (".5kbps", 500),
    ],
)
def test_rates_as_people_write_them(text: str, rate: float) -> None:
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "fast", "0bps", "-5bps", "9.6kBps", "9.6k", "1e400", "nan", "9.6 bps x", "5mbps"])
def test_what_is_no_rate_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(PinholeError) as caught:
        parse_rate(text)
    assert "\n" not in str(caught.value)
    assert "9.6kbps" in str(caught.value)


@given(st.text(max_size=12))
def test_any_text_is_a_positive_rate_or_refused(text: str) -> None:
    with suppress(PinholeError):
        assert 0 < parse_rate(text) < float("inf")


@given(st.floats(1, 1e9))
def test_what_is_printed_can_be_read_again(rate: float) -> None:
    assert parse_rate(format_rate(rate)) == pytest.approx(rate, rel=1e-3)


def test_bytes_are_printed_with_decimal_prefixes() -> None:
    assert [format_bytes(count) for count in (0, 999, 1840, 2_500_000)] == ["0 B", "999 B", "1.84 kB", "2.5 MB"]
