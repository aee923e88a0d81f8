"""The files of a bundle, made from trained weights: entropy program and tables, ONNX graphs, receiver's weights."""

from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor, nn

from shared.codec.entropy.coding import LatentCoder, LatentLayout
from shared.codec.entropy.onnx_backend import OnnxBackend
from shared.codec.nets.control import ControlModule
from training.calibration import calibrate
from training.entropy_graphs import entropy_graphs
from training.float_graphs import float_graph
from training.grids import Grids, plan_grids
from training.latents import EntropyModel, LatentSet
from training.models import Codec, Prior
from training.quantise import program_on
from training.table_fit import fit_tables, model_tables


@dataclass(frozen=True)
class TrainedParts:
    """What a bundle is made of.

    Attributes:
        codec: compression module, encoder and decoder; its own entropy model is that of the rate estimate.
        entropy: the entropy model that is exported: the codec's own, or one trained on its grids.
        grids: its grids; None calibrates.
        prior: UNet, latent scale and context token.
        control: the control module.
    """

    codec: Codec
    entropy: EntropyModel
    grids: Grids | None
    prior: Prior
    control: ControlModule

    def modules(self) -> tuple[nn.Module, ...]:
        """Every network, each once."""
        return self.codec, self.prior, self.control


def half(state: dict[str, Tensor]) -> bytes:
    """Serialise weights as float16."""
    return save({name: value.to(torch.float16).contiguous() for name, value in state.items()})


def entropy_files(parts: TrainedParts, latents: LatentSet, calibration: int) -> dict[str, bytes]:
    """Make program, tables and graphs of the integer entropy path.

    Args:
        parts: the trained parts.
        latents: latents of training crops, which the tables are fitted to.
        calibration: how many of them the grids are fitted to where there are none.

    Raises:
        PinholeError: if the grids do not hold the weights.
    """
    model = parts.entropy
    grids = parts.grids
    if grids is None:
        pictures = ((y, z) for y, z, _ in latents.pictures(calibration))
        grids = plan_grids(model.entropy, calibrate(model.entropy, pictures))
    program = program_on(model.entropy, grids)
    graphs = entropy_graphs(program)
    coder = LatentCoder(bundle_layout(parts.codec), model_tables(model.prior), OnnxBackend(graphs))
    tables = fit_tables(coder, latents.arrays(len(latents.y)))
    return {
        "entropy/program.npz": program.to_bytes(),
        "entropy/tables.npz": tables.to_bytes(),
        **{f"entropy/{name}.onnx": graph for name, graph in graphs.items()},
    }


def bundle_layout(codec: Codec) -> LatentLayout:
    """How the codec's latents divide into slices and layers."""
    config = codec.compression.config
    return LatentLayout(config.entropy.hyper_channels, config.entropy.slices, config.layer_slices)


def sender_files(codec: Codec) -> dict[str, bytes]:
    """Make the sender's float graphs."""
    compression = codec.compression
    picture = torch.zeros(1, 3, 128, 192)
    guidance = codec.encoder(picture)
    y = compression.analysis(picture, guidance)
    return {
        "sender/guidance.onnx": float_graph(codec.encoder, {"picture": picture}, [64], "guidance"),
        "sender/analysis.onnx": float_graph(
            compression.analysis, {"picture": picture, "guidance": guidance}, [1, 8], "y"
        ),
        "sender/hyper_analysis.onnx": float_graph(
            compression.hyper_analysis, {"y": y, "guidance": guidance}, [16, 8], "z"
        ),
    }


def receiver_files(parts: TrainedParts) -> dict[str, bytes]:
    """Make the receiver's weights."""
    prior = parts.prior
    latent = {"mean": prior.scale.mean, "deviation": prior.scale.deviation, "context": prior.context}
    return {
        "receiver/synthesis.safetensors": half(parts.codec.compression.synthesis.state_dict()),
        "receiver/decoder.safetensors": half(parts.codec.decoder.state_dict()),
        "receiver/prior.safetensors": half(prior.unet.state_dict()),
        "receiver/control.safetensors": half(parts.control.state_dict()),
        "receiver/latent.safetensors": save({name: value.contiguous() for name, value in latent.items()}),
    }
