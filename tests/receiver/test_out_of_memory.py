from collections.abc import Sequence

import pytest
import torch

from receiver.out_of_memory import SMALLEST_TILE, MemoryLadder, is_out_of_memory
from shared.errors import PinholeError


class Device:
    """Has room for so many latent positions: of a picture, or of one tile of it."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.calls: list[tuple[int, int]] = []

    def double(self, items: Sequence[int], tile: int) -> list[int]:
        self.calls.append((len(items), tile))
        if len(items) * min(tile, 96) * min(tile, 64) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return [2 * item for item in items]


def test_batches_halve_until_they_fit_and_results_keep_their_order() -> None:
    device, ladder = Device(room=2 * 96 * 64), MemoryLadder(batch=8, tile=96)
    assert ladder.run((64, 96), range(7), device.double) == [0, 2, 4, 6, 8, 10, 12]
    assert device.calls == [(7, 96), (3, 96), (1, 96), (1, 96), (1, 96), (1, 96), (1, 96), (1, 96), (1, 96)]


def test_what_has_fitted_is_remembered_for_the_shape_alone() -> None:
    device, ladder = Device(room=96 * 64), MemoryLadder(batch=2, tile=96)
    ladder.run((64, 96), [1, 2], device.double)
    device.calls.clear()
    ladder.run((64, 96), [1, 2], device.double)
    assert device.calls == [(1, 96), (1, 96)]
    device.room *= 2
    ladder.run((96, 64), [1, 2], device.double)
    assert device.calls[-1] == (2, 96)


def test_after_single_pictures_come_smaller_tiles() -> None:
    device, ladder = Device(room=40 * 40), MemoryLadder(batch=2, tile=256)
    assert ladder.run((64, 96), [1], device.double) == [2]
    assert device.calls == [(1, 256), (1, 48), (1, 32)]


def test_what_never_fits_is_one_clear_error() -> None:
    device, ladder = Device(room=10), MemoryLadder(batch=2, tile=96)
    with pytest.raises(
        PinholeError, match=r"memory does not suffice to decode 768x512 pixels.*256 pixels; free memory"
    ):
        ladder.run((64, 96), [1, 2], device.double)
    assert device.calls[-1] == (1, SMALLEST_TILE)


def test_other_errors_pass_through_at_once() -> None:
    def fail(items: Sequence[int], tile: int) -> list[int]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        MemoryLadder(4, 96).run((64, 96), [1, 2], fail)


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))
