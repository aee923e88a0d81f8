"""Training crops in an order that is a function of seed and position alone: a resumed run sees what it would have.

Every crop of a run has a position: its number counted over all processes. Which photograph, place and flip it is comes
from a generator seeded by seed and position, whatever process, worker or run cuts it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from shared.errors import PinholeError
from training.config import DataConfig
from training.data import Photographs, to_tensor


class CropDataset(Dataset[Tensor]):
    """The endless list of crops ``3 x crop x crop`` in [-1, 1], indexed by position.

    Raises:
        PinholeError: if crops can be larger than photographs.
    """

    def __init__(self, photographs: Photographs, config: DataConfig, seed: int) -> None:
        if config.crop_share is None and config.crop > photographs.smallest:
            raise PinholeError(
                f"data.crop is {config.crop} but photographs of {photographs.smallest} pixels are let in; "
                "raise data.smallest, lower data.crop or set data.crop_share"
            )
        self._photographs, self._config, self._seed = photographs, config, seed

    def __getitem__(self, position: int) -> Tensor:
        """Cut the crop at a position."""
        generator = np.random.default_rng((self._seed, position))
        piece = self._photographs.random_crop(generator, self._config.crop, self._config.crop_share)
        return to_tensor(piece[None])[0]


class PositionSampler(Sampler[list[int]]):
    """Batches of positions from one on, this process's share of every step.

    Args:
        first: number of the first batch, counted over the whole run.
        batch: crops a batch and process.
        process: number of this process.
        processes: how many there are.
    """

    def __init__(self, first: int, batch: int, process: int = 0, processes: int = 1) -> None:
        self._first, self._batch, self._process, self._processes = first, batch, process, processes

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of positions for ever."""
        number = self._first
        while True:
            start = (number * self._processes + self._process) * self._batch
            yield list(range(start, start + self._batch))
            number += 1


def crop_batches(
    photographs: Photographs, config: DataConfig, seed: int, first: int, process: int = 0, processes: int = 1
) -> Iterator[Tensor]:
    """Return endless batches ``batch x 3 x crop x crop`` of one process, beginning with batch number ``first``."""
    loader = DataLoader(
        CropDataset(photographs, config, seed),
        batch_sampler=PositionSampler(first, config.batch, process, processes),
        num_workers=config.workers,
        pin_memory=torch.cuda.is_available(),
        # The loader draws a base seed for its workers; from a generator of its own, the run's is left alone.
        generator=torch.Generator().manual_seed(seed),
    )
    return iter(loader)
