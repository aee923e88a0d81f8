"""The frozen parts of Stable Diffusion: autoencoder and UNet, wherever they come from.

That is a folder in the diffusers layout, a hub id or an original checkpoint file; `read_stable_diffusion` makes the
same plain value of all three. diffusers' own loading lets missing and unknown weights pass with a warning, and fills in
random numbers; here every key is used exactly once, and every shape is checked against the configuration's network.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from shared.codec.nets.ddpm import FIRST_BETA, LAST_BETA, TRAINING_STEPS, training_alphas_cumprod
from shared.codec.nets.unet_keys import unet_keys
from shared.codec.nets.vae_keys import linear_weight, modern_vae_name, vae_keys
from shared.errors import PinholeError
from training.official_config import (
    CONTROL,
    EMA,
    LFGCM,
    PROMPT,
    SCHEDULE,
    UNET,
    VAE,
    Overrides,
    infer_unet_config,
    infer_vae_config,
)
from training.official_files import check_shapes, read_checkpoint_state
from training.paper.open_clip import has_text_tower
from training.paper.prompt import encode_empty_prompt, stored_prompt
from training.paper.sources import FOLDERS, PROMPT_FILE, PartFile, locate, read_part

T = TypeVar("T")

SCHEDULER = {
    "prediction_type": "epsilon",
    "beta_schedule": "scaled_linear",
    "beta_start": FIRST_BETA,
    "beta_end": LAST_BETA,
    "num_train_timesteps": TRAINING_STEPS,
}
"""What the sampler takes for granted of the UNet's own training."""
_IDLE = ("sample_size", "force_upcast")
"""Entries of diffusers' configurations that only its own pipelines look at."""
_GIVE = "give an unchanged Stable Diffusion"
LATENT_STRIDE = 8
"""Pixels to one position of the latent."""


