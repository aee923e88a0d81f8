r"""The pocket compression module: LFGCM's data flow with light blocks and one set of weights for every rate.

Data flow (DiffEIC section III, at small widths; ``gain`` is the vector of the operating point)::

    picture --\                                              /--> hyper-decoder, contexts, heads (EntropyParameters)
               analysis --> y * gain --> hyper-analysis --> z                      |
    guidance -/                    \--> round(y - mean) + mean = y_hat <--- means, scales
                                                             |
                          content variable <-- synthesis <-- y_hat * inverse gain, z_hat

The entropy parameters are the same classes as LFGCM's; analysis, hyper-analysis and synthesis are built of light blocks
because the sender is to run them in half a second on two small cores.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from shared.codec.nets.entropy_parameters import EntropyParameters, EntropyParametersConfig
from shared.codec.nets.factorised_prior import FactorisedPrior
from shared.codec.nets.light import light_stack, upsample

PIXEL_BLOCK = 64
"""Picture sides are padded to multiples of this many pixels: the hyper-latent has one position a block."""


@dataclass(frozen=True)
class PocketConfig:
    """Widths and depths of the pocket compression module.

    Attributes:
        guidance_channels: channels of the guidance latent and of the content variable, at H/8.
        entropy: the entropy parameters; ``entropy.latent_channels`` is M, ``entropy.hyper_channels`` is N.
        analysis_widths: analysis channels at H/8 and H/16.
        analysis_depths: analysis blocks at H/8 and H/16.
        hyper_width: hyper-analysis channels.
        synthesis_widths: synthesis channels at H/16 and H/8.
        synthesis_depths: synthesis blocks at H/16 and H/8.
        layer_slices: how many latent slices each refinement layer carries.
        operating_points: number of quality levels.
    """

    guidance_channels: int = 8
    entropy: EntropyParametersConfig = field(
        default_factory=lambda: EntropyParametersConfig(
            latent_channels=96,
            hyper_channels=48,
            slices=(8, 8, 16, 24, 40),
            hyper_decoder_widths=(96, 144),
            channel_context_widths=(96, 64),
        )
    )
    analysis_widths: tuple[int, int] = (128, 192)
    analysis_depths: tuple[int, int] = (3, 4)
    hyper_width: int = 96
    synthesis_widths: tuple[int, int] = (224, 160)
    synthesis_depths: tuple[int, int] = (6, 4)
    layer_slices: tuple[int, ...] = (1, 1, 3)
    operating_points: int = 5


class PocketAnalysis(nn.Module):
    """Picture ``B x 3 x H x W`` in [-1, 1] and guidance ``B x C x H/8 x W/8`` to y, ``B x M x H/16 x W/16``."""

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        fine, coarse = config.analysis_widths
        self.pixels = nn.Sequential(nn.PixelUnshuffle(8), nn.Conv2d(192, fine, 1))
        self.guidance = nn.Conv2d(config.guidance_channels, fine, 1)
        self.net = nn.Sequential(
            light_stack(fine, config.analysis_depths[0]),
            nn.Conv2d(fine, coarse, 2, stride=2),
            light_stack(coarse, config.analysis_depths[1]),
            nn.Conv2d(coarse, config.entropy.latent_channels, 1),
        )

    def forward(self, picture: Tensor, guidance: Tensor) -> Tensor:
        """Return y, before the operating point's gain."""
        y: Tensor = self.net(self.pixels(picture) + self.guidance(guidance))
        return y


class PocketHyperAnalysis(nn.Module):
    """y ``B x M x H/16 x W/16`` and guidance ``B x C x H/8 x W/8`` to z, ``B x N x H/64 x W/64``."""

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        width = config.hyper_width
        self.latent = nn.Conv2d(config.entropy.latent_channels, width, 1)
        self.guidance = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * config.guidance_channels, width, 1))
        self.net = nn.Sequential(
            light_stack(width, 2),
            nn.Conv2d(width, width, 2, stride=2),
            light_stack(width, 2),
            nn.Conv2d(width, width, 2, stride=2),
            light_stack(width, 1),
            nn.Conv2d(width, config.entropy.hyper_channels, 1),
        )

    def forward(self, y: Tensor, guidance: Tensor) -> Tensor:
        """Return z of y after its gain."""
        z: Tensor = self.net(self.latent(y) + self.guidance(guidance))
        return z


