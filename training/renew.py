"""A bundle with another one's sender, entropy path and synthesis, byte for byte, and new weights of the receiver.

None of what changes is under the bundle's id: pictures that were coded with the old bundle decode with the new one, and
senders go on with the old one.
"""

from collections.abc import Mapping
from typing import Any

from shared.codec.bundle import Bundle
from shared.errors import PinholeError
from training.manifest import CARD, file_entries

_HEAD = "## Trained further"
_SECTION = f"""
{_HEAD}

UNet, control and decoder were trained on from an earlier state of this bundle (`docs/training.md`, "From a bundle").
Sender, entropy path and synthesis are that bundle's, so the rates above are as they were. Whoever trains on photographs
other than those above names them here.
"""
"""What the model card says of it, once."""


def renew(
    bundle: Bundle, receiver: Mapping[str, bytes], sampling: tuple[int, int]
) -> tuple[dict[str, bytes], dict[str, Any], str]:
    """Put a bundle together from an older one and new files.

    Args:
        bundle: the older one.
        receiver: files that take the place of those of the same name.
        sampling: diffusion steps of a full decode, and the timestep it starts from, that the new weights are for.

    Returns:
        ``(contents, manifest, model card)``; rates are the older bundle's, for its bytes are.

    Raises:
        PinholeError: if a file of the older bundle is missing or damaged, or its pictures are decoded by other steps.
    """
    diffusion = bundle.manifest["diffusion"]
    own = (int(diffusion["steps"]), int(diffusion["start"]))
    if own != sampling:
        raise PinholeError(
            f"bundle {bundle.name} decodes by {own[0]} steps from {own[1]}, not by {sampling[0]} from {sampling[1]}; "
            f"set steps = {own[0]} and begin = {own[1]}"
        )
    contents = {name: receiver[name] if name in receiver else bundle.read(name) for name in bundle.files}
    manifest = {**bundle.manifest, "files": file_entries(contents)}
    try:
        card = (bundle.folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PinholeError(f"bundle {bundle.name}: cannot read its {CARD} ({error}); install it again") from error
    if _HEAD not in card:
        card += _SECTION
    return contents, manifest, card
