"""Parity and depth chosen from what the station reports of the channel.

For each priority class the sender picks the fewest bytes with which a block still lacks symbols, at the end of the
time that a picture may take, with at most a target probability. What is there to choose from:

* Repair symbols sent unasked. How many a block needs is in the table of `residual.least_repairs`.
* Rounds of repair on request, if they fit into the time. Only what was lost is sent again then, so a round costs no
  bytes that a channel without memory would not cost as well; but it costs a round trip. So as few symbols as possible
  go out unasked: none when several rounds fit, all that the target takes when none does.
* Depth. A block over several pictures needs less parity, and its first picture waits for the last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.errors import PinholeError
from shared.link.blocks import MOST_SOURCE_SYMBOLS
from shared.link.gilbert import GilbertFit
from shared.link.reed_solomon import LONGEST_CODE_WORD
from shared.link.residual import least_repairs

# fmt: off
LOSSES = (
    0.001, 0.0013, 0.0017, 0.0022, 0.0028, 0.0037, 0.005, 0.0065, 0.008,
    0.01, 0.013, 0.016, 0.02, 0.026, 0.036, 0.05, 0.065, 0.08,
    0.1, 0.13, 0.16, 0.2, 0.26, 0.36, 0.5,
)
# fmt: on
"""Losses of the table; a channel counts as the next worse one."""

BURSTS = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.5, 8.0, 12.0, 18.0, 25.0)
"""Mean bursts of the table, in packets."""

MOST_ROUNDS = 5
"""Rounds of repair that are reckoned with; from the third on they hardly change what is sent unasked."""

MOST_PARITY = 2

_TO_ANSWER = 1.0
"""Seconds that a station gathers before it asks."""

# A rise by more than one error of the fit is believed at once. So is a fall, but only when it has lasted.
_RISE_ERRORS, _LARGEST_RISE = 1.0, math.log(1.5)
_FALL_ERRORS, _LARGEST_FALL = 1.0, math.log(3.0)
_FALL_SECONDS, _FALL_REPORTS = 30.0, 5

_PATIENCE_SECONDS, _PATIENCE_ROUND_TRIPS = 30.0, 4.0
_STALE_AFTER = 3600.0
_SMOOTHING = 0.125

# Nobody waits for less than this; nor is a depth given up for less than that.
_AS_GOOD, _CLEARLY_WORSE = 1.01, 1.05
_DEPTH_SLACK = 1.25
_SPARE_SYMBOLS = 6
"""So many source symbols more than it must have a block may get, see ``shared.link.blocks``."""


@dataclass(frozen=True)
class AdaptationConfig:
    """What the choice starts from. Pairs are for base layers and refinements.

    Attributes:
        fixed: use ``parity`` and ``interleave`` always: there is no return path, or the operator wants it so.
        parity: repair symbols per source symbol while nothing is known of the channel, each 0 to 2.
        interleave: pictures of a block then, at least 1.
        most_interleave: largest number of pictures of a block, at least 1.
        targets: largest probability that a block still lacks symbols when its time is over, each above 0 and below 1.
        wait: seconds that a picture may wait for others to share its block, at least 0.
        latency: seconds after which a picture shall be whole at the station, at least 0; rounds of repair that do not
            fit are not reckoned with, but happen all the same.
        symbol_bytes: bytes of a full symbol, at least 1.
        packet_cost: bytes of all headers of a packet, at least 0.

    Raises:
        PinholeError: if a value is outside its range.
    """

    fixed: bool = False
    parity: tuple[float, float] = (0.5, 0.25)
    interleave: int = 4
    most_interleave: int = 16
    targets: tuple[float, float] = (0.001, 0.01)
    wait: float = 2.0
    latency: float = 30.0
    symbol_bytes: int = 1180
    packet_cost: int = 48

    def __post_init__(self) -> None:
        _demand(all(0.0 <= value <= MOST_PARITY for value in self.parity), f"parity {self.parity} is not within 0 to 2")
        _demand(all(0.0 < value < 1.0 for value in self.targets), f"targets {self.targets} are not between 0 and 1")
        _demand(min(self.interleave, self.most_interleave) >= 1, "interleave is not at least 1 picture")
        _demand(0.0 <= self.wait < math.inf, f"wait {self.wait} s is not a time of 0 or more")
        _demand(0.0 <= self.latency < math.inf, f"latency {self.latency} s is not a time of 0 or more")
        _demand(self.symbol_bytes >= 1 and self.packet_cost >= 0, "a symbol has at least 1 byte, headers at least 0")


class Choice(NamedTuple):
    """What to do with a priority class now.

    Attributes:
        parity: repair symbols sent unasked per source symbol, 0 to 2, for a block of usual size.
        interleave: pictures of a block, at least 1.
    """

    parity: float
    interleave: int


class _Level:
    """A place on an axis of the table that follows worse at once, and better when it has been so for a while."""

    def __init__(self, grid: Sequence[float]) -> None:
        self._grid = grid
        self.index: int | None = None
        self._better_since: float | None = None
        self._better_reports = 0
        self._better_than = 0.0

    def note(self, value: float, error: float, now: float) -> None:
        """Take a measurement, its relative standard error, and its time in seconds."""
        surely_above = value * math.exp(-min(_RISE_ERRORS * error, _LARGEST_RISE))
        surely_below = value * math.exp(min(_FALL_ERRORS * error, _LARGEST_FALL))
        if self.index is None or surely_above > self._grid[self.index]:
            self.index = max(self._ceiling(value), self.index or 0)
            self._better_since = None
        elif self.index == 0 or surely_below > self._grid[self.index - 1]:
            self._better_since = None
        elif self._better_since is None:
            self._better_since, self._better_reports, self._better_than = now, 1, surely_below
        else:
            self._better_reports += 1
            self._better_than = max(self._better_than, surely_below)
            if now - self._better_since >= _FALL_SECONDS and self._better_reports >= _FALL_REPORTS:
                self.index = self._ceiling(self._better_than)
                self._better_since = None

    def _ceiling(self, value: float) -> int:
        return next((i for i, step in enumerate(self._grid) if step >= value), len(self._grid) - 1)


class Adaptation:
    """The choice, kept up to date.

    Until the first report, and gradually again when reports stop although pictures are sent, the configured values
    hold: whatever was known of the channel, it is not known any more.

    Args:
        config: what to start from.
    """

    def __init__(self, config: AdaptationConfig) -> None:
        self.config = config
        self._loss = _Level(LOSSES)
        self._burst = _Level(BURSTS)
        self._rounds = 0
        self._round_trip: float | None = None
        self._fit_at: float | None = None
        self._unanswered_since: float | None = None
        self._picture_at: float | None = None
        self._interval: float | None = None
        self._symbols: list[float | None] = [None, None]
        self._depths: list[int | None] = [None, None]
        self._stale_depths = [True, True]

    def note_fit(self, fit: GilbertFit, now: float) -> None:
        """Take the station's latest estimate; ``now`` in seconds, as everywhere here not running backwards."""
        if self._trust(now) == 0.0:
            self._loss, self._burst = _Level(LOSSES), _Level(BURSTS)
        before = (self._loss.index, self._burst.index)
        self._loss.note(fit.loss, fit.loss_error, now)
        self._burst.note(fit.burst, fit.burst_error, now)
        if before != (self._loss.index, self._burst.index):
            self._stale_depths = [True, True]
        self._fit_at = now
        self._unanswered_since = None

    def note_heard(self) -> None:
        """The station reported, whether or not it said anything of the channel: what it said last still holds."""
        self._unanswered_since = None

    def note_round_trip(self, seconds: float) -> None:
        """Take the measured (smoothed) round trip."""
        self._round_trip = seconds
        fit, surely = (self._rounds_within(seconds * slack) for slack in (1.0, _DEPTH_SLACK))
        rounds = min(max(self._rounds, surely), fit)
        if rounds != self._rounds:
            self._rounds = rounds
            self._stale_depths = [True, True]

    def note_picture(self, symbols_by_class: Sequence[float], now: float) -> None:
        """Take what a submitted picture needs.

        Args:
            symbols_by_class: full symbols that its base layers and its refinements fill, fractions allowed; 0 for a
                class of which it has none, which is passed over.
            now: seconds.
        """
        if self._unanswered_since is None:
            self._unanswered_since = now
        if self._picture_at is not None:
            # A long pause between bursts of pictures says nothing of how soon the next one of a burst comes.
            gap = min(max(now - self._picture_at, 0.0), 4.0 * self.config.wait)
            self._interval = _smoothed(self._interval, gap)
        self._picture_at = now
        for priority, symbols in enumerate(symbols_by_class):
            if symbols > 0.0:
                self._symbols[priority] = _smoothed(self._symbols[priority], symbols)
        self._stale_depths = [True, True]

    def choice(self, priority: int, now: float) -> Choice:
        """Parity and depth of a priority class (0 base layers, 1 refinements) at ``now`` seconds."""
        trust = self._trust(now)
        if trust == 0.0:
            return Choice(self.config.parity[priority], self.config.interleave)
        depth = self._depth(priority)
        symbols = self._symbols[priority]
        k = 12 if symbols is None else min(max(1, math.ceil(depth * symbols)), MOST_SOURCE_SYMBOLS)
        parity = self.parity_symbols(priority, k, now) / k
        return Choice(parity, depth if trust == 1.0 else self.config.interleave)

    def parity_symbols(self, priority: int, k: int, now: float) -> int:
        """Repair symbols to send unasked.

        Args:
            priority: class of the block.
            k: its source symbols, 1 to 64.
            now: seconds.

        Raises:
            ValueError: if there is no such block.
        """
        if not 1 <= k <= MOST_SOURCE_SYMBOLS:
            raise ValueError(f"no block has {k} source symbols")
        most = min(MOST_PARITY * k, LONGEST_CODE_WORD - k)
        safe = min(math.ceil(k * self.config.parity[priority]), most)
        trust = self._trust(now)
        if trust == 0.0:
            return safe
        wanted = min(self._least(priority, k), most)
        return math.ceil(safe + trust * (wanted - safe) - 1e-9)

    @property
    def channel(self) -> tuple[float, float] | None:
        """Loss and burst that the table is read at, None before the first report."""
        if self._loss.index is None or self._burst.index is None:
            return None
        return LOSSES[self._loss.index], BURSTS[self._burst.index]

    @property
    def rounds(self) -> int:
        """Rounds of repair that fit into the time."""
        return self._rounds

    def _trust(self, now: float) -> float:
        """How much the last report still says, 0 to 1.

        Silence counts from the first picture after the last report: a station has nothing to report on a sender that is
        silent.
        """
        if self.config.fixed or self._fit_at is None or now - self._fit_at > _STALE_AFTER:
            return 0.0
        if self._unanswered_since is None:
            return 1.0
        patience = max(_PATIENCE_SECONDS, _PATIENCE_ROUND_TRIPS * (self._round_trip or 0.0))
        silent = now - self._unanswered_since
        return min(max(2.0 - silent / patience, 0.0), 1.0)

    def _rounds_within(self, round_trip: float) -> int:
        time = self.config.latency - self.config.wait - round_trip / 2
        return min(max(int(time / (round_trip + _TO_ANSWER)), 0), MOST_ROUNDS)

    def _least(self, priority: int, k: int) -> int:
        """From the table; 2 k + 1 if not even 2 k are enough."""
        loss, burst = self._loss.index or 0, self._burst.index or 0
        return int(_table(loss, self.config.targets)[priority, self._rounds, burst, k])

    def _depth(self, priority: int) -> int:
        """The depth that costs the fewest bytes, kept until another is clearly better."""
        depth = self._depths[priority]
        if depth is None or self._stale_depths[priority]:
            depth = self._depths[priority] = self._best_depth(priority, depth)
            self._stale_depths[priority] = False
        return depth

    def _best_depth(self, priority: int, present: int | None) -> int:
        symbols = self._symbols[priority]
        if symbols is None or self._interval is None:
            return min(self.config.interleave, self.config.most_interleave)
        costs = {depth: self._cost(priority, depth, symbols) for depth in range(1, self._deepest(symbols, 1.0) + 1)}
        reached = {depth: cost for depth, cost in costs.items() if cost is not None}
        if not reached:
            return max(costs)
        fewest = min(reached.values())
        best = min(depth for depth, cost in reached.items() if cost <= _AS_GOOD * fewest)
        if present is None or present > self._deepest(symbols, _DEPTH_SLACK):
            return best
        cost = self._cost(priority, present, symbols)
        return best if cost is None or cost > _CLEARLY_WORSE * fewest else present

    def _deepest(self, symbols: float, slack: float) -> int:
        """Pictures that come within the wait and fit into a block, by a factor."""
        deepest = min(float(self.config.most_interleave), slack * MOST_SOURCE_SYMBOLS / symbols)
        if self._interval:
            deepest = min(deepest, 1.0 + slack * self.config.wait / self._interval)
        return max(1, int(deepest))

    def _cost(self, priority: int, depth: int, symbols: float) -> float | None:
        """Bytes for a picture, in the number of symbols that costs the fewest; None where the target is not reached."""
        payload = depth * symbols * self.config.symbol_bytes
        fewest = min(max(1, math.ceil(depth * symbols)), MOST_SOURCE_SYMBOLS)
        costs = []
        for k in range(fewest, min(fewest + _SPARE_SYMBOLS, MOST_SOURCE_SYMBOLS) + 1):
            m = self._least(priority, k)
            if m <= min(MOST_PARITY * k, LONGEST_CODE_WORD - k):
                costs.append((k + m) * (payload / k + self.config.packet_cost) / depth)
        return min(costs, default=None)


def make_table(targets: tuple[float, float]) -> None:
    """Make all rows for these targets now, at the start, rather than each when its loss is first met.

    Half a second or so; may run in another thread.
    """
    for loss in range(len(LOSSES)):
        _table(loss, targets)


@lru_cache(maxsize=4 * len(LOSSES))
def _table(loss: int, targets: tuple[float, ...]) -> NDArray[np.uint8]:
    """The rows of one loss, made when they are first wanted and kept for all sessions: (targets, rounds, bursts, k)."""
    table = least_repairs((LOSSES[loss],), BURSTS, targets, most_sources=MOST_SOURCE_SYMBOLS, most_rounds=MOST_ROUNDS)
    table = table[:, :, 0]
    # At the same loss shorter bursts hit more blocks, which few repair symbols and a lax target cannot bear; and the
    # true burst lies between an entry and the one before.
    table[:, :, 1:] = np.maximum(table[:, :, 1:], table[:, :, :-1])
    return table


def _smoothed(known: float | None, value: float) -> float:
    return value if known is None else known + _SMOOTHING * (value - known)


def _demand(holds: bool, complaint: str) -> None:
    if not holds:
        raise PinholeError(f"link setting: {complaint}")
