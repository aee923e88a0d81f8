"""Which of several links takes the next packet. No I/O, no clock: time is an argument, in seconds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from shared.link.budget import TokenBucket

_FAILURE_MEMORY = 0.9
"""Weight of the past against one more packet in a link's share of failures."""

_UNALIKE = 0.05
"""Shares of failures that differ by less say nothing; the link heard last is the better one then."""

_FIRST_PROBE = 5.0
_LAST_PROBE = 60.0
PROBE_FOR = 1.0


class Mode(StrEnum):
    """How several links are used."""

    BOND = "bond"
    FALLBACK = "fallback"


class Turn(NamedTuple):
    """An answer of `LinkChoice.choose`.

    Attributes:
        link: number of the link that takes the packet, None if none can now.
        at: when to ask again if nothing happens before; infinite if only events can bring a change.
    """

    link: int | None
    at: float = math.inf


@dataclass
class _State:
    """Of one link; times in seconds, minus infinity for never."""

    bucket: TokenBucket | None
    rate: float
    burst: float
    up: bool = False
    busy_since: float | None = None
    stalled: bool = False
    unproved: bool = False
    heard_at: float = -math.inf
    sent_at: float = -math.inf
    unanswered_since: float | None = None
    sent_bytes: float = 0.0
    failures: float = 0.0
    probe_at: float = math.inf
    probe_every: float = _FIRST_PROBE

    @property
    def free(self) -> bool:
        return self.up and self.busy_since is None


