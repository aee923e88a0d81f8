"""Engines turn layers into pixels; the local one owns a decoder on a thread of its own."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from receiver.pictures import Stage
from shared.codec.interfaces import PictureDecoder, Pixels
from shared.errors import PinholeError


@dataclass(frozen=True)
class DecodeRequest:
    """All an engine needs to know, small and plain enough to travel to another machine.

    Attributes:
        layers: a prefix of a picture's layers, the base first.
        stage: preview or full decode.
        steps: steps of diffusion, None for the bundle's default.
        seed: seed of the diffusion.
    """

    layers: Sequence[bytes]
    stage: Stage
    steps: int | None
    seed: int


class Engine(Protocol):
    """Something that decodes pictures; called from one event loop."""

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the hash of the bundle it decodes with."""

    @property
    def slots(self) -> int:
        """Number of requests worth having under way at once (the daemon never has more)."""

    async def decode(self, request: DecodeRequest) -> Pixels:
        """Decode one request.

        Raises:
            CorruptDataError: if a layer is not what was encoded.
        """

    def close(self, timeout: float) -> bool:
        """Take no more work and give what is running ``timeout`` seconds; return False if it had to be abandoned."""


class LocalEngine:
    """Decodes on this machine, one picture at a time, on a thread that alone touches the decoder.

    Two slots: the daemon compresses and archives one picture while the thread works on the next.
    """

    slots = 2

    def __init__(self, decoder: PictureDecoder) -> None:
        """Start the thread."""
        self._decoder = decoder
        self._requests: queue.SimpleQueue[tuple[DecodeRequest, asyncio.Future[Pixels]] | None] = queue.SimpleQueue()
        self._closed = False
        # A daemon thread: a decode of minutes must not hold up the end of the process; its layers are in the archive.
        self._thread = threading.Thread(target=self._work, name="decoder", daemon=True)
        self._thread.start()

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the hash of the decoder's bundle."""
        return self._decoder.bundle_id

    async def decode(self, request: DecodeRequest) -> Pixels:
        """Decode one request; see `Engine.decode`."""
        if self._closed:
            raise PinholeError("the decoding engine is closed; start the receiver again")
        future: asyncio.Future[Pixels] = asyncio.get_running_loop().create_future()
        self._requests.put((request, future))
        return await future

    def close(self, timeout: float) -> bool:
        """End the thread; see `Engine.close`."""
        self._closed = True
        self._requests.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._requests.get()) is not None:
            request, future = item
            if future.cancelled() or self._closed:
                continue
            result: Pixels | BaseException
            try:
                if request.stage is Stage.PREVIEW:
                    result = self._decoder.preview(request.layers)
                else:
                    result = self._decoder.decode(request.layers, steps=request.steps, seed=request.seed)
            except BaseException as error:  # the thread outlives whatever one picture does to the decoder
                result = error
            with contextlib.suppress(RuntimeError):  # the event loop is gone: nobody wants the result
                future.get_loop().call_soon_threadsafe(_settle, future, result)
            del item, result, future  # a picture must not stay in memory while the thread waits


def _settle(future: "asyncio.Future[Pixels]", result: "Pixels | BaseException") -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result if isinstance(result, Exception) else RuntimeError(repr(result)))
    else:
        future.set_result(result)
