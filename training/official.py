"""Load DiffEIC's official checkpoints, whose keys follow its own code and that of latent diffusion (LDM).

A checkpoint's tensors may be handed over as they come (``preprocess_model.``, ``control_model.`` and
``model.diffusion_model.`` prefixes, the other parts beside them) or one part at a time without its prefix.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from shared.codec.nets.control import ControlConfig, ControlModule, control_keys
from shared.codec.nets.ddpm import SpacedDdpm
from shared.codec.nets.lfgcm import Lfgcm, LfgcmConfig
from shared.codec.nets.lfgcm_keys import derived_entries, modern_key, official_keys
from shared.codec.nets.unet_keys import unet_keys
from shared.errors import PinholeError
from training.official_config import CONTROL, EMA, LFGCM, PROMPT, SCHEDULE, UNET, VAE, unet_config

_OTHER_PARTS = (VAE, PROMPT, EMA)
_SHOWN = 8
"""At most so many keys of one kind are named in an error."""


def build_lfgcm(config: Mapping[str, Any]) -> Lfgcm:
    """Build the compression module of an official configuration, random weights.

    Raises:
        PinholeError: if the configuration is incomplete or contradicts itself.
    """
    return Lfgcm(LfgcmConfig.from_info(config))


def build_control(config: Mapping[str, Any]) -> tuple[UNet2DConditionModel, ControlModule]:
    """Build base UNet and control module of an official configuration, random weights.

    Args:
        config: mapping with model_channels, channel_mult, num_res_blocks, attention_resolutions, context_dim,
            control_model_ratio, num_head_channels_base, num_head_channels_control, use_linear_in_transformer and
            transformer_depth; in_channels, 4 if absent, is the channels of latent and content, and norm_num_groups, 32
            if absent, the groups of the UNet's normalisations.

    Raises:
        PinholeError: if an entry is absent or the numbers contradict one another.
    """
    try:
        unet = UNet2DConditionModel(**unet_config(config))
        ratio, head_control = float(config["control_model_ratio"]), int(config["num_head_channels_control"])
    except (KeyError, TypeError, ValueError) as error:
        raise PinholeError(f"control config: entry missing or unusable ({error}); give official info.json") from error
    return unet, ControlModule(unet, ControlConfig.for_unet(unet, ratio, head_control))


def load_lfgcm(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Lfgcm:
    """Load the compression module.

    Args:
        state_dict: official tensors, with or without ``preprocess_model.``; float16 becomes float32.
        config: official configuration, as `LfgcmConfig.from_info` reads it.

    Returns:
        The module in evaluation mode; ``.analysis(image, guidance)`` gives y.

    Raises:
        PinholeError: if keys are missing, unknown or doubled, shapes do not fit the configuration, or constants are not
            those that our code takes for granted.
    """
    state = _part(state_dict, {LFGCM: ""}, others=(UNET, CONTROL, *_OTHER_PARTS, *SCHEDULE))
    state = _unique((modern_key(name), name, value) for name, value in state.items())
    model = build_lfgcm(config)
    derived = derived_entries()
    names = official_keys(model)
    _check_names(state, {*names, *derived})
    for name, expected in derived.items():
        _check_constant(name, state[name], expected)
    _load(model, state, names)
    return model.eval()


def load_control(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[UNet2DConditionModel, ControlModule]:
    """Load base UNet and control module.

    Args:
        state_dict: official tensors of both (``model.diffusion_model.`` and ``control_model.``); float16 becomes
            float32.
        config: official configuration, as `build_control` reads it.

    Returns:
        ``(unet, control)`` in evaluation mode, the UNet frozen; call ``control(unet, latent, timesteps, context,
        content)`` for the noise estimate.

    Raises:
        PinholeError: if keys are missing, unknown or doubled, or shapes do not fit the configuration.
    """
    prefixes = {UNET: UNET, CONTROL: CONTROL}
    state = _part(state_dict, prefixes, others=(LFGCM, *_OTHER_PARTS, *SCHEDULE))
    unet, control = build_control(config)
    base_names = {f"{UNET}{theirs}": ours for theirs, ours in unet_keys(unet).items()}
    control_names = {f"{CONTROL}{theirs}": ours for theirs, ours in control_keys(control).items()}
    _check_names(state, {*base_names, *control_names})
    _load(unet, state, base_names)
    _load(control, state, control_names)
    return unet.eval().requires_grad_(False), control.eval()


def load_control_module(
    state_dict: Mapping[str, Tensor], unet: UNet2DConditionModel, config: ControlConfig
) -> ControlModule:
    """Load a control module alone, for a UNet that came from elsewhere.

    Args:
        state_dict: official tensors with ``control_model.``; other parts may stand beside. float16 becomes float32.
        unet: the base; only its shape is looked at, so it may be on the "meta" device.
        config: the module's shape, as `training.official_config.infer_control_widths` finds it.

    Returns:
        The module in evaluation mode.

    Raises:
        PinholeError: if keys are missing, unknown or doubled, or shapes do not fit the configuration.
    """
    state = _part(state_dict, {CONTROL: CONTROL}, others=(LFGCM, UNET, *_OTHER_PARTS, *SCHEDULE))
    control = ControlModule(unet, config)
    names = {f"{CONTROL}{theirs}": ours for theirs, ours in control_keys(control).items()}
    _check_names(state, set(names))
    _load(control, state, names)
    return control.eval()


def spaced_ddpm(num_steps: int) -> SpacedDdpm:
    """Return the paper's sampler with ``num_steps`` steps (1 to 1000)."""
    return SpacedDdpm(num_steps)


