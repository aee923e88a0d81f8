"""What to do when the memory does not suffice: fewer pictures at once, then smaller tiles, then one clear error."""

import gc
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch

from shared.errors import PinholeError

Item = TypeVar("Item")
Result = TypeVar("Result")

SMALLEST_TILE = 32
"""Latent positions: 256 pixels. Smaller tiles save little and show the UNet too small a part of the picture."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch's allocator on the CPU has no error class of its own.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


class MemoryLadder:
    """Runs work at the largest batch and tile that memory allows, and remembers what that was for each shape.

    Args:
        batch: items at once to begin with.
        tile: tile to begin with, latent positions.
    """

    def __init__(self, batch: int, tile: int) -> None:
        self._batch, self._tile = batch, tile
        self._fitting: dict[Hashable, tuple[int, int]] = {}

    def run(
        self,
        shape: tuple[int, int],
        items: Sequence[Item],
        attempt: Callable[[Sequence[Item], int], Sequence[Result]],
    ) -> list[Result]:
        """Do some work on items of one shape.

        Args:
            shape: rows and columns of their latents.
            items: what is worked on.
            attempt: does the work on some of them with a tile; may run out of memory.

        Returns:
            A result for each item.

        Raises:
            PinholeError: if memory does not suffice for one item in the smallest tiles.
        """
        results: list[Result] = []
        while len(results) < len(items):
            batch, tile = self._fitting.get(shape, (self._batch, self._tile))
            chosen = items[len(results) : len(results) + batch]
            done = _unless_out_of_memory(attempt, chosen, tile)
            if done is None:
                self._fitting[shape] = _smaller(shape, len(chosen), tile)
            else:
                results += done
        return results


def _unless_out_of_memory(
    attempt: Callable[[Sequence[Item], int], Sequence[Result]], items: Sequence[Item], tile: int
) -> Sequence[Result] | None:
    try:
        return attempt(items, tile)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Only out here, where the error and the frames that it holds are gone, is their memory free again.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _smaller(shape: tuple[int, int], batch: int, tile: int) -> tuple[int, int]:
    """Return the next smaller batch and tile."""
    if batch > 1:
        return batch // 2, tile
    # A tile larger than the picture is none: start from the picture.
    halved = min(tile, max(shape)) // 2 // 8 * 8
    if min(tile, max(shape)) <= SMALLEST_TILE:
        raise PinholeError(
            f"memory does not suffice to decode {8 * shape[1]}x{8 * shape[0]} pixels, not even one picture in tiles of "
            f"{8 * SMALLEST_TILE} pixels; free memory, give --device cpu, or --precision bf16"
        )
    return 1, max(SMALLEST_TILE, halved)
