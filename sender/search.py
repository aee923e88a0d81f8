"""Search: the highest quality whose bytes fit, in few trials.

A trial costs a pass of the entropy coder, so it should not be wasted on bisection: the bundle tells the mean rate at
every quality, and pictures differ from the mean mostly by a factor. The first trial is where the mean picture would
fit, the second where it fits with this picture's factor, the others where it fits with a factor that changes steadily
through the two trials nearest to what is left (secant and regula falsi on the logarithm of the size).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

TRIALS = 5
"""Most trials of one search."""


def highest_fitting(
    expected: Sequence[float], largest: float, measure: Callable[[int], int], *, trials: int = TRIALS
) -> int | None:
    """Find the highest grade whose size is within a limit.

    Sizes are taken to grow with the grade. Where they do not, the result still fits; a higher one may have as well.

    Args:
        expected: estimated size of every grade, above 0.
        largest: the limit.
        measure: returns the true size of a grade, at least 1; called at most once for each.
        trials: most calls of ``measure``, at least 1.

    Returns:
        The highest measured grade that fits, or None if none does; grade 0 has been measured then.
    """
    model = np.log(np.maximum.accumulate(np.asarray(expected, np.float64)))
    limit = np.log(largest) if largest > 0 else -np.inf
    fits, exceeds = -1, len(model)
    errors: dict[int, float] = {}
    for trial in range(trials):
        if fits + 1 >= exceeds:
            break
        if fits < 0 and trial == trials - 1:
            grade = 0  # the only one left that must be known
        else:
            inside = np.arange(fits + 1, exceeds)
            predicted = model[inside] + _error(errors, inside)
            grade = int(inside[0] + max(0, np.count_nonzero(predicted <= limit) - 1))
        size = measure(grade)
        errors[grade] = float(np.log(size) - model[grade])
        if size <= largest:
            fits = grade
        else:
            exceeds = grade
    return fits if fits >= 0 else None


def _error(errors: Mapping[int, float], inside: NDArray[np.intp]) -> NDArray[np.float64] | float:
    """Estimate the model's error at grades between or beyond the measured ones, from the nearest two of those."""
    below = sorted(grade for grade in errors if grade < inside[0])
    above = sorted(grade for grade in errors if grade > inside[-1])
    nearest = [below[-1], above[0]] if below and above else below[-2:] or above[:2]
    if not nearest:
        return 0.0
    first, last = nearest[0], nearest[-1]
    slope = (errors[last] - errors[first]) / (last - first) if last > first else 0.0
    return np.asarray(errors[first] + slope * (inside - first), np.float64)
