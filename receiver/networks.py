"""The receiver's networks of a bundle, loaded from safetensors and ready to run."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from safetensors.torch import load
from torch import Tensor, nn

from shared.codec.bundle import Bundle
from shared.codec.nets.autoencoder import AutoencoderConfig, LatentDecoder
from shared.codec.nets.control import ControlModule
from shared.codec.nets.diffusion import DiffusionConfig, LatentScale
from shared.codec.nets.entropy_parameters import EntropyParametersConfig
from shared.codec.nets.pocket import PocketConfig, PocketSynthesis
from shared.errors import PinholeError

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class ReceiverNetworks:
    """What turns decoded latents into pictures.

    Attributes:
        synthesis: y (gain undone) and z to the content variable.
        decoder: latent to picture in [-1, 1].
        unet: the frozen prior.
        control: steers the prior by the content variable.
        scale: normalises latents for the diffusion.
        context: stored embedding of the empty prompt, ``1 x tokens x width``.
    """

    synthesis: nn.Module
    decoder: nn.Module
    unet: nn.Module
    control: ControlModule
    scale: LatentScale
    context: Tensor


def tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Turn the lists that JSON knows back into the tuples that configurations have."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def pocket_config(values: dict[str, Any]) -> PocketConfig:
    """Read a ``PocketConfig`` from a manifest."""
    entropy = EntropyParametersConfig(**tuples(values["entropy"]))
    return PocketConfig(**{**tuples(values), "entropy": entropy})


def load_networks(bundle: Bundle, device: torch.device) -> ReceiverNetworks:
    """Load a bundle's receiver half in float32 onto a device.

    Raises:
        PinholeError: if a file is missing or damaged, or the weights do not fit the manifest's configuration.
    """
    config = bundle.manifest["networks"]
    diffusion = DiffusionConfig(**tuples(config["diffusion"]))
    unet = diffusion.unet()

    def filled(name: str, module: _Module) -> _Module:
        try:
            state = load(bundle.read(f"receiver/{name}.safetensors"))
            module.load_state_dict({key: value.float() for key, value in state.items()})
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise PinholeError(f"bundle {bundle.name}: {name} does not fit its manifest ({reason})") from error
        module.to(device).to(memory_format=torch.channels_last)
        return module.eval().requires_grad_(False)

    prior = load(bundle.read("receiver/latent.safetensors"))
    scale = LatentScale(diffusion.latent_channels)
    scale.load_state_dict({key: prior[key].float() for key in ("mean", "deviation")})
    return ReceiverNetworks(
        filled("synthesis", PocketSynthesis(pocket_config(config["compression"]))),
        filled("decoder", LatentDecoder(AutoencoderConfig(**tuples(config["autoencoder"])))),
        filled("prior", unet),
        filled("control", diffusion.control(unet)),
        scale.to(device),
        prior["context"].float().to(device),
    )
