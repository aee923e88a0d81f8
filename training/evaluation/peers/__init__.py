"""Other codecs, searched to the bytes of our operating points.

`PEERS` names them all, `missing_peers` says which cannot be used here, `search` finds a file for a number of bytes.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from shared.errors import UsageError
from training.evaluation.peers.peer import Peer
from training.evaluation.peers.search import LARGEST, SMALLEST, Matched, search
from training.evaluation.peers.still import Avif, Jpeg, Jpeg2000, JpegXl, WebP
from training.evaluation.peers.video import Hevc, Vvc

__all__ = ["LARGEST", "PEERS", "SMALLEST", "Matched", "Peer", "missing_peers", "search", "select_peers"]

PEERS: Mapping[str, Peer] = MappingProxyType(
    {peer.name: peer for peer in (Vvc(), Hevc(), Avif(), JpegXl(), WebP(), Jpeg2000(), Jpeg())}
)
"""Every peer by name, the strongest first."""


def missing_peers() -> dict[str, str]:
    """Return one line for each peer that this machine cannot run: why, and the mend."""
    return {name: f"{name} is left out: {reason}" for name, peer in PEERS.items() if (reason := peer.missing())}


def select_peers(names: Iterable[str]) -> list[Peer]:
    """Return peers by name; case, spaces and hyphens do not matter ("jpegxl" is JPEG XL).

    Raises:
        UsageError: if there is no such peer.
    """
    by_key = {_key(name): peer for name, peer in PEERS.items()}
    chosen: dict[str, Peer] = {}
    for name in names:
        peer = by_key.get(_key(name))
        if peer is None:
            raise UsageError(f"there is no peer {name}; name some of {', '.join(PEERS)}")
        chosen[peer.name] = peer
    return list(chosen.values())


def _key(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "")
