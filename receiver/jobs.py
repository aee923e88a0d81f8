"""Decode jobs and the bounded queue in which they wait."""

import asyncio
import heapq
from dataclasses import dataclass

from receiver.pictures import PictureKey, Stage


@dataclass(frozen=True)
class Job:
    """One decode to be done; its layers are read when its turn comes, so it always uses all there are.

    Attributes:
        key: which picture.
        stage: preview or full decode.
        received: arrival of the picture, seconds since 1970; oldest first.
        refines: whether the archive already has a result of this stage, made of fewer layers.
    """

    key: PictureKey
    stage: Stage
    received: float
    refines: bool = False

    @property
    def urgency(self) -> tuple[int, float]:
        """Sort key: pictures nobody has seen, then better previews, then full decodes; the oldest of each first."""
        rank = (1 if self.refines else 0) if self.stage is Stage.PREVIEW else (3 if self.refines else 2)
        return rank, self.received


class JobQueue:
    """Priority queue of at most ``limit`` jobs, one per picture and stage, for coroutines of one event loop.

    A job that finds no room is refused, not lost: the index knows every picture that still wants decoding, and
    ``refused`` tells the owner to ask it once there is room again.
    """

    def __init__(self, limit: int) -> None:
        """Start empty."""
        self._limit = limit
        self._heap: list[tuple[int, float, int, Job]] = []
        self._waiting: set[tuple[PictureKey, Stage]] = set()
        self._available = asyncio.Event()
        self._order = 0
        self.refused = False
        self.running = 0

    def put(self, job: Job) -> bool:
        """Queue a job; return False if there was no room. One that waits already is not queued twice."""
        if (job.key, job.stage) in self._waiting:
            return True
        if len(self._heap) >= self._limit:
            self.refused = True
            return False
        self._order += 1
        heapq.heappush(self._heap, (*job.urgency, self._order, job))
        self._waiting.add((job.key, job.stage))
        self._available.set()
        return True

    async def get(self) -> Job:
        """Wait for the most urgent job and mark it as running until ``done``."""
        while not self._heap:
            self._available.clear()
            await self._available.wait()
        job = heapq.heappop(self._heap)[-1]
        self._waiting.discard((job.key, job.stage))
        self.running += 1
        return job

    def done(self) -> None:
        """Say that a job from ``get`` is over."""
        self.running -= 1

    def __len__(self) -> int:
        """Return the number of waiting jobs."""
        return len(self._heap)

    @property
    def room(self) -> int:
        """Number of jobs that still fit."""
        return self._limit - len(self._heap)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, runs or was refused."""
        return not self._heap and not self.running and not self.refused
