import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.bd_rate import bd_rate

RATES = [0.02, 0.04, 0.08, 0.16]
PSNR = [21.0, 23.0, 24.6, 26.0]


@st.composite
def curves(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """A curve of 2 to 8 points whose quality rises with the rate."""
    steps = draw(st.lists(st.tuples(st.floats(1.05, 3.0), st.floats(0.01, 3.0)), min_size=2, max_size=8))
    rates, values = [0.01], [20.0]
    for factor, gain in steps[1:]:
        rates.append(rates[-1] * factor)
        values.append(values[-1] + gain)
    return rates, values


@given(curves())
def test_a_curve_against_itself_changes_nothing(curve: tuple[list[float], list[float]]) -> None:
    delta = bd_rate(*curve, *curve, higher_is_better=True)
    assert delta.percent == pytest.approx(0, abs=1e-6)
    assert delta.overlap == pytest.approx(1)


@given(curves(), st.floats(0.2, 5.0))
def test_scaled_rates_give_the_factor(curve: tuple[list[float], list[float]], factor: float) -> None:
    rates, values = curve
    delta = bd_rate(rates, values, [factor * rate for rate in rates], values, higher_is_better=True)
    assert delta.percent == pytest.approx(100 * (factor - 1), rel=1e-6, abs=1e-6)


@given(curves(), curves())
def test_a_distance_is_a_quality_upside_down(
    anchor: tuple[list[float], list[float]], tested: tuple[list[float], list[float]]
) -> None:
    rising = bd_rate(*anchor, *tested, higher_is_better=True)
    falling = bd_rate(anchor[0], [-v for v in anchor[1]], tested[0], [-v for v in tested[1]], higher_is_better=False)
    assert rising == falling


@given(curves(), curves())
def test_swapping_the_anchor_inverts_the_ratio(
    anchor: tuple[list[float], list[float]], tested: tuple[list[float], list[float]]
) -> None:
    one = bd_rate(*anchor, *tested, higher_is_better=True).percent
    other = bd_rate(*tested, *anchor, higher_is_better=True).percent
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert (1 + one / 100) * (1 + other / 100) == pytest.approx(1, rel=1e-6)


@given(curves(), st.randoms(use_true_random=False))
def test_the_order_of_points_does_not_count(curve: tuple[list[float], list[float]], random: Random) -> None:
    points = list(zip(*curve, strict=True))
    shuffled = sorted(points, key=lambda _: random.random())
    rates, values = [r for r, _ in shuffled], [v for _, v in shuffled]
    base = [2 * rate for rate in curve[0]], curve[1]
    assert bd_rate(*base, rates, values, higher_is_better=True) == bd_rate(*base, *curve, higher_is_better=True)


def test_straight_lines_by_hand() -> None:
    # Both straight over log-rate; the second needs 10^(-0.2) of the rate at equal quality, over any common range.
    rates = [10 ** (0.5 * value) for value in (0, 1, 2, 3)]
    other = [10 ** (0.5 * value - 0.2) for value in (1, 2, 3, 4)]
    delta = bd_rate(rates, [0, 1, 2, 3], other, [1, 2, 3, 4], higher_is_better=True)
    assert delta.percent == pytest.approx(100 * (10**-0.2 - 1))
    assert delta.overlap == pytest.approx(0.5)


@pytest.mark.parametrize(("shift", "word"), [(10, "better"), (-10, "worse")])
def test_without_common_quality_there_is_none(shift: float, word: str) -> None:
    delta = bd_rate(RATES, PSNR, RATES, [value + shift for value in PSNR], higher_is_better=True)
    assert delta.percent is None
    assert delta.overlap == 0
    assert f"{word} than the anchor at every rate" in delta.remark


def test_points_that_cost_more_for_nothing_are_left_out_and_named() -> None:
    delta = bd_rate(RATES, PSNR, [*RATES, 0.1], [*PSNR, 22.0], higher_is_better=True)
    assert delta.percent == pytest.approx(0, abs=1e-9)
    assert "curve: 1 of 5 points left out" in delta.remark


def test_a_codec_stuck_at_its_smallest_file_counts_once() -> None:
    stuck = bd_rate(RATES, PSNR, [0.06, 0.06, 0.06, 0.12], [24.0, 24.0, 24.0, 25.5], higher_is_better=True)
    twice = bd_rate(RATES, PSNR, [0.06, 0.12], [24.0, 25.5], higher_is_better=True)
    assert stuck.percent is not None
    assert stuck == twice
    assert "curve: only 2 points" in stuck.remark


def test_one_point_is_no_curve() -> None:
    delta = bd_rate(RATES, PSNR, [0.06], [24.0], higher_is_better=True)
    assert delta.percent is None
    assert "curve: fewer than 2 points" in delta.remark
    assert bd_rate([], [], RATES, PSNR, higher_is_better=True).percent is None


@pytest.mark.parametrize("rates", [[0.0, 1.0], [-1.0, 1.0], [math.nan, 1.0], [1.0]])
def test_rates_that_are_none(rates: list[float]) -> None:
    with pytest.raises(ValueError, match=r"positive|shorter|longer"):
        bd_rate(RATES, PSNR, rates, [20.0, 21.0], higher_is_better=True)
