"""The queue between the link and the archive."""

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

from receiver.archive import Archive, ReceivedLayer, Stored, StoreReport
from receiver.background import Background
from receiver.ingest import Ingest
from receiver.listeners import Listeners
from receiver.pictures import PictureKey
from receiver.status import Status


class Gate:
    """Listeners that can only be held back."""

    def __init__(self) -> None:
        self._open = True

    def is_open(self) -> bool:
        return self._open

    def open_gate(self) -> None:
        self._open = True

    def close_gate(self) -> None:
        self._open = False


class Endless:
    """An archive that takes everything, while more and more arrives as long as the gate is open."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.ingest: Ingest | None = None
        self.stored = 0

    def store_layers(self, layers: Sequence[ReceivedLayer], taken: Collection[PictureKey]) -> StoreReport:
        self.stored += len(layers)
        assert self.stored < 1000, "there is no end to it"
        if self.gate.is_open() and self.ingest is not None:
            self.ingest.add(a_layer(self.stored))
        return StoreReport([Stored.NEW] * len(layers))


def a_layer(sequence: int) -> ReceivedLayer:
    return ReceivedLayer(PictureKey(1, sequence), 0, 1, b"")


def make_ingest(gate: Gate, archive: Endless, background: Background, limit: int) -> Ingest:
    async def stored(key: PictureKey, base: bool) -> None:
        pass

    return Ingest(
        cast(Archive, archive),
        background,
        cast(Listeners, gate),
        acknowledge=lambda layer: None,
        refuse=lambda layer, highest: None,
        ask_again=lambda sender: None,
        stored=stored,
        status=Status(),
        report=cast(Any, None),
        limit=limit,
        retry_after=1.0,
    )


def test_layers_without_bytes_hold_reading_back_as_well() -> None:
    gate = Gate()
    ingest = make_ingest(gate, Endless(gate), Background("test"), 64 << 20)
    for sequence in range(100_000):
        if not gate.is_open():
            break
        ingest.add(a_layer(sequence))
    assert not gate.is_open(), "a hundred thousand of them wait, and nobody is held back"


def test_closing_ends_although_more_would_come() -> None:
    async def run() -> None:
        gate, background = Gate(), Background("test")
        archive = Endless(gate)
        archive.ingest = ingest = make_ingest(gate, archive, background, 64 << 20)
        ingest.add(a_layer(0))
        assert await ingest.store_batch()
        assert gate.is_open()
        assert ingest.waiting == 1
        await ingest.close()
        assert not gate.is_open()
        assert ingest.waiting == 0
        background.close()

    asyncio.run(run())


class Told:
    """What an ingest tells the link and the people."""

    def __init__(self) -> None:
        self.acknowledged: list[tuple[int, int]] = []
        self.refused: list[tuple[int, int, int]] = []
        self.warnings: list[str] = []

    def acknowledge(self, layer: ReceivedLayer) -> None:
        self.acknowledged.append((layer.key.sequence, layer.layer))

    def refuse(self, layer: ReceivedLayer, highest: int) -> None:
        self.refused.append((layer.key.sequence, layer.layer, highest))

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def line(self, text: str) -> None:
        raise AssertionError(text)


def test_a_picture_whose_number_another_has_is_refused_with_all_its_layers(tmp_path: Path) -> None:
    """Whether they come in one batch or in several, and in whatever order."""

    def layer(sequence: int, number: int, payload: bytes) -> ReceivedLayer:
        return ReceivedLayer(PictureKey(7, sequence), number, 3, payload)

    async def stored(key: PictureKey, base: bool) -> None:
        touched.append(key.sequence)

    async def run() -> None:
        background = Background("test")
        archive = Archive(str(tmp_path))
        ingest = Ingest(
            archive,
            background,
            cast(Listeners, Gate()),
            acknowledge=told.acknowledge,
            refuse=told.refuse,
            ask_again=lambda sender: None,
            stored=stored,
            status=status,
            report=told,
            limit=64 << 20,
            retry_after=1.0,
        )
        # Two layers of picture 1 are there, and all of picture 40.
        for sequence, number in [(1, 0), (1, 1), (40, 0)]:
            ingest.add(layer(sequence, number, b"first life"))
        assert await ingest.store_batch()
        # The refinement comes first, and would be new; that layer 1 is the same proves nothing.
        ingest.add(layer(1, 2, b"second life"))
        ingest.add(layer(1, 1, b"first life"))
        ingest.add(layer(1, 0, b"second life"))
        ingest.add(layer(50, 0, b"second life"))
        for number in range(100):  # more than a batch
            ingest.add(layer(60 + number, 0, b"second life"))
        ingest.add(layer(2, 0, b"second life"))
        ingest.add(layer(1, 2, b"second life"))
        while ingest.waiting:
            assert await ingest.store_batch()
        assert ingest._taken == set()
        assert archive.index.digests(PictureKey(7, 1)).keys() == {0, 1}
        background.close()
        archive.close()

    told, status, touched = Told(), Status(), []  # type: ignore[var-annotated]
    asyncio.run(run())
    assert [entry[:2] for entry in told.refused] == [(1, 2), (1, 0), (1, 2)]
    assert [highest for *_, highest in told.refused] == [119, 119, 159], "all that are stored, or about to be, count"
    others = [(2, 0), (40, 0), (50, 0), *((60 + number, 0) for number in range(100))]
    assert sorted(told.acknowledged) == [(1, 0), (1, 1), (1, 1), *others]
    assert sorted(touched) == [1, 2, 40, 50, *range(60, 160)]
    assert status.conflicts == 3
    (warning,) = told.warnings
    assert "sender 00000007 picture 1: layer" in warning
    assert "restored from a backup, or copied?" in warning
