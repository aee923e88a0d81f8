r"""Stage 5 of the pocket bundle: the relay, which makes a full picture in one to four diffusion steps.

RDEIC (Li et al. 2024): sampling starts from the content variable noised to timestep T, not from pure noise. With
z_0 the guidance latent, z_c the content variable and a_t the share of signal variance left at t, training states are

    x_t = sqrt(a_t) z_0 + sqrt(1 - a_t) (eps + (z_c - z_0) / s),    s = sqrt(1 / a_T - 1),

which at t = T is the start itself: the residual z_c - z_0 is taken out together with the noise, on the schedule that
the prior was trained on. First *independent* steps learn to estimate what was added; then the sampler of 1, 2 or 4
steps is *unrolled* and trained on the picture it paints. UNet, control and decoder all learn; the codec stays frozen.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.codec.nets.autoencoder import LatentDecoder
from shared.codec.nets.control import ControlModule
from shared.codec.nets.ddpm import SpacedDdpm
from shared.errors import UsageError
from training.judge import Judge, PerceptualTrunk
from training.models import PocketModels, Prior, random_points, signal_share
from training.perceptual import StLpips, measure
from training.pictures import pairs, psnr, random_window
from training.relay_start import relay_start
from training.stage import Context, Losses, Stage


@dataclass(frozen=True)
class RelayLoss:
    """Weights of the unrolled sampler's loss, and the shares of the run at which its parts join.

    Attributes:
        independent: share of the run with independent steps.
        adversarial_from: share after which the judge's opinion joins, growing over a twentieth of the run.
        squared: weight of the full picture's mean squared error.
        colour: of the mean squared error of its two chroma planes: the perceptual trunk hardly sees coloured noise, and
            the painter would trade it for structure.
        perceptual: of its ST-LPIPS (Alex).
        alignment: of the sampled latent's squared error against the guidance latent.
        adversarial: of the judge's opinion; 0 trains no judge.
        preview_squared: of the preview's mean squared error: the decoder is shared with the preview.
        preview_perceptual: of its ST-LPIPS.
        previews: share of a batch whose preview is painted as well.
        truncated: share of batches whose content variable comes from a prefix of the layers.
        window: side in pixels of the window that trunk and judge look at.
    """

    independent: float = 0.12
    adversarial_from: float = 0.45
    squared: float = 4.0
    colour: float = 0.0
    perceptual: float = 1.0
    alignment: float = 0.1
    adversarial: float = 0.02
    preview_squared: float = 8.0
    preview_perceptual: float = 0.3
    previews: float = 0.25
    truncated: float = 0.12
    window: int = 128


@dataclass(frozen=True)
class RelaySettings:
    """Settings of the stage.

    Attributes:
        model: architecture.
        loss: weights of the loss.
        begin: T, the timestep that sampling starts from, 0 to 999.
        steps: step counts of the unrolled sampler.
        steps_share: how often each is drawn; any positive numbers.
        measured_steps: step count of validation and sample pictures.
    """

    model: PocketModels = field(default_factory=PocketModels)
    loss: RelayLoss = RelayLoss()
    begin: int = 199
    steps: tuple[int, ...] = (1, 2, 4)
    steps_share: tuple[float, ...] = (0.2, 0.6, 0.2)
    measured_steps: int = 2

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: if there is not one share for every step count.
        """
        if len(self.steps) != len(self.steps_share) or not self.steps:
            raise UsageError(f"steps_share has {len(self.steps_share)} numbers for {len(self.steps)} step counts")


