"""Rates and sizes as people write them."""

import math
import re

from shared.errors import UsageError

_RATE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:(?P<prefix>[kKMG]?)(?P<unit>bps|bit/s|b/s))?")
_FACTOR = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}


def parse_rate(text: str) -> float:
    """Read a data rate such as ``9.6kbps``, ``2400bps``, ``0.5Mbit/s`` or ``9600``.

    Prefixes are decimal, as modem and radio data sheets count: 1 kbps is 1000 bit/s. Bytes per second are refused
    rather than guessed, because a factor of eight overruns the budget.

    Args:
        text: number with an optional unit; without one it counts bit/s.

    Returns:
        Rate in bit/s, greater than 0.

    Raises:
        PinholeError: if the text is not a rate in bits, or is zero.
    """
    match = _RATE.fullmatch(text.strip())
    rate = float(match["number"]) * _FACTOR[match["prefix"] or ""] if match else 0.0
    if not 0 < rate < math.inf:
        raise UsageError(f"rate {text!r} is not a number of bits per second; write for example 9.6kbps or 0.5Mbps")
    return rate


def format_rate(rate: float) -> str:
    """Write a rate of ``rate`` bit/s, for example ``9.6 kbit/s``."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= factor:
            return f"{rate / factor:.4g} {prefix}bit/s"
    return f"{rate:.4g} bit/s"


def format_bytes(count: float) -> str:
    """Write a number of bytes, for example ``1.84 kB`` (decimal prefixes, as for rates)."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g} {prefix}B"
    return f"{count:.0f} B"


def counted(pictures: int) -> str:
    """Write a number of pictures, for example ``1 picture``."""
    return f"{pictures} picture" if pictures == 1 else f"{pictures} pictures"
