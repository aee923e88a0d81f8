"""The embedding of the empty prompt: a constant, so the ground stores it and needs no text encoder.

Stable Diffusion 2.1 was trained on OpenCLIP ViT-H/14: the output of its last but one layer after the final norm. The
``text_encoder`` of the diffusers layout has that layer as its last, so its last hidden state is what is wanted.

Run: ``python -m training.paper.prompt FOLDER`` writes ``FOLDER/empty_prompt.safetensors``.
"""

import argparse
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.errors import PinholeError

FILE = "empty_prompt.safetensors"
"""Where the embedding lies in a Stable Diffusion folder."""


def empty_prompt(source: str, file: str, width: int) -> Tensor:
    """Return the embedding of the empty prompt.

    Args:
        source: Stable Diffusion folder or hub id.
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
        context = _read(stored)
    elif file:
        raise PinholeError(f"{file} does not exist; mend model.empty_prompt or leave it out")
    else:
        where, context = f"text encoder of {source}", encode_empty_prompt(source)
    if context.ndim != 3 or len(context) != 1 or context.shape[2] != width:
        raise PinholeError(
            f"{where}: the empty prompt's embedding is {tuple(context.shape)}, but the UNet wants "
            f"(1, tokens, {width}); take both from one model"
        )
    return context.float()


@torch.no_grad()
def encode_empty_prompt(source: str) -> Tensor:
    """Run the text encoder of a Stable Diffusion folder or hub id on the empty prompt, ``1 x tokens x width``.

    Raises:
        PinholeError: if transformers is not installed or the two folders cannot be loaded.
    """
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise PinholeError(
            f"no {FILE} in {source} and no transformers to make it; pip install transformers or set model.empty_prompt"
        ) from error
    try:
        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")
        encoder = CLIPTextModel.from_pretrained(source, subfolder="text_encoder", dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise PinholeError(
            f"cannot load tokenizer/ and text_encoder/ of {source} ({str(error).strip().splitlines()[0]}); "
            f"add them, or a {FILE}"
        ) from error
    tokens = tokenizer(
        "", padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    context: Tensor = encoder(tokens.input_ids).last_hidden_state
    return context


def _read(path: Path) -> Tensor:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise PinholeError(f"{path} is no safetensors file ({error}); write it anew") from error
    if "context" not in tensors:
        raise PinholeError(f"{path} holds no 'context'; write it anew with python -m training.paper.prompt")
    return tensors["context"]


def main() -> None:
    """Write the embedding into a Stable Diffusion folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder in the diffusers layout with tokenizer and text encoder")
    folder: Path = parser.parse_args().folder
    save_file({"context": encode_empty_prompt(str(folder)).contiguous()}, folder / FILE)
    print(folder / FILE)


if __name__ == "__main__":
    main()
