"""Pictures that stay lost without repair on request: parity, depth and bursts. Tables and figure of docs/adaptation.md.

    python -m benchmarks.residual_loss -o OUT [--pictures 100000] [--seed 1]
    python -m benchmarks.residual_loss --link [--link-pictures 12000] [--seed 1]

The first simulates pictures of 12 source symbols on channels of ``sim.loss``, sent in the three ways of
``sim.interleaving``, and puts the exact probabilities of ``shared.link.residual`` beside what was counted; it writes
OUT/residual-loss.md and OUT/residual-loss.png. The second sends pictures through the real sessions, packets and codes,
without a return path, and compares with the same probabilities.
"""

import argparse
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from shared.link import LinkConfig
from shared.link.events import LayerReceived
from shared.link.residual import block_failure, shared_failure
from sim.channel import ChannelConfig
from sim.interleaving import Interleaving, Residual, count_lost, residual_loss
from sim.link import SimulatedLink, Submission
from sim.loss import GilbertElliott

K = 12
REPAIRS = (0, 4, 6, 12)
DEPTHS = (1, 4, 16)
CHANNELS = ((0.05, 1.0), (0.05, 3.0), (0.10, 3.0), (0.10, 8.0), (0.20, 3.0))
LINK_ROWS = ((0.05, 3.0, 0, 1), (0.05, 3.0, 4, 1), (0.05, 3.0, 4, 4), (0.10, 8.0, 6, 4), (0.10, 8.0, 4, 16))
MOST_SOURCES = 64
FIRST = 1_000_000
"""Number of the first picture, so large that all take the same number of bytes."""

# Okabe and Ito's colours, which stay apart for colour-blind readers; a marker for each besides.
LOOKS = {0: ("#000000", "o"), 4: ("#D55E00", "s"), 6: ("#0072B2", "^"), 12: ("#009E73", "D")}
DASHES: dict[Interleaving, tuple[float, Sequence[float]]] = {
    Interleaving.APART: (0, ()),
    Interleaving.SHARED: (0, (4, 2)),
}
# Side by side, so that no marker hides another.
SHIFTS = {Interleaving.APART: 0.94, Interleaving.SHARED: 1.06, Interleaving.SHARED_IN_TURN: 1.19}
FLOOR = 1e-6


@dataclass(frozen=True)
class Row:
    """One point of the study.

    Attributes:
        loss: mean share of packets lost.
        burst: mean number of packets lost in a row.
        m: repair symbols of a picture.
        depth: pictures mixed.
        counted: what was simulated, by way of sending.
        exact: probability that a picture is lost, where it can be had.
    """

    loss: float
    burst: float
    m: int
    depth: int
    counted: dict[Interleaving, Residual]
    exact: dict[Interleaving, float]


def study(pictures: int, seed: int) -> Iterator[Row]:
    """Every row of the study, each with chance of its own."""
    generators = iter(np.random.default_rng(seed).spawn(len(CHANNELS) * len(REPAIRS) * len(DEPTHS) * len(Interleaving)))
    for loss, burst in CHANNELS:
        model = GilbertElliott.from_mean(loss, burst)
        for m in REPAIRS:
            for depth in DEPTHS:
                counted = {}
                for way in Interleaving:
                    generator = next(generators)
                    if way is Interleaving.SHARED_IN_TURN and depth * K <= MOST_SOURCES:
                        continue  # a single block has nothing to take turns with
                    counted[way] = residual_loss(model, way, generator, k=K, m=m, depth=depth, pictures=pictures)
                exact = {
                    Interleaving.APART: block_failure(K, m, loss, burst, depth),
                    Interleaving.SHARED: shared_failure(K, depth, (m, K), loss, burst, MOST_SOURCES),
                }
                yield Row(loss, burst, m, depth, counted, exact)


