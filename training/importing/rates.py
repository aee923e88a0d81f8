"""One trained rate: its LFGCM and control module out of a checkpoint, official or our own, checked to the last key."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from shared.codec.nets.control import ControlModule
from shared.codec.nets.lfgcm import Lfgcm
from shared.errors import PinholeError, UsageError
from training.importing.own_training import official_layout, own_checkpoint
from training.official import load_control_module, load_lfgcm
from training.official_config import Overrides, infer_control_widths, infer_lfgcm_config
from training.official_files import check_tensors, read_checkpoint_state

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Names of rates and prompts: they are folders and files of the bundle."""
COMMON_NAMES = ("lc", "model", "checkpoint", "last", "checkpoints", "weights")
"""File and folder names that say nothing about the rate."""


@dataclass(frozen=True)
class RateSource:
    """A checkpoint to import.

    Attributes:
        name: of the operating point and its weight set.
        path: the checkpoint.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Rate:
    """A loaded rate.

    Attributes:
        lfgcm: compression module, float32, in evaluation mode.
        control: control module, float32, in evaluation mode.
        unet: tensors of a UNet that the checkpoint carries of its own, by official names; mostly there is none.
    """

    lfgcm: Lfgcm
    control: ControlModule
    unet: dict[str, Tensor]


def rate_sources(arguments: Sequence[str]) -> list[RateSource]:
    """Read ``NAME=PATH`` or ``PATH``, whose name is that of the file or, where it says nothing, of its folder.

    Raises:
        UsageError: if names are unusable or doubled, or none is given.
    """
    if not arguments:
        raise UsageError("no checkpoint of DiffEIC is given; add --lc lc.ckpt, once for each rate")
    sources: dict[str, RateSource] = {}
    for argument in arguments:
        name, found, path = argument.partition("=")
        # A path may have the sign in it; a name has no separator.
        source = RateSource(name, Path(path)) if found and NAME.fullmatch(name) else _named(Path(argument))
        if not NAME.fullmatch(source.name):
            raise UsageError(
                f"--lc {argument}: {source.name!r} is no name for a rate (letters, digits, _ . -); give --lc NAME=PATH"
            )
        if source.name in sources:
            raise UsageError(f"--lc {argument}: two rates would be called {source.name}; name them with --lc NAME=PATH")
        sources[source.name] = source
    return list(sources.values())


def _named(path: Path) -> RateSource:
    folder = path.absolute().parent.name
    return RateSource(folder if path.stem.lower() in COMMON_NAMES and NAME.fullmatch(folder) else path.stem, path)


def load_rate(source: RateSource, unet: UNet2DConditionModel, overrides: Overrides) -> Rate:
    """Load one rate; every key is used exactly once and every shape checked.

    Args:
        source: the checkpoint.
        unet: the base that the control steers; only its shape is looked at.
        overrides: what shapes cannot tell.

    Raises:
        PinholeError: if it cannot be read, or does not hold both parts in official shapes that fit the UNet.
    """
    own_training = own_checkpoint(source.path)
    state = {} if own_training else read_checkpoint_state(source.path)
    try:
        if own_training:
            state = official_layout(check_tensors(own_training["average"], "its averaged weights"), unet)
        lfgcm = load_lfgcm(state, infer_lfgcm_config(state, overrides)).requires_grad_(False)
        widths = infer_control_widths(state, unet.config, overrides)
        control = load_control_module(state, unet, widths).requires_grad_(False)
    except PinholeError as error:
        raise PinholeError(f"{source.path}: {error}") from error
    if lfgcm.config.content_channels != unet.config["in_channels"]:
        raise PinholeError(
            f"{source.path}: its content variable has {lfgcm.config.content_channels} channels, but the latent of "
            f"Stable Diffusion {unet.config['in_channels']}; give checkpoints that belong together"
        )
    prefix = "model.diffusion_model."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return Rate(lfgcm, control, own)


def check_equal(first: RateSource, loaded: Rate, other: RateSource, again: Rate) -> None:
    """Make sure that two rates are of one architecture: a bundle has only one.

    Raises:
        PinholeError: if they are not.
    """
    pairs: list[tuple[str, object, object]] = [
        ("compression module", loaded.lfgcm.config, again.lfgcm.config),
        ("control module", loaded.control.config, again.control.config),
    ]
    for part, one, two in pairs:
        if one != two:
            raise PinholeError(
                f"the {part} of {other.path} has another architecture than that of {first.path}; "
                "import them into two bundles"
            )
