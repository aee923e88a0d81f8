"""The receiver's networks of a bundle, loaded from safetensors and ready to run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from receiver.halos import lfgcm_halo, pocket_decoder_halo, pocket_synthesis_halo
from shared.codec.bundle import Bundle
from shared.codec.nets.autoencoder import AutoencoderConfig, LatentDecoder
from shared.codec.nets.control import ControlConfig, ControlModule
from shared.codec.nets.diffusion import DiffusionConfig, LatentScale
from shared.codec.nets.entropy_parameters import EntropyParametersConfig
from shared.codec.nets.lfgcm import LfgcmConfig
from shared.codec.nets.lfgcm_synthesis import LfgcmSynthesis
from shared.codec.nets.pocket import PocketConfig, PocketSynthesis
from shared.codec.nets.vae_decoder import VaeDecoder
from shared.codec.nets.vae_keys import linear_weight, modern_vae_name
from shared.codec.weight_set import WeightSet
from shared.errors import PinholeError, UsageError

POCKET, DIFFEIC = "pocket", "diffeic"
"""Families of networks: the small ones of our own, and the paper's on Stable Diffusion."""


@dataclass(frozen=True)
class Steering:
    """What of the receiver's networks belongs to a weight set.

    Attributes:
        synthesis: y (gain undone) and z (without medians) to the content variable, always in float32.
        control: steers the prior by the content variable.
    """

    synthesis: nn.Module
    control: ControlModule


@dataclass(frozen=True)
class Parts:
    """How the networks of a family are built, before weights are filled in.

    Attributes:
        decoder: latent to picture in [-1, 1].
        decoder_file: where its weights are.
        decoder_halo: how many latent positions it sees to each side; None where it sees the whole picture.
        unet: the prior.
        unet_file: where its weights are.
        synthesis: of a weight set.
        synthesis_halo: how many blocks of 64 pixels it sees to each side.
        control: of a weight set.
    """

    decoder: Callable[[], nn.Module]
    decoder_file: str
    decoder_halo: int | None
    unet: Callable[[], UNet2DConditionModel]
    unet_file: str
    synthesis: Callable[[], nn.Module]
    synthesis_halo: int
    control: Callable[[UNet2DConditionModel], ControlModule]


