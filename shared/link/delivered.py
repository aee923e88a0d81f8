"""What a station has had whole of one sender: what became of each layer, and what of that is still to be said.

A layer is handed to the station's owner once. The owner stores it, and it is acknowledged; or the owner has other bytes
under its number and keeps those, and the number of its picture is called taken. Either is said in the next report, and
again whenever something that comes shows that the sender does not know it yet.
"""

from collections import OrderedDict
from collections.abc import Collection
from itertools import islice

from shared.link.blocks import LayerKey
from shared.link.control import TakenNumbers

_LAYERS_REMEMBERED = 65536
"""Also of numbers that are taken."""

_LAYERS_SAID = 4096
"""Acknowledgements in what is sent at one time, so that a block of very many layers is not answered in one burst."""


class DeliveredLayers:
    """Keeps account for one session; what is remembered is bounded, the oldest is forgotten first."""

    def __init__(self) -> None:
        # True: acknowledged; False: handed to the owner, who has not stored it yet.
        self._layers: OrderedDict[LayerKey, bool] = OrderedDict()
        self._hashes: dict[LayerKey, int] = {}
        self._acknowledgements: set[LayerKey] = set()
        self._taken: OrderedDict[int, None] = OrderedDict()
        self._refusals: set[int] = set()
        self._highest = 0

    def __contains__(self, key: LayerKey) -> bool:
        """Whether nothing more of a layer is wanted: it was handed over, or the number of its picture is taken."""
        return key in self._layers or key[0] in self._taken

    @property
    def something_to_say(self) -> bool:
        """Whether `say` would return anything."""
        return bool(self._acknowledgements or self._refusals)

    def hand_over(self, key: LayerKey, payload: bytes) -> None:
        """A layer goes to the owner."""
        self._hashes[key] = hash(payload)
        self._remember(key, acknowledged=False)

    def handed_over(self, key: LayerKey, payload_hash: int) -> bool:
        """Whether the owner got just these bytes from this session, and has not stored them yet."""
        return self._hashes.get(key) == payload_hash

    def acknowledge(self, key: LayerKey, *, say: bool) -> None:
        """The owner has stored a layer; ``say``: the sender is to hear of it."""
        self._hashes.pop(key, None)
        self._remember(key, acknowledged=True)
        if say:
            self._acknowledgements.add(key)

    def refuse(self, key: LayerKey, highest: int, *, say: bool) -> None:
        """The owner has another picture under this layer's number, so no layer of this session's picture is wanted.

        Args:
            key: the layer.
            highest: largest number of a picture that the owner has of this sender.
            say: the sender is to hear of it.
        """
        sequence = key[0]
        self._highest = max(self._highest, highest, sequence)
        self._taken[sequence] = None
        self._taken.move_to_end(sequence)
        if len(self._taken) > _LAYERS_REMEMBERED:
            forgotten, _ = self._taken.popitem(last=False)
            self._refusals.discard(forgotten)
        if say:
            self._refusals.add(sequence)

    def are_stored(self, keys: Collection[LayerKey]) -> bool:
        """Whether all of these layers are stored."""
        return all(self._layers.get(key) for key in keys)

    def repeat(self, keys: Collection[LayerKey]) -> bool:
        """These layers came again, so what was said of them was lost.

        Returns:
            Whether there is anything to say of them.
        """
        if max(len(self._acknowledgements), len(self._refusals)) >= _LAYERS_SAID:
            return False  # a report is due anyway, and what it leaves is asked for again
        stored = {key for key in keys if self._layers.get(key)}
        taken = {sequence for sequence, _ in keys if sequence in self._taken}
        self._acknowledgements |= stored
        self._refusals |= taken
        return bool(stored or taken)

    def say(self) -> tuple[dict[int, int], TakenNumbers | None]:
        """Take what is to be said now; there may be more.

        Returns:
            Acknowledged layers as bit sets by the number of their picture, and numbers that are taken.
        """
        said = [*islice(self._acknowledgements, _LAYERS_SAID)]
        self._acknowledgements.difference_update(said)
        pictures: dict[int, int] = {}
        for sequence, layer in said:
            pictures[sequence] = pictures.get(sequence, 0) | 1 << layer
        taken = sorted(islice(self._refusals, _LAYERS_SAID))
        self._refusals.difference_update(taken)
        return pictures, TakenNumbers(self._highest, tuple(taken)) if taken else None

    def _remember(self, key: LayerKey, *, acknowledged: bool) -> None:
        self._layers[key] = acknowledged or self._layers.get(key, False)
        self._layers.move_to_end(key)
        if len(self._layers) > _LAYERS_REMEMBERED:
            forgotten, _ = self._layers.popitem(last=False)
            self._acknowledgements.discard(forgotten)
            self._hashes.pop(forgotten, None)
