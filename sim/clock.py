"""A virtual clock: events in order of time, and of scheduling where times are equal."""

import heapq
from collections.abc import Callable
from itertools import count


class VirtualClock:
    """Runs callables at their virtual times; real time does not enter."""

    def __init__(self, start: float = 0.0) -> None:
        """Start at ``start`` virtual seconds."""
        self.now = start
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def schedule(self, time: float, action: Callable[[], None]) -> None:
        """Run ``action`` at ``time`` virtual seconds; a time that has passed means now."""
        heapq.heappush(self._events, (max(time, self.now), next(self._order), action))

    def step(self) -> bool:
        """Run the next event; return whether there was one."""
        if not self._events:
            return False
        self.now, _, action = heapq.heappop(self._events)
        action()
        return True

    def run_until(self, end: float, finished: Callable[[], bool] = lambda: False) -> None:
        """Run all events up to ``end`` virtual seconds, or until ``finished`` says so.

        Where there are no more events the clock stands at ``end``; where ``finished`` ended the run, at its event.
        """
        while self._events and self._events[0][0] <= end:
            if finished():
                return
            self.step()
        if not finished():
            self.now = max(self.now, end)
