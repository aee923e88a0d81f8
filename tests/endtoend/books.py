"""What both ends have written down, compared: every layer of every picture is in the archive, once, and right."""

import hashlib
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from receiver.pictures import PictureKey, Stage
from shared.picture import load_picture
from tests.endtoend.ends import Ends
from tests.endtoend.running import Running, until
from tests.endtoend.stand_ins import CheckedEncoder
from tests.receiver.fake_decoder import FakeDecoder

Layers = Mapping[int, list[bytes]]
"""By the sequence number of their picture."""


def archived_layers(ends: Ends) -> int:
    """How many layers the archive has, looked at from outside."""
    return sum(1 for _ in ends.archive.glob("*/*/layer-*.bin"))


def until_archived(ends: Ends, layers: int) -> None:
    """Wait until the archive has that many layers."""
    until(lambda: archived_layers(ends) >= layers, f"{layers} layers are archived", lambda: _story(ends))


def until_all_archived(ends: Ends) -> None:
    """Wait until every picture taken so far is in the archive."""
    until_archived(ends, 3 * ends.pictures)


def end_when_decoded(ends: Ends, station: Running, stage: Stage = Stage.FULL) -> str:
    """End a station that has all layers, once it has made pictures of them too; return all that it printed.

    Ended earlier, it would leave the last pictures to its next start.
    """
    until(lambda: _decoded(ends, stage) == ends.pictures, "every picture is decoded", lambda: _story(ends))
    return station.end()


def check_books(ends: Ends, expected: Layers | None = None) -> None:
    """Check everything, after both ends have ended; ``expected`` where the encoder is not the stand-in."""
    sender, names = _check_spool(ends)
    layers = expected or {
        sequence: CheckedEncoder().encode(load_picture(ends.source / name), 3, captured=captured)
        for sequence, (name, captured) in names.items()
    }
    rows, pictures = _read_index(ends.archive)
    assert pictures == [(sender, sequence, len(layers[sequence])) for sequence in sorted(layers)]
    assert rows == [
        (sender, sequence, layer, len(payload), hashlib.sha256(payload).hexdigest())
        for sequence in sorted(layers)
        for layer, payload in enumerate(layers[sequence])
    ]
    folders = {sequence: ends.archive / f"{sender:08x}" / str(sequence) for sequence in layers}
    stored = {
        folders[sequence] / f"layer-{layer}.bin": payload
        for sequence in layers
        for layer, payload in enumerate(layers[sequence])
    }
    assert {path: path.read_bytes() for path in ends.archive.glob("*/*/layer-*")} == stored
    assert not list(ends.archive.glob("*/*/.*"))
    if expected is None:
        for sequence, folder in folders.items():
            whole = FakeDecoder().decode(layers[sequence], seed=PictureKey(sender, sequence).seed)
            assert np.array_equal(np.asarray(Image.open(folder / "picture.png")), whole)
    told = ends.log_of("station")
    assert "came again with other bytes" not in told
    assert "conflicting" not in told
    for name in ("station", "sender"):
        assert "Traceback" not in ends.log_of(name)


def _check_spool(ends: Ends) -> tuple[int, dict[int, tuple[str, int]]]:
    """The sender's id, and its pictures' names and times by their numbers."""
    with closing(sqlite3.connect(ends.spool / "spool.sqlite")) as database:
        (sender,) = database.execute("SELECT sender FROM node").fetchone()
        assert database.execute("SELECT sequence, layer FROM layers").fetchall() == []
        pictures = database.execute("SELECT sequence, name, captured, state FROM pictures ORDER BY sequence").fetchall()
    assert [row[0] for row in pictures] == [*range(1, ends.pictures + 1)]
    assert {row[3] for row in pictures} == {"done"}
    assert sorted(row[1] for row in pictures) == sorted(path.name for path in ends.source.glob("*.*"))
    return sender, {sequence: (name, captured) for sequence, name, captured, _ in pictures}


def _read_index(archive: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    with closing(sqlite3.connect(archive / "index.sqlite")) as database:
        layers = database.execute(
            "SELECT sender, sequence, layer, layers.bytes, sha256 FROM layers "
            "JOIN pictures ON pictures.id = picture_id ORDER BY sender, sequence, layer"
        ).fetchall()
        pictures = database.execute(
            "SELECT sender, sequence, layers_have FROM pictures ORDER BY sender, sequence"
        ).fetchall()
    return layers, pictures


def _decoded(ends: Ends, stage: Stage) -> int:
    """How many pictures have been decoded from all their layers."""
    column = {Stage.PREVIEW: "preview_layers", Stage.FULL: "picture_layers"}[stage]
    with closing(sqlite3.connect(f"{(ends.archive / 'index.sqlite').as_uri()}?mode=ro", uri=True)) as database:
        query = f"SELECT count(*) FROM pictures WHERE {column} = layers_total AND layers_have = layers_total"
        (count,) = database.execute(query).fetchone()
    return int(count)


def _story(ends: Ends) -> str:
    logs = sorted(ends.logs.glob("*.log"))
    return f"archived: {archived_layers(ends)}\n" + "\n".join(f"== {log.stem}\n{log.read_text()}" for log in logs)
