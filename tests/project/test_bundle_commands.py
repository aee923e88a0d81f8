import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pinhole import bundle_command, bundles, info_command
from pinhole.cli import run
from shared.codec.header import PictureHeader
from shared.codec.interfaces import OperatingPoint
from shared.codec.pin import write_pin
from shared.errors import CorruptDataError, PinholeError


@dataclass
class SmallBundle:
    """What the commands use of a bundle."""

    name: str
    bundle_id: bytes
    damaged: bool = False
    operating_points: tuple[OperatingPoint, ...] = (OperatingPoint(1, "low", 0.03125), OperatingPoint(2, "high", 0.1))
    manifest: dict[str, object] = field(default_factory=lambda: {"format": 1, "files": ["a.onnx"]})

    def verify(self) -> None:
        if self.damaged:
            raise CorruptDataError(f"bundle {self.name}: a.onnx has another hash than the manifest; install it again")


BUNDLES = {
    "small": SmallBundle("small", b"\x01\x02\x03\x04"),
    "torn": SmallBundle("torn", b"\x05\x06\x07\x08", damaged=True),
}


@pytest.fixture(autouse=True)
def _bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> SmallBundle:
        if name not in BUNDLES:
            raise PinholeError(f"there is no bundle {name}; `pinhole bundle list` shows those that are here")
        return BUNDLES[name]

    def installed() -> Iterator[SmallBundle]:
        yield from BUNDLES.values()

    monkeypatch.setattr(bundles, "installed_bundles", installed)
    monkeypatch.setattr(bundle_command, "installed_bundles", installed)
    monkeypatch.setattr(bundle_command, "find_bundle", find)


def a_pin(folder: Path, bundle_id: bytes, captured: int | None = None) -> Path:
    base = PictureHeader(bundle_id, 40, 20, 2, 4, captured).pack() + b"base"
    write_pin(folder / "a.pin", [base, b"x" * 30, b"y" * 50])
    return folder / "a.pin"


def test_info_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = a_pin(tmp_path, b"\x01\x02\x03\x04", captured=1_700_000_000)
    assert run(["info", str(file), "--json"]) == 0
    size = file.stat().st_size
    assert json.loads(capsys.readouterr().out) == {
        "file": str(file),
        "bytes": size,
        "width": 40,
        "height": 20,
        "bits_per_pixel": round(8 * size / 800, 5),
        "quality": 2,
        "layers_made": 4,
        "layer_bytes": [18, 30, 50],
        "frame_bytes": size - 98,
        "captured": "2023-11-14T22:13:20+00:00",
        "bundle_id": "01020304",
        "bundle": "small",
    }


def test_info_of_an_unknown_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = a_pin(tmp_path, b"\xff\xff\xff\xff")
    assert info_command.describe(file)["bundle"] is None
    assert run(["info", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "ffffffff" in shown
    assert "14 + 30 + 50" in shown
    assert "…" not in shown
    assert "not installed here" in shown


def test_info_of_what_is_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = a_pin(tmp_path, b"\x01\x02\x03\x04")
    file.write_bytes(file.read_bytes()[:-9])
    assert run(["info", str(file)]) == 1
    assert "2 of 3 layers look whole" in capsys.readouterr().err
    write_pin(file, [b"short"])
    assert run(["info", str(file)]) == 1
    error = capsys.readouterr().err
    assert str(file) in error
    assert error.count("\n") == 1


def test_bundles_are_listed_with_their_operating_points(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "list"]) == 0
    shown = capsys.readouterr().out
    for word in ("small", "01020304", "torn", "05060708", "low", "high", "0.0312", "0.1000"):
        assert word in shown


def test_a_bundles_manifest_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "show", "small"]) == 0
    assert json.loads(capsys.readouterr().out) == {"format": 1, "files": ["a.onnx"]}
    assert run(["bundle", "show", "none"]) == 1
    assert capsys.readouterr().err.startswith("pinhole bundle: there is no bundle none;")


def test_bundles_are_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "verify", "small"]) == 0
    assert "every file is what its manifest says" in capsys.readouterr().out
    assert run(["bundle", "verify", "torn"]) == 1
    assert "another hash" in capsys.readouterr().err
    assert run(["bundle", "verify"]) == 2
    assert "Missing argument 'NAME'" in capsys.readouterr().err
    assert run(["bundle"]) == 2
