"""ONNX graphs of the sender's float networks: dynamic picture sizes, weights stored in half precision."""

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

SMALLEST_HALVED = 256
"""Weights with fewer numbers stay float32; halving them saves nothing."""


def float_graph(module: nn.Module, inputs: dict[str, Tensor], steps: Sequence[int], output: str) -> bytes:
    """Export a module whose inputs are feature maps of one picture.

    Args:
        module: the network, in float32 on the CPU.
        inputs: an example of every input, ``1 x C x h x w``, in the order of ``forward``.
        steps: for each input, the pixels that one position spans; heights and widths are multiples of a common block.
        output: name of the output.

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
    _halve_weights(model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


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
    # The exporter notes every value's type and the source line of every node; neither is needed to run.
    del graph.value_info[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "pinhole", ""