class StableDiffusion(nn.Module):
    """Autoencoder and UNet, frozen and in evaluation mode.

    Args:
        vae: the autoencoder, 8 pixels to a position.
        unet: the noise estimator in its latent space.

    Raises:
        PinholeError: if the two do not belong together or the autoencoder has another stride.
    """

    vae: Any  # diffusers gives its AutoencoderKL no types

    def __init__(self, vae: Any, unet: UNet2DConditionModel) -> None:
        super().__init__()
        stride = 2 ** (len(vae.config["block_out_channels"]) - 1)
        if stride != LATENT_STRIDE:
            raise PinholeError(f"autoencoder shrinks sides by {stride}; give one that shrinks them by {LATENT_STRIDE}")
        if unet.config["in_channels"] != vae.config["latent_channels"]:
            raise PinholeError(
                f"UNet takes {unet.config['in_channels']} channels but the latent has {vae.config['latent_channels']}; "
                "give an autoencoder and a UNet that belong together"
            )
        self.vae, self.unet = vae, unet
        self.scaling = float(vae.config["scaling_factor"])
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "StableDiffusion":
        """Stay in evaluation mode: these networks are frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, picture: Tensor, sample: bool) -> Tensor:
        """Latent of pictures, about unit variance.

        Args:
            picture: ``B x 3 x H x W`` in [-1, 1], H and W multiples of 8.
            sample: whether to draw from the posterior, as in training, or to take its mean, as when pictures are sent.

        Returns:
            ``B x 4 x H/8 x W/8``, float32.
        """
        posterior = self.vae.encode(picture).latent_dist
        latent = posterior.sample() if sample else posterior.mode()
        scaled: Tensor = self.scaling * latent.float()
        return scaled

    def decode(self, latent: Tensor) -> Tensor:
        """Picture ``B x 3 x H x W``, about [-1, 1] and not clipped, of ``B x 4 x H/8 x W/8``, with gradients."""
        picture: Tensor = self.vae.decode(latent / self.scaling).sample
        return picture


@dataclass(frozen=True)
class StableDiffusionParts:
    """Stable Diffusion as plain values, the same whatever it was read from.

    Attributes:
        source: folder, file or hub id as it was named.
        vae_config: diffusers' configuration of the autoencoder, JSON types, every entry that its computing depends on.
        vae: its tensors by diffusers' present names, in the float type they are stored in. They are copies: kernels
            round differently on the odd addresses of a mapped file, and every source is to give the same latents.
        unet_config: likewise of the UNet.
        unet: its tensors, mapped from the file where it allows that.
        context: embedding of the empty prompt, ``1 x tokens x width`` float32; None if the source has none and nothing
            to make it, or it was not asked for.
        files: where the tensors were, under "vae" and "unet".
    """

    source: str
    vae_config: dict[str, Any]
    vae: dict[str, Tensor]
    unet_config: dict[str, Any]
    unet: dict[str, Tensor]
    context: Tensor | None
    files: dict[str, tuple[PartFile, ...]]

    def reference(self, part: str) -> PartFile:
        """Return the file that a bundle can refer to for "vae" or "unet".

        The autoencoder's attention may have its old names in it: `shared.codec.nets.vae_keys.modern_vae_name`.

        Raises:
            PinholeError: if there is no single safetensors file in diffusers' layout.
        """
        files = self.files[part]
        if len(files) == 1 and files[0].safetensors:
            return files[0]
        raise PinholeError(
            f"cannot refer to the {part} of {self.source}: it is not one safetensors file in the diffusers layout; "
            "give such a folder or hub id, or copy the weights"
        )


def read_stable_diffusion(source: str, overrides: Overrides | None = None, prompt: bool = True) -> StableDiffusionParts:
    """Read autoencoder, UNet and the empty prompt's embedding.

    An original checkpoint does not say whether its UNet estimates the noise or, as Stable Diffusion 2.1 for 768 pixels,
    the velocity; shapes and schedule are the same.

    Args:
        source: folder in the diffusers layout, hub id, or original checkpoint file.
        overrides: what shapes cannot tell of a checkpoint file, tables "vae", "control" (for the UNet) and "text".
        prompt: whether to read or compute the empty prompt's embedding.

    Raises:
        PinholeError: if the source cannot be reached; parts are missing, damaged, of other names or shapes than their
            networks; or the UNet was trained on another schedule.
    """
    place = locate(source, FOLDERS if prompt else ("unet", "vae", "scheduler"))
    if place.is_file():
        return _from_checkpoint(source, place, overrides, prompt)
    check_schedule(source, place)
    vae, unet = _configured(source, place)
    vae_state, vae_files = read_part(source, place, "vae")
    unet_state, unet_files = read_part(source, place, "unet")
    renamed = {modern_vae_name(name): value for name, value in vae_state.items()}
    if len(renamed) != len(vae_state):
        raise PinholeError(f"{source}: vae/ has attention weights under old and new names; give an unchanged one")
    check_shapes(renamed, _shapes(vae), f"{source}: vae/")
    check_shapes(unet_state, _shapes(unet), f"{source}: unet/")
    context = None
    if prompt and (place / PROMPT_FILE).is_file():
        context = stored_prompt(place / PROMPT_FILE)
    elif prompt and (place / "text_encoder").is_dir() and (place / "tokenizer").is_dir():
        context = encode_empty_prompt(str(place), overrides)
    files = {"vae": vae_files, "unet": unet_files}
    return StableDiffusionParts(source, _plain(vae), _copied(renamed), _plain(unet), unet_state, context, files)


def load_stable_diffusion(source: str) -> StableDiffusion:
    """Load the two networks in float32 on the CPU.

    Args:
        source: folder in the diffusers layout, hub id, or original checkpoint file.

    Raises:
        PinholeError: if parts are missing or damaged, or the UNet was trained to predict something else than the noise
            of Stable Diffusion's schedule.
    """
    parts = read_stable_diffusion(source, prompt=False)
    return StableDiffusion(
        _loaded(AutoencoderKL, parts.vae_config, parts.vae),
        _loaded(UNet2DConditionModel, parts.unet_config, parts.unet),
    )


def build_stable_diffusion(source: str) -> StableDiffusion:
    """Build the two networks of their configs alone, with random weights, on torch's default device.

    Raises:
        PinholeError: as `load_stable_diffusion`.
    """
    if Path(source).is_file():
        state = read_checkpoint_state(source)
        configs = infer_vae_config(state), infer_unet_config(state)
    else:
        configs = (
            _read(source, "vae", AutoencoderKL.load_config),
            _read(source, "unet", UNet2DConditionModel.load_config),
        )
    return StableDiffusion(_built(AutoencoderKL, configs[0], source), _built(UNet2DConditionModel, configs[1], source))


def check_schedule(source: str, place: Path | None = None) -> None:
    """Make sure that the UNet estimates noise, and on the schedule that `SpacedDdpm` has.

    Args:
        source: folder in the diffusers layout, or hub id.
        place: where the source's files lie, if elsewhere.

    Raises:
        PinholeError: if it does not, or the scheduler's config cannot be read.
    """
    config: dict[str, Any] = dict(_read(str(place or source), "scheduler", DDPMScheduler.load_config, source))
    for name, expected in SCHEDULER.items():
        # The prediction type came later than the first models, which all estimate noise.
        found = config.get(name, "epsilon" if name == "prediction_type" else None)
        if found != expected:
            raise PinholeError(
                f"{source}: the scheduler's {name} is {found}, but must be {expected}; give Stable Diffusion 2.1-base"
            )


def _read(place: str, folder: str, read: Callable[..., T], source: str = "") -> T:
    """Read a part's configuration; errors call the place ``source`` if that is another name."""
    source = source or place
    try:
        return read(place, subfolder=folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PinholeError(
            f"cannot load {folder}/ of {source} ({reason}); "
            "set model.stable_diffusion to a folder in the diffusers layout, an original file or a hub id in reach"
        ) from error


def _from_checkpoint(source: str, path: Path, overrides: Overrides | None, prompt: bool) -> StableDiffusionParts:
    state = read_checkpoint_state(path)
    others = (LFGCM, CONTROL, PROMPT, EMA, *SCHEDULE)
    unknown = sorted(name for name in state if not name.startswith((UNET, VAE, *others)))
    if unknown:
        raise PinholeError(
            f"{source}: {len(unknown)} keys belong to no part of Stable Diffusion ({', '.join(unknown[:8])}); "
            "give an original checkpoint"
        )
    _check_buffers(state, source)
    configs = infer_vae_config(state, overrides), infer_unet_config(state, overrides)
    with torch.device("meta"):
        vae, unet = _built(AutoencoderKL, configs[0], source), _built(UNet2DConditionModel, configs[1], source)
    context = encode_empty_prompt(source, overrides, state) if prompt and has_text_tower(state) else None
    file = (PartFile(str(path.resolve().parent), path.name, path, False),)
    return StableDiffusionParts(
        source,
        _plain(vae),
        _copied(_from_ldm(state, VAE, vae_keys(vae), _shapes(vae), source)),
        _plain(unet),
        _from_ldm(state, UNET, unet_keys(unet), _shapes(unet), source),
        context,
        {"vae": file, "unet": file},
    )


def _from_ldm(
    state: Mapping[str, Tensor],
    prefix: str,
    keys: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
) -> dict[str, Tensor]:
    expected = {f"{prefix}{ldm}": shapes[ours] for ldm, ours in keys.items()}
    found = {
        name: linear_weight(value, expected.get(name, ())) for name, value in state.items() if name.startswith(prefix)
    }
    check_shapes(found, expected, source)
    return {keys[name.removeprefix(prefix)]: value for name, value in found.items()}


def _check_buffers(state: Mapping[str, Tensor], source: str) -> None:
    """Compare the training schedule that a checkpoint may hold with the sampler's."""
    shares = torch.from_numpy(training_alphas_cumprod())
    before = torch.cat((torch.ones(1, dtype=torch.float64), shares[:-1]))
    for name, expected in {"alphas_cumprod": shares, "betas": 1 - shares / before}.items():
        if (found := state.get(name)) is None:
            continue
        # Half precision rounds in the fourth digit.
        tolerance = 1e-5 if found.element_size() >= 4 else 1e-3
        if found.shape != expected.shape or not torch.allclose(found.double(), expected, rtol=tolerance, atol=0):
            raise PinholeError(
                f"{source}: {name} is not the training schedule of Stable Diffusion (0.00085 to 0.012, 1000 steps); "
                "give Stable Diffusion 2.1-base"
            )


def _configured(source: str, place: Path) -> tuple[Any, Any]:
    """Build both networks of a folder on the "meta" device."""
    configs = (
        _read(str(place), "vae", AutoencoderKL.load_config, source),
        _read(str(place), "unet", UNet2DConditionModel.load_config, source),
    )
    with torch.device("meta"):
        return _built(AutoencoderKL, configs[0], source), _built(UNet2DConditionModel, configs[1], source)


def _built(kind: Any, config: Any, source: str) -> Any:
    name = config.get("_class_name", kind.__name__) if isinstance(config, Mapping) else config
    if name != kind.__name__:
        raise PinholeError(f"{source}: the config is of {name}, but must be of {kind.__name__}; {_GIVE}")
    try:
        return kind.from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise PinholeError(f"{source}: no {kind.__name__} can be built of the config ({error}); {_GIVE}") from error


def _loaded(kind: Any, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    with torch.device("meta"):
        model = kind.from_config(config)
    model.load_state_dict({name: value.to(torch.float32, copy=True) for name, value in state.items()}, assign=True)
    return model


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _plain(model: Any) -> dict[str, Any]:
    """Return a network's whole configuration in JSON types, less what it does not compute with."""
    # diffusers also keeps what a file says beyond the constructor's arguments.
    names = inspect.signature(type(model).__init__).parameters.keys() & model.config.keys() - set(_IDLE)
    config = json.loads(json.dumps({name: value for name, value in model.config.items() if name in names}))
    heads = config.get("attention_head_dim")
    if isinstance(heads, int):
        config["attention_head_dim"] = [heads] * len(config["block_out_channels"])
    return dict(config)
