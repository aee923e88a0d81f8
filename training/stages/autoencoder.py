"""Stage 1 of the pocket bundle: the autoencoder, on reconstruction alone.

Its encoder is shallow enough to be the sender's guidance encoder as it is.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.codec.nets.autoencoder import Autoencoder, AutoencoderConfig
from training.judge import Judge, PerceptualTrunk
from training.models import PocketModels
from training.pictures import pairs, psnr, random_window
from training.stage import Context, Losses, Stage


@dataclass(frozen=True)
class AutoencoderLoss:
    """Weights of the loss; what has weight 0 is not computed.

    Attributes:
        absolute: of the mean absolute error.
        squared: of the mean squared error.
        energy: of the mean squared latent, which keeps its scale near one without the noise of a posterior.
        noise: standard deviation of the noise added to the latent, so that the decoder tolerates small errors.
        perceptual: of ST-LPIPS (Alex).
        perceptual_from: share of the run after which it joins.
        adversarial: of the judge's opinion.
        adversarial_from: share of the run after which it joins, growing over a twentieth of the run.
        window: side in pixels of the window that both look at.
    """

    absolute: float = 1.0
    squared: float = 0.5
    energy: float = 1e-3
    noise: float = 0.05
    perceptual: float = 0.0
    perceptual_from: float = 0.0
    adversarial: float = 0.0
    adversarial_from: float = 0.6
    window: int = 128


@dataclass(frozen=True)
class AutoencoderSettings:
    """Settings of the stage.

    Attributes:
        model: architecture; only ``model.autoencoder`` is used here.
        loss: weights of the loss.
    """

    model: PocketModels = field(default_factory=PocketModels)
    loss: AutoencoderLoss = AutoencoderLoss()


class JudgedAutoencoder(Autoencoder):
    """The autoencoder with the judge of its adversarial loss beside it: ``encoder.*``, ``decoder.*``, ``judge.*``."""

    def __init__(self, config: AutoencoderConfig, judge: Judge | None) -> None:
        super().__init__(config)
        if judge is not None:
            self.judge = judge


class AutoencoderStage(Stage):
    """Encoder and decoder, and with an adversarial term their judge."""

    Settings = AutoencoderSettings

    def __init__(self, settings: AutoencoderSettings, context: Context) -> None:
        """Build the autoencoder; ``[start] autoencoder`` lets it go on from other weights."""
        self.weights = settings.loss
        needed = self.weights.perceptual or self.weights.adversarial
        self.trunk = PerceptualTrunk().to(context.device) if needed else None
        judge = Judge(self.trunk.judged_channels) if self.trunk and self.weights.adversarial else None
        self.trained: JudgedAutoencoder = JudgedAutoencoder(settings.model.autoencoder, judge)
        if context.has("autoencoder"):
            autoencoder = Autoencoder(settings.model.autoencoder)
            context.load("autoencoder", autoencoder, ignore=["judge."])
            self.trained.load_state_dict(autoencoder.state_dict(), strict=False)
        self.trained.to(context.device).to(memory_format=torch.channels_last)
        self.checks = context.checks()

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """The judge's."""
        return list(self.trained.judge.parameters()) if self.weights.adversarial else []

    def loss(self, batch: Tensor, progress: float) -> Losses:
        """Reconstruction, and what joins it later in the run."""
        weights = self.weights
        latent = self.trained.encoder(batch)
        picture = self.trained.decoder(latent + weights.noise * torch.randn_like(latent)).float()
        losses = {
            "l1": F.l1_loss(picture, batch),
            "mse": F.mse_loss(picture, batch),
            "energy": latent.float().square().mean(),
        }
        total = weights.absolute * losses["l1"] + weights.squared * losses["mse"] + weights.energy * losses["energy"]
        perceptual = weights.perceptual > 0 and progress >= weights.perceptual_from
        adversarial = weights.adversarial > 0 and progress >= weights.adversarial_from
        if self.trunk is not None and (perceptual or adversarial):
            window = random_window(picture, weights.window)
            painted = self.trunk(picture[window])
            with torch.no_grad():
                real = self.trunk(batch[window])
            if perceptual:
                losses["stlpips"] = self.trunk.distance(painted, real)
                total = total + weights.perceptual * losses["stlpips"]
            if adversarial:
                grown = min(1.0, (progress - weights.adversarial_from) / 0.05)
                losses["judged"] = self.trained.judge.painter_loss(painted)
                losses["auxiliary"] = self.trained.judge.own_loss(real, painted)
                total = total + weights.adversarial * grown * losses["judged"]
        return {"total": total, **losses}

    def validate(self, average: nn.Module) -> dict[str, float]:
        """Mean PSNR of held-out photographs."""
        values = [psnr(average(crop)[0], crop) for crop in self.checks]
        return {"psnr": sum(values) / len(values)}

    def samples(self, average: nn.Module) -> Tensor | None:
        """Photographs and their reconstructions, side by side."""
        return pairs([(crop, average(crop)[0]) for crop in self.checks[:4]])
