"""Import of official checkpoints: reads, checks, calibrates, exports, measures, and writes one bundle.

Everything is written beside the target and moved into place at the end. Large tensors stay in the checkpoints' files,
mapped into memory, until they are written; only one network at a time is built with weights.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from sender.encoder import OnnxEncoder
from shared.codec.bundle import SETS_FORMAT, find_bundle
from shared.codec.entropy.coding import LatentLayout
from shared.codec.interfaces import Pixels
from shared.codec.pin import frame_bytes
from shared.errors import PinholeError
from training.data import to_tensor
from training.importing.card import model_card
from training.importing.entropy import EntropyFiles, encode_crops, entropy_files
from training.importing.photographs import CalibrationCrops, cut_crops
from training.importing.probe import EXPECTED, meta_unet, noise_correlation
from training.importing.quiet import quiet_libraries
from training.importing.rates import Rate, RateSource, check_equal, load_rate
from training.importing.sender_graphs import GuidanceEncoder, SenderGraph, analysis_graphs, guidance_graph
from training.importing.stable_diffusion import Base, check_own_unet, read_base
from training.importing.writer import BundleWriter
from training.official_config import read_overrides

PIXEL_BLOCK, LATENT_BLOCK = 64, 16
"""Pixels that one position of the hyper-latent and of the latent spans."""
OFFICIAL_SLICES, OFFICIAL_LAYERS = (8, 8, 8, 8, 16, 16, 32, 32, 96, 96), (4, 2, 2, 2)
REFINEMENTS = 4
"""Layers beside the base, where there are slices for as many."""
STEPS, START, SAMPLER = 50, 999, "ddpm"
"""The paper's sampling."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Number types that the weights of UNet and control can be stored in."""

Report = Callable[[str], None]


_Pairs = list[tuple[Tensor, Tensor]]
"""Pictures ``1 x 3 x H x W`` in [-1, 1] with their guidance latents."""


@dataclass(frozen=True)
class ImportOptions:
    """What is imported, and how.

    Attributes:
        stable_diffusion: diffusers folder, hub id or original single-file checkpoint.
        rates: checkpoints of LFGCM and control, one for each operating point.
        photographs: folder that calibration crops are cut from.
        output: folder of the bundle.
        name: of the bundle; empty takes that of the folder.
        crops: how many crops are cut, 2 or more.
        dtype: number type of UNet and control, a key of `DTYPES`. Synthesis and decoder stay float32: what they lose,
            every picture loses.
        refer: whether UNet and decoder stay where they are, named by source and hash, where they can.
        overrides: JSON file with what shapes cannot tell.
        prompt_embedding: safetensors file with the empty prompt's embedding as ``context``.
        half: whether the sender's graphs are also made in half precision.
    """

    stable_diffusion: str
    rates: tuple[RateSource, ...]
    photographs: Path
    output: Path
    name: str = ""
    crops: int = 32
    dtype: str = "bf16"
    refer: bool = False
    overrides: Path | None = None
    prompt_embedding: Path | None = None
    half: bool = True


@dataclass(frozen=True)
class _Made:
    """One rate as it was made."""

    source: RateSource
    rate: Rate
    entropy: EntropyFiles
    graphs: dict[str, SenderGraph]


def import_official(options: ImportOptions, report: Report = print) -> Path:
    """Import, and return the bundle's folder.

    Args:
        options: what and how.
        report: takes one line of progress at a time.

    Raises:
        PinholeError: if anything is missing, unknown, damaged, of a wrong shape or not what an official checkpoint is;
            there is then no new bundle, and an old one in its place is left as it was.
    """
    overrides = read_overrides(options.overrides) if options.overrides else {}
    quiet_libraries()
    with BundleWriter(options.output) as writer:
        crops = cut_crops(options.photographs, options.crops)
        report(f"{len(crops.fitted)} + {len(crops.measured)} crops of {crops.photographs} photographs")
        base = read_base(options.stable_diffusion, overrides, options.prompt_embedding)
        report(f"Stable Diffusion: {base.summary}")
        external = base.references(report) if options.refer else {}
        unet = meta_unet(base.parts.unet_config)
        rates = _load_rates(options, unet, base, overrides, report)
        guided = _guide(writer, base, crops, options.half, report)
        layout = LatentLayout(
            rates[0].lfgcm.config.hyper_channels,
            rates[0].lfgcm.config.slices,
            layer_slices(rates[0].lfgcm.config.slices),
        )
        latents = [
            [encode_crops(rate.lfgcm, pairs, str(source.path)) for pairs in guided]
            for source, rate in zip(options.rates, rates, strict=True)
        ]
        made: list[_Made] = []
        for source, rate, (fitted, measured) in zip(options.rates, rates, latents, strict=True):
            entropy = entropy_files(rate.lfgcm, layout, fitted, measured)
            report(f"{source.name}: {entropy.bits_per_pixel:.4f} bit per pixel in files; {entropy.grid}")
            report(f"{source.name}: {entropy.cost}")
            graphs = analysis_graphs(rate.lfgcm, options.half, made[0].graphs if made else None)
            made.append(_Made(source, rate, entropy, graphs))
            _write_rate(writer, made[-1], options.dtype, report)
        made.sort(key=lambda m: m.entropy.bits_per_pixel)
        _write_base(writer, base, external, options.dtype, report)
        warning = _probe(base, report)
        manifest = _manifest(options, base, made, layout, external)
        writer.write_manifest(manifest)
        _check_encoder(writer.folder, made, crops.measured, report)
        writer.write_text("MODEL_CARD.md", model_card(manifest, *_origins(base, made), crops, warning))
        writer.write_manifest(manifest)
        writer.finish()
    bundle = find_bundle(options.output.absolute())
    megabytes = sum(entry["bytes"] for entry in writer.files.values()) / 1e6
    report(f"{options.output}: bundle {bundle.name} ({bundle.bundle_id.hex()}), {megabytes:.0f} MB")
    return options.output


