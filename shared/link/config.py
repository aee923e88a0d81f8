"""What an operator may set on a link."""

from dataclasses import dataclass

from shared.errors import PinholeError

SMALLEST_PACKET = 48
LARGEST_PACKET = 65507
"""Largest payload of a UDP datagram over IPv4 (RFC 768, RFC 791)."""


@dataclass(frozen=True)
class LinkConfig:
    """Settings of one end of a link; both ends may differ, everything a peer must know travels in the packets.

    Attributes:
        packet_bytes: largest packet in bytes, header and checksum included, 48 to 65507.
        parity: repair symbols per source symbol of refinement layers, 0 to 2; 0 sends them uncoded. With ``adapt``
            what holds while nothing is known of the channel.
        base_parity: the same for base layers.
        interleave: pictures that share one code block of a priority class, at least 1; with ``adapt`` as ``parity``.
        adapt: choose parity and interleave from what the station reports of the channel (``docs/adaptation.md``);
            without a return path nothing is reported, and the fixed values hold.
        target: with ``adapt``, largest share of refinement blocks that still lack symbols after ``latency``, 0 to 1.
        base_target: the same for base layers.
        latency: with ``adapt``, seconds in which a picture shall be whole at the station, repair on request included.
        flush_after: seconds after which a block that is not full is closed and sent.
        rate: budget in bit/s over whole packets, None for no limit.
        burst_bytes: depth of the token bucket in bytes; with a rate, at least ``packet_bytes``.
        simplex: there is no return path; layers are reported as sent, never as acknowledged.
        repeats: simplex only, how often each block is sent, at least 1.
        retransmit_after: seconds without an answer before the sender asks for one, until the round trip is measured;
            then it waits for that and its variation and one second more. Silence doubles it.

    Raises:
        PinholeError: if a value is outside its range.
    """

    packet_bytes: int = 1200
    parity: float = 0.25
    base_parity: float = 0.5
    interleave: int = 4
    adapt: bool = False
    target: float = 0.01
    base_target: float = 0.001
    latency: float = 30.0
    flush_after: float = 2.0
    rate: float | None = None
    burst_bytes: int = 2400
    simplex: bool = False
    repeats: int = 1
    retransmit_after: float = 5.0

    def __post_init__(self) -> None:
        _demand(
            SMALLEST_PACKET <= self.packet_bytes <= LARGEST_PACKET,
            f"packet size {self.packet_bytes} is not within {SMALLEST_PACKET} to {LARGEST_PACKET} bytes",
        )
        for name, value in (("parity", self.parity), ("base parity", self.base_parity)):
            _demand(0.0 <= value <= 2.0, f"{name} {value} is not within 0 to 2")
        for name, value in (("target", self.target), ("base target", self.base_target)):
            _demand(0.0 < value < 1.0, f"{name} {value} is not between 0 and 1")
        _demand(0.0 <= self.latency < float("inf"), f"latency {self.latency} s is not a time of 0 or more")
        _demand(self.interleave >= 1, f"interleave {self.interleave} is not at least 1 picture")
        _demand(0.0 <= self.flush_after < float("inf"), f"flush time {self.flush_after} s is not a time of 0 or more")
        _demand(self.rate is None or 0.0 < self.rate < float("inf"), f"rate {self.rate} bit/s is not above 0")
        _demand(
            self.rate is None or self.burst_bytes >= self.packet_bytes,
            f"burst of {self.burst_bytes} bytes never lets a packet of {self.packet_bytes} bytes pass: raise the burst",
        )
        _demand(self.repeats >= 1, f"repeats {self.repeats} is not at least 1")
        _demand(0.0 < self.retransmit_after < float("inf"), f"retransmit time {self.retransmit_after} s is not above 0")

    def parity_of(self, priority: int) -> float:
        """Repair symbols per source symbol of a priority class (0 base layers, 1 refinements)."""
        return self.base_parity if priority == 0 else self.parity


def _demand(holds: bool, complaint: str) -> None:
    if not holds:
        raise PinholeError(f"link setting: {complaint}")
