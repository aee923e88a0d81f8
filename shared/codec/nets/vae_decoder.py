"""Stable Diffusion's picture decoder, alone: the ground needs no more of the autoencoder."""

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor, nn


class VaeDecoder(nn.Module):
    """Latent ``B x 4 x H/8 x W/8`` of about unit variance to picture ``B x 3 x H x W``, about [-1, 1] and not clipped.

    Its tensors are named as in diffusers' ``AutoencoderKL``, of which it has those under ``decoder.`` and
    ``post_quant_conv.``.

    Args:
        config: of the ``AutoencoderKL``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        make: Any = AutoencoderKL  # diffusers gives it no types
        whole = make.from_config(dict(config))
        self.post_quant_conv = whole.post_quant_conv or nn.Identity()
        self.decoder = whole.decoder
        self.scaling = float(whole.config["scaling_factor"])

    def forward(self, latent: Tensor) -> Tensor:
        """Return the picture."""
        picture: Tensor = self.decoder(self.post_quant_conv(latent / self.scaling))
        return picture
