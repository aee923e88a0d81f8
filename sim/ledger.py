"""What the bytes on the forward channel were spent on."""

from dataclasses import dataclass

from shared.errors import CorruptDataError
from shared.link.packet import parse_data
from shared.link.plain import read_unproved


@dataclass
class Ledger:
    """Bytes of the packets that senders handed out.

    Attributes:
        source: of source symbols, record framing included, each time they were sent.
        repair: of repair symbols, each time they were sent.
        header: of packet headers and checksums.
        other: of packets that are neither (sealed ones, whose kind cannot be seen).
    """

    source: int = 0
    repair: int = 0
    header: int = 0
    other: int = 0

    def count(self, packet: bytes) -> None:
        """Enter a packet."""
        try:
            incoming = read_unproved(packet)
            data = parse_data(incoming.flags, incoming.body)
        except CorruptDataError:
            self.other += len(packet)
            return
        self.header += len(packet) - len(data.symbol)
        if data.index < data.k:
            self.source += len(data.symbol)
        else:
            self.repair += len(data.symbol)