def layer_slices(slices: tuple[int, ...]) -> tuple[int, ...]:
    """How many slices each refinement layer carries: as evenly as it goes, the first layers more.

    The official slices are narrow first and wide last, and the first ones hold most: four of them make a layer.
    """
    if slices == OFFICIAL_SLICES:
        return OFFICIAL_LAYERS
    layers = min(REFINEMENTS, len(slices))
    each, more = divmod(len(slices), layers)
    return tuple(each + (i < more) for i in range(layers))


def _load_rates(
    options: ImportOptions, unet: UNet2DConditionModel, base: Base, overrides: Mapping[str, Any], report: Report
) -> list[Rate]:
    """Load all rates before anything is calibrated: the last one's error should not come after the first one's work."""
    rates: list[Rate] = []
    for source in options.rates:
        rate = load_rate(source, unet, overrides)
        check_own_unet(rate.unet, unet, base.parts.unet, str(source.path))
        if rates:
            check_equal(options.rates[0], rates[0], source, rate)
        rates.append(dataclasses.replace(rate, unet={}))
        parameters = sum(p.numel() for module in (rate.lfgcm, rate.control) for p in module.parameters())
        report(f"{source.name}: {source.path}, {parameters / 1e6:.1f} million parameters, every key in its place")
    return rates


@torch.no_grad()
def _guide(
    writer: BundleWriter, base: Base, crops: CalibrationCrops, half: bool, report: Report
) -> tuple[_Pairs, _Pairs]:
    """Write the guidance graph; return the fitted and the measured crops with the guidance of the network itself."""
    vae = base.vae()
    _write_graph(writer, "sender/guidance", guidance_graph(vae, half), "guidance", report)
    encoder = GuidanceEncoder(vae)

    def pairs(pictures: tuple[Pixels, ...]) -> _Pairs:
        tensors = (to_tensor(pixels[None]).contiguous() for pixels in pictures)
        return [(picture, encoder(picture)) for picture in tensors]

    guided = pairs(crops.fitted), pairs(crops.measured)
    report("guidance of all crops computed")
    return guided


def _write_rate(writer: BundleWriter, made: _Made, dtype: str, report: Report) -> None:
    """Write one weight set."""
    name, rate = made.source.name, made.rate
    for file, data in made.entropy.files.items():
        writer.add(f"weights/{name}/{file}", data)
    for file, graph in made.graphs.items():
        _write_graph(writer, f"weights/{name}/sender/{file}", graph, f"{name}: {file}", report)
    synthesis = {"medians": rate.lfgcm.prior.medians[None]}
    for part in ("reference_decoder", "synthesis"):
        state = rate.lfgcm.get_submodule(part).state_dict()
        synthesis |= {f"{part}.{key}": value for key, value in state.items()}
    writer.add_tensors(f"weights/{name}/receiver/synthesis.safetensors", synthesis)
    control = {key: value.to(DTYPES[dtype]) for key, value in rate.control.state_dict().items()}
    writer.add_tensors(f"weights/{name}/receiver/control.safetensors", control)


