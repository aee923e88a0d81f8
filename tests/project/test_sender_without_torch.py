"""A sender installed with nothing but ``[sender]`` has no torch and does its work all the same."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.codec.pin import read_pin
from shared.picture import save_picture

pytestmark = pytest.mark.slow

_SOURCES = ("shared", "sender", "receiver", "sim", "training", "pinhole")
_BUNDLE = Path(__file__).resolve().parents[2] / "shared" / "bundles" / "pocket"

needs_bundle = pytest.mark.skipif(not _BUNDLE.is_dir(), reason="the pocket bundle is not in shared/bundles")


def outside() -> dict[str, str]:
    """Return an environment in which only what is installed can be imported."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def call(*command: str | Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, env=outside(), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def programs(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the project with ``[sender]`` in an environment of its own; return the folder of its programs."""
    folder = tmp_path_factory.mktemp("sender")
    # Built from a copy: setuptools leaves its build folder beside the sources, and would take old files from it.
    for name in _SOURCES:
        shutil.copytree(repository / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(repository / name, folder / "source" / name)
    made = call(sys.executable, "-m", "venv", folder / "environment", folder=folder)
    assert made.returncode == 0, made.stderr
    binaries = folder / "environment" / "bin"
    installed = call(binaries / "python", "-m", "pip", "install", "-q", f"{folder / 'source'}[sender]", folder=folder)
    assert installed.returncode == 0, installed.stderr
    return binaries


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Return a folder with three small smooth pictures, one of odd size."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, (height, width) in enumerate([(96, 128), (65, 77), (128, 64)]):
        y, x = np.mgrid[0:height, 0:width]
        waves = [127 + 120 * np.sin((x * (number + 1) + y * channel) / 17) for channel in range(3)]
        save_picture(np.stack(waves, axis=2).astype(np.uint8), folder / f"{number}.png")
    return folder


def test_there_is_no_torch(programs: Path, tmp_path: Path) -> None:
    listed = call(programs / "python", "-m", "pip", "list", "--format=freeze", folder=tmp_path)
    packages = {line.partition("==")[0].lower() for line in listed.stdout.splitlines()}
    assert "pinhole-link" in packages
    assert "onnxruntime" in packages
    assert not packages & {"torch", "torchvision", "diffusers", "compressai", "safetensors"}
    tried = call(programs / "python", "-c", "import torch", folder=tmp_path)
    assert "No module named 'torch'" in tried.stderr


def test_help_and_what_needs_torch(programs: Path, tmp_path: Path) -> None:
    shown = call(programs / "pinhole", "--help", folder=tmp_path)
    assert shown.returncode == 0
    assert " decompress " in shown.stdout
    (tmp_path / "a.pin").touch()
    refused = call(programs / "pinhole", "decompress", "a.pin", "-o", "a.png", folder=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == "pinhole decompress needs torch: install pinhole-link[receiver]\n"


@needs_bundle
def test_compress_and_info(programs: Path, tmp_path: Path, photographs: Path) -> None:
    verified = call(programs / "pinhole", "bundle", "verify", "pocket", folder=tmp_path)
    assert verified.returncode == 0, verified.stderr
    inputs = sorted(photographs.iterdir())
    done = call(programs / "pinhole", "compress", *inputs, "-o", tmp_path / "pins", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for picture in inputs:
        assert len(read_pin(tmp_path / "pins" / f"{picture.stem}.pin")) >= 3
    shown = call(programs / "pinhole", "info", tmp_path / "pins" / "1.pin", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "pocket" in shown.stdout
    assert "77" in shown.stdout


@needs_bundle
def test_send_to_a_station(programs: Path, tmp_path: Path, photographs: Path, repository: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    archive = tmp_path / "archive"
    station = subprocess.Popen(
        [
            *(sys.executable, "-m", "pinhole", "receive", "--insecure", "--no-full"),
            *("--listen", address, "--archive", archive),
        ],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        sent = call(
            *(programs / "pinhole", "send", "--insecure", "--once", "--source", photographs, "--to", address),
            *("--budget", "200kbps", "--state", tmp_path / "state"),
            folder=tmp_path,
        )
    finally:
        station.send_signal(signal.SIGTERM)
        try:
            said, _ = station.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            station.kill()
            raise
    assert sent.returncode == 0, sent.stderr + said
    assert station.returncode == 0, said
    # All layers of three pictures were acknowledged, so they are on the station's disk.
    assert len(list(archive.rglob("layer-0.bin"))) == 3, said
    assert len(list(archive.rglob("layer-*.bin"))) >= 9, said
