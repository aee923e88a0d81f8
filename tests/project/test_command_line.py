import errno
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Annotated

import pytest
import typer

from pinhole import commands
from pinhole.cli import run
from pinhole.commands import COMMANDS, Command
from shared.errors import PinholeError

seen: list[object] = []


def greet(
    budget: Annotated[int, typer.Option(help="How much.")] = 1,
    to: Annotated[list[str] | None, typer.Option(help="Where.")] = None,
    wild_card: Annotated[bool, typer.Option()] = False,
    fail: Annotated[str, typer.Option()] = "",
) -> None:
    """Say what was set."""
    seen.append((budget, to, wild_card))
    match fail:
        case "pinhole":
            raise PinholeError("the modem\nis off; switch it on")
        case "late import":
            raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")
        case "own import":
            raise ModuleNotFoundError("No module named 'shared.gone'", name="shared.gone")
        case "interrupt":
            raise KeyboardInterrupt
        case "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "spool.db")
        case "exit":
            raise typer.Exit(3)
        case "defect":
            raise ZeroDivisionError


@pytest.fixture(autouse=True)
def _greet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a command of the tests' own, and one group with two."""
    module = types.ModuleType("greeting")
    group = typer.Typer()
    group.command("one")(greet)
    group.command("two")(greet)
    vars(module).update(greet=greet, group=group)
    monkeypatch.setitem(sys.modules, "greeting", module)
    monkeypatch.setitem(COMMANDS, "greet", Command("greeting:greet", "Say what was set.", "receiver"))
    monkeypatch.setitem(COMMANDS, "group", Command("greeting:group", "Two commands.", ""))
    seen.clear()


def test_help_lists_every_command_and_imports_none(repository: Path) -> None:
    program = (
        "import sys; from pinhole.cli import run; status = run(['--help']);"
        "rooms = {'sender', 'receiver', 'sim', 'training', 'torch', 'onnxruntime', 'numpy'};"
        "print('imported:', sorted(rooms & set(sys.modules))); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "imported: []" in done.stdout
    for name in ("demo", "compress", "decompress", "info", "send", "receive", "simulate", "bundle", "keys", "relay"):
        assert f" {name} " in done.stdout
    for planned in ("monitor", "redecode", "export"):
        assert f" {planned} " not in done.stdout


def test_flags_come_before_environment_before_file_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.toml"
    file.write_text('[greet]\nbudget = 2\nto = ["a", "b"]\nwild-card = true\n')
    assert run(["greet"]) == 0
    assert run(["--config", str(file), "greet"]) == 0
    monkeypatch.setenv("PINHOLE_GREET_BUDGET", "3")
    assert run(["--config", str(file), "greet"]) == 0
    assert run(["--config", str(file), "greet", "--budget", "4", "--to", "c"]) == 0
    monkeypatch.setenv("PINHOLE_CONFIG", str(file))
    monkeypatch.setenv("PINHOLE_GREET_WILD_CARD", "0")
    assert run(["greet"]) == 0
    assert seen == [
        (1, None, False),
        (2, ["a", "b"], True),
        (3, ["a", "b"], True),
        (4, ["c"], True),
        (3, ["a", "b"], False),
    ]


def test_settings_reach_commands_within_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.toml"
    file.write_text("[group.two]\nbudget = 7\n")
    assert run(["--config", str(file), "group", "two"]) == 0
    assert seen == [(7, None, False)]
    file.write_text("[group.two]\nbudgets = 7\n")
    assert run(["--config", str(file), "group", "two"]) == 1
    assert "[group].two: unknown setting 'budgets'; did you mean 'budget'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[greet]\nbudgett = 2", "[greet]: unknown setting 'budgett'; did you mean 'budget'?"),
        ("[great]\nbudget = 2", "unknown setting 'great'; did you mean 'greet'?"),
        ("[greet]\nhelp = true", "[greet]: unknown setting 'help'"),
        ("[greet", "no TOML"),
    ],
)
def test_unknown_settings_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "p.toml"
    file.write_text(text)
    assert run(["--config", str(file), "greet"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert "p.toml" in error
    assert seen == []


def test_a_setting_of_the_wrong_kind_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.toml"
    file.write_text('[greet]\nbudget = "much"\n')
    assert run(["--config", str(file), "greet"]) == 2
    assert "--budget" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gret"], "No such command 'gret'. Did you mean 'greet'"),
        (["greet", "--nonsense"], "No such option: --nonsense"),
        (["greet", "--budget", "much"], "--budget"),
        (["greet", "left over"], "unexpected extra argument"),
        (["info"], "Missing argument"),
        (["compress", "a.png"], "--output"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert "--help" in error


@pytest.mark.parametrize(
    ("how", "status", "line"),
    [
        ("pinhole", 1, "pinhole greet: the modem is off; switch it on\n"),
        ("late import", 1, "pinhole greet needs torch: install pinhole-link[receiver]\n"),
        ("interrupt", 130, ""),
        ("disk", 1, "pinhole greet: spool.db: No space left on device\n"),
        ("exit", 3, ""),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], how: str, status: int, line: str) -> None:
    assert run(["greet", "--fail", how]) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("how", "kind"), [("own import", ModuleNotFoundError), ("defect", ZeroDivisionError)])
def test_defects_keep_their_traceback(how: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        run(["greet", "--fail", how])


def test_a_missing_extra_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "greet", Command("not_installed_anywhere.x:y", "", "sim"))
    assert run(["greet"]) == 1
    assert capsys.readouterr().err == "pinhole greet needs not_installed_anywhere: install pinhole-link[sim]\n"


def test_every_target_names_a_module_of_ours() -> None:
    for name, command in COMMANDS.items():
        module, _, attribute = command.target.partition(":")
        if name not in ("greet", "group"):
            assert module.partition(".")[0] in commands.ROOMS
            assert attribute


def test_a_reader_that_goes_away_is_no_error(repository: Path) -> None:
    for arguments in (["--help"], ["compress", "--help"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "pinhole", *arguments],
            cwd=repository,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait() in (0, 1)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pinhole ")
