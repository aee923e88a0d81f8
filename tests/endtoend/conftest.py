"""Both ends of a link for every end-to-end test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endtoend.ends import Ends


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    """A sender and a station that know each other's keys."""
    made = Ends(tmp_path)
    made.make_keys()
    yield made
    made.kill_all()
