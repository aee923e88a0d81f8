"""Every stage of the pocket bundle on eight pictures at tiny widths, from photographs to a bundle that works."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from receiver.decoder import TorchDecoder
from sender.encoder import OnnxEncoder
from shared.codec.bundle import find_bundle
from shared.codec.nets.ddpm import training_alphas_cumprod
from shared.errors import UsageError
from tests.training.test_training_data import make_photographs
from training.checkpoints import part, read_average
from training.config import build
from training.judge import Judge, PerceptualTrunk
from training.models import PocketModels, signal_share
from training.perceptual import StLpips
from training.run_stage import CONFIGS, PLAN, read_plan, run_plan, run_stage
from training.stages.codec import gains_at

TINY = """
[model.autoencoder]
latent_channels = 4
encoder_widths = [8, 12]
encoder_depths = [1, 1]
decoder_widths = [12, 8, 8]
decoder_depths = [1, 1, 1]

[model.compression]
guidance_channels = 4
analysis_widths = [8, 8]
analysis_depths = [1, 1]
hyper_width = 8
synthesis_widths = [8, 8]
synthesis_depths = [1, 1]
layer_slices = [1, 1]
operating_points = 2

[model.compression.entropy]
latent_channels = 8
hyper_channels = 4
slices = [4, 4]
hyper_decoder_widths = [8, 8]
channel_context_widths = [8, 8]

[model.diffusion]
latent_channels = 4
widths = [8, 8, 8]
context_width = 8
heads = 2
groups = 4

[data]
batch = 2
crop = 64
smallest = 64
validation = 1
validation_crop = 64

[optimise]
steps = 3
warmup = 1
finish_by_minutes = 0

[log]
every = 3
tensorboard = false
"""
"""Laid over every configuration."""

OWN: dict[str, dict[str, Any]] = {
    "autoencoder": {"loss.perceptual": 0.1, "loss.adversarial": 0.1, "loss.adversarial_from": 0.5, "loss.window": 64},
    "codec": {"loss.rate": [4.0, 1.0], "loss.window": 64},
    "refine": {"loss.rate": [8.0, 0.5], "start_rate": [4.0, 1.0]},
    "prior": {"scale_crops": 4, "scale_crop": 64},
    "relay": {"loss.independent": 0.3, "loss.adversarial_from": 0.6, "loss.window": 64},
    "quantise": {"crops": 8, "calibration": 4, "fitted": 8},
    "export": {"points": ["low", "high"], "crops": 8, "calibration": 4, "measured": 1},
    "guidance": {"student_widths": [8, 8], "student_depths": [1, 1]},
}
"""What single stages need besides, to go through every phase of their loss in three steps."""


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket configurations with tiny networks and three steps each."""
    folder = tmp_path_factory.mktemp("tiny")
    pocket = CONFIGS / "pocket"
    (folder / PLAN).write_text((pocket / PLAN).read_text())
    for name in (*(path.stem for path in read_plan(pocket)), "guidance"):
        tables: dict[str, list[str]] = {"": []}
        for key, value in OWN.get(name, {}).items():
            table, _, leaf = key.rpartition(".")
            tables.setdefault(table, []).append(f"{leaf} = {json.dumps(value)}")
        head = "\n".join([f'extends = "{pocket / name}.toml"', *tables.pop("")])
        own = "\n".join(f"[{table}]\n" + "\n".join(lines) for table, lines in tables.items())
        (folder / f"{name}.toml").write_text(f"{head}\n{TINY}\n{own}\n")
    return folder


