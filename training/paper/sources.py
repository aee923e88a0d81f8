"""Where Stable Diffusion lies: in a folder in the diffusers layout, in one original checkpoint file, or on the hub.

Of the hub only the files that are needed come down, and without a network those that an earlier run has kept.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from shared.errors import PinholeError
from training.official_files import read_checkpoint_state

PROMPT_FILE = "empty_prompt.safetensors"
"""Where the empty prompt's embedding lies in a Stable Diffusion folder."""
FOLDERS = ("unet", "vae", "scheduler", "tokenizer", "text_encoder")
"""Parts of the diffusers layout that are looked at."""
_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""Names of the weights' files less their endings."""
_CHECKPOINTS = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")
_MEND = "give a folder in the diffusers layout, the original checkpoint file or a hub id that can be reached"


@dataclass(frozen=True)
class PartFile:
    """A file that weights were read from.

    Attributes:
        source: hub id, or absolute path of the folder that ``file`` lies in.
        file: path within the source, with slashes.
        path: where it is on this machine.
        safetensors: whether it is a safetensors file in diffusers' layout, whole by itself. Only such a file can be
            referred to instead of being copied.
    """

    source: str
    file: str
    path: Path
    safetensors: bool


def locate(source: str, folders: Iterable[str] = FOLDERS) -> Path:
    """Return the local folder, or single file, of a source; a hub id's files are fetched or found in the hub's cache.

    Args:
        source: folder, file or hub id.
        folders: parts that are needed of a hub id.

    Raises:
        PinholeError: if there is no such file or folder and the hub cannot be reached or knows no such id.
    """
    path = Path(source)
    if path.exists():
        return path
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if source.endswith(_CHECKPOINTS):
        raise PinholeError(f"{source} does not exist; {_MEND}")
    try:
        siblings = HfApi().model_info(source, timeout=20).siblings or []
    except HFValidationError as error:
        raise PinholeError(f"{source} does not exist and is no hub id; {_MEND}") from error
    except Exception as unreachable:  # the hub's client lets through whatever its transport raises
        try:
            return Path(snapshot_download(source, local_files_only=True))
        except LocalEntryNotFoundError as error:
            # Newer clients know that not all of a repository was kept; what is missing is named when it is read.
            if (kept := getattr(error, "snapshot_path", None)) is not None:
                return Path(kept)
            raise PinholeError(
                f"{source} does not exist here and cannot be fetched from the hub ({_line(unreachable)}); {_MEND}"
            ) from unreachable
    wanted = needed_files((file.rfilename for file in siblings), folders)
    try:
        return Path(snapshot_download(source, allow_patterns=wanted))
    except Exception as error:
        raise PinholeError(f"cannot fetch {source} from the hub ({_line(error)}); try again, or {_MEND}") from error


def needed_files(names: Iterable[str], folders: Iterable[str] = FOLDERS) -> list[str]:
    """Choose a repository's files that are needed: configurations and one set of weights for every part.

    Args:
        names: all files, with slashes.
        folders: parts that are wanted.
    """
    names = set(names)
    wanted = {PROMPT_FILE} & names
    for folder in folders:
        inside = {name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")}
        stem = _STEMS.get(folder)
        chosen = {name for name in inside if name.endswith((".json", ".txt"))}
        if stem and (main := _best_weights(inside, stem)):
            chosen.add(main)
            if main.endswith(".json"):
                # diffusion_pytorch_model-00001-of-00002.safetensors, ...fp16-00001-of-00002.safetensors
                kind = ".bin" if ".bin." in main else ".safetensors"
                chosen |= {name for name in inside if name.startswith(stem) and "-of-" in name and name.endswith(kind)}
        wanted |= {f"{folder}/{name}" for name in chosen}
    return sorted(wanted)


def read_part(source: str, place: Path, part: str) -> tuple[dict[str, Tensor], tuple[PartFile, ...]]:
    """Read the weights of a part of the diffusers layout.

    Safetensors are preferred to pickles, and full precision to half; weights may be split over several files with an
    index beside them.

    Args:
        source: what the user named, for the files' records.
        place: folder of the whole, as `locate` returns it.
        part: "unet", "vae" or "text_encoder".

    Returns:
        Tensors as they are stored, and where they were.

    Raises:
        PinholeError: if there are no weights, they are damaged, or the index does not fit the files.
    """
    folder = place / part
    main = main_weights(place, part)
    if main is None:
        raise PinholeError(f"cannot load {part}/ of {source} (no weights in it); {_MEND}")
    origin = str(place.resolve()) if Path(source).exists() else source
    if not main.endswith(".json"):
        file = PartFile(origin, f"{part}/{main}", folder / main, main.endswith(".safetensors"))
        return read_checkpoint_state(file.path), (file,)
    index = _read_index(folder / main)
    state: dict[str, Tensor] = {}
    for name in sorted(set(index.values())):
        shard = read_checkpoint_state(folder / name)
        if {key for key, file in index.items() if file == name} != shard.keys():
            raise PinholeError(f"{folder / name} does not hold what {main} says; fetch both from one place")
        state |= shard
    return state, tuple(
        PartFile(origin, f"{part}/{name}", folder / name, False) for name in (main, *sorted(set(index.values())))
    )


def main_weights(place: Path, part: str) -> str | None:
    """Return the name of the file that a part's weights are read from, or of the index of split ones; None without any.

    Args:
        place: folder of the whole.
        part: "unet", "vae" or "text_encoder".
    """
    folder = place / part
    return _best_weights({entry.name for entry in folder.iterdir()} if folder.is_dir() else set(), _STEMS[part])


def _best_weights(names: set[str], stem: str) -> str | None:
    stems = [stem, "pytorch_model"] if stem == "model" else [stem]
    candidates = [
        name
        for ending in ("safetensors", "bin")
        for variant in ("", "fp16")
        for s in (stems if ending == "bin" else [stem])
        for name in (
            ".".join(filter(None, (s, variant, ending))),
            ".".join(filter(None, (s, ending, "index", variant, "json"))),
        )
    ]
    return next((name for name in candidates if name in names), None)


def _read_index(path: Path) -> dict[str, str]:
    try:
        index: Any = json.loads(path.read_text("utf-8"))["weight_map"]
        # Names of files only: an index must not lead out of its folder.
        if not isinstance(index, dict) or not all(Path(str(file)).name == file for file in index.values()):
            raise ValueError("weight_map does not map keys to file names")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PinholeError(f"{path} is no index of weights ({error}); fetch it again") from error
    return {str(key): str(file) for key, file in index.items()}


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
