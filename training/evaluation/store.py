"""The results of an evaluation on disk, so that a run that was stopped goes on where it was.

One JSON object a line, appended and flushed as soon as it is known. The key of a line says all that the figures depend
on (the picture's pixels, the method's version, ...), so what was measured with another bundle or of another crop is
never taken for it.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.codec.interfaces import Pixels
from shared.errors import CorruptDataError, PinholeError
from training.evaluation.results import RateResult, Result, SetResult


@dataclass(frozen=True)
class Key:
    """What a line's figures depend on.

    Attributes:
        pixels: `fingerprint` of the picture, or of all pictures for what is measured over the set.
        method: name of the bundle or peer.
        version: of the bundle's files or the peer's software.
        variant: as in `Result`.
        target: as in `Result`.
        matched: bytes that the encoder was asked to match; None where it was told a quality.
    """

    pixels: str
    method: str
    version: str
    variant: str
    target: str
    matched: int | None = None

    def digest(self) -> str:
        """Return eight hexadecimal digits for file names."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Stored:
    """One line of the file.

    Attributes:
        result: the figures.
        attempted: names of the metrics that were tried; those that are not defined for the picture have no figure.
    """

    result: Result
    attempted: frozenset[str]


def fingerprint(pixels: Pixels) -> str:
    """Return a hash over shape and values of a picture, 16 hexadecimal digits."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()[:16]


def combined(fingerprints: Sequence[str]) -> str:
    """Return one hash for several pictures in order."""
    return hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()[:16]


class ResultStore:
    """The lines of one results file, read at the start and appended to.

    Args:
        path: the file; made on the first line, its folder must exist.

    Raises:
        CorruptDataError: if a line that is not the last is not one of ours.
        PinholeError: if the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[Key, Stored] = {}
        self._rates: dict[Key, RateResult] = {}
        self._set_results: dict[Key, tuple[SetResult, frozenset[str]]] = {}
        for number, line in enumerate(self._lines(), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptDataError(
                    f"{path}, line {number}: not a result ({error!r}); delete the line, it is measured again"
                ) from error

    def result(self, key: Key) -> Stored | None:
        """Return what was measured of one decode."""
        return self._results.get(key)

    def rate(self, key: Key) -> RateResult | None:
        """Return what one picture cost the entropy coder."""
        return self._rates.get(key)

    def set_result(self, key: Key) -> tuple[SetResult, frozenset[str]] | None:
        """Return what was measured over all pictures, and the names of the metrics that were tried."""
        return self._set_results.get(key)

    def add_result(self, key: Key, stored: Stored) -> None:
        """Keep one decode's figures, in place of earlier ones with the key."""
        self._append("result", key, asdict(stored.result), stored.attempted)
        self._results[key] = stored

    def add_rate(self, key: Key, rate: RateResult) -> None:
        """Keep what one picture cost."""
        self._append("rate", key, asdict(rate), frozenset())
        self._rates[key] = rate

    def add_set_result(self, key: Key, result: SetResult, attempted: frozenset[str]) -> None:
        """Keep figures over all pictures."""
        self._append("set", key, asdict(result), attempted)
        self._set_results[key] = (result, attempted)

    def _lines(self) -> list[str]:
        """Return the whole lines; half a line, left by a power cut, is cut off the file."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PinholeError(f"cannot read {self._path}: {error.strerror or error}") from error
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._path, whole)
        return data[:whole].decode("utf-8", "replace").splitlines()

    def _take(self, line: dict[str, Any]) -> None:
        key, values = Key(**line["key"]), line["values"]
        match line["kind"]:
            case "result":
                self._results[key] = Stored(Result(**values), frozenset(line["attempted"]))
            case "rate":
                self._rates[key] = RateResult(**values)
            case "set":
                self._set_results[key] = (SetResult(**values), frozenset(line["attempted"]))
            case other:
                raise ValueError(f"kind {other!r}")

    def _append(self, kind: str, key: Key, values: dict[str, Any], attempted: frozenset[str]) -> None:
        line = {"kind": kind, "key": asdict(key), "values": values, "attempted": sorted(attempted)}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise PinholeError(
                f"cannot write {self._path}: {error.strerror or error}; check the folder and the free space"
            ) from error
