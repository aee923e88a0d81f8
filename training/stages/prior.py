"""Stage 3 of the pocket bundle: the prior, an unconditional diffusion UNet in the autoencoder's latent space."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.codec.nets.autoencoder import Autoencoder
from shared.codec.nets.ddpm import TRAINING_STEPS, SpacedDdpm
from training.data import Photographs
from training.diffusion_checks import VALIDATION_STEPS, noise_errors
from training.models import PocketModels, Prior, diffuse
from training.stage import Context, Losses, Stage


@dataclass(frozen=True)
class PriorSettings:
    """Settings of the stage.

    Attributes:
        model: architecture.
        scale_crops: random crops that the latent's mean and deviation are measured on.
        scale_crop: their side in pixels.
    """

    model: PocketModels = field(default_factory=PocketModels)
    scale_crops: int = 256
    scale_crop: int = 256


class PriorStage(Stage):
    """The UNet; the encoder is frozen. Minimises the error of the noise estimate, timesteps uniform."""

    Settings = PriorSettings

    def __init__(self, settings: PriorSettings, context: Context) -> None:
        """Build the prior on ``[start] autoencoder``; ``[start] prior`` lets it go on from other weights."""
        autoencoder = Autoencoder(settings.model.autoencoder)
        context.load("autoencoder", autoencoder, ignore=["judge."])
        self.encoder = autoencoder.encoder.requires_grad_(False).eval().to(context.device)
        self.decoder = autoencoder.decoder.requires_grad_(False).eval().to(context.device)
        self.trained: Prior = settings.model.prior()
        self.trained.to(context.device).to(memory_format=torch.channels_last)
        if context.has("prior"):
            context.load("prior", self.trained)
        else:
            latents = self._latents(context.photographs, settings, context.device)
            self.trained.scale.mean.copy_(latents.mean((0, 2, 3), keepdim=True))
            self.trained.scale.deviation.copy_(latents.std((0, 2, 3), keepdim=True))
        self.checks = context.checks()

    @torch.no_grad()
    def _latents(self, photographs: Photographs, settings: PriorSettings, device: torch.device) -> Tensor:
        size = min(16, settings.scale_crops)
        batches = photographs.batches(size, settings.scale_crop, seed=3)
        return torch.cat([self.encoder(next(batches).to(device)).float() for _ in range(settings.scale_crops // size)])

    def loss(self, batch: Tensor, progress: float) -> Losses:
        """Mean squared error of the noise estimate (DiffEIC, equation 4, without control)."""
        with torch.no_grad():
            latent = self.trained.scale.normalise(self.encoder(batch).float())
        timesteps = torch.randint(TRAINING_STEPS, (len(batch),), device=batch.device)
        noise = torch.randn_like(latent)
        guess = self.trained(diffuse(latent, timesteps, noise), timesteps).float()
        return {"total": F.mse_loss(guess, noise)}

    def validate(self, average: nn.Module) -> dict[str, float]:
        """Error of the noise estimate at fixed timesteps and noise."""
        assert isinstance(average, Prior)
        latents = [average.scale.normalise(self.encoder(crop).float()) for crop in self.checks]
        errors = noise_errors(latents, lambda x, t, i: average(x, t))
        return dict(zip((f"noise_error_{step}" for step in VALIDATION_STEPS), errors, strict=True))

    def samples(self, average: nn.Module) -> Tensor | None:
        """Four pictures dreamt in 20 steps: the prior knows photographs if they look like pieces of some."""
        assert isinstance(average, Prior)
        device = average.context.device
        channels = average.scale.mean.shape[1]
        generator = torch.Generator().manual_seed(7)
        draws = torch.randn(20, 4, channels, 16, 16, generator=generator).to(device)
        latent = SpacedDdpm(20).sample(lambda x, t, c: average(x, t), draws[0], draws[0], draws[1:])
        pictures: Tensor = self.decoder(average.scale.restore(latent))
        return pictures