class LinkChoice:
    """Decides, and remembers what the decision needs.

    A link is *stalled* while it holds one packet for ``patience`` seconds, or is `stuck` with it. It is *dead* if it is
    stalled, or, where there is a way back, if ``patience`` seconds passed since a packet that followed the last word
    from the station, or if it failed and nothing was heard since.

    ``bond``: a packet goes to a link that can take it now; of several, base layers to the one that failed less and was
    heard last, others to the one that sent least for its rate. So each link works at its own rate, a slow or stuck one
    holds nobody. Silence counts for nothing here, for the station answers over whatever link it heard last.

    ``fallback``: the first link that is not dead takes all. A better one that is dead is tried for `PROBE_FOR` seconds
    after 5, 10, 20, 40 and then every 60 seconds; for that long, because the station answers to where the last packet
    came from. If all are dead they take turns.

    Args:
        rates: bit/s of each link, None for no limit.
        bursts: bytes that may leave each at once.
        mode: see above.
        patience: seconds.
        simplex: there is no way back, so silence means nothing.
        now: seconds.
    """

    def __init__(
        self,
        rates: Sequence[float | None],
        bursts: Sequence[int],
        *,
        mode: Mode,
        patience: float,
        simplex: bool,
        now: float,
    ) -> None:
        # Unlimited links share as if they were equal, and before the others.
        self._states = [
            _State(None, 1e12, math.inf) if rate is None else _State(TokenBucket(rate, burst, now), rate, burst)
            for rate, burst in zip(rates, bursts, strict=True)
        ]
        self._mode = mode
        self._patience = patience
        self._simplex = simplex
        self.carrier: int | None = None
        """Fallback: the link that carries everything, but for trials."""

    def opened(self, link: int, now: float) -> None:
        """A link can be used."""
        state = self._states[link]
        state.up = True
        state.unanswered_since = None

    def failed(self, link: int, now: float) -> None:
        """A link cannot be used any more, or could not be opened."""
        state = self._states[link]
        state.up = False
        state.stalled = False
        state.busy_since = None
        state.failures = 1.0 - _FAILURE_MEMORY * (1.0 - state.failures)
        state.unproved = not self._simplex
        self._plan_probe(state, now)

    def finished(self, link: int, now: float) -> None:
        """A link has passed its packet on."""
        state = self._states[link]
        state.busy_since = None
        state.stalled = False
        state.failures *= _FAILURE_MEMORY
        if state.unanswered_since is None:
            state.unanswered_since = now

    def heard(self, link: int, now: float) -> None:
        """Something came from the station."""
        state = self._states[link]
        state.heard_at = now
        state.unanswered_since = None
        state.unproved = False
        state.probe_at = math.inf
        state.probe_every = _FIRST_PROBE

    def stalled(self, now: float) -> list[int]:
        """Links that have become stalled: what they hold should go another way as well."""
        links = []
        for link, state in enumerate(self._states):
            if state.busy_since is not None and not state.stalled and now - state.busy_since >= self._patience:
                state.stalled = True
                self._plan_probe(state, now)
                links.append(link)
        return links

    def stuck(self, link: int) -> None:
        """A link knows by itself that it gets nowhere: if it holds a packet, it is stalled without more patience."""
        state = self._states[link]
        if state.busy_since is not None and not state.stalled:
            state.busy_since = -math.inf

    def next_stall(self) -> float:
        """When `stalled` may have news; infinite if not without events."""
        held = [state.busy_since for state in self._states if state.busy_since is not None and not state.stalled]
        return min(held, default=math.inf) + self._patience

    def largest(self) -> float:
        """Bytes of the largest packet that any link takes."""
        return max(state.burst for state in self._states)

    def choose(self, size: int, priority: int, now: float) -> Turn:
        """Find a link for a packet of ``size`` bytes; the one in the answer counts as busy with it."""
        self._notice_silence(now)
        turn = self._bond(size, priority, now) if self._mode is Mode.BOND else self._fall_back(size, now)
        if turn.link is not None:
            state = self._states[turn.link]
            if state.bucket is not None:
                state.bucket.take(size, now)
            state.busy_since = now
            state.sent_at = now
            state.sent_bytes += size
        return turn

    def _bond(self, size: int, priority: int, now: float) -> Turn:
        ready = {link: _ready_at(state, size, now) for link, state in enumerate(self._states) if state.free}
        able = [link for link, at in ready.items() if at <= now]
        if not able:
            return Turn(None, min(ready.values(), default=math.inf))
        states = self._states
        if priority == 0:
            least = min(states[link].failures for link in able)
            good = [link for link in able if states[link].failures <= least + _UNALIKE]
            latest = max(states[link].heard_at for link in good)
            able = [link for link in good if states[link].heard_at == latest]
        return Turn(min(able, key=lambda link: (states[link].sent_bytes + size) / states[link].rate))

    def _fall_back(self, size: int, now: float) -> Turn:
        alive = [link for link, state in enumerate(self._states) if state.up and not self._dead(state, now)]
        if alive:
            self.carrier = alive[0]
            for link, state in enumerate(self._states[: self.carrier]):
                if state.free and now >= state.probe_at and _ready_at(state, size, now) <= now:
                    if now >= state.probe_at + PROBE_FOR:
                        # Nothing was to be sent at that time, so the trial begins now.
                        state.probe_at = now
                    return Turn(link)
            return self._take(self.carrier, size, now)
        free = [link for link, state in enumerate(self._states) if state.free]
        if not free:
            return Turn(None)
        return self._take(min(free, key=lambda link: self._states[link].sent_at), size, now)

    def _take(self, link: int, size: int, now: float) -> Turn:
        state = self._states[link]
        if not state.free:
            return Turn(None)
        at = _ready_at(state, size, now)
        return Turn(link) if at <= now else Turn(None, at)

    def _dead(self, state: _State, now: float) -> bool:
        return state.stalled or state.unproved or self._silent(state, now)

    def _silent(self, state: _State, now: float) -> bool:
        since = state.unanswered_since
        return not self._simplex and since is not None and now - since >= self._patience

    def _notice_silence(self, now: float) -> None:
        for state in self._states:
            if state.probe_at == math.inf:
                if self._silent(state, now):
                    self._plan_probe(state, now)
            elif state.sent_at >= state.probe_at and now >= state.probe_at + PROBE_FOR:
                state.probe_every = min(2 * state.probe_every, _LAST_PROBE)
                state.probe_at = now + state.probe_every

    def _plan_probe(self, state: _State, now: float) -> None:
        if state.probe_at == math.inf:
            state.probe_at = now + state.probe_every


def _ready_at(state: _State, size: int, now: float) -> float:
    return now if state.bucket is None else state.bucket.ready_at(size, now)