def _write_graph(writer: BundleWriter, name: str, graph: SenderGraph, called: str, report: Report) -> None:
    writer.add(f"{name}.onnx", graph.single)
    said = f"{called}: graph within {graph.difference:.1e} of torch"
    if graph.half is not None:
        writer.add(f"{name}_fp16.onnx", graph.half)
        said += f", in half precision {graph.half_difference:.1e}"
    elif graph.half_difference is not None:
        said += f"; left out in half precision, which is {graph.half_difference:.1e} off"
    report(said)


def _write_base(writer: BundleWriter, base: Base, external: Mapping[str, object], dtype: str, report: Report) -> None:
    """Write what all rates share, except files that are referred to."""
    if "receiver/unet.safetensors" not in external:
        unet = {name: value.to(DTYPES[dtype]) for name, value in base.parts.unet.items()}
        writer.add_tensors("receiver/unet.safetensors", unet)
        report(f"UNet written in {dtype}, {sum(v.numel() for v in unet.values()) / 1e6:.0f} million parameters")
    if "receiver/vae.safetensors" not in external:
        writer.add_tensors("receiver/vae.safetensors", base.decoder_state())
    writer.add_tensors("receiver/context.safetensors", {"context": base.context})


def _probe(base: Base, report: Report) -> str:
    """Return a warning if the UNet does not look like one that estimates noise."""
    correlation = noise_correlation(base.parts.unet_config, base.parts.unet, base.context)
    if correlation >= EXPECTED:
        report(f"the UNet finds noise again (correlation {correlation:.2f})")
        return ""
    warning = (
        f"The UNet's estimate for pure noise correlates with it by {correlation:.2f}, where one that estimates noise "
        f"has more than {EXPECTED}. It may estimate v, as the 768-pixel Stable Diffusion 2.1 does; DiffEIC is for "
        "2.1-base, the 512-pixel one."
    )
    report(f"warning: {warning}")
    return warning


def _manifest(
    options: ImportOptions, base: Base, made: list[_Made], layout: LatentLayout, external: dict[str, Any]
) -> dict[str, Any]:
    ones = [1.0] * sum(layout.slices)
    lfgcm, control = made[0].rate.lfgcm.config, made[0].rate.control.config
    return {
        "format": SETS_FORMAT,
        "name": options.name or options.output.absolute().name,
        "layout": {
            "block": PIXEL_BLOCK,
            "latent_block": LATENT_BLOCK,
            "hyper_channels": layout.hyper_channels,
            "slices": list(layout.slices),
            "layer_slices": list(layout.layer_slices),
        },
        "operating_points": [
            {
                "quality": i,
                "name": m.source.name,
                "bits_per_pixel": round(m.entropy.bits_per_pixel, 4),
                "weights": m.source.name,
                "gain": ones,
                "inverse_gain": ones,
            }
            for i, m in enumerate(made, 1)
        ],
        "weights": {m.source.name: {"hyper_medians": m.entropy.hyper_medians} for m in made},
        "diffusion": {"steps": STEPS, "start": START, "sampler": SAMPLER},
        "networks": {
            "family": "diffeic",
            "lfgcm": dataclasses.asdict(lfgcm),
            "vae": dict(base.parts.vae_config),
            "unet": dict(base.parts.unet_config),
            "control": dataclasses.asdict(control),
        },
        "prompts": [],
        "external": external,
    }


def _check_encoder(folder: Path, made: list[_Made], crops: tuple[Pixels, ...], report: Report) -> None:
    """Encode one crop as a sender does, at every quality, and compare with what was measured.

    Raises:
        PinholeError: if a sender makes files of another size: then the graphs or their wiring are wrong.
    """
    encoder = OnnxEncoder(find_bundle(folder))
    number = min(range(len(crops)), key=lambda i: crops[i].size)
    for quality, rate in enumerate(made, 1):
        layers = encoder.encode(crops[number], quality)
        size = sum(map(len, layers)) + frame_bytes([len(layer) for layer in layers])
        expected = rate.entropy.file_bytes[number]
        # Graphs and torch differ in the last bits of a latent, and a few symbols with them.
        if abs(size - expected) > max(8, 0.01 * expected):
            raise PinholeError(
                f"{rate.source.name}: the sender's graphs make {size} bytes of a crop where the networks made "
                f"{expected}; report this with the versions of torch and onnxruntime"
            )
    report(f"the sender's graphs make files of the size that was measured, at {len(made)} operating points")


def _origins(base: Base, made: list[_Made]) -> tuple[dict[str, str], list[Any]]:
    sources = {"Stable Diffusion": base.summary}
    sources |= {f"Rate {m.source.name}": f"`{m.source.path.name}`" for m in made}
    return sources, [dataclasses.replace(m.entropy.cost, quality=i) for i, m in enumerate(made, 1)]
