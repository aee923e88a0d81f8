"""Lets packets leave evenly, so that none waits in a queue that nobody here sees."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from shared.link.budget import TokenBucket


class Pacer:
    """Makes senders wait such that in any ``t`` seconds at most ``burst_bytes + rate * t / 8`` bytes leave.

    Args:
        rate: bit/s, above 0; None for no limit.
        burst_bytes: what may leave at once after a pause; a larger packet waits until its last byte is paid.
        clock: seconds, never running backwards.
        sleep: waits so many seconds of that clock.
    """

    def __init__(
        self,
        rate: float | None,
        burst_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bucket = None if rate is None else TokenBucket(rate, burst_bytes, clock())
        self._burst = burst_bytes
        self._clock = clock
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._pause: asyncio.Future[None] | None = None

    async def wait(self, size: int) -> None:
        """Wait until a packet of ``size`` bytes may leave; those who wait are served in the order they came."""
        async with self._turn:
            while size > 0 and self._bucket is not None:
                piece = min(size, self._burst)
                now = self._clock()
                if self._bucket.take(piece, now):
                    size -= piece
                else:
                    await self._rest(self._bucket.ready_at(piece, now) - now)

    def stop(self) -> None:
        """Let everybody go at once, now and from now on."""
        self._bucket = None
        if self._pause is not None:
            self._pause.cancel()

    async def _rest(self, seconds: float) -> None:
        self._pause = asyncio.ensure_future(self._sleep(seconds))
        try:
            # Unlike the pause itself, this does not raise when the pause is cut short.
            await asyncio.wait([self._pause])
        finally:
            self._pause.cancel()
            self._pause = None
