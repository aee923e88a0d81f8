import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sender.search import TRIALS, highest_fitting

GRADES = st.integers(1, 240)


class Sizes:
    """Sizes by grade that remember what was asked."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.asked: list[int] = []

    def __call__(self, grade: int) -> int:
        assert grade not in self.asked, "no grade is measured twice"
        self.asked.append(grade)
        return self.sizes[grade]


@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=240),
    largest=st.integers(-5, 10**6),
    trials=st.integers(1, 8),
    growth=st.floats(0, 0.1),
)
def test_whatever_the_sizes_the_result_fits_and_trials_are_few(
    sizes: list[int], largest: int, trials: int, growth: float
) -> None:
    measure = Sizes(sizes)
    expected = [1000 * math.exp(growth * grade) for grade in range(len(sizes))]
    found = highest_fitting(expected, largest, measure, trials=trials)
    assert len(measure.asked) <= trials
    fitting = [grade for grade in measure.asked if sizes[grade] <= largest]
    assert found == max(fitting, default=None)
    if found is None:
        assert 0 in measure.asked


@given(grades=GRADES, factor=st.floats(0.05, 20), growth=st.floats(0.005, 0.03), limit=st.floats(100, 50_000))
def test_a_picture_that_is_a_factor_away_from_the_mean_is_found_exactly(
    grades: int, factor: float, growth: float, limit: float
) -> None:
    expected = [3000 * math.exp(growth * grade) for grade in range(grades)]
    sizes = [max(1, round(factor * size)) for size in expected]
    found = highest_fitting(expected, limit, Sizes(sizes))
    fitting = [grade for grade, size in enumerate(sizes) if size <= limit]
    if not fitting:
        assert found is None
    else:
        assert found is not None
        assert fitting[-1] - found <= 1, "rounding to bytes may cost one step"


@given(data=st.data(), share=st.floats(0.0, 1.0))
def test_where_growth_differs_from_the_mean_little_of_the_budget_is_left(data: st.DataObject, share: float) -> None:
    """Growth between half and twice the expected, bent over the range as pictures do."""
    grades = np.arange(81)
    expected = 2500 * np.exp(0.017 * grades)
    slope, bend = data.draw(st.floats(0.5, 2)), data.draw(st.floats(-0.3, 0.3))
    sizes = np.rint(2500 * data.draw(st.floats(0.3, 3)) * np.exp(0.017 * slope * grades * (1 + bend * grades / 80)))
    limit = int(sizes[0] + share * (sizes[-1] - sizes[0]))
    found = highest_fitting(expected.tolist(), limit, Sizes(sizes.astype(int).tolist()))
    assert found is not None
    best = int(np.flatnonzero(sizes <= limit)[-1])
    assert best - found <= 1


def test_one_trial_is_enough_at_both_ends() -> None:
    expected = [1000.0 * 1.02**grade for grade in range(81)]
    for largest, found in ((10**9, 80), (10, None)):
        measure = Sizes([round(size) for size in expected])
        assert highest_fitting(expected, largest, measure) == found
        assert len(measure.asked) == 1 < TRIALS


def test_without_expectations_the_secant_alone_finds_it() -> None:
    """A bundle that is not measured yet expects the same of every quality."""
    sizes = [round(2500 * 1.02**grade) for grade in range(81)]
    for limit in (2500, 3000, 5000, sizes[-1]):
        found = highest_fitting([1.0] * 81, limit, Sizes(sizes))
        assert found is not None
        assert sizes[found] > 0.9 * limit
