"""The sender's graphs of an imported model: Stable Diffusion's encoder, LFGCM's analysis and hyper-analysis.

Each is exported once, for free heights and widths, and run against torch at another size before a bundle gets it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared.codec.nets.lfgcm import Lfgcm
from shared.errors import PinholeError
from training.float_graphs import float_graph, graph_like, half_graph, largest_difference

EXAMPLE, SECOND = (128, 192), (192, 64)
"""Height and width in pixels that a graph is exported at, and checked at."""
SINGLE_TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2
"""Largest difference to torch, in shares of the output's largest magnitude, in float32 and in half precision."""


class GuidanceEncoder(nn.Module):
    """Stable Diffusion's picture encoder, giving the scaled mean of the latent.

    Args:
        vae: diffusers' ``AutoencoderKL``.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv or nn.Identity()
        self.scaling = float(vae.config["scaling_factor"])

    def forward(self, picture: Tensor) -> Tensor:
        """Picture ``B x 3 x H x W`` in [-1, 1] to guidance ``B x 4 x H/8 x W/8``, about unit variance."""
        mean: Tensor = self.quant_conv(self.encoder(picture)).chunk(2, 1)[0]
        return mean * self.scaling


class PictureAnalysis(nn.Module):
    """LFGCM's analysis of pictures in [-1, 1], as every graph of a sender takes them.

    Args:
        lfgcm: the compression module, whose own analysis takes [0, 1].
    """

    def __init__(self, lfgcm: Lfgcm) -> None:
        super().__init__()
        self.analysis = lfgcm.analysis

    def forward(self, picture: Tensor, guidance: Tensor) -> Tensor:
        """Picture ``B x 3 x H x W`` and guidance ``B x 4 x H/8 x W/8`` to y, ``B x M x H/16 x W/16``."""
        y: Tensor = self.analysis((picture + 1) / 2, guidance)
        return y


class CentredHyperAnalysis(nn.Module):
    """LFGCM's hyper-analysis less the medians, so that rounding gives the symbols.

    Args:
        lfgcm: the compression module.
    """

    medians: Tensor

    def __init__(self, lfgcm: Lfgcm) -> None:
        super().__init__()
        self.hyper_analysis = lfgcm.hyper_analysis
        self.register_buffer("medians", lfgcm.prior.medians[None].clone())

    def forward(self, y: Tensor, guidance: Tensor) -> Tensor:
        """Map y and guidance ``B x 4 x H/8 x W/8`` to z less its medians, ``B x N x H/64 x W/64``."""
        z: Tensor = self.hyper_analysis(y, guidance)
        return z - self.medians


@dataclass(frozen=True)
class SenderGraph:
    """One exported network.

    Attributes:
        single: ONNX bytes in float32.
        half: the same in half precision; None if it was not wanted or is too far off.
        difference: largest difference of ``single`` to torch, in shares of the output's largest magnitude.
        half_difference: that of ``half``; None if it was not wanted.
    """

    single: bytes
    half: bytes | None
    difference: float
    half_difference: float | None


def guidance_graph(vae: Any, half: bool) -> SenderGraph:
    """Export Stable Diffusion's encoder of a diffusers ``AutoencoderKL``; errors as `checked_graph`."""
    examples = [{"picture": _noise(3, size, 1)} for size in (EXAMPLE, SECOND)]
    return checked_graph("guidance", GuidanceEncoder(vae), examples, [64], half)


def analysis_graphs(lfgcm: Lfgcm, half: bool, like: Mapping[str, SenderGraph] | None = None) -> dict[str, SenderGraph]:
    """Export analysis and hyper-analysis, by their names in a bundle.

    Args:
        lfgcm: the compression module, float32 on the CPU.
        half: whether half-precision variants are wanted.
        like: graphs of another rate of the same architecture, which are then used again with these weights.

    Raises:
        PinholeError: as `checked_graph`.
    """
    channels, latent = lfgcm.config.content_channels, lfgcm.config.latent_channels
    pictures = [{"picture": _noise(3, size, 1), "guidance": _noise(channels, size, 8)} for size in (EXAMPLE, SECOND)]
    latents = [{"y": _noise(latent, size, 16), "guidance": _noise(channels, size, 8)} for size in (EXAMPLE, SECOND)]
    modules: list[tuple[str, nn.Module, list[dict[str, Tensor]], list[int]]] = [
        ("analysis", PictureAnalysis(lfgcm), pictures, [1, 8]),
        ("hyper_analysis", CentredHyperAnalysis(lfgcm), latents, [16, 8]),
    ]
    return {
        name: checked_graph(name, module, examples, steps, half, like[name].single if like else None)
        for name, module, examples, steps in modules
    }


@torch.no_grad()
def checked_graph(
    name: str,
    module: nn.Module,
    examples: Sequence[Mapping[str, Tensor]],
    steps: list[int],
    half: bool,
    like: bytes | None = None,
) -> SenderGraph:
    """Export a network and run the graph at a second size.

    Args:
        name: of the graph.
        module: the network, float32 on the CPU.
        examples: inputs to export it with, and inputs of another size to check it with.
        steps: for each input, the pixels that one position spans.
        half: whether a half-precision variant is wanted. One that is too far off is left out: weights that float16
            cannot hold are no reason to have no bundle.
        like: a graph of the same architecture to take the nodes from.

    Raises:
        PinholeError: if the graph gives other numbers than torch.
    """
    example, second = examples
    output = {"guidance": "guidance", "analysis": "y", "hyper_analysis": "z"}[name]
    graph = graph_like(like, module) if like else None
    graph = graph or float_graph(module, example, steps, output, halve=False)
    difference, largest = largest_difference(graph, module, second)
    relative = difference / max(largest, 1e-6)
    if not relative <= SINGLE_TOLERANCE:
        raise PinholeError(
            f"the exported graph {name} gives other numbers than torch: they differ by up to {difference:.3g} "
            f"where the largest is {largest:.3g}; update torch and onnxruntime, or report this with their versions"
        )
    if not half:
        return SenderGraph(graph, None, relative, None)
    halved = half_graph(graph)
    off = largest_difference(halved, module, second)[0] / max(largest, 1e-6)
    return SenderGraph(graph, halved if off <= HALF_TOLERANCE else None, relative, off)


def _noise(channels: int, size: tuple[int, int], step: int) -> Tensor:
    """Inputs of about unit variance; pictures, of one pixel a position, in [-1, 1]."""
    generator = torch.Generator().manual_seed(channels)
    noise = torch.randn(1, channels, size[0] // step, size[1] // step, generator=generator)
    return noise.clamp(-1, 1) if step == 1 else noise
