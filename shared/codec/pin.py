"""The ``.pin`` file: the layers of one picture, back to back, with their lengths and one checksum.

Byte by byte (`docs/format.md` has the same with an example)::

    bytes           content
    2               magic 9E 50
    1               bits 0-3 number of layers (1 to 15), bits 4-7 format version (1)
    1 to 4 each     length of every layer but the last, unsigned LEB128 (DWARF 5, section 7.6), shortest form only
    ...             the layers, the base first, each at least one byte
    4               CRC-32 (ISO-HDLC, that of zlib and PNG) of all bytes before it, little-endian

The last layer's length follows from the file's, which saves two bytes. Four layers under 16 KB take 13 bytes of
frame at most.

One checksum for all of the file finds every damage but does not say where. Each layer carries a checksum of its own
over its decoded symbols, so a second one here would spend bytes twice: salvage hands out the layers that end inside
what is left of the file, and the decoder tells whether they are whole.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

from shared.errors import CorruptDataError, PinholeError
from shared.files import write_atomically
from shared.varint import decode_varint, encode_varint, varint_length

MAGIC = b"\x9eP"
"""0x9E starts no text in UTF-8 and no picture format that is in use."""

VERSION = 1
MAX_LAYERS = 15
MAX_LAYER_BYTES = 2**28 - 1
"""Largest length that four LEB128 bytes hold."""

MAX_FILE_BYTES = 2**26
"""Largest file that is read, in bytes: a hundred times the largest picture at the highest quality."""

_CRC_BYTES = 4
_SMALLEST_FRAME = len(MAGIC) + 1 + _CRC_BYTES


def write_pin(path: Path | str, layers: Sequence[bytes]) -> int:
    """Write a ``.pin`` file, whole or not at all.

    Args:
        path: where to; an existing file is replaced.
        layers: 1 to 15 layers of at least one byte each, the base first.

    Returns:
        The file's size in bytes.

    Raises:
        PinholeError: if there are too few or too many layers, one is empty, or the disk refuses.
    """
    data = pack_pin(layers)
    write_atomically(Path(path), data)
    return len(data)


def read_pin(path: Path | str, *, salvage: bool = False) -> list[bytes]:
    """Read the layers of a ``.pin`` file.

    Args:
        path: the file.
        salvage: take what is left of a damaged or truncated file, see `unpack_pin`.

    Returns:
        The layers, the base first.

    Raises:
        PinholeError: if the file cannot be read.
        CorruptDataError: if it is no ``.pin`` file, or damaged and not to be salvaged; the message says how many
            layers look whole.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PinholeError(f"cannot read {path}: {error.strerror or error}") from error
    return unpack_pin(data, str(path), salvage=salvage)


def pack_pin(layers: Sequence[bytes]) -> bytes:
    """Return the content of a ``.pin`` file with these layers.

    Raises:
        PinholeError: if there are not 1 to 15 layers, or one is empty or too large.
    """
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise PinholeError(f"a .pin file holds 1 to {MAX_LAYERS} layers, not {len(layers)}")
    if any(not 1 <= len(layer) <= MAX_LAYER_BYTES for layer in layers):
        raise PinholeError(f"a layer of a .pin file has 1 to {MAX_LAYER_BYTES} bytes; one here has not")
    lengths = b"".join(encode_varint(len(layer)) for layer in layers[:-1])
    body = b"".join((MAGIC, bytes([VERSION << 4 | len(layers)]), lengths, *layers))
    if len(body) + _CRC_BYTES > MAX_FILE_BYTES:
        raise PinholeError(f"a .pin file has at most {MAX_FILE_BYTES} bytes; scale the picture down")
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def frame_bytes(lengths: Sequence[int]) -> int:
    """Return how many bytes a ``.pin`` file with layers of these lengths has beside the layers."""
    return _SMALLEST_FRAME + sum(varint_length(length) for length in lengths[:-1])


def unpack_pin(data: bytes, name: str = ".pin data", *, salvage: bool = False) -> list[bytes]:
    """Take the content of a ``.pin`` file apart.

    Args:
        data: all of it.
        name: what errors call it.
        salvage: where the checksum fails, return the layers that end inside the file instead of raising. The last
            layer's end cannot be known then, so it is left out. The layers returned may hold damaged bytes: the
            decoder's own checks find those.

    Returns:
        The layers, the base first, each at least one byte.

    Raises:
        CorruptDataError: if the data is not a ``.pin`` file of this version, or its checksum or lengths are wrong.
    """
    if not data.startswith(MAGIC):
        raise CorruptDataError(f"{name} is no .pin file (wrong first bytes); make one with 'pinhole compress'")
    if len(data) > MAX_FILE_BYTES:
        raise CorruptDataError(f"{name} is larger than any .pin file ({MAX_FILE_BYTES} bytes); give the right file")
    whole = len(data) >= _SMALLEST_FRAME and zlib.crc32(data[:-_CRC_BYTES]) == int.from_bytes(
        data[-_CRC_BYTES:], "little"
    )
    if not whole:
        return _salvaged(data, name, salvage)
    version, count = data[2] >> 4, data[2] & 0x0F
    if version != VERSION:
        raise CorruptDataError(f"{name} has .pin version {version}; this Pinhole reads version {VERSION}: update it")
    lengths, start = _read_lengths(data[:-_CRC_BYTES], count)
    layers = _split(data[:-_CRC_BYTES], lengths, start)
    last = data[start + sum(lengths) : -_CRC_BYTES]
    if count == 0 or len(layers) != count - 1 or not last:
        raise CorruptDataError(f"{name} has lengths that do not fit its size though its checksum is right; remake it")
    return [*layers, last]


def _salvaged(data: bytes, name: str, salvage: bool) -> list[bytes]:
    """Return what looks whole of a file whose checksum is wrong, or raise saying how much that is."""
    count = data[2] & 0x0F if len(data) > len(MAGIC) else 0
    lengths, start = _read_lengths(data, count)
    layers = _split(data, lengths, start) if len(lengths) == count - 1 else []
    if salvage and layers:
        return layers
    of = f" of {count}" if count else ""
    mend = "fetch it again, or read those with --salvage" if layers else "fetch it again"
    raise CorruptDataError(f"{name} is damaged or cut short: {len(layers)}{of} layers look whole; {mend}")


def _read_lengths(data: bytes, count: int) -> tuple[list[int], int]:
    """Read the lengths of all layers but the last; return those that are sound and the offset after them."""
    position = len(MAGIC) + 1
    lengths: list[int] = []
    for _ in range(count - 1):
        try:
            length, after = decode_varint(data, position, MAX_LAYER_BYTES)
        except CorruptDataError:
            break
        if length == 0:
            break
        lengths.append(length)
        position = after
    return lengths, position


def _split(data: bytes, lengths: Sequence[int], start: int) -> list[bytes]:
    """Cut out the layers that end inside the data."""
    layers: list[bytes] = []
    for length in lengths:
        if start + length > len(data):
            break
        layers.append(data[start : start + length])
        start += length
    return layers
