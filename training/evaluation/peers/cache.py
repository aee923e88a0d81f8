"""Encodes that are kept on disk, so that other targets, later runs and interrupted ones use them again."""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgpack

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from shared.files import write_atomically
from training.evaluation.peers.peer import Peer

_T = TypeVar("_T")


@dataclass(frozen=True)
class Encoded:
    """One encode.

    Attributes:
        data: the whole file.
        seconds: wall-clock time that the encoder took when it ran.
    """

    data: bytes
    seconds: float


class EncodeCache:
    """Encodes of one picture by one peer, each encoded at most once for each version and setting.

    A file ``PEER/PICTURE-VERSION/SETTING`` holds each, PICTURE and VERSION being hashes; several processes may share
    the folder.

    Args:
        folder: where they are kept, made if missing; None keeps them in memory only.
        peer: the codec.
        pixels: RGB bytes ``height x width x 3``.

    Raises:
        PinholeError: if the folder cannot be made.
    """

    def __init__(self, folder: Path | None, peer: Peer, pixels: Pixels) -> None:
        self._peer, self._pixels = peer, pixels
        self._known: dict[int, Encoded] = {}
        self._folder: Path | None = None
        if folder is not None:
            slug = re.sub(r"[^a-z0-9]+", "-", peer.name.lower())
            self._folder = folder / slug / f"{picture_hash(pixels)}-{_hash(peer.version.encode())[:8]}"
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PinholeError(
                    f"cannot make the folder {self._folder}: {error.strerror or error}; name another one"
                ) from error

    def encode(self, setting: int) -> Encoded:
        """Return the peer's encode at a setting, made now or before."""
        if setting not in self._known:
            self._known[setting] = self._read(setting) or self._make(setting)
        return self._known[setting]

    def _make(self, setting: int) -> Encoded:
        data, seconds = timed(lambda: self._peer.encode(self._pixels, setting))
        if self._folder is not None:
            content = msgpack.packb([data, seconds, hashlib.sha256(data).digest()])
            write_atomically(self._folder / str(setting), content)
        return Encoded(data, seconds)

    def _read(self, setting: int) -> Encoded | None:
        if self._folder is None:
            return None
        try:
            data, seconds, digest = msgpack.unpackb((self._folder / str(setting)).read_bytes())
            intact = hashlib.sha256(data).digest() == digest
            # What is damaged is simply encoded again.
            return Encoded(data, float(seconds)) if intact else None
        except (OSError, ValueError, TypeError, msgpack.UnpackException):
            return None


def picture_hash(pixels: Pixels) -> str:
    """Return 32 hexadecimal digits that stand for these pixels and their shape."""
    return _hash(repr(pixels.shape).encode() + pixels.tobytes())


def timed(work: Callable[[], _T]) -> tuple[_T, float]:
    """Return what the call returns, and its wall-clock seconds."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
