"""Which sender id belongs to whom: the numbers of pictures are a spool's, and no other sender may add to them."""

from collections.abc import Mapping, Sequence

MOST_IDS = 256
"""Ids kept of one identity. A sender gets another with each new spool, so few ever have more than a handful; and who
takes that many makes only its own earliest ones free again."""


class SenderIds:
    """The sender ids that each identity has used.

    Args:
        known: as `by_identity` gave it: ids by identity (both u32), the one that was used longest ago first.
    """

    def __init__(self, known: Mapping[int, Sequence[int]]) -> None:
        self._used: dict[int, dict[int, None]] = {}
        self._owners: dict[int, int] = {}
        for identity, senders in known.items():
            for sender in senders:
                self.claim(sender, identity)

    def owner(self, sender: int) -> int | None:
        """The identity that used this id last, None for an id that nobody has used."""
        return self._owners.get(sender)

    def claim(self, sender: int, identity: int) -> None:
        """Note that an identity uses an id; it is nobody else's from now on."""
        before = self._owners.get(sender)
        if before is not None:
            self._forget(sender, before)
        self._owners[sender] = identity
        used = self._used.setdefault(identity, {})
        used[sender] = None
        if len(used) > MOST_IDS:
            self._forget(next(iter(used)), identity)

    def by_identity(self) -> dict[int, tuple[int, ...]]:
        """All ids by identity, the one that was used longest ago first."""
        return {identity: tuple(senders) for identity, senders in self._used.items()}

    def _forget(self, sender: int, identity: int) -> None:
        used = self._used[identity]
        del used[sender], self._owners[sender]
        if not used:
            del self._used[identity]
