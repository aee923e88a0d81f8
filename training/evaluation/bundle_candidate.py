"""A Pinhole bundle as a candidate: real ``.pin`` bytes, decoded in every way that is asked for."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter

import numpy as np

from receiver.decoder import TorchDecoder
from sender.encoder import OnnxEncoder
from shared.codec.bundle import Bundle
from shared.codec.entropy.coding import CHECK_BYTES
from shared.codec.header import PictureHeader
from shared.codec.interfaces import Pixels
from shared.codec.nets.ddpm import TRAINING_STEPS
from shared.codec.pin import pack_pin
from shared.codec.quality import choose_quality, quality_text
from shared.errors import UsageError
from training.evaluation.candidates import CodedBytes, Decoded, Target

PREVIEW, FULL = "preview", "full"


@dataclass(frozen=True)
class Sweep:
    """What is measured beside preview and full picture, and at which qualities.

    Attributes:
        steps: step counts of diffusion, from the start that the bundle names.
        from_noise: the same counts from pure noise too, as the paper samples.
        prefixes: every prefix of the layers, as preview and as full picture.
        qualities: where; None for the middle one of the measured qualities.
    """

    steps: tuple[int, ...] = ()
    from_noise: bool = False
    prefixes: bool = False
    qualities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Recipe:
    """How a variant is decoded.

    Attributes:
        layers: number of layers used; None for all.
        steps: of diffusion; None for the bundle's own number.
        from_noise: start from pure noise.
    """

    layers: int | None = None
    steps: int | None = None
    from_noise: bool = False


class BundleCandidate:
    """Measures one bundle; networks are loaded when first needed.

    Args:
        bundle: the bundle.
        name: name of its curves.
        qualities: operating points to measure, whole or in between; None for all that the bundle names.
        sweep: further variants.
        device: where the receiver's networks run.
        start: timestep that diffusion starts from instead of the bundle's own.

    Raises:
        UsageError: if the bundle has no such quality, or cannot take so many steps.
    """

    matches = False
    estimates = True
    shown: Sequence[str] = (PREVIEW, FULL)

    def __init__(
        self,
        bundle: Bundle,
        name: str | None = None,
        qualities: Sequence[float] | None = None,
        sweep: Sweep | None = None,
        device: str = "auto",
        start: int | None = None,
    ) -> None:
        sweep = sweep or Sweep()
        self.name = name or bundle.name
        self._bundle, self._device, self._start = bundle, device, start
        # More than the bundle's id, which leaves the receiver's weights out.
        state = json.dumps([bundle.manifest, start], sort_keys=True)
        self.version = f"{bundle.bundle_id.hex()}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
        points = bundle.operating_points
        values = sorted({choose_quality(points, q) for q in qualities or [p.quality for p in points]})
        if sweep.qualities is None:
            swept = {values[(len(values) - 1) // 2]}
        else:
            swept = {choose_quality(points, quality) for quality in sweep.qualities}
        if not swept <= set(values):
            missing = quality_text(min(swept - set(values)))
            raise UsageError(f"sweep at quality {missing}, which is not measured; add it to the qualities")
        self._qualities = {quality_text(quality): quality for quality in values}
        plain = {PREVIEW: Recipe(steps=0), FULL: Recipe()}
        more = _recipes(sweep, bundle.layout.layers)
        self._check_steps(sweep)
        self._recipes = {**plain, **more}
        self.targets: Sequence[Target] = tuple(
            Target(text, (*plain, *(more if quality in swept else ()))) for text, quality in self._qualities.items()
        )

    def encode(self, pixels: Pixels, target: str, size: int | None) -> "EncodedPicture":
        """Code a picture at an operating point; see ``Candidate.encode``."""
        del size
        encoder = self._encoder
        start = perf_counter()
        layers = encoder.encode(pixels, self._qualities[target])
        return EncodedPicture(self, pixels, target, layers, perf_counter() - start, zlib.crc32(pixels.tobytes()))

    def recipe(self, variant: str) -> Recipe:
        """Return how a variant is decoded, the same for all variants that come to the same."""
        recipe = self._recipes[variant]
        steps = int(self._bundle.manifest["diffusion"]["steps"]) if recipe.steps is None else recipe.steps
        layers = None if recipe.layers == self._bundle.layout.layers else recipe.layers
        return Recipe(layers, steps, recipe.from_noise)

    def decode(self, layers: Sequence[bytes], recipe: Recipe, seed: int) -> Decoded:
        """Decode a picture's layers."""
        layers = layers[: recipe.layers]
        decoder = self._noise_decoder if recipe.from_noise else self._decoder
        start = perf_counter()
        pixels = decoder.decode(layers, steps=recipe.steps, seed=seed)
        return Decoded(pixels, len(pack_pin(layers)), perf_counter() - start)

    def coded_bytes(self, pixels: Pixels, target: str, layers: Sequence[bytes]) -> CodedBytes:
        """Encode a picture's latents once more to ask the coder for its estimate of them."""
        latents = self._encoder.coder.encode(*self._encoder.latents(pixels, self._qualities[target]), b"")
        beside = PictureHeader.unpack(layers[0])[1] + CHECK_BYTES * len(layers)
        return CodedBytes(sum(latents.ideal_bits) / 8, sum(map(len, layers)) - beside, len(pack_pin(layers)))

    @cached_property
    def _encoder(self) -> OnnxEncoder:
        encoder = OnnxEncoder(self._bundle)
        # The first run of a graph allocates; it is no measure of a picture's time.
        encoder.encode(np.full((64, 64, 3), 128, np.uint8), next(iter(self._qualities.values())))
        return encoder

    @cached_property
    def _decoder(self) -> TorchDecoder:
        return self._warm(TorchDecoder(self._bundle, self._device, start=self._start))

    @cached_property
    def _noise_decoder(self) -> TorchDecoder:
        return self._warm(TorchDecoder(self._bundle, self._device, start=TRAINING_STEPS - 1))

    def _warm(self, decoder: TorchDecoder) -> TorchDecoder:
        quality = next(iter(self._qualities.values()))
        decoder.decode(self._encoder.encode(np.full((64, 64, 3), 128, np.uint8), quality), steps=1)
        return decoder

    def _check_steps(self, sweep: Sweep) -> None:
        start = int(self._bundle.manifest["diffusion"]["start"]) if self._start is None else self._start
        if not 0 <= start < TRAINING_STEPS:
            raise UsageError(f"--start {start}: give 0 to {TRAINING_STEPS - 1}")
        wrong = [steps for steps in sweep.steps if not 0 <= steps <= start + 1]
        if wrong:
            raise UsageError(
                f"--steps {wrong[0]}: bundle {self.name} starts at timestep {start}; give 0 to {start + 1}"
            )


