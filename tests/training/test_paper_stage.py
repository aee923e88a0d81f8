"""The stage of the paper's training: what its loss is made of, whom its gradients reach, and that it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shared.codec.nets.lfgcm import LfgcmConfig
from tests.training.paper_stand_ins import save_photographs, save_stable_diffusion
from training.data import PhotographFolder
from training.paper.codec_stage import PaperCodecStage
from training.paper.model import PaperCodec
from training.paper.settings import LossSettings, ModelSettings, PaperSettings
from training.stage import Context

LFGCM = LfgcmConfig(
    analysis_widths=(8, 8, 12, 12), hyper_channels=8, latent_channels=12, reference_channels=4, slices=(4, 8)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("paper")
    save_stable_diffusion(place / "sd")
    save_photographs(place / "photographs")
    return place


def make(folder: Path, recompute: bool = False, **loss: Any) -> PaperCodecStage:
    torch.manual_seed(7)
    model = ModelSettings(str(folder / "sd"), control_ratio=0.5, head_channels=4, recompute=recompute, lfgcm=LFGCM)
    photographs = PhotographFolder(folder / "photographs", 64)
    context = Context(torch.device("cpu"), folder / "run", {}, photographs, validation=1, validation_crop=64)
    stage = PaperCodecStage(PaperSettings(model, LossSettings(**loss)), context)
    stage.trained.train()
    with torch.no_grad():
        # Past the first steps: connections that are open, latents that do not all round to zero.
        control = stage.trained.control
        for conv in (*control.to_inputs, control.to_middle, *control.to_outputs):
            for parameter in conv.parameters():
                parameter.normal_(std=0.05)
        for projection in (stage.trained.lfgcm.analysis.project, stage.trained.lfgcm.hyper_analysis.project):
            for parameter in projection.parameters():
                parameter.mul_(30)
    return stage


def batch(folder: Path) -> Tensor:
    return next(PhotographFolder(folder / "photographs", 64).batches(2, 64, seed=3))


def gradients(stage: PaperCodecStage, loss: Tensor) -> dict[str, float]:
    """Largest gradient of every parameter, 0 where there is none."""
    named = dict(stage.trained.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {n: 0.0 if g is None else float(g.abs().max()) for n, g in zip(named, found, strict=True)}


@pytest.mark.parametrize("objective", ["noise", "relay", "unrolled"])
def test_the_loss_is_the_weighted_sum_and_reaches_whom_it_should(folder: Path, objective: str) -> None:
    stage = make(folder, objective=objective, denoising=0.7, rate=3.0, alignment=1.5, perception=0.25, sample_steps=2)
    torch.manual_seed(0)
    losses = stage.loss(batch(folder), 0.0)
    expected = 0.7 * losses["denoising"] + 3.0 * losses["bpp"] + 1.5 * losses["alignment"]
    torch.testing.assert_close(losses["total"], expected)
    if objective == "unrolled":
        torch.testing.assert_close(losses["denoising"], losses["pixels"] + 0.25 * losses["stlpips"])
    assert not any(p.requires_grad for p in stage.base.parameters())
    main, auxiliary = gradients(stage, losses["total"]), gradients(stage, losses["auxiliary"])
    assert {name for name, value in main.items() if value == 0} == {"lfgcm.prior.quantiles"}
    assert {name for name, value in auxiliary.items() if value > 0} == {"lfgcm.prior.quantiles"}
    assert stage.auxiliary_parameters()[0] is stage.trained.lfgcm.prior.quantiles


def test_the_denoising_term_reaches_the_sender_through_the_content_variable(folder: Path) -> None:
    stage = make(folder)
    found = gradients(stage, stage.loss(batch(folder), 0.0)["denoising"])
    assert found["lfgcm.analysis.to_eighth.0.conv1.weight"] > 0
    assert found["control.encoder.conv_in.weight"] > 0


def test_without_alignment_only_its_weight_changes(folder: Path) -> None:
    losses = []
    for weight in (2.0, 0.0):
        stage = make(folder, alignment=weight)
        torch.manual_seed(0)
        losses.append(stage.loss(batch(folder), 0.0))
    torch.testing.assert_close(losses[0]["alignment"], losses[1]["alignment"])
    torch.testing.assert_close(losses[0]["total"] - 2 * losses[0]["alignment"], losses[1]["total"])


@pytest.mark.parametrize("objective", ["noise", "unrolled"])
def test_recomputing_activations_changes_no_loss(folder: Path, objective: str) -> None:
    totals = []
    for recompute in (False, True):
        stage = make(folder, recompute, objective=objective, perception=0.0)
        torch.manual_seed(0)
        total = stage.loss(batch(folder), 0.0)["total"]
        totals.append((total, *gradients(stage, total).values()))
    torch.testing.assert_close(totals[0], totals[1])


@pytest.mark.parametrize(("objective", "painted"), [("noise", "noise_error_800"), ("unrolled", "psnr_2")])
@torch.no_grad()
def test_validation_and_samples(folder: Path, objective: str, painted: str) -> None:
    stage = make(folder, objective=objective, steps=(1, 2), sample_steps=2, perception=0.0)
    average = stage.trained.eval()
    figures = stage.validate(average)
    assert {"bits_per_pixel", "content_error", "psnr_preview", painted} <= figures.keys()
    assert all(torch.tensor(list(figures.values())).isfinite())
    # Without noise in the rate and with the posterior's mean, the same picture gives the same figures.
    assert stage.validate(average)["bits_per_pixel"] == figures["bits_per_pixel"]
    grid = stage.samples(average)
    assert grid is not None
    assert grid.shape == (1, 3, 64, 3 * 64)
    assert float(grid.abs().max()) <= 1


def test_it_learns(folder: Path) -> None:
    stage = make(folder, rate=0.1)
    pictures = batch(folder)
    main = [p for n, p in stage.trained.named_parameters() if n != "lfgcm.prior.quantiles"]
    optimisers = (torch.optim.AdamW(main, 2e-3), torch.optim.AdamW(stage.auxiliary_parameters(), 0.3))
    history: list[dict[str, float]] = []
    for step in range(40):
        torch.manual_seed(step)
        losses = stage.loss(pictures, 0.0)
        for optimiser in optimisers:
            optimiser.zero_grad()
        (losses["total"] + losses["auxiliary"]).backward()  # type: ignore[no-untyped-call]
        for optimiser in optimisers:
            optimiser.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    # The quantiles follow a density that moves as well, so they come closer slowly.
    for name, share in (("total", 0.8), ("alignment", 0.8), ("auxiliary", 1.0)):
        first, last = (sum(h[name] for h in part) / 5 for part in (history[:5], history[-5:]))
        assert last < share * first, name


def test_a_checkpoint_holds_all_that_the_ground_needs(folder: Path) -> None:
    stage = make(folder)
    parts = {name.split(".")[0] for name in stage.trained.state_dict()}
    assert parts == {"lfgcm", "control", "context"}
    assert isinstance(stage.trained, PaperCodec)
