"""Mission prompts: embeddings of texts, stored in a bundle so that the ground needs no text encoder."""

import hashlib
import json
from pathlib import Path

from safetensors.torch import save

from shared.codec.bundle import MANIFEST, Bundle
from shared.errors import PinholeError, UsageError
from shared.files import write_atomically
from training.importing.quiet import quiet_libraries
from training.importing.rates import NAME
from training.paper.prompt import encode_prompt


def embed_prompt(bundle: Bundle, name: str, text: str, source: str) -> str:
    """Store the embedding of a text in a bundle; its id stays what it is.

    The embedding's file is written first and then the manifest, each in one step: the bundle is whole at any time.

    Args:
        bundle: one whose UNet takes a prompt.
        name: how decoders call the prompt.
        text: the prompt.
        source: folder or hub id with the tokenizer and the text encoder of the bundle's Stable Diffusion.

    Returns:
        A line that says what was done.

    Raises:
        UsageError: if the name is unusable or taken.
        PinholeError: if the bundle takes no prompts, the text cannot be embedded or its embedding is of another width
            than the bundle's UNet takes.
    """
    networks = bundle.manifest["networks"]
    if networks.get("family") != "diffeic":
        raise PinholeError(f"bundle {bundle.name} is not steered by text; prompts are for imported bundles")
    if not NAME.fullmatch(name):
        raise UsageError(f"--name {name!r} is no name for a prompt; give letters, digits, _ . -")
    manifest_path = bundle.folder / MANIFEST
    # Read again and not taken from the open bundle: another process may have stored a prompt since.
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    if name in manifest.get("prompts", ()):
        raise UsageError(f"bundle {bundle.name} has a prompt {name} already; give another --name")
    quiet_libraries()
    context = encode_prompt(source, text)
    width = int(networks["unet"]["cross_attention_dim"])
    if context.ndim != 3 or len(context) != 1 or context.shape[2] != width:
        raise PinholeError(
            f"the text encoder of {source} gives an embedding of {tuple(context.shape)}, but the UNet of {bundle.name} "
            f"wants (1, tokens, {width}); give the one of the same Stable Diffusion"
        )
    data = save({"context": context.float().contiguous()})
    file = f"receiver/prompts/{name}.safetensors"
    try:
        (bundle.folder / file).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PinholeError(f"cannot write into {bundle.folder} ({error.strerror}); check its permissions") from error
    write_atomically(bundle.folder / file, data)
    manifest["prompts"] = [*manifest.get("prompts", ()), name]
    manifest["files"][file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_atomically(Path(manifest_path), (json.dumps(manifest, indent=1) + "\n").encode())
    return f"{bundle.folder / file}: prompt {name}, {context.shape[1]} tokens of {width}"
