"""The table of commands: where each lives, what it is for, and which extra brings what it imports.

A command is imported only when it is called, so `pinhole send` runs where torch was never installed.
"""

import importlib
from typing import NamedTuple

import typer

from shared.errors import PinholeError

ROOMS = ("pinhole", "shared", "sender", "receiver", "sim", "training")
"""The project's own top-level packages."""


class MissingExtraError(PinholeError):
    """A package that a command needs is not installed; the message names the command itself."""


class Command(NamedTuple):
    """One command.

    Attributes:
        target: ``module:name`` of a function or of a `typer.Typer` with commands of its own.
        help: one line for ``pinhole --help``.
        extra: the extra of the distribution that installs what the command imports; empty for none.
    """

    target: str
    help: str
    extra: str


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "sim.demo_command:demo", "Send photographs over a lossy simulated link here; write an HTML report.", "sim"
    ),
    "compress": Command("sender.compress_command:compress", "Compress pictures to .pin files.", "sender"),
    "decompress": Command("receiver.decompress_command:decompress", "Paint pictures back from .pin files.", "receiver"),
    "info": Command("pinhole.info_command:info", "Show header, layers and bundle of a .pin file.", ""),
    "send": Command("sender.send_command:send", "Send the pictures of a folder within a byte budget.", "sender"),
    "receive": Command("receiver.receive_command:receive", "Receive, decode and archive pictures.", "receiver"),
    "relay": Command("pinhole.relay_command:relay", "Pass packets on between senders and a station, without keys.", ""),
    "simulate": Command("sim.simulate_command:simulate", "Run a link scenario on a virtual clock.", "sim"),
    "evaluate": Command(
        "training.evaluate_command:evaluate", "Measure bundles and other codecs on pictures; write a page.", "train"
    ),
    "train": Command("training.train_command:train", "Train a stage of a bundle, or a whole bundle.", "train"),
    "keys": Command("pinhole.keys_command:app", "Make, show and list keys; allow and revoke senders.", ""),
    "bundle": Command("pinhole.bundle_command:app", "List, show, verify and import model bundles.", ""),
}


def load(name: str) -> typer.Typer:
    """Import a command and return it as a Typer application.

    Raises:
        MissingExtraError: if a package that the command needs is not installed.
    """
    module_name, _, attribute = COMMANDS[name].target.partition(":")
    try:
        target: object = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise missing_package(name, error) from error
    if isinstance(target, typer.Typer):
        return target
    if not callable(target):
        raise TypeError(f"{COMMANDS[name].target} is no command")
    app = typer.Typer(add_completion=False)
    app.command(name)(target)
    return app


def missing_package(command: str, error: ModuleNotFoundError) -> Exception:
    """Turn a failed import into the line that says what to install.

    Returns:
        A `MissingExtraError` if the missing package is somebody else's; the error itself if it is one of ours, because
        then the installation or the code is broken and the traceback is wanted.
    """
    package = (error.name or "").partition(".")[0]
    if not package or package in ROOMS:
        return error
    extra = COMMANDS[command].extra if command in COMMANDS else ""
    distribution = f"pinhole-link[{extra}]" if extra else "pinhole-link"
    return MissingExtraError(f"pinhole {command} needs {package}: install {distribution}")
