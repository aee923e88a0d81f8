"""What one training step keeps in memory, without a GPU and without weights.

Run: ``python -m training.paper.footprint CONFIG.toml [--set key=value ...]``. The modules are built from the configs of
the Stable Diffusion folder alone, of torch's fake tensors, which have shapes but no values; one forward pass counts
every tensor that autograd keeps for the backward pass, each once. It is a lower bound: workspace of the kernels,
fragments and what a backward pass that recomputes holds for a while come on top.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from training.config import Config
from training.paper.model import PaperCodec
from training.paper.objectives import bits_per_pixel, noise_error, relay_error, relay_sample
from training.paper.settings import PaperSettings
from training.paper.stable_diffusion import LATENT_STRIDE, StableDiffusion, build_stable_diffusion
from training.run_stage import read_config

TOKENS = 77
"""Tokens of the prompt that Stable Diffusion takes."""
GIB = 1 << 30


@dataclass(frozen=True)
class Footprint:
    """Bytes that training holds.

    Attributes:
        frozen: weights of autoencoder and UNet.
        trained: weights of compression module and control, and as many again for their moving average.
        optimiser: gradients and AdamW's two moments of them.
        activations: what autograd keeps for one batch.
        parameters: number of trained parameters.
    """

    frozen: int
    trained: int
    optimiser: int
    activations: int
    parameters: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.frozen + self.trained + self.optimiser + self.activations


class _Kept:
    """Adds up the storages that autograd keeps, each once; those of the weights are not counted.

    Args:
        weights: parameters and buffers.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._seen = {_identity(weight) for weight in weights}
        self._alive: list[Tensor] = []
        self.total = 0

    def pack(self, tensor: Tensor) -> Tensor:
        """Take in a tensor that autograd keeps; a hook."""
        identity = _identity(tensor)
        if identity not in self._seen:
            self._seen.add(identity)
            # Held on to, so that no later storage gets the same identity.
            self._alive.append(tensor)
            self.total += tensor.untyped_storage().nbytes()
        return tensor


def _identity(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def measure(config: Config) -> Footprint:
    """Count the bytes of one step of a configuration of stage ``paper_codec``.

    Raises:
        PinholeError: if the Stable Diffusion configs cannot be read.
    """
    settings: PaperSettings = config.settings
    with FakeTensorMode():
        base = build_stable_diffusion(settings.model.stable_diffusion)
        context = torch.zeros(1, TOKENS, int(base.unet.config["cross_attention_dim"]))
        model = PaperCodec(settings.model, base.unet, context).train()
        kept = _Kept([*base.parameters(), *model.parameters(), *model.buffers()])
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            # The loss is held, or its graph would be gone before all is counted.
            loss = _forward(settings, base, model, config.data.batch, config.data.crop)
    assert loss.requires_grad
    weights = _bytes(model.parameters())
    return Footprint(
        frozen=_bytes(base.parameters()),
        trained=2 * weights,
        optimiser=3 * weights,
        activations=kept.total,
        parameters=sum(p.numel() for p in model.parameters()),
    )


def _forward(settings: PaperSettings, base: StableDiffusion, model: PaperCodec, batch: int, crop: int) -> Tensor:
    """Run what `PaperCodecStage.loss` runs, ST-LPIPS left out, on pictures without values."""
    loss = settings.loss
    picture = torch.empty(batch, 3, crop, crop)
    latent = torch.empty(batch, base.vae.config["latent_channels"], *2 * (crop // LATENT_STRIDE,))
    t = torch.zeros(batch, dtype=torch.int64)
    output = model.lfgcm(picture, latent)
    estimate = model.noise_model(base.unet)
    if loss.objective == "unrolled":
        if settings.model.recompute:
            base.vae.enable_gradient_checkpointing()
        painted = base.decode(relay_sample(estimate, output.content, max(loss.steps), loss.start))
        denoising = nn.functional.mse_loss(painted, picture)
    elif loss.objective == "relay":
        denoising = relay_error(estimate, latent, output.content, t, torch.empty_like(latent), loss.start)
    else:
        denoising = noise_error(estimate, latent, output.content, t, torch.empty_like(latent))
    alignment = nn.functional.mse_loss(output.content, latent)
    return denoising + alignment + bits_per_pixel(output.likelihoods, picture)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main() -> None:
    """Print the footprint of a configuration."""
    parser = argparse.ArgumentParser(description="Memory of one training step, counted without a GPU.")
    parser.add_argument("config", type=Path, help="configuration of stage paper_codec")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    options = parser.parse_args()
    footprint = measure(read_config(options.config, options.overrides))
    print(f"{footprint.parameters / 1e6:.1f} million trained parameters, float32")
    for name in ("frozen", "trained", "optimiser", "activations", "total"):
        print(f"{name:>12} {getattr(footprint, name) / GIB:7.2f} GiB")


if __name__ == "__main__":
    main()
