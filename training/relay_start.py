"""What the relay starts from: the stages of a run, or a finished bundle."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from receiver.networks import ReceiverNetworks
from shared.codec.nets.autoencoder import LatentDecoder
from shared.codec.nets.control import ControlModule
from training.models import PocketModels, Prior, guidance_and_content
from training.stage import Context
from training.start_bundle import BundleCodec, open_start_bundle

Latents = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]]
"""Pictures, operating points, whether to cut layers off: guidance latent and content variable, as
`training.models.guidance_and_content`."""


@dataclass(frozen=True)
class RelayStart:
    """A frozen codec, and the networks that the relay trains.

    Attributes:
        latents: the codec.
        prior: UNet, latent scale and context token, on the CPU.
        control: the control module, on the CPU.
        decoder: the decoder, on the CPU.
    """

    latents: Latents
    prior: Prior
    control: ControlModule
    decoder: LatentDecoder


def relay_start(model: PocketModels, context: Context) -> RelayStart:
    """Load what ``[start]`` names: a ``bundle``, or else the stages ``codec``, ``prior`` and ``control``.

    Raises:
        UsageError: if a part is not named.
        PinholeError: if bundle or checkpoint cannot be read or do not fit the architecture.
    """
    return _from_bundle(model, context) if context.has("bundle") else _from_stages(model, context)


def _from_stages(model: PocketModels, context: Context) -> RelayStart:
    codec = model.codec()
    context.load("codec", codec)
    codec.requires_grad_(False).eval().to(context.device).to(memory_format=torch.channels_last)
    prior = model.prior()
    context.load("prior", prior)
    control = model.diffusion.control(prior.unet)
    context.load("control", control)
    decoder = LatentDecoder(model.autoencoder)
    decoder.load_state_dict(codec.decoder.state_dict())
    return RelayStart(partial(guidance_and_content, codec), prior, control, decoder)


def _from_bundle(model: PocketModels, context: Context) -> RelayStart:
    bundle = open_start_bundle(context.start["bundle"], model)
    frozen = ReceiverNetworks(bundle, context.device)
    (weights,) = bundle.weight_sets
    prior = model.prior()
    control = model.diffusion.control(prior.unet)
    decoder = LatentDecoder(model.autoencoder)
    # Copies: the bundle's own networks are frozen.
    prior.unet.load_state_dict(frozen.unet.state_dict())
    prior.scale.load_state_dict(frozen.scale.state_dict())
    prior.context.copy_(frozen.context)
    control.load_state_dict(frozen.steering(weights).control.state_dict())
    decoder.load_state_dict(frozen.decoder.state_dict())
    return RelayStart(BundleCodec(bundle, frozen), prior, control, decoder)
