"""Pictures in code words over a channel that loses packets in bursts: many at once, in arrays.

The packets are only counted here, none is made; the channel is `GilbertElliott`, as in ``sim.channel``. Three ways to
send the symbols of D pictures, each of k source symbols:

* apart: every picture has a code word of its own, and the symbols of D pictures are sent in turn;
* shared: D pictures share a code word, in blocks of limited size one after the other, each with its repair symbols
  behind it, and a source symbol counts as soon as it arrives;
* shared in turn: as shared, but when D pictures make several blocks, their symbols are sent in turn.
"""

import math
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from sim.loss import GilbertElliott

Flags = NDArray[np.bool_]


class Interleaving(Enum):
    """How the symbols of several pictures are sent."""

    APART = "apart"
    SHARED = "shared"
    SHARED_IN_TURN = "shared in turn"


@dataclass(frozen=True)
class Residual:
    """Pictures lost, counted.

    Attributes:
        pictures: that were sent.
        lost: of those, not whole.
        effective: so many independent pictures would say as much: neighbours share bursts, so fewer than were sent.
    """

    pictures: int
    lost: int
    effective: float

    @property
    def share(self) -> float:
        """Share of pictures lost."""
        return self.lost / self.pictures

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Binomial confidence interval of the share (Wilson, Journal of the American Statistical Association 22, 1927).

        Args:
            confidence: probability that the interval covers the true share, between 0 and 1.
        """
        z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
        n, share = self.effective, self.share
        centre = (share + z * z / (2.0 * n)) / (1.0 + z * z / n)
        half = z / (1.0 + z * z / n) * math.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n))
        return max(0.0, centre - half) if self.lost else 0.0, min(1.0, centre + half)


def lost_packets(model: GilbertElliott, packets: int, generator: np.random.Generator) -> Flags:
    """Which of so many packets in a row are lost, from the steady state on.

    Args:
        model: of the channel.
        packets: 0 upwards.
        generator: source of all chance.

    Returns:
        Shape (packets,), True where lost.
    """
    bad = _bad_states(model, packets, generator)
    if model.h == 0.0 and model.k == 1.0:
        return bad
    through = np.where(bad, model.h, model.k)
    lost: Flags = generator.random(packets) >= through
    return lost


def _bad_states(model: GilbertElliott, packets: int, generator: np.random.Generator) -> Flags:
    """The chain, from stays of geometric length in either state."""
    if model.p == 0.0:
        return np.zeros(packets, dtype=np.bool_)
    first_bad = bool(generator.random() < model.bad_share)
    leave = (model.r, model.p) if first_bad else (model.p, model.r)
    parts: list[Flags] = []
    have = 0
    while have < packets:
        stays = math.ceil((packets - have) / (1.0 / model.p + 1.0 / model.r)) + 16
        lengths = np.stack([generator.geometric(chance, stays) for chance in leave], axis=1).ravel()
        # A stay longer than all that is wanted is as long as wanted, so that a chance of 1e-9 costs no memory.
        states = np.tile([first_bad, not first_bad], stays)
        parts.append(np.repeat(states, np.minimum(lengths, packets)))
        have += len(parts[-1])
    return np.concatenate(parts)[:packets] if parts else np.zeros(0, dtype=np.bool_)


def residual_loss(
    model: GilbertElliott,
    interleaving: Interleaving,
    generator: np.random.Generator,
    *,
    k: int,
    m: int,
    depth: int,
    pictures: int,
    most_sources: int = 64,
) -> Residual:
    """Send pictures over one channel and count those that are lost.

    Args:
        model: of the channel.
        interleaving: how the symbols are sent.
        generator: source of all chance.
        k: source symbols of a picture, 1 upwards.
        m: repair symbols of a picture, 0 upwards; of a shared block of n source symbols, n m / k rounded up.
        depth: pictures whose symbols are mixed, 1 upwards.
        pictures: to be sent, rounded up to a multiple of ``depth``.
        most_sources: largest number of source symbols in a shared block.
    """
    groups = -(-pictures // depth)
    if interleaving is Interleaving.APART:
        packets = lost_packets(model, groups * depth * (k + m), generator).reshape(groups, k + m, depth)
        lost = packets.sum(axis=1) > m
    else:
        lost = _shared(model, generator, k, m, depth, groups, most_sources, interleaving)
    return count_lost(lost)


def _shared(
    model: GilbertElliott,
    generator: np.random.Generator,
    k: int,
    m: int,
    depth: int,
    groups: int,
    most_sources: int,
    interleaving: Interleaving,
) -> Flags:
    """Which pictures are lost, shape (groups, depth)."""
    sources = [min(most_sources, k * depth - first) for first in range(0, k * depth, most_sources)]
    sizes = [n + -(-n * m // k) for n in sources]
    packets = lost_packets(model, groups * sum(sizes), generator).reshape(groups, sum(sizes))
    wanting = np.zeros((groups, k * depth), dtype=np.bool_)
    places = _places(sizes, in_turn=interleaving is Interleaving.SHARED_IN_TURN)
    first = 0
    for n, place in zip(sources, places, strict=True):
        block = packets[:, place]
        failed = block.sum(axis=1) > len(place) - n
        wanting[:, first : first + n] = block[:, :n] & failed[:, None]
        first += n
    lost: Flags = wanting.reshape(groups, depth, k).any(axis=2)
    return lost


def _places(sizes: list[int], *, in_turn: bool) -> list[NDArray[np.intp]]:
    """Where in the row of packets the symbols of each block are."""
    order = [(symbol, block) for block, size in enumerate(sizes) for symbol in range(size)]
    if in_turn:
        order.sort()
    else:
        order.sort(key=lambda entry: (entry[1], entry[0]))
    whose = np.array([block for _, block in order])
    return [np.flatnonzero(whose == block) for block in range(len(sizes))]


def count_lost(lost: Flags) -> Residual:
    """Count, and judge from the scatter between groups how much pictures of one group go together.

    Args:
        lost: by group of pictures that share bursts and by picture, shape (groups, depth); groups count as independent.
    """
    groups, depth = lost.shape
    pictures, total = lost.size, int(lost.sum())
    share = total / pictures
    clustering = float(depth) if total < 10 else 1.0
    if 0.0 < share < 1.0 and groups > 1 and total >= 10:
        per_group = lost.sum(axis=1, dtype=np.int64)
        clustering = float(per_group.var(ddof=1)) / (depth * share * (1.0 - share))
    return Residual(pictures, total, pictures / max(1.0, clustering))
