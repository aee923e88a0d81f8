"""The quantise stage and the loading of a bundle's parts, at tiny widths on made-up photographs."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.codec.entropy.coding import LatentCoder
from shared.codec.entropy.program import EntropyProgram
from shared.codec.entropy.tables import CodingTables
from shared.codec.entropy.torch_backend import TorchBackend
from shared.codec.nets.autoencoder import AutoencoderConfig
from shared.codec.nets.diffusion import DiffusionConfig
from shared.codec.nets.entropy_parameters import EntropyParametersConfig
from shared.codec.nets.pocket import PocketConfig
from shared.errors import PinholeError, UsageError
from tests.training.test_training_data import make_photographs
from training import export, quantise_stage
from training.bundle_files import bundle_layout, entropy_files
from training.calibration import calibrate
from training.checkpoints import read_checkpoint, save_checkpoint
from training.config import Config, DataConfig, LogConfig, OptimiseConfig
from training.entropy_costs import EntropyCost, float_terms, measure_cost
from training.grids import Grids, plan_grids
from training.latents import EntropyModel, LatentSet, make_latents
from training.models import Codec, PocketModels
from training.quantise import program_on
from training.table_fit import model_tables

MODELS = PocketModels(
    AutoencoderConfig(
        latent_channels=4, encoder_widths=(8, 12), encoder_depths=(1, 1), decoder_widths=(12, 8, 8),
        decoder_depths=(1, 1, 1),
    ),
    PocketConfig(
        guidance_channels=4, analysis_widths=(8, 8), analysis_depths=(1, 1), hyper_width=8, synthesis_widths=(8, 8),
        synthesis_depths=(1, 1), layer_slices=(1, 1), operating_points=3,
        entropy=EntropyParametersConfig(8, 4, (4, 4), (8, 8), channel_context_widths=(8, 8)),
    ),
    DiffusionConfig(latent_channels=4, widths=(8, 8, 8), context_width=8, heads=2, groups=4),
)  # fmt: skip


def average(*modules: tuple[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    return {"average": {f"{name}{key}": v for name, module in modules for key, v in module.state_dict().items()}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with photographs and random checkpoints of codec, prior, control and relay."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(3)
    codec, prior = MODELS.codec(), MODELS.prior()
    control = MODELS.diffusion.control(prior.unet)
    later, painter = MODELS.prior(), MODELS.codec().decoder
    stages = {
        "codec": average(("", codec)),
        "prior": average(("", prior)),
        "control": average(("", control)),
        "relay": average(
            ("unet.", later.unet), ("control.", MODELS.diffusion.control(later.unet)), ("decoder.", painter)
        ),
    }
    for stage, state in stages.items():
        (folder / stage).mkdir()
        save_checkpoint(folder / stage, state)
    make_photographs(folder / "pictures")
    return folder


def config(run: Path, stage: str, settings: object, start: dict[str, str], steps: int = 8) -> Config:
    return Config(
        Path(f"{stage}.toml"), stage, stage, run, run / "pictures", "cpu", 1,
        DataConfig(batch=4, crop=64, smallest=64, cache=False, validation=1, validation_crop=64),
        OptimiseConfig(steps=steps, learning_rate=1e-2, warmup=2), LogConfig(every=10), start, settings,
    )  # fmt: skip


OWN = quantise_stage.Settings(MODELS, crops=24, calibration=8, fitted=24)


@pytest.fixture(scope="module")
def quantised(run: Path) -> Config:
    made = config(run, "quantise", OWN, {"codec": "codec"})
    quantise_stage.run(made)
    return made


@pytest.fixture(scope="module")
def codec(run: Path) -> Codec:
    made = MODELS.codec()
    made.load_state_dict(read_checkpoint(run / "codec" / "checkpoint.pt")["average"])
    return made.eval().requires_grad_(False)


def latent_set(codec: Codec) -> LatentSet:
    return make_latents(codec, noise(9), 16)


def noise(seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.rand(4, 3, 64, 64, generator=generator) * 2 - 1


def test_the_stage_keeps_the_better_model_and_is_passed_over_when_done(
    quantised: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    state = read_checkpoint(quantised.folder / "checkpoint.pt")
    assert {name.partition(".")[0] for name in state["average"]} == {"entropy", "prior"}
    assert [quality for quality, _ in state["costs"]] == [1, 2, 3]
    assert isinstance(state["gained"], bool)
    written = (quantised.folder / "checkpoint.pt").stat().st_mtime_ns
    quantise_stage.run(quantised)
    assert "passed over" in capsys.readouterr().out
    assert (quantised.folder / "checkpoint.pt").stat().st_mtime_ns == written


def test_training_on_the_grids_lowers_the_integer_paths_rate(run: Path, codec: Codec) -> None:
    """What was trained through fake quantisation is shorter as a program, on the latents that it was trained on."""
    latents = latent_set(codec)
    tuned = MODELS.codec()
    tuned.load_state_dict(codec.state_dict())
    plain, model = EntropyModel(codec), EntropyModel(tuned)
    calibration = [(y, z) for y, z, _ in latents.pictures(8)]
    grids = plan_grids(plain.entropy, calibrate(plain.entropy, calibration))
    model.requires_grad_(True)
    own = dataclasses.replace(OWN, hard=1.0, distortion=0.0)
    quantise_stage.train_on_grids(model, grids, latents, own, config(run, "quantise", own, {}, steps=60))
    model.requires_grad_(False)

    def ideal(entropy: EntropyModel) -> float:
        backend = TorchBackend(program_on(entropy.entropy, grids))
        coder = LatentCoder(bundle_layout(codec), model_tables(entropy.prior), backend)
        coded = ((coder.encode(y, z, b""), weight) for y, z, weight in latents.arrays(16))
        return sum(weight * sum(encoded.ideal_bits) for encoded, weight in coded)

    assert ideal(model) < 0.9 * ideal(plain)


def test_the_bundle_gets_the_trained_entropy_model_on_its_grids(run: Path, quantised: Config, codec: Codec) -> None:
    own = export.Settings(MODELS, points=("a", "b", "c"))
    start = {"entropy": "quantise", "unet": "relay", "control": "relay", "decoder": "relay"}
    parts = export.load_parts(config(run, "export", own, start))
    state = read_checkpoint(quantised.folder / "checkpoint.pt")
    files = entropy_files(parts, latent_set(codec), 8)
    program = EntropyProgram.from_bytes(files["entropy/program.npz"])
    assert parts.grids is not None
    assert program.to_bytes() == program_on(parts.entropy.entropy, Grids.from_state(state["grids"])).to_bytes()
    tables = CodingTables.from_bytes(files["entropy/tables.npz"])
    assert len(tables.hyper) == 4
    relay = read_checkpoint(run / "relay" / "checkpoint.pt")["average"]
    for prefix, module in (("unet.", parts.prior.unet), ("control.", parts.control), ("decoder.", parts.codec.decoder)):
        for name, value in module.state_dict().items():
            assert torch.equal(value, relay[prefix + name]), prefix + name
    assert bundle_layout(parts.codec).layers == 3


def test_parts_come_from_their_own_stages_unless_told_otherwise(run: Path) -> None:
    parts = export.load_parts(config(run, "export", export.Settings(MODELS), {}))
    assert parts.grids is None
    control = read_checkpoint(run / "control" / "checkpoint.pt")["average"]
    assert all(torch.equal(value, control[name]) for name, value in parts.control.state_dict().items())


def test_wrong_configurations_are_one_clear_error(run: Path, quantised: Config, tmp_path: Path) -> None:
    own = export.Settings(MODELS)
    with pytest.raises(UsageError, match="6 names for 3 operating points"):
        export.run(config(run, "export", own, {}))
    with pytest.raises(UsageError, match="tail is no part of a bundle"):
        export.load_parts(config(run, "export", own, {"tail": "codec"}))
    with pytest.raises(PinholeError, match="no checkpoint"):
        export.load_parts(config(run, "export", own, {"decoder": "nowhere"}))
    weights = read_checkpoint(run / "prior" / "checkpoint.pt")["average"]
    save_checkpoint(tmp_path, {"average": {n: v for n, v in weights.items() if n != "context"}})
    with pytest.raises(PinholeError, match="no context token"):
        export.load_parts(config(run, "export", own, {"scale": str(tmp_path)}))
    with pytest.raises(UsageError, match="which codec"):
        quantise_stage.run(config(run, "quantise", OWN, {}))
    with pytest.raises(PinholeError, match=r"0\.03 MB, 0\.02 are allowed .most is b"):
        export.require_size({"a": bytes(10_000), "b": bytes(20_000)}, 0.02)


def test_an_entropy_model_of_another_codec_is_refused(run: Path, quantised: Config, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    state = read_checkpoint(run / "codec" / "checkpoint.pt")
    state["average"]["compression.gain"] += 0.1
    save_checkpoint(tmp_path / "run" / "codec", state)
    with pytest.raises(PinholeError, match="made for another codec"):
        export.load_parts(config(tmp_path / "run", "export", export.Settings(MODELS), {"entropy": "quantise"}))


def test_weights_make_every_operating_point_count_the_same(codec: Codec) -> None:
    torch.manual_seed(4)
    latents = latent_set(codec)
    again = latents.batch(torch.arange(len(latents.y)))
    bits, _ = float_terms(codec, again[0], again[1])
    groups = [bits[latents.weight == w] * w for w in sorted(set(latents.weight.tolist()))]
    for group in groups:
        assert float(group.mean()) == pytest.approx(1, rel=0.05)


def test_costs_are_what_was_written(codec: Codec) -> None:
    latents = latent_set(codec)
    plain = EntropyModel(codec)
    calibration = [(y, z) for y, z, _ in latents.pictures(8)]
    grids = plan_grids(plain.entropy, calibrate(plain.entropy, calibration))
    coder = LatentCoder(
        bundle_layout(codec),
        model_tables(plain.prior),
        TorchBackend(program_on(plain.entropy, grids)),
    )
    pairs = [(y, z) for y, z, _ in latents.arrays(4)]
    cost = measure_cost(codec, coder, 2, pairs)
    coded = [coder.encode(y, z, b"") for y, z in pairs]
    payload = 8 * sum(len(p) for c in coded for p in c.payloads)
    assert cost.actual_bits + cost.check_bits == payload
    assert cost.check_bits == 8 * 2 * 3 * 4
    assert cost.ideal_bits == pytest.approx(sum(sum(c.ideal_bits) for c in coded))
    assert cost.pixels == 4 * 64 * 64
    with pytest.raises(ValueError, match="no pictures"):
        measure_cost(codec, coder, 2, [])
    assert str(EntropyCost(2, 1000, 100, 101, 103, 8, 1.5)).endswith(
        "+1.98% (+9.90% with checksums), latent error +50.0%"
    )
    assert np.isfinite(cost.error)
