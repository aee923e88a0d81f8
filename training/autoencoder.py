"""Stage 1 of the pocket bundle: the autoencoder, on reconstruction alone.

Run: ``python -m training.autoencoder --photographs DIR --run runs/pocket``. Goes on where it stopped.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.codec.nets.autoencoder import Autoencoder, AutoencoderConfig
from training.data import PhotographCache
from training.loop import Losses, Run, Schedule, stage_options

LATENT_NOISE = 0.05
"""Standard deviation of the noise added to the latent, so that the decoder tolerates small latent errors."""
LATENT_ENERGY = 1e-3
"""Weight of the mean squared latent, which keeps its scale near one without the noise of a posterior."""


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two pictures in [-1, 1], after rounding ``a`` to 8 bits."""
    a = ((a.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    return float(10 * torch.log10(4 / F.mse_loss(a.float(), b.float())))


def main() -> None:
    """Train the autoencoder to the end of its schedule."""
    parser = stage_options(__doc__, batch=8, crop=160, rate=0.002)
    options = parser.parse_args()

    torch.manual_seed(1)
    model = Autoencoder(AutoencoderConfig()).to(options.device).to(memory_format=torch.channels_last)
    schedule = Schedule(options.steps, learning_rate=options.rate, finish_by=options.minutes * 60)
    run = Run(options.run / "autoencoder", model, schedule)
    cache = PhotographCache(options.photographs, options.run / "photographs")
    checks = [crop for crop, _ in zip(cache.validation_crops(384), range(24), strict=False)]

    def loss(batch: Tensor, progress: float) -> Losses:
        latent = model.encoder(batch)
        noisy = latent + LATENT_NOISE * torch.randn_like(latent)
        picture = model.decoder(noisy).float()
        absolute, squared = F.l1_loss(picture, batch), F.mse_loss(picture, batch)
        energy = latent.float().square().mean()
        return {"total": absolute + 0.5 * squared + LATENT_ENERGY * energy, "l1": absolute, "energy": energy}

    @torch.no_grad()
    def validate(average: nn.Module) -> dict[str, float]:
        values = [psnr(average(crop.to(options.device))[0], crop.to(options.device)) for crop in checks]
        return {"psnr": sum(values) / len(values)}

    run.train(cache.batches(options.batch, options.crop, seed=run.step), loss, validate)


if __name__ == "__main__":
    main()
