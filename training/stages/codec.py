"""Stage 2 of the pocket bundle: the compression module and the decoder, end to end, for all rates at once.

Every picture of a batch draws its own real-valued operating point, so one set of weights learns all rates in between
too. The loss is DiffEIC's rate and alignment terms (paper section III-D) with distortion and perception of the
*preview* in place of the diffusion loss: the pocket preview must stand alone.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.codec.nets.likelihood import add_uniform_noise, gaussian_likelihood
from shared.codec.nets.pocket import interpolate_rows
from shared.errors import UsageError
from training.checkpoints import load_weights
from training.models import Codec, PocketModels, estimate, per_picture_bits, random_points, truncate
from training.perceptual import StLpips, measure
from training.pictures import pairs, psnr, same_window
from training.stage import Context, Losses, Stage


@dataclass(frozen=True)
class CodecLoss:
    """Weights of the loss, and the shares of the run at which its parts join.

    Attributes:
        rate: weight of the rate in bit per pixel at every operating point, fewest bytes first; in between, the
            logarithms are interpolated.
        distortion: of the preview's mean squared error.
        perceptual: of ST-LPIPS (Alex) of the preview.
        alignment: of the content variable's squared error against the guidance latent.
        alignment_alone: the same until the preview is painted. It then stands for the preview's error: a squared error
            of 1 in the latent is one of 0.045 in the picture, measured on a trained decoder.
        latent: of the absolute error of decoding the clean guidance latent.
        painted_from: share of the run after which the preview is painted: it makes a step four times dearer, and the
            entropy model learns as well without it.
        perceptual_from: share after which the perceptual term joins.
        rate_before_perceptual: factor of the rate until then: squared error alone pays for few bits.
        rate_reaches_latent_from: share before which only the entropy model feels the rate. An untrained entropy model
            finds every latent dear, and the cheapest latent is a dead one, which stays dead.
        rate_grows_over: share over which the rate's weight then grows; 0 starts at full weight.
        truncated: share of batches decoded from a prefix of the layers.
        painted: share of a batch that is painted; alignment teaches the others.
        judged: pictures of a batch that ST-LPIPS looks at: it costs more than the whole codec.
        window: side in pixels of the window that it looks at.
    """

    rate: tuple[float, ...] = (24.0, 11.0, 5.0, 2.3, 1.1, 0.5)
    distortion: float = 8.0
    perceptual: float = 0.8
    alignment: float = 0.15
    alignment_alone: float = 0.36
    latent: float = 0.25
    painted_from: float = 0.0
    perceptual_from: float = 0.0
    rate_before_perceptual: float = 0.35
    rate_reaches_latent_from: float = 0.0
    rate_grows_over: float = 0.0
    truncated: float = 0.15
    painted: float = 0.5
    judged: int = 2
    window: int = 128


@dataclass(frozen=True)
class CodecSettings:
    """Settings of the stage.

    Attributes:
        model: architecture.
        loss: weights of the loss.
        start_rate: rate weights of the codec that ``[start] codec`` names, where they differ from ``loss.rate``: its
            gains are then interpolated, and extrapolated, at the same weight of the rate.
    """

    model: PocketModels = field(default_factory=PocketModels)
    loss: CodecLoss = CodecLoss()
    start_rate: tuple[float, ...] = ()


class CodecStage(Stage):
    """Compression module and decoder; the encoder stays frozen."""

    Settings = CodecSettings

    def __init__(self, settings: CodecSettings, context: Context) -> None:
        """Build the codec on ``[start] autoencoder``, or go on from ``[start] codec``."""
        points = settings.model.compression.operating_points
        if len(settings.loss.rate) != points:
            raise UsageError(f"loss.rate has {len(settings.loss.rate)} weights for {points} operating points")
        self.weights, self.device = settings.loss, context.device
        self.trained: Codec = settings.model.codec()
        if context.has("codec"):
            weights = context.average("codec")
            for name in ("compression.gain", "compression.inverse_gain"):
                if name in weights and settings.start_rate:
                    weights[name] = gains_at(weights[name], settings.start_rate, settings.loss.rate)
            load_weights(self.trained, weights, f"[start] codec = {context.start['codec']}")
        else:
            autoencoder = nn.ModuleDict({"encoder": self.trained.encoder, "decoder": self.trained.decoder})
            context.load("autoencoder", autoencoder, ignore=["judge."])
        self.trained.to(context.device).to(memory_format=torch.channels_last)
        self.perception = StLpips("alex").to(context.device)
        self.reported = StLpips("vgg").to(context.device)
        self.log_rate = torch.tensor(settings.loss.rate, device=context.device).log()[:, None]
        self.checks = context.checks()

    def loss(self, batch: Tensor, progress: float) -> Losses:
        """Rate, distortion, alignment and perception of one batch over random operating points."""
        weights, model, count = self.weights, self.trained.compression, len(batch)
        point = random_points(count, len(self.log_rate), batch.device)
        with torch.no_grad():
            guidance = self.trained.encoder(batch)
        y, z = model.encode(batch, guidance, point)
        y, z = y.float(), z.float()
        z_hat = model.prior.quantise(z)
        y_hat, scales, means = model.entropy.rate_terms(y, model.entropy.hyper(z_hat))
        reaches = progress >= weights.rate_reaches_latent_from
        coded_y, coded_z = (y, z) if reaches else (y.detach(), z.detach())
        bits_z = per_picture_bits(model.prior.likelihood(add_uniform_noise(coded_z)))
        bits_y = per_picture_bits(gaussian_likelihood(add_uniform_noise(coded_y) - means, scales))
        rate = (bits_z + bits_y) / (batch.shape[2] * batch.shape[3])
        weighted = (interpolate_rows(self.log_rate, point).exp()[:, 0] * rate).mean()
        if torch.rand(()) < weights.truncated:
            y_hat = truncate(y_hat, means, model.config.entropy, model.config.layer_slices)
        content = model.decode(y_hat, z_hat, point)
        alignment = F.mse_loss(content.float(), guidance.float())
        losses = {"rate": rate.mean(), "weighted_rate": weighted, "alignment": alignment}
        total = self.ramp(progress) * weighted
        if progress < weights.painted_from:
            return {"total": total + weights.alignment_alone * alignment, **losses}
        return {"total": total + self._painted(batch, guidance, content, progress, losses), **losses}

    def ramp(self, progress: float) -> float:
        """Factor of the rate's weight at this share of the run."""
        weights = self.weights
        grown = 1.0
        if weights.rate_grows_over > 0:
            share = max(0.0, progress - weights.rate_reaches_latent_from) / weights.rate_grows_over
            grown = min(1.0, 0.02 + share)
        return grown * (1.0 if progress >= weights.perceptual_from else weights.rate_before_perceptual)

    def _painted(
        self, batch: Tensor, guidance: Tensor, content: Tensor, progress: float, losses: dict[str, Tensor]
    ) -> Tensor:
        """Alignment and the terms of the painted preview; the latter are added to ``losses``."""
        weights = self.weights
        painted = max(1, round(weights.painted * len(batch)))
        clean = guidance[:1] + 0.1 * torch.randn_like(guidance[:1])
        pictures = self.trained.decoder(torch.cat((content[:painted], clean))).float()
        losses["mse"] = F.mse_loss(pictures[:painted], batch[:painted])
        losses["latent"] = F.l1_loss(pictures[painted:], batch[:1])
        total = weights.distortion * losses["mse"] + weights.latent * losses["latent"]
        total = total + weights.alignment * losses["alignment"]
        if progress >= weights.perceptual_from and weights.perceptual > 0:
            judged = min(weights.judged, painted)
            losses["stlpips"] = self.perception(*same_window(pictures[:judged], batch[:judged], weights.window))
            total = total + weights.perceptual * losses["stlpips"]
        return total

    def validate(self, average: nn.Module) -> dict[str, float]:
        """Rate and PSNR of the preview at every operating point; ST-LPIPS (VGG) at the second and the last but two."""
        assert isinstance(average, Codec)
        figures: dict[str, float] = {}
        points = len(self.log_rate)
        for index in range(points):
            at = torch.tensor([float(index)], device=self.device)
            results = [(*estimate(average, crop, at), crop) for crop in self.checks]
            figures[f"bpp{index + 1}"] = _mean([float(rate) for _, rate, _ in results])
            figures[f"psnr{index + 1}"] = _mean([psnr(preview, crop) for preview, _, crop in results])
            if index in (1, points - 3):
                distances = [measure(self.reported, preview.clamp(-1, 1), crop) for preview, _, crop in results]
                figures[f"stlpips{index + 1}"] = _mean(distances)
        return figures

    def samples(self, average: nn.Module) -> Tensor | None:
        """Photographs and their previews at the lowest, a middle and the highest operating point."""
        assert isinstance(average, Codec)
        last = len(self.log_rate) - 1
        points = [torch.tensor([float(i)], device=self.device) for i in (0, last // 2, last)]
        return pairs([(crop, *(estimate(average, crop, at)[0] for at in points)) for crop in self.checks[:4]])


def gains_at(gains: Tensor, old: tuple[float, ...], new: tuple[float, ...]) -> Tensor:
    """Carry log-gains over to other operating points by the weight of the rate that they were trained at.

    Args:
        gains: ``len(old) x M``.
        old: rate weights of the rows, falling.
        new: rate weights wanted, falling.

    Returns:
        ``len(new) x M``: interpolated over the logarithm of the weight; outside the old range continued along its
        mean slope, at 0.6 of it towards lower rates, where gains flatten out.

    Raises:
        UsageError: if the rows and ``old`` do not correspond.
    """
    if len(gains) != len(old) or len(old) < 2:
        raise UsageError(f"start_rate has {len(old)} weights but the codec it starts from has {len(gains)} points")
    x_old, x_new = (np.array([-math.log(w) for w in weights]) for weights in (old, new))
    table = gains.double().numpy()
    slope = (table[-1] - table[0]) / (x_old[-1] - x_old[0])
    inside = np.stack([np.interp(x_new, x_old, column) for column in table.T], 1)
    below = np.minimum(x_new - x_old[0], 0.0)[:, None] * slope * 0.6
    above = np.maximum(x_new - x_old[-1], 0.0)[:, None] * slope
    return torch.from_numpy(inside + below + above).to(gains.dtype)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
