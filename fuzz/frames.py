"""The frames of a source symbol, and layers put together from them."""

from fuzz.harness import Harness, demand
from shared.errors import CorruptDataError
from shared.link.blocks import BlockShape, close_coded_block, close_uncoded_block, remaining
from shared.link.frames import LARGEST_LAYER, LARGEST_SEQUENCE, MOST_LAYERS, Frame, Piece, read_frames
from shared.link.reassembly import IncomingLayer


def run(data: bytes) -> None:
    """Read a symbol; give its frames, and those of its halves, to layers."""
    layers: dict[tuple[int, int], IncomingLayer] = {}
    for symbol in (data, data[: len(data) // 2], data[len(data) // 2 :]):
        try:
            frames = [*read_frames(symbol)]
        except CorruptDataError:
            continue
        demand(sum(len(frame.data) for frame in frames) <= len(symbol), "frames hold more than their symbol")
        for frame in frames:
            _check(frame)
            _add(layers, frame)


def _check(frame: Frame) -> None:
    demand(0 <= frame.sequence <= LARGEST_SEQUENCE, "a picture's number is out of range")
    demand(0 <= frame.layer < frame.layers <= MOST_LAYERS, "a layer is out of range")
    demand(0 <= frame.offset <= frame.offset + len(frame.data) <= LARGEST_LAYER, "a part is out of range")


def _add(layers: dict[tuple[int, int], IncomingLayer], frame: Frame) -> None:
    key = (frame.sequence, frame.layer)
    layer = layers.setdefault(key, IncomingLayer(frame.layers))
    try:
        whole = layer.add(frame)
    except CorruptDataError:
        del layers[key]
        return
    if whole is not None:
        demand(frame.offset + len(frame.data) <= len(whole), "a layer has lost a part")
        demand(len(whole) <= LARGEST_LAYER, "a layer is too large")
        del layers[key]


def seeds() -> list[bytes]:
    """Symbols as both kinds of blocks have them."""
    pieces = [Piece(7, layer, 4, bytes(range(5 + 40 * layer))) for layer in range(4)]
    pieces += [Piece(sequence, 1, 3, b"x" * 30) for sequence in (300, 301, 302)]
    symbols = [b"", b"\0\0", b"\x80"]
    left = pieces
    while left:
        block, cursor = close_uncoded_block(left, 0, room=60, repeats=1)
        symbols += block.sources
        left = remaining(left, cursor)
    shape = BlockShape(90, 44, lambda k: 2, 1, True)
    block, _ = close_coded_block(pieces, 0, shape)
    return [*symbols, *block.sources]


HARNESS = Harness("frames of a symbol, and layers made of them", run, seeds)
