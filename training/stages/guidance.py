"""Distils a shallow guidance encoder from a frozen teacher: the sender's share of the arithmetic, made small.

DiffEIC's sender spends 92 % of its arithmetic on Stable Diffusion's encoder. The student learns to give the teacher's
latent, by the latent's squared error and by that of the picture which the teacher's decoder paints of it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from shared.codec.nets.autoencoder import Autoencoder, AutoencoderConfig, LatentEncoder
from shared.errors import PinholeError
from training.models import PocketModels
from training.pictures import pairs, psnr
from training.stage import Context, Losses, Stage


@dataclass(frozen=True)
class GuidanceSettings:
    """Settings of the stage.

    Attributes:
        model: architecture of the pocket teacher.
        teacher: ``"pocket"``, the autoencoder of ``[start] autoencoder``; ``"sd21"``, the AutoencoderKL of ``vae``.
        vae: folder or hub id of a Stable Diffusion model in diffusers' layout, for ``"sd21"``.
        student_widths: channels of the student at H/4 and H/8.
        student_depths: its blocks at H/4 and H/8.
        latent: weight of the latent's mean squared error.
        decoded: weight of the decoded picture's mean squared error; 0 does not decode.
        painted: pictures of a batch that are decoded: the decoder is far larger than the student.
    """

    model: PocketModels = field(default_factory=PocketModels)
    teacher: Literal["pocket", "sd21"] = "pocket"
    vae: str = ""
    student_widths: tuple[int, int] = (48, 96)
    student_depths: tuple[int, int] = (1, 4)
    latent: float = 1.0
    decoded: float = 2.0
    painted: int = 2


class PocketTeacher(nn.Module):
    """The pocket autoencoder as a teacher."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.channels = autoencoder.config.latent_channels

    def encode(self, pictures: Tensor) -> Tensor:
        """Latent of pictures in [-1, 1]."""
        latent: Tensor = self.autoencoder.encoder(pictures)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures of a latent."""
        pictures: Tensor = self.autoencoder.decoder(latent)
        return pictures


class DiffusersTeacher(nn.Module):
    """Stable Diffusion's AutoencoderKL as a teacher: the mean of the posterior, scaled to unit variance.

    Raises:
        PinholeError: if no such model can be loaded.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.vae: Any = _load_vae(source)
        self.factor = float(self.vae.config["scaling_factor"])
        self.channels = int(self.vae.config["latent_channels"])

    def encode(self, pictures: Tensor) -> Tensor:
        """Latent of pictures in [-1, 1]."""
        mean: Tensor = self.vae.encode(pictures).latent_dist.mode()
        return mean * self.factor

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures of a latent."""
        pictures: Tensor = self.vae.decode(latent / self.factor).sample
        return pictures


def _load_vae(source: str) -> Any:
    try:
        # diffusers' models say nothing of their types.
        kind: Any = AutoencoderKL
        return kind.from_pretrained(source, subfolder="vae", torch_dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PinholeError(
            f"cannot load vae/ of '{source}' ({reason}); set vae to a folder in the diffusers layout or a hub id"
        ) from error


class GuidanceStage(Stage):
    """A `LatentEncoder` of few blocks that stands in for the teacher's encoder."""

    Settings = GuidanceSettings

    def __init__(self, settings: GuidanceSettings, context: Context) -> None:
        """Build the student and load its teacher."""
        self.settings = settings
        self.teacher: PocketTeacher | DiffusersTeacher
        if settings.teacher == "pocket":
            autoencoder = Autoencoder(settings.model.autoencoder)
            context.load("autoencoder", autoencoder, ignore=["judge."])
            self.teacher = PocketTeacher(autoencoder)
        else:
            self.teacher = DiffusersTeacher(settings.vae)
        self.teacher.requires_grad_(False).eval().to(context.device)
        config = AutoencoderConfig(
            latent_channels=self.teacher.channels,
            encoder_widths=settings.student_widths,
            encoder_depths=settings.student_depths,
        )
        self.trained: LatentEncoder = LatentEncoder(config)
        if context.has("guidance"):
            context.load("guidance", self.trained)
        self.trained.to(context.device).to(memory_format=torch.channels_last)
        self.checks = context.checks()

    def loss(self, batch: Tensor, progress: float) -> Losses:
        """Squared errors of the latent and of the picture painted of it."""
        settings = self.settings
        with torch.no_grad():
            wanted = self.teacher.encode(batch).float()
        latent = self.trained(batch).float()
        losses = {"latent": F.mse_loss(latent, wanted)}
        total = settings.latent * losses["latent"]
        if settings.decoded > 0:
            with torch.no_grad():
                target = self.teacher.decode(wanted[: settings.painted]).float()
            losses["decoded"] = F.mse_loss(self.teacher.decode(latent[: settings.painted]).float(), target)
            total = total + settings.decoded * losses["decoded"]
        return {"total": total, **losses}

    def validate(self, average: nn.Module) -> dict[str, float]:
        """Latent error relative to the latent's energy, and PSNR of what teacher's and student's latents decode to."""
        errors, values, exact = [], [], []
        for crop in self.checks:
            wanted, latent = self.teacher.encode(crop).float(), average(crop).float()
            errors.append(float((latent - wanted).square().mean() / wanted.square().mean()))
            values.append(psnr(self.teacher.decode(latent), crop))
            exact.append(psnr(self.teacher.decode(wanted), crop))
        count = len(self.checks)
        return {
            "latent_error": sum(errors) / count,
            "psnr": sum(values) / count,
            "psnr_teacher": sum(exact) / count,
        }

    def samples(self, average: nn.Module) -> Tensor | None:
        """Photographs, the teacher's and the student's pictures of them."""
        rows = [
            (crop, self.teacher.decode(self.teacher.encode(crop)), self.teacher.decode(average(crop)))
            for crop in self.checks[:4]
        ]
        return pairs(rows)
