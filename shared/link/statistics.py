"""Counters an operator can act on."""

from dataclasses import dataclass, fields
from typing import Self


@dataclass
class SenderStatistics:
    """Counters of one sender session; bytes are those of whole packets.

    Attributes:
        packets_sent: packets handed out.
        bytes_sent: bytes handed out.
        source_symbols_sent: packets with a source symbol sent for the first time (uncoded packets count here).
        repair_symbols_sent: packets with a repair symbol sent for the first time, planned or asked for.
        symbols_resent: packets whose symbol had been sent before.
        layers_submitted: layers taken from the owner.
        layers_acknowledged: layers the station has stored.
        layers_sent: layers reported as sent on a simplex link.
        payload_bytes_submitted: bytes of the layers taken.
        reports_received: control packets understood.
        packets_rejected: incoming packets dropped: damaged, foreign or malformed.
        requests_received: repair requests for blocks still open.
        timeouts: times that a block got no answer and was asked about again.
        resets_received: times that a station said it does not know this session.
        round_trip: smoothed round-trip time in seconds, None before the first measurement.
    """

    packets_sent: int = 0
    bytes_sent: int = 0
    source_symbols_sent: int = 0
    repair_symbols_sent: int = 0
    symbols_resent: int = 0
    layers_submitted: int = 0
    layers_acknowledged: int = 0
    layers_sent: int = 0
    payload_bytes_submitted: int = 0
    reports_received: int = 0
    packets_rejected: int = 0
    requests_received: int = 0
    timeouts: int = 0
    resets_received: int = 0
    round_trip: float | None = None


@dataclass
class StationStatistics:
    """Counters of one sender at the station, or of all together.

    Attributes:
        packets_received: packets whose checksum held.
        bytes_received: bytes of those packets.
        packets_rejected: packets dropped: damaged, foreign, or with contents that contradict themselves.
        packets_unknown: packets with a short header of a session the station does not know.
        packets_stale: packets of an epoch that a newer one has replaced.
        symbols_duplicate: symbols that were there already.
        symbols_recovered: source symbols that the code restored.
        symbols_conflicting: symbols that contradicted one received before.
        columns_repaired: byte columns in which symbols lied past their checksum and the code put it right.
        blocks_completed: blocks all of whose source symbols are known.
        blocks_dropped: unfinished blocks given up: limits of memory, or a new epoch.
        layers_received: layers handed to the owner.
        layers_duplicate: layers that arrived whole once more.
        layers_dropped: unfinished layers given up for the limits of memory.
        layers_acknowledged: layers the owner acknowledged.
        requests_sent: blocks for which repair was asked.
        reports_sent: control packets handed out.
        report_bytes_sent: bytes of those.
        sessions_dropped: sessions forgotten because there were too many.
    """

    packets_received: int = 0
    bytes_received: int = 0
    packets_rejected: int = 0
    packets_unknown: int = 0
    packets_stale: int = 0
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
    requests_sent: int = 0
    reports_sent: int = 0
    report_bytes_sent: int = 0
    sessions_dropped: int = 0

    def add(self, other: Self) -> None:
        """Add every counter of ``other`` to this one."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
