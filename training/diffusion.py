"""Stages 3 and 4 of the pocket bundle: the prior, unconditional in the latent space, then the control that steers it.

Run: ``python -m training.diffusion prior --run runs/pocket ...`` after ``training.autoencoder``, then ``python -m
training.diffusion control ...`` after ``training.codec`` as well. The prior is frozen while the control learns, as
Stable Diffusion is in the paper. Both minimise the error of the noise estimate (paper, equation 4).
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.codec.nets.autoencoder import Autoencoder, AutoencoderConfig
from shared.codec.nets.ddpm import training_alphas_cumprod
from shared.codec.nets.diffusion import DiffusionConfig, LatentScale
from shared.codec.nets.pocket import PocketCompression, PocketConfig
from training.codec import Codec, truncate
from training.data import PhotographCache
from training.loop import Losses, Run, Schedule, stage_options

TRUNCATED = 0.15
"""Share of batches whose content variable comes from a prefix of the layers."""
VALIDATION_STEPS = (50, 200, 400, 600, 800)
"""Timesteps at which the noise error is reported."""


class Prior(nn.Module):
    """The UNet, the scale of its latents and the stored context token."""

    context: Tensor

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.unet = config.unet()
        self.scale = LatentScale(config.latent_channels)
        self.register_buffer("context", torch.zeros(1, 1, config.context_width))

    def forward(self, latent: Tensor, timesteps: Tensor) -> Tensor:
        """Estimate the noise in a normalised latent ``B x C x h x w`` at timesteps ``B``."""
        context = self.context.expand(len(latent), -1, -1)
        estimate: Tensor = self.unet(latent, timesteps, context).sample
        return estimate


@torch.no_grad()
def measure_scale(scale: LatentScale, encoder: nn.Module, cache: PhotographCache) -> None:
    """Set the latent's mean and deviation from 256 random crops."""
    batches = cache.batches(16, 256, seed=3)
    device = scale.mean.device
    latents = torch.cat([encoder(next(batches).to(device)).float() for _ in range(16)])
    scale.mean.copy_(latents.mean((0, 2, 3), keepdim=True))
    scale.deviation.copy_(latents.std((0, 2, 3), keepdim=True))


def diffuse(latent: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
    """Noise a clean latent ``B x C x h x w`` to timesteps ``B`` of the training schedule."""
    share = torch.as_tensor(training_alphas_cumprod(), dtype=torch.float32, device=latent.device)[timesteps]
    share = share[:, None, None, None]
    return latent * share.sqrt() + noise * (1 - share).sqrt()


def load_average(module: nn.Module, run: Path, stage: str) -> None:
    """Load the averaged weights of an earlier stage."""
    state = torch.load(run / stage / "checkpoint.pt", map_location="cpu", weights_only=True)
    module.load_state_dict(state["average"])


def train_stage(
    options: argparse.Namespace,
    trained: nn.Module,
    prepare: Callable[[Tensor], tuple[Tensor, Tensor]],
    estimate: Callable[[Any, Tensor, Tensor, Tensor], Tensor],
    cache: PhotographCache,
) -> None:
    """Train a noise estimator.

    Args:
        options: the command line.
        trained: the module whose parameters are trained.
        prepare: maps pictures to normalised clean latents and content variables.
        estimate: maps (module, noisy latent, timesteps, content) to the noise estimate.
        cache: the photographs.
    """
    schedule = Schedule(options.steps, learning_rate=options.rate, finish_by=options.minutes * 60, average=0.999)
    run = Run(options.run / options.stage, trained, schedule)
    checks = [crop for crop, _ in zip(cache.validation_crops(256), range(12), strict=False)]

    def loss(batch: Tensor, progress: float) -> Losses:
        with torch.no_grad():
            latent, content = prepare(batch)
        timesteps = torch.randint(1000, (len(batch),), device=batch.device)
        noise = torch.randn_like(latent)
        guess = estimate(trained, diffuse(latent, timesteps, noise), timesteps, content).float()
        return {"total": F.mse_loss(guess, noise)}

    @torch.no_grad()
    def validate(average: nn.Module) -> dict[str, float]:
        generator = torch.Generator().manual_seed(5)
        sums = dict.fromkeys(VALIDATION_STEPS, 0.0)
        for crop in checks:
            latent, content = prepare(crop.to(options.device))
            for step in VALIDATION_STEPS:
                noise = torch.randn(latent.shape, generator=generator).to(latent.device)
                timesteps = torch.tensor([step], device=latent.device)
                guess = estimate(average, diffuse(latent, timesteps, noise), timesteps, content)
                sums[step] += float(F.mse_loss(guess.float(), noise)) / len(checks)
        return {f"noise_error_{step}": value for step, value in sums.items()}

    run.train(cache.batches(options.batch, options.crop, seed=20_000_000 + run.step), loss, validate)


def train_prior(options: argparse.Namespace, cache: PhotographCache) -> None:
    """Train the unconditional prior."""
    autoencoder = Autoencoder(AutoencoderConfig()).to(options.device)
    load_average(autoencoder, options.run, "autoencoder")
    encoder = autoencoder.encoder.requires_grad_(False)
    prior = Prior(DiffusionConfig()).to(options.device).to(memory_format=torch.channels_last)
    measure_scale(prior.scale, encoder, cache)

    def prepare(pictures: Tensor) -> tuple[Tensor, Tensor]:
        latent = prior.scale.normalise(encoder(pictures).float())
        return latent, latent

    train_stage(options, prior, prepare, lambda m, x, t, content: m(x, t), cache)


def train_control(options: argparse.Namespace, cache: PhotographCache) -> None:
    """Train the control of the frozen prior, over all operating points."""
    config = PocketConfig()
    codec = Codec(PocketCompression(config), Autoencoder(AutoencoderConfig())).to(options.device).eval()
    load_average(codec, options.run, "codec")
    prior = Prior(DiffusionConfig()).to(options.device).to(memory_format=torch.channels_last)
    load_average(prior, options.run, "prior")
    codec.requires_grad_(False)
    prior.requires_grad_(False)
    control = DiffusionConfig().control(prior.unet).to(options.device).to(memory_format=torch.channels_last)

    def prepare(pictures: Tensor) -> tuple[Tensor, Tensor]:
        guidance = codec.encoder(pictures)
        point = torch.randint(config.operating_points, (len(pictures),), device=pictures.device)
        y, z = codec.compression.encode(pictures, guidance, point)
        z_hat, _ = codec.compression.prior(z.float())
        y_hat, _, means = codec.compression.entropy.rate_terms(y.float(), codec.compression.entropy.hyper(z_hat))
        if torch.rand(()) < TRUNCATED:
            y_hat = truncate(y_hat, means, config.entropy, config.layer_slices)
        content = codec.compression.decode(y_hat, z_hat, point).float()
        return prior.scale.normalise(guidance.float()), prior.scale.normalise(content)

    train_stage(options, control, prepare, lambda m, x, t, content: m(prior.unet, x, t, prior.context, content), cache)


def main() -> None:
    """Train one of the two stages to the end of its schedule."""
    parser = stage_options(__doc__, batch=8, crop=256, rate=0.0006)
    parser.add_argument("stage", choices=("prior", "control"))
    options = parser.parse_args()
    torch.manual_seed(4)
    cache = PhotographCache(options.photographs, options.run / "photographs")
    (train_prior if options.stage == "prior" else train_control)(options, cache)


if __name__ == "__main__":
    main()
