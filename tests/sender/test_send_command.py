import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from sender.link_command import link_config
from sender.send_command import default_state, open_source, rate_policy, send
from sender.spool import Spool
from shared.errors import PinholeError
from tests.sender.fake_encoder import FakeEncoder
from tests.sender.ground import Ground, ground_station
from tests.sender.pictures import write_picture
from tests.sender.test_node import PATIENCE, expected, free_port

REFUSED = [
    (["--budget", "9.6kbps"], "--insecure"),
    (["--insecure", "--budget", "fast"], "9.6kbps"),
    (["--insecure", "--budget", "9.6kbps", "--quality", "1", "--max-bytes", "100"], "exclude each other"),
    (["--insecure", "--budget", "9.6kbps", "--quality", "9"], "quality 9 is not in this bundle; give 1 to 3"),
    (["--insecure", "--budget", "9.6kbps", "--quality", "0.5"], "--quality must be a number from 1, not 0.5"),
    (["--insecure", "--budget", "9.6kbps", "--quality", "nan"], "--quality must be a number from 1, not nan"),
    (["--insecure", "--budget", "9.6kbps", "--parity", "7"], "--parity"),
    (["--insecure", "--budget", "9.6kbps", "--packet-bytes", "10"], "10"),
    (["--insecure", "--budget", "9.6kbps", "--repeats", "2"], "--simplex"),
    (["--insecure", "--budget", "9.6kbps", "--latency", "0"], "--latency"),
    (["--insecure", "--budget", "9.6kbps", "--max-age", "-1"], "--max-age"),
    (["--insecure", "--budget", "9.6kbps", "--source", "camera:0"], "camera"),
    (["--insecure", "--budget", "9.6kbps", "--source", "no/such/folder"], "no/such/folder"),
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, str, BaseException | None]]:
    """The command with the fake encoder in the place of the bundle's."""
    bundle = ModuleType("shared.codec.bundle")
    bundle.find_bundle = lambda name: name  # type: ignore[attr-defined]
    monkeypatch.setattr("sender.send_command.open_encoder", lambda *arguments: FakeEncoder())
    monkeypatch.setitem(sys.modules, "shared.codec.bundle", bundle)
    app = typer.Typer()
    app.command()(send)

    def call(*arguments: str) -> tuple[int, str, BaseException | None]:
        result = CliRunner().invoke(app, ["--state", str(tmp_path / "state"), *arguments])
        return result.exit_code, result.output, result.exception

    return call


@pytest.mark.parametrize(("arguments", "names"), REFUSED)
def test_wrong_settings_are_one_line(
    run: Callable[..., tuple[int, str, BaseException | None]], tmp_path: Path, arguments: list[str], names: str
) -> None:
    _, _, error = run("--source", str(tmp_path), "--to", "tcp://127.0.0.1:1", "--once", *arguments)
    assert isinstance(error, PinholeError)
    assert names in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("address", ["mqtt://", "smoke://signals", "127.0.0.1:5555"])
def test_an_address_of_no_known_transport_is_one_line(
    run: Callable[..., tuple[int, str, BaseException | None]], tmp_path: Path, address: str
) -> None:
    _, _, error = run("--source", str(tmp_path), "--to", address, "--budget", "9.6kbps", "--insecure")
    assert isinstance(error, PinholeError)
    assert "\n" not in str(error)


def test_the_command_sends_a_folder(run: Callable[..., tuple[int, str, BaseException | None]], tmp_path: Path) -> None:
    folder, url = tmp_path / "in", f"tcp://127.0.0.1:{free_port()}"
    for seed in range(4):
        write_picture(folder / f"{seed}.png", seed)
    write_picture(folder / "broken.png", 5).write_bytes(b"broken")
    grounds: list[Ground] = []
    listening, over = threading.Event(), threading.Event()

    async def listen() -> None:
        async with ground_station(url) as ground:
            grounds.append(ground)
            listening.set()
            await asyncio.to_thread(over.wait, PATIENCE)

    station = threading.Thread(target=lambda: asyncio.run(listen()))
    station.start()
    try:
        assert listening.wait(PATIENCE)
        arguments = ("--source", str(folder), "--to", url, "--budget", "64kbps", "--once", "--insecure")
        code, output, _ = run(*arguments, "--quality", "2", "--interleave", "1")
        assert code == 1, "a refused picture is a failure"
        assert "not sealed" in output
        assert "broken.png" in output
        assert "4 pictures taken" in output
        assert "0 wait in the spool" in output
        (folder / "broken.png").unlink()
        code, output, _ = run(*arguments)
        assert code == 0
        assert "0 pictures taken" in output
    finally:
        over.set()
        station.join()
    assert sorted(grounds[0].pictures()) == sorted(expected(folder))


def test_options_become_settings() -> None:
    link = link_config(rate=9600, packet_bytes=256, parity="0.5", interleave=8, simplex=True, repeats=2)
    assert (link.base_parity, link.burst_bytes, link.repeats) == (1.0, 512, 2)
    policy = rate_policy(link, latency=5, quality=None, max_bytes=None)
    assert policy.budget == 9600
    assert policy.overhead > 2 * 1.5


def test_a_folder_may_be_called_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "camera" / "a.png", 1)
    with closing(Spool(tmp_path / "state")) as spool:
        source = open_source("camera", spool)
        source.poll()
        assert [capture.name for capture in source.poll()] == ["a.png"]


def test_the_default_state_follows_the_xdg_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state() == tmp_path / "pinhole" / "sender"
