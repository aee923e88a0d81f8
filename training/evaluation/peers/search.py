"""Finds a peer's file for a number of bytes: the smallest that has at least as many.

The peer is never given fewer bytes than we use. Sizes grow with the setting, though not perfectly: of the files that
the search has made it takes the smallest that is large enough, and goes on while a neighbour of that is better still.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.codec.interfaces import Pixels
from training.evaluation.peers.cache import EncodeCache, timed
from training.evaluation.peers.peer import Peer

SMALLEST = "smallest possible file, larger than the target"
LARGEST = "largest file tried, smaller than the target"

# The walk up from the small end takes this many strides over all settings. Small files are quick to make and are what
# is asked for; plain bisection would start with a large one.
_STRIDES = 8


@dataclass(frozen=True)
class Matched:
    """A peer's answer to a target.

    Attributes:
        data: the whole file.
        setting: in words ("qp 41").
        encode_seconds: wall-clock, when the file was made; programs that have to be started first include that.
        decode_seconds: wall-clock, now.
        pixels: decoded, RGB bytes ``height x width x 3``.
        note: empty, `SMALLEST` or `LARGEST`.
    """

    data: bytes
    setting: str
    encode_seconds: float
    decode_seconds: float
    pixels: Pixels
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.data)


def search(peer: Peer, pixels: Pixels, target_bytes: int, cache_dir: Path | None = None) -> Matched:
    """Find the peer's smallest file of at least ``target_bytes`` and decode it.

    Where even the smallest setting's file is larger, or the largest one's smaller, that file is taken and the note
    says so.

    Args:
        peer: the codec.
        pixels: RGB bytes ``height x width x 3``.
        target_bytes: how many bytes our own file has.
        cache_dir: keeps encodes between calls; None keeps nothing.

    Raises:
        PinholeError: if the encoder fails or the cache cannot be written.
    """
    cache = EncodeCache(cache_dir, peer, pixels)
    setting, note = choose(peer.settings, lambda candidate: len(cache.encode(candidate).data), target_bytes)
    found = cache.encode(setting)
    height, width = pixels.shape[:2]
    decoded, seconds = timed(lambda: peer.decode(found.data, width, height))
    return Matched(found.data, peer.describe(setting), found.seconds, seconds, decoded, note)


def choose(settings: Sequence[int], size_of: Callable[[int], int], target_bytes: int) -> tuple[int, str]:
    """Return the setting whose file is the smallest of at least ``target_bytes``, and a note.

    Args:
        settings: from about the smallest file to the largest.
        size_of: bytes of a setting's file; asked at most once for each setting.
        target_bytes: the least that is wanted.

    Returns:
        The setting, with `SMALLEST`, `LARGEST` or an empty note.
    """
    sizes: dict[int, int] = {}

    def enough(index: int) -> bool:
        if index not in sizes:
            sizes[index] = size_of(settings[index])
        return sizes[index] >= target_bytes

    last = len(settings) - 1
    stride = max(1, len(settings) // _STRIDES)
    low, high = -1, 0  # the file of `low` is too small, that of `high` large enough
    while not enough(high):
        if high == last:
            break
        low, high = high, min(high + stride, last)
    while high - low > 1 and enough(high):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    best = _smallest(sizes, target_bytes)
    if best is None:
        return settings[max(sizes, key=lambda index: (sizes[index], -index))], LARGEST
    while unknown := [index for index in (best - 1, best + 1) if 0 <= index <= last and index not in sizes]:
        enough(unknown[0])
        better = _smallest(sizes, target_bytes)
        best = best if better is None else better
    smallest = sizes[best] > target_bytes and min(sizes.values()) == sizes[best]
    return settings[best], SMALLEST if smallest else ""


def _smallest(sizes: Mapping[int, int], target_bytes: int) -> int | None:
    """Return the index of the smallest size of at least the target, None if there is none."""
    enough = [index for index, size in sizes.items() if size >= target_bytes]
    return min(enough, key=lambda index: (sizes[index], index), default=None)
