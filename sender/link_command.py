"""The flags of ``pinhole send`` that speak of the link, put together: sessions, envelopes, transports."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sender.spool import Spool
from sender.units import parse_rate
from shared.errors import UsageError
from shared.keyfiles import find_public, find_secret
from shared.link.config import LinkConfig
from shared.link.keys import PublicKey, Role, SecretKey
from shared.link.sealed import SealedSender
from shared.transports import ClientOptions, open_client, options_for
from shared.transports.base import ClientTransport
from shared.transports.bonding.choice import Mode
from shared.transports.bonding.client import BondedClient, Link

UNLIMITED = "unlimited"
AUTO = "auto"

_BURST_PACKETS = 2  # depth of the token bucket: enough for two packets, little enough for a modem's buffer
_START_PARITY = 0.25  # until the channel is known


@dataclass(frozen=True)
class Seals:
    """Keys of a sealed session.

    Attributes:
        secret: this sender's.
        station: the station's.
    """

    secret: SecretKey
    station: PublicKey

    @classmethod
    def find(cls, key: str | None, station_key: str | None) -> "Seals":
        """Read the keys that the flags name.

        Raises:
            UsageError: if one of the two is missing.
            PinholeError: if a key cannot be read.
        """
        if key is None or station_key is None:
            missing = "--station-key" if station_key is None else "--key"
            raise UsageError(f"{missing} is missing: seals need this sender's key and the station's public key")
        return cls(find_secret(key, Role.SENDER), find_public(station_key, Role.STATION))

    def envelope(self, spool: Spool) -> SealedSender:
        """The envelope of this start of the sender."""
        return SealedSender(self.secret, self.station, sender=spool.sender, session=spool.session)


def link_config(
    *,
    rate: float | None,
    packet_bytes: int,
    parity: str,
    interleave: int,
    simplex: bool,
    repeats: int,
    latency: float | None = None,
) -> LinkConfig:
    """Return the session's settings for the command's options.

    Raises:
        PinholeError: if a value is out of range.
    """
    if repeats != 1 and not simplex:
        raise UsageError("--repeats is for --simplex links; with a way back, lost packets are repaired as needed")
    adapt = parity == AUTO
    try:
        share = _START_PARITY if adapt else float(parity)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"--parity must be {AUTO} or 0 to 1, not {parity}")
    if latency is not None and not latency > 0:
        raise UsageError(f"--latency must be greater than 0, not {latency:g}")
    return LinkConfig(
        packet_bytes=packet_bytes,
        parity=share,
        base_parity=2 * share,
        interleave=interleave,
        adapt=adapt,
        latency=LinkConfig.latency if latency is None else latency,
        rate=rate,
        burst_bytes=_BURST_PACKETS * packet_bytes,
        simplex=simplex,
        repeats=repeats,
    )


def link_rates(to: Sequence[str], budgets: Sequence[str]) -> list[float | None]:
    """Bit/s of each link; one budget is that of every link.

    Raises:
        UsageError: if there are neither one nor as many budgets as links, or one is no rate.
    """
    if len(budgets) not in (1, len(to)):
        raise UsageError(f"{len(to)} links and {len(budgets)} budgets: give one --budget, or one for each --to")
    rates = [None if text == UNLIMITED else parse_rate(text) for text in budgets]
    return rates * len(to) if len(rates) == 1 else rates


def session_rate(rates: Sequence[float | None], mode: Mode) -> float | None:
    """Bit/s of the session over all its links together; None for no limit."""
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates):
        return None
    return sum(known) if mode is Mode.BOND else max(known)


def transport_opener(
    to: Sequence[str],
    rates: Sequence[float | None],
    mode: Mode,
    options: ClientOptions,
    *,
    simplex: bool,
) -> Callable[[], Awaitable[ClientTransport]]:
    """What opens the sender's way to the station: one transport, or several that work together.

    Args:
        to: URLs, the best first.
        rates: bit/s of each.
        mode: how several are used.
        options: of all of them, but for the rate; see `options_for`.
        simplex: there is no way back.
    """
    openers = [
        partial(open_client, url, replace(options_for(url, options), rate=rate))
        for url, rate in zip(to, rates, strict=True)
    ]
    if len(openers) == 1:
        return openers[0]
    burst = _BURST_PACKETS * options.packet_bytes
    links = [Link(url, opener, rate, burst) for url, opener, rate in zip(to, openers, rates, strict=True)]
    return partial(BondedClient.open, links, mode, simplex=simplex, report=options.report)
