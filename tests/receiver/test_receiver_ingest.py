"""The queue between the link and the archive."""

import asyncio
from collections.abc import Sequence
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

    def store_layers(self, layers: Sequence[ReceivedLayer]) -> StoreReport:
        self.stored += len(layers)
        assert self.stored < 1000, "there is no end to it"
        if self.gate.is_open() and self.ingest is not None:
            self.ingest.add(a_layer(self.stored))
        return StoreReport([Stored.NEW] * len(layers), None)


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
