"""Rate control: how many bytes the next picture may take.

The session's token bucket keeps the budget whatever is put into it; rate control decides how good the pictures are that
go in, so that they come out at the other end in time. It is pure: numbers in, a byte target out. One of them is what a
byte of layers costs on the wire, which the node measures while it sends (`sender/wire_cost.py`).

* With a latency target, the bytes that the budget can deliver within it, less those already waiting, are shared out
  equally among the pictures that wait now.
* Without one, a picture may take ten seconds of the link, or the mean time between two pictures where they come faster
  than that: a steady camera then never builds a backlog, and a folder of old photographs is sent at a useful quality
  however many there are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared.codec.interfaces import PictureEncoder, Pixels
from shared.errors import UsageError

DEFAULT_LINK_SECONDS = 10.0
"""Seconds of the whole budget that one picture may take when no latency target is set."""

_STEADY_LOAD = 0.9  # of the time between pictures: a queue with no slack never drains
_ARRIVAL_WEIGHT = 0.25  # of the newest interval in the running mean; follows a change within about four pictures
_LONGEST_INTERVAL = 2 * DEFAULT_LINK_SECONDS  # a quiet night must not hide the rush of the morning from the mean
_PACKET_HEADER_BYTES = 32  # header, checksum and record framing of one packet, rounded up
_BASE_SHARE = 0.25  # of a picture's bytes lie in its base layer, at most, at the operating points we know


@dataclass(frozen=True)
class RatePolicy:
    """What the user asked for; at most one of ``quality`` and ``max_bytes``.

    Attributes:
        budget: bit/s on the wire, or None for no limit.
        overhead: bytes on the wire per byte of layers, at least 1; see `WireCost` for how it is measured.
        latency: seconds that a picture may wait and travel, or None to derive it from the rate of pictures.
        quality: fixed quality, from 1, or None.
        max_bytes: fixed largest size of a picture's layers in bytes, or None.
    """

    budget: float | None = None
    overhead: float = 1.0
    latency: float | None = None
    quality: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse values without meaning.

        Raises:
            PinholeError: if a value is out of range, or both ``quality`` and ``max_bytes`` are set.
        """
        if self.quality is not None and self.max_bytes is not None:
            raise UsageError("--quality and --max-bytes exclude each other; pass one of them")
        for name, value in (("budget", self.budget), ("latency", self.latency), ("max-bytes", self.max_bytes)):
            if value is not None and not value > 0:
                raise UsageError(f"--{name} must be greater than 0, not {value}")
        if self.quality is not None and not 1 <= self.quality < math.inf:
            raise UsageError(f"--quality must be a number from 1, not {self.quality:g}")
        if not self.overhead >= 1:
            raise ValueError(f"overhead {self.overhead} is below 1")


def overhead_factor(*, parity: float, base_parity: float, packet_bytes: int, repeats: int = 1) -> float:
    """Estimate the bytes on the wire per byte of layers on a link without loss, before anything is measured.

    Args:
        parity: repair symbols per source symbol of refinements.
        base_parity: the same of base layers.
        packet_bytes: largest packet.
        repeats: times everything is sent.

    Returns:
        A factor of at least 1.
    """
    coded = 1 + _BASE_SHARE * base_parity + (1 - _BASE_SHARE) * parity
    return coded * repeats * packet_bytes / max(1, packet_bytes - _PACKET_HEADER_BYTES)


def byte_target(policy: RatePolicy, *, backlog: int, waiting: int, interval: float | None) -> int | None:
    """Return the largest size of the next picture in bytes of layers.

    Args:
        policy: what the user asked for; its ``quality`` is not looked at.
        backlog: bytes of layers that are spooled and not acknowledged.
        waiting: pictures that are ready to be encoded, this one among them; at least 1.
        interval: mean seconds between two live pictures, or None if unknown.

    Returns:
        At least 1 (of a picture that is too late at any size the base layer goes), or None if nothing limits it.
    """
    if policy.max_bytes is not None:
        return policy.max_bytes
    if policy.budget is None:
        return None
    bytes_per_second = policy.budget / 8 / policy.overhead
    if policy.latency is not None:
        return max(1, int((bytes_per_second * policy.latency - backlog) / max(1, waiting)))
    seconds = DEFAULT_LINK_SECONDS
    if interval is not None:
        seconds = min(seconds, _STEADY_LOAD * interval)
    return max(1, int(bytes_per_second * seconds))


def encode_for(
    encoder: PictureEncoder, pixels: Pixels, policy: RatePolicy, target: int | None, *, captured: int | None
) -> list[bytes]:
    """Encode a picture as the policy says.

    Args:
        encoder: of the bundle.
        pixels: RGB bytes, ``height x width x 3``.
        policy: what the user asked for.
        target: from ``byte_target``.
        captured: seconds since 1970, or None.

    Returns:
        The layers, the base first.

    Raises:
        PinholeError: if the picture cannot be encoded.
    """
    if policy.quality is not None:
        return encoder.encode(pixels, policy.quality, captured=captured)
    if target is None:
        return encoder.encode(pixels, encoder.operating_points[-1].quality, captured=captured)
    return encoder.encode_within(pixels, target, captured=captured)


@dataclass(frozen=True)
class ArrivalRate:
    """Running mean of the time between live pictures.

    Attributes:
        last: when the last batch arrived (or counting began), in seconds of any steady clock.
        interval: mean seconds between two pictures, or None if unknown.
    """

    last: float
    interval: float | None = None

    def after(self, arrived: Sequence[object], now: float) -> "ArrivalRate":
        """Return the rate after one more poll of the source, which gave the captures ``arrived``."""
        if not arrived:
            return self
        newest = min((now - self.last) / len(arrived), _LONGEST_INTERVAL)
        if self.interval is None:
            return ArrivalRate(now, newest)
        return ArrivalRate(now, self.interval + _ARRIVAL_WEIGHT * (newest - self.interval))
