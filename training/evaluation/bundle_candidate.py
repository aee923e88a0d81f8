"""A Pinhole bundle as a candidate: real ``.pin`` bytes, decoded in every way that is asked for."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from time import perf_counter

import numpy as np

from receiver.decoder import TorchDecoder
from receiver.sampling import DEFAULT_SAMPLER, PURE_NOISE, check_sampling, sampler_info
from receiver.settings import DecoderSettings
from sender.encoder import OnnxEncoder
from shared.codec.bundle import Bundle
from shared.codec.entropy.coding import CHECK_BYTES
from shared.codec.header import PictureHeader
from shared.codec.interfaces import Pixels
from shared.codec.pin import pack_pin
from shared.codec.quality import choose_quality, quality_text
from shared.errors import UsageError
from training.evaluation.candidates import CodedBytes, Decoded, Target

PREVIEW, FULL = "preview", "full"

# Goes into the version: pictures that were decoded with another generator's noise are other pictures.
_NOISE = "Philox"


@dataclass(frozen=True)
class Sweep:
    """What is measured beside preview and full picture, and at which qualities.

    Attributes:
        steps: step counts of diffusion, from the start that the bundle names and with its sampler.
        from_noise: the same counts from pure noise too, as the paper samples.
        samplers: the same counts with each of these samplers too.
        starts: the same counts from each of these timesteps too, with each of the samplers.
        prefixes: every prefix of the layers, as preview and as full picture.
        qualities: where; None for the middle one of the measured qualities.
    """

    steps: tuple[int, ...] = ()
    from_noise: bool = False
    samplers: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()
    prefixes: bool = False
    qualities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Recipe:
    """How a variant is decoded.

    Attributes:
        layers: number of layers used; None for all.
        steps: of diffusion; None for the bundle's own number.
        sampler: its name; None for the candidate's own.
        start: timestep that diffusion starts from; None for the candidate's own.
    """

    layers: int | None = None
    steps: int | None = None
    sampler: str | None = None
    start: int | None = None


class BundleCandidate:
    """Measures one bundle; networks are loaded when first needed.

    Args:
        bundle: the bundle.
        name: name of its curves.
        qualities: operating points to measure, whole or in between; None for all that the bundle names.
        sweep: further variants.
        device: where the receiver's networks run.
        start: timestep that diffusion starts from instead of the bundle's own.
        sampler: that diffusion runs with instead of the bundle's own.

    Raises:
        UsageError: if the bundle has no such quality, there is no such sampler, or it cannot take so many steps.
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
        sampler: str | None = None,
    ) -> None:
        sweep = sweep or Sweep()
        self.name = name or bundle.name
        self._bundle, self._device = bundle, device
        diffusion = bundle.manifest["diffusion"]
        self._steps = int(diffusion["steps"])
        self._start = int(diffusion["start"]) if start is None else start
        self._sampler = sampler or str(diffusion.get("sampler", DEFAULT_SAMPLER))
        # More than the bundle's id, which leaves the receiver's weights out.
        state = json.dumps([bundle.manifest, self._sampler, self._start, _NOISE], sort_keys=True)
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
        self._check(sweep)
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
        steps = self._steps if recipe.steps is None else recipe.steps
        layers = None if recipe.layers == self._bundle.layout.layers else recipe.layers
        start = self._start if recipe.start is None else recipe.start
        return Recipe(layers, steps, recipe.sampler or self._sampler, start)

    def decode(self, layers: Sequence[bytes], recipe: Recipe, seed: int) -> Decoded:
        """Decode a picture's layers."""
        layers = layers[: recipe.layers]
        start_from = self._start if recipe.start is None else recipe.start
        decoder = self._decoder.sampling(recipe.sampler or self._sampler, start_from)
        start = perf_counter()
        pixels = decoder.decode(layers, steps=recipe.steps, seed=seed)
        return Decoded(pixels, len(pack_pin(layers)), perf_counter() - start)

    def coded_bytes(self, pixels: Pixels, target: str, layers: Sequence[bytes]) -> CodedBytes:
        """Encode a picture's latents once more to ask the coder for its estimate of them."""
        quality = self._qualities[target]
        latents = self._encoder.coder_for(quality).encode(*self._encoder.latents(pixels, quality), b"")
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
        decoder = TorchDecoder(self._bundle, self._device, DecoderSettings(sampler=self._sampler, start=self._start))
        quality = next(iter(self._qualities.values()))
        decoder.decode(self._encoder.encode(np.full((64, 64, 3), 128, np.uint8), quality), steps=1)
        return decoder

    def _check(self, sweep: Sweep) -> None:
        for sampler in (self._sampler, *sweep.samplers):
            sampler_info(sampler)
        for option, start in [("--start", self._start), *(("--starts", start) for start in sweep.starts)]:
            if not 0 <= start <= PURE_NOISE:
                raise UsageError(f"{option} {start}: give 0 to {PURE_NOISE}")
            wrong = [steps for steps in sweep.steps if not 0 <= steps <= start + 1]
            if wrong:
                place = f"bundle {self.name} starts" if option == "--start" else "one of --starts is"
                raise UsageError(f"--steps {wrong[0]}: {place} at timestep {start}; give 0 to {start + 1}")
        check_sampling(self._sampler, self._steps, self._start)


def _recipes(sweep: Sweep, layers: int) -> dict[str, Recipe]:
    """Return the sweep's variants."""
    recipes: dict[str, Recipe] = {}
    # No steps at all is the preview, which is measured anyway.
    for steps in filter(None, sweep.steps):
        text = f"{steps} step{'' if steps == 1 else 's'}"
        recipes[text] = Recipe(steps=steps)
        if sweep.from_noise:
            recipes[f"{text} from noise"] = Recipe(steps=steps, start=PURE_NOISE)
        for sampler, start in product(sweep.samplers or (None,), (None, *sweep.starts)):
            named = ([sampler] if sampler else []) + ([f"from {start}"] if start is not None else [])
            if named:
                recipes[", ".join([text, *named])] = Recipe(steps=steps, sampler=sampler, start=start)
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
