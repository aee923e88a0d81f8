"""From latents to layer payloads and back, in the space-channel order of ELIC (He et al., CVPR 2022).

The hyper-latent is coded first, channel by channel. Then every slice of the latent in two passes, anchors of the
checkerboard before the others; each pass asks the backend for means and scales, given all that was coded before.
Both directions run the same generator (`_passes`), so they cannot disagree about the order.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.codec.entropy.backend import EntropyBackend, Maps
from shared.codec.entropy.integer import Integers
from shared.codec.entropy.program import LATENT_BITS
from shared.codec.entropy.range_coder import CoderModels, SymbolDecoder, SymbolEncoder, Symbols, TableNumbers
from shared.codec.entropy.tables import CodingTables
from shared.errors import CorruptDataError
from shared.memory import release_free_memory

UNIT = 1 << LATENT_BITS
LARGEST_SYMBOL = (1 << 14) - 1
LARGE = 1 << 14
"""Positions of y, four million pixels, from which freed memory is given back between passes."""
CHECK_BYTES = 2
"""Every layer ends with this many bytes of a CRC-32 over its decoded symbols."""


@dataclass(frozen=True)
class LatentLayout:
    """How a bundle divides its latents.

    Attributes:
        hyper_channels: N.
        slices: channels of each latent slice.
        layer_slices: how many slices each refinement layer carries; the base layer carries the hyper-latent.
    """

    hyper_channels: int
    slices: tuple[int, ...]
    layer_slices: tuple[int, ...]

    @property
    def layers(self) -> int:
        """Number of layers, the base included."""
        return 1 + len(self.layer_slices)

    @property
    def first_slice(self) -> tuple[int, ...]:
        """First slice of each refinement layer, and the number of slices at the end."""
        return (0, *np.cumsum(self.layer_slices).tolist())


@dataclass
class EncodedLatents:
    """What `LatentCoder.encode` gives.

    Attributes:
        payloads: one byte string a layer.
        y_hat: decoded latent ``1 x M x h x w`` in units of 2^-4, as the decoder will have it.
        ideal_bits: code length of all symbols under the coding tables, without escapes' excess, for each layer.
    """

    payloads: list[bytes]
    y_hat: Integers
    ideal_bits: list[float] = field(default_factory=list)


def anchor_mask(height: int, width: int) -> NDArray[np.bool_]:
    """Anchors of the checkerboard, ``height x width``: positions where row plus column is odd."""
    mask: NDArray[np.bool_] = np.add.outer(np.arange(height), np.arange(width)) % 2 == 1
    return mask


class LatentCoder:
    """Codes latents of one bundle.

    Args:
        layout: slices and layers.
        tables: coding tables.
        backend: who computes means and scales.
        hyper_medians: ``N`` integers in units of 2^-4; what is coded of the hyper-latent are whole distances from them
            (z comes without its medians and goes without them). None for zeros.
    """

    def __init__(
        self,
        layout: LatentLayout,
        tables: CodingTables,
        backend: EntropyBackend,
        hyper_medians: NDArray[np.int32] | None = None,
    ) -> None:
        self.layout, self.tables, self.backend = layout, tables, backend
        medians = np.zeros(layout.hyper_channels, np.int32) if hyper_medians is None else hyper_medians
        self._medians = medians[None, :, None, None]
        self._hyper_models = CoderModels(tables.hyper)
        self._latent_models = CoderModels(tables.latent)

    def encode(
        self, y: NDArray[np.float32], z: NDArray[np.float32], salt: bytes, gain: NDArray[np.float32] | None = None
    ) -> EncodedLatents:
        """Code one picture's latents.

        Args:
            y: ``1 x M x h x w``, scaled by the operating point's gain unless ``gain`` is given.
            z: ``1 x N x h/4 x w/4``, medians taken away.
            salt: bytes that every layer's checksum also covers: the picture header.
            gain: ``1 x M x 1 x 1``, to scale y as it is coded, which saves a copy of it; None if that was done.
        """

        # A whole latent of an 8K picture in fixed point would be as large again, so passes take theirs as they come.
        def fixed(channels: slice, mask: NDArray[np.bool_]) -> Integers:
            part = y[0, channels][:, mask]
            if gain is not None:
                part *= gain[0, channels, 0]
            np.clip(part, -LARGEST_SYMBOL, LARGEST_SYMBOL, out=part)
            part *= UNIT
            rounded: Integers = np.rint(part, out=part).astype(np.int32)
            return rounded

        z_symbols = np.rint(np.clip(z, -LARGEST_SYMBOL, LARGEST_SYMBOL)).astype(np.int32)
        y_hat = np.zeros(y.shape, np.int32)
        payloads, ideal = [], []
        for layer, groups in self._groups(fixed, z_symbols, y_hat):
            encoder, check, bits = SymbolEncoder(), _check_start(salt, layer), 0.0
            models = self._latent_models if layer else self._hyper_models
            for symbols, index in groups:
                encoder.encode(symbols, index, models)
                check = zlib.crc32(symbols.astype("<i2").tobytes(), check)
                bits += _ideal_bits(symbols, index, models)
            payloads.append(encoder.finish() + _check_bytes(check))
            ideal.append(bits)
        return EncodedLatents(payloads, y_hat, ideal)

    def groups(self, fixed: Integers, z: Integers, y_hat: Integers) -> Iterator[tuple[int, "Iterator[_Group]"]]:
        """Yield what there is to code, layer by layer: ``(layer number, groups)``, to be used up in order.

        Args:
            fixed: y in units of 2^-4, ``1 x M x h x w``.
            z: symbols of z, ``1 x N x h/4 x w/4``.
            y_hat: zeros, like ``fixed``; receives the decoded latent.
        """
        return self._groups(lambda channels, mask: fixed[0, channels][:, mask], z, y_hat)

    def _groups(self, fixed: "_Fixed", z: Integers, y_hat: Integers) -> Iterator[tuple[int, "Iterator[_Group]"]]:
        yield 0, iter([(z.reshape(-1), self._hyper_index(z.shape))])
        for layer, passes in self._layers(z, y_hat):
            yield layer, self._quantised(passes, fixed, y_hat)

    def _quantised(self, passes: "Iterator[_Pass]", fixed: "_Fixed", y_hat: Integers) -> "Iterator[_Group]":
        for channels, mask, index, centre in passes:
            # Half a unit rounds up; the decoder never sees the difference.
            symbols = (fixed(channels, mask) - centre + UNIT // 2) >> LATENT_BITS
            np.clip(symbols, -LARGEST_SYMBOL, LARGEST_SYMBOL, out=symbols)
            y_hat[0, channels, mask] = ((symbols << LATENT_BITS) + centre).T
            yield symbols.reshape(-1), index

    def decode(self, payloads: Sequence[bytes], height: int, width: int, salt: bytes) -> tuple[Integers, Integers]:
        """Decode a prefix of a picture's layers; what is missing takes its predicted means.

        Args:
            payloads: at least the base layer's, in order.
            height: rows of y.
            width: columns of y.
            salt: the picture header's bytes.

        Returns:
            ``(y_hat, z)``, integers in units of 2^-4 and 1: ``1 x M x h x w`` and ``1 x N x h/4 x w/4``.

        Raises:
            CorruptDataError: naming the layer, if one is not what was encoded.
        """
        shape = (1, self.layout.hyper_channels, height // 4, width // 4)
        decoder, expected = self._open(payloads[0], 0)
        flat = decoder.decode(self._hyper_index(shape), self._hyper_models)
        _verify(zlib.crc32(flat.astype("<i2").tobytes(), _check_start(salt, 0)), expected, 0)
        z = flat.reshape(shape)

        y_hat = np.zeros((1, sum(self.layout.slices), height, width), np.int32)
        for layer, passes in self._layers(z, y_hat):
            given = layer < len(payloads)
            if given:
                decoder, expected = self._open(payloads[layer], layer)
            check = _check_start(salt, layer)
            for channels, mask, index, centre in passes:
                if given:
                    symbols = decoder.decode(index, self._latent_models)
                    check = zlib.crc32(symbols.astype("<i2").tobytes(), check)
                    centre = centre + (symbols.reshape(centre.shape) << LATENT_BITS)
                y_hat[0, channels, mask] = centre.T
            if given:
                _verify(check, expected, layer)
        return y_hat, z

    @staticmethod
    def _open(payload: bytes, layer: int) -> tuple[SymbolDecoder, bytes]:
        if len(payload) < CHECK_BYTES:
            raise CorruptDataError(f"layer {layer} has {len(payload)} bytes, too few for its checksum; send it again")
        return SymbolDecoder(payload[:-CHECK_BYTES], f"layer {layer}"), payload[-CHECK_BYTES:]

    def _hyper_index(self, shape: tuple[int, ...]) -> TableNumbers:
        return np.repeat(_smallest(np.arange(shape[1]), shape[1]), shape[2] * shape[3])

    def _latent_index(self, scales: Integers) -> TableNumbers:
        return _smallest(self.tables.scale_index(scales).reshape(-1), len(self.tables.latent))

    def _layers(self, z: Integers, y_hat: Integers) -> Iterator[tuple[int, "Iterator[_Pass]"]]:
        """Yield ``(layer number, passes)``; the caller writes every pass's result into ``y_hat`` before the next."""
        hyper = self.backend.hyper((z << LATENT_BITS) + self._medians)
        bounds = self.layout.first_slice
        for layer in range(1, self.layout.layers):
            yield layer, self._passes(range(bounds[layer - 1], bounds[layer]), hyper, y_hat)

    def _passes(self, slices: range, hyper: Maps, y_hat: Integers) -> "Iterator[_Pass]":
        offsets = np.cumsum((0, *self.layout.slices)).tolist()
        mask = anchor_mask(*y_hat.shape[2:])
        for i in slices:
            channels = slice(offsets[i], offsets[i + 1])
            scales, means, context = self.backend.anchor(i, hyper, y_hat[:, : offsets[i]])
            index, centre = self._latent_index(scales[0][:, mask]), means[0][:, mask]
            # The largest maps there are, and only half of each is of use.
            del scales, means
            _let_go(mask)
            yield channels, mask, index, centre
            del index, centre
            # What is not an anchor of this slice is still zero.
            scales, means = self.backend.nonanchor(i, hyper, context, y_hat[:, channels])
            index, centre = self._latent_index(scales[0][:, ~mask]), means[0][:, ~mask]
            del scales, means, context
            _let_go(mask)
            yield channels, ~mask, index, centre
            del index, centre


