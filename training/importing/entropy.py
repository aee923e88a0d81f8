"""The entropy path of one imported rate: calibrated on crops, quantised to integers, tables fitted, cost measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.codec.entropy.coding import LatentCoder, LatentLayout
from shared.codec.entropy.onnx_backend import OnnxBackend
from shared.codec.entropy.program import LATENT_BITS, EntropyProgram
from shared.codec.header import PictureHeader
from shared.codec.nets.entropy_parameters import EntropyParameters
from shared.codec.nets.lfgcm import Lfgcm
from shared.codec.pin import frame_bytes
from shared.errors import PinholeError
from training.calibration import KEPT_BEFORE_GELU, Ranges, calibrate
from training.entropy_costs import EntropyCost, EntropyNetworks, measure_cost
from training.entropy_graphs import entropy_graphs
from training.grids import plan_grids
from training.quantise import program_on
from training.table_fit import HYPER_REACH, fit_tables, model_tables

Floats = NDArray[np.float32]

LARGEST_SCALE = 256.0
"""Largest standard deviation with a table of its own, as in the paper's codec."""
LARGEST_HYPER_REACH = 512
"""No table of a hyper-latent channel goes further from its median."""
TRIED = 4
"""Crops that the grids are chosen on."""
KEPT = (KEPT_BEFORE_GELU, 1.0)
"""Shares of the range before a GELU that are tried: whether clipping or coarse steps cost more is the rate's matter."""
Y_BITS = (LATENT_BITS, LATENT_BITS - 2, LATENT_BITS - 3)
"""Steps of the decoded latent as activations that are tried, 2 to the minus these: they reach 8, 32 and 64."""


@dataclass(frozen=True)
class CropLatents:
    """Latents of one crop, before rounding.

    Attributes:
        y: ``1 x M x h x w``.
        z: medians taken away, ``1 x N x h/4 x w/4``.
    """

    y: Floats
    z: Floats

    @property
    def side(self) -> int:
        """Height and width of the crop in pixels."""
        return 16 * self.y.shape[2]


@dataclass(frozen=True)
class EntropyFiles:
    """What a bundle gets of one rate's entropy path.

    Attributes:
        files: program, tables and graphs, by their names in a weight set.
        hyper_medians: medians of the hyper-latent in units of 2^-4.
        file_bytes: bytes of the ``.pin`` file of every measured crop.
        bits_per_pixel: mean rate of the measured crops, every byte of a ``.pin`` file counted.
        cost: of the integer path on the measured crops, against the float model.
        grid: how the grids were chosen, for people.
    """

    files: dict[str, bytes]
    hyper_medians: list[int]
    file_bytes: list[int]
    bits_per_pixel: float
    cost: EntropyCost
    grid: str


@torch.no_grad()
def encode_crops(lfgcm: Lfgcm, pictures: Iterable[tuple[Tensor, Tensor]], where: str) -> list[CropLatents]:
    """Encode crops by the float networks.

    Args:
        lfgcm: the compression module, in evaluation mode.
        pictures: ``(picture, guidance)``: ``1 x 3 x H x W`` in [-1, 1] and ``1 x 4 x H/8 x W/8``.
        where: what an error calls the checkpoint.

    Raises:
        PinholeError: if a latent is not finite.
    """
    latents = []
    for picture, guidance in pictures:
        y = lfgcm.analysis((picture + 1) / 2, guidance)
        z = lfgcm.hyper_analysis(y, guidance) - lfgcm.prior.medians
        if not (torch.isfinite(y).all() and torch.isfinite(z).all()):
            raise PinholeError(f"{where}: a photograph's latents are not finite numbers; give trained weights")
        latents.append(CropLatents(y.numpy(), z.numpy()))
    return latents


