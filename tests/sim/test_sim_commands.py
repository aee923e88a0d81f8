"""`pinhole simulate` and `pinhole demo` as they are typed."""

import json
from pathlib import Path

import pytest

from pinhole.cli import run

SCENARIO = 'name = "tiny"\n[forward]\nrate = 9600\nloss = 0.1\n[return]\n[traffic]\npictures = 3\ninterval = 5\n'


def test_simulate_writes_its_reports_and_obeys_the_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "tiny.toml"
    scenario.write_text(SCENARIO)
    assert run(["simulate", str(scenario), "-o", str(tmp_path / "out"), "--seed", "9"]) == 0
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert figures["scenario"]["seed"] == 9
    assert figures["pictures"]["complete"] == 3
    assert "# tiny" in (tmp_path / "out" / "report.md").read_text()
    assert "tiny, seed 9" in capsys.readouterr().out


def test_a_mistake_in_a_scenario_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "tiny.toml"
    scenario.write_text(SCENARIO + "colour = 1\n")
    assert run(["simulate", str(scenario), "-o", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.strip()
    assert "unknown setting 'colour'" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_report_folder_that_is_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "tiny.toml"
    scenario.write_text(SCENARIO)
    assert run(["simulate", str(scenario), "-o", str(scenario)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_demo_names_a_bundle_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--bundle", "nowhere-to-be-found", "-o", str(tmp_path)]) == 1
    error = capsys.readouterr().err.strip()
    assert "nowhere-to-be-found" in error
    assert len(error.splitlines()) == 1
