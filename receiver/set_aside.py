"""Layers of pictures that the archive has no place for: they wait aside, so that nothing behind them does."""

from collections import Counter, OrderedDict

from receiver.archive import ReceivedLayer
from receiver.pictures import PictureKey

COST_OF_A_LAYER = 1024
"""Bytes that a waiting layer is reckoned to take besides its payload, so that empty ones are bounded too."""

MOST_SENDERS = 64
"""Of whom layers wait. With more, what ails is the archive; theirs come again after a restart of either end."""


def cost(layer: ReceivedLayer) -> int:
    """Bytes that a waiting layer is reckoned to take."""
    return len(layer.payload) + COST_OF_A_LAYER


class SetAside:
    """What waits aside, in order of arrival within each picture.

    Args:
        limit: bytes of layers that may wait, `COST_OF_A_LAYER` for each included. What exceeds it is let go, the newest
            of whoever has most; but one layer of each sender stays, by which to see whether there is a place again.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._layers: Counter[int] = Counter()
        self._bytes: Counter[int] = Counter()
        self._pictures: OrderedDict[int, OrderedDict[PictureKey, list[ReceivedLayer]]] = OrderedDict()

    def __len__(self) -> int:
        return self._layers.total()

    @property
    def senders(self) -> set[int]:
        """Ids of the senders of whom something waits here."""
        return {*self._pictures}

    def holds(self, key: PictureKey) -> bool:
        """Whether layers of that picture wait here, and so its later ones must as well."""
        return key in self._pictures.get(key.sender, ())

    def put(self, layer: ReceivedLayer) -> set[int]:
        """Take a layer, unless the same waits here already; return senders of whom some were let go for it."""
        sender = layer.key.sender
        if sender not in self._pictures and len(self._pictures) >= MOST_SENDERS:
            return set()
        layers = self._pictures.setdefault(sender, OrderedDict()).setdefault(layer.key, [])
        if layer in layers:
            return set()  # its sender was started again, and sent it again
        layers.append(layer)
        self._count(layer, 1)
        let_go = set()
        while self._bytes.total() > self._limit:
            several = [one for one, number in self._layers.items() if number > 1]
            if not several:
                break
            most = max(several, key=self._bytes.__getitem__)
            self._let_go(most)
            let_go.add(most)
        return let_go

    def take_one_of_each(self, senders: int, layers: int) -> list[ReceivedLayer]:
        """Take out one picture of each of several senders, to see whether there is a place for it now.

        Whoever is taken comes last the next time.

        Args:
            senders: how many at most.
            layers: after so many no further picture is taken; each is taken whole.
        """
        taken: list[ReceivedLayer] = []
        for sender in [*self._pictures][:senders]:
            if len(taken) >= layers:
                break
            self._pictures.move_to_end(sender)
            taken += self._take_picture(next(iter(self._pictures[sender])))
        return taken

    def take_all(self, sender: int | None = None) -> list[ReceivedLayer]:
        """Take out everything, or everything of one sender, in order within each picture."""
        senders = [*self._pictures] if sender is None else self.senders & {sender}
        return [layer for one in senders for key in [*self._pictures[one]] for layer in self._take_picture(key)]

    def _take_picture(self, key: PictureKey) -> list[ReceivedLayer]:
        layers = self._pictures[key.sender].pop(key)
        for layer in layers:
            self._count(layer, -1)
        return layers

    def _let_go(self, sender: int) -> None:
        key, layers = next(reversed(self._pictures[sender].items()))
        layer = layers.pop()
        if not layers:
            del self._pictures[sender][key]
        self._count(layer, -1)

    def _count(self, layer: ReceivedLayer, number: int) -> None:
        sender = layer.key.sender
        self._layers[sender] += number
        self._bytes[sender] += number * cost(layer)
        if not self._layers[sender]:
            del self._layers[sender], self._bytes[sender], self._pictures[sender]
