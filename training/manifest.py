"""A bundle's manifest, and the model card that people read."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shared.codec.bundle import FORMAT
from shared.codec.nets.pocket import PIXEL_BLOCK
from training.bundle_files import TrainedParts
from training.entropy_costs import EntropyCost
from training.models import PocketModels

CARD = "MODEL_CARD.md"
"""The model card's file in a bundle's folder; the manifest does not list it."""
LATENT_BLOCK = 16
"""Pixels that one position of y spans."""


def make_manifest(
    name: str,
    model: PocketModels,
    parts: TrainedParts,
    points: Sequence[str],
    sampling: tuple[int, int],
    contents: Mapping[str, bytes],
) -> dict[str, Any]:
    """Return the manifest, with rates still to be measured.

    Args:
        name: of the bundle.
        model: architecture.
        parts: the trained parts.
        points: names of the operating points.
        sampling: diffusion steps of a full decode, and the timestep it starts from.
        contents: every file of the bundle.
    """
    config, compression = model.compression, parts.codec.compression
    gains = compression.gain.detach().double().exp().numpy()
    inverse = compression.inverse_gain.detach().double().exp().numpy()
    return {
        "format": FORMAT,
        "name": name,
        "layout": {
            "block": PIXEL_BLOCK,
            "latent_block": LATENT_BLOCK,
            "hyper_channels": config.entropy.hyper_channels,
            "slices": list(config.entropy.slices),
            "layer_slices": list(config.layer_slices),
        },
        "operating_points": [
            {
                "quality": i + 1,
                "name": point,
                "bits_per_pixel": 0.0,
                "gain": _short(gains[i]),
                "inverse_gain": _short(inverse[i]),
            }
            for i, point in enumerate(points)
        ],
        "diffusion": {"steps": sampling[0], "start": sampling[1]},
        "networks": {
            "autoencoder": dataclasses.asdict(model.autoencoder),
            "compression": dataclasses.asdict(config),
            "diffusion": dataclasses.asdict(model.diffusion),
        },
        "files": file_entries(contents),
    }


def file_entries(contents: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return the manifest's ``files``: size and SHA-256 of every file."""
    return {file: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for file, data in contents.items()}


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def model_card(
    manifest: Mapping[str, Any],
    networks: Iterable[nn.Module],
    training: int,
    validation: int,
    costs: Sequence[EntropyCost],
) -> str:
    """Fill in the model card's figures.

    Args:
        manifest: the manifest, with rates.
        networks: every network, for the number of parameters.
        training: photographs trained on.
        validation: held-out photographs measured on.
        costs: of the entropy path at every operating point.
    """
    rows = [
        "| quality | name | bit/pixel | integer path vs. float model | bytes vs. code length | with checksums |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {p['quality']} | {p['name']} | {p['bits_per_pixel']:.4f} | {c.integer_cost:+.2%} | {c.coder_cost:+.2%} "
        f"| {c.checked_cost:+.2%} |"
        for p, c in zip(manifest["operating_points"], costs, strict=True)
    ]
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    template = (Path(__file__).parent / "model_card.md").read_text(encoding="utf-8")
    return template.format(
        name=manifest["name"],
        parameters=f"{parameters / 1e6:.1f} million",
        megabytes=f"{sum(f['bytes'] for f in manifest['files'].values()) / 1e6:.1f}",
        validation=validation,
        training=training,
        steps=manifest["diffusion"]["steps"],
        start=manifest["diffusion"]["start"],
        rates="\n".join(rows),
    )
