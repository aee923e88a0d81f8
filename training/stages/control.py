"""Stage 4 of the pocket bundle: the control that steers the frozen prior by the content variable.

The prior is frozen while the control learns, as Stable Diffusion is in the paper; the loss is the error of the noise
estimate (paper, equation 4), over all operating points and prefixes of layers.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.codec.nets.control import ControlModule
from shared.codec.nets.ddpm import TRAINING_STEPS, SpacedDdpm
from training.diffusion_checks import VALIDATION_STEPS, noise_errors
from training.models import PocketModels, diffuse, guidance_and_content, random_points
from training.pictures import pairs
from training.stage import Context, Losses, Stage


@dataclass(frozen=True)
class ControlSettings:
    """Settings of the stage.

    Attributes:
        model: architecture.
        truncated: share of batches whose content variable comes from a prefix of the layers.
    """

    model: PocketModels = field(default_factory=PocketModels)
    truncated: float = 0.15


class ControlStage(Stage):
    """The control module; codec and prior are frozen."""

    Settings = ControlSettings

    def __init__(self, settings: ControlSettings, context: Context) -> None:
        """Build on ``[start]`` codec and prior; ``[start] control`` lets it go on from other weights."""
        self.settings = settings
        self.codec = settings.model.codec()
        context.load("codec", self.codec)
        self.prior = settings.model.prior()
        context.load("prior", self.prior)
        for module in (self.codec, self.prior):
            module.requires_grad_(False).eval().to(context.device).to(memory_format=torch.channels_last)
        self.trained: ControlModule = settings.model.diffusion.control(self.prior.unet)
        if context.has("control"):
            context.load("control", self.trained)
        self.trained.to(context.device).to(memory_format=torch.channels_last)
        self.points = settings.model.compression.operating_points
        self.checks = context.checks()

    def _prepare(self, pictures: Tensor, point: Tensor, cut: bool) -> tuple[Tensor, Tensor]:
        guidance, content = guidance_and_content(self.codec, pictures, point, cut)
        return self.prior.scale.normalise(guidance), self.prior.scale.normalise(content)

    def _estimate(self, control: nn.Module, latent: Tensor, timesteps: Tensor, content: Tensor) -> Tensor:
        guess: Tensor = control(self.prior.unet, latent, timesteps, self.prior.context, content)
        return guess.float()

    def loss(self, batch: Tensor, progress: float) -> Losses:
        """Mean squared error of the noise estimate."""
        with torch.no_grad():
            point = random_points(len(batch), self.points, batch.device)
            latent, content = self._prepare(batch, point, bool(torch.rand(()) < self.settings.truncated))
        timesteps = torch.randint(TRAINING_STEPS, (len(batch),), device=batch.device)
        noise = torch.randn_like(latent)
        guess = self._estimate(self.trained, diffuse(latent, timesteps, noise), timesteps, content)
        return {"total": F.mse_loss(guess, noise)}

    def _prepared_checks(self, count: int) -> list[tuple[Tensor, Tensor]]:
        point = torch.tensor([(self.points - 1) / 2], device=self.prior.context.device)
        return [self._prepare(crop, point, False) for crop in self.checks[:count]]

    def validate(self, average: nn.Module) -> dict[str, float]:
        """Error of the noise estimate at the middle operating point, at fixed timesteps and noise."""
        prepared = self._prepared_checks(len(self.checks))
        latents, contents = [latent for latent, _ in prepared], [content for _, content in prepared]
        errors = noise_errors(latents, lambda x, t, i: self._estimate(average, x, t, contents[i]))
        return dict(zip((f"noise_error_{step}" for step in VALIDATION_STEPS), errors, strict=True))

    def samples(self, average: nn.Module) -> Tensor | None:
        """Photographs, their previews and full pictures in 20 steps at the middle operating point."""
        rows = []
        generator = torch.Generator().manual_seed(7)
        for crop, (_, content) in zip(self.checks, self._prepared_checks(4), strict=False):
            draws = [torch.randn(content.shape, generator=generator).to(content.device) for _ in range(20)]
            latent = SpacedDdpm(20).sample(
                lambda x, t, c: self._estimate(average, x, t, c), content, draws[0], draws[1:]
            )
            both = self.codec.decoder(self.prior.scale.restore(torch.cat((content, latent))))
            rows.append((crop, both[:1], both[1:]))
        return pairs(rows)
