"""Engines turn layers into pixels; the local one owns a decoder on threads of its own."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from receiver.pictures import Painted
from receiver.pipeline import DecodePipeline
from receiver.staging import DecodeRequest, StagedDecoder, staged
from shared.codec.interfaces import PictureDecoder

__all__ = ["DecodeRequest", "Engine", "LocalEngine"]


class Engine(Protocol):
    """Something that decodes pictures; called from one event loop."""

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the hash of the bundle it decodes with."""

    @property
    def slots(self) -> int:
        """Number of requests worth having under way at once (the daemon never has more)."""

    async def decode(self, request: DecodeRequest) -> Painted:
        """Decode one request.

        Raises:
            CorruptDataError: if a layer is not what was encoded.
        """

    def close(self, timeout: float) -> bool:
        """Take no more work and give what is running ``timeout`` seconds; return False if it had to be abandoned."""


class LocalEngine:
    """Decodes on this machine, in batches where the decoder takes them, see `DecodePipeline`.

    Slots for a batch that is being diffused and one that is read meanwhile, beside one that the daemon compresses and
    archives.

    Args:
        decoder: touched by the engine's threads alone.
        warm_up: widths and heights of pictures to get ready for.

    Raises:
        PinholeError: if the decoder fails while it gets ready.
    """

    def __init__(self, decoder: PictureDecoder | StagedDecoder, warm_up: Sequence[tuple[int, int]] = ()) -> None:
        self._decoder = staged(decoder)
        self.slots = 2 * self._decoder.batch
        self._pipeline = DecodePipeline(self._decoder, warm_up)
        self._pipeline.wait_until_ready()

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the hash of the decoder's bundle."""
        return self._decoder.bundle_id

    async def decode(self, request: DecodeRequest) -> Painted:
        """Decode one request; see `Engine.decode`."""
        return await asyncio.wrap_future(self._pipeline.submit(request))

    def close(self, timeout: float) -> bool:
        """End the threads; see `Engine.close`."""
        return self._pipeline.close(timeout)
