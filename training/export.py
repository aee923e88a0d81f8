"""Stage ``export``: the bundle. Entropy program, tables, graphs and weights are written, and their cost is measured.

``[start]`` names the stage, folder or checkpoint of every part::

    compression   the codec's compression module and encoder (``compression.*``, ``encoder.*``)
    decoder       ``decoder.*``; the codec's, unless a later stage trained it on
    unet          ``unet.*``
    scale         scale of the latents and context token (``scale.*``, ``context``)
    control       ``control.*``, or the bare module
    entropy       the quantise stage's; left out, the codec's own entropy model is quantised as it is
    bundle        a finished bundle, whose files are taken byte for byte but for unet, control and decoder (`renew`)

Rates are those of the finished bundle on held-out photographs, every byte of a ``.pin`` file counted.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sender.encoder import OnnxEncoder
from shared.codec.bundle import MANIFEST, find_bundle
from shared.codec.nets.autoencoder import LatentDecoder
from shared.codec.pin import frame_bytes
from shared.errors import PinholeError, UsageError
from training.bundle_files import TrainedParts, entropy_files, half, receiver_files, sender_files
from training.checkpoints import find_checkpoint, load_weights, part, read_average, read_checkpoint
from training.config import Config
from training.crops import crop_batches
from training.data import Photographs
from training.entropy_costs import EntropyCost, measure_cost
from training.grids import Grids
from training.latents import EntropyModel, latent_digest, make_latents
from training.manifest import CARD, make_manifest, model_card
from training.models import PocketModels
from training.renew import renew
from training.run_stage import open_photographs
from training.start_bundle import open_start_bundle

DEFAULT_STARTS = {"compression": "codec", "unet": "prior", "scale": "prior", "control": "control"}
"""Parts that must come from somewhere, and the stage they come from unless ``[start]`` says otherwise."""
PARTS = (*DEFAULT_STARTS, "decoder", "entropy", "bundle")


@dataclass(frozen=True)
class Settings:
    """Settings of the stage; batch and crop of the calibration photographs are those of ``[data]``.

    Attributes:
        model: architecture.
        bundle: name of the bundle.
        output: folder to write; ``""`` is ``bundle`` within the run's folder.
        points: names of the operating points, fewest bytes first.
        steps: diffusion steps of a full decode.
        begin: timestep it starts from; 999 is pure noise.
        crops: training crops that the coding tables are fitted to.
        calibration: how many of them the grids are fitted to, where no quantise stage chose them.
        measured: held-out photographs that rates are measured on.
        largest: megabytes that the bundle may have.
    """

    model: PocketModels = field(default_factory=PocketModels)
    bundle: str = "pocket"
    output: str = ""
    points: tuple[str, ...] = ("glimpse", "sketch", "standard", "clear", "fine", "rich")
    steps: int = 2
    begin: int = 199
    crops: int = 800
    calibration: int = 64
    measured: int = 24
    largest: float = 24.0


def run(config: Config) -> None:
    """Write the bundle, whole or not at all.

    Raises:
        UsageError: if ``[start]`` names an unknown part, or there is not one name for every operating point.
        PinholeError: if a checkpoint or ``[start] bundle`` is missing or does not fit, or the bundle is too large.
    """
    own = config.settings
    assert isinstance(own, Settings)
    output = Path(own.output) if own.output else config.run / own.bundle
    if config.start.get("bundle"):
        renew_bundle(config, output)
        return
    count = own.model.compression.operating_points
    if len(own.points) != count:
        raise UsageError(
            f"{config.source}: points has {len(own.points)} names for {count} operating points; give {count}"
        )
    torch.manual_seed(config.seed)
    parts = load_parts(config)
    photographs = open_photographs(config)
    latents = make_latents(parts.codec, crop_batches(photographs, config.data, config.seed, 0), own.crops)
    contents = {
        **entropy_files(parts, latents, own.calibration),
        **sender_files(parts.codec),
        **receiver_files(parts),
    }
    size = require_size(contents, own.largest)
    manifest = make_manifest(own.bundle, own.model, parts, own.points, (own.steps, own.begin), contents)
    write_bundle(output, contents, manifest, parts, photographs, own.measured)
    print(f"{output}: {size:.1f} MB in {len(contents)} files")


def renew_bundle(config: Config, output: Path) -> None:
    """Write the bundle that ``[start] bundle`` names with new weights of the receiver; errors as `run`.

    UNet, control and decoder come from where ``[start]`` says, and stay the bundle's where it says nothing. The other
    parts are the bundle's, whatever ``[start]`` says of them. No photographs are needed: the rates are the bundle's.
    """
    own = config.settings
    assert isinstance(own, Settings)
    _require_parts(config)
    bundle = open_start_bundle(config.start["bundle"], own.model)
    unet = own.model.diffusion.unet()
    networks: dict[str, tuple[nn.Module, str]] = {
        "unet": (unet, "receiver/prior.safetensors"),
        "control": (own.model.diffusion.control(unet), "receiver/control.safetensors"),
        "decoder": (LatentDecoder(own.model.autoencoder), "receiver/decoder.safetensors"),
    }
    receiver: dict[str, bytes] = {}
    for name, (module, file) in networks.items():
        if config.start.get(name):
            _load(config.run, config.start[name], module, name, bare=name == "control")
            receiver[file] = half(module.state_dict())
    if not receiver:
        raise UsageError(
            f"{config.source}: [start] names a bundle and nothing new; set {', '.join(networks)} to a stage"
        )
    contents, manifest, card = renew(bundle, receiver, (own.steps, own.begin))
    size = require_size(contents, own.largest)
    with _new_folder(output, contents) as partial:
        (partial / CARD).write_text(card)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{output}: {size:.1f} MB in {len(contents)} files, {len(receiver)} of them new")


def require_size(contents: Mapping[str, bytes], largest: float) -> float:
    """Return the megabytes of a bundle's files.

    Raises:
        PinholeError: if they are more than ``largest``.
    """
    size = sum(map(len, contents.values())) / 1e6
    if size > largest:
        name = max(contents, key=lambda file: len(contents[file]))
        raise PinholeError(
            f"the bundle has {size:.2f} MB, {largest:g} are allowed (most is {name}); lower widths or raise largest"
        )
    return size


def load_parts(config: Config) -> TrainedParts:
    """Load every part from where ``[start]`` says; errors as `run`."""
    own = config.settings
    assert isinstance(own, Settings)
    _require_parts(config)
    start = {**DEFAULT_STARTS, **config.start}
    start.setdefault("decoder", start["compression"])

    def load(module: nn.Module, name: str, prefix: str, bare: bool = False) -> None:
        _load(config.run, start[name], module, prefix, bare)

    codec, prior = own.model.codec(), own.model.prior()
    load(codec.compression, "compression", "compression")
    load(codec.encoder, "compression", "encoder")
    load(codec.decoder, "decoder", "decoder")
    load(prior.unet, "unet", "unet")
    load(prior.scale, "scale", "scale")
    prior.context.copy_(_context(config.run, start["scale"], prior.context))
    control = own.model.diffusion.control(prior.unet)
    load(control, "control", "control", bare=True)
    entropy, grids = EntropyModel(codec), None
    if start.get("entropy"):
        path = find_checkpoint(config.run, start["entropy"])
        state = read_checkpoint(path)
        if state.get("latents") != latent_digest(codec):
            raise PinholeError(
                f"{path} was made for another codec than {start['compression']}; run the quantise stage again"
            )
        entropy = EntropyModel(own.model.codec())
        load_weights(entropy, state["average"], str(path))
        grids = Grids.from_state(state.get("grids", {}))
    for module in (codec, entropy, prior, control):
        module.eval().requires_grad_(False)
    return TrainedParts(codec, entropy, grids, prior, control)


def _require_parts(config: Config) -> None:
    unknown = sorted(config.start.keys() - set(PARTS))
    if unknown:
        raise UsageError(f"{config.source}: [start] {unknown[0]} is no part of a bundle; parts are {', '.join(PARTS)}")


def _load(run: Path, source: str, module: nn.Module, prefix: str, bare: bool = False) -> None:
    """Give a module the weights below a prefix; or, where ``bare``, all there are if none is below it."""
    weights = read_average(run, source)
    chosen = part(weights, f"{prefix}.")
    load_weights(module, chosen if chosen or not bare else weights, str(find_checkpoint(run, source)))


def _context(run: Path, source: str, like: Tensor) -> Tensor:
    context = read_average(run, source).get("context")
    if context is None or context.shape != like.shape:
        raise PinholeError(f"{find_checkpoint(run, source)} holds no context token of the prior; mend [start] scale")
    return context


def write_bundle(
    output: Path,
    contents: dict[str, bytes],
    manifest: dict[str, Any],
    parts: TrainedParts,
    photographs: Photographs,
    measured: int,
) -> None:
    """Write the files beside ``output``, measure them there, add manifest and model card, and put them in place."""
    with _new_folder(output, contents) as partial:
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        rates, costs = measure_bundle(partial, parts, photographs, measured)
        for point, rate, cost in zip(manifest["operating_points"], rates, costs, strict=True):
            point["bits_per_pixel"] = round(rate, 4)
            print(f"{rate:.4f} bit per pixel in files, {cost}", flush=True)
        card = model_card(
            manifest, parts.modules(), len(photographs.training), min(measured, len(photographs.validation)), costs
        )
        (partial / CARD).write_text(card)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


@contextmanager
def _new_folder(output: Path, contents: Mapping[str, bytes]) -> Iterator[Path]:
    """Write files into a folder beside ``output`` for more to be added, and put it in place if all went well."""
    partial = output.with_name(f".{output.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, data in contents.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(data)
        yield partial
        shutil.rmtree(output, ignore_errors=True)
        partial.rename(output)
    except OSError as error:
        raise PinholeError(f"cannot write the bundle {output}: {error}; check the folder and the free space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def measure_bundle(
    folder: Path, parts: TrainedParts, photographs: Photographs, count: int
) -> tuple[list[float], list[EntropyCost]]:
    """Measure a finished bundle on held-out photographs, at every operating point.

    Returns:
        ``(rates, costs)``: mean bits per pixel of the ``.pin`` files, and what the entropy path makes of the latents.

    Raises:
        PinholeError: if there is no held-out photograph that can be used.
    """
    encoder = OnnxEncoder(find_bundle(folder))
    pictures = [photographs.load(True, i) for i in range(min(count, len(photographs.validation)))]
    usable = [np.ascontiguousarray(pixels) for pixels in pictures if pixels is not None]
    if not usable:
        raise PinholeError("no held-out photograph can be used; give others")
    rates, costs = [], []
    for point in encoder.operating_points:
        files = []
        for pixels in usable:
            layers = encoder.encode(pixels, point.quality)
            size = sum(map(len, layers)) + frame_bytes([len(layer) for layer in layers])
            files.append(8 * size / (pixels.shape[0] * pixels.shape[1]))
        rates.append(float(np.mean(files)))
        latents = (encoder.latents(pixels, point.quality) for pixels in usable)
        costs.append(measure_cost(parts.codec, encoder.coder, point.quality, latents))
    return rates, costs
