"""What adaptation chooses, and how steadily. Tables of docs/adaptation.md.

    python -m benchmarks.adaptation_choices [--packets 200000] [--seed 1]

Three tables: parity and depth for channels and round trips, as `shared.link.adaptation` chooses them once it is sure of
the channel; what it costs not to be sure: the bytes of blocks on simulated steady channels, with the fits of a real
observer and round trips too long for repair, in parts of those that would do if the channel were known, and the exact
probability that they fail, in parts of the target; and the parity that a picture needs without mixing, for comparison.
"""

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from shared.link.adaptation import LOSSES, Adaptation, AdaptationConfig, make_table
from shared.link.gilbert import GilbertFit, LossObserver
from shared.link.residual import block_failure, shared_failure
from sim.interleaving import lost_packets
from sim.loss import GilbertElliott

CHANNELS = ((0.001, 1.0), (0.01, 1.5), (0.05, 3.0), (0.10, 3.0), (0.10, 8.0), (0.20, 3.0))
ROUND_TRIPS = (0.6, 5.0, 10.0, 20.0)
STEADY = ((0.002, 1.0), (0.01, 1.5), (0.03, 3.0), (0.05, 3.0), (0.10, 3.0), (0.10, 8.0), (0.20, 3.0), (0.30, 10.0))
SYMBOLS = (4.0, 12.0)
"""Source symbols of a picture's base layer and of its refinements."""

BLOCKS = (20, 48)
"""Source symbols of a block of base layers and of one of refinements."""

INTERVAL = 0.5
"""Seconds between two pictures."""

_SURE = 60_000
"""Packets behind a fit that leave no doubt."""

_REPORT_EVERY = 50
_PACKETS_A_SECOND = 10.0
_SETTLING = 10_000
"""Packets at the beginning that are not looked at."""


def choices() -> Iterator[str]:
    """Rows of a Markdown table: parity and depth of base layers, then of refinements."""
    yield f"| loss / burst | {' | '.join(f'round trip {trip:g} s' for trip in ROUND_TRIPS)} |"
    yield "|---|" + "---|" * len(ROUND_TRIPS)
    for loss, burst in CHANNELS:
        cells = [_choice(loss, burst, trip) for trip in ROUND_TRIPS]
        yield f"| {_channel(loss, burst)} | {' | '.join(cells)} |"


def _choice(loss: float, burst: float, round_trip: float) -> str:
    config = AdaptationConfig()
    adaptation = Adaptation(config)
    adaptation.note_round_trip(round_trip)
    for picture in range(-40, 1):
        adaptation.note_picture(SYMBOLS, INTERVAL * picture)
    adaptation.note_fit(GilbertFit(loss, burst, _SURE), 0.0)
    both = [adaptation.choice(priority, 0.0) for priority in range(len(SYMBOLS))]
    return "; ".join(f"{choice.parity:.2f}, {choice.interleave}" for choice in both)


def steadiness(packets: int, seed: int) -> Iterator[str]:
    """Rows of a Markdown table: what not knowing a steady channel costs where no repair fits into the time."""
    targets = AdaptationConfig().targets
    yield (
        "| loss / burst | entry read most | moves | "
        + " | ".join(
            f"bytes, k = {k} | failures / {100 * target:g} %" for k, target in zip(BLOCKS, targets, strict=True)
        )
        + " |"
    )
    yield "|---|---|---:|" + "---:|---:|" * len(BLOCKS)
    for loss, burst in STEADY:
        generator = np.random.default_rng(seed)
        lost = lost_packets(GilbertElliott.from_mean(loss, burst), packets, generator)
        states = list(_adapted(np.flatnonzero(~lost).tolist()))
        moves = sum(before.entry != after.entry for before, after in itertools.pairwise(states))
        ((entry, count),) = Counter(state.entry for state in states).most_common(1)
        cells = [f"{_channel(*entry)}: {100 * count / len(states):.0f} %", str(moves)]
        for priority, (k, target) in enumerate(zip(BLOCKS, targets, strict=True)):
            used = Counter(state.repairs[priority] for state in states)
            needed = next((m for m in range(2 * k + 1) if block_failure(k, m, loss, burst, 1) <= target), None)
            failures = sum(n * block_failure(k, m, loss, burst, 1) for m, n in used.items()) / len(states)
            mean = sum(m * n for m, n in used.items()) / len(states)
            cells.append("target missed" if needed is None else f"{(k + mean) / (k + needed):.2f}")
            cells.append(f"{failures / target:.2f}")
        yield f"| {_channel(loss, burst)} | {' | '.join(cells)} |"


class _State(NamedTuple):
    """The table's entry, and the repair symbols of both kinds of block."""

    entry: tuple[float, float]
    repairs: tuple[int, ...]


def _adapted(arrived: Sequence[int]) -> Iterator[_State]:
    """What holds after every report."""
    observer, adaptation = LossObserver(), Adaptation(AdaptationConfig())
    adaptation.note_round_trip(ROUND_TRIPS[-1])
    for counter in arrived:
        now = counter / _PACKETS_A_SECOND
        observer.observe(counter, now)
        if counter % _REPORT_EVERY == 0:
            adaptation.note_fit(observer.fit(now), now)
            if counter >= _SETTLING and adaptation.channel is not None:
                repairs = tuple(adaptation.parity_symbols(priority, k, now) for priority, k in enumerate(BLOCKS))
                yield _State(adaptation.channel, repairs)


def comparisons() -> Iterator[str]:
    """Lines on what mixing saves, for 5 % loss in bursts of 3."""
    loss, burst, k = 0.05, 3.0, 12
    for m in (4, 8, 12):
        yield f"a picture of {k} symbols alone, m = {m}: {100 * block_failure(k, m, loss, burst, 1):.2f} % lost"
    target = AdaptationConfig().targets[0]
    pictures, symbols = 5, 4

    def fails_with(m: int) -> float:
        return block_failure(pictures * symbols, m, loss, burst, 1)

    block = next(m for m in range(2 * pictures * symbols) if fails_with(m) <= target)
    picture = next(
        m
        for m in range(2 * pictures * symbols)
        if shared_failure(symbols, pictures, (m, pictures * symbols), loss, burst, 64) <= target
    )
    yield (
        f"{pictures} pictures of {symbols} symbols in one block, target {target:g}: m = {block} for the block, "
        f"{picture} for a picture"
    )


def _channel(loss: float, burst: float) -> str:
    return f"{100 * loss:g} % / {burst:g}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=200_000, help="sent on each steady channel")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    begin = time.process_time()
    make_table(AdaptationConfig().targets)
    print(f"the table: {len(LOSSES)} rows, {time.process_time() - begin:.1f} s of processor time\n")
    for part in (choices(), steadiness(arguments.packets, arguments.seed), comparisons()):
        print("\n".join(part), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
