"""Stage ``paper_codec``: compression module and control, end to end, on a frozen Stable Diffusion (section III).

Data flow of one step (everything that is trained stands in brackets)::

    picture --> SD encoder --> z0 --+--> noised --------------> UNet + [control] --> noise estimate --> denoising term
       |                            |                                  ^
       '--------------------------> [LFGCM] --> content variable ------+--> alignment term, against z0
                                       '------> likelihoods of y and z --> rate term

One posterior sample of the autoencoder is both guidance and target while training, as in the official code; validation
takes the posterior's mean, as the sender does. Quantiles of the hyper-prior have an optimiser of their own.
"""

import random
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.codec.nets.ddpm import TRAINING_STEPS, SpacedDdpm
from training.diffusion_checks import VALIDATION_STEPS
from training.paper.model import PaperCodec
from training.paper.objectives import bits_per_pixel, noise_error, relay_error, relay_sample
from training.paper.prompt import empty_prompt
from training.paper.settings import PaperSettings
from training.paper.stable_diffusion import load_stable_diffusion
from training.perceptual import StLpips
from training.pictures import pairs, psnr
from training.stage import Context, Losses, Stage

START = "codec"
"""Key in ``[start]`` of the checkpoint of this stage to start from."""
SAMPLES = 4
"""Held-out pictures in the sample grid."""


class PaperCodecStage(Stage):
    """The paper's training, and RDEIC's two phases that build on it."""

    Settings: ClassVar[type[Any]] = PaperSettings

    def __init__(self, settings: PaperSettings, context: Context) -> None:
        self.settings = settings.loss
        model = settings.model
        self.base = load_stable_diffusion(model.stable_diffusion)
        prompt = empty_prompt(
            model.stable_diffusion, model.empty_prompt, int(self.base.unet.config["cross_attention_dim"])
        )
        self.trained: PaperCodec = PaperCodec(model, self.base.unet, prompt)
        if context.has(START):
            context.load(START, self.trained)
        self.base.to(context.device)
        self.trained.to(context.device)
        self.perception: StLpips | None = None
        if self.settings.objective == "unrolled":
            if self.settings.perception:
                self.perception = StLpips("alex").to(context.device)
            if model.recompute:
                self.base.vae.enable_gradient_checkpointing()
        self.checks = context.checks()

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """The quantiles of the hyper-prior."""
        return [self.trained.lfgcm.prior.quantiles]

    def loss(self, batch: Tensor, progress: float) -> Losses:
        """Return total and auxiliary loss and the three terms."""
        settings, model = self.settings, self.trained
        # Channels-last pictures crash torch 2.15 on a CPU in the backward pass of the synthesis.
        batch = batch.contiguous()
        latent = self.base.encode(batch, sample=True)
        output = model.lfgcm((batch + 1) / 2, latent)
        content = output.content.float()
        losses = {
            "bpp": bits_per_pixel(output.likelihoods, batch),
            "alignment": functional.mse_loss(content, latent),
            **self._denoising(batch, latent, content),
        }
        losses["total"] = (
            settings.denoising * losses["denoising"]
            + settings.rate * losses["bpp"]
            + settings.alignment * losses["alignment"]
        )
        losses["auxiliary"] = model.lfgcm.prior.auxiliary_loss()
        return losses

    def _denoising(self, batch: Tensor, latent: Tensor, content: Tensor) -> Losses:
        """The objective's own term as ``"denoising"``, and what it is made of."""
        settings, estimate = self.settings, self.trained.noise_model(self.base.unet)
        if settings.objective == "unrolled":
            return self._unrolled(batch, content)
        noise = torch.randn_like(latent)
        if settings.objective == "noise":
            t = torch.randint(TRAINING_STEPS, (len(latent),), device=latent.device)
            return {"denoising": noise_error(estimate, latent, content, t, noise)}
        t = torch.randint(settings.start + 1, (len(latent),), device=latent.device)
        return {"denoising": relay_error(estimate, latent, content, t, noise, settings.start)}

    def _unrolled(self, batch: Tensor, content: Tensor) -> Losses:
        settings, estimate = self.settings, self.trained.noise_model(self.base.unet)
        # Python's generator: every process and step seeds it, and the choice costs no wait for the device.
        steps = random.choice(settings.steps)
        picture = self.base.decode(relay_sample(estimate, content, steps, settings.start)).float()
        losses = {"pixels": functional.mse_loss(picture, batch)}
        losses["denoising"] = losses["pixels"]
        if self.perception is not None:
            losses["stlpips"] = self.perception(picture, batch)
            losses["denoising"] = losses["denoising"] + settings.perception * losses["stlpips"]
        return losses

    def validate(self, average: nn.Module) -> dict[str, float]:
        """Rate with hard rounding, alignment, PSNR of the preview, and the objective's figure on held-out pictures."""
        assert isinstance(average, PaperCodec)
        estimate = average.noise_model(self.base.unet)
        generator = torch.Generator().manual_seed(5)
        sums: dict[str, float] = {}
        for crop in self.checks:
            latent = self.base.encode(crop, sample=False)
            output = average.lfgcm((crop + 1) / 2, latent)
            figures = {
                "bits_per_pixel": float(bits_per_pixel(output.likelihoods, crop)),
                "content_error": float(functional.mse_loss(output.content, latent)),
                "psnr_preview": psnr(self.base.decode(output.content), crop),
            }
            noise = torch.randn(latent.shape, generator=generator).to(latent.device)
            for step in VALIDATION_STEPS:
                t = torch.tensor([step], device=latent.device)
                if self.settings.objective == "noise":
                    figures[f"noise_error_{step}"] = float(noise_error(estimate, latent, output.content, t, noise))
                elif step <= self.settings.start:
                    error = relay_error(estimate, latent, output.content, t, noise, self.settings.start)
                    figures[f"latent_error_{step}"] = float(error)
            if self.settings.objective != "noise":
                for steps in self.settings.steps:
                    painted = relay_sample(estimate, output.content, steps, self.settings.start)
                    figures[f"psnr_{steps}"] = psnr(self.base.decode(painted), crop)
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value / len(self.checks)
        return sums

    def samples(self, average: nn.Module) -> Tensor | None:
        """Original, preview and diffused picture side by side, ``B x 3 x H x 3 W``."""
        assert isinstance(average, PaperCodec)
        estimate, steps = average.noise_model(self.base.unet), self.settings.sample_steps
        rows = []
        for crop in self.checks[:SAMPLES]:
            content = average.lfgcm((crop + 1) / 2, self.base.encode(crop, sample=False)).content
            if self.settings.objective == "noise":
                latent = SpacedDdpm(steps).sample(estimate, content, torch.randn_like(content))
            else:
                latent = relay_sample(estimate, content, steps, self.settings.start)
            rows.append((crop, self.base.decode(content).clamp(-1, 1), self.base.decode(latent).clamp(-1, 1)))
        return pairs(rows)
