"""Loss as the station sees it: packet counters in, the fit of a Gilbert model out.

Gilbert's model ("Capacity of a burst-noise channel", Bell System Technical Journal 39, 1960) in its simple form: a good
state in which every packet arrives, a bad one in which none does. Then the losses show the states, and the likeliest
p and r are the shares of moves seen. The letters are those of Hasslinger and Hohlfeld (2008), as in ``sim.loss``.
"""

import math
from collections import deque
from dataclasses import dataclass

from shared.errors import CorruptDataError

TELLING_PACKETS = 300
"""Packets from which on an estimate says more of the channel than of the caution in it, and may be shown to people."""

LONGEST_RUN = 256
"""Counters missing in a row that still count as lost. More is an outage, against which no code helps."""

_FIT_EVERY = 10.0
"""Seconds after which the channel is described anew even if it seems unchanged."""

_PACKETS_TO_JUDGE = 20
"""Packets before the first word about the channel."""

_REORDER_PACKETS = 64
_REORDER_SECONDS = 3.0
_LATE_BEFORE_RESTART = 8

# The prior, in packets seen beforehand: half a burst's beginning in ten good packets, one end in two bad ones. So a
# silent station means 9 % loss in bursts of two, and some hundred packets without loss mean below half a percent.
_PRIOR_STARTS, _PRIOR_GOOD = 0.5, 10.0
_PRIOR_ENDS, _PRIOR_BAD = 1.0, 2.0

_LOSS_UNIT = 10_000
_BURST_UNIT = 16
_LARGEST = 65_535


@dataclass(frozen=True)
class GilbertFit:
    """A channel as fitted.

    Attributes:
        loss: mean share of packets lost, 0 to below 1.
        burst: mean number of packets lost in a row, 1 upwards.
        packets: effective number of packets behind it, 0 upwards; forgetting bounds it.
    """

    loss: float
    burst: float
    packets: int

    @property
    def r(self) -> float:
        """Probability of going from the bad state to the good one."""
        return 1.0 / self.burst

    @property
    def p(self) -> float:
        """Probability of going from the good state to the bad one."""
        return min(1.0, self.r * self.loss / (1.0 - self.loss))

    @property
    def loss_error(self) -> float:
        """Relative standard error of ``loss``: that of a share of independent packets, more for the chain's memory."""
        loss = max(self.loss, 1.0 / _LOSS_UNIT)
        memory = min(max(1.0 - self.p - self.r, 0.0), 0.999)
        spread = (1.0 - loss) / (loss * (self.packets + _PRIOR_GOOD)) * (1.0 + memory) / (1.0 - memory)
        return math.sqrt(spread)

    @property
    def burst_error(self) -> float:
        """Relative standard error of ``burst``."""
        lost = max(self.loss, 1.0 / _LOSS_UNIT) * (self.packets + _PRIOR_GOOD)
        # A share r of `lost` packets; with no two lost in a row its own scatter is no measure.
        return math.sqrt(max(1.0 - self.r, min(1.0, 1.0 / lost)) * self.burst / lost)

    def to_wire(self) -> tuple[int, int, int]:
        """The fit as three integers: loss in 1/10000, burst in 1/16 packets, packets up to 65535."""
        return (
            min(round(self.loss * _LOSS_UNIT), _LOSS_UNIT - 1),
            min(round(self.burst * _BURST_UNIT), _LARGEST),
            min(self.packets, _LARGEST),
        )

    @classmethod
    def from_wire(cls, values: object) -> "GilbertFit":
        """Read what `to_wire` wrote.

        Args:
            values: a list or tuple of three integers, or anything else that came over the wire.

        Raises:
            CorruptDataError: if it is not that, or an integer is out of range.
        """
        if not isinstance(values, list | tuple) or len(values) != 3 or any(type(value) is not int for value in values):
            raise CorruptDataError("a loss estimate is not three integers")
        loss, burst, packets = values
        if not (0 <= loss < _LOSS_UNIT and _BURST_UNIT <= burst <= _LARGEST and 0 <= packets <= _LARGEST):
            raise CorruptDataError(f"a loss estimate is out of range: {loss}, {burst}, {packets}")
        return cls(loss / _LOSS_UNIT, burst / _BURST_UNIT, packets)


