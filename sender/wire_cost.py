"""What a byte of layers costs on the link, measured: bytes on the wire over bytes of layers.

Headers, frames, parity, questions and repairs make more bytes of a picture than its layers have, the more the more is
lost. Rate control must know how many: if it takes them for fewer than they are, a steady camera asks for more than the
link carries, and its backlog grows for ever.

* Every packet is charged to its block when it goes out, and what a block cost is read off when it is settled, over the
  bytes of its layers. So what is still on its way is in neither number, however long a round trip is. The bytes that
  went out since some time over those acknowledged since would be too many at first and whenever more is sent than
  before; over those begun since, too few, until the repairs follow.
* Pictures that are given up count like others, as far as they were sent: those bytes were on the wire, and the question
  is how many follow from asking for a picture, not whether it was worth them. What was never sent of them cost nothing.
* While nothing is settled nothing is learnt, so an outage changes nothing. What was sent into it is sent again, and so
  counts twice when it settles in the minutes after; that is forgotten like all else.
"""

import math
from dataclasses import dataclass
from typing import Self

DEAREST = 5.0
"""Largest factor measured: a link that costs more is not dear but broken, which smaller pictures do not mend."""

_PICTURES = 16  # after so many one e-th of the weight is left: few bursts of losses, but soon enough for the backlog
_LEAST_MEMORY = 32_768  # bytes of layers, some tens of packets, below which single bursts would show
_PRIOR = 16_384  # bytes of layers that the estimate counts as


@dataclass(frozen=True)
class WireCost:
    """Running mean of the bytes on the wire per byte of layers.

    Attributes:
        wire: bytes on the wire that count, at least ``layers``; old ones less.
        layers: bytes of layers that count, likewise, above 0.
        ceiling: largest factor.
        seen: totals of both at the last look.
    """

    wire: float
    layers: float
    ceiling: float
    seen: tuple[int, int] = (0, 0)

    @classmethod
    def expected(cls, factor: float) -> Self:
        """Begin with an estimate, at least 1, which counts as 16 KiB of layers; totals begin at 0."""
        return cls(factor * _PRIOR, _PRIOR, max(DEAREST, factor))

    @property
    def factor(self) -> float:
        """Bytes on the wire per byte of layers: 1 to 5, or to the estimate at the beginning if that was higher."""
        return min(max(1.0, self.wire / self.layers), self.ceiling)

    def after(self, wire: int, layers: int, *, picture: int) -> "WireCost":
        """Return the cost with what was settled since the last look; how often one looks hardly matters.

        Args:
            wire: bytes on the wire so far of all that is settled.
            layers: bytes of layers so far of all that is settled; neither ever shrinks.
            picture: bytes of the layers of a picture as they are now, 0 if unknown. The weight of what was settled
                falls to one e-th within 16 pictures, and at least 32 KiB.
        """
        more = layers - self.seen[1]
        if more <= 0:
            return self
        memory = max(_LEAST_MEMORY, _PICTURES * picture)
        kept = math.exp(-more / memory)
        # Of what is new the older bytes count less as well, so that a night's at one look does not weigh for a week.
        share = memory * (1.0 - kept) / more
        counted = self.layers * kept + more * share
        spent = self.wire * kept + (wire - self.seen[0]) * share
        # The bound holds for the memory too, or a disaster would take long to forget.
        return WireCost(min(spent, self.ceiling * counted), counted, self.ceiling, (wire, layers))
