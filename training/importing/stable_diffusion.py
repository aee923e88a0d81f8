"""The base of an imported bundle: Stable Diffusion's parts and the empty prompt, as import needs them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor

from shared.codec.nets.unet_keys import unet_keys
from shared.codec.nets.vae_keys import modern_vae_name
from shared.errors import PinholeError
from training.importing.writer import described
from training.official_config import Overrides
from training.paper.prompt import stored_prompt
from training.paper.sources import PartFile
from training.paper.stable_diffusion import LATENT_STRIDE, StableDiffusionParts, read_stable_diffusion

DECODER = ("decoder.", "post_quant_conv.")
"""What of the autoencoder the ground needs."""


@dataclass(frozen=True)
class Base:
    """Stable Diffusion with an empty prompt.

    Attributes:
        parts: configurations and tensors; the tensors are mapped from their files.
        context: embedding of the empty prompt, ``1 x tokens x width`` float32.
    """

    parts: StableDiffusionParts
    context: Tensor

    @property
    def summary(self) -> str:
        """What it is, for people."""
        parameters = sum(value.numel() for value in (*self.parts.unet.values(), *self.parts.vae.values()))
        return (
            f"{self.parts.source}, {parameters / 1e6:.0f} million parameters, UNet of widths "
            f"{self.parts.unet_config['block_out_channels']}, empty prompt of {self.context.shape[1]} tokens"
        )

    def vae(self) -> Any:
        """Return the autoencoder in float32, in evaluation mode."""
        make: Any = AutoencoderKL
        with torch.device("meta"):
            vae = make.from_config(self.parts.vae_config)
        vae.load_state_dict({name: value.float() for name, value in self.parts.vae.items()}, assign=True)
        return vae.eval().requires_grad_(False)

    def decoder_state(self) -> dict[str, Tensor]:
        """Return the tensors that the ground needs of the autoencoder, float32."""
        return {name: value.float() for name, value in self.parts.vae.items() if name.startswith(DECODER)}

    def references(self, report: Callable[[str], None]) -> dict[str, dict[str, Any]]:
        """Return the manifest's entries of files that a bundle can refer to.

        A UNet that cannot be referred to is an error, since it is what the user does not want to copy. The decoder is
        copied where it cannot. Names of old files are no hindrance: the receiver knows them too.

        Raises:
            PinholeError: if the UNet is not one safetensors file in diffusers' layout.
        """
        external = {"receiver/unet.safetensors": _entry(self.parts.reference("unet"))}
        vae = self.parts.files["vae"]
        if len(vae) == 1 and vae[0].safetensors and _has_names(vae[0].path, self.decoder_state()):
            external["receiver/vae.safetensors"] = _entry(vae[0])
        else:
            report("the decoder is copied: it is not in one safetensors file")
        for name, entry in external.items():
            report(f"{name}: {entry['file']} of {entry['source']}, {entry['bytes'] / 1e6:.0f} MB, not copied")
        return external


def read_base(source: str, overrides: Overrides, prompt: Path | None) -> Base:
    """Read Stable Diffusion, every key used once and every shape checked.

    Args:
        source: diffusers folder, hub id or original checkpoint file.
        overrides: what shapes cannot tell.
        prompt: safetensors file with the empty prompt's embedding; None takes it from the source.

    Raises:
        PinholeError: if anything is missing, unknown or damaged, there is no empty prompt, or the parts do not belong
            together.
    """
    parts = read_stable_diffusion(source, overrides, prompt is None)
    stride = 2 ** (len(parts.vae_config["block_out_channels"]) - 1)
    channels, latent = parts.unet_config["in_channels"], parts.vae_config["latent_channels"]
    if stride != LATENT_STRIDE or channels != latent:
        raise PinholeError(
            f"{source}: the autoencoder shrinks sides by {stride} to {latent} channels and the UNet takes {channels}; "
            f"give Stable Diffusion, which shrinks them by {LATENT_STRIDE} to as many channels as the UNet takes"
        )
    if prompt is not None and not prompt.is_file():
        raise PinholeError(f"--prompt-embedding {prompt} does not exist; give the file or leave the option out")
    context = parts.context if prompt is None else stored_prompt(prompt)
    if context is None:
        raise PinholeError(
            f"{source} has no text encoder and no empty_prompt.safetensors to take the empty prompt from; "
            "give --prompt-embedding FILE, which python -m training.paper.prompt writes"
        )
    width = int(parts.unet_config["cross_attention_dim"])
    if context.ndim != 3 or len(context) != 1 or context.shape[2] != width:
        raise PinholeError(
            f"{prompt or source}: the empty prompt's embedding is {tuple(context.shape)}, but the UNet wants "
            f"(1, tokens, {width}); take both from one model"
        )
    return Base(parts, context.contiguous())


def check_own_unet(
    own: Mapping[str, Tensor], unet: UNet2DConditionModel, state: Mapping[str, Tensor], where: str
) -> None:
    """Make sure that a UNet which a checkpoint of DiffEIC carries is that of Stable Diffusion.

    Args:
        own: its tensors by LDM's names, without prefix; empty for none.
        unet: the base, with or without weights.
        state: the base's tensors by diffusers' names.
        where: what an error calls the checkpoint.

    Raises:
        PinholeError: if it is another one.
    """
    keys = unet_keys(unet)
    for name, value in own.items():
        ours = keys.get(name)
        if ours is None or value.shape != state[ours].shape or not torch.equal(value.float(), state[ours].float()):
            raise PinholeError(
                f"{where} carries a UNet of its own, whose {name} is not that of --sd; give the Stable Diffusion that "
                "it was trained on"
            )


def _has_names(path: Path, wanted: Mapping[str, Tensor]) -> bool:
    with safe_open(path, framework="pt") as file:
        return wanted.keys() <= {modern_vae_name(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _entry(file: PartFile) -> dict[str, Any]:
    return {"source": file.source, "file": file.file, **described(file.path)}