def _recipes(sweep: Sweep, layers: int) -> dict[str, Recipe]:
    """Return the sweep's variants."""
    recipes: dict[str, Recipe] = {}
    # No steps at all is the preview, which is measured anyway.
    for steps in filter(None, sweep.steps):
        text = f"{steps} step{'' if steps == 1 else 's'}"
        recipes[text] = Recipe(steps=steps)
        if sweep.from_noise:
            recipes[f"{text} from noise"] = Recipe(steps=steps, from_noise=True)
    for used in range(1, layers + 1) if sweep.prefixes else ():
        recipes[f"layers {used}/{layers}"] = Recipe(layers=used, steps=0)
        recipes[f"layers {used}/{layers}, full"] = Recipe(layers=used)
    return recipes


class EncodedPicture:
    """One picture coded with a bundle; satisfies ``Encoded``.

    Attributes:
        size: bytes of the ``.pin`` file.
        setting: the quality.
        seconds: of encoding.
        note: empty.
    """

    note = ""

    def __init__(
        self, made_by: BundleCandidate, pixels: Pixels, target: str, layers: list[bytes], seconds: float, seed: int
    ) -> None:
        self._made_by, self._pixels, self._target, self._layers, self._seed = made_by, pixels, target, layers, seed
        self.size, self.setting, self.seconds = len(pack_pin(layers)), f"quality {target}", seconds
        self._decoded: dict[Recipe, Decoded] = {}

    def decode(self, variant: str) -> Decoded:
        """Decode, once for all variants that come to the same."""
        recipe = self._made_by.recipe(variant)
        if recipe not in self._decoded:
            self._decoded[recipe] = self._made_by.decode(self._layers, recipe, self._seed)
        return self._decoded[recipe]

    def coded_bytes(self) -> CodedBytes:
        """Compare the file with its entropy model's estimate."""
        return self._made_by.coded_bytes(self._pixels, self._target, self._layers)
