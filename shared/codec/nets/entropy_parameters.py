"""Where every latent symbol's mean and scale come from: the space-channel context of ELIC (He et al., CVPR 2022).

Data flow for slice i (shapes without batch; M latent channels, s_i channels in slice i, h = H/16, w = W/16)::

    z_hat --> HyperDecoder ---------------> hyper, 2M x h x w
    slices 0..i-1, decoded --> ChannelContext ---> 2 s_i x h x w       (none for slice 0)

    [channel, hyper]        --> anchor head     --> scales, means      anchors are coded
    anchors --> LocalContext ---------------------> 2 s_i x h x w
    [local, channel, hyper] --> non-anchor head --> scales, means      the other half is coded

Every part is a plain sequence of convolutions and GELUs, so that quantisation can walk it layer by layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from shared.codec.nets.checkerboard import keep_anchors, merge
from shared.codec.nets.likelihood import round_straight_through
from shared.errors import PinholeError


@dataclass(frozen=True)
class EntropyParametersConfig:
    """Widths of the entropy-parameter path; the defaults are those of DiffEIC where the paper fixes them.

    Attributes:
        latent_channels: M, channels of the coded latent y.
        hyper_channels: N, channels of the hyper-latent z.
        slices: channels of every slice of y, in coding order; they sum to M.
        hyper_decoder_widths: hidden widths of the hyper-decoder; None stands for ``(M, 3 M // 2)``.
        context_kernel: side of the kernels of local and channel context, odd.
        channel_context_widths: hidden widths of the channel context.
    """

    latent_channels: int = 320
    hyper_channels: int = 192
    slices: tuple[int, ...] = (8, 8, 8, 8, 16, 16, 32, 32, 96, 96)
    hyper_decoder_widths: tuple[int, int] | None = None
    context_kernel: int = 5
    channel_context_widths: tuple[int, int] = (224, 128)

    def __post_init__(self) -> None:
        """Check that the slices make up the latent.

        Raises:
            PinholeError: if they do not, or if the kernel is even.
        """
        if sum(self.slices) != self.latent_channels or min(self.slices, default=0) < 1:
            raise PinholeError(
                f"slices {self.slices} do not sum to the {self.latent_channels} latent channels; mend them"
            )
        if self.context_kernel % 2 == 0:
            raise PinholeError(f"context_kernel {self.context_kernel} is even; give an odd one")

    @property
    def hyper_widths(self) -> tuple[int, int]:
        """Hidden widths of the hyper-decoder, the default resolved."""
        return self.hyper_decoder_widths or (self.latent_channels, 3 * self.latent_channels // 2)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First channel of every slice in y, and M at the end."""
        return tuple(accumulate(self.slices, initial=0))


class HyperDecoder(nn.Sequential):
    """Hyper-latent ``B x N x h/4 x w/4`` to hyper parameters ``B x 2M x h x w``."""

    def __init__(self, config: EntropyParametersConfig) -> None:
        first, second = config.hyper_widths
        super().__init__(
            nn.ConvTranspose2d(config.hyper_channels, first, 5, stride=2, padding=2, output_padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(first, second, 5, stride=2, padding=2, output_padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(second, 2 * config.latent_channels, 3, padding=1),
        )


class LocalContext(nn.Sequential):
    """Decoded anchors of one slice ``B x s x h x w`` (zeros elsewhere) to ``B x 2s x h x w``.

    One dense convolution: the checkerboard itself is the mask.
    """

    def __init__(self, slice_channels: int, kernel: int = 5) -> None:
        super().__init__(nn.Conv2d(slice_channels, 2 * slice_channels, kernel, padding=kernel // 2))


class ChannelContext(nn.Sequential):
    """All earlier slices ``B x (s_0 + ... + s_i-1) x h x w`` to ``B x 2 s_i x h x w``."""

    def __init__(
        self, earlier: int, slice_channels: int, widths: tuple[int, int] = (224, 128), kernel: int = 5
    ) -> None:
        super().__init__(
            nn.Conv2d(earlier, widths[0], kernel, padding=kernel // 2),
            nn.GELU(),
            nn.Conv2d(widths[0], widths[1], kernel, padding=kernel // 2),
            nn.GELU(),
            nn.Conv2d(widths[1], 2 * slice_channels, kernel, padding=kernel // 2),
        )


class ParameterHead(nn.Sequential):
    """Concatenated contexts ``B x inputs x h x w`` to ``B x 2s x h x w``: s scales, then s means."""

    def __init__(self, inputs: int, slice_channels: int) -> None:
        outputs = 2 * slice_channels
        first, second = outputs * 5 // 3, outputs * 4 // 3
        super().__init__(
            nn.Conv2d(inputs, first, 1),
            nn.GELU(),
            nn.Conv2d(first, second, 1),
            nn.GELU(),
            nn.Conv2d(second, outputs, 1),
        )


class EntropyParameters(nn.Module):
    """Means and scales of every symbol of the latent, slice by slice, anchors before the others.

    Children, all to be indexed by slice: ``local_context[i]``, ``channel_context[i - 1]`` (slice 0 has none),
    ``anchor_heads[i]``, ``nonanchor_heads[i]``; and ``hyper_decoder``.
    """

    def __init__(self, config: EntropyParametersConfig) -> None:
        super().__init__()
        self.config = config
        slices, offsets, kernel = config.slices, config.offsets, config.context_kernel
        hyper = 2 * config.latent_channels
        self.hyper_decoder = HyperDecoder(config)
        self.local_context = nn.ModuleList(LocalContext(s, kernel) for s in slices)
        self.channel_context = nn.ModuleList(
            ChannelContext(offsets[i], s, config.channel_context_widths, kernel) for i, s in enumerate(slices) if i
        )
        self.anchor_heads = nn.ModuleList(ParameterHead(hyper + (2 * s if i else 0), s) for i, s in enumerate(slices))
        self.nonanchor_heads = nn.ModuleList(
            ParameterHead(hyper + 2 * s + (2 * s if i else 0), s) for i, s in enumerate(slices)
        )

    def hyper(self, z_hat: Tensor) -> Tensor:
        """Hyper parameters ``B x 2M x h x w`` of a quantised hyper-latent ``B x N x h/4 x w/4``."""
        hyper: Tensor = self.hyper_decoder(z_hat)
        return hyper

    def _channel(self, i: int, previous: Sequence[Tensor] | Tensor | None) -> list[Tensor]:
        if i == 0:
            return []
        if previous is None or not len(previous):
            raise ValueError(f"slice {i} needs the decoded slices before it")
        earlier = previous if isinstance(previous, Tensor) else torch.cat(tuple(previous), 1)
        return [self.channel_context[i - 1](earlier)]

    @staticmethod
    def _scales_means(parameters: Tensor) -> tuple[Tensor, Tensor]:
        # Under autocast the heads give bfloat16, whose steps near 100 are as large as the symbols'.
        scales, means = parameters.to(torch.promote_types(parameters.dtype, torch.float32)).chunk(2, 1)
        return scales, means

    def anchor(self, i: int, hyper: Tensor, previous: Sequence[Tensor] | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scales and means of slice i, valid at the anchors.

        Args:
            i: slice number, from 0.
            hyper: hyper parameters ``B x 2M x h x w``.
            previous: decoded slices 0..i-1, as one tensor of their channels or one by one; not used for slice 0.

        Returns:
            ``(scales, means)``, each ``B x s_i x h x w``, unbounded and not masked.
        """
        return self._scales_means(self.anchor_heads[i](torch.cat((*self._channel(i, previous), hyper), 1)))

    def nonanchor(
        self, i: int, hyper: Tensor, anchor_half: Tensor, previous: Sequence[Tensor] | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scales and means of slice i, valid at the non-anchors.

        Args:
            i: slice number, from 0.
            hyper: hyper parameters ``B x 2M x h x w``.
            anchor_half: decoded anchors of slice i, ``B x s_i x h x w`` with zeros at the non-anchors.
            previous: as in `anchor`.

        Returns:
            ``(scales, means)``, each ``B x s_i x h x w``, unbounded and not masked.
        """
        return self._nonanchor(i, hyper, anchor_half, self._channel(i, previous))

    def _nonanchor(self, i: int, hyper: Tensor, anchor_half: Tensor, channel: list[Tensor]) -> tuple[Tensor, Tensor]:
        context = (self.local_context[i](anchor_half), *channel, hyper)
        return self._scales_means(self.nonanchor_heads[i](torch.cat(context, 1)))

    def forward(self, y: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise a whole latent in coding order; the same as `rate_terms`."""
        return self.rate_terms(y, hyper)

    def rate_terms(self, y: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise a whole latent in coding order, with gradients.

        Args:
            y: latent ``B x M x h x w``.
            hyper: hyper parameters ``B x 2M x h x w``.

        Returns:
            ``(y_hat, scales, means)``, each ``B x M x h x w``. y_hat is ``round(y - mean) + mean`` with
            straight-through gradients, float32 even under autocast, and is what the contexts of later symbols saw;
            scales are not bounded from below.
        """
        decoded: list[Tensor] = []
        all_scales: list[Tensor] = []
        all_means: list[Tensor] = []
        for i, part in enumerate(torch.split(y, list(self.config.slices), 1)):
            channel = self._channel(i, decoded)
            anchor_scales, anchor_means = self._scales_means(self.anchor_heads[i](torch.cat((*channel, hyper), 1)))
            anchors = keep_anchors(round_straight_through(part - anchor_means) + anchor_means)
            scales, means = self._nonanchor(i, hyper, anchors, channel)
            scales, means = merge(anchor_scales, scales), merge(anchor_means, means)
            all_scales.append(scales)
            all_means.append(means)
            decoded.append(round_straight_through(part - means) + means)
        return torch.cat(decoded, 1), torch.cat(all_scales, 1), torch.cat(all_means, 1)
