"""How Pinhole opens ONNX graphs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from shared.errors import PinholeError

CPU = "CPUExecutionProvider"

Provider = str | tuple[str, Mapping[str, Any]]
"""Name of one of ONNX Runtime's execution providers, with its options where it has any."""


def open_session(graph: bytes | Path, threads: int = 0, providers: Sequence[Provider] = (CPU,)) -> ort.InferenceSession:
    """Open a graph.

    Args:
        graph: ONNX bytes, or a file of them: no second copy of the weights is in memory while that is opened.
        threads: threads within one operator; 0 takes every core.
        providers: ONNX Runtime's execution providers, the preferred one first.

    Raises:
        PinholeError: if ONNX Runtime refuses the graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning threads would slow torch in the same process and drain batteries on the sender.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps every buffer it ever had; small senders need the memory more than the microseconds.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph), options, providers=list(providers)
        )
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        reason = str(error).splitlines()[0][:120]
        raise PinholeError(
            f"ONNX Runtime cannot open a graph of the bundle ({reason}); install the bundle again"
        ) from error