def table(rows: Sequence[Row]) -> list[str]:
    """Rows of a Markdown table, in per cent."""
    lines = [
        "| loss / burst | m | D | apart, counted | exact | shared, counted | exact | shared in turn, counted |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = []
        for way in Interleaving:
            cells.append(_counted(row.counted[way]) if way in row.counted else "")
            if way in row.exact:
                cells.append(_percent(row.exact[way]))
        lines.append(f"| {100 * row.loss:g} % / {row.burst:g} | {row.m} | {row.depth} | {' | '.join(cells)} |")
    return lines


def agreement(rows: Sequence[Row]) -> str:
    """How many of the exact probabilities lie in the 95 % interval of what was counted."""
    hits = [
        row.counted[way].interval()[0] <= exact <= row.counted[way].interval()[1]
        for row in rows
        for way, exact in row.exact.items()
    ]
    return f"{sum(hits)} of {len(hits)} exact probabilities lie within the 95 % intervals of what was counted."


def draw(rows: Sequence[Row], path: Path) -> None:
    """The figure: a panel for each channel, lines are exact, markers are counted."""
    figure = Figure(figsize=(11.0, 7.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(2, 3, sharey=True).flat)
    for axes, (loss, burst) in zip(panels, CHANNELS, strict=False):
        _draw_channel(axes, [row for row in rows if (row.loss, row.burst) == (loss, burst)])
        axes.set_title(f"{100 * loss:g} % lost in bursts of {burst:g}", fontsize=11, loc="left")
    for axes in (panels[0], panels[3]):
        axes.set_ylabel("pictures lost")
    for axes in panels[2:5]:
        axes.set_xlabel("D, pictures whose symbols are mixed")
    _draw_legend(panels[5])
    figure.savefig(path, dpi=130)


def _draw_channel(axes: Axes, rows: Sequence[Row]) -> None:
    for m in REPAIRS:
        colour, marker = LOOKS[m]
        of_m = [row for row in rows if row.m == m]
        for way, dashes in DASHES.items():
            depths = [row.depth * SHIFTS[way] for row in of_m]
            exact = [max(row.exact[way], FLOOR / 100) for row in of_m]
            axes.plot(depths, exact, color=colour, linestyle=dashes, linewidth=1.5)
        for row in of_m:
            for way, counted in row.counted.items():
                _draw_point(axes, row.depth * SHIFTS[way], counted, colour, marker, way)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(FLOOR, 1.3)
    axes.set_xlim(0.8, 23)
    axes.xaxis.set_major_locator(FixedLocator(DEPTHS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda depth, _: f"{depth:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(FixedLocator([1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=9, labelleft=True)
    axes.grid(visible=True, color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_point(axes: Axes, x: float, counted: Residual, colour: str, marker: str, way: Interleaving) -> None:
    low, high = counted.interval()
    if counted.lost == 0:
        return  # the exact line says more than "fewer than one in so many"
    fill = {Interleaving.APART: colour, Interleaving.SHARED: "white", Interleaving.SHARED_IN_TURN: "#F0E442"}[way]
    axes.errorbar(
        [x],
        [counted.share],
        yerr=[[counted.share - low], [high - counted.share]],
        color=colour,
        marker=marker,
        markersize=5.5,
        markerfacecolor=fill,
        markeredgewidth=1.2,
        elinewidth=1.0,
        capsize=2.0,
    )


def _draw_legend(axes: Axes) -> None:
    axes.set_axis_off()
    entries = [
        Line2D([], [], color=colour, marker=marker, linewidth=1.5, label=f"m = {m}")
        for m, (colour, marker) in LOOKS.items()
    ]
    grey = "#555555"
    entries += [
        Line2D([], [], color=grey, marker="o", linewidth=1.5, label="a code word for each picture, sent in turn"),
        Line2D(
            [],
            [],
            color=grey,
            marker="o",
            markerfacecolor="white",
            linestyle=DASHES[Interleaving.SHARED],
            label="one code word over D pictures\n(64 source symbols at most)",
        ),
        Line2D(
            [],
            [],
            color=grey,
            marker="o",
            markerfacecolor="#F0E442",
            linestyle="none",
            label="the same, its blocks sent in turn",
        ),
    ]
    title = (
        f"k = {K} source symbols a picture\n"
        "lines: exact; markers: simulated, 95 % interval\n"
        "(none where no picture was lost)"
    )
    legend = axes.legend(handles=entries, loc="center left", frameon=False, fontsize=10, handlelength=3.2, title=title)
    legend.set_alignment("left")


def link_table(pictures: int, seed: int) -> Iterator[str]:
    """Rows of a Markdown table: pictures through the real link, and what they should lose.

    That is the exact probability, or where pictures fill several blocks, which the link sends in turn, the counted one.
    """
    yield "| loss / burst | m | D | pictures | lost, link | expected | packets | packet loss | mean burst |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for loss, burst, m, depth in LINK_ROWS:
        config = LinkConfig(
            packet_bytes=256, base_parity=m / K, parity=m / K, interleave=depth, flush_after=0.5, simplex=True
        )
        size = fitting_layer(config, depth)
        counted, link = send(config, size, GilbertElliott.from_mean(loss, burst), pictures, depth, seed)
        seen = link.forward[0].statistics
        if K * depth <= MOST_SOURCES:
            expected = shared_failure(K, depth, (m, K), loss, burst, MOST_SOURCES)
        else:
            model, generator = GilbertElliott.from_mean(loss, burst), np.random.default_rng(seed)
            way = Interleaving.SHARED_IN_TURN
            expected = residual_loss(model, way, generator, k=K, m=m, depth=depth, pictures=400_000).share
        yield (
            f"| {100 * loss:g} % / {burst:g} | {m} | {depth} | {counted.pictures} | {_counted(counted)} | "
            f"{_percent(expected)} | {seen.offered} | {100 * seen.loss_rate:.2f} % | {seen.mean_burst:.2f} |"
        )


def fitting_layer(config: LinkConfig, depth: int) -> int:
    """The largest layer of which ``depth`` together make exactly k source symbols each."""

    def symbols(size: int) -> int:
        link = SimulatedLink(config, ChannelConfig(), None)
        for sequence in range(depth):
            link.submit(Submission(0.0, 0, FIRST + sequence, [bytes(size)]))
        link.run_until(60.0)
        return link.senders[0].statistics.source_symbols_sent

    return bisect_right(range(K * config.packet_bytes), K * depth, key=symbols) - 1


def send(
    config: LinkConfig, size: int, model: GilbertElliott, pictures: int, depth: int, seed: int
) -> tuple[Residual, SimulatedLink]:
    """Send pictures of one layer, ``depth`` at a time, and count those that never arrive whole."""
    groups = -(-pictures // depth)
    lost = np.ones((groups, depth), dtype=np.bool_)

    def note(_: float, event: LayerReceived) -> None:
        lost.flat[event.sequence - FIRST] = False

    link = SimulatedLink(config, ChannelConfig(latency=0.05, loss=model), None, seed=seed, on_received=note)
    for sequence in range(groups * depth):
        link.submit(Submission(float(sequence // depth), 0, FIRST + sequence, [bytes(size)]))
    link.run_until(groups + 10.0)
    return count_lost(lost), link


def _percent(share: float) -> str:
    if share < 1e-8:
        return "< 0.000001 %"
    return f"{100 * share:.3f} %" if share > 1e-4 else f"{100 * share:.1g} %".replace("e-0", "e-")


def _counted(counted: Residual) -> str:
    low, high = (100 * bound for bound in counted.interval())
    return f"{100 * counted.share:.3f} % ({low:.3f} to {high:.3f})"


def main() -> None:
    """Run the study, or the check by the real link."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the table and the figure")
    parser.add_argument("--pictures", type=int, default=100_000, help="for each row")
    parser.add_argument("--link", action="store_true", help="check some rows by the real link instead")
    parser.add_argument("--link-pictures", type=int, default=12_000, help="for each of those rows")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    if arguments.link:
        for line in link_table(arguments.link_pictures, arguments.seed):
            print(line, flush=True)
    else:
        arguments.output.mkdir(parents=True, exist_ok=True)
        rows = list(study(arguments.pictures, arguments.seed))
        text = "\n".join([*table(rows), "", agreement(rows)])
        (arguments.output / "residual-loss.md").write_text(text + "\n", encoding="utf-8")
        draw(rows, arguments.output / "residual-loss.png")
        print(text)
    print(f"\n{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
