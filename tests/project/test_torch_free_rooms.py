import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import importlib, pkgutil, sys

for name in sys.argv[1:]:
    package = importlib.import_module(name)
    print(name)
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."):
        importlib.import_module(module.name)
        print(module.name)
heavy = {"torch", "torchvision", "diffusers", "compressai"} & set(sys.modules)
sys.exit(f"imported {sorted(heavy)}" if heavy else 0)
"""


def imported(repository: Path, *names: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", PROGRAM, *names], cwd=repository, capture_output=True, text=True)


@pytest.mark.parametrize(
    "names",
    [
        ["sender"],
        ["shared.link"],
        ["shared.transports"],
        ["shared.picture", "shared.settings", "shared.outputs", "shared.codec.pin", "shared.codec.header"],
        [
            "pinhole.cli",
            "pinhole.info_command",
            "pinhole.bundle_command",
            "pinhole.keys_command",
            "pinhole.relay_command",
        ],
    ],
)
def test_these_never_bring_torch_in(repository: Path, names: list[str]) -> None:
    done = imported(repository, *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == names[0]


def test_the_check_itself_sees_torch(repository: Path) -> None:
    done = imported(repository, "torch.version")
    assert done.returncode != 0
    assert "imported ['torch']" in done.stderr
