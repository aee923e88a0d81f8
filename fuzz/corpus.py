"""What is kept of fuzzing: inputs that reached something new, and inputs that once were findings.

One msgpack list of inputs for each harness, sorted, so that a change shows as one: ``fuzz/corpus/NAME.msgpack``, and
for findings ``fuzz/findings/NAME.msgpack``. Seeds are not kept, harnesses make them.
"""

import hashlib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack

if TYPE_CHECKING:
    from fuzz.harness import Harness

NAMES = (
    "addresses",
    "frames",
    "hellos",
    "keys",
    "messages",
    "packets",
    "pictures",
    "reports",
    "station",
    "streams",
)
_FOLDER = Path(__file__).resolve().parent


def load(name: str) -> "Harness":
    """The harness of that name; imported late, for atheris instruments what it imports."""
    harness: Harness = importlib.import_module(f"fuzz.{name}").HARNESS
    return harness


def read(name: str, kind: str = "corpus") -> list[bytes]:
    """The inputs kept for a harness: those of the ``corpus``, or its ``findings``."""
    path = _path(name, kind)
    return [*msgpack.unpackb(path.read_bytes())] if path.exists() else []


def write(name: str, inputs: Iterable[bytes], kind: str = "corpus") -> None:
    """Keep these inputs and no others."""
    path = _path(name, kind)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgpack.packb(sorted({*inputs}, key=lambda data: (len(data), data))))


def add(name: str, inputs: Iterable[bytes]) -> int:
    """Keep these inputs as well; returns how many are new."""
    before = {*read(name)}
    after = before | {*inputs}
    if after != before:
        write(name, after)
    return len(after) - len(before)


def keep_finding(name: str, data: bytes) -> None:
    """Keep an input that was a finding, so that it is tried for ever."""
    write(name, [*read(name, "findings"), data], "findings")


def unpack(name: str, folder: Path) -> None:
    """Lay out seeds, corpus and findings as files for libFuzzer."""
    for data in (*load(name).seeds(), *read(name), *read(name, "findings")):
        Path(folder, hashlib.sha256(data).hexdigest()[:24]).write_bytes(data)


def _path(name: str, kind: str) -> Path:
    return _FOLDER / kind / f"{name}.msgpack"
