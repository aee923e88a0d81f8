"""Any entropy backend in tiles: the same integers, in memory that the tile bounds and not the picture.

The entropy program is made of convolutions only and its values are integers, so a tile computed with a margin of the
program's reach is not nearly but exactly that part of the whole. The stream does not tell how it was made: either end
may tile, at any size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from shared.codec.entropy.backend import EntropyBackend, Maps
from shared.codec.entropy.integer import IntegerLayer, Integers
from shared.codec.entropy.program import EntropyProgram, Layers
from shared.codec.tiling import Piece, tiles
from shared.memory import release_free_memory

MapType = np.dtype[np.signedinteger[Any]]

TILE = 64
"""Side of a tile in positions of y (1024 pixels): its maps take some ten MB, its margins a third of the work."""


@dataclass(frozen=True)
class ProgramReach:
    """How far the parts of an entropy program look, and what holds their results.

    Attributes:
        step: positions of y that one position of z spans.
        hyper: reach of the hyper-decoder in positions of z.
        anchor: reach of the channel context with the anchors' head, in positions of y, for each slice.
        nonanchor: reach of the local context with the others' head, in positions of y, for each slice.
        hyper_type: smallest integer type that holds every hyper parameter.
        channel_types: smallest integer type that holds the channel context, for each slice.
    """

    step: int
    hyper: int
    anchor: tuple[int, ...]
    nonanchor: tuple[int, ...]
    hyper_type: MapType
    channel_types: tuple[MapType, ...]

    @classmethod
    def of(cls, program: EntropyProgram) -> "ProgramReach":
        """Work the reach out from a program's kernels and strides."""
        return cls(
            step=int(np.prod([layer.stride for layer in program.hyper])),
            hyper=chain_reach(program.hyper),
            anchor=tuple(chain_reach((*part.channel, *part.anchor)) for part in program.parts),
            nonanchor=tuple(chain_reach((*part.local, *part.nonanchor)) for part in program.parts),
            hyper_type=_smallest_type(program.hyper[-1]),
            channel_types=tuple(_smallest_type(part.channel[-1] if part.channel else None) for part in program.parts),
        )


def chain_reach(layers: Layers) -> int:
    """Positions of input, on each side, that one position of the output of some layers depends on."""
    reach = 0
    for layer in reversed(layers):
        reach += layer.padding
        if layer.transposed:
            # Output o of a transposed convolution looks at the inputs i with |o - stride * i| <= padding.
            reach = -(-reach // layer.stride)
    return reach


def _smallest_type(layer: IntegerLayer | None) -> MapType:
    if layer is None:
        return np.dtype(np.int8)
    low, high = layer.rescale.low, layer.rescale.high
    if layer.table is not None:
        low, high = int(layer.table.min()), int(layer.table.max())
    candidates: tuple[type[np.signedinteger[Any]], ...] = (np.int8, np.int16)
    fitting = (t for t in candidates if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.dtype(next(fitting, np.int32))


class TiledBackend:
    """Runs another backend tile by tile where the picture is larger than a tile; satisfies ``EntropyBackend``.

    Maps that are kept over a whole picture, hyper parameters and channel contexts, are held in the smallest type that
    they fit.

    Args:
        backend: who computes.
        program: returns the program that ``backend`` runs; called at the first picture that is larger than a tile.
        tile: side of a tile in positions of y, without its margins; a multiple of 4.
    """

    def __init__(self, backend: EntropyBackend, program: Callable[[], EntropyProgram], tile: int = TILE) -> None:
        self._backend, self._program, self._tile = backend, program, tile

    @cached_property
    def reach(self) -> ProgramReach:
        """The program's reach."""
        return ProgramReach.of(self._program())

    def hyper(self, z: Integers) -> Maps:
        """See `EntropyBackend.hyper`."""
        rows, columns = z.shape[2:]
        if 16 * rows * columns <= self._tile**2:
            return self._backend.hyper(z)
        step = self.reach.step
        collected = _Collected(rows * step, columns * step, (self.reach.hyper_type,))
        for down, across in tiles(rows, columns, self._tile // step, self.reach.hyper):
            part = self._backend.hyper(_cut(z, down, across))
            collected.paste((part,), down.times(step), across.times(step))
        return collected.maps[0]

    def anchor(self, index: int, hyper: Maps, earlier: Integers) -> tuple[Integers, Integers, Maps]:
        """See `EntropyBackend.anchor`."""
        if not self._is_large(hyper):
            return self._backend.anchor(index, hyper, earlier)
        collected = _Collected(hyper.shape[2], hyper.shape[3], (_WIDE, _WIDE, self.reach.channel_types[index]))
        for place in self._tiles(hyper, self.reach.anchor[index]):
            collected.paste(self._backend.anchor(index, _cut(hyper, *place), _cut(earlier, *place)), *place)
        scales, means, channel = collected.maps
        return scales, means, channel

    def nonanchor(self, index: int, hyper: Maps, channel: Maps, anchors: Integers) -> tuple[Integers, Integers]:
        """See `EntropyBackend.nonanchor`."""
        if not self._is_large(hyper):
            return self._backend.nonanchor(index, hyper, channel, anchors)
        collected = _Collected(hyper.shape[2], hyper.shape[3], (_WIDE, _WIDE))
        for place in self._tiles(hyper, self.reach.nonanchor[index]):
            inputs = (_cut(maps, *place) for maps in (hyper, channel, anchors))
            collected.paste(self._backend.nonanchor(index, *inputs), *place)
        scales, means = collected.maps
        return scales, means

    def _is_large(self, hyper: Maps) -> bool:
        return hyper.shape[2] * hyper.shape[3] > self._tile**2

    def _tiles(self, hyper: Maps, reach: int) -> Iterator[tuple[Piece, Piece]]:
        return tiles(hyper.shape[2], hyper.shape[3], self._tile, reach)


_WIDE: MapType = np.dtype(np.int32)


class _Collected:
    """Maps of a whole picture that grow tile by tile.

    Args:
        rows: height.
        columns: width.
        types: integer type of every map.
    """

    def __init__(self, rows: int, columns: int, types: Sequence[MapType]) -> None:
        self._size, self._types = (rows, columns), types
        self.maps: list[Maps] = []
        release_free_memory()  # what the range coder took for the symbols before

    def paste(self, parts: Sequence[Maps], rows: Piece, columns: Piece) -> None:
        """Crop every map of one tile to the tile itself and put it in its place."""
        if not self.maps:
            # How many channels there are is known from the first tile.
            self.maps = [
                np.empty((1, part.shape[1], *self._size), kind) for part, kind in zip(parts, self._types, strict=True)
            ]
        for whole, part in zip(self.maps, parts, strict=True):
            whole[:, :, rows.core, columns.core] = part[:, :, rows.crop, columns.crop]
        release_free_memory()


def _cut(maps: Maps, rows: Piece, columns: Piece) -> Maps:
    return maps[:, :, rows.padded, columns.padded]
