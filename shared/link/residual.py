"""What a block code leaves lost on a channel that loses packets in bursts, exactly.

The channel is Gilbert's chain of two states, in the good one every packet arrives and in the bad one none: Gilbert,
"Capacity of a burst-noise channel", Bell System Technical Journal 39 (1960). The probability P(j, n) that j of n
packets are lost follows from a recursion over the packets that keeps one distribution for each state: Elliott,
"Estimates of error rates for codes on burst-noise channels", Bell System Technical Journal 42 (1963). Here the packets
that arrive are counted, because a block of k source symbols fails with fewer than k, however many it has in all.

Interleaving: packets that lie ``stride`` apart see the chain's transition matrix to the power of ``stride``, which is
again a Gilbert chain, with the same loss and less memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chain:
    """Gilbert's chain; the letters are those of ``sim.loss``.

    Attributes:
        p: probability of going from the good state to the bad one, 0 to 1; a number, or an array of any shape.
        r: probability of going from the bad state to the good one, above 0 to 1; of the same shape.
    """

    p: Floats
    r: Floats

    @classmethod
    def of(cls, loss: Floats | float, burst: Floats | float, stride: int = 1) -> "Chain":
        """The chain of every ``stride``-th packet of a channel.

        Args:
            loss: mean share of packets lost, 0 to below 1.
            burst: mean number of packets lost in a row, 1 upwards; with ``loss`` it broadcasts.
            stride: 1 upwards.

        Raises:
            ValueError: if no such chain exists: a number out of range, or more loss than such short bursts can hold.
        """
        share, length = np.broadcast_arrays(np.asarray(loss, dtype=np.float64), np.asarray(burst, dtype=np.float64))
        if stride < 1 or not (np.all(share >= 0.0) and np.all(share < 1.0) and np.all(length >= 1.0)):
            raise ValueError(f"no Gilbert channel with loss {loss}, burst {burst} and stride {stride}")
        r = 1.0 / length
        p = r * share / (1.0 - share)
        if np.any(p > 1.0 + 1e-9):
            raise ValueError(f"loss {loss} does not fit into bursts of {burst} packets")
        # The matrix has the eigenvalues 1 and 1-p-r, so its powers move towards the steady state geometrically.
        moved = 1.0 - (1.0 - p - r) ** stride
        return cls(share * moved, (1.0 - share) * moved)

    @property
    def bad_share(self) -> Floats:
        """Share of packets that are lost in the long run."""
        return self.p / (self.p + self.r)


def received(chain: Chain, packets: int, most: int) -> Floats:
    """How many of the first n packets arrive, for every n, from the steady state on.

    Args:
        chain: channels, shape (...).
        packets: largest n.
        most: largest number of arrivals wanted.

    Returns:
        Probabilities of 0 to ``most`` arrivals among the first n packets, shape (packets + 1, ..., most + 1).
    """
    p, r = chain.p[..., None], chain.r[..., None]
    out = np.zeros((packets + 1, *chain.p.shape, most + 1))
    good = np.zeros((*chain.p.shape, most + 1))
    bad = np.zeros_like(good)
    good[..., 0], bad[..., 0] = 1.0 - chain.bad_share, chain.bad_share
    out[0] = good + bad
    for n in range(1, packets + 1):
        arriving = (1.0 - p) * good + r * bad
        bad = p * good + (1.0 - r) * bad
        good = np.zeros_like(bad)
        good[..., 1:] = arriving[..., :-1]
        out[n] = good + bad
    return out


@lru_cache(maxsize=4096)
def block_failure(k: int, m: int, loss: float, burst: float, stride: int = 1) -> float:
    """Probability that more than m of a block's k + m symbols are lost.

    Args:
        k: source symbols, 1 upwards.
        m: repair symbols, 0 upwards.
        loss: mean share of packets lost, 0 to below 1.
        burst: mean number of packets lost in a row, 1 upwards.
        stride: the block's symbols are every ``stride``-th packet of the channel.

    Raises:
        ValueError: if a number is out of range.
    """
    if k < 1 or m < 0:
        raise ValueError(f"no block of {k} source and {m} repair symbols")
    return float(received(Chain.of(loss, burst, stride), k + m, k - 1)[k + m].sum())


def shared_failure(
    k: int, pictures: int, parity: tuple[int, int], loss: float, burst: float, most_sources: int = 64
) -> float:
    """Probability that a picture is lost when pictures share code words and source symbols are used as they arrive.

    The symbols of the pictures go one after the other into blocks of up to ``most_sources`` source symbols, which are
    sent one after the other, each followed by its repair symbols. A picture is lost if a source symbol of it is lost
    whose block cannot be restored. (Without a return path the link sends the symbols of blocks that were closed
    together in turn, which is the same only for a single block.)

    Args:
        k: source symbols of a picture, 1 upwards.
        pictures: that share blocks, 1 upwards.
        parity: repair symbols per source symbol, as a fraction; for each block the product is rounded up.
        loss: as for `block_failure`.
        burst: as for `block_failure`.
        most_sources: largest number of source symbols in a block, at least ``k``.

    Returns:
        The mean over the pictures.
    """
    chain = Chain.of(loss, burst)
    blocks = cut_into_blocks(k * pictures, parity, most_sources)
    lost = 0.0
    for picture in range(pictures):
        state = np.array([1.0 - chain.bad_share, chain.bad_share])
        start, end = picture * k, (picture + 1) * k
        first = 0
        for sources, repairs in blocks:
            own = (max(start - first, 0), min(end - first, sources))
            if own[0] < own[1]:
                state = state @ _kept(chain, sources, repairs, *own)
            elif first < end:
                state = state @ np.linalg.matrix_power(_matrix(chain), sources + repairs)
            first += sources
        lost += 1.0 - float(state.sum())
    return lost / pictures


def cut_into_blocks(sources: int, parity: tuple[int, int], most_sources: int = 64) -> list[tuple[int, int]]:
    """Source and repair symbols of the blocks into which the link cuts so many source symbols."""
    above, below = parity
    sizes = [min(most_sources, sources - first) for first in range(0, sources, most_sources)]
    return [(size, -(-size * above // below)) for size in sizes]


def _matrix(chain: Chain) -> Floats:
    p, r = float(chain.p), float(chain.r)
    return np.array([[1.0 - p, p], [r, 1.0 - r]])


def _kept(chain: Chain, sources: int, repairs: int, start: int, end: int) -> Floats:
    """Probability that source symbols ``start`` to ``end`` of a block are not lost for good.

    Returns:
        By the state before the block and the state at its end, shape (2, 2).
    """
    matrix = _matrix(chain)
    n = sources + repairs
    # [may the part still be whole without the code, state before the block, present state, arrivals up to sources]
    ways = np.zeros((2, 2, 2, sources + 1))
    ways[1, 0, 0, 0] = ways[1, 1, 1, 0] = 1.0
    for symbol in range(n):
        moved = np.einsum("wbsj,st->wbtj", ways, matrix)
        ways = np.zeros_like(ways)
        ways[:, :, 0, 1:] = moved[:, :, 0, :-1]
        ways[:, :, 0, -1] += moved[:, :, 0, -1]
        ways[:, :, 1] = moved[:, :, 1]
        if start <= symbol < end:
            ways[0, :, 1] += ways[1, :, 1]
            ways[1, :, 1] = 0.0
    kept: Floats = ways[1].sum(axis=-1) + ways[0, :, :, -1]
    return kept


def least_repairs(
    losses: Sequence[float],
    bursts: Sequence[float],
    targets: Sequence[float],
    *,
    most_sources: int = 64,
    most_rounds: int = 0,
) -> NDArray[np.uint8]:
    """The fewest repair symbols to send unasked with every size of block, for a grid of channels.

    A block that lacks d symbols when its symbols have been sent gets d more in a round of repair, of which some may be
    lost in turn; rounds lie far enough apart to be independent. The chance that it still lacks some after R rounds is

        u_R(k, m) = sum over i < k of P(i of k+m arrive) w_R(k - i)
        w_0(d) = 1 for d > 0, w_0(0) = 0,    w_R(d) = sum over i of P(i of d arrive) w_(R-1)(d - i)

    and the fewest m for which it is at most the target is what the table holds.

    Args:
        losses: mean shares of packets lost, each 0 to 0.5.
        bursts: mean numbers of packets lost in a row, each 1 upwards.
        targets: largest probabilities of a block with symbols wanting, each above 0.
        most_sources: largest k.
        most_rounds: largest R.

    Returns:
        Shape (targets, R from 0 to most_rounds, losses, bursts, k from 0 to most_sources); 2 k + 1 where even 2 k
        repair symbols do not reach the target, and 0 for k = 0.
    """
    sizes = np.arange(1, most_sources + 1)
    table = np.zeros((len(targets), most_rounds + 1, len(losses), len(bursts), most_sources + 1), dtype=np.uint8)
    # lag[k - 1, i] = k - i: wanting after i arrivals; 0 (nothing wanting) at and above the diagonal.
    lag = np.maximum(sizes[:, None] - np.arange(most_sources)[None, :], 0)
    useful = np.arange(3 * most_sources + 1)[None, None, :] >= sizes[None, :, None]
    for row, loss in enumerate(losses):
        arrivals = received(Chain.of(loss, np.asarray(bursts, dtype=np.float64)), 3 * most_sources, most_sources - 1)
        by_channel = np.ascontiguousarray(arrivals.transpose(1, 2, 0))
        wanting = np.ones((len(bursts), most_sources + 1))
        wanting[:, 0] = 0.0
        for rounds in range(most_rounds + 1):
            failure = wanting[:, lag] @ by_channel
            for number, target in enumerate(targets):
                count = np.count_nonzero((failure > target) & useful, axis=-1)
                table[number, rounds, row, :, 1:] = np.minimum(count, 2 * sizes + 1)
            wanting = _after_a_round(wanting, arrivals)
    return table


def _after_a_round(wanting: Floats, arrivals: Floats) -> Floats:
    """w_R from w_(R-1), both of shape (channels, d)."""
    after = np.zeros_like(wanting)
    for d in range(1, wanting.shape[1]):
        after[:, d] = np.einsum("ci,ci->c", arrivals[d, :, :d], wanting[:, d:0:-1])
    return after
