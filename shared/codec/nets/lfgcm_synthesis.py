"""The receiver's half of DiffEIC's compression module: decoded latents to the content variable."""

import torch
from torch import Tensor, nn

from shared.codec.nets.lfgcm import LfgcmConfig, ReferenceDecoder, Synthesis


class LfgcmSynthesis(nn.Module):
    """Reference decoder and synthesis of `Lfgcm`, with the medians that the hyper-latent is coded around.

    Attributes:
        medians: ``1 x N x 1 x 1``.
    """

    medians: Tensor

    def __init__(self, config: LfgcmConfig) -> None:
        super().__init__()
        self.reference_decoder = ReferenceDecoder(config.hyper_channels)
        self.synthesis = Synthesis(config)
        self.register_buffer("medians", torch.zeros(1, config.hyper_channels, 1, 1))

    def forward(self, y_hat: Tensor, z: Tensor) -> Tensor:
        """Return the content variable ``B x 4 x H/8 x W/8``.

        Args:
            y_hat: decoded latent ``B x M x H/16 x W/16``.
            z: decoded hyper-latent without its medians, whole numbers, ``B x N x H/64 x W/64``.
        """
        content: Tensor = self.synthesis(y_hat, self.reference_decoder(z + self.medians))
        return content
