"""Entry point of the `pinhole` command: lazy commands, settings, and one line for every error.

Settings come from flags, else from the environment (``PINHOLE_SEND_BUDGET`` for ``pinhole send --budget``), else from
the TOML file that ``--config`` or ``PINHOLE_CONFIG`` names, else they have their defaults.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from pinhole.commands import COMMANDS, MissingExtraError, load, missing_package
from shared.errors import PinholeError, UsageError
from shared.settings import load_settings, refuse_unknown

if TYPE_CHECKING:
    # Typer carries these two of its base classes privately; only the types are needed.
    from typer._click.core import Command as BaseCommand
    from typer._click.core import Context as BaseContext

_FAILED = 1
_WRONG_USAGE = 2
_INTERRUPTED = 130


class LazyGroup(TyperGroup):
    """A command group that knows names and help lines from a table and imports a command when it is called."""

    def list_commands(self, ctx: "BaseContext") -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: "BaseContext", cmd_name: str) -> "BaseCommand | None":
        """Return a stand-in that has name and help only: listing the commands must import none of them."""
        known = COMMANDS.get(cmd_name)
        return None if known is None else TyperCommand(cmd_name, help=known.help)

    def resolve_command(
        self, ctx: "BaseContext", args: list[str]
    ) -> tuple[str | None, "BaseCommand | None", list[str]]:
        """Import the command that is called and check its settings."""
        # The base class suggests near misses from this mapping.
        self.commands = {name: TyperCommand(name) for name in COMMANDS}
        name, command, rest = super().resolve_command(ctx, args)
        if name is None or command is None:
            return name, command, rest
        command = get_command(load(name))
        command.name = name
        table = (ctx.default_map or {}).get(name)
        if table is not None:
            _check_settings(command, table, f"{ctx.meta[_CONFIG_FILE]}: [{name}]")
        return name, command, rest


_CONFIG_FILE = "pinhole.config"

app = typer.Typer(
    name="pinhole",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"auto_envvar_prefix": "PINHOLE", "help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            version = importlib.metadata.version("pinhole-link")
        except importlib.metadata.PackageNotFoundError:
            version = "run from its source folder, not installed"
        typer.echo(f"pinhole {version}")
        raise typer.Exit


def _load_config(ctx: typer.Context, config: Path | None) -> Path | None:
    # While the options are parsed, because the command, and so its defaults, is looked up right after.
    if config is not None:
        tables = load_settings(config)
        refuse_unknown(tables, COMMANDS, str(config))
        ctx.meta[_CONFIG_FILE] = str(config)
        ctx.default_map = dict(tables)
    return config


@app.callback()
def _pinhole(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="TOML file with a table of settings for each command.", callback=_load_config
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit.",
            is_eager=True,
            callback=_print_version,
            allow_from_autoenv=False,
        ),
    ] = False,
) -> None:
    """Bring pictures people can use through very narrow links."""


def _check_settings(command: "BaseCommand", table: Mapping[str, object], where: str) -> None:
    """Refuse keys that are no option of the command, or no table of a command within it."""
    inner: Mapping[str, BaseCommand] = command.commands if isinstance(command, TyperGroup) else {}
    options = {parameter.name for parameter in command.params if parameter.name and parameter.name != "help"}
    refuse_unknown(table, {*options, *inner}, where)
    for name, nested in table.items():
        if name in inner and isinstance(nested, Mapping):
            _check_settings(inner[name], nested, f"{where}.{name}")


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Args:
        arguments: what follows ``pinhole``.

    Returns:
        The exit status. Errors that a user can mend are one line on standard error; a traceback means a defect.
    """
    command = next((argument for argument in arguments if argument in COMMANDS), "")
    prefix = f"pinhole {command}".strip()
    try:
        result = get_command(app).main(list(arguments), prog_name="pinhole", standalone_mode=False)
        sys.stdout.flush()
    except MissingExtraError as error:
        return _fail(str(error), _FAILED)
    except UsageError as error:
        return _fail(f"{prefix}: {error}", _WRONG_USAGE)
    except PinholeError as error:
        return _fail(f"{prefix}: {error}", _FAILED)
    except ModuleNotFoundError as error:
        # Commands may import what they need as late as when they need it.
        known = missing_package(command, error)
        if known is error:
            raise
        return _fail(str(known), _FAILED)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return _FAILED
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        return _fail(f"{prefix}: {what}{error.strerror or error}", _FAILED)
    except typer.Abort:
        return _fail(f"{prefix}: given up", _FAILED)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _fail_usage(error, prefix)
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """Run the command line of this process and exit with its status."""
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    # A newline inside a message (of a file name, or a library's reason) must not make it two lines.
    print(" ".join(message.split()), file=sys.stderr)
    return status


def _fail_usage(error: Exception, prefix: str) -> int:
    """Report a usage error of Typer's, or show the help that an empty command line asks for."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return 2
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", None) or prefix
    status = getattr(error, "exit_code", 2)
    message = " ".join(str(error.format_message()).split()).rstrip(".")  # type: ignore[attr-defined]
    return _fail(f"{path}: {message}; see {path} --help", status)


def _discard_output() -> None:
    """Let the interpreter's last flush go nowhere: whoever read our output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
