"""Stage ``quantise``: the entropy parameters learn to live on the integer path's grids.

Everything else is frozen. Latents of training photographs at random operating points are made once and kept in
memory; the entropy parameters then minimise their rate through `training.fake_quantise`, the factorised prior that of
the hyper-latent. Scales learn from the symbols that are really coded; means learn from noise in the place of rounding,
as in the codec stage, and from the error of the decoded latent: by hard symbols alone a mean may drift to wherever its
bin is cheap, and the picture with it.

The checkpoint holds ``"average"`` (``entropy.*`` and ``prior.*``), ``"grids"``, ``"latents"`` (hash of the weights that
made them) and whether training gained: weights quantised as they came are kept where it did not.
"""

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from shared.codec.entropy.coding import LatentCoder
from shared.codec.entropy.torch_backend import TorchBackend
from shared.codec.nets.likelihood import add_uniform_noise, gaussian_likelihood
from shared.errors import PinholeError, UsageError
from training.bundle_files import bundle_layout
from training.calibration import calibrate
from training.checkpoints import FILE, load_average, read_checkpoint, save_checkpoint
from training.config import Config
from training.crops import crop_batches
from training.entropy_costs import EntropyCost, mean_integer_cost, measure_cost
from training.fake_quantise import FakeQuantised, IntegerTerms
from training.grids import Grids, plan_grids
from training.latents import EntropyModel, LatentSet, latent_digest, make_latents
from training.models import Codec, PocketModels, per_picture_bits
from training.quantise import program_on
from training.run_stage import open_photographs
from training.schedule import learning_rate, run_progress
from training.table_fit import fit_tables, model_tables


@dataclass(frozen=True)
class Settings:
    """Settings of the stage; batch and crops are those of ``[data]``, steps and rates of ``[optimise]``.

    Attributes:
        model: architecture.
        crops: training crops whose latents are kept in memory (0.1 MB each at 256 pixels).
        calibration: how many of them the grids are fitted to.
        fitted: how many of them the comparison's coding tables are fitted to.
        hard: share of the rate loss by the symbols really coded; the rest is with uniform noise.
        distortion: weight of the decoded latent's squared error in bits. At high rate a step of 1 makes it
            6 / ln 2 bits for each unit of squared error; less leaves more to the rate.
    """

    model: PocketModels = field(default_factory=PocketModels)
    crops: int = 2000
    calibration: int = 64
    fitted: int = 400
    hard: float = 0.5
    distortion: float = 3.0


def rate_loss(
    model: EntropyModel, quantised: FakeQuantised, batch: tuple[Tensor, Tensor, Tensor], own: Settings
) -> Tensor:
    """Rate of a batch relative to its operating points' mean, and the decoded latent's error, both in bits."""
    y, z, weight = batch
    terms: IntegerTerms = quantised(y, z)
    hard = per_picture_bits(gaussian_likelihood(terms.symbols, terms.scales))
    noisy = per_picture_bits(gaussian_likelihood(add_uniform_noise(terms.residual), terms.scales))
    error = (terms.residual - terms.symbols).square().flatten(1).sum(1)
    hyper = per_picture_bits(model.prior.likelihood(z))
    return (weight * (own.hard * hard + (1 - own.hard) * noisy + own.distortion * error + hyper)).mean()


def train_on_grids(model: EntropyModel, grids: Grids, latents: LatentSet, own: Settings, config: Config) -> None:
    """Fine-tune the model in place, to the end of the schedule."""
    optimise = config.optimise
    quantised = FakeQuantised(model.entropy, grids)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=optimise.learning_rate, betas=optimise.betas)
    generator = torch.Generator().manual_seed(config.seed)
    began, progress, step, shown = time.monotonic(), 0.0, 0, 0.0
    while progress < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(optimise, step, progress)
        chosen = torch.randint(len(latents.y), (config.data.batch,), generator=generator)
        loss = rate_loss(model, quantised, latents.batch(chosen.to(latents.y.device)), own)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(trained, optimise.clip or math.inf)
        if torch.isfinite(norm):
            optimiser.step()
        step += 1
        shown += float(loss.detach())
        if step % config.log.every == 0:
            print(f"quantise: step {step}, loss {shown / config.log.every:.4f}", flush=True)
            shown = 0.0
        progress = run_progress(optimise, step, time.monotonic() - began)


