"""How far a bundle's sender networks look: what decides whether, and with which margins, they may work in tiles.

A bundle may say so itself: ``layout.reach`` in its manifest has a number of pixels for each of ``guidance``,
``analysis`` and ``hyper_analysis``, null for a network that looks at the whole picture. Otherwise it follows from the
architecture, which the manifest's ``networks`` describe: strides, kernels and depths of the two families.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import PinholeError

PATCH = (2, 0)
"""Stride and margin of a 2x2 convolution with stride 2: it looks at its own pixels only."""
CONV = (1, 1)
"""Stride and margin of a 3x3 convolution."""
HALVING = (2, 1)
"""Stride and margin of a 3x3 convolution with stride 2."""


@dataclass(frozen=True)
class Reach:
    """Pixels around a tile that each of the sender's networks needs to give what it gives for the whole picture.

    Attributes:
        guidance: of the picture, for the guidance latent; None where every pixel has a say in every position (group
            normalisation, attention), so that tiles can only come close.
        analysis: of the picture and the guidance latent, for y; None: never in tiles.
        hyper_analysis: of y and the guidance latent, for z; None: never in tiles.
    """

    guidance: int | None
    analysis: int | None
    hyper_analysis: int | None


def sender_reach(manifest: Mapping[str, Any]) -> Reach:
    """Return the reach of a bundle's sender networks.

    Args:
        manifest: content of the bundle's ``manifest.json``.

    Raises:
        PinholeError: if the manifest describes its networks in a way that cannot be read.
    """
    try:
        given = manifest["layout"].get("reach")
        if given is not None:
            values = (given[name] for name in ("guidance", "analysis", "hyper_analysis"))
            return Reach(*(None if value is None else int(value) for value in values))
        networks = manifest["networks"]
        match networks.get("family", "pocket"):
            case "pocket":
                return _pocket(networks)
            case "diffeic":
                return _diffeic(networks["lfgcm"])
            case _:
                return Reach(None, None, None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PinholeError(
            f"bundle {manifest.get('name')}: its manifest does not describe the sender's networks ({error!r}); "
            "install the bundle again"
        ) from error


def chain_reach(layers: Iterable[tuple[int, int]], reach: int = 0) -> int:
    """Return the margin of the input that a chain of convolutions needs.

    Args:
        layers: ``(stride, margin)`` of every layer, the first one first; a margin is half a kernel, in input positions.
        reach: margin of the output, in output positions.
    """
    for stride, margin in reversed(list(layers)):
        reach = reach * stride + margin
    return reach


def _pocket(networks: Mapping[str, Any]) -> Reach:
    """Light blocks (`shared.codec.nets.light`) have one 3x3 convolution each; widths shrink by patches."""
    first, second = (int(depth) for depth in networks["autoencoder"]["encoder_depths"])
    fine, coarse = (int(depth) for depth in networks["compression"]["analysis_depths"])
    return Reach(
        guidance=4 * chain_reach([*[CONV] * first, PATCH, *[CONV] * second]),
        analysis=8 * chain_reach([*[CONV] * fine, PATCH, *[CONV] * coarse]),
        hyper_analysis=16 * chain_reach([CONV, CONV, PATCH, CONV, CONV, PATCH, CONV]),
    )


def _diffeic(lfgcm: Mapping[str, Any]) -> Reach:
    """The sender's half of LFGCM (`shared.codec.nets.lfgcm`) behind Stable Diffusion's encoder, from the end back."""
    if lfgcm.get("fusion", "sft") not in ("sft", "addition"):
        return Reach(None, None, None)  # attention looks everywhere; concatenation convolves the features as well
    fuse = [(1, int(lfgcm["sft_kernel"]) // 2)] * 2  # what a fusion does to its reference
    halve = [HALVING, *[CONV] * 4]  # a residual block and three bottlenecks
    halve5 = (2, 2)  # a 5x5 convolution with stride 2

    refined = chain_reach([CONV] * 5)  # two residual blocks of two convolutions, and the projection to y
    blended = chain_reach([CONV], refined)
    eighth = chain_reach(halve, blended)
    guidance = max(
        chain_reach([CONV, HALVING, CONV, *fuse], refined),
        chain_reach([CONV, HALVING, *fuse], blended),
        chain_reach([CONV, *fuse], eighth),
    )
    analysis = max(chain_reach(halve * 3, eighth), 8 * guidance)

    features64 = chain_reach([CONV] * 4)  # two residual blocks
    features32 = chain_reach([halve5], features64)
    features16 = chain_reach([halve5], features32)
    reference64 = chain_reach(fuse, features64)
    reference32 = max(chain_reach(fuse, features32), chain_reach([HALVING], reference64))
    reference16 = max(chain_reach(fuse, features16), chain_reach([HALVING], reference32))
    fused = chain_reach([CONV] * 3, reference16)
    hyper_analysis = max(16 * chain_reach([CONV], features16), 16 * fused, 8 * chain_reach([HALVING], fused))
    return Reach(None, analysis, hyper_analysis)
