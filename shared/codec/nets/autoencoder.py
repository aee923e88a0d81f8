"""The pocket autoencoder: pictures to a latent at one eighth of their size, and back.

It stands where Stable Diffusion's ``AutoencoderKL`` stands in the sd21 bundle. Its encoder is shallow (about 10 kMAC
per pixel), so that the sender can run it as it is: it *is* the guidance encoder of the pocket bundle.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from shared.codec.nets.light import light_stack, upsample


@dataclass(frozen=True)
class AutoencoderConfig:
    """Widths and depths of the pocket autoencoder.

    Attributes:
        latent_channels: channels of the latent, at H/8.
        encoder_widths: encoder channels at H/4 and H/8.
        encoder_depths: encoder blocks at H/4 and H/8.
        decoder_widths: decoder channels at H/8, H/4 and H/2.
        decoder_depths: decoder blocks at H/8, H/4 and H/2.
    """

    latent_channels: int = 8
    encoder_widths: tuple[int, int] = (64, 160)
    encoder_depths: tuple[int, int] = (2, 5)
    decoder_widths: tuple[int, int, int] = (192, 96, 48)
    decoder_depths: tuple[int, int, int] = (8, 4, 2)


class LatentEncoder(nn.Module):
    """Picture ``B x 3 x H x W`` in [-1, 1] (H, W multiples of 8) to latent ``B x latent_channels x H/8 x W/8``."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        fine, coarse = config.encoder_widths
        self.net = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 1),
            light_stack(fine, config.encoder_depths[0]),
            nn.Conv2d(fine, coarse, 2, stride=2),
            light_stack(coarse, config.encoder_depths[1]),
            nn.Conv2d(coarse, config.latent_channels, 1),
        )

    def forward(self, picture: Tensor) -> Tensor:
        """Return the latent."""
        latent: Tensor = self.net(picture)
        return latent


class LatentDecoder(nn.Module):
    """Latent ``B x latent_channels x H/8 x W/8`` to picture ``B x 3 x H x W``, about [-1, 1] and not clipped.

    The last pixel shuffle is by 2 only and comes after a 3x3 convolution: a bare pointwise convolution with a shuffle
    by 4 leaves a visible 4-pixel grid in flat areas.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        eighth, quarter, half = config.decoder_widths
        self.net = nn.Sequential(
            nn.Conv2d(config.latent_channels, eighth, 3, padding=1, padding_mode="replicate"),
            light_stack(eighth, config.decoder_depths[0]),
            upsample(eighth, quarter),
            light_stack(quarter, config.decoder_depths[1]),
            upsample(quarter, half),
            light_stack(half, config.decoder_depths[2]),
            nn.Conv2d(half, 12, 3, padding=1, padding_mode="replicate"),
            nn.PixelShuffle(2),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Return the picture."""
        picture: Tensor = self.net(latent)
        return picture


class Autoencoder(nn.Module):
    """Encoder and decoder of one pocket bundle; the latent is scaled to about unit variance by training."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = LatentEncoder(config)
        self.decoder = LatentDecoder(config)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(reconstruction, latent)`` of a picture in [-1, 1]."""
        latent = self.encoder(picture)
        return self.decoder(latent), latent