_Pass = tuple[slice, NDArray[np.bool_], TableNumbers, Integers]
"""Channels of y, positions, and at these the numbers of the tables and the means (``channels x positions``)."""


_Group = tuple[Symbols, TableNumbers]
"""Symbols and the numbers of their tables."""


_Fixed = Callable[[slice, NDArray[np.bool_]], Integers]
"""Returns y in units of 2^-4 of some channels at some positions, ``channels x positions``."""


def _smallest(numbers: NDArray[np.intp], count: int) -> TableNumbers:
    """Keep numbers of ``count`` tables in one byte where they fit: they are many, and bytes are sorted quickly."""
    return numbers.astype(np.min_scalar_type(count))


def _let_go(mask: NDArray[np.bool_]) -> None:
    if mask.size >= LARGE:
        release_free_memory()


def _check_start(salt: bytes, layer: int) -> int:
    start = zlib.crc32(salt)
    return zlib.crc32(bytes([layer]), start) if layer else start


def _check_bytes(check: int) -> bytes:
    return (check & 0xFFFF).to_bytes(CHECK_BYTES, "little")


def _verify(check: int, expected: bytes, layer: int) -> None:
    if _check_bytes(check) != expected:
        raise CorruptDataError(f"layer {layer} decodes to other symbols than were sent; send it again")


def _ideal_bits(symbols: Symbols, index: TableNumbers, models: CoderModels) -> float:
    total = 0.0
    for number in np.unique(index):
        table = models.tables[number]
        positions = symbols[index == number] - table.first
        outside = (positions < 0) | (positions >= table.symbols)
        total += float(table.bits()[np.where(outside, table.symbols, positions)].sum())
    return total
