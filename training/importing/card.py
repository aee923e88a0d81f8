"""The model card of an imported bundle: what it was made of, for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.entropy_costs import EntropyCost
from training.importing.photographs import CalibrationCrops


def model_card(
    manifest: Mapping[str, Any],
    sources: Mapping[str, str],
    costs: Sequence[EntropyCost],
    crops: CalibrationCrops,
    warning: str,
) -> str:
    """Write the card.

    Args:
        manifest: the bundle's, with rates.
        sources: where each part came from, by what it is called.
        costs: of the entropy path at every operating point.
        crops: what it was calibrated and measured on.
        warning: what was found odd; empty for nothing.
    """
    rows = [
        f"| {p['quality']} | {p['name']} | {p['bits_per_pixel']:.4f} | {c.integer_cost:+.2%} | {c.checked_cost:+.2%} |"
        for p, c in zip(manifest["operating_points"], costs, strict=True)
    ]
    parts = [f"- {part}: {source}" for part, source in sources.items()]
    external = [
        f"- `{name}`: `{entry['file']}` of {entry['source']}, {entry['bytes'] / 1e6:.0f} MB"
        for name, entry in manifest["external"].items()
    ]
    lines = [
        f"# The {manifest['name']} bundle",
        "",
        "DiffEIC (Li et al., IEEE TCSVT 2025) on Stable Diffusion, made of official checkpoints by",
        "`pinhole bundle import-official`. The weights are those of the checkpoints, under their licences.",
        "",
        *parts,
        *(["", "Not copied, looked up by hash when the bundle is opened:", "", *external] if external else []),
        *(["", f"**Warning.** {warning}"] if warning else []),
        "",
        "## Operating points",
        "",
        f"Mean over {len(crops.measured)} crops of 256 to 512 pixels, every byte of the `.pin` file counted. Grids and",
        f"coding tables were fitted to {len(crops.fitted)} other crops; all come from {crops.photographs} photographs.",
        "Every operating point has weights of its own, so there is no quality in between.",
        "",
        "| quality | name | bit/pixel | integer path vs. float model | bytes with checksums vs. code length |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"A full decode takes {manifest['diffusion']['steps']} steps of the paper's spaced DDPM from pure noise unless",
        "told otherwise.",
        "",
        "## Limits",
        "",
        "The full decode paints texture that was never sent. It is plausible, not evidence; the preview is nearer to",
        "the original. Text, faces and small objects are the first to go wrong.",
    ]
    return "\n".join(lines) + "\n"
