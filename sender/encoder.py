"""The sender's half of the codec under ONNX Runtime: picture to layers, without torch."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from sender.search import highest_fitting
from shared.codec.bundle import Bundle
from shared.codec.entropy.coding import LatentCoder
from shared.codec.entropy.onnx_backend import OnnxBackend
from shared.codec.header import PictureHeader
from shared.codec.interfaces import OperatingPoint, Pixels
from shared.codec.onnx_session import open_session
from shared.codec.quality import choose_quality, quality_grid
from shared.errors import PinholeError

Floats = NDArray[np.float32]


class OnnxEncoder:
    """Encodes pictures with one bundle; satisfies ``PictureEncoder``.

    Data flow::

        pixels -> pad to whole blocks -> guidance -> analysis -> * gain -> hyper-analysis
                                                        y ---------/            z
        (y, z) -> entropy program and range coder -> layers

    Attributes:
        seconds: wall-clock seconds of the last picture by part: guidance, analysis, entropy.
        coder: codes the latents.

    Args:
        bundle: the bundle.
        threads: threads within one operator; 0 takes every core.
        providers: ONNX Runtime's execution providers for the float graphs; the entropy program stays on the CPU.
    """

    def __init__(self, bundle: Bundle, threads: int = 0, providers: Sequence[str] = ("CPUExecutionProvider",)) -> None:
        self._bundle = bundle
        self._guidance, self._analysis, self._hyper_analysis = (
            open_session(bundle.read(f"sender/{name}.onnx"), threads, providers)
            for name in ("guidance", "analysis", "hyper_analysis")
        )
        self.coder = LatentCoder(bundle.layout, bundle.tables(), OnnxBackend(bundle.entropy_graphs(), threads))
        self._block = int(bundle.manifest["layout"]["block"])
        self.seconds: dict[str, float] = {}

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
        return self._encode_latent(pixels.shape, *self._analyse(pixels), quality, captured)

    def encode_within(self, pixels: Pixels, largest: int, *, captured: int | None = None) -> list[bytes]:
        """Encode at the best quality that fits; see ``PictureEncoder.encode_within``.

        The analysis runs once, the rest of the encoder once for each of a few qualities.
        """
        latent, guidance = self._analyse(pixels)
        grid = quality_grid(self.operating_points)
        rates = [self._bundle.bits_per_pixel(quality) for quality in grid]
        tried: dict[int, list[bytes]] = {}

        def layers(grade: int) -> list[bytes]:
            if grade not in tried:
                tried[grade] = self._encode_latent(pixels.shape, latent, guidance, grid[grade], captured)
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
        return self._latents(*self._analyse(pixels), quality)

    def _latents(self, latent: Floats, guidance: Floats, quality: float) -> tuple[Floats, Floats]:
        y = latent * self._bundle.gain(quality)
        (z,) = self._hyper_analysis.run(None, {"y": y, "guidance": guidance})
        return y, z

    def _analyse(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """Return the latent before its gain and the guidance latent."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise PinholeError(
                f"picture of shape {pixels.shape} and type {pixels.dtype}: give RGB bytes, height x width x 3"
            )
        if max(pixels.shape[:2]) > 65535:
            raise PinholeError(
                f"picture of {pixels.shape[1]}x{pixels.shape[0]} pixels: sides must be 1 to 65535; resize it"
            )
        start = perf_counter()
        height, width = pixels.shape[:2]
        # Repeating the edge costs fewer bits than a black border, which is a line the decoder would have to draw.
        padded = np.pad(pixels, ((0, -height % self._block), (0, -width % self._block), (0, 0)), mode="edge")
        picture = np.ascontiguousarray(padded.transpose(2, 0, 1)[None]).astype(np.float32)
        picture *= 1 / 127.5
        picture -= 1
        (guidance,) = self._guidance.run(None, {"picture": picture})
        middle = perf_counter()
        (latent,) = self._analysis.run(None, {"picture": picture, "guidance": guidance})
        self.seconds = {"guidance": middle - start, "analysis": perf_counter() - middle}
        return latent, guidance

    def _encode_latent(
        self, shape: tuple[int, ...], latent: Floats, guidance: Floats, quality: float, captured: int | None
    ) -> list[bytes]:
        header = PictureHeader(self.bundle_id, shape[1], shape[0], quality, self._bundle.layout.layers, captured).pack()
        start = perf_counter()
        y, z = self._latents(latent, guidance, quality)
        middle = perf_counter()
        encoded = self.coder.encode(y, z, header)
        self.seconds["analysis"] += middle - start
        self.seconds["entropy"] = perf_counter() - middle
        return [header + encoded.payloads[0], *encoded.payloads[1:]]