class PocketSynthesis(nn.Module):
    """y_hat ``B x M x H/16 x W/16`` and z_hat ``B x N x H/64 x W/64`` to the content variable at H/8."""

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        coarse, fine = config.synthesis_widths
        reference = 32
        self.reference = nn.Sequential(
            upsample(config.entropy.hyper_channels, 2 * reference), nn.GELU(), upsample(2 * reference, reference)
        )
        self.net = nn.Sequential(
            nn.Conv2d(config.entropy.latent_channels + reference, coarse, 1),
            light_stack(coarse, config.synthesis_depths[0]),
            upsample(coarse, fine),
            light_stack(fine, config.synthesis_depths[1]),
            nn.Conv2d(fine, config.guidance_channels, 3, padding=1, padding_mode="replicate"),
        )

    def forward(self, y_hat: Tensor, z_hat: Tensor) -> Tensor:
        """Return the content variable of a decoded latent whose gain was undone."""
        content: Tensor = self.net(torch.cat((self.reference(z_hat), y_hat), 1))
        return content


class PocketCompression(nn.Module):
    """Analysis, hyper-analysis, entropy parameters, prior and synthesis of the pocket bundle.

    ``gain`` and ``inverse_gain`` hold natural logarithms, ``operating points x M``: one row scales y before rounding,
    the other undoes it, so that one set of weights serves all rates (Cui et al. 2021, asymmetric gained VAE). Between
    two rows lie all the rates between them.
    """

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        self.config = config
        self.analysis = PocketAnalysis(config)
        self.hyper_analysis = PocketHyperAnalysis(config)
        self.entropy = EntropyParameters(config.entropy)
        self.prior = FactorisedPrior(config.entropy.hyper_channels)
        # The rounding grid of z stays at whole numbers: the density is learned around it, so no median is needed.
        self.prior.quantiles.requires_grad_(False)
        self.synthesis = PocketSynthesis(config)
        for head in (*self.entropy.anchor_heads, *self.entropy.nonanchor_heads):
            # Scales start near one: near zero every first latent would look all but impossible.
            bias = head[-1].bias
            nn.init.ones_(bias[: len(bias) // 2].data)
        start = torch.linspace(1.2, 2.6, config.operating_points)[:, None].repeat(1, config.entropy.latent_channels)
        self.gain = nn.Parameter(start.clone())
        self.inverse_gain = nn.Parameter(-start)

    def encode(self, picture: Tensor, guidance: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(y, z)``, y already scaled by the gain of operating point ``point``.

        Args:
            picture: ``B x 3 x H x W`` in [-1, 1], H and W multiples of 64.
            guidance: ``B x C x H/8 x W/8``.
            point: ``B`` (or 1 for all), real numbers of 0 to ``operating_points - 1``; in between, the logarithms of
                the gains are interpolated.
        """
        y = self.analysis(picture, guidance) * interpolate_rows(self.gain, point).exp()[:, :, None, None]
        return y, self.hyper_analysis(y, guidance)

    def decode(self, y_hat: Tensor, z_hat: Tensor, point: Tensor) -> Tensor:
        """Return the content variable of a decoded latent at operating point ``point``, as in `encode`."""
        undone = y_hat * interpolate_rows(self.inverse_gain, point).exp()[:, :, None, None]
        content: Tensor = self.synthesis(undone, z_hat)
        return content


def interpolate_rows(table: Tensor, point: Tensor) -> Tensor:
    """Rows of a table at real-valued row numbers, linear in between.

    Args:
        table: ``P x M``.
        point: ``B`` numbers of 0 to P - 1.

    Returns:
        ``B x M``.
    """
    if len(table) == 1:
        return table.expand(len(point), -1)
    below = point.floor().long().clamp(0, len(table) - 2)
    share = (point - below)[:, None]
    return table[below] * (1 - share) + table[below + 1] * share
