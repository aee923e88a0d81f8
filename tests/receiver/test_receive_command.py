from pathlib import Path

import pytest

from pinhole.cli import run
from receiver import receive_command
from receiver.admission import Admission, SessionMemory
from receiver.daemon import ReceiverConfig
from receiver.engine import LocalEngine
from receiver.progress import ConsoleReporter
from shared.allowlist import AllowListFile, allow
from shared.errors import PinholeError
from shared.link.keys import Role, SecretKey
from tests.receiver.fake_decoder import FakeDecoder


def test_unsealed_links_need_a_clear_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["receive", "--listen", "tcp://127.0.0.1:1", "--archive", str(tmp_path / "archive")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--insecure" in error
    assert not (tmp_path / "archive").exists()


def test_an_unknown_device_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["receive", "--listen", "tcp://127.0.0.1:1", "--archive", str(tmp_path), "--insecure"]
    assert run([*arguments, "--device", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err


def test_a_missing_listen_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["receive", "--archive", str(tmp_path), "--insecure"]) == 2
    assert "--listen" in capsys.readouterr().err


def test_a_station_allows_itself_many_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    monkeypatch.setattr(receive_command, "allow_many_open_files", lambda: asked.append(None))
    monkeypatch.setattr(receive_command, "run_station", lambda *parts, **more: True)
    assert run(["receive", "--listen", "tcp://127.0.0.1:1", "--archive", str(tmp_path), "--insecure"]) == 0
    assert asked == [None]


def test_a_station_that_cannot_open_its_archive_leaves_its_memory_to_others(tmp_path: Path) -> None:
    allow(tmp_path / "allowed", "drone", SecretKey.generate(Role.SENDER).public)
    (tmp_path / "archive").write_text("a file where a folder must be")

    def admission() -> Admission:
        memory = SessionMemory(tmp_path / "sessions")
        keys = [SecretKey.generate(Role.STATION)]
        return Admission(keys, AllowListFile(tmp_path / "allowed"), memory, ConsoleReporter())

    first = admission()
    with pytest.raises(PinholeError, match="archive"):
        receive_command.run_station(
            ["tcp://127.0.0.1:1"],
            str(tmp_path / "archive"),
            None,
            ReceiverConfig(),
            lambda: LocalEngine(FakeDecoder()),
            ConsoleReporter(),
            admission=first,
        )
    admission().close()
