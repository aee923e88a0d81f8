"""What the bytes on the forward channel were spent on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from shared.link.statistics import SenderStatistics


@dataclass(frozen=True)
class Ledger:
    """Bytes of the packets that senders handed out.

    Attributes:
        source: of source symbols, record framing included, each time they were sent.
        repair: of repair symbols, each time they were sent.
        question: of packets without a symbol: questions, and hellos of sealed sessions.
        header: of the other packets' headers, checksums and seals.
    """

    source: int
    repair: int
    question: int
    header: int

    @classmethod
    def of(cls, senders: Iterable[SenderStatistics]) -> Self:
        """From the counters of sessions."""
        counted = [*senders]
        source = sum(sender.source_bytes_sent for sender in counted)
        repair = sum(sender.repair_bytes_sent for sender in counted)
        question = sum(sender.question_bytes_sent for sender in counted)
        return cls(source, repair, question, sum(sender.bytes_sent for sender in counted) - source - repair - question)
