import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from receiver.noise import PictureNoise, stack_noise


def test_golden_numbers() -> None:
    # A change here paints every archived picture anew, differently.
    start = PictureNoise(231).draw(0, (2, 2, 2))
    assert start.dtype == torch.float32
    expected = [-0.89945942, 1.50714898, 1.44480431, 0.55278653, 2.31250572, 0.56919336, 0.27244079, -1.83727813]
    torch.testing.assert_close(start.flatten(), torch.tensor(expected), rtol=0, atol=1e-6)
    later = PictureNoise((1 << 63) - 1).draw(50, (3, 1, 1))
    torch.testing.assert_close(later.flatten(), torch.tensor([1.23669422, 0.19090213, 0.57946301]), rtol=0, atol=1e-6)


@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 1000), min_size=2, max_size=5, unique=True))
def test_any_order_and_any_subset_gives_the_same_numbers(seed: int, indices: list[int]) -> None:
    shape = (4, 3, 5)
    first = {index: PictureNoise(seed).draw(index, shape) for index in indices}
    one = PictureNoise(seed)
    for index in reversed(indices):
        assert torch.equal(one.draw(index, shape), first[index])
    for index in indices[1:]:
        assert not torch.equal(first[index], first[indices[0]])


@given(st.integers(), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_every_integer_is_a_seed_and_every_shape_is_filled(seed: int, channels: int, height: int, width: int) -> None:
    drawn = PictureNoise(seed).draw(0, (channels, height, width))
    assert drawn.shape == (channels, height, width)
    assert torch.isfinite(drawn).all()
    assert torch.equal(drawn, PictureNoise(seed & (2**63 - 1)).draw(0, (channels, height, width)))


def test_draws_of_one_picture_do_not_overlap_however_large_it_is() -> None:
    first, second = (PictureNoise(5).draw(index, (8, 200, 300)).numpy().ravel() for index in (0, 1))
    # Chance makes some numbers equal; a draw that ran into the next one would share long runs with it.
    assert np.isin(first[-20_000:], second[:20_000]).mean() < 0.01
    assert np.isin(first[:20_000], second[-20_000:]).mean() < 0.01


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_numbers_are_standard_normal_and_independent(seed: int) -> None:
    numbers = PictureNoise(seed).draw(0, (4, 250, 200)).double().flatten()
    points = (-2.0, -1.0, 0.0, 1.0, 2.0)
    share = torch.tensor([(1 + math.erf(x / math.sqrt(2))) / 2 for x in points], dtype=torch.float64)
    found = torch.tensor([float((numbers < x).double().mean()) for x in points], dtype=torch.float64)
    # Five deviations of a share over 200,000 numbers.
    torch.testing.assert_close(found, share, rtol=0, atol=5 * 0.5 / math.sqrt(len(numbers)))
    assert abs(float((numbers**4).mean()) - 3) < 0.15
    for distance in (1, 2, 3, 200):
        assert abs(float((numbers[distance:] * numbers[:-distance]).mean())) < 5 / math.sqrt(len(numbers))
    neighbour = PictureNoise(seed + 1).draw(0, (4, 250, 200)).double().flatten()
    assert abs(float((numbers * neighbour).mean())) < 5 / math.sqrt(len(numbers))


def test_a_batch_is_its_pictures() -> None:
    noises = [PictureNoise(seed) for seed in (3, 1, 2)]
    batch = stack_noise(noises, 4, (2, 3, 3))
    assert batch.shape == (3, 2, 3, 3)
    assert all(torch.equal(row, noise.draw(4, (2, 3, 3))) for row, noise in zip(batch, noises, strict=True))


def test_a_draw_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="give 0 or more"):
        PictureNoise(1).draw(-1, (1, 1, 1))
