"""The Gilbert-Elliott model of burst loss.

Gilbert, "Capacity of a burst-noise channel", Bell System Technical Journal 39 (1960); Elliott, "Estimates of error
rates for codes on burst-noise channels", Bell System Technical Journal 42 (1963). The letters p, r, h and k are those
of Hasslinger and Hohlfeld, "The Gilbert-Elliott model for packet loss in real time services on the Internet" (2008).
"""

from dataclasses import dataclass

from shared.errors import PinholeError


@dataclass(frozen=True)
class GilbertElliott:
    """A two-state Markov chain that moves once per packet.

    Attributes:
        p: probability of going from the good state to the bad one, 0 to 1.
        r: probability of going from the bad state to the good one, above 0 to 1.
        h: probability that a packet gets through in the bad state, 0 to 1.
        k: probability that a packet gets through in the good state, 0 to 1.
    """

    p: float
    r: float
    h: float = 0.0
    k: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            PinholeError: if a probability is out of range.
        """
        for letter in ("p", "r", "h", "k"):
            if not 0.0 <= getattr(self, letter) <= 1.0:
                raise PinholeError(f"loss model: {letter} is {getattr(self, letter)}; give a probability from 0 to 1")
        if self.p > 0.0 and self.r == 0.0:
            raise PinholeError("loss model: r is 0, so the bad state would never end; give r above 0")

    @classmethod
    def from_mean(cls, loss: float, burst: float) -> "GilbertElliott":
        """Return the model (h = 0, k = 1) with a mean loss rate and a mean burst length.

        Args:
            loss: mean share of packets lost, 0 to below 1.
            burst: mean number of packets lost in a row, 1 upwards.

        Raises:
            PinholeError: if no such model exists.
        """
        if not 0.0 <= loss < 1.0:
            raise PinholeError(f"loss is {loss}; give a share from 0 to below 1")
        if burst < 1.0:
            raise PinholeError(f"burst is {burst}; a burst has a mean length of at least 1 packet")
        r = 1.0 / burst
        p = r * loss / (1.0 - loss)
        if p > 1.0:
            raise PinholeError(
                f"loss {loss} in bursts of {burst} packets is impossible; give longer bursts or less loss"
            )
        return cls(p=p, r=r)

    @property
    def bad_share(self) -> float:
        """Share of packets that meet the bad state in the long run."""
        return self.p / (self.p + self.r) if self.p > 0.0 else 0.0

    @property
    def mean_loss(self) -> float:
        """Share of packets lost in the long run."""
        return self.bad_share * (1.0 - self.h) + (1.0 - self.bad_share) * (1.0 - self.k)
