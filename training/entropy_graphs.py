"""ONNX graphs of the entropy program: written node by node, weights kept as 8-bit integers in the file."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.codec.entropy.integer import IntegerLayer, Rescale
from shared.codec.entropy.program import EntropyProgram, Layers

OPSET = 17


class _Graph:
    """Collects nodes and constants of one graph; values are named in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: NDArray[np.generic]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def rescale(self, value: str, rescale: Rescale) -> str:
        """Multiply, shift and clip in float64, where every intermediate result is exact."""
        column = (slice(None), None, None)
        wide = self.add("Cast", value, to=TensorProto.DOUBLE)
        scaled = self.add("Mul", wide, self.constant(rescale.multiplier.astype(np.float64)[column]))
        shifted = self.add("Mul", scaled, self.constant((2.0 ** -rescale.shift.astype(np.float64))[column]))
        floored = self.add("Floor", self.add("Add", shifted, self.constant(np.array(0.5))))
        low, high = (self.constant(np.array(float(bound))) for bound in (rescale.low, rescale.high))
        return self.add("Cast", self.add("Clip", floored, low, high), to=TensorProto.FLOAT)

    def layer(self, value: str, layer: IntegerLayer) -> str:
        weight = self.add("Cast", self.constant(layer.weight), to=TensorProto.FLOAT)
        bias = self.constant(layer.bias.astype(np.float32))
        kernel = layer.weight.shape[-1]
        attributes: dict[str, Any] = {"kernel_shape": [kernel] * 2, "pads": [layer.padding] * 4}
        if layer.transposed:
            attributes |= {"strides": [layer.stride] * 2, "output_padding": [layer.stride - 1] * 2}
        total = self.add("ConvTranspose" if layer.transposed else "Conv", value, weight, bias, **attributes)
        out = self.rescale(total, layer.rescale)
        if layer.table is None:
            return out
        position = self.add(
            "Cast", self.add("Add", out, self.constant(np.array(128, np.float32))), to=TensorProto.INT32
        )
        return self.add("Gather", self.constant(layer.table.astype(np.float32)), position)

    def layers(self, value: str, layers: Layers) -> str:
        for layer in layers:
            value = self.layer(value, layer)
        return value

    def serialise(self, inputs: dict[str, int], outputs: dict[str, str]) -> bytes:
        """Make a model of ``inputs`` (name: channels) and ``outputs`` (name: value)."""
        for name, value in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name]))
        graph = helper.make_graph(
            self.nodes,
            "entropy",
            [_feature_map(name, channels) for name, channels in inputs.items()],
            [_feature_map(name, None) for name in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        model.producer_name = "pinhole"
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def _feature_map(name: str, channels: int | None) -> onnx.ValueInfoProto:
    # z and the latents differ in size, so each input names its own dimensions.
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, f"{name}_height", f"{name}_width"])


def entropy_graphs(program: EntropyProgram) -> dict[str, bytes]:
    """Return the ONNX bytes of ``hyper`` and of ``anchor_i`` and ``nonanchor_i`` for every slice i."""
    graph = _Graph()
    hyper = graph.layers(graph.rescale("z", program.z_input), program.hyper)
    hyper_inputs, hyper_channels = program.hyper[0].weight.shape[0], program.hyper[-1].weight.shape[1]
    graphs = {"hyper": graph.serialise({"z": hyper_inputs}, {"hyper": hyper})}
    for i, part in enumerate(program.parts):
        graph, inputs, outputs = _Graph(), {"hyper": hyper_channels}, {}
        context = "hyper"
        if part.channel:
            inputs["earlier"] = program.offsets[i]
            outputs["channel"] = graph.layers(graph.rescale("earlier", program.y_input), part.channel)
            context = graph.add("Concat", outputs["channel"], "hyper", axis=1)
        scales, means = _halves(graph, graph.layers(context, part.anchor), program.slices[i])
        graphs[f"anchor_{i}"] = graph.serialise(inputs, {"scales": scales, "means": means, **outputs})

        graph, inputs = _Graph(), {"hyper": hyper_channels, "anchors": program.slices[i]}
        local = graph.layers(graph.rescale("anchors", program.y_input), part.local)
        contexts = [local, "hyper"]
        if part.channel:
            inputs["channel"] = part.channel[-1].weight.shape[0]
            contexts.insert(1, "channel")
        value = graph.layers(graph.add("Concat", *contexts, axis=1), part.nonanchor)
        scales, means = _halves(graph, value, program.slices[i])
        graphs[f"nonanchor_{i}"] = graph.serialise(inputs, {"scales": scales, "means": means})
    return graphs


def _halves(graph: _Graph, value: str, channels: int) -> tuple[str, str]:
    axes = graph.constant(np.array([1], np.int64))
    bounds = [graph.constant(np.array([b], np.int64)) for b in (0, channels, 2 * channels)]
    return (
        graph.add("Slice", value, bounds[0], bounds[1], axes),
        graph.add("Slice", value, bounds[1], bounds[2], axes),
    )
