from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL
from onnx import TensorProto
from torch import Tensor, nn

from shared.codec.nets.lfgcm import Lfgcm, LfgcmConfig
from shared.codec.onnx_session import open_session
from shared.errors import PinholeError
from training.float_graphs import SINGLE_OPERATORS, float_graph, half_graph, largest_difference
from training.importing import sender_graphs
from training.importing.sender_graphs import CentredHyperAnalysis, GuidanceEncoder, PictureAnalysis, checked_graph

PICTURES = [{"picture": torch.rand(1, 3, *size) * 2 - 1} for size in ((64, 128), (192, 64))]


@pytest.fixture(scope="module")
def encoder() -> GuidanceEncoder:
    torch.manual_seed(3)
    make: Any = AutoencoderKL
    vae = make(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    module = GuidanceEncoder(vae).eval().requires_grad_(False)
    # A bright constant is what normalisation in half precision would stumble over first.
    module.encoder.conv_in.bias.fill_(60.0)
    return module


@pytest.fixture(scope="module")
def single(encoder: GuidanceEncoder) -> bytes:
    return float_graph(encoder, PICTURES[0], [64], "guidance", halve=False)


def run(graph: bytes, inputs: Mapping[str, Tensor]) -> Any:
    return open_session(graph).run(None, {name: value.numpy() for name, value in inputs.items()})[0]


def test_the_encoder_is_exported_for_every_size(encoder: GuidanceEncoder, single: bytes) -> None:
    for inputs in PICTURES:
        difference, largest = largest_difference(single, encoder, inputs)
        assert largest > 0.01
        assert difference < 1e-4 * largest
        height, width = inputs["picture"].shape[2:]
        assert run(single, inputs).shape == (1, 4, height // 8, width // 8)


def test_the_half_graph_is_near_at_every_size(encoder: GuidanceEncoder, single: bytes) -> None:
    half = half_graph(single)
    assert len(half) < 0.65 * len(single)
    for inputs in PICTURES:
        difference, largest = largest_difference(half, encoder, inputs)
        assert 0 < difference < 0.02 * largest
        assert run(half, inputs).dtype == np.float32


def test_normalisations_and_softmax_stay_in_single_precision(single: bytes) -> None:
    model = onnx.load_model_from_string(half_graph(single))
    made = {output: node for node in model.graph.node for output in node.output}
    kept = [node for node in model.graph.node if node.op_type in SINGLE_OPERATORS]
    assert {"InstanceNormalization", "Softmax"} <= {node.op_type for node in kept}
    for node in kept:
        source = made[node.input[0]]
        assert source.op_type == "Cast"
        assert source.attribute[0].i == TensorProto.FLOAT
    convolutions = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    types = {weight.name: weight.data_type for weight in model.graph.initializer}
    assert {types[name] for name in convolutions} == {TensorProto.FLOAT16}
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [TensorProto.FLOAT]


def test_medians_and_the_pictures_range_are_in_the_graphs_modules() -> None:
    torch.manual_seed(4)
    config = LfgcmConfig(
        analysis_widths=(4, 4, 8, 8), hyper_channels=8, latent_channels=12, reference_channels=4, slices=(4, 8)
    )
    lfgcm = Lfgcm(config).eval().requires_grad_(False)
    lfgcm.prior.quantiles[:, 0, 1] = torch.linspace(-2, 2, 8)
    picture, guidance = PICTURES[0]["picture"], torch.randn(1, 4, 8, 16)
    y = PictureAnalysis(lfgcm)(picture, guidance)
    assert torch.equal(y, lfgcm.analysis(picture / 2 + 0.5, guidance))
    z = CentredHyperAnalysis(lfgcm)(y, guidance)
    torch.testing.assert_close(z + torch.linspace(-2, 2, 8)[None, :, None, None], lfgcm.hyper_analysis(y, guidance))


class Twice(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, picture: Tensor) -> Tensor:
        return picture * self.factor


def test_a_graph_that_is_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: nn.Module, *arguments: Any, **options: Any) -> bytes:
        return float_graph(Twice(2.01), *arguments, **options)

    assert checked_graph("guidance", Twice(2.0), PICTURES, [64], False).difference == 0
    monkeypatch.setattr(sender_graphs, "float_graph", wrong)
    with pytest.raises(PinholeError, match="graph guidance gives other numbers than torch: they differ by up to"):
        checked_graph("guidance", Twice(2.0), PICTURES, [64], False)


def test_a_half_graph_that_is_off_is_left_out() -> None:
    # 10^5 is more than half precision holds.
    graph = checked_graph("guidance", nn.Sequential(Twice(1e5), Twice(1e-5)), PICTURES, [64], True)
    assert graph.half is None
    assert graph.half_difference is not None
    assert graph.half_difference > 0.05
    assert checked_graph("guidance", Twice(2.0), PICTURES, [64], True).half is not None


def test_stored_halves_are_still_computed_with_in_single_precision() -> None:
    torch.manual_seed(5)
    module = nn.Conv2d(3, 32, 3, padding=1).requires_grad_(False)
    stored = float_graph(module, PICTURES[0], [64], "guidance")
    assert TensorProto.FLOAT16 in {w.data_type for w in onnx.load_model_from_string(stored).graph.initializer}
    difference, largest = largest_difference(stored, module, PICTURES[1])
    assert 0 < difference < 0.001 * largest
