"""The limit of open files that long-running commands raise."""

import resource
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from shared.open_files import allow_many_open_files
allow_many_open_files(int(sys.argv[3]))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "after"),
    [(100, 300, 65536, (300, 300)), (100, 300, 200, (200, 300)), (300, 300, 200, (300, 300))],
)
def test_the_soft_limit_rises_as_far_as_wanted_and_allowed(
    soft: int, hard: int, wanted: int, after: tuple[int, int]
) -> None:
    arguments = [sys.executable, "-c", SCRIPT, *map(str, (soft, hard, wanted))]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert tuple(map(int, ran.stdout.split())) == after


def test_without_such_limits_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.open_files import allow_many_open_files

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setitem(sys.modules, "resource", None)
    allow_many_open_files(before[0] + 1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
