"""Checkpoints: one file a stage, written whole or not at all, read with clear errors."""

import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import PinholeError

FILE = "checkpoint.pt"
"""Name of the checkpoint in a stage's folder. It holds a dictionary; ``"average"`` is the averaged weights."""


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write ``folder/checkpoint.pt``; a stop or a power cut leaves the old one or the new one.

    Raises:
        PinholeError: if the disk is full or the folder not writable.
    """
    partial = folder / f"{FILE}.{os.getpid()}.part"
    try:
        try:
            with partial.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(folder / FILE)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        raise PinholeError(f"cannot write {folder / FILE}: {error}; check the folder and the free space") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the dictionary in a checkpoint file, on the CPU. No code in it is run.

    Raises:
        PinholeError: if the file is missing, damaged or no checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PinholeError(f"no checkpoint {path}; train that stage first or mend [start]") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
        raise PinholeError(f"{path} is no readable checkpoint ({error}); delete it or name another") from error
    if not isinstance(state, dict) or "average" not in state:
        raise PinholeError(f"{path} is no checkpoint of a training stage; name one that `pinhole train` wrote")
    return state


def find_checkpoint(run: Path, source: str) -> Path:
    """Return the file that a stage's name within ``run``, a folder or a file name stands for."""
    for place in (run / source / FILE, Path(source) / FILE, Path(source)):
        if place.is_file():
            return place
    return run / source / FILE


def read_average(run: Path, source: str) -> dict[str, Tensor]:
    """Return the averaged weights of a checkpoint; ``source`` as in `find_checkpoint`, errors as `read_checkpoint`."""
    average: dict[str, Tensor] = read_checkpoint(find_checkpoint(run, source))["average"]
    return average


def load_average(module: nn.Module, run: Path, source: str, ignore: Iterable[str] = ()) -> None:
    """Give a module the averaged weights of a checkpoint.

    Args:
        module: gets every weight it has.
        run: folder of all stages.
        source: stage within it, folder, or checkpoint file.
        ignore: prefixes of weights that the module need not have.

    Raises:
        PinholeError: if the checkpoint cannot be read, or weights are missing, left over or of another shape.
    """
    load_weights(module, read_average(run, source), str(find_checkpoint(run, source)), ignore)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str, ignore: Iterable[str] = ()) -> None:
    """Load a state dictionary; ``where`` names it in errors, which are those of `load_average`."""
    prefixes = tuple(ignore)
    own = module.state_dict()
    kept = {name: value for name, value in weights.items() if name in own or not name.startswith(prefixes)}
    missing, left = sorted(own.keys() - kept.keys()), sorted(kept.keys() - own.keys())
    if missing or left:
        what = f"lacks {missing[0]}" if missing else f"has {left[0]}, which the model has not"
        raise PinholeError(f"{where} {what}; give weights and [model] of the same architecture")
    for name, value in kept.items():
        if value.shape != own[name].shape:
            raise PinholeError(
                f"{where}: {name} is {tuple(value.shape)} but the model's is {tuple(own[name].shape)}; "
                "give weights and [model] of the same architecture"
            )
    module.load_state_dict(kept)


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Weights below ``prefix`` (as ``"decoder."``), the prefix cut off."""
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
