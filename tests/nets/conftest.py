import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.nets.golden_vectors import Golden


@pytest.fixture(scope="session")
def golden() -> Golden:
    shared = Path(os.environ.get("PINHOLE_SHARED") or Path(__file__).parents[3] / "shared")
    folder = shared / "reference" / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden vectors of the official code at {folder}; point PINHOLE_SHARED at their folder")
    return Golden(folder)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
