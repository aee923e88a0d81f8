"""The entropy program under ONNX Runtime: what both ends run by default.

The graphs are made by ``training.entropy_graphs`` from the same integer layers, one for the hyper-decoder and two for
each slice.
"""

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from shared.codec.entropy.backend import Maps
from shared.codec.entropy.integer import Integers
from shared.codec.onnx_session import open_session


class OnnxBackend:
    """Computes the entropy program with ONNX Runtime on the CPU.

    Args:
        graphs: ONNX bytes by name: ``hyper``, ``anchor_0``, ``nonanchor_0``, ...
        threads: threads within one operator; 0 takes every core.
    """

    def __init__(self, graphs: Mapping[str, bytes], threads: int = 0) -> None:
        self._sessions: dict[str, ort.InferenceSession] = {
            name: open_session(graph, threads) for name, graph in graphs.items()
        }

    def _run(self, name: str, **inputs: Maps) -> list[Integers]:
        session = self._sessions[name]
        # A graph has no input for what its slice does not use: the first one has no channel context.
        wanted = {i.name for i in session.get_inputs()}
        feed = {key: value.astype(np.float32) for key, value in inputs.items() if key in wanted}
        return [output.astype(np.int32) for output in session.run(None, feed)]

    def hyper(self, z: Integers) -> Integers:
        """See `EntropyBackend.hyper`."""
        return self._run("hyper", z=z)[0]

    def anchor(self, index: int, hyper: Maps, earlier: Integers) -> tuple[Integers, Integers, Integers]:
        """See `EntropyBackend.anchor`."""
        outputs = self._run(f"anchor_{index}", hyper=hyper, earlier=earlier)
        if len(outputs) == 2:
            outputs.append(np.zeros((1, 0, *hyper.shape[2:]), np.int32))
        return outputs[0], outputs[1], outputs[2]

    def nonanchor(self, index: int, hyper: Maps, channel: Maps, anchors: Integers) -> tuple[Integers, Integers]:
        """See `EntropyBackend.nonanchor`."""
        scales, means = self._run(f"nonanchor_{index}", hyper=hyper, channel=channel, anchors=anchors)
        return scales, means
