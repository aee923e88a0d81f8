"""Which metrics are loaded, and that weights which cannot be had cost one line and no patience."""

import functools
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.errors import UsageError
from training.evaluation.metrics import DEFAULT_NAMES, NAMES, load_metrics, weights
from training.evaluation.metrics.weights import Trunk, WeightsUnavailableError


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(weights, "_silent", {})
    monkeypatch.setattr(weights, "PATIENCE", 2.0)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Accept connections and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serve a folder; gives its address and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def test_names_are_known_in_any_case_and_order() -> None:
    loaded = load_metrics(["niqe", "ms-ssim", "PSNR", "psnr"])
    assert [m.name for m in loaded.pictures] == ["PSNR", "MS-SSIM", "NIQE (refitted)"]
    assert loaded.sets == []
    assert loaded.unavailable == []
    picture = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    for metric in loaded.pictures:
        value = metric.measure(picture, picture ^ np.uint8(1))
        assert value is not None
        assert np.isfinite(value)
    assert "not to be set beside published" in loaded.pictures[2].note
    with pytest.raises(UsageError, match=r"metric 'SSIMULACRA' is not known; choose from PSNR, "):
        load_metrics(["SSIMULACRA"])


def test_what_cannot_be_reached_is_left_out_in_a_line(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    asked = []

    def refuse(url: str) -> None:
        asked.append(url)
        raise OSError("network is unreachable")

    monkeypatch.setattr(weights, "_first_contact", refuse)
    loaded = load_metrics()
    assert [m.name for m in loaded.pictures] == ["PSNR", "MS-SSIM", "ST-LPIPS", "NIQE (refitted)"]
    assert loaded.sets == []
    heads = [line.split(" left out: ")[0] for line in loaded.unavailable]
    assert heads == ["LPIPS", "DISTS", "FID and KID"]
    assert all(str(hub) in line and "network is unreachable" in line for line in loaded.unavailable)
    assert len(asked) == 2  # both trunks of one host were given up together
    assert set(NAMES) - set(DEFAULT_NAMES) == {"ST-LPIPS (Alex)"}


def test_a_host_that_refuses_or_stays_silent_is_given_up(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, hub: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()[1]
    with pytest.raises(WeightsUnavailableError, match=r"refused\); put net-00000000.pth into "):
        weights.find(Trunk("Net", f"http://127.0.0.1:{refusing}/net-00000000.pth"))
    monkeypatch.setattr(weights, "PATIENCE", 0.2)
    silent = Trunk("Net", f"http://127.0.0.1:{listener.getsockname()[1]}/net-00000000.pth")
    for _ in range(2):
        with pytest.raises(WeightsUnavailableError, match=r"Net weights cannot be downloaded"):
            weights.find(silent)
    listener.settimeout(5.0)
    listener.accept()[0].close()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):  # it was called once
        listener.accept()
    assert not silent.path.exists()


def test_weights_are_downloaded_once_and_only_if_they_are_the_right_ones(served: tuple[str, Path], hub: Path) -> None:
    address, folder = served
    data = b"weights" * 1000
    name = f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(data)
    trunk = Trunk("Net", f"{address}/{name}")
    assert weights.find(trunk) == hub / name
    assert (hub / name).read_bytes() == data
    (folder / name).unlink()
    assert weights.find(trunk) == hub / name
    (folder / "net-00000000.pth").write_bytes(data)
    with pytest.raises(WeightsUnavailableError, match="invalid hash value"):
        weights.find(Trunk("Net", f"{address}/net-00000000.pth"))
    for name_of_none in ("none-00000000.pth", "nor-00000000.pth"):
        with pytest.raises(WeightsUnavailableError, match=f"not found.*put {name_of_none} into"):
            weights.find(Trunk("Net", f"{address}/{name_of_none}"))
    assert weights._silent == {}  # it did answer
    assert list(hub.iterdir()) == [hub / name]
    assert socket.getdefaulttimeout() is None
