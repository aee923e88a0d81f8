"""Last stage of the pocket bundle: quantise the entropy path, export graphs, tables and weights, write the manifest.

Run: ``python -m training.export --photographs DIR --run runs/pocket -o shared/bundles/pocket``. The rates in the
manifest are measured with the finished bundle on the held-out photographs, every byte of a ``.pin`` file counted.
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from sender.encoder import OnnxEncoder
from shared.codec.bundle import FORMAT, MANIFEST, find_bundle
from shared.codec.entropy.coding import LatentCoder, LatentLayout
from shared.codec.entropy.onnx_backend import OnnxBackend
from shared.codec.entropy.tables import CodingTables, SymbolTable, density_table, latent_tables
from shared.codec.nets.autoencoder import Autoencoder, AutoencoderConfig
from shared.codec.nets.diffusion import DiffusionConfig
from shared.codec.nets.factorised_prior import FactorisedPrior
from shared.codec.nets.pocket import PIXEL_BLOCK, PocketCompression, PocketConfig
from shared.codec.pin import frame_bytes
from training.codec import Codec, estimate
from training.data import PhotographCache
from training.diffusion import Prior, load_average
from training.entropy_graphs import entropy_graphs
from training.float_graphs import float_graph
from training.quantise import calibrate, quantise
from training.table_fit import fit_tables

LATENT_BLOCK = 16
"""Pixels that one position of y spans."""
SMALLEST_SCALE, LARGEST_SCALE, SCALES = 0.11, 64.0, 64
DEFAULT_STEPS, DEFAULT_START = 2, 499
"""Diffusion steps of a full decode, and the timestep it starts from (999: pure noise): the best ST-LPIPS of the choices
in docs/benchmarks.md on held-out photographs."""
POINT_NAMES = ("glimpse", "sketch", "standard", "clear", "fine")


def hyper_tables(prior: FactorisedPrior) -> tuple[SymbolTable, ...]:
    """Coding tables of every hyper-latent channel, from its learned density."""
    reach = 60
    edges = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
    mass = np.diff(prior.cdf(edges.expand(prior.channels, -1)).cpu().numpy(), axis=1)
    return tuple(density_table(row, -reach) for row in mass)


@torch.no_grad()
def calibration_latents(codec: Codec, cache: PhotographCache, crops: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield y and quantised z of training crops over all operating points, as the entropy path will see them."""
    batches = cache.batches(1, 256, seed)
    for i in range(crops):
        picture = next(batches)
        point = torch.tensor([i % codec.compression.config.operating_points])
        y, z = codec.compression.encode(picture, codec.encoder(picture), point)
        yield y, codec.compression.prior.quantise(z)


def half(state: dict[str, Tensor]) -> bytes:
    """Serialise weights as float16."""
    return save({name: value.to(torch.float16).contiguous() for name, value in state.items()})


def export_files(codec: Codec, prior: Prior, control: torch.nn.Module, cache: PhotographCache) -> dict[str, bytes]:
    """Make every file of the bundle but the manifest, by name."""
    compression = codec.compression
    program = quantise(
        compression.entropy, calibrate(compression.entropy, calibration_latents(codec, cache, 40, seed=77))
    )
    thresholds, tables = latent_tables(SMALLEST_SCALE, LARGEST_SCALE, SCALES)
    coding = CodingTables(hyper_tables(compression.prior), thresholds, tables)
    config = compression.config
    layout = LatentLayout(config.entropy.hyper_channels, config.entropy.slices, config.layer_slices)
    graphs = entropy_graphs(program)
    coder = LatentCoder(layout, coding, OnnxBackend(graphs))
    coding = fit_tables(coder, ((y.numpy(), z.numpy()) for y, z in calibration_latents(codec, cache, 400, seed=78)))
    picture = torch.zeros(1, 3, 128, 192)
    guidance = codec.encoder(picture)
    y = compression.analysis(picture, guidance)
    contents = {
        "entropy/program.npz": program.to_bytes(),
        "entropy/tables.npz": coding.to_bytes(),
        **{f"entropy/{name}.onnx": graph for name, graph in graphs.items()},
        "sender/guidance.onnx": float_graph(codec.encoder, {"picture": picture}, [64], "guidance"),
        "sender/analysis.onnx": float_graph(
            compression.analysis, {"picture": picture, "guidance": guidance}, [1, 8], "y"
        ),
        "sender/hyper_analysis.onnx": float_graph(
            compression.hyper_analysis, {"y": y, "guidance": guidance}, [16, 8], "z"
        ),
        "receiver/synthesis.safetensors": half(compression.synthesis.state_dict()),
        "receiver/decoder.safetensors": half(codec.decoder.state_dict()),
        "receiver/prior.safetensors": half(prior.unet.state_dict()),
        "receiver/control.safetensors": half(control.state_dict()),
        "receiver/latent.safetensors": save(
            {"mean": prior.scale.mean, "deviation": prior.scale.deviation, "context": prior.context}
        ),
    }
    return contents


