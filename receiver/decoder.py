"""The receiver's half of the codec: layers to a preview, and by diffusion to the full picture."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from receiver.networks import ReceiverNetworks, load_networks
from shared.codec.bundle import Bundle
from shared.codec.entropy.coding import LatentCoder
from shared.codec.entropy.onnx_backend import OnnxBackend
from shared.codec.entropy.program import LATENT_BITS
from shared.codec.header import PictureHeader
from shared.codec.interfaces import Pixels
from shared.codec.nets.ddpm import TRAINING_STEPS, SpacedDdpm
from shared.errors import CorruptDataError, PinholeError
from shared.picture import MAX_PIXELS


class TorchDecoder:
    """Decodes pictures with one bundle; satisfies ``PictureDecoder``.

    Entropy decoding runs in integers on the CPU under ONNX Runtime; the networks run under torch on ``device``.

    Args:
        bundle: the bundle.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ... or ``"auto"`` for CUDA where there is one.
        start: timestep that diffusion starts from, 0 to 999 (pure noise); None for the bundle's own.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", *, start: int | None = None) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise PinholeError(f"device {device}: torch finds no CUDA device; use --device cpu or install the driver")
        self.device = torch.device(device)
        self._bundle = bundle
        self._coder = LatentCoder(bundle.layout, bundle.tables(), OnnxBackend(bundle.entropy_graphs()))
        self._networks: ReceiverNetworks = load_networks(bundle, self.device)
        layout = bundle.manifest["layout"]
        self._block, self._hyper_block = int(layout["latent_block"]), int(layout["block"])
        self.default_steps = int(bundle.manifest["diffusion"]["steps"])
        self._start = int(bundle.manifest["diffusion"]["start"]) if start is None else start

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the bundle's hash."""
        return self._bundle.bundle_id

    def preview(self, layers: Sequence[bytes]) -> Pixels:
        """Decode without diffusion; see ``PictureDecoder.preview``."""
        header, content = self.content(layers)
        return self._paint(header, content)

    def decode(self, layers: Sequence[bytes], *, steps: int | None = None, seed: int = 0) -> Pixels:
        """Decode with diffusion; see ``PictureDecoder.decode``.

        Raises:
            CorruptDataError: if a layer is damaged.
            PinholeError: if there are more ``steps`` than timesteps, or fewer than none.
        """
        steps = self.default_steps if steps is None else steps
        if not 0 <= steps <= self._start + 1:
            raise PinholeError(f"{steps} diffusion steps: give 0 (preview) to {self._start + 1}")
        header, content = self.content(layers)
        return self._paint(header, content if steps == 0 else self._diffuse(content, steps, seed))

    @torch.no_grad()
    def content(self, layers: Sequence[bytes]) -> tuple[PictureHeader, Tensor]:
        """Decode layers to the content variable, ``1 x C x H/8 x W/8`` of the padded picture.

        Raises:
            CorruptDataError: if a layer is damaged or belongs to another bundle.
        """
        if not layers:
            raise CorruptDataError("a picture without its base layer cannot be decoded; wait for layer 0")
        header, length = PictureHeader.unpack(layers[0])
        if header.bundle_id != self.bundle_id:
            raise CorruptDataError(
                f"picture was made with bundle {header.bundle_id.hex()}, this is {self.bundle_id.hex()}"
                f" ({self._bundle.name}); give --bundle the one it was made with"
            )
        if header.width * header.height > MAX_PIXELS:
            # Ten bytes can ask for any amount of memory; a picture this large was never made here.
            raise CorruptDataError(
                f"picture header claims {header.width}x{header.height} pixels, more than any picture Pinhole takes"
            )
        highest = self._bundle.operating_points[-1].quality
        if header.quality > highest or header.layers != self._bundle.layout.layers:
            raise CorruptDataError(
                "picture header names a quality or layer count its bundle does not have; send it again"
            )
        if len(layers) > header.layers:
            raise CorruptDataError(
                f"picture has {len(layers)} layers, its header says {header.layers}; drop the others"
            )
        rows, columns = (-(-side // self._hyper_block) for side in (header.height, header.width))
        per_block = self._hyper_block // self._block
        payloads = [layers[0][length:], *layers[1:]]
        y_hat, z = self._coder.decode(payloads, rows * per_block, columns * per_block, layers[0][:length])
        y = torch.from_numpy(y_hat.astype(np.float32)).to(self.device) / (1 << LATENT_BITS)
        z_hat = torch.from_numpy(z.astype(np.float32)).to(self.device)
        inverse_gain = torch.from_numpy(self._bundle.inverse_gain(header.quality)).to(self.device)
        return header, self._networks.synthesis(y * inverse_gain, z_hat)

    @torch.no_grad()
    def _diffuse(self, content: Tensor, steps: int, seed: int) -> Tensor:
        networks = self._networks
        normal = networks.scale.normalise(content)
        # Noise always comes from the CPU's generator: another device would draw another picture from the same seed.
        generator = torch.Generator().manual_seed(seed & 0x7FFFFFFFFFFFFFFF)
        draws = (torch.randn(normal.shape, generator=generator).to(self.device) for _ in range(steps + 1))
        sampler = SpacedDdpm(steps, self._start)

        def estimate(x: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
            noise: Tensor = networks.control(networks.unet, x, timesteps, networks.context, condition)
            return noise

        start = next(draws)
        if self._start < TRAINING_STEPS - 1:
            # Started from pure noise, the small prior has to find again what the content variable says already.
            start = sampler.add_noise(normal, steps - 1, start)
        clean = sampler.sample(estimate, normal, start, [next(draws) for _ in range(steps)])
        return networks.scale.restore(clean)

    @torch.no_grad()
    def _paint(self, header: PictureHeader, latent: Tensor) -> Pixels:
        picture = self._networks.decoder(latent)[0, :, : header.height, : header.width]
        if not torch.isfinite(picture).all():
            raise PinholeError("decoded picture has values that are not numbers; decode it again on the CPU")
        levels = ((picture.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())
