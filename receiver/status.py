"""What a running receiver tells the people who watch it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol


class Reporter(Protocol):
    """Where report lines go; called from the event loop only."""

    def line(self, text: str) -> None:
        """Say what happened."""

    def warning(self, text: str) -> None:
        """Say what went wrong, and how to mend it."""


@dataclass
class Status:
    """Counters since the start of the receiver.

    Attributes:
        layers: layers stored.
        layer_bytes: their bytes.
        duplicates: layers that came again after they were stored (acknowledgement lost, restart).
        conflicts: layers of pictures whose number another one has in the archive; that one was kept.
        pictures: pictures whose base layer was stored.
        previews: pictures that got their first preview.
        decoded: pictures that got their first full decode.
        refined: previews and full decodes made again with more layers.
        corrupt: prefixes of layers that did not decode.
        unknown_bundle: pictures of a bundle that this station does not have.
        refused: pictures larger than allowed.
        flagged: results that came about otherwise than asked, for example in float32 after an overflow.
        failures: decodes that failed for a reason that lies with this station.
        resumed: pictures taken up again that an earlier run had left unfinished.
        by_sender: pictures per sender id.
    """

    layers: int = 0
    layer_bytes: int = 0
    duplicates: int = 0
    conflicts: int = 0
    pictures: int = 0
    previews: int = 0
    decoded: int = 0
    refined: int = 0
    corrupt: int = 0
    unknown_bundle: int = 0
    refused: int = 0
    flagged: int = 0
    failures: int = 0
    resumed: int = 0
    by_sender: Counter[int] = field(default_factory=Counter)

    def summary(self) -> str:
        """Return the counters worth a line at the end."""
        parts = [
            f"{_counted(self.pictures, 'picture')} from {_counted(len(self.by_sender), 'sender')}",
            f"{self.layers} layers ({self.layer_bytes} bytes)",
            f"{self.previews} previews",
            f"{self.decoded} full decodes",
        ]
        rare = {
            "refined": self.refined,
            "resumed": self.resumed,
            "repeated layers": self.duplicates,
            "conflicting layers": self.conflicts,
            "corrupt": self.corrupt,
            "of an unknown bundle": self.unknown_bundle,
            "too large": self.refused,
            "flagged": self.flagged,
            "failed": self.failures,
        }
        return ", ".join(parts + [f"{number} {name}" for name, number in rare.items() if number])


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
