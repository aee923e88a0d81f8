"""A finished bundle as what training goes on from: its codec as it runs in the field, and the receiver's weights.

A bundle does not hold the float entropy parameters that the codec was trained with, only the integer program made of
them. So the codec of a bundle is not rebuilt: the sender's graphs, the integer path and the synthesis run as they do on
both ends of a link, and what a stage trains on is what a receiver will have, the decoded latent to the bit.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from receiver.networks import POCKET, ReceiverNetworks, pocket_config, tuples
from sender.graphs import FloatGraph, SetGraphs
from shared.codec.bundle import Bundle, find_bundle
from shared.codec.entropy.coding import UNIT
from shared.codec.nets.autoencoder import AutoencoderConfig
from shared.codec.nets.diffusion import DiffusionConfig
from shared.codec.onnx_session import CPU
from shared.errors import PinholeError
from training.models import PocketModels

_SALT = b""
"""Nothing: these layers are cut and decoded here and go nowhere."""


def open_start_bundle(name: str, model: PocketModels) -> Bundle:
    """Open the bundle that ``[start] bundle`` names.

    Args:
        name: of a bundle that comes with Pinhole, or a folder.
        model: architecture of the run.

    Raises:
        PinholeError: if there is no such bundle, or it is of another family or architecture.
    """
    bundle = find_bundle(name)
    networks = bundle.manifest.get("networks", {})
    family = networks.get("family", POCKET)
    if family != POCKET:
        raise PinholeError(f"[start] bundle {name} is of family '{family}'; only pocket bundles can be trained on")
    try:
        own: dict[str, object] = {
            "autoencoder": AutoencoderConfig(**tuples(networks["autoencoder"])),
            "compression": pocket_config(networks["compression"]),
            "diffusion": DiffusionConfig(**tuples(networks["diffusion"])),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise PinholeError(
            f"[start] bundle {name}: its networks' configuration is wrong ({error!r}); install it again"
        ) from error
    for part, config in own.items():
        if config != getattr(model, part):
            raise PinholeError(
                f"[start] bundle {name} has another architecture than [model.{part}]; set that to the 'networks' of "
                "its manifest, or name another bundle"
            )
    return bundle


class BundleCodec:
    """Guidance latents and content variables as a bundle's sender and receiver make them.

    Args:
        bundle: a bundle with one set of weights for all operating points.
        networks: its networks.

    Raises:
        PinholeError: if a file is missing or damaged.
    """

    def __init__(self, bundle: Bundle, networks: ReceiverNetworks) -> None:
        # As many threads as the training beside it, which waits meanwhile.
        threads = torch.get_num_threads()
        open_graph = partial(FloatGraph, threads=threads, providers=(CPU,))
        (weights,) = bundle.weight_sets
        self._bundle = bundle
        self._guidance = open_graph(bundle, "guidance")
        self._graphs = SetGraphs(weights, bundle.layout, open_graph, threads)
        self._synthesis = networks.steering(weights).synthesis

    @torch.no_grad()
    def __call__(self, picture: Tensor, point: Tensor, cut: bool = False) -> tuple[Tensor, Tensor]:
        """Return ``(guidance latent, content variable)``, float32 ``B x C x H/8 x W/8`` on the pictures' device.

        Args:
            picture: ``B x 3 x H x W`` in [-1, 1], sides multiples of 64.
            point: ``B`` operating points, real-valued, from 0; rounded to the nearest 1/16, as qualities are.
            cut: whether the content variable is decoded from a random prefix of the layers, the same for the batch.

        Raises:
            UsageError: if there is no such operating point.
        """
        refinements = len(self._bundle.layout.layer_slices)
        kept = int(torch.randint(refinements, ())) if cut else refinements
        pixels = picture.detach().float().cpu().numpy()
        made = [self._one(pixels[i : i + 1], 1 + float(point[i]), kept) for i in range(len(pixels))]
        guidance, y, z = (torch.from_numpy(np.concatenate(part)).to(picture.device) for part in zip(*made, strict=True))
        with torch.autocast(picture.device.type, enabled=False):
            return guidance, self._synthesis(y, z)

    def _one(self, picture: NDArray[np.float32], quality: float, kept: int) -> tuple[NDArray[np.float32], ...]:
        """Return guidance, y (its gain undone) and z of one picture with its base and ``kept`` refinement layers."""
        graphs, gain = self._graphs, self._bundle.gain(quality)
        guidance = self._guidance(picture=picture)
        y = graphs.analysis(picture=picture, guidance=guidance) * gain
        z = np.rint(graphs.hyper_analysis(y=y, guidance=guidance))
        encoded = graphs.coder.encode(y, z, _SALT)
        y_hat = encoded.y_hat
        if kept < len(encoded.payloads) - 1:
            y_hat, _ = graphs.coder.decode(encoded.payloads[: 1 + kept], y.shape[2], y.shape[3], _SALT)
        undone = y_hat.astype(np.float32) * (self._bundle.inverse_gain(quality) / np.float32(UNIT))
        return guidance, undone, z
