"""What the operator sees while the node runs: one line per event, and on a terminal a table that stays below them."""

import asyncio
import time

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sender.node import SenderNode
from sender.units import format_bytes, format_rate

_REFRESH = 0.5  # seconds between two looks at the node
_RATE_WINDOW = 10.0  # seconds over which the rate on the wire is averaged


class Progress:
    """Prints events, and shows the state of a node live where there is a terminal."""

    def __init__(self, console: Console) -> None:
        """Write to ``console``."""
        self._console = console
        self._samples: list[tuple[float, int]] = []

    def report(self, line: str) -> None:
        """Print one event on one line, whatever is in the names of files; in a log it carries the time of day."""
        line = "".join(character if character.isprintable() else "?" for character in line)
        if self._console.is_terminal:
            self._console.print(escape(line), highlight=False)
        else:
            self._console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False, soft_wrap=True)

    async def follow(self, node: SenderNode) -> None:
        """Show the node's state until cancelled; does nothing without a terminal."""
        if not self._console.is_terminal:
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._table(node), refresh=True)
                await asyncio.sleep(_REFRESH)

    def _table(self, node: SenderNode) -> Table:
        table = Table.grid(padding=(0, 2))
        counters, backlog = node.counters, node.backlog
        station = "[red]away[/red]" if node.station_away else format_rate(self._rate(node.statistics.bytes_sent))
        for heading in ("taken", "acknowledged", "refused", "in spool", "on the wire", "lost", "rate"):
            table.add_column(heading, justify="right")
        table.add_row(*(f"[dim]{column.header}[/dim]" for column in table.columns))
        table.add_row(
            str(counters.taken),
            str(counters.done),
            str(counters.refused),
            f"{backlog.pictures} ({format_bytes(backlog.payload_bytes)})",
            format_bytes(node.statistics.bytes_sent),
            _loss(node),
            station,
        )
        return table

    def _rate(self, sent: int) -> float:
        """Return the mean rate over the last seconds, in bit/s."""
        now = time.monotonic()
        self._samples = [(at, count) for at, count in self._samples if now - at <= _RATE_WINDOW] + [(now, sent)]
        # Always over the whole window, so that the bucket's first burst does not look like a broken budget.
        return 8 * (sent - self._samples[0][1]) / _RATE_WINDOW


def summary(node: SenderNode, *, simplex: bool, seconds: float) -> str:
    """Return one line that says what a run of ``seconds`` seconds did."""
    counters, statistics, backlog = node.counters, node.statistics, node.backlog
    parts = [
        f"{counters.taken} pictures taken ({format_bytes(counters.taken_bytes)})",
        f"{counters.done} {'sent' if simplex else 'acknowledged'}",
    ]
    if counters.refused:
        parts.append(f"{counters.refused} refused")
    if counters.expired:
        parts.append(f"{counters.expired} given up")
    if counters.renumbered:
        parts.append(f"{counters.renumbered} under new numbers")
    parts.append(f"{backlog.pictures} wait in the spool")
    parts.append(
        f"{statistics.packets_sent} packets, {format_bytes(statistics.bytes_sent)} on the wire in {seconds:.1f} s"
    )
    if statistics.loss is not None:
        parts.append(f"{_loss(node)} lost on the way")
    return ", ".join(parts)


def _loss(node: SenderNode) -> str:
    """Return what the station says of the channel, for example ``4.8 % in bursts of 2.9``."""
    statistics = node.statistics
    if statistics.loss is None or statistics.burst is None:
        return "?"
    return f"{100 * statistics.loss:.1f} % in bursts of {statistics.burst:.1f}"
