"""Which floating-point type networks run in."""

import torch

from receiver.settings import Precision

_TYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def arithmetic(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type that networks run in.

    Args:
        precision: as in `DecoderSettings`.
        device: where they run.
    """
    if precision != "auto":
        return _TYPES[precision]
    return torch.bfloat16 if _has_bfloat16_units(device) else torch.float32


def _has_bfloat16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        # From compute capability 8.0 (Ampere) on; older ones emulate it slowly.
        return torch.cuda.get_device_capability(device)[0] >= 8
    # oneDNN accepts bfloat16 on any AVX-512 processor, but is no faster there than in float32.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16"))
