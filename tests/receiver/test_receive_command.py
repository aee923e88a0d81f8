from pathlib import Path

import pytest

from pinhole.cli import run


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
