"""The pocket bundle's networks as training puts them together, and the passes through them that stages share."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from shared.codec.nets.autoencoder import Autoencoder, AutoencoderConfig
from shared.codec.nets.ddpm import training_alphas_cumprod
from shared.codec.nets.diffusion import DiffusionConfig, LatentScale
from shared.codec.nets.entropy_parameters import EntropyParametersConfig
from shared.codec.nets.likelihood import gaussian_likelihood
from shared.codec.nets.pocket import PocketCompression, PocketConfig


@dataclass(frozen=True)
class PocketModels:
    """Architecture of every network of a pocket bundle: ``[model]`` in all its configurations.

    Attributes:
        autoencoder: encoder and decoder.
        compression: compression module.
        diffusion: prior and control.
    """

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    compression: PocketConfig = field(default_factory=lambda: PocketConfig(operating_points=6))
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)

    def __post_init__(self) -> None:
        """Check that the parts fit one another.

        Raises:
            ValueError: if a latent has different channels in two parts, or slices do not add up.
        """
        channels = self.autoencoder.latent_channels
        if self.compression.guidance_channels != channels or self.diffusion.latent_channels != channels:
            raise ValueError(
                f"autoencoder.latent_channels is {channels}, so compression.guidance_channels and "
                "diffusion.latent_channels must be as well"
            )
        if sum(self.compression.layer_slices) != len(self.compression.entropy.slices):
            raise ValueError("compression.layer_slices must add up to the number of compression.entropy.slices")

    def codec(self) -> "Codec":
        """Compression module and autoencoder with random weights."""
        return Codec(PocketCompression(self.compression), Autoencoder(self.autoencoder))

    def prior(self) -> "Prior":
        """Prior with random weights."""
        return Prior(self.diffusion)


class Codec(nn.Module):
    """Compression module and decoder, trained together; the encoder stays frozen."""

    def __init__(self, compression: PocketCompression, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.compression = compression
        self.decoder = autoencoder.decoder
        self.encoder = autoencoder.encoder.requires_grad_(False)


class Prior(nn.Module):
    """The UNet, the scale of its latents and the stored context token."""

    context: Tensor

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.unet = config.unet()
        self.scale = LatentScale(config.latent_channels)
        self.register_buffer("context", torch.zeros(1, 1, config.context_width))

    def forward(self, latent: Tensor, timesteps: Tensor) -> Tensor:
        """Estimate the noise in a normalised latent ``B x C x h x w`` at timesteps ``B``."""
        context = self.context.expand(len(latent), -1, -1)
        estimate: Tensor = self.unet(latent, timesteps, context).sample
        return estimate


def per_picture_bits(likelihood: Tensor) -> Tensor:
    """Bits of every picture of a batch of likelihoods ``B x ...``."""
    return -torch.log2(likelihood).flatten(1).sum(1)


def estimate(codec: Codec, picture: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(preview, bits per pixel)`` of pictures with hard rounding, as the entropy model estimates it.

    Args:
        codec: the codec, in evaluation or training mode.
        picture: ``B x 3 x H x W`` in [-1, 1], sides multiples of 64.
        point: ``B`` operating points, real-valued, from 0.
    """
    model = codec.compression
    guidance = codec.encoder(picture)
    y, z = model.encode(picture, guidance, point)
    z_hat = model.prior.quantise(z)
    y_hat, scales, means = model.entropy.rate_terms(y, model.entropy.hyper(z_hat))
    bits = per_picture_bits(model.prior.likelihood(z_hat)) + per_picture_bits(
        gaussian_likelihood(y_hat - means, scales)
    )
    preview = codec.decoder(model.decode(y_hat, z_hat, point))
    return preview, bits / (picture.shape[2] * picture.shape[3])


def guidance_and_content(codec: Codec, picture: Tensor, point: Tensor, cut: bool = False) -> tuple[Tensor, Tensor]:
    """Return ``(guidance latent, content variable)``, float32 ``B x C x H/8 x W/8``, as sender and receiver have them.

    Args:
        codec: the codec.
        picture: as for `estimate`.
        point: as for `estimate`.
        cut: whether the content variable is decoded from a random prefix of the layers.
    """
    model = codec.compression
    guidance = codec.encoder(picture)
    y, z = model.encode(picture, guidance, point)
    z_hat = model.prior.quantise(z.float())
    y_hat, _, means = model.entropy.rate_terms(y.float(), model.entropy.hyper(z_hat))
    if cut:
        y_hat = truncate(y_hat, means, model.config.entropy, model.config.layer_slices)
    return guidance.float(), model.decode(y_hat, z_hat, point).float()


def truncate(y_hat: Tensor, means: Tensor, entropy: EntropyParametersConfig, layer_slices: tuple[int, ...]) -> Tensor:
    """Replace the slices of a random number of last layers by their predicted means, as a cut transmission does."""
    kept_layers = int(torch.randint(len(layer_slices), ()))
    channels = entropy.offsets[sum(layer_slices[:kept_layers])]
    return torch.cat((y_hat[:, :channels], means[:, channels:]), 1)


def random_points(count: int, points: int, device: torch.device) -> Tensor:
    """Draw ``count`` real-valued operating points, uniform over 0 to ``points - 1``."""
    return torch.rand(count, device=device) * (points - 1)


def signal_share(timesteps: Tensor) -> Tensor:
    """Share of the signal's variance left at training timesteps ``B``, as ``B x 1 x 1 x 1`` float32."""
    share = torch.as_tensor(training_alphas_cumprod(), dtype=torch.float32, device=timesteps.device)
    return share[timesteps][:, None, None, None]


def diffuse(latent: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
    """Noise a clean latent ``B x C x h x w`` to timesteps ``B`` of the training schedule."""
    share = signal_share(timesteps)
    return latent * share.sqrt() + noise * (1 - share).sqrt()