def colour_error(painted: Tensor, original: Tensor) -> Tensor:
    """Mean squared error of both chroma planes (blue and red minus luma, BT.601 weights) of RGB pictures in [-1, 1]."""
    difference = painted - original
    luma = (difference * difference.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    return (difference[:, 2] - luma).square().mean() + (difference[:, 0] - luma).square().mean()


class Relay(nn.Module):
    """What is trained: ``unet.*``, ``control.*``, ``decoder.*``, and ``judge.*`` where there is one."""

    def __init__(self, prior: Prior, control: ControlModule, decoder: LatentDecoder, judge: Judge | None) -> None:
        super().__init__()
        self.unet, self.control, self.decoder = prior.unet, control, decoder
        if judge is not None:
            self.judge = judge


class RelayStage(Stage):
    """UNet, control and decoder through the whole sampler."""

    Settings = RelaySettings

    def __init__(self, settings: RelaySettings, context: Context) -> None:
        """Build on ``[start]`` codec, prior and control, or on a ``[start] bundle``, which then stands for all three.

        ``[start] relay`` lets it go on from other weights of UNet, control and decoder.
        """
        self.settings, self.weights = settings, settings.loss
        self.samplers = {}
        for count in {*settings.steps, settings.measured_steps}:
            try:
                self.samplers[count] = SpacedDdpm(count, settings.begin)
            except ValueError as error:
                raise UsageError(f"relay: {error}") from error
        start = relay_start(settings.model, context)
        self.latents, prior = start.latents, start.prior
        self.scale = prior.scale.to(context.device)
        self.token = prior.context.to(context.device)
        self.trunk = PerceptualTrunk().to(context.device)
        judge = Judge(self.trunk.judged_channels) if self.weights.adversarial > 0 else None
        self.trained: Relay = Relay(prior, start.control, start.decoder, judge)
        if context.has("relay"):
            context.load("relay", self.trained)
        self.trained.to(context.device).to(memory_format=torch.channels_last)
        self.points = settings.model.compression.operating_points
        self.chances = torch.tensor(settings.steps_share)
        self.residual = float((1 / signal_share(torch.tensor([settings.begin])) - 1).sqrt())
        self.reported = StLpips("vgg").to(context.device)
        self.checks = context.checks()

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """The judge's."""
        return list(self.trained.judge.parameters()) if self.weights.adversarial > 0 else []

    def _latents(self, pictures: Tensor, point: Tensor, cut: bool) -> tuple[Tensor, Tensor]:
        """Normalised guidance latent and content variable."""
        guidance, content = self.latents(pictures, point, cut)
        return self.scale.normalise(guidance), self.scale.normalise(content)

    def _estimate(self, relay: Relay, latent: Tensor, timesteps: Tensor, content: Tensor) -> Tensor:
        guess: Tensor = relay.control(relay.unet, latent, timesteps, self.token, content)
        return guess.float()

    def sample(self, relay: Relay, content: Tensor, steps: int, noise: Tensor) -> Tensor:
        """Normalised latent after ``steps`` steps from the noised content variable, with gradients."""
        sampler = self.samplers[steps]
        start = sampler.add_noise(content, steps - 1, noise)
        return sampler.sample(lambda x, t, c: self._estimate(relay, x, t, c), content, start)

    def loss(self, batch: Tensor, progress: float) -> Losses:
        """Independent steps first, the unrolled sampler after."""
        with torch.no_grad():
            point = random_points(len(batch), self.points, batch.device)
            latent, content = self._latents(batch, point, bool(torch.rand(()) < self.weights.truncated))
        noise = torch.randn_like(latent)
        if progress < self.weights.independent:
            return self._independent(latent, content, noise)
        return self._unrolled(batch, latent, content, noise, progress)

    def _independent(self, latent: Tensor, content: Tensor, noise: Tensor) -> Losses:
        timesteps = torch.randint(self.settings.begin + 1, (len(latent),), device=latent.device)
        share = signal_share(timesteps)
        added = noise + (content - latent) / self.residual
        state = share.sqrt() * latent + (1 - share).sqrt() * added
        guess = self._estimate(self.trained, state, timesteps, content)
        clean = (state - (1 - share).sqrt() * guess) / share.sqrt()
        return {
            "total": F.mse_loss(guess, added),
            "clean": F.mse_loss(clean, latent),
            "content": F.mse_loss(content, latent),
        }

    def _unrolled(self, batch: Tensor, latent: Tensor, content: Tensor, noise: Tensor, progress: float) -> Losses:
        weights, relay, count = self.weights, self.trained, len(batch)
        steps = self.settings.steps[int(torch.multinomial(self.chances, 1))]
        sampled = self.sample(relay, content, steps, noise)
        shown = max(1, round(weights.previews * count))
        both = relay.decoder(self.scale.restore(torch.cat((sampled, content[:shown])))).float()
        full, preview = both[:count], both[count:]
        window = random_window(batch, weights.window)
        painted = self.trunk(both[window])
        with torch.no_grad():
            real = self.trunk(batch[window])
        losses = {
            "mse": F.mse_loss(full, batch),
            "colour": colour_error(full, batch) + shown / count * colour_error(preview, batch[:shown]),
            "stlpips": self.trunk.distance([f[:count] for f in painted], real),
            "alignment": F.mse_loss(sampled, latent),
            "preview_mse": F.mse_loss(preview, batch[:shown]),
            "preview_stlpips": self.trunk.distance([f[count:] for f in painted], [f[:shown] for f in real]),
        }
        total = (
            weights.squared * losses["mse"]
            + weights.colour * losses["colour"]
            + weights.perceptual * losses["stlpips"]
            + weights.alignment * losses["alignment"]
            + shown / count * weights.preview_squared * losses["preview_mse"]
            + shown / count * weights.preview_perceptual * losses["preview_stlpips"]
        )
        if weights.adversarial > 0 and progress >= weights.adversarial_from:
            grown = min(1.0, (progress - weights.adversarial_from) / 0.05)
            ours = [f[:count] for f in painted]
            losses["judged"] = relay.judge.painter_loss(ours)
            losses["auxiliary"] = relay.judge.own_loss(real, ours)
            total = total + weights.adversarial * grown * losses["judged"]
        return {"total": total, **losses}

    def _painted(self, average: nn.Module, crop: Tensor, point: float, seed: int) -> tuple[Tensor, Tensor]:
        """Preview and full picture."""
        assert isinstance(average, Relay)
        _, content = self._latents(crop, torch.tensor([point], device=crop.device), False)
        noise = torch.randn(content.shape, generator=torch.Generator().manual_seed(seed)).to(crop.device)
        # The steps' own draws come from the default generator; seeded, so that figures can be compared.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sampled = self.sample(average, content, self.settings.measured_steps, noise)
        preview, full = (average.decoder(self.scale.restore(x)).float().clamp(-1, 1) for x in (content, sampled))
        return preview, full

    def validate(self, average: nn.Module) -> dict[str, float]:
        """PSNR and ST-LPIPS (VGG) of preview and full picture at the second and the last operating point but two."""
        figures: dict[str, float] = {}
        for index in sorted({min(1, self.points - 1), max(0, self.points - 3)}):
            results = [(*self._painted(average, crop, index, i), crop) for i, crop in enumerate(self.checks)]
            for place, name in enumerate(("preview", "full")):
                values = [(psnr(r[place], r[2]), measure(self.reported, r[place], r[2])) for r in results]
                figures[f"{name}{index + 1}_psnr"] = sum(a for a, _ in values) / len(values)
                figures[f"{name}{index + 1}_stlpips"] = sum(b for _, b in values) / len(values)
        return figures

    def samples(self, average: nn.Module) -> Tensor | None:
        """Photographs, their previews and full pictures at the middle operating point."""
        middle = (self.points - 1) / 2
        return pairs([(crop, *self._painted(average, crop, middle, i)) for i, crop in enumerate(self.checks[:4])])
