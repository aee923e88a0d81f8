"""What `pinhole receive` shows: a live table on a terminal, plain lines anywhere else."""

import asyncio

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from receiver.daemon import Receiver

_REFRESH = 0.5
_MOST_ROWS = 20


class ConsoleReporter:
    """Prints results to standard output and troubles to standard error, each as one line."""

    def __init__(self) -> None:
        """Find out what standard output is."""
        self.console = Console(highlight=False, soft_wrap=True)
        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)

    @property
    def live(self) -> bool:
        """Whether there is a terminal for a live table."""
        return self.console.is_terminal

    def line(self, text: str) -> None:
        """Say what happened."""
        self.console.print(escape(_one_line(text)))

    def warning(self, text: str) -> None:
        """Say what went wrong; above the live table where there is one."""
        console = self.console if self.live else self._errors
        console.print(Text(f"pinhole receive: {_one_line(text)}", style="yellow"))


async def show_live(receiver: Receiver, reporter: ConsoleReporter) -> None:
    """Keep a table of senders, link repair and queues up to date until cancelled."""
    with Live(render(receiver), console=reporter.console, auto_refresh=False, transient=True) as live:
        while True:
            await asyncio.sleep(_REFRESH)
            live.update(render(receiver), refresh=True)


def render(receiver: Receiver) -> RenderableType:
    """Return the live table: one row per sender, then what waits where."""
    table = Table(box=None, pad_edge=False)
    for heading in ("sender", "name", "pictures", "layers", "packets", "loss", "restored", "repair asked", "rejected"):
        table.add_column(heading, justify="right")
    senders = sorted({*receiver.station.senders, *receiver.status.by_sender})
    for sender in senders[:_MOST_ROWS]:
        link = receiver.station.statistics(sender)
        table.add_row(
            f"{sender:08x}",
            escape(receiver.name_of(sender)),
            str(receiver.status.by_sender[sender]),
            str(link.layers_received),
            str(link.packets_received),
            receiver.channel(sender),
            str(link.symbols_recovered),
            str(link.requests_sent),
            str(link.packets_rejected),
        )
    if len(senders) > _MOST_ROWS:
        table.add_row(f"and {len(senders) - _MOST_ROWS} more")
    waiting = ", ".join(f"{number} {where}" for where, number in receiver.waiting.items())
    status = receiver.status
    done = Text(f"{status.previews} previews, {status.decoded} full decodes", style="dim")
    return Group(table, done, Text(waiting, style="dim"))


def link_summary(receiver: Receiver) -> str:
    """Return what the link did, as one line."""
    totals = receiver.station.totals
    reasons = {
        "damaged": totals.packets_rejected,
        "of no known session": totals.packets_unknown,
        "of an earlier session": totals.packets_stale,
        "repeated": totals.packets_replayed,
        "of senders not listed": totals.packets_unlisted,
        "forged": totals.packets_forged,
        "not sealed": totals.packets_not_sealed,
        "sealed": totals.packets_sealed,
        "of another version": totals.packets_other_version,
    }
    told = ", ".join(f"{number} {reason}" for reason, number in reasons.items() if number)
    return (
        f"link: {totals.packets_received} packets ({totals.bytes_received} bytes), "
        f"{totals.symbols_recovered} lost symbols restored, {totals.requests_sent} repairs asked for, "
        f"{totals.packets_refused} packets dropped" + (f" ({told})" if told else "")
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