@torch.no_grad()
def measure(
    codec: Codec, model: EntropyModel, grids: Grids, latents: LatentSet, own: Settings, checks: list[Tensor]
) -> list[EntropyCost]:
    """Cost of a model on grids against the float codec's estimate on held-out pictures, at every operating point."""
    config = codec.compression.config
    backend = TorchBackend(program_on(model.entropy, grids))
    coder = LatentCoder(bundle_layout(codec), model_tables(model.prior), backend)
    coder = LatentCoder(bundle_layout(codec), fit_tables(coder, latents.arrays(own.fitted)), backend)
    costs = []
    for point in range(config.operating_points):
        encoded = (
            codec.compression.encode(c, codec.encoder(c), torch.tensor([point], device=c.device)) for c in checks
        )
        pairs = ((y.cpu().numpy(), z.cpu().numpy()) for y, z in encoded)
        costs.append(measure_cost(codec, coder, point + 1, pairs))
    return costs


def run(config: Config) -> None:
    """Fine-tune, compare with weights quantised as they came, keep the better; ``[start] codec`` names the codec.

    Raises:
        UsageError: if photographs or codec are not named.
        PinholeError: if a checkpoint is missing or does not fit, or the grids do not hold the weights.
    """
    own = config.settings
    assert isinstance(own, Settings)
    if "codec" not in config.start:
        raise UsageError(f'{config.source}: which codec is to be quantised? Set [start] codec = "codec"')
    if own.crops < max(own.calibration, 1):
        raise PinholeError(f"{config.source}: crops is {own.crops}; give at least as many as calibration takes")
    torch.manual_seed(config.seed)
    source = config.start["codec"]
    codec, tuned = own.model.codec(), own.model.codec()
    for module in (codec, tuned):
        load_average(module, config.run, source)
        module.eval().requires_grad_(False)
    settings = repr((own, config.data, config.optimise, config.seed))
    if (config.folder / FILE).exists():
        old = read_checkpoint(config.folder / FILE)
        if (old.get("latents"), old.get("settings")) == (latent_digest(codec), settings):
            print(f"{config.folder} is done with these weights and settings; passed over")
            return
    photographs = open_photographs(config)
    latents = make_latents(codec, crop_batches(photographs, config.data, config.seed, 0), own.crops)
    crops = photographs.validation_crops(config.data.validation_crop)
    checks = [crop for crop, _ in zip(crops, range(config.data.validation), strict=False)]

    plain, model = EntropyModel(codec), EntropyModel(tuned)
    calibration = [(y, z) for y, z, _ in latents.pictures(own.calibration)]
    grids = plan_grids(plain.entropy, calibrate(plain.entropy, calibration))
    before = measure(codec, plain, grids, latents, own, checks)
    print("quantised as they came:", *before, sep="\n  ", flush=True)
    model.requires_grad_(True)
    model.prior.quantiles.requires_grad_(False)
    train_on_grids(model, grids, latents, own, config)
    model.requires_grad_(False)
    after = measure(codec, model, grids, latents, own, checks)
    print("after quantisation-aware training:", *after, sep="\n  ", flush=True)
    gained = mean_integer_cost(after) < mean_integer_cost(before)
    if not gained:
        print("training gained nothing; the weights are kept as they came")
    config.folder.mkdir(parents=True, exist_ok=True)
    state = {
        "average": (model if gained else plain).state_dict(),
        "grids": grids.state(),
        "gained": gained,
        "latents": latent_digest(codec),
        "settings": settings,
        "costs": [[cost.quality, cost.integer_cost] for cost in (after if gained else before)],
    }
    save_checkpoint(config.folder, state)
