"""The sender's float networks under ONNX Runtime: opened as they are needed, run whole or in tiles."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sender.reach import Reach
from sender.tiles import Floats, PaddedPicture, run_blended, run_exact
from shared.codec.entropy.coding import LatentCoder, LatentLayout
from shared.codec.entropy.onnx_backend import OnnxBackend
from shared.codec.entropy.tiled_backend import TiledBackend
from shared.codec.onnx_session import CPU, Provider, open_session
from shared.codec.weight_set import WeightSet

GUIDANCE_STEP = 8
"""Pixels that one position of the guidance latent spans."""
OVERLAP = 64
"""Pixels that tiles of a network that looks everywhere reach beyond themselves on each side."""


class GraphFiles(Protocol):
    """Where graphs lie: a bundle or one of its weight sets."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def path(self, name: str) -> Path:
        """Return where a file lies, after checking it."""


class FloatGraph:
    """One network; half precision inside is nobody else's business.

    Attributes:
        providers: the execution providers in use, the preferred one first.

    Args:
        files: where the graph lies.
        name: ``guidance``, ``analysis`` or ``hyper_analysis``.
        threads: threads within one operator; 0 takes every core.
        providers: ONNX Runtime's execution providers. On any but the CPU's the graph's half-precision variant is
            opened where there is one.
    """

    def __init__(self, files: GraphFiles, name: str, threads: int, providers: Sequence[Provider]) -> None:
        half = f"sender/{name}_fp16.onnx"
        use_half = providers[0] != CPU and files.has(half)
        self._session = open_session(files.path(half if use_half else f"sender/{name}.onnx"), threads, providers)
        if use_half and self._session.get_providers()[0] == CPU:
            # ONNX Runtime falls back to the CPU where a GPU cannot be had, and there half precision is slow.
            self._session = open_session(files.path(f"sender/{name}.onnx"), threads)
        self._types = {
            i.name: np.dtype(np.float16 if i.type == "tensor(float16)" else np.float32)
            for i in self._session.get_inputs()
        }
        self.providers: list[str] = self._session.get_providers()

    def __call__(self, **inputs: Floats) -> Floats:
        """Run on feature maps ``1 x C x h x w``; a graph that does not ask for one of them does without."""
        feed = {name: np.ascontiguousarray(inputs[name], kind) for name, kind in self._types.items()}
        (output,) = self._session.run(None, feed)
        result: Floats = output.astype(np.float32, copy=False)
        return result


OpenGraph = Callable[[GraphFiles, str], FloatGraph]


class SenderTiling:
    """How a bundle's networks run on a picture of any size.

    Args:
        layout: the manifest's ``layout``.
        reach: of the networks.
        tile: side of a tile in pixels, without its margins; 0 for no tiles.
    """

    def __init__(self, layout: dict[str, Any], reach: Reach, tile: int) -> None:
        self.block, self.latent_step = int(layout["block"]), int(layout["latent_block"])
        self.reach, self.tile = reach, tile

    def guidance(self, graph: FloatGraph, picture: PaddedPicture) -> Floats:
        """Return the guidance latent of a picture."""
        size = (picture.height, picture.width)

        def run(rows: slice, columns: slice) -> Floats:
            return graph(picture=picture.read(rows, columns))

        if self.reach.guidance is None:
            return run_blended(run, size, tile=self.tile, overlap=OVERLAP, block=self.block, step=GUIDANCE_STEP)
        return run_exact(run, size, tile=self.tile, reach=self.reach.guidance, block=self.block, step=GUIDANCE_STEP)

    def latent(self, graph: FloatGraph, picture: PaddedPicture, guidance: Floats) -> Floats:
        """Return y before its gain."""

        def run(rows: slice, columns: slice) -> Floats:
            return graph(picture=picture.read(rows, columns), guidance=_part(guidance, rows, columns, GUIDANCE_STEP))

        return run_exact(
            run,
            (picture.height, picture.width),
            tile=self.tile,
            reach=self.reach.analysis,
            block=self.block,
            step=self.latent_step,
        )

    def hyper_latent(self, graph: FloatGraph, latent: Floats, gain: Floats, guidance: Floats) -> Floats:
        """Return z of y times its gain."""

        def run(rows: slice, columns: slice) -> Floats:
            y = _part(latent, rows, columns, self.latent_step) * gain
            return graph(y=y, guidance=_part(guidance, rows, columns, GUIDANCE_STEP))

        return run_exact(
            run,
            (latent.shape[2] * self.latent_step, latent.shape[3] * self.latent_step),
            # This network looks farthest and works on the smallest maps.
            tile=2 * self.tile,
            reach=self.reach.hyper_analysis,
            block=self.block,
            step=self.block,
        )


class SetGraphs:
    """The sender's part of one weight set.

    Attributes:
        name: of the set.
        analysis: picture and guidance to y.
        hyper_analysis: y and guidance to z.
        coder: latents to layers.

    Args:
        weights: the set.
        layout: slices and layers.
        open_graph: opens a float graph.
        threads: threads of the entropy program; 0 takes every core.
    """

    def __init__(self, weights: WeightSet, layout: LatentLayout, open_graph: OpenGraph, threads: int) -> None:
        self.name = weights.name
        self.analysis = open_graph(weights, "analysis")
        self.hyper_analysis = open_graph(weights, "hyper_analysis")
        backend = TiledBackend(OnnxBackend(weights.entropy_graphs(), threads), weights.program)
        self.coder = LatentCoder(layout, weights.tables(), backend, weights.hyper_medians)


def _part(maps: Floats, rows: slice, columns: slice, step: int) -> Floats:
    return maps[:, :, rows.start // step : rows.stop // step, columns.start // step : columns.stop // step]