@torch.no_grad()
def entropy_files(
    lfgcm: Lfgcm, layout: LatentLayout, fitted: Sequence[CropLatents], measured: Sequence[CropLatents]
) -> EntropyFiles:
    """Make and measure the integer entropy path of one rate.

    Args:
        lfgcm: the compression module, in evaluation mode.
        layout: slices and layers.
        fitted: latents that grids and tables are fitted to.
        measured: latents that rate and cost are measured on.

    Raises:
        PinholeError: if no grids hold the weights.
    """
    networks = EntropyNetworks(lfgcm.entropy_parameters, lfgcm.prior)
    medians = np.rint(lfgcm.prior.medians.numpy().ravel() * (1 << LATENT_BITS)).astype(np.int32)
    # Calibration draws among activations; the same checkpoint must give the same bundle.
    torch.manual_seed(0)
    ranges = calibrate(networks.entropy, ((torch.from_numpy(c.y), _z_hat(lfgcm, c)) for c in fitted))
    reach = int(np.ceil(max(HYPER_REACH, *(np.abs(c.z).max() for c in fitted))))
    tables = model_tables(networks.prior, LARGEST_SCALE, min(reach, LARGEST_HYPER_REACH))

    def coded(chosen: EntropyProgram) -> LatentCoder:
        return LatentCoder(layout, tables, OnnxBackend(entropy_graphs(chosen)), medians)

    program, grid = _best_program(networks.entropy, ranges, coded, fitted[:TRIED])
    graphs = entropy_graphs(program)
    backend = OnnxBackend(graphs)
    final = fit_tables(LatentCoder(layout, tables, backend, medians), ((c.y, c.z, 1.0) for c in fitted))
    coder = LatentCoder(layout, final, backend, medians)
    sizes = [_file_bytes(coder, c) for c in measured]
    return EntropyFiles(
        {
            "entropy/program.npz": program.to_bytes(),
            "entropy/tables.npz": final.to_bytes(),
            **{f"entropy/{name}.onnx": graph for name, graph in graphs.items()},
        },
        medians.tolist(),
        sizes,
        float(np.mean([8 * size / c.side**2 for size, c in zip(sizes, measured, strict=True)])),
        measure_cost(networks, coder, 1, ((c.y, c.z) for c in measured)),
        grid,
    )


def _z_hat(lfgcm: Lfgcm, latents: CropLatents) -> Tensor:
    return torch.round(torch.from_numpy(latents.z)) + lfgcm.prior.medians


def _file_bytes(coder: LatentCoder, latents: CropLatents) -> int:
    """Return the bytes of a crop's ``.pin`` file."""
    header = PictureHeader(bytes(4), latents.side, latents.side, 1, coder.layout.layers).pack()
    lengths = [len(payload) for payload in coder.encode(latents.y, latents.z, header).payloads]
    lengths[0] += len(header)
    return sum(lengths) + frame_bytes(lengths)


def _best_program(
    entropy: EntropyParameters,
    ranges: Ranges,
    coded: Callable[[EntropyProgram], LatentCoder],
    crops: Sequence[CropLatents],
) -> tuple[EntropyProgram, str]:
    """Return the program with the shortest code among those on a few grids, and which grids these are."""

    def attempt(y_bits: int, kept: float) -> tuple[float, EntropyProgram]:
        program = program_on(entropy, plan_grids(entropy, ranges, 2.0**-y_bits, kept))
        coder = coded(program)
        return sum(sum(coder.encode(c.y, c.z, b"").ideal_bits) for c in crops), program

    # Coarser steps reach further; where the first grid reaches all there is, they can only lose.
    reaches = [bits for bits in Y_BITS if bits == Y_BITS[0] or ranges.symmetric("y") > 127 * 2.0 ** -(bits + 1)]
    tried = {(bits, KEPT[0]): attempt(bits, KEPT[0]) for bits in reaches}
    bits, _ = min(tried, key=lambda key: tried[key][0])
    tried |= {(bits, kept): attempt(bits, kept) for kept in KEPT[1:]}
    chosen = min(tried, key=lambda key: tried[key][0])
    return tried[chosen][1], f"latents in steps of 2^-{chosen[0]}, {chosen[1]:.0%} of the range before a GELU kept"
