"""Read checkpoint files without trusting them: nothing in a file is run, and what is no plain weight is refused.

Stable Diffusion and DiffEIC come as PyTorch Lightning checkpoints, which are pickles: beside the weights they may name
any function to be called. `torch.load(weights_only=True)` refuses all but tensors, and so also the harmless classes
of Lightning (callbacks' states are filed under their class). Those are replaced by stand-ins of ours before they are
looked up; Lightning itself is neither needed nor imported.
"""

import pickle
import pickletools
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from shared.errors import PinholeError

_LIGHTNING = ("pytorch_lightning.", "lightning.", "lightning_fabric.")
_NUMPY = {
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    *(f"numpy.dtypes.{name}DType" for name in ("Bool", "Int32", "Int64", "Float32", "Float64")),
}
"""What a number of NumPy among the training's counters is made of."""
_MASKS = "attn_mask"
"""Entries of this name are masks, whose minus infinities are meant."""
_SHOWN = 8
"""At most so many keys of one kind are named in an error."""
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_LEGACY_PICKLES = 5
"""Pickles that a torch file from before 1.6 has in front of its storages."""


class _LightningStandIn:
    """Takes the place of Lightning's classes; whatever is made of one is a dictionary of what was stored of it.

    Some of them are dictionaries, and the restricted unpickler fills no others than Python's own.
    """

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class _NumpyStandIn:
    """Takes the place of NumPy's scalars and number types, and keeps nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def read_checkpoint_state(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file or of a torch checkpoint (``.ckpt``, ``.pt``, ``.pth``, ``.bin``).

    What counts is the file's content and not its suffix. Tensors stay in the file, mapped into memory, until they are
    used (torch files from before 1.6 are read whole).

    Args:
        path: the file. Of a checkpoint with a ``state_dict`` that is taken and all else left.

    Returns:
        Tensors by name, on the CPU, as they are stored: any shapes and number types, no NaN, no infinity.

    Raises:
        PinholeError: if there is no such file, it is empty, cut off or something else, names anything that is no weight
            (it is not run), or holds other things than finite tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise PinholeError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give a checkpoint file")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if not head:
            raise PinholeError(f"{path} is empty; download it again")
        # A safetensors file starts with the length of its JSON header.
        loaded = load_file(path) if head[8:] == b"{" else _load_pickled(path, head)
    except PinholeError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise PinholeError(
            f"{path} is no checkpoint, damaged or cut off ({_reason(error)}); give a whole .safetensors or torch file"
        ) from error
    return check_tensors(loaded, str(path))


def check_tensors(loaded: Any, where: str) -> dict[str, Tensor]:
    """Make sure that something loaded is a state dictionary of finite tensors.

    Args:
        loaded: a mapping of names to tensors, or one with such a mapping as ``state_dict``.
        where: what an error calls it.

    Returns:
        The tensors by name, without gradients.

    Raises:
        PinholeError: if it is not; the first wrong entry is named.
    """
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not state:
        raise PinholeError(f"{where} holds no state dictionary; give a checkpoint with weights")
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise PinholeError(
                f"{where}: entry {name!r:.80} is of type {type(value).__name__}, not a tensor; give a state dictionary"
            )
        if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise PinholeError(
                f"{where}: {_printable(name)} is no plain tensor of real numbers; give an unchanged checkpoint"
            )
        if not name.endswith(_MASKS) and not _is_finite(value):
            raise PinholeError(
                f"{where}: {_printable(name)} holds NaN or infinity; the file is damaged, download it again"
            )
        tensors[name] = value.detach()
    return tensors


def check_shapes(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Make sure that a state dictionary has these entries and no others, weights in these shapes.

    Args:
        state: tensors by name.
        shapes: expected shapes by name.
        where: what an error calls it.

    Raises:
        PinholeError: if not; missing, unknown and misshapen entries are all named, at most so many of each kind.
    """
    common = sorted(shapes.keys() & state.keys())
    kinds = {
        "missing": sorted(shapes.keys() - state.keys()),
        "unknown": sorted(state.keys() - shapes.keys()),
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {shapes[name]}"
            for name in common
            if tuple(state[name].shape) != shapes[name]
        ],
        "no weights": [f"{name} {state[name].dtype}" for name in common if not state[name].is_floating_point()],
    }
    problems = [
        f"{len(names)} {kind} ({', '.join(map(_printable, names[:_SHOWN]))}{', ...' if len(names) > _SHOWN else ''})"
        for kind, names in kinds.items()
        if names
    ]
    if problems:
        raise PinholeError(f"{where}: keys {'; '.join(problems)}; give the weights that belong to this network")


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() or value.numel() == 0:
        return True
    # Extremes carry NaN along and need no second tensor of that size; 8-bit floats have none.
    low, high = (value if value.element_size() > 1 else value.float()).aminmax()
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _load_pickled(path: Path, head: bytes) -> Any:
    if head.startswith(_ZIP):
        foreign = set(get_unsafe_globals_in_checkpoint(path))
    elif head.startswith(_PICKLE):
        with path.open("rb") as file:
            foreign = set(_globals(file))
    else:
        raise PinholeError(f"{path} is no checkpoint, or damaged; give a .safetensors or torch file")
    stand_ins: dict[str, Any] = {name: _LightningStandIn for name in foreign if name.startswith(_LIGHTNING)}
    stand_ins |= {name: _NumpyStandIn for name in foreign & _NUMPY}
    refused = sorted(foreign - stand_ins.keys())
    if head.startswith(_ZIP) and refused:
        raise _refusal(path, refused)
    with safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]), warnings.catch_warnings():
        # An unusual pickle protocol either loads all the same or is an error.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(_ZIP))
        except pickle.UnpicklingError as error:
            # Of the old format all names were found, torch's own too, so torch itself has to say which it refuses.
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise _refusal(path, [named[1]]) if named else error from error


def _refusal(path: Path, names: list[str]) -> PinholeError:
    return PinholeError(
        f"{path} wants to load {_printable(', '.join(names))}, which is no weight and might run code: refused; "
        "save its state_dict alone as safetensors where you trust it"
    )


def _reason(error: Exception) -> str:
    """Return one short printable line; torch's own are long, coloured, and advise to load unsafely."""
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return _printable(text.splitlines()[0])


def _printable(text: str) -> str:
    """Return at most 120 characters of what a file says, none of which moves a cursor or starts a line."""
    return "".join(character if character.isprintable() else "?" for character in text[:120])


def _globals(file: BinaryIO) -> Iterator[str]:
    # Where the scan fails, so does torch afterwards, and tells more.
    with suppress(Exception):
        for _ in range(_LEGACY_PICKLES):
            for code, argument, _ in pickletools.genops(file):
                if code.name == "GLOBAL":
                    yield str(argument).replace(" ", ".", 1)
