"""Decodes a stream of pictures: reads ahead on the CPU, diffuses batches of one shape, paints behind.

    submit --> [reader: entropy decoding] --> waiting, at most 2 batches --> [diffuser] --> [painter] --> future

Three threads, one a stage. On a GPU the painter works on a stream of its own while the next batch is diffused; on a CPU
the two take turns, because they would only share the same cores. A batch is what waits with the key of the oldest
picture that waits: nothing waits for a batch to fill.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from receiver.pictures import Painted
from receiver.staging import DecodeRequest, StagedDecoder
from shared.errors import PinholeError


@dataclass
class _Work:
    """A request on its way; ``value`` is what the last stage made of it."""

    future: "Future[Painted]"
    value: Any


class DecodePipeline:
    """Decodes requests in the order they come, as far as batches allow.

    Args:
        decoder: does the work; each of its stages is called from one thread only.
        warm_up: widths and heights of pictures to get ready for before the first.
    """

    def __init__(self, decoder: StagedDecoder, warm_up: Sequence[tuple[int, int]] = ()) -> None:
        self._decoder, self._sizes = decoder, warm_up
        self._requests: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._diffused: queue.Queue[_Work | None] = queue.Queue(2 * decoder.batch)
        self._waiting: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._read_all = False
        self._closed = False
        self._device = contextlib.nullcontext() if decoder.overlaps else threading.Lock()
        self._ready: Future[None] = Future()
        # Daemon threads: a decode of minutes must not hold up the end of the process.
        self._threads = [
            threading.Thread(target=target, name=f"decoder {target.__name__.strip('_')}", daemon=True)
            for target in (self._read, self._diffuse, self._paint)
        ]
        for thread in self._threads:
            thread.start()

    def wait_until_ready(self) -> None:
        """Wait for the end of the warm-up.

        Raises:
            PinholeError: if it failed.
        """
        self._ready.result()

    def submit(self, request: DecodeRequest) -> "Future[Painted]":
        """Take a request; cancelling the future drops it if its decode has not begun.

        Raises:
            PinholeError: if the pipeline is closed.
        """
        if self._closed:
            raise PinholeError("the decoding engine is closed; start the receiver again")
        future: Future[Painted] = Future()
        self._requests.put(_Work(future, request))
        return future

    def close(self, timeout: float) -> bool:
        """Begin no more stages; give those that run ``timeout`` seconds and return whether they have ended."""
        self._closed = True
        self._requests.put(None)
        with self._changed:
            self._changed.notify_all()
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _read(self) -> None:
        while (work := self._requests.get()) is not None:
            if self._closed or not work.future.set_running_or_notify_cancel():
                continue
            if self._step(work, partial(self._decoder.read, work.value)):
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or len(self._waiting) < 2 * self._decoder.batch)
                    self._waiting.append(work)
                    self._changed.notify_all()
            del work
        with self._changed:
            self._read_all = True
            self._changed.notify_all()

    def _diffuse(self) -> None:
        try:
            self._decoder.warm_up(self._sizes)
        except BaseException as error:
            self._ready.set_exception(error)
        else:
            self._ready.set_result(None)
        while batch := self._next_batch():
            self._diffuse_batch(batch)
            for work in batch:
                # Bounded: the diffuser must not fill the memory with latents that nobody has painted.
                if not work.future.done():
                    self._diffused.put(work)
            del batch, work
        self._diffused.put(None)

    def _next_batch(self) -> list[_Work]:
        """Wait for pictures; return the oldest and those that can go with it. Empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._read_all)
            if self._closed:
                self._waiting.clear()
            if not self._waiting:
                return []
            key = self._decoder.key(self._waiting[0].value)
            batch = [work for work in self._waiting if self._decoder.key(work.value) == key][: self._decoder.batch]
            for work in batch:
                self._waiting.remove(work)
            self._changed.notify_all()
            return batch

    def _diffuse_batch(self, batch: list[_Work]) -> None:
        try:
            with self._device:
                values = self._decoder.diffuse([work.value for work in batch])
        except BaseException as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            # One of them is to blame; the others shall not suffer for it.
            for work in batch:
                self._diffuse_batch([work])
            return
        for work, value in zip(batch, values, strict=True):
            work.value = value

    def _paint(self) -> None:
        while (work := self._diffused.get()) is not None:
            if not self._closed:

                def paint(work: _Work = work) -> Painted:
                    with self._device:
                        return self._decoder.paint(work.value)

                if self._step(work, paint):
                    work.future.set_result(work.value)
            # A picture must not stay in memory while the thread waits.
            work.value = None
            del work

    @staticmethod
    def _step(work: _Work, stage: Callable[[], Any]) -> bool:
        """Run a stage; its error ends this picture and no other."""
        try:
            work.value = stage()
        except BaseException as error:
            _fail(work, error)
            return False
        return True


def _fail(work: _Work, error: BaseException) -> None:
    work.value = None
    work.future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
