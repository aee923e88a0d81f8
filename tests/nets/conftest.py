from collections.abc import Iterator

import pytest
import torch

from tests.nets.golden_vectors import Golden
from tests.shared_folder import shared_folder


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden(shared_folder("reference/golden"))


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
