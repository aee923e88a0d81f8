"""Stage 2 of the pocket bundle: the compression module and the decoder, end to end, for all rates at once.

Run after ``training.autoencoder``: ``python -m training.codec --photographs DIR --run runs/pocket``. Every picture of a
batch draws its own operating point, so one set of weights learns all of them. The loss is DiffEIC's rate and alignment
terms (paper section III-D) with distortion and perception of the *preview* in place of the diffusion loss: the pocket
preview must stand alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.codec.nets.autoencoder import Autoencoder, AutoencoderConfig
from shared.codec.nets.entropy_parameters import EntropyParametersConfig
from shared.codec.nets.likelihood import add_uniform_noise, gaussian_likelihood
from shared.codec.nets.pocket import PocketCompression, PocketConfig
from training.autoencoder import psnr
from training.data import PhotographCache
from training.loop import Losses, Run, Schedule, stage_options
from training.perceptual import StLpips

RATE_WEIGHTS = (4.0, 2.7, 1.8, 1.2, 0.8)
"""Weight of the rate in bit per pixel, one for each operating point, fewest bytes first."""
RATE_SHARE_BEFORE_PERCEPTION = 0.35
"""Factor of these weights until the perceptual term joins: squared error alone pays for few bits."""
DISTORTION, PERCEPTION, LATENT = 8.0, 0.6, 0.25
"""Weights of the preview's squared error, of ST-LPIPS (Alex), and of decoding the clean latent."""
ALIGNMENT_ALONE, ALIGNMENT = 0.36, 0.15
"""Weight of the content variable's squared error before and after the preview is painted. Alone it stands for the
preview's error: a squared error of 1 in the latent is one of 0.045 in the picture, measured on the trained decoder."""
PAINTED_FROM, PERCEPTION_FROM = 0.45, 0.6
"""Shares of the run after which the preview is painted, and after which the perceptual term joins. Painting makes a
step four times dearer, and the entropy model learns as well without it."""
RATE_REACHES_LATENT_FROM, RATE_GROWS_OVER = 0.03, 0.12
"""Shares of the run: before the first, only the entropy model feels the rate; its weight then grows over the second. An
untrained entropy model finds every latent dear, and the cheapest latent is a dead one, which stays dead."""
PERCEPTION_WINDOW = 128
"""Side in pixels of the window that ST-LPIPS looks at, two pictures a step: it costs more than the whole codec."""
TRUNCATED = 0.2
"""Share of batches decoded from a prefix of the layers."""