class LossObserver:
    """Counts losses and bursts in a row of packet counters and forgets them slowly.

    A missing counter is lost when 64 later ones are known or something later was heard three seconds ago; what comes
    after that is late. Memory and time for one packet are bounded whatever the counters are.

    Args:
        half_life: packets after which what was seen counts half, at least 1.

    Attributes:
        packets: counters decided, arrived or lost.
        lost: of those, lost.
        bursts: runs of lost ones.
        late: packets that came when their counter had been decided, second copies among them.
        outages: gaps too long to be loss.
    """

    def __init__(self, half_life: float = 1000.0) -> None:
        self.packets = 0
        self.lost = 0
        self.bursts = 0
        self.late = 0
        self.outages = 0
        self._keep = 0.5 ** (1.0 / half_life)
        self._weight = 0.0
        self._square = 0.0
        # Moves out of the good and the bad state, and those that led to the other.
        self._good = self._starts = 0.0
        self._bad = self._ends = 0.0
        self._previous_lost: bool | None = None
        # Everything below _next is decided; of what lies above, _seen has arrived, _top the highest of it.
        self._next = 0
        self._top = -1
        self._started = False
        self._seen: set[int] = set()
        self._gaps: deque[tuple[int, float]] = deque()
        self._late_in_a_row = 0
        self._said: tuple[GilbertFit, float] | None = None

    @property
    def highest(self) -> int:
        """The highest counter that arrived, -1 before the first."""
        return self._top

    def observe(self, counter: int, now: float) -> None:
        """Take the counter of a packet that arrived.

        Args:
            counter: full number, not modulo anything.
            now: seconds, not before that of the call before.
        """
        if not self._started:
            self._restart(counter)
        elif counter < self._next:
            self._note_late(counter)
            return
        elif counter - self._top > LONGEST_RUN + 1:
            self.outages += 1
            self._settle(now, everything=True)
            self._restart(counter)
        self._late_in_a_row = 0
        if counter > self._top:
            if counter > self._top + 1:
                self._gaps.append((counter, now))
            self._top = counter
        elif counter in self._seen:
            self.late += 1
        self._seen.add(counter)
        self._settle(now)

    def fit(self, now: float) -> GilbertFit:
        """The model that fits best what was seen until ``now`` seconds, held back by the prior while that is little."""
        self._settle(now)
        p = (self._starts + _PRIOR_STARTS) / (self._good + _PRIOR_GOOD)
        r = (self._ends + _PRIOR_ENDS) / (self._bad + _PRIOR_BAD)
        # Packets that count the less the older they are say as much about a mean as this many that count alike.
        effective = self._weight**2 / self._square if self._square else 0.0
        return GilbertFit(p / (p + r), 1.0 / r, round(effective))

    def judged(self, now: float) -> GilbertFit | None:
        """The fit, None while too few packets have come to tell."""
        fit = self.fit(now)
        return fit if fit.packets >= _PACKETS_TO_JUDGE else None

    def news(self, now: float) -> GilbertFit | None:
        """The fit if the sender does not know it yet; it counts as said."""
        fit = self.judged(now)
        if fit is None:
            return None
        if self._said is not None:
            said, at = self._said
            alike = abs(fit.loss - said.loss) <= 0.1 * said.loss and abs(fit.burst - said.burst) <= 0.1 * said.burst
            # Said again now and then although nothing changed: the report that said it may be lost.
            if alike and now - at < _FIT_EVERY:
                return None
        self._said = (fit, now)
        return fit

    def _restart(self, counter: int) -> None:
        self._started = True
        self._next = counter
        self._top = counter - 1
        self._seen.clear()
        self._gaps.clear()
        self._previous_lost = None
        self._late_in_a_row = 0

    def _note_late(self, counter: int) -> None:
        self.late += 1
        if self._next - counter <= LONGEST_RUN + _REORDER_PACKETS:
            return
        # Far behind, and nothing near in between: the counters have been set back, or the one ahead was a lie.
        self._late_in_a_row += 1
        if self._late_in_a_row >= _LATE_BEFORE_RESTART:
            self.outages += 1
            self._restart(counter + 1)

    def _settle(self, now: float, *, everything: bool = False) -> None:
        """Decide what can be decided."""
        while self._next <= self._top:
            if self._next in self._seen:
                self._seen.remove(self._next)
                self._count(lost=False)
            elif everything or self._top - self._next >= _REORDER_PACKETS or self._is_overdue(now):
                self._count(lost=True)
            else:
                break
            self._next += 1

    def _is_overdue(self, now: float) -> bool:
        while self._gaps and self._gaps[0][0] <= self._next:
            self._gaps.popleft()
        return bool(self._gaps) and now - self._gaps[0][1] >= _REORDER_SECONDS

    def _count(self, *, lost: bool) -> None:
        keep = self._keep
        self._weight = self._weight * keep + 1.0
        self._square = self._square * keep * keep + 1.0
        self._good *= keep
        self._starts *= keep
        self._bad *= keep
        self._ends *= keep
        if self._previous_lost is False:
            self._good += 1.0
            self._starts += lost
        elif self._previous_lost:
            self._bad += 1.0
            self._ends += not lost
        self.packets += 1
        self.lost += lost
        self.bursts += lost and not self._previous_lost
        self._previous_lost = lost
