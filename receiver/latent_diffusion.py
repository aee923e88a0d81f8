"""Latents to pictures on one device and in one arithmetic: content variable, diffusion, picture decoder."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from receiver.arithmetic import arithmetic
from receiver.blending import blended
from receiver.layer_reader import ReadPicture
from receiver.networks import ReceiverNetworks
from receiver.noise import NoiseSource
from receiver.painting import decode_tiles
from receiver.samplers import sample
from receiver.settings import DecoderSettings
from receiver.tiles import map_tiles
from shared.codec.bundle import Bundle
from shared.codec.interfaces import Pixels
from shared.codec.nets.control import ControlModule
from shared.codec.nets.ddpm import NoiseModel
from shared.codec.weight_set import WeightSet

POSITIONS_PER_BLOCK = 8
"""Latent positions a side of one block of 64 pixels, which a position of z spans."""


class ControlledUnet(nn.Module):
    """Prior and control as one module, so that they are compiled as one graph."""

    def __init__(self, unet: nn.Module, control: ControlModule, strength: float) -> None:
        super().__init__()
        self.unet, self.control, self._strength = unet, control, strength

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, content: Tensor) -> Tensor:
        """Estimate the noise in x, ``B x C x h x w``; see `ControlModule.forward`."""
        estimate: Tensor = self.control(self.unet, x, timesteps, context, content, self._strength)
        return estimate


class LatentDiffusion:
    """All of the receiver's networks, run as the settings say.

    Attributes:
        dtype: arithmetic of prior, control and picture decoder.

    Args:
        bundle: the bundle.
        device: where everything runs.
        settings: how.

    Raises:
        PinholeError: if the bundle's files are missing, damaged or do not fit.
        UsageError: if the bundle has no such prompt.
    """

    def __init__(self, bundle: Bundle, device: torch.device, settings: DecoderSettings) -> None:
        self._device, self._settings = device, settings
        self.dtype = arithmetic(settings.precision, device)
        self._networks = ReceiverNetworks(
            bundle, device, self.dtype, channels_last=settings.channels_last, prompt=settings.prompt
        )
        self._format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self._models: dict[str, Callable[..., Tensor]] = {}

    @torch.no_grad()
    def content(self, picture: ReadPicture, tile: int) -> Tensor:
        """Return a picture's content variable, float32 ``1 x C x H/8 x W/8`` of the padded picture.

        Args:
            picture: the picture.
            tile: latent positions above which the synthesis runs in tiles; the result is the same.
        """
        y, z = (torch.from_numpy(values).to(self._device) for values in (picture.y, picture.z))
        synthesis = self._networks.steering(picture.weights).synthesis
        if max(z.shape[-2:]) * POSITIONS_PER_BLOCK <= tile:
            content: Tensor = synthesis(y, z)
            return content
        blocks = tile // POSITIONS_PER_BLOCK
        halo = self._networks.synthesis_halo
        return map_tiles(synthesis, (y, z), scale_out=POSITIONS_PER_BLOCK, tile=blocks, halo=halo)

    @torch.no_grad()
    def diffuse(
        self,
        contents: Sequence[Tensor],
        weights: WeightSet,
        noises: Sequence[NoiseSource],
        *,
        sampler: str,
        steps: int,
        start: int,
        tile: int,
    ) -> list[Tensor]:
        """Sample the latents of pictures of one shape; arguments as in `receiver.samplers.sample`.

        Args:
            contents: their content variables, each ``1 x C x h x w``.
            weights: the weight set of all of them.
            noises: of each.
            sampler: name.
            steps: 0 gives the content variables as they are.
            start: timestep.
            tile: latents larger than this are diffused in overlapping tiles.

        Returns:
            Their latents, each ``1 x C x h x w`` float32, perhaps not finite.
        """
        if steps == 0:
            return list(contents)
        scale = self._networks.scale
        model = blended(self._model(weights), tile, min(self._settings.overlap, tile // 2), self._settings.batch)
        clean = sample(
            sampler,
            model,
            scale.normalise(torch.cat(list(contents))),
            steps=steps,
            start=start,
            noises=noises,
            device=self._device,
        )
        restored = scale.restore(clean)
        return [restored[i : i + 1] for i in range(len(restored))]

    @torch.no_grad()
    def pixels(self, latent: Tensor, height: int, width: int, tile: int) -> Pixels:
        """Decode a latent ``1 x C x h x w`` to RGB bytes ``height x width x 3``.

        Raises:
            NonFiniteError: if the decoder's output has values that are not finite.
        """
        halo = self._networks.decoder_halo
        overlap = min(self._settings.overlap, tile // 2)
        return decode_tiles(self.decode_part, latent, tile=tile, overlap=overlap, height=height, width=width, halo=halo)

    def decode_part(self, latent: Tensor) -> Tensor:
        """Decode a latent of a tile's size, ``1 x C x h x w``, to a picture in [-1, 1], float32 ``1 x 3 x 8h x 8w``."""
        picture: Tensor = self._networks.decoder(latent.to(self.dtype, memory_format=self._format))
        return picture.float()

    def _model(self, weights: WeightSet) -> NoiseModel:
        """Return the noise model of a weight set: float32 in and out, whatever it computes in."""
        network, context, dtype = self._network(weights), self._networks.context, self.dtype

        def estimate(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
            if self._settings.compile and self._device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            x, content = (part.to(dtype, memory_format=self._format) for part in (x, content))
            # A copy, because a captured graph writes its next result to the same place.
            return network(x, t, context, content).to(torch.float32, copy=True)

        return estimate

    def _network(self, weights: WeightSet) -> Callable[..., Tensor]:
        if weights.name not in self._models:
            control = self._networks.steering(weights).control
            model: Callable[..., Tensor] = ControlledUnet(self._networks.unet, control, self._settings.strength)
            if self._settings.compile:
                # Said of a version check inside diffusers, which always comes out the same.
                warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
                mode = "reduce-overhead" if self._device.type == "cuda" else "default"
                model = torch.compile(model, dynamic=False, mode=mode)
            self._models[weights.name] = model
        return self._models[weights.name]
