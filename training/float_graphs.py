"""ONNX graphs of the sender's float networks: dynamic picture sizes, weights or everything in half precision."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from torch import Tensor, nn

from shared.codec.onnx_session import open_session

SMALLEST_HALVED = 256
"""Weights with fewer numbers stay float32; halving them saves nothing."""

SINGLE_OPERATORS = ("InstanceNormalization", "GroupNormalization", "LayerNormalization", "ReduceMean", "Softmax")
"""They sum over thousands of positions, more than half precision can add up, and stay float32 in half graphs."""


def float_graph(
    module: nn.Module, inputs: Mapping[str, Tensor], steps: Sequence[int], output: str, *, halve: bool = True
) -> bytes:
    """Export a module whose inputs are feature maps of one picture.

    Args:
        module: the network, in float32 on the CPU.
        inputs: an example of every input, ``1 x C x h x w``, in the order of ``forward``.
        steps: for each input, the pixels that one position spans; heights and widths are multiples of a common block.
        output: name of the output.
        halve: whether weights are stored in half precision and cast on loading; the arithmetic is float32 either way.

    Returns:
        ONNX bytes; heights and widths are free.
    """
    rows, columns = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("columns", min=1, max=4096)
    block = max(steps)
    shapes = tuple({2: (block // s) * rows, 3: (block // s) * columns} for s in steps)
    program = torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        dynamo=True,
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes=shapes,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    if halve:
        _halve_weights(model)
    _drop_notes(model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def graph_like(graph: bytes, module: nn.Module) -> bytes | None:
    """Give a float32 graph the weights of another module of the same architecture; that is much quicker than exporting.

    Args:
        graph: ONNX bytes, made with ``halve = False`` of such a module.
        module: whose weights are wanted.

    Returns:
        ONNX bytes; None where the exporter has not left every weight as it was, under its own name.
    """
    model = onnx.load_model_from_string(graph)
    state = module.state_dict()
    weights = {weight.name: weight for weight in model.graph.initializer}
    if any(name not in weights or tuple(weights[name].dims) != value.shape for name, value in state.items()):
        return None
    for name, value in state.items():
        weights[name].CopyFrom(numpy_helper.from_array(value.detach().numpy(), name))
    return bytes(model.SerializeToString())


def half_graph(graph: bytes) -> bytes:
    """Return a graph in half precision, for GPUs; inputs and outputs stay float32, as do `SINGLE_OPERATORS`.

    Args:
        graph: ONNX bytes with float32 weights.
    """
    with warnings.catch_warnings():
        # It tells of every weight too small for float16; `largest_difference` tells what that does.
        warnings.simplefilter("ignore")
        model = convert_float_to_float16(
            onnx.load_model_from_string(graph),
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *SINGLE_OPERATORS],
        )
    # The converter appends its casts at the end, where the standard wants every node after its inputs.
    OnnxModel(model).topological_sort(is_deterministic=True)
    _drop_notes(model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@torch.no_grad()
def largest_difference(graph: bytes, module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[float, float]:
    """Run a graph under ONNX Runtime and the module it was made of under torch.

    Args:
        graph: ONNX bytes.
        module: the network.
        inputs: as for `float_graph`, of any size; another than the example's shows that sizes are free.

    Returns:
        ``(difference, range)``: the largest absolute difference of their outputs, infinite where one is not finite or
        of another shape, and the largest magnitude that torch gives.
    """
    (made,) = open_session(graph).run(None, {name: value.numpy() for name, value in inputs.items()})
    expected = module(*inputs.values()).numpy()
    largest = float(np.abs(expected).max())
    if made.shape != expected.shape or not np.isfinite(made).all() or not np.isfinite(largest):
        return float("inf"), largest
    return float(np.abs(made - expected).max()), largest


def _halve_weights(model: onnx.ModelProto) -> None:
    """Store large float32 weights as float16 and cast them on loading; the arithmetic stays float32."""
    graph = model.graph
    casts = []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < SMALLEST_HALVED:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_notes(model: onnx.ModelProto) -> None:
    graph = model.graph
    # The exporter notes every value's type and the source line of every node; neither is needed to run.
    del graph.value_info[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "pinhole", ""
