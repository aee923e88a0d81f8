"""The sender's half of the codec under ONNX Runtime: picture to layers, without torch."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from sender.graphs import FloatGraph, SenderTiling, SetGraphs
from sender.reach import sender_reach
from sender.search import highest_fitting
from sender.tiles import SMALLEST_TILE, TILE, Floats, PaddedPicture
from shared.codec.bundle import Bundle
from shared.codec.entropy.coding import LatentCoder
from shared.codec.header import PictureHeader
from shared.codec.interfaces import OperatingPoint, Pixels
from shared.codec.onnx_session import CPU, Provider
from shared.codec.quality import choose_quality, quality_grid
from shared.codec.weight_set import WeightSet
from shared.errors import PinholeError, UsageError

OPEN_SETS = 2
"""Weight sets whose graphs are kept open."""


@dataclass
class _Analysed:
    """A picture on its way through the encoder: the guidance serves every quality, the latent those of one set."""

    shape: tuple[int, ...]
    picture: PaddedPicture
    guidance: Floats
    weights: str | None = None
    latent: Floats | None = None


class OnnxEncoder:
    """Encodes pictures with one bundle; satisfies ``PictureEncoder``.

    Data flow::

        pixels -> pad to whole blocks -> guidance -> analysis -> * gain -> hyper-analysis
                                                        y ---------/            z
        (y, z) -> entropy program and range coder -> layers

    Pictures that are larger than a tile with its margins go through every network in tiles, so that memory is bounded
    by the tile, apart from the latents and the picture's own bytes. Graphs of the weight set that a quality needs are
    opened when it is first wanted; a bundle with one set opens them at once.

    Attributes:
        seconds: wall-clock seconds of the last picture by part: guidance, analysis, entropy.

    Args:
        bundle: the bundle.
        threads: threads within one operator; 0 takes every core.
        providers: ONNX Runtime's execution providers for the float graphs; the entropy program stays on the CPU.
        tile: side of a tile in pixels, without its margins; 0 for no tiles.

    Raises:
        UsageError: if the tile is too small to be worked on.
        PinholeError: if a graph is missing, damaged or refused.
    """

    def __init__(
        self, bundle: Bundle, threads: int = 0, providers: Sequence[Provider] = (CPU,), tile: int = TILE
    ) -> None:
        if tile and tile < SMALLEST_TILE:
            raise UsageError(f"a tile of {tile} pixels is mostly margin; give at least {SMALLEST_TILE}, or 0 for none")
        self._bundle, self._threads = bundle, threads
        self._open_graph = partial(FloatGraph, threads=threads, providers=providers)
        self._guidance = self._open_graph(bundle, "guidance")
        self._tiling = SenderTiling(bundle.manifest["layout"], sender_reach(bundle.manifest), tile)
        self._sets: OrderedDict[str, SetGraphs] = OrderedDict()
        if len(bundle.weight_sets) == 1:
            self._graphs(bundle.weight_sets[0])
        self.seconds: dict[str, float] = {}

    @property
    def providers(self) -> list[str]:
        """Execution providers in use, the preferred one first."""
        return self._guidance.providers

    @property
    def coder(self) -> LatentCoder:
        """What codes the latents of every quality, in a bundle with one set of weights; see `coder_for` for others."""
        if len(self._bundle.weight_sets) != 1:
            raise PinholeError(f"bundle {self._bundle.name} has several sets of weights; choose a coder by its quality")
        return self.coder_for(1)

    def coder_for(self, quality: float) -> LatentCoder:
        """Return what codes the latents of a quality."""
        return self._graphs(self._bundle.weights(quality)).coder

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the bundle's hash."""
        return self._bundle.bundle_id

    @property
    def operating_points(self) -> Sequence[OperatingPoint]:
        """Named qualities 1, 2, 3, ..., fewest bytes first."""
        return self._bundle.operating_points

    def encode(self, pixels: Pixels, quality: float, *, captured: int | None = None) -> list[bytes]:
        """Encode a picture; see ``PictureEncoder.encode``."""
        quality = choose_quality(self.operating_points, quality)
        return self._encode(self._analyse(pixels), quality, captured)

    def encode_within(self, pixels: Pixels, largest: int, *, captured: int | None = None) -> list[bytes]:
        """Encode at the best quality that fits; see ``PictureEncoder.encode_within``.

        The guidance runs once, the analysis once for each weight set, the rest once for each of a few qualities.
        """
        analysed = self._analyse(pixels)
        grid = quality_grid(self.operating_points)
        rates = [self._bundle.bits_per_pixel(quality) for quality in grid]
        tried: dict[int, list[bytes]] = {}

        def layers(grade: int) -> list[bytes]:
            if grade not in tried:
                tried[grade] = self._encode(analysed, grid[grade], captured)
            return tried[grade]

        def best_of(count: int, smallest: float) -> list[bytes] | None:
            """Return the first ``count`` layers at the best quality; about ``smallest`` bytes at the lowest."""
            expected = [smallest * rate / rates[0] for rate in rates]
            best = highest_fitting(expected, largest, lambda grade: sum(map(len, layers(grade)[:count])))
            return None if best is None else layers(best)[:count]

        whole = best_of(self._bundle.layout.layers, rates[0] * pixels.shape[0] * pixels.shape[1] / 8)
        if whole is not None:
            return whole
        sizes = np.cumsum([len(layer) for layer in layers(0)])
        count = max(1, int(np.count_nonzero(sizes <= largest)))
        # What is left after the last layer that fits makes the layers before it finer. The base alone gains nothing.
        return (best_of(count, float(sizes[count - 1])) if count > 1 else None) or layers(0)[:1]

    def latents(self, pixels: Pixels, quality: float) -> tuple[Floats, Floats]:
        """Return ``(y, z)`` before rounding: ``1 x M x h x w`` and ``1 x N x h/4 x w/4``."""
        quality = choose_quality(self.operating_points, quality)
        analysed, gain = self._analyse(pixels), self._bundle.gain(quality)
        graphs = self._graphs(self._bundle.weights(quality))
        y = self._latent(analysed, graphs)
        return y * gain, self._tiling.hyper_latent(graphs.hyper_analysis, y, gain, analysed.guidance)

    def _graphs(self, weights: WeightSet) -> SetGraphs:
        """Return a set's graphs; those used least recently make room for them."""
        if weights.name not in self._sets:
            self._keep_sets(OPEN_SETS - 1)
            self._sets[weights.name] = SetGraphs(weights, self._bundle.layout, self._open_graph, self._threads)
        self._sets.move_to_end(weights.name)
        return self._sets[weights.name]

    def _keep_sets(self, count: int) -> None:
        while len(self._sets) > count:
            self._sets.popitem(last=False)

    def _analyse(self, pixels: Pixels) -> _Analysed:
        """Take what every quality needs from a picture: the guidance latent."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise PinholeError(
                f"picture of shape {pixels.shape} and type {pixels.dtype}: give RGB bytes, height x width x 3"
            )
        if max(pixels.shape[:2]) > 65535:
            raise PinholeError(
                f"picture of {pixels.shape[1]}x{pixels.shape[0]} pixels: sides must be 1 to 65535; resize it"
            )
        if self._tiling.reach.guidance is None:
            # The largest network by far is next; beside it, a second set would cost more than opening it again.
            self._keep_sets(1)
        start = perf_counter()
        picture = PaddedPicture(pixels, self._tiling.block)
        guidance = self._tiling.guidance(self._guidance, picture)
        self.seconds = {"guidance": perf_counter() - start, "analysis": 0.0, "entropy": 0.0}
        return _Analysed(pixels.shape, picture, guidance)

    def _latent(self, analysed: _Analysed, graphs: SetGraphs) -> Floats:
        """Return the latent of a weight set before its gain."""
        if analysed.latent is None or analysed.weights != graphs.name:
            analysed.latent = None  # the one of another set makes room
            analysed.latent = self._tiling.latent(graphs.analysis, analysed.picture, analysed.guidance)
            analysed.weights = graphs.name
        return analysed.latent

    def _encode(self, analysed: _Analysed, quality: float, captured: int | None) -> list[bytes]:
        height, width = analysed.shape[:2]
        header = PictureHeader(self.bundle_id, width, height, quality, self._bundle.layout.layers, captured).pack()
        graphs = self._graphs(self._bundle.weights(quality))
        start = perf_counter()
        gain = self._bundle.gain(quality)
        y = self._latent(analysed, graphs)
        z = self._tiling.hyper_latent(graphs.hyper_analysis, y, gain, analysed.guidance)
        middle = perf_counter()
        encoded = graphs.coder.encode(y, z, header, gain)
        self.seconds["analysis"] += middle - start
        self.seconds["entropy"] = perf_counter() - middle
        return [header + encoded.payloads[0], *encoded.payloads[1:]]
