"""Networks of metrics run without gradients and without the arithmetic short cuts of GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from shared.codec.interfaces import Pixels


@contextmanager
def measuring() -> Iterator[None]:
    """No gradients, no TF32, no search for the quickest kernel: the same figures every time."""
    with (
        torch.no_grad(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


def as_batch(pixels: Pixels, device: torch.device) -> Tensor:
    """Return RGB bytes ``height x width x 3`` as float32 ``1 x 3 x height x width`` in [-1, 1]."""
    values = torch.tensor(np.ascontiguousarray(pixels), device=device)
    return values.permute(2, 0, 1)[None].float().div_(127.5).sub_(1.0)
