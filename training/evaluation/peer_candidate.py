"""Another codec as a candidate: for each of our operating points its smallest file with at least our bytes."""

from collections.abc import Sequence
from pathlib import Path

from shared.codec.interfaces import Pixels
from training.evaluation.candidates import Decoded, Target
from training.evaluation.peers import Matched, Peer, search


class PeerCandidate:
    """Measures one peer; satisfies ``Candidate``.

    Args:
        peer: the codec.
        targets: names of the operating points whose bytes it is searched to.
        cache: folder of encodes that are used again; None keeps none.
    """

    matches = True
    estimates = False
    shown: Sequence[str] = ("",)

    def __init__(self, peer: Peer, targets: Sequence[str], cache: Path | None) -> None:
        self._peer, self._cache = peer, cache
        self.name, self.version = peer.name, peer.version
        self.targets: Sequence[Target] = tuple(Target(name, ("",)) for name in targets)

    def encode(self, pixels: Pixels, target: str, size: int | None) -> "MatchedPicture":
        """Search for the size; see ``Candidate.encode``."""
        if size is None:
            raise ValueError(f"{self.name} at {target} has no size to match")
        return MatchedPicture(search(self._peer, pixels, size, self._cache))


class MatchedPicture:
    """A peer's file; satisfies ``Encoded``.

    Attributes:
        size: bytes of the file.
        setting: of the encoder.
        seconds: of the one encode that was chosen, without the search.
        note: whether the size could not be met.
    """

    def __init__(self, found: Matched) -> None:
        self._found = found
        self.size, self.setting, self.seconds, self.note = found.size, found.setting, found.encode_seconds, found.note

    def decode(self, variant: str) -> Decoded:
        """Return the decode that the search made."""
        del variant
        return Decoded(self._found.pixels, self._found.size, self._found.decode_seconds)

    def coded_bytes(self) -> None:
        """Return None: a peer tells no estimate."""
