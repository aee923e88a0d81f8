"""Frames: the layers, or parts of layers, inside one source symbol.

Every source symbol can be read alone, whatever was lost before it: a layer that goes on in another symbol starts there
with a frame that names the picture, the layer and the offset. (A pointer to the first whole record would be three bytes
cheaper per continued symbol, but then a layer cut in two by a symbol border would be readable only with both.)

    flags  [sequence (varint)  layer << 4 | layers - 1]  [offset (varint)]  [length (varint)]  bytes

Without sequence a frame goes on with the next layer of the picture of the frame before it, or, flagged so, with the
same layer of the next picture: the two orders in which layers mostly come.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from shared.errors import CorruptDataError
from shared.varint import decode_varint, encode_varint, varint_length

MOST_LAYERS = 16
LARGEST_LAYER = 4 << 20
"""Bytes of one layer, so that a hostile offset cannot claim memory."""
LARGEST_SEQUENCE = 0xFFFFFFFF

_FRAME = 0x80
_PICTURE = 0x40
_OFFSET = 0x20
_LENGTH = 0x10
_FINAL = 0x08
_NEXT_PICTURE = 0x04
_RESERVED = 0x03


@dataclass(frozen=True)
class Frame:
    """A part of a layer.

    Attributes:
        sequence: the picture's number, u32.
        layer: 0 to ``layers - 1``.
        layers: layers of the picture, 1 to 16.
        offset: place of ``data`` in the layer, bytes.
        final: ``data`` ends the layer.
        data: the bytes.
    """

    sequence: int
    layer: int
    layers: int
    offset: int
    final: bool
    data: bytes


@dataclass(frozen=True)
class Piece:
    """What is still to be framed of one layer: ``payload[start:]``."""

    sequence: int
    layer: int
    layers: int
    payload: bytes
    start: int = 0


@dataclass(frozen=True)
class Cursor:
    """A place in a row of pieces: ``payload[offset:]`` of piece ``item`` is next; offset None is the piece's start."""

    item: int = 0
    offset: int | None = None


class Ending(Enum):
    """What becomes of the room that frames leave in their symbol."""

    CUT = "the symbol ends with its last frame"
    FULL = "the symbol has all its bytes, what is left is zeros"
    PADDED = "as FULL, and the reader may find more zeros than were sent: every frame says where it ends"


def fill_symbol(pieces: Sequence[Piece], cursor: Cursor, room: int, ending: Ending) -> tuple[bytes, Cursor]:
    """Frame as much as fits into ``room`` bytes, from ``cursor`` on.

    Args:
        pieces: what is to be sent, in order.
        cursor: where to go on.
        room: bytes of the symbol, at least 16, so that something always fits.
        ending: whether the last frame may do without its length.

    Returns:
        The bytes, at most ``room``, and the cursor after them.
    """
    out = bytearray()
    previous: tuple[int, int, int] | None = None
    while cursor.item < len(pieces):
        piece = pieces[cursor.item]
        offset = piece.start if cursor.offset is None else cursor.offset
        rest = len(piece.payload) - offset
        head = _head(piece, offset, previous)
        free = room - len(out) - len(head)
        open_ended = ending is not Ending.PADDED and rest >= free
        open_ended |= ending is Ending.CUT and cursor.item == len(pieces) - 1
        size = min(rest, free if open_ended else _sized_room(free))
        if size < 0 or (size == 0 and rest > 0):
            break
        final = size == rest
        head[0] |= (_FINAL if final else 0) | (0 if open_ended else _LENGTH)
        out += head + (b"" if open_ended else encode_varint(size)) + piece.payload[offset : offset + size]
        previous = (piece.sequence, piece.layers, piece.layer)
        cursor = Cursor(cursor.item + 1) if final else Cursor(cursor.item, offset + size)
        if open_ended:
            break
    return bytes(out), cursor


def read_frames(symbol: bytes) -> Iterator[Frame]:
    """The frames of one source symbol; zeros at its end are padding.

    Raises:
        CorruptDataError: while iterating, if the symbol is not made of frames.
    """
    position = 0
    previous: Frame | None = None
    while position < len(symbol):
        flags = symbol[position]
        position += 1
        if flags == 0:
            if any(symbol[position:]):
                raise CorruptDataError("the padding of a symbol is not zero")
            return
        if not flags & _FRAME or flags & _RESERVED:
            raise CorruptDataError("a symbol holds an unknown kind of frame")
        if flags & _PICTURE and not flags & _NEXT_PICTURE:
            sequence, position = decode_varint(symbol, position, LARGEST_SEQUENCE)
            if position >= len(symbol):
                raise CorruptDataError("a frame is cut off")
            layer, layers = symbol[position] >> 4, (symbol[position] & 0x0F) + 1
            position += 1
        elif previous is not None and flags & _NEXT_PICTURE and not flags & _PICTURE:
            sequence, layer, layers = previous.sequence + 1, previous.layer, previous.layers
        elif previous is not None and not flags & _NEXT_PICTURE:
            sequence, layer, layers = previous.sequence, previous.layer + 1, previous.layers
        else:
            raise CorruptDataError("a frame names no picture, or two")
        if layer >= layers or sequence > LARGEST_SEQUENCE:
            raise CorruptDataError(f"a frame belongs to layer {layer} of {layers} of picture {sequence}")
        offset = 0
        if flags & _OFFSET:
            offset, position = decode_varint(symbol, position, LARGEST_LAYER)
        length = len(symbol) - position
        if flags & _LENGTH:
            length, position = decode_varint(symbol, position, LARGEST_LAYER)
        if position + length > len(symbol) or offset + length > LARGEST_LAYER:
            raise CorruptDataError("a frame is longer than its symbol or than a layer can be")
        previous = Frame(sequence, layer, layers, offset, bool(flags & _FINAL), symbol[position : position + length])
        position += length
        yield previous


def _head(piece: Piece, offset: int, previous: tuple[int, int, int] | None) -> bytearray:
    head = bytearray([_FRAME])
    if previous == (piece.sequence - 1, piece.layers, piece.layer):
        head[0] |= _NEXT_PICTURE
    elif previous != (piece.sequence, piece.layers, piece.layer - 1):
        head[0] |= _PICTURE
        head += encode_varint(piece.sequence)
        head.append(piece.layer << 4 | piece.layers - 1)
    if offset:
        head[0] |= _OFFSET
        head += encode_varint(offset)
    return head


def _sized_room(free: int) -> int:
    """Bytes of data that fit into ``free`` bytes together with their own length."""
    size = free - 1
    while size > 0 and size + varint_length(size) > free:
        size -= 1
    return size