def test_from_photographs_to_a_working_bundle(
    configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = make_photographs(tmp_path / "photographs")
    run = tmp_path / "run"
    flags: dict[str, Any] = {"photographs": str(photographs), "run": str(run), "device": "cpu"}
    assert run_plan(str(configs), **flags) == 0
    assert run_stage("guidance", str(configs), **flags) == 0
    stages = [path.stem for path in read_plan(configs)]
    for stage in ("autoencoder", "codec", "refine", "prior", "control", "relay", "guidance"):
        record = json.loads((run / stage / "log.jsonl").read_text().splitlines()[-1])
        assert record["step"] == 3
        assert all(math.isfinite(value) for value in record.values()), stage
        assert "skipped" not in record, stage
        assert (run / stage / "samples" / "0000003.png").exists(), stage
    relay, control = read_average(run, "relay"), read_average(run, "control")
    assert {name.partition(".")[0] for name in relay} == {"unet", "control", "decoder", "judge"}
    moved = part(relay, "control.")
    assert any(not torch.equal(moved[name], control[name]) for name in control)

    bundle = find_bundle(run / "pocket")
    bundle.verify()
    encoder, decoder = OnnxEncoder(bundle), TorchDecoder(bundle, "cpu")
    with Image.open(photographs / "p0.png") as image:
        picture = np.asarray(image.convert("RGB"))
    sizes = []
    for point in bundle.operating_points:
        layers = encoder.encode(picture, point.quality)
        sizes.append(sum(map(len, layers)))
        assert decoder.preview(layers).shape == picture.shape
        assert decoder.decode(layers, seed=1).shape == picture.shape
    assert all(size > 0 for size in sizes)

    # Called again, everything trained is passed over.
    capsys.readouterr()
    trained = [stage for stage in stages if stage not in ("quantise", "export")]
    before = {stage: (run / stage / "log.jsonl").read_text() for stage in trained}
    for stage in trained:
        run_stage(stage, str(configs), **flags)
    assert {stage: (run / stage / "log.jsonl").read_text() for stage in trained} == before


def test_a_missing_step_before_is_named(configs: Path, tmp_path: Path) -> None:
    flags: dict[str, Any] = {
        "photographs": str(make_photographs(tmp_path / "photographs")),
        "run": str(tmp_path / "run"),
    }
    with pytest.raises(Exception, match=r"no checkpoint .*autoencoder.*mend \[start\]"):
        run_stage("prior", str(configs), **flags)
    with pytest.raises(UsageError, match="holds no relais"):
        run_stage("relais", str(configs), **flags)
    with pytest.raises(UsageError, match="no photographs named"):
        run_stage("autoencoder", str(configs), run=str(tmp_path / "run"))


def test_the_trunk_measures_the_metric_it_is_taken_from() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(2))
    trunk = PerceptualTrunk()
    expected = StLpips("alex")(a, b)
    torch.testing.assert_close(trunk.distance(trunk(a), trunk(b)), expected, rtol=1e-4, atol=1e-6)


def test_judge_and_painter_send_no_gradients_to_one_another() -> None:
    torch.manual_seed(1)
    judge = Judge([4, 6, 5], width=8)
    painted = [torch.randn(2, c, 8, 8, requires_grad=True) for c in (3, 4, 6, 5, 2)]
    real = [torch.randn(2, c, 8, 8) for c in (3, 4, 6, 5, 2)]
    judge.painter_loss(painted).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in judge.parameters())
    assert painted[1].grad is not None
    for f in painted:
        f.grad = None
    judge.own_loss(real, painted).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in judge.parameters())
    assert all(f.grad is None for f in painted)


def test_gains_are_carried_over_at_equal_weight_of_the_rate() -> None:
    gains = torch.tensor([[1.0, 4.0], [2.0, 5.0], [3.0, 7.0]])
    old = (4.0, 2.0, 1.0)
    torch.testing.assert_close(gains_at(gains, old, old), gains)
    middle = gains_at(gains, old, (math.sqrt(8.0), 0.5))
    torch.testing.assert_close(middle[0], (gains[0] + gains[1]) / 2)
    assert bool((middle[1] > gains[2]).all())
    with pytest.raises(UsageError, match="start_rate"):
        gains_at(gains, (4.0, 1.0), old)


def test_the_relay_starts_where_its_training_states_end() -> None:
    """At t = T the state of the residual diffusion is the noised content variable, whatever the clean latent."""
    begin = torch.tensor([199])
    share = signal_share(begin)
    residual = (1 / share - 1).sqrt()
    clean, content, noise = (torch.randn(3, 4, 2, 2) for _ in range(3))
    state = share.sqrt() * clean + (1 - share).sqrt() * (noise + (content - clean) / residual)
    torch.testing.assert_close(state, share.sqrt() * content + (1 - share).sqrt() * noise)
    assert float(share) == pytest.approx(training_alphas_cumprod()[199])


def test_architectures_that_do_not_fit_are_refused() -> None:
    with pytest.raises(Exception, match="latent_channels is 3"):
        build(PocketModels, {"autoencoder": {"latent_channels": 3}}, "here")
    with pytest.raises(Exception, match="layer_slices"):
        build(PocketModels, {"compression": {"layer_slices": [1, 1]}}, "here")
