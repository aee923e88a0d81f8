"""Every configuration of paper scale: its numbers are the paper's, and a run at stand-in widths comes to its end."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import training
from tests.training.paper_stand_ins import SMALL_LFGCM, save_photographs, save_stable_diffusion
from training.checkpoints import read_checkpoint
from training.config import Config
from training.run_stage import read_config, read_plan, run_stage

CONFIGS = Path(training.__file__).parent / "configs"
LAMBDAS = {"1_2_1": 1, "1_2_2": 2, "1_2_4": 4, "1_2_8": 8, "1_2_16": 16}
ABLATIONS = [path.stem for path in read_plan(CONFIGS / "ablations")]
SD21 = [path.stem for path in read_plan(CONFIGS / "sd21")]
LOGGED = {"total", "bpp", "alignment", "denoising", "auxiliary", "bits_per_pixel", "content_error"}


def read(folder: str, name: str, *overrides: str) -> Config:
    return read_config(CONFIGS / folder / f"{name}.toml", overrides)


@pytest.mark.parametrize("name", LAMBDAS)
def test_the_settings_are_the_papers(name: str) -> None:
    config = read("sd21", name)
    first = name == "1_2_1"
    assert (config.stage, config.name) == ("paper_codec", name)
    loss = config.settings.loss
    assert (loss.objective, loss.denoising, loss.alignment, loss.rate) == ("noise", 1, 2, LAMBDAS[name])
    assert config.optimise.steps == (300_000 if first else 200_000)
    assert config.optimise.learning_rate == (1e-4 if first else 2e-5)
    assert config.optimise.auxiliary_learning_rate == 1e-3
    assert (config.optimise.weight_decay, config.optimise.betas) == (0.01, (0.9, 0.999))
    assert (config.optimise.cosine, config.optimise.warmup, config.optimise.clip) == (False, 0, 0)
    assert (config.optimise.precision, config.optimise.average) == ("no", 0)
    assert (config.data.batch, config.data.crop, config.data.crop_share) == (4, 512, (0.8, 1.0))
    assert config.settings.model.control_ratio == 0.2
    assert sum(config.settings.model.lfgcm.slices) == 320
    assert config.start == ({} if first else {"codec": "1_2_1"})


def differences(a: Any, b: Any) -> set[str]:
    """Names of the settings that differ, nested ones by their last name."""
    found = set()
    for name, value in vars(a).items():
        other = getattr(b, name)
        if hasattr(value, "__dataclass_fields__"):
            found |= differences(value, other)
        elif value != other:
            found.add(name)
    return found


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("base", set()),
        ("control_050", {"control_ratio", "head_channels"}),
        ("control_100", {"control_ratio", "head_channels"}),
        ("fusion_addition", {"fusion"}),
        ("fusion_concatenation", {"fusion"}),
        ("fusion_cross_attention", {"fusion"}),
        ("without_alignment", {"alignment"}),
        ("without_guidance", {"guidance"}),
    ],
)
def test_an_ablation_changes_one_thing(name: str, changed: set[str]) -> None:
    reference, ablation = read("sd21", "1_2_1"), read("ablations", name)
    assert differences(reference.settings, ablation.settings) == changed
    assert (reference.data, reference.optimise) == (ablation.data, ablation.optimise)
    assert ablation.run == Path("runs/ablations")
    assert ablation.name == ("reference" if name == "base" else name)


def test_the_plans_leave_nothing_out_and_start_from_what_came_before() -> None:
    for kind, plan, shared in (("sd21", SD21, {"paper", "plan"}), ("ablations", ABLATIONS, {"plan"})):
        assert {path.stem for path in (CONFIGS / kind).glob("*.toml")} - shared == set(plan)
        done: set[str] = set()
        for name in plan:
            config = read(kind, name)
            assert set(config.start.values()) <= done
            assert config.name not in done
            done.add(config.name)


def small(folder: Path, *more: str) -> list[str]:
    """Stand-in widths, two steps, 64-pixel crops."""
    lfgcm = [f"model.lfgcm.{name}={value}" for name, value in SMALL_LFGCM.items()]
    return [
        f'model.stable_diffusion="{folder / "sd"}"',
        *lfgcm,
        *("data.batch=2", "data.crop=64", "data.smallest=64", "data.workers=0"),
        *("data.validation=1", "data.validation_crop=64"),
        *("optimise.steps=2", "log.every=2", "log.samples_every=0", "log.tensorboard=false", "loss.sample_steps=2"),
        *more,
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("paper")
    save_stable_diffusion(place / "sd")
    save_photographs(place / "photographs")
    return place


def run(folder: Path, kind: str, name: str, *more: str, stage: str = "paper_codec") -> tuple[dict[str, Any], Any]:
    """Train; return the checkpoint and the last line of the log."""
    path = CONFIGS / kind / f"{name}.toml"
    flags = {"photographs": str(folder / "photographs"), "run": str(folder / kind), "device": "cpu"}
    assert run_stage(stage, str(path), more, **flags) == 0
    place = folder / kind / read(kind, name).name
    record = json.loads((place / "log.jsonl").read_text().splitlines()[-1])
    return read_checkpoint(place / "checkpoint.pt"), record


def check(checkpoint: dict[str, Any], record: dict[str, Any]) -> None:
    assert (checkpoint["step"], checkpoint["skipped"], record["step"]) == (2, 0, 2)
    figures = {name: value for name, value in record.items() if isinstance(value, int | float)}
    assert figures.keys() >= LOGGED
    assert all(math.isfinite(value) for value in figures.values())
    weights = checkpoint["model"]
    # Both optimisers have stepped, and the control's connections, zero at first, have opened.
    assert not torch.equal(weights["lfgcm.prior.quantiles"], torch.tensor([-10.0, 0.0, 10.0]).expand(8, 1, 3))
    assert weights["control.to_inputs.0.weight"].any()


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_trains(folder: Path, name: str) -> None:
    more = [] if name.startswith("control") else ["model.control_ratio=0.25", "model.head_channels=4"]
    checkpoint, record = run(folder, "ablations", name, *small(folder, *more))
    check(checkpoint, record)
    width = {"control_050": 8, "control_100": 16}.get(name, 4)
    assert len(checkpoint["model"]["control.encoder.conv_in.weight"]) == width
    names = checkpoint["model"].keys()
    assert ("lfgcm.analysis.reference8.0.weight" in names) == (name != "without_guidance")
    assert ("lfgcm.synthesis.guide8.merge.weight" in names) == (name == "fusion_concatenation")
    assert ("lfgcm.synthesis.guide8.query.weight" in names) == (name == "fusion_cross_attention")


def test_the_whole_chain_of_sd21_trains(folder: Path) -> None:
    small_control = ("model.control_ratio=0.25", "model.head_channels=4")
    for name in (name for name in SD21 if name != "guidance"):
        checkpoint, record = run(folder, "sd21", name, *small(folder, *small_control))
        check(checkpoint, record)
        if name.startswith("relay"):
            assert {"latent_error_200", "psnr_2"} <= record.keys()
        if name == "relay_unrolled":
            assert {"pixels", "stlpips"} <= record.keys()


def test_a_start_hands_over_every_weight(folder: Path) -> None:
    control = ("model.control_ratio=0.25", "model.head_channels=4")
    first, _ = run(folder, "sd21", "1_2_1", *small(folder, *control))
    # Rates below the last bit of any weight: what is saved is what was handed over.
    still = ("optimise.learning_rate=1e-30", "optimise.auxiliary_learning_rate=1e-30", 'name="still"')
    flags = {"photographs": str(folder / "photographs"), "run": str(folder / "sd21"), "device": "cpu"}
    path = CONFIGS / "sd21" / "1_2_8.toml"
    assert run_stage("paper_codec", str(path), small(folder, *control, *still), **flags) == 0
    second = read_checkpoint(folder / "sd21" / "still" / "checkpoint.pt")
    assert first["average"].keys() == second["model"].keys()
    assert all(torch.equal(first["average"][name], value) for name, value in second["model"].items())


def test_the_guidance_encoder_is_distilled(folder: Path) -> None:
    lines = [line for line in small(folder) if not line.startswith(("model.", "loss."))]
    own = (f'vae="{folder / "sd"}"', "student_widths=[8, 16]", "student_depths=[1, 1]")
    checkpoint, record = run(folder, "sd21", "guidance", *lines, *own, stage="guidance")
    assert checkpoint["step"] == 2
    assert math.isfinite(record["latent_error"])