class ReceiverNetworks:
    """What turns decoded latents into pictures.

    Attributes:
        decoder: latent to picture in [-1, 1].
        decoder_halo: as in `Parts`.
        synthesis_halo: as in `Parts`.
        unet: the frozen prior.
        scale: normalises latents for the diffusion.
        context: stored embedding of the prompt, ``1 x tokens x width``.

    Args:
        bundle: the bundle.
        device: where the networks go.
        dtype: what prior, control and decoder run in; the synthesis and the latents' scale stay float32.
        channels_last: whether weights lie channels-last in memory.
        prompt: name of a stored prompt, None for the empty one.

    Raises:
        PinholeError: if a file is missing or damaged, or the weights do not fit the manifest's configuration.
        UsageError: if there is no such prompt.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        channels_last: bool = True,
        prompt: str | None = None,
    ) -> None:
        self._bundle, self._device, self._dtype = bundle, device, dtype
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._parts = network_parts(bundle)
        self.decoder_halo, self.synthesis_halo = self._parts.decoder_halo, self._parts.synthesis_halo
        self.decoder = self._filled(self._parts.decoder, self._parts.decoder_file, bundle.path, dtype)
        self.unet = self._filled(self._parts.unet, self._parts.unet_file, bundle.path, dtype)
        channels = int(self.unet.config["in_channels"])
        self.scale = LatentScale(channels).to(device)
        self.context = _context(bundle, prompt, int(self.unet.config["cross_attention_dim"])).to(device, dtype)
        if bundle.has("receiver/latent.safetensors"):
            stored = _tensors(bundle.path("receiver/latent.safetensors"), bundle.name)
            self.scale.load_state_dict({key: stored[key].float() for key in ("mean", "deviation")})
        self._steering: dict[str, Steering] = {}

    def steering(self, weights: WeightSet) -> Steering:
        """Return what belongs to a weight set, loading it at the first call; errors as the constructor."""
        if weights.name not in self._steering:
            self._steering[weights.name] = Steering(
                self._filled(self._parts.synthesis, "receiver/synthesis.safetensors", weights.path, torch.float32),
                self._filled(
                    lambda: self._parts.control(self.unet), "receiver/control.safetensors", weights.path, self._dtype
                ),
            )
        return self._steering[weights.name]

    def _filled(self, build: Callable[[], Any], file: str, locate: Callable[[str], Path], dtype: torch.dtype) -> Any:
        """Build a network without memory for its weights, and give it those of a file."""
        with torch.device("meta"):
            module: nn.Module = build()
        wanted = module.state_dict()
        tensors = _tensors(locate(file), self._bundle.name, wanted)
        state = {name: self._placed(value, dtype) for name, value in tensors.items()}
        try:
            module.load_state_dict(state, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise PinholeError(f"bundle {self._bundle.name}: {file} does not fit its manifest ({reason})") from error
        return module.eval().requires_grad_(False)

    def _placed(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        value = value.to(self._device, dtype)
        return value.contiguous(memory_format=self._format) if value.ndim == 4 else value.contiguous()


def network_parts(bundle: Bundle) -> Parts:
    """Read from a bundle's manifest how its networks are built.

    Raises:
        PinholeError: if the manifest is incomplete, or of a family that is not known here.
    """
    networks = bundle.manifest["networks"]
    family = networks.get("family", POCKET)
    try:
        if family == POCKET:
            diffusion = DiffusionConfig(**tuples(networks["diffusion"]))
            compression = pocket_config(networks["compression"])
            autoencoder = AutoencoderConfig(**tuples(networks["autoencoder"]))
            return Parts(
                lambda: LatentDecoder(autoencoder),
                "receiver/decoder.safetensors",
                pocket_decoder_halo(autoencoder),
                diffusion.unet,
                "receiver/prior.safetensors",
                lambda: PocketSynthesis(compression),
                pocket_synthesis_halo(compression),
                lambda unet: ControlModule(unet, ControlConfig.for_unet(unet, diffusion.control_ratio)),
            )
        if family == DIFFEIC:
            lfgcm = LfgcmConfig(**tuples(networks["lfgcm"]))
            control = ControlConfig(**tuples(networks["control"]))
            return Parts(
                lambda: VaeDecoder(networks["vae"]),
                "receiver/vae.safetensors",
                None,
                lambda: UNet2DConditionModel.from_config(dict(networks["unet"])),
                "receiver/unet.safetensors",
                lambda: LfgcmSynthesis(lfgcm),
                lfgcm_halo(lfgcm),
                lambda unet: ControlModule(unet, control),
            )
    except (KeyError, TypeError, ValueError) as error:
        raise PinholeError(
            f"bundle {bundle.name}: its networks' configuration is wrong ({error}); install it again"
        ) from (error)
    raise PinholeError(f"bundle {bundle.name} has networks of family {family!r}, which this Pinhole lacks; update it")


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the lists that JSON knows back into the tuples that configurations have."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def pocket_config(values: dict[str, Any]) -> PocketConfig:
    """Read a ``PocketConfig`` from a manifest."""
    entropy = EntropyParametersConfig(**tuples(values["entropy"]))
    return PocketConfig(**{**tuples(values), "entropy": entropy})


def _context(bundle: Bundle, prompt: str | None, width: int) -> Tensor:
    known = [str(name) for name in bundle.manifest.get("prompts", ())]
    if prompt is not None and prompt not in known:
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise UsageError(
            f"bundle {bundle.name} has no prompt {prompt!r} ({there}); store one with `pinhole bundle embed-prompt`"
        )
    if prompt is not None:
        file = f"receiver/prompts/{prompt}.safetensors"
    else:
        own = "receiver/context.safetensors"
        file = own if bundle.has(own) else "receiver/latent.safetensors"
    context = _tensors(bundle.path(file), bundle.name).get("context")
    if context is None or context.ndim != 3 or len(context) != 1 or context.shape[2] != width:
        shape = "none" if context is None else tuple(context.shape)
        raise PinholeError(
            f"bundle {bundle.name}: {file} must hold a context of (1, tokens, {width}), not {shape}; make it again"
        )
    return context


def _tensors(path: Path, bundle: str, wanted: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Read the tensors of a file, or only those that are wanted and there.

    A file that a bundle refers to holds more than the receiver needs, perhaps under the names of an older diffusers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = {modern_vae_name(name): name for name in file.keys()}  # noqa: SIM118 (no mapping)
            if wanted is None:
                return {name: file.get_tensor(stored) for name, stored in names.items()}
            return {
                name: linear_weight(file.get_tensor(stored), tuple(wanted[name].shape))
                for name, stored in names.items()
                if name in wanted
            }
    except (OSError, SafetensorError, ValueError) as error:
        raise PinholeError(
            f"bundle {bundle}: {path.name} is no safetensors file ({error}); install it again"
        ) from error