class Codec(nn.Module):
    """What this stage trains: the compression module and the decoder; the encoder stays frozen."""

    def __init__(self, compression: PocketCompression, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.compression = compression
        self.decoder = autoencoder.decoder
        self.encoder = autoencoder.encoder.requires_grad_(False)


def per_picture_bits(likelihood: Tensor) -> Tensor:
    """Bits of every picture of a batch of likelihoods ``B x ...``."""
    return -torch.log2(likelihood).flatten(1).sum(1)


def estimate(codec: Codec, picture: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(preview, bits per pixel)`` of a picture with hard rounding, as the entropy model estimates it."""
    model = codec.compression
    guidance = codec.encoder(picture)
    y, z = model.encode(picture, guidance, point)
    z_hat, z_likelihood = model.prior(z)
    y_hat, scales, means = model.entropy.rate_terms(y, model.entropy.hyper(z_hat))
    bits = per_picture_bits(z_likelihood) + per_picture_bits(gaussian_likelihood(y_hat - means, scales))
    preview = codec.decoder(model.decode(y_hat, z_hat, point))
    return preview, bits / (picture.shape[2] * picture.shape[3])


def main() -> None:
    """Train the compression module to the end of its schedule."""
    parser = stage_options(__doc__, batch=8, crop=192, rate=0.0012)
    options = parser.parse_args()

    torch.manual_seed(2)
    autoencoder = Autoencoder(AutoencoderConfig())
    trained = torch.load(options.run / "autoencoder" / "checkpoint.pt", weights_only=True)
    autoencoder.load_state_dict(trained["average"])
    config = PocketConfig()
    codec = Codec(PocketCompression(config), autoencoder).to(options.device).to(memory_format=torch.channels_last)
    schedule = Schedule(options.steps, learning_rate=options.rate, finish_by=options.minutes * 60)
    run = Run(options.run / "codec", codec, schedule)
    cache = PhotographCache(options.photographs, options.run / "photographs")
    checks = [crop for crop, _ in zip(cache.validation_crops(384), range(16), strict=False)]
    perception = StLpips("alex").to(options.device)
    weights = torch.tensor(RATE_WEIGHTS, device=options.device)

    def loss(batch: Tensor, progress: float) -> Losses:
        model = codec.compression
        count = len(batch)
        point = torch.randint(len(RATE_WEIGHTS), (count,), device=batch.device)
        with torch.no_grad():
            guidance = codec.encoder(batch)
        y, z = model.encode(batch, guidance, point)
        y, z = y.float(), z.float()
        z_hat = model.prior.quantise(z)
        y_hat, scales, means = model.entropy.rate_terms(y, model.entropy.hyper(z_hat))
        coded_y, coded_z = (y, z) if progress > RATE_REACHES_LATENT_FROM else (y.detach(), z.detach())
        z_likelihood = model.prior.likelihood(add_uniform_noise(coded_z))
        likelihood = gaussian_likelihood(add_uniform_noise(coded_y) - means, scales)
        rate = (per_picture_bits(z_likelihood) + per_picture_bits(likelihood)) / (batch.shape[2] * batch.shape[3])
        if torch.rand(()) < TRUNCATED:
            y_hat = truncate(y_hat, means, config.entropy, config.layer_slices)
        content = model.decode(y_hat, z_hat, point)
        alignment = F.mse_loss(content.float(), guidance.float())
        losses = {"rate": rate.mean(), "alignment": alignment}
        ramp = min(1.0, 0.02 + max(0.0, progress - RATE_REACHES_LATENT_FROM) / RATE_GROWS_OVER)
        ramp *= 1.0 if progress > PERCEPTION_FROM else RATE_SHARE_BEFORE_PERCEPTION
        total = ramp * (weights[point] * rate).mean()
        if progress < PAINTED_FROM:
            return {"total": total + ALIGNMENT_ALONE * alignment, **losses}
        # Pixels cost most of a step, so only half of the batch is painted; alignment teaches the others.
        painted = max(1, count // 2)
        clean = guidance[:1] + 0.1 * torch.randn_like(guidance[:1])
        pictures = codec.decoder(torch.cat((content[:painted], clean))).float()
        preview = pictures[:painted]
        losses["mse"] = F.mse_loss(preview, batch[:painted])
        losses["latent"] = F.l1_loss(pictures[painted:], batch[:1])
        total = total + DISTORTION * losses["mse"] + ALIGNMENT * alignment + LATENT * losses["latent"]
        if progress > PERCEPTION_FROM:
            losses["stlpips"] = perception(*same_window(preview[:2], batch[:2], PERCEPTION_WINDOW))
            total = total + PERCEPTION * losses["stlpips"]
        return {"total": total, **losses}

    @torch.no_grad()
    def validate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, Codec)
        figures: dict[str, float] = {}
        for index in range(0, len(RATE_WEIGHTS), 2):
            results = [estimate(average, c.to(options.device), torch.tensor([index])) for c in checks]
            figures[f"bpp{index + 1}"] = sum(float(rate) for _, rate in results) / len(results)
            figures[f"psnr{index + 1}"] = sum(
                psnr(picture, crop.to(options.device)) for (picture, _), crop in zip(results, checks, strict=True)
            ) / len(results)
        return figures

    run.train(cache.batches(options.batch, options.crop, seed=10_000_000 + run.step), loss, validate)


def same_window(a: Tensor, b: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Cut the same random square window of ``side`` pixels out of two batches of pictures."""
    top, left = (int(torch.randint(length - side + 1, ())) for length in a.shape[2:])
    window = (..., slice(top, top + side), slice(left, left + side))
    return a[window], b[window]


def truncate(y_hat: Tensor, means: Tensor, entropy: EntropyParametersConfig, layer_slices: tuple[int, ...]) -> Tensor:
    """Replace the slices of a random number of last layers by their predicted means, as a cut transmission does."""
    kept_layers = int(torch.randint(len(layer_slices), ()))
    channels = entropy.offsets[sum(layer_slices[:kept_layers])]
    return torch.cat((y_hat[:, :channels], means[:, channels:]), 1)


if __name__ == "__main__":
    main()
