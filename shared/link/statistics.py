"""Counters an operator can act on."""

from dataclasses import dataclass, fields
from typing import Self

from shared.link.blocks import QUESTION, OutgoingBlock
from shared.link.envelope import Cause


@dataclass
class SenderStatistics:
    """Counters of one sender session; bytes are those of whole packets.

    Attributes:
        packets_sent: packets handed out.
        bytes_sent: bytes handed out.
        source_symbols_sent: packets with a source symbol sent for the first time (uncoded packets count here).
        repair_symbols_sent: packets with a repair symbol sent for the first time, planned or asked for.
        symbols_resent: packets whose symbol had been sent before.
        source_bytes_sent: bytes of source symbols, each time they were sent.
        repair_bytes_sent: bytes of repair symbols, each time they were sent.
        layers_submitted: layers taken from the owner.
        layers_acknowledged: layers the station has stored.
        layers_sent: layers reported as sent on a simplex link.
        payload_bytes_submitted: bytes of the layers taken.
        payload_bytes_settled: bytes of layers, as far as they were sent, in blocks of which nothing is wanted any more
            because all their layers are acknowledged (simplex: sent) or withdrawn.
        wire_bytes_settled: bytes of all packets sent for these blocks, and of hello packets.
        reports_received: control packets understood.
        packets_rejected: incoming packets dropped: damaged, foreign or malformed.
        question_bytes_sent: bytes of packets without a symbol, which only fetch an answer, and of hello packets.
        requests_received: repair requests for blocks still open.
        timeouts: times that a block got no answer and was asked about again.
        layers_withdrawn: layers given up by the owner.
        numbers_taken: pictures given up because the station has others under their numbers.
        resets_received: times that a station said it does not know this session.
        round_trip: smoothed round-trip time in seconds, None before the first measurement.
        loss: share of packets lost on the way to the station, as last reported; None while that rests on few packets.
        burst: mean number of packets lost in a row, likewise.
    """

    packets_sent: int = 0
    bytes_sent: int = 0
    source_symbols_sent: int = 0
    repair_symbols_sent: int = 0
    symbols_resent: int = 0
    source_bytes_sent: int = 0
    repair_bytes_sent: int = 0
    layers_submitted: int = 0
    layers_acknowledged: int = 0
    layers_sent: int = 0
    payload_bytes_submitted: int = 0
    payload_bytes_settled: int = 0
    wire_bytes_settled: int = 0
    reports_received: int = 0
    packets_rejected: int = 0
    question_bytes_sent: int = 0
    requests_received: int = 0
    timeouts: int = 0
    layers_withdrawn: int = 0
    numbers_taken: int = 0
    resets_received: int = 0
    round_trip: float | None = None
    loss: float | None = None
    burst: float | None = None

    def count_hello(self, size: int) -> None:
        """A hello packet of ``size`` bytes goes out."""
        self.packets_sent += 1
        self.bytes_sent += size
        self.question_bytes_sent += size
        self.wire_bytes_settled += size

    def count_symbol(self, block: OutgoingBlock, index: int, size: int) -> None:
        """A packet of ``size`` bytes goes out, with symbol ``index`` of a block or the question about it."""
        self.packets_sent += 1
        self.bytes_sent += size
        block.wire_bytes += size
        if index == QUESTION:
            self.question_bytes_sent += size
            return
        if index < block.k:
            self.source_bytes_sent += block.symbol_bytes(index)
        else:
            self.repair_bytes_sent += block.symbol_bytes(index)
        if index in block.sent:
            self.symbols_resent += 1
        elif index < block.k:
            self.source_symbols_sent += 1
        else:
            self.repair_symbols_sent += 1

    def count_settled(self, block: OutgoingBlock) -> None:
        """Nothing of a block is wanted any more, and nothing of it will be sent."""
        self.payload_bytes_settled += block.payload_bytes_sent
        self.wire_bytes_settled += block.wire_bytes


@dataclass
class StationStatistics:
    """Counters of one sender at the station, or of all together.

    Attributes:
        packets_received: packets that were let in.
        bytes_received: bytes of those packets.
        bytes_spurious: bytes of those that brought nothing new: repeated symbols, and symbols of blocks that were whole
            already, among them repair symbols sent unasked that were not needed. Questions are not counted.
        packets_rejected: packets dropped: damaged, foreign, or with contents that contradict themselves.
        packets_unknown: packets of a session the station does not know; a damaged one looks the same.
        packets_stale: packets of a start of a sender that a newer one has replaced.
        packets_other_version: packets of another version of the protocol.
        packets_not_sealed: unsealed packets at a station that takes sealed ones only.
        packets_sealed: sealed packets at a station without keys.
        packets_unlisted: hello packets of senders that are not on the allow list.
        packets_forged: hello packets that no listed key made.
        packets_replayed: sealed packets that had come before, doubled by the network or sent again by somebody.
        symbols_duplicate: symbols that were there already.
        symbols_recovered: source symbols that the code restored.
        symbols_conflicting: symbols that contradicted one received before.
        columns_repaired: byte columns in which symbols lied past their checksum and the code put it right.
        blocks_completed: blocks all of whose source symbols are known.
        blocks_dropped: unfinished blocks given up: limits of memory, or a new epoch.
        layers_received: layers handed to the owner.
        layers_duplicate: layers that arrived once more, or whose picture's number is taken.
        layers_dropped: unfinished layers given up for the limits of memory.
        layers_acknowledged: layers the owner acknowledged.
        layers_refused: layers under whose number the owner has other bytes.
        requests_sent: blocks for which repair was asked.
        reports_sent: control packets handed out.
        report_bytes_sent: bytes of those.
        sessions_dropped: sessions forgotten because there were too many.
    """

    packets_received: int = 0
    bytes_received: int = 0
    bytes_spurious: int = 0
    packets_rejected: int = 0
    packets_unknown: int = 0
    packets_stale: int = 0
    packets_other_version: int = 0
    packets_not_sealed: int = 0
    packets_sealed: int = 0
    packets_unlisted: int = 0
    packets_forged: int = 0
    packets_replayed: int = 0
    symbols_duplicate: int = 0
    symbols_recovered: int = 0
    symbols_conflicting: int = 0
    columns_repaired: int = 0
    blocks_completed: int = 0
    blocks_dropped: int = 0
    layers_received: int = 0
    layers_duplicate: int = 0
    layers_dropped: int = 0
    layers_acknowledged: int = 0
    layers_refused: int = 0
    requests_sent: int = 0
    reports_sent: int = 0
    report_bytes_sent: int = 0
    sessions_dropped: int = 0

    @property
    def packets_refused(self) -> int:
        """Packets dropped for any reason."""
        return sum(getattr(self, cause.value) for cause in Cause)

    def add(self, other: Self) -> None:
        """Add every counter of ``other`` to this one."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
