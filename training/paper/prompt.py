"""The embedding of a prompt: the empty one is a constant, so the ground stores it and needs no text encoder.

Stable Diffusion 2.1 was trained on OpenCLIP ViT-H/14: the output of its last but one layer after the final norm. The
``text_encoder`` of the diffusers layout has that layer as its last, so its last hidden state is what is wanted.

Run: ``python -m training.paper.prompt FOLDER`` writes ``FOLDER/empty_prompt.safetensors``.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.errors import PinholeError
from training.official_config import Overrides
from training.official_files import read_checkpoint_state
from training.paper import open_clip
from training.paper.sources import PROMPT_FILE, locate, main_weights

FILE = PROMPT_FILE
"""Where the embedding lies in a Stable Diffusion folder."""


def empty_prompt(source: str, file: str, width: int) -> Tensor:
    """Return the embedding of the empty prompt.

    Args:
        source: Stable Diffusion folder, hub id or original checkpoint file.
        file: safetensors file with the embedding as ``context``; empty looks for `FILE` in ``source``, and asks the
            text encoder if there is none.
        width: width of the UNet's cross-attention, 1024 for Stable Diffusion 2.1.

    Returns:
        ``1 x tokens x width``, float32.

    Raises:
        PinholeError: if there is neither a file nor a text encoder, or the shape is another.
    """
    stored = Path(file) if file else Path(source) / FILE
    where = str(stored)
    if stored.is_file():
        context = stored_prompt(stored)
    elif file:
        raise PinholeError(f"{file} does not exist; mend model.empty_prompt or leave it out")
    else:
        where, context = f"text encoder of {source}", encode_empty_prompt(source)
    if context.ndim != 3 or len(context) != 1 or context.shape[2] != width:
        raise PinholeError(
            f"{where}: the empty prompt's embedding is {tuple(context.shape)}, but the UNet wants "
            f"(1, tokens, {width}); take both from one model"
        )
    return context


def encode_empty_prompt(
    source: str, overrides: Overrides | None = None, state: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Run the text encoder of a Stable Diffusion on the empty prompt, ``1 x tokens x width`` float32.

    Args:
        source: folder or hub id with ``tokenizer/`` and ``text_encoder/``, or original checkpoint file.
        overrides: table "text", for a checkpoint file.
        state: tensors of the checkpoint file, if they have been read.

    Raises:
        PinholeError: if transformers is not installed or the text encoder cannot be loaded.
    """
    place = Path(source) if state is not None else locate(source, ("tokenizer", "text_encoder"))
    if place.is_file():
        return open_clip.encode_empty_prompt(read_checkpoint_state(place) if state is None else state, overrides)
    return _encode(source, place, "")


def encode_prompt(source: str, text: str) -> Tensor:
    """Run the text encoder of a Stable Diffusion folder or hub id on a prompt.

    Args:
        source: folder or hub id with ``tokenizer/`` and ``text_encoder/``. An original checkpoint file has no
            vocabulary, so it can encode the empty prompt alone.
        text: the prompt, in a few dozen words.

    Returns:
        ``1 x tokens x width``, float32; as many tokens as the tokenizer pads to, 77 for Stable Diffusion.

    Raises:
        PinholeError: if transformers is not installed, the two folders cannot be loaded, or the prompt is longer than
            the text encoder takes.
    """
    place = locate(source, ("tokenizer", "text_encoder"))
    if not place.is_file():
        return _encode(source, place, text)
    if text:
        raise PinholeError(
            f"{source} is a checkpoint file, which has no vocabulary; give a folder with tokenizer/ and text_encoder/"
        )
    return encode_empty_prompt(source)


def stored_prompt(path: Path) -> Tensor:
    """Read an embedding that is stored as ``context`` in a safetensors file, ``1 x tokens x width``, as float32.

    Raises:
        PinholeError: if the file is none, holds no ``context``, or numbers that are not finite.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise PinholeError(f"{path} is no safetensors file ({error}); write it anew") from error
    if "context" not in tensors:
        raise PinholeError(f"{path} holds no 'context'; write it anew with python -m training.paper.prompt")
    context = tensors["context"].float()
    if not context.isfinite().all():
        raise PinholeError(f"{path}: 'context' holds NaN or infinity; write it anew")
    return context


@torch.no_grad()
def _encode(source: str, place: Path, text: str) -> Tensor:
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise PinholeError(
            f"no {FILE} in {source} and no transformers to make it; pip install transformers or set model.empty_prompt"
        ) from error
    options: dict[str, Any] = {"local_files_only": True, "subfolder": "text_encoder"}
    if "fp16" in (main_weights(place, "text_encoder") or ""):
        options["variant"] = "fp16"
    try:
        tokenizer = CLIPTokenizer.from_pretrained(place, subfolder="tokenizer", local_files_only=True)
        loaded: Any = CLIPTextModel.from_pretrained(place, dtype=torch.float32, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise PinholeError(
            f"cannot load tokenizer/ and text_encoder/ of {source} ({str(error).strip().splitlines()[0]}); "
            f"add them, or a {FILE}"
        ) from error
    encoder, report = loaded
    absent = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind])
    if absent:
        raise PinholeError(
            f"text_encoder/ of {source} lacks weights of its config ({', '.join(absent[:8])}); give an unchanged one"
        )
    # A tokenizer without a limit gives an absurd number.
    limit = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings))
    length = len(tokenizer(text, verbose=False).input_ids)
    if length > limit:
        raise PinholeError(f"prompt has {length} tokens, but {source} takes {limit} with start and end; shorten it")
    tokens = tokenizer(text, padding="max_length", max_length=limit, return_tensors="pt")
    context: Tensor = encoder.eval()(tokens.input_ids).last_hidden_state
    return context


def main() -> None:
    """Write the embedding into a Stable Diffusion folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder in the diffusers layout with tokenizer and text encoder")
    folder: Path = parser.parse_args().folder
    save_file({"context": encode_empty_prompt(str(folder)).contiguous()}, folder / FILE)
    print(folder / FILE)


if __name__ == "__main__":
    main()
