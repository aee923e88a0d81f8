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

    async def wait(self, size: int) -> None:
        """Wait until a packet of ``size`` bytes may leave; those who wait are served in the order they came."""
        bucket = self._bucket
        if bucket is None:
            return
        async with self._turn:
            while size > 0:
                piece = min(size, self._burst)
                while not bucket.take(piece, now := self._clock()):
                    await self._sleep(bucket.ready_at(piece, now) - now)
                size -= piece
