"""Trunk weights that some metrics must download once: found in torch hub's folder, fetched, or given up on fast."""

import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import torch

from shared.errors import PinholeError

PATIENCE = 5.0
"""Seconds a server may stay silent; name look-up included at the first contact."""

# Hosts found silent, with the reason: a second metric does not wait for them again.
_silent: dict[str, str] = {}


class WeightsUnavailableError(PinholeError):
    """Weights that are neither here nor to be had; the message says what is missing and where to put it."""


@dataclass(frozen=True)
class Trunk:
    """A file of weights.

    Attributes:
        title: how people call the network.
        url: where it is published; the file's name ends in the first digits of its SHA-256, as torch hub has it.
    """

    title: str
    url: str

    @property
    def path(self) -> Path:
        """Where torch hub keeps the file (``TORCH_HOME`` moves it)."""
        return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(self.url).path).name


def find(trunk: Trunk) -> Path:
    """Return the file of weights, downloading it where it is not here yet.

    Raises:
        WeightsUnavailableError: if it cannot be had; a server that does not answer is given up after `PATIENCE`.
    """
    path = trunk.path
    if path.is_file():
        return path
    host = urlsplit(trunk.url).netloc
    reason = _silent.get(host)
    if reason is None:
        try:
            _first_contact(trunk.url)
            path.parent.mkdir(parents=True, exist_ok=True)
            with _impatient():
                torch.hub.download_url_to_file(trunk.url, str(path), path.stem.rpartition("-")[2], progress=True)
            return path
        except (HTTPError, RuntimeError) as error:  # an answer, but no such file, or one with another hash
            reason = _reason(error)
        except OSError as error:
            reason = _silent[host] = _reason(error)
    raise WeightsUnavailableError(
        f"its {trunk.title} weights cannot be downloaded from {host} ({reason}); put {path.name} into {path.parent}"
    )


@contextmanager
def loading(trunk: Trunk) -> Iterator[Path]:
    """Find the file of weights and blame it if what is done with it on the CPU fails.

    Yields:
        The file.

    Raises:
        WeightsUnavailableError: if the weights cannot be had or the file does not hold them.
    """
    path = find(trunk)
    try:
        yield path
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        raise WeightsUnavailableError(
            f"{path} does not hold its {trunk.title} weights; delete the file, it is downloaded again"
        ) from error


def _first_contact(url: str) -> None:
    """Ask a server for the first byte.

    Raises:
        OSError: if none comes within `PATIENCE`.
    """
    outcome: list[OSError | None] = []

    def contact() -> None:
        try:
            with urlopen(url, timeout=PATIENCE) as answer:
                answer.read(1)
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    # In a thread of its own because the system's name look-up knows no time limit.
    thread = threading.Thread(target=contact, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    error = outcome[0] if outcome else TimeoutError(f"no answer in {PATIENCE:g} seconds")
    if error is not None:
        raise error


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return str(getattr(cause, "strerror", None) or cause)


@contextmanager
def _impatient() -> Iterator[None]:
    """Let a stalled download fail: torch hub sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