def make_manifest(codec: Codec, contents: dict[str, bytes]) -> dict[str, Any]:
    """Return the manifest, with rates still to be measured."""
    config = codec.compression.config
    gains = codec.compression.gain.detach().double().exp().numpy()
    inverse = codec.compression.inverse_gain.detach().double().exp().numpy()
    return {
        "format": FORMAT,
        "name": "pocket",
        "layout": {
            "block": PIXEL_BLOCK,
            "latent_block": LATENT_BLOCK,
            "hyper_channels": config.entropy.hyper_channels,
            "slices": list(config.entropy.slices),
            "layer_slices": list(config.layer_slices),
        },
        "operating_points": [
            {
                "quality": i + 1,
                "name": POINT_NAMES[i],
                "bits_per_pixel": 0.0,
                "gain": _short(gains[i]),
                "inverse_gain": _short(inverse[i]),
            }
            for i in range(config.operating_points)
        ],
        "diffusion": {"steps": DEFAULT_STEPS, "start": DEFAULT_START},
        "networks": {
            "autoencoder": dataclasses.asdict(AutoencoderConfig()),
            "compression": dataclasses.asdict(config),
            "diffusion": dataclasses.asdict(DiffusionConfig()),
        },
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()
        },
    }


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def measure_rates(folder: Path, cache: PhotographCache) -> list[float]:
    """Mean bits per pixel of every operating point over the held-out photographs, as ``.pin`` files."""
    encoder = OnnxEncoder(find_bundle(folder))
    rates = []
    for point in encoder.operating_points:
        values = []
        for entry in cache.validation:
            pixels = np.ascontiguousarray(cache.picture(entry))
            layers = encoder.encode(pixels, point.quality)
            size = sum(map(len, layers)) + frame_bytes([len(layer) for layer in layers])
            values.append(8 * size / (pixels.shape[0] * pixels.shape[1]))
        rates.append(float(np.mean(values)))
    return rates


@torch.no_grad()
def integer_costs(codec: Codec, folder: Path, cache: PhotographCache) -> list[float]:
    """Rate of the integer path relative to the float model's own estimate, less 1, for every operating point.

    Over the centres of 20 held-out photographs; code lengths under the tables, without headers and checksums.
    """
    encoder = OnnxEncoder(find_bundle(folder))
    crops = [crop for crop, _ in zip(cache.validation_crops(512), range(20), strict=False)]
    costs = []
    for point in encoder.operating_points:
        floats = integers = 0.0
        for crop in crops:
            _, rate = estimate(codec, crop, torch.tensor([point.quality - 1]))
            floats += float(rate) * crop.shape[2] * crop.shape[3]
            pixels = ((crop[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
            integers += sum(encoder.coder.encode(*encoder.latents(pixels, point.quality), b"").ideal_bits)
        costs.append(integers / floats - 1)
    return costs


def model_card(manifest: dict[str, Any], networks: Iterable[torch.nn.Module], cache: PhotographCache) -> str:
    """Fill in the model card's figures."""
    rows = ["| quality | name | bit/pixel |", "|---|---|---|"]
    rows += [f"| {p['quality']} | {p['name']} | {p['bits_per_pixel']:.4f} |" for p in manifest["operating_points"]]
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    return (
        (Path(__file__).parent / "model_card.md")
        .read_text()
        .format(
            parameters=f"{parameters / 1e6:.1f} million",
            megabytes=f"{sum(f['bytes'] for f in manifest['files'].values()) / 1e6:.1f}",
            validation=len(cache.validation),
            training=len(cache.training),
            rates="\n".join(rows),
        )
    )


def main() -> None:
    """Export the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/pocket"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    codec = Codec(PocketCompression(PocketConfig()), Autoencoder(AutoencoderConfig()))
    load_average(codec, options.run, "codec")
    prior = Prior(DiffusionConfig())
    load_average(prior, options.run, "prior")
    control = DiffusionConfig().control(prior.unet)
    load_average(control, options.run, "control")
    for module in (codec, prior, control):
        module.eval().requires_grad_(False)
    cache = PhotographCache(options.photographs, options.run / "photographs")

    contents = export_files(codec, prior, control, cache)
    manifest = make_manifest(codec, contents)
    partial = options.output.with_name(f".{options.output.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    for name, data in contents.items():
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_bytes(data)
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    for point, rate in zip(manifest["operating_points"], measure_rates(partial, cache), strict=True):
        point["bits_per_pixel"] = round(rate, 4)
        print(f"quality {point['quality']}: {rate:.4f} bit per pixel")
    for quality, cost in enumerate(integer_costs(codec, partial, cache), 1):
        print(f"quality {quality}: the integer path costs {cost:+.2%} against the float model's estimate")
    (partial / "MODEL_CARD.md").write_text(model_card(manifest, (codec, prior, control), cache))
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.rmtree(options.output, ignore_errors=True)
    partial.rename(options.output)
    total = sum(len(data) for data in contents.values())
    print(f"{options.output}: {total / 1e6:.1f} MB in {len(contents)} files")


if __name__ == "__main__":
    main()