def _part(state: Mapping[str, Tensor], prefixes: Mapping[str, str], others: tuple[str, ...]) -> dict[str, Tensor]:
    """Take the entries of one part of a checkpoint.

    Where prefixes are used, the checkpoint's other parts may stand beside; without, everything must belong to the part.
    """
    if not any(name.startswith(tuple(prefixes)) for name in state):
        return dict(state)
    taken = []
    for name, value in state.items():
        prefix = next((p for p in prefixes if name.startswith(p)), "")
        if prefix or not name.startswith(others):
            taken.append((prefixes.get(prefix, "") + name.removeprefix(prefix), name, value))
    return _unique(taken)


def _unique(entries: Iterable[tuple[str, str, Tensor]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, original, value in entries:
        if name in state:
            raise PinholeError(f"official checkpoint: {original} is there twice, under two names; remove one")
        state[name] = value
    return state


def _check_names(state: Mapping[str, Tensor], expected: set[str]) -> None:
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for kind, names in (("missing", sorted(expected - state.keys())), ("unknown", sorted(state.keys() - expected)))
        if names
    ]
    if problems:
        raise PinholeError(f"official checkpoint: keys {'; '.join(problems)}; give the whole part that fits the config")


def _check_constant(name: str, value: Tensor, expected: Tensor | None) -> None:
    if expected is None or value.numel() == 0:
        return
    # Half precision cannot hold the likelihood bound of 1e-9 and rounds the others in the fourth digit.
    if value.shape != expected.shape or not torch.allclose(value.float(), expected, rtol=1e-3, atol=1e-6):
        raise PinholeError(f"official checkpoint: {name} is not the constant of the paper's code; use an unchanged one")


def _load(model: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    own = model.state_dict()
    wrong = [
        f"{theirs} is {tuple(state[theirs].shape)}, not {tuple(own[ours].shape)}"
        for theirs, ours in names.items()
        if state[theirs].shape != own[ours].shape
    ]
    if wrong:
        raise PinholeError(
            f"official checkpoint: {len(wrong)} shapes do not fit the config ({'; '.join(wrong[:_SHOWN])})"
        )
    model.load_state_dict({ours: state[theirs].to(own[ours].dtype) for theirs, ours in names.items()})
