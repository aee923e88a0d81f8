"""How many repair symbols go out unasked, and how many pictures share a block: fixed, or following the channel."""

import math
from collections.abc import Sequence
from typing import Protocol

from shared.link.adaptation import Adaptation, AdaptationConfig
from shared.link.config import LinkConfig
from shared.link.frames import Piece
from shared.link.gilbert import GilbertFit
from shared.link.packet import place_bytes

_STRAINED, _EASED = 0.5, 0.25
"""Backlogs, in parts of the latency wanted, at which a link begins and ceases to count as strained."""

_WORTH_MENDING_TWICE = 0.02
"""Loss below which repairs are taken to arrive."""

LOWER_LAYERS = 28
"""Bytes of the IPv4 and UDP headers below a packet: they count when the size of symbols is chosen."""


class ParityPlan(Protocol):
    """What the send queue asks when it closes a block. Priorities are 0 for base layers and 1 for refinements.

    Attributes:
        follows: the answers change with the channel.
    """

    follows: bool

    def is_coded(self, priority: int) -> bool:
        """Whether a class goes out in code blocks at all; the same for the life of a session."""

    def interleave(self, priority: int, now: float) -> int:
        """Pictures that share one block of a class, at least 1."""

    def repairs(self, priority: int, k: int, now: float) -> int:
        """Repair symbols to send unasked with ``k`` source symbols; k + repairs is at most 255."""

    def mending(self, priority: int, needed: int) -> int:
        """Symbols to send when the station asks for ``needed`` ones, at least as many."""

    def note_submitted(self, pieces: Sequence[Piece], now: float) -> None:
        """Layers of one picture were submitted."""

    def note_backlog(self, seconds: float) -> None:
        """So long the link would need for everything that waits or is not acknowledged, sent once."""

    def note_heard(self) -> None:
        """The station reported anything."""

    def note_round_trip(self, seconds: float) -> None:
        """The smoothed round trip was measured anew."""

    def note_fit(self, fit: GilbertFit, now: float) -> None:
        """The station reported what the channel does."""


class FixedParity:
    """What the configuration says, whatever the channel does."""

    follows = False

    def __init__(self, config: LinkConfig) -> None:
        self._config = config

    def is_coded(self, priority: int) -> bool:
        """See `ParityPlan`."""
        return self._config.parity_of(priority) > 0

    def interleave(self, priority: int, now: float) -> int:
        """See `ParityPlan`."""
        return self._config.interleave

    def repairs(self, priority: int, k: int, now: float) -> int:
        """See `ParityPlan`."""
        return math.ceil(k * self._config.parity_of(priority))

    def mending(self, priority: int, needed: int) -> int:
        """See `ParityPlan`."""
        return needed

    def note_submitted(self, pieces: Sequence[Piece], now: float) -> None:
        """See `ParityPlan`."""

    def note_backlog(self, seconds: float) -> None:
        """See `ParityPlan`."""

    def note_heard(self) -> None:
        """See `ParityPlan`."""

    def note_round_trip(self, seconds: float) -> None:
        """See `ParityPlan`."""

    def note_fit(self, fit: GilbertFit, now: float) -> None:
        """See `ParityPlan`."""


class AdaptiveParity:
    """What `Adaptation` chooses.

    Args:
        config: settings of the session.
        overhead: bytes that the session's envelope takes of every packet, at most.
    """

    follows = True

    def __init__(self, config: LinkConfig, overhead: int) -> None:
        cost = overhead + place_bytes(coded=True)
        self._symbol_bytes = config.packet_bytes - cost
        self._refinements = 0.0
        self._latency = config.latency
        self._strained = False
        self._adaptation = Adaptation(
            AdaptationConfig(
                parity=(config.base_parity, config.parity),
                interleave=config.interleave,
                targets=(config.base_target, config.target),
                wait=config.flush_after,
                latency=config.latency,
                symbol_bytes=self._symbol_bytes,
                packet_cost=cost + LOWER_LAYERS,
            )
        )

    def is_coded(self, priority: int) -> bool:
        """See `ParityPlan`; coded even where nothing goes out unasked, for then repair symbols can be asked for."""
        return True

    def interleave(self, priority: int, now: float) -> int:
        """See `ParityPlan`."""
        return self._adaptation.choice(priority, now).interleave

    def repairs(self, priority: int, k: int, now: float) -> int:
        """See `ParityPlan`."""
        wanted = self._adaptation.parity_symbols(priority, k, now)
        channel = self._adaptation.channel
        if self._strained and channel is not None:
            # Every byte that turns out not to be needed delays everything behind it, and the link is late already:
            # half of what is lost on average is nearly always needed, repair on request does the rest.
            loss, _ = channel
            return min(wanted, int(0.5 * k * loss / (1.0 - loss)))
        return wanted

    def mending(self, priority: int, needed: int) -> int:
        """See `ParityPlan`; what is lost of the repairs on average goes along, for another round takes a round trip."""
        channel = self._adaptation.channel
        if self._strained or channel is None or channel[0] < _WORTH_MENDING_TWICE:
            return needed
        extra = needed * channel[0] / (1.0 - channel[0])
        return needed + (math.ceil(extra) if priority == 0 else round(extra))

    def note_submitted(self, pieces: Sequence[Piece], now: float) -> None:
        """See `ParityPlan`."""
        base = sum(len(piece.payload) for piece in pieces if piece.layer == 0) / self._symbol_bytes
        self._refinements += sum(len(piece.payload) for piece in pieces if piece.layer > 0) / self._symbol_bytes
        # Base and refinements of one picture may be submitted apart; it is counted with its base.
        if base:
            self._adaptation.note_picture((base, self._refinements), now)
            self._refinements = 0.0

    def note_backlog(self, seconds: float) -> None:
        """See `ParityPlan`."""
        # Between the two it stays as it was, so that it does not go to and fro.
        if seconds > _STRAINED * self._latency:
            self._strained = True
        elif seconds < _EASED * self._latency:
            self._strained = False

    def note_heard(self) -> None:
        """See `ParityPlan`."""
        self._adaptation.note_heard()

    def note_round_trip(self, seconds: float) -> None:
        """See `ParityPlan`."""
        self._adaptation.note_round_trip(seconds)

    def note_fit(self, fit: GilbertFit, now: float) -> None:
        """See `ParityPlan`."""
        self._adaptation.note_fit(fit, now)
