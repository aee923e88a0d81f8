"""Feed: which of the spool's layers are in the session, and which go in next.

The spool may hold days of pictures, the session keeps what it sends in memory; so only a window of layers is submitted
at once, one for base layers and one for refinements. Base layers of all spooled pictures go in before any refinement.

Two cursors are enough to know what comes next, because sequence numbers only grow and everything before a cursor has
been submitted: a restarted node begins at zero again and finds in the spool just what was never acknowledged. Pictures
that must go on under new numbers get them behind all others, so they come up again by themselves.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby

from sender.spool import Spool, WaitingLayer
from shared.link.sender_session import SenderSession

DEFAULT_WINDOW = 64
"""Layers of each priority class that the session holds at once."""


class Feed:
    """Moves layers from a spool to a session.

    ``next_layers`` reads the disk and may run in a worker thread, as long as nothing else is called meanwhile.
    """

    def __init__(self, spool: Spool, *, window: int = DEFAULT_WINDOW) -> None:
        """Feed from ``spool``, with at most ``window`` layers of a class in the session at once."""
        self._spool = spool
        self._window = window
        self._bases: set[tuple[int, int]] = set()
        self._refinements: set[tuple[int, int]] = set()
        self._last_base = 0
        self._last_refinement = (0, 0)

    @property
    def in_session(self) -> int:
        """Number of layers that were submitted and have not been settled."""
        return len(self._bases) + len(self._refinements)

    def next_layers(self) -> list[WaitingLayer]:
        """Read from the spool what the windows have room for, in the order of submission.

        Raises:
            SpoolError: if the spool cannot be read.
        """
        room = max(0, self._window - len(self._bases))
        bases = self._spool.waiting_bases(self._last_base, room + 1)
        if len(bases) > room:
            return bases[:room]  # the others go before any refinement
        room = max(0, self._window - len(self._refinements))
        return bases + (self._spool.waiting_refinements(self._last_refinement, room) if room else [])

    def submit(self, layers: Sequence[WaitingLayer], session: SenderSession, now: float) -> None:
        """Hand layers from ``next_layers`` to the session at time ``now``."""
        for run in _runs(layers):
            first = run[0]
            session.submit(
                first.sequence,
                [layer.payload for layer in run],
                now,
                first_layer=first.layer,
                total_layers=first.layers,
            )
            for layer in run:
                key = (layer.sequence, layer.layer)
                if layer.layer == 0:
                    self._bases.add(key)
                    self._last_base = layer.sequence
                else:
                    self._refinements.add(key)
                    self._last_refinement = key

    def forget(self, sequences: Collection[int]) -> None:
        """Note pictures that were given up or have other numbers now, whatever of them is in the session."""
        for window in (self._bases, self._refinements):
            window.difference_update({key for key in window if key[0] in sequences})

    def settled(self, layers: Sequence[tuple[int, int]]) -> None:
        """Note layers, each (sequence, layer), that the session is done with and the spool has let go of."""
        self._bases.difference_update(layers)
        self._refinements.difference_update(layers)


def _runs(layers: Sequence[WaitingLayer]) -> Iterator[list[WaitingLayer]]:
    """Split layers into runs of consecutive layers of one picture, as ``submit`` takes them."""
    for _, group in groupby(enumerate(layers), key=lambda item: (item[1].sequence, item[1].layer - item[0])):
        yield [layer for _, layer in group]
