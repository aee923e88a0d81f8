"""The latent-feature-guided compression module of DiffEIC (Li et al., IEEE TCSVT 2025, section III-B).

Data flow (M latent, N hyper-latent channels)::

    picture, guidance --> Analysis ---> y, M x H/16 --> entropy coding --> y_hat --> Synthesis --> content variable
          y, guidance --> HyperAnalysis --> z, N x H/64 --> coded first --> z_hat --> ReferenceDecoder --^  4 x H/8
                                                                               `--> EntropyParameters of y

The guidance is the latent of the picture at H/8 under the bundle's autoencoder. Only the sender has it, so the
synthesis takes its reference from the hyper-latent instead.

Two settings are for the paper's ablations: ``fusion`` chooses how references steer features, everywhere; ``guidance =
False`` takes the guidance and the reference maps made of it away from the sender, whose features then pass unsteered
(and whose picture needs no autoencoder). The synthesis keeps its reference, which the hyper-latent carries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shared.codec.nets.blocks import ResidualDown, ResidualUp, bottlenecks
from shared.codec.nets.entropy_parameters import EntropyParameters, EntropyParametersConfig
from shared.codec.nets.factorised_prior import FactorisedPrior
from shared.codec.nets.likelihood import add_uniform_noise, gaussian_likelihood
from shared.codec.nets.sft import FUSIONS, FusionFactory, SftResidual, fusion_factory, unguided
from shared.errors import PinholeError


@dataclass(frozen=True)
class LfgcmConfig:
    """Widths of the compression module; the defaults are the official ones.

    Attributes:
        picture_channels: channels of the picture.
        content_channels: channels of the guidance latent and of the content variable.
        analysis_widths: analysis channels at H/2, H/4, H/8 and H/16.
        hyper_channels: N, channels of the hyper-latent.
        latent_channels: M, channels of the coded latent.
        reference_channels: P, channels of every reference map of the feature transforms.
        sft_kernel: side of the convolutions of the feature transforms.
        slices: channels of every slice of the latent, in coding order.
        fusion: how a reference steers features: "sft" (the paper), "addition", "concatenation" or "cross-attention".
        guidance: whether the sender has the guidance latent; the paper's ablation goes without.

    Raises:
        PinholeError: if there is no such fusion.
    """

    picture_channels: int = 3
    content_channels: int = 4
    analysis_widths: tuple[int, int, int, int] = (64, 128, 192, 192)
    hyper_channels: int = 192
    latent_channels: int = 320
    reference_channels: int = 64
    sft_kernel: int = 3
    slices: tuple[int, ...] = (8, 8, 8, 8, 16, 16, 32, 32, 96, 96)
    fusion: str = "sft"
    guidance: bool = True

    def __post_init__(self) -> None:
        """Check the fusion's name."""
        if self.fusion not in FUSIONS:
            raise PinholeError(f"LFGCM config: unknown fusion {self.fusion!r}; give one of {', '.join(FUSIONS)}")

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> "LfgcmConfig":
        """Read the official configuration.

        Args:
            info: mapping with in_nc, out_nc, enc_mid, N, M, prior_nc, sft_ks, slice_num and slice_ch, or with such a
                mapping under ``config``.

        Raises:
            PinholeError: if an entry is absent or the numbers contradict one another.
        """
        entries = info.get("config", info)
        try:
            first, second, third, fourth = entries["enc_mid"]
            slices = tuple(int(s) for s in entries["slice_ch"])
            if len(slices) != int(entries["slice_num"]):
                raise PinholeError(
                    f"slice_num {entries['slice_num']} but slice_ch names {len(slices)}; mend the config"
                )
            config = cls(
                picture_channels=int(entries["in_nc"]),
                content_channels=int(entries["out_nc"]),
                analysis_widths=(int(first), int(second), int(third), int(fourth)),
                hyper_channels=int(entries["N"]),
                latent_channels=int(entries["M"]),
                reference_channels=int(entries["prior_nc"]),
                sft_kernel=int(entries["sft_ks"]),
                slices=slices,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PinholeError(
                f"LFGCM config: entry missing or not a number ({error}); give official info.json"
            ) from error
        return config

    @property
    def fusion_factory(self) -> FusionFactory:
        """What makes every fusion of the synthesis."""
        return fusion_factory(self.fusion, self.reference_channels, self.sft_kernel)

    @property
    def sender_fusion_factory(self) -> FusionFactory:
        """What makes every fusion of analysis and hyper-analysis: none without guidance."""
        return self.fusion_factory if self.guidance else unguided

    @property
    def entropy_parameters(self) -> EntropyParametersConfig:
        """The part of the configuration that concerns the entropy-parameter path."""
        return EntropyParametersConfig(self.latent_channels, self.hyper_channels, self.slices)


def _refine(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    """Reference map to reference map: a convolution that may halve its size, GELU, pointwise convolution."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1),
        nn.GELU(),
        nn.Conv2d(channels, channels, 1),
    )


def _fuse(channels_in: int, channels: int) -> nn.Sequential:
    """Concatenated maps to one reference map, in three narrowing convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels_in, 4 * channels, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(4 * channels, 2 * channels, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(2 * channels, channels, 3, padding=1),
    )


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Analysis(nn.Module):
    """g_a: picture and guidance to the latent y that is coded."""

    def __init__(self, config: LfgcmConfig) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = config.analysis_widths
        reference, fusion = config.reference_channels, config.sender_fusion_factory
        self.is_guided = config.guidance
        if config.guidance:
            self.reference8 = _refine(config.content_channels, reference)
            self.reference16 = _refine(reference, reference, stride=2)
            self.reference16_fine = _refine(reference, reference)
        self.to_eighth = nn.Sequential(
            ResidualDown(config.picture_channels, half),
            *bottlenecks(half),
            ResidualDown(half, quarter),
            *bottlenecks(quarter),
            ResidualDown(quarter, eighth),
            *bottlenecks(eighth),
        )
        self.guide8 = fusion(eighth)
        self.to_sixteenth = nn.Sequential(ResidualDown(eighth, sixteenth), *bottlenecks(sixteenth))
        self.guide16 = fusion(sixteenth)
        self.blend = nn.Conv2d(sixteenth, sixteenth, 3, padding=1)
        self.guided1 = SftResidual(sixteenth, fusion)
        self.guided2 = SftResidual(sixteenth, fusion)
        self.project = nn.Conv2d(sixteenth, config.latent_channels, 3, padding=1)

    def _references(self, guidance: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the reference maps at H/8, at H/16 and, refined, at H/16; Nones without guidance."""
        if not self.is_guided:
            return None, None, None
        reference8 = self.reference8(guidance)
        reference16 = self.reference16(reference8)
        return reference8, reference16, self.reference16_fine(reference16)

    def forward(self, picture: Tensor, guidance: Tensor | None) -> Tensor:
        """Encode.

        Args:
            picture: ``B x 3 x H x W`` in [0, 1], H and W multiples of 64.
            guidance: ``B x 4 x H/8 x W/8``, the autoencoder's latent, about unit variance; not looked at, and may be
                None, where the config says no guidance.

        Returns:
            y, ``B x M x H/16 x W/16``.
        """
        reference8, reference16, reference16_fine = self._references(guidance)
        x = self.guide8(self.to_eighth(picture), reference8)
        x = self.blend(self.guide16(self.to_sixteenth(x), reference16))
        y: Tensor = self.project(self.guided2(self.guided1(x, reference16_fine), reference16_fine))
        return y


class HyperAnalysis(nn.Module):
    """h_a: latent and guidance to the hyper-latent z."""

    def __init__(self, config: LfgcmConfig) -> None:
        super().__init__()
        channels, reference, fusion = config.hyper_channels, config.reference_channels, config.sender_fusion_factory
        self.is_guided = config.guidance
        if config.guidance:
            self.guidance16 = _refine(config.content_channels, reference, stride=2)
            self.reference16 = _fuse(reference + config.latent_channels, reference)
            self.reference32 = _refine(reference, reference, stride=2)
            self.reference64 = _refine(reference, reference, stride=2)
        self.conv16 = nn.Conv2d(config.latent_channels, channels, 3, padding=1)
        self.guide16 = fusion(channels)
        self.conv32 = nn.Conv2d(channels, channels, 5, stride=2, padding=2)
        self.guide32 = fusion(channels)
        self.conv64 = nn.Conv2d(channels, channels, 5, stride=2, padding=2)
        self.guided1 = SftResidual(channels, fusion)
        self.guided2 = SftResidual(channels, fusion)
        self.project = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()

    def _references(self, y: Tensor, guidance: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the reference maps at H/16, H/32 and H/64; Nones without guidance."""
        if not self.is_guided:
            return None, None, None
        reference16 = self.reference16(torch.cat((self.guidance16(guidance), y), 1))
        reference32 = self.reference32(reference16)
        return reference16, reference32, self.reference64(reference32)

    def forward(self, y: Tensor, guidance: Tensor | None) -> Tensor:
        """Map y ``B x M x H/16 x W/16`` and guidance ``B x 4 x H/8 x W/8`` to z ``B x N x H/64 x W/64``.

        The guidance may be None where the config says no guidance.
        """
        reference16, reference32, reference64 = self._references(y, guidance)
        x = self.activation(self.guide16(self.conv16(y), reference16))
        x = self.activation(self.guide32(self.conv32(x), reference32))
        x = self.guided1(self.conv64(x), reference64)
        z: Tensor = self.project(self.guided2(x, reference64))
        return z


class ReferenceDecoder(nn.Sequential):
    """f_c: hyper-latent ``B x N x H/64 x W/64`` to the synthesis' reference ``B x N/4 x H/16 x W/16``."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(channels, channels // 2, 5, stride=2, padding=2, output_padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 2, channels // 4, 5, stride=2, padding=2, output_padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 4, 3, padding=1),
        )


class Synthesis(nn.Module):
    """g_s: decoded latent and reference to the content variable."""

    def __init__(self, config: LfgcmConfig) -> None:
        super().__init__()
        latent, channels = config.latent_channels, config.hyper_channels
        reference, fusion = config.reference_channels, config.fusion_factory
        self.reference16 = _fuse(channels // 4 + latent, reference)
        self.reference16_fine = _refine(reference, reference)
        self.reference8 = nn.Sequential(
            nn.ConvTranspose2d(reference, reference, 3, stride=2, padding=1, output_padding=1),
            nn.GELU(),
            nn.Conv2d(reference, reference, 1),
        )
        self.guided1 = SftResidual(latent, fusion)
        self.guided2 = SftResidual(latent, fusion)
        self.at_sixteenth = nn.Sequential(nn.Conv2d(latent, channels, 3, padding=1), *bottlenecks(channels))
        self.guide16 = fusion(channels)
        self.to_eighth = nn.Sequential(ResidualUp(channels, channels), *bottlenecks(channels))
        self.guide8 = fusion(channels)
        self.project = nn.Conv2d(channels, config.content_channels, 3, padding=1)

    def forward(self, y_hat: Tensor, reference: Tensor) -> Tensor:
        """Map ``B x M x H/16 x W/16`` and ``B x N/4 x H/16 x W/16`` to the content variable ``B x 4 x H/8 x W/8``."""
        reference16 = self.reference16(torch.cat((reference, y_hat), 1))
        x = self.guided2(self.guided1(y_hat, reference16), reference16)
        reference16 = self.reference16_fine(reference16)
        x = self.guide16(self.at_sixteenth(x), reference16)
        x = self.guide8(self.to_eighth(x), self.reference8(reference16))
        content: Tensor = self.project(x)
        return content


class LfgcmOutput(NamedTuple):
    """What training needs of one pass: content variable, quantised latents and the likelihoods of every symbol."""

    content: Tensor
    y_hat: Tensor
    z_hat: Tensor
    likelihoods: Sequence[Tensor]


class Lfgcm(nn.Module):
    """The whole compression module, of which sender and receiver each need a part."""

    def __init__(self, config: LfgcmConfig) -> None:
        super().__init__()
        self.config = config
        self.analysis = Analysis(config)
        self.hyper_analysis = HyperAnalysis(config)
        self.prior = FactorisedPrior(config.hyper_channels)
        self.entropy_parameters = EntropyParameters(config.entropy_parameters)
        self.reference_decoder = ReferenceDecoder(config.hyper_channels)
        self.synthesis = Synthesis(config)

    def decode(self, y_hat: Tensor, z_hat: Tensor) -> Tensor:
        """Content variable ``B x 4 x H/8 x W/8`` of ``B x M x H/16 x W/16`` and ``B x N x H/64 x W/64``."""
        content: Tensor = self.synthesis(y_hat, self.reference_decoder(z_hat))
        return content

    def forward(self, picture: Tensor, guidance: Tensor | None) -> LfgcmOutput:
        """Encode, quantise and decode, with straight-through gradients.

        Args:
            picture: ``B x 3 x H x W`` in [0, 1], H and W multiples of 64.
            guidance: ``B x 4 x H/8 x W/8``; may be None where the config says no guidance.

        Returns:
            The content variable ``B x 4 x H/8 x W/8``, y_hat, z_hat, and the likelihoods of y and z: of noisy values
            while training, of the rounded ones otherwise.
        """
        # Under autocast the networks give bfloat16, too coarse for the noise that stands for rounding.
        y = _precise(self.analysis(picture, guidance))
        z_hat, z_likelihood = self.prior(_precise(self.hyper_analysis(y, guidance)))
        y_hat, scales, means = self.entropy_parameters.rate_terms(y, self.entropy_parameters.hyper(z_hat))
        coded = add_uniform_noise(y) if self.training else y_hat
        y_likelihood = gaussian_likelihood(coded - means, scales)
        return LfgcmOutput(self.decode(y_hat, z_hat), y_hat, z_hat, (y_likelihood, z_likelihood))
