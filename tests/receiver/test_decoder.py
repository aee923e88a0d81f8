"""The torch decoder with the pocket bundle: what settings change, what they must not, and what happens on failure."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from receiver.decoder import FLOAT32_AGAIN, TorchDecoder
from receiver.latent_diffusion import LatentDiffusion
from receiver.pictures import Painted, Stage
from receiver.settings import DecoderSettings
from receiver.staging import DecodeRequest
from sender.encoder import OnnxEncoder
from shared.codec.bundle import find_bundle
from shared.codec.interfaces import Pixels
from shared.errors import PinholeError, UsageError
from sim.photographs import folder


@cache
def photograph(width: int, height: int) -> Pixels:
    with Image.open(folder() / "coffee.png") as image:
        return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))


@cache
def layers(quality: float = 3, width: int = 192, height: int = 128) -> tuple[bytes, ...]:
    return tuple(OnnxEncoder(find_bundle()).encode(photograph(width, height), quality))


@cache
def decoder(**settings: Any) -> TorchDecoder:
    return TorchDecoder(find_bundle(), "cpu", DecoderSettings(**settings))


def request(seed: int, quality: float = 3, stage: Stage = Stage.FULL, steps: int | None = 2) -> DecodeRequest:
    return DecodeRequest(layers(quality), stage, steps, seed)


def together(one: TorchDecoder, requests: Sequence[DecodeRequest]) -> list[Painted]:
    tasks = [one.read(r) for r in requests]
    assert len({one.key(task) for task in tasks}) == 1
    return [one.paint(diffused) for diffused in one.diffuse(tasks)]


def levels_apart(a: Pixels, b: Pixels) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def psnr(a: Pixels, b: Pixels) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.square(a.astype(float) - b.astype(float)).mean())))


def test_a_picture_decodes_the_same_alone_in_a_batch_and_in_any_order() -> None:
    one = decoder(batch=3)
    requests = [request(7), request(8, quality=5), request(2**62 + 5)]
    alone = [one.decode(r.layers, steps=2, seed=r.seed) for r in requests]
    for order in ([0, 1, 2], [2, 0, 1]):
        for number, painted in zip(order, together(one, [requests[i] for i in order]), strict=True):
            # Kernels for one and for three pictures may add up in another order, which can turn a level.
            assert levels_apart(painted.pixels, alone[number]) <= 1
            assert painted.flags == ()
    assert levels_apart(alone[0], one.decode(requests[0].layers, steps=2, seed=9)) > 1


def test_previews_and_full_decodes_are_not_mixed() -> None:
    one = decoder()
    preview, full = one.read(request(1, stage=Stage.PREVIEW)), one.read(request(1))
    assert one.key(preview) != one.key(full)
    assert np.array_equal(one.paint(one.diffuse([preview])[0]).pixels, one.preview(layers()))
    assert np.array_equal(one.preview(layers()), one.decode(layers(), steps=0, seed=5))


def test_half_precision_is_the_same_picture_within_a_few_levels() -> None:
    exact, half = (decoder(precision=p).decode(layers(), seed=3) for p in ("fp32", "bf16"))
    assert psnr(exact, half) > 40
    assert decoder(precision="bf16")._networks.dtype == torch.bfloat16


def test_channels_first_is_the_same_picture() -> None:
    assert levels_apart(decoder(channels_last=False).decode(layers(), seed=3), decoder().decode(layers(), seed=3)) <= 1


def test_tiles_change_the_preview_by_rounding_only_and_the_picture_little() -> None:
    tiled, whole = decoder(tile=32, overlap=16), decoder()
    wide = layers(3, 448, 320)
    assert levels_apart(tiled.preview(wide), whole.preview(wide)) <= 1
    assert psnr(tiled.decode(wide, seed=3), whole.decode(wide, seed=3)) > 30


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "unipc"])
def test_samplers_and_starts_are_chosen_by_settings(sampler: str) -> None:
    one = decoder(sampler=sampler, start=150, steps=3)
    assert (one.sampler, one.start, one.default_steps) == (sampler, 150, 3)
    painted = one.decode(layers(), seed=3)
    assert np.array_equal(painted, one.decode(layers(), steps=3, seed=3))
    assert 15 < psnr(painted, photograph(192, 128)) < 40
    assert psnr(painted, decoder().decode(layers(), seed=3)) > 18


def test_the_strength_is_a_dial_from_the_prior_alone() -> None:
    pictures = [decoder(strength=s).decode(layers(), seed=3) for s in (0.0, 0.5, 1.0)]
    free, between, steered = (psnr(p, photograph(192, 128)) for p in pictures)
    assert free < steered
    assert psnr(pictures[1], pictures[2]) > psnr(pictures[0], pictures[2])
    assert between > free


def test_corrected_colours_are_those_of_the_preview() -> None:
    preview, plain = decoder().preview(layers()), decoder().decode(layers(), seed=3)
    for method in ("wavelet", "adain"):
        corrected = decoder(colour=method).decode(layers(), seed=3)
        off, mended = (abs(p.mean((0, 1)) - preview.mean((0, 1))).max() for p in (plain, corrected))
        assert mended < 0.5
        assert mended <= off
        assert np.array_equal(decoder(colour=method).preview(layers()), preview)


def test_the_papers_way_runs() -> None:
    paper = TorchDecoder(find_bundle(), "cpu", DecoderSettings.paper())
    assert (paper.sampler, paper.start, paper.default_steps, paper.batch) == ("ddpm", 999, 50, 1)
    assert paper.decode(layers(), seed=3).shape == (128, 192, 3)


def test_uncertainty_comes_from_other_seeds() -> None:
    one = decoder()
    first = one.decode(layers(), seed=3)
    measured = one.uncertainty(layers(), 3, seed=3, first=first)
    assert measured.picture().shape == (128, 192)
    assert 0.1 < measured.level < 30
    assert np.array_equal(measured.deviation, one.uncertainty(layers(), 3, seed=3).deviation)
    with pytest.raises(UsageError, match="2 or more"):
        one.uncertainty(layers(), 1)
    with pytest.raises(UsageError, match="the preview has no uncertainty"):
        one.uncertainty(layers(), 2, steps=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "magic"}, "no sampler magic; give one of ddpm"),
        ({"steps": 300}, "300 diffusion steps from timestep 199: give 0"),
        ({"prompt": "storm"}, r"no prompt 'storm' \(it has none\)"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TorchDecoder(find_bundle(), "cpu", DecoderSettings(**settings))


class Spoiled:
    """Networks whose result overflows where the arithmetic is not exact, or everywhere."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, spoil: Callable[[LatentDiffusion], bool]) -> None:
        self.spoil, self.plain = spoil, getattr(LatentDiffusion, method)
        monkeypatch.setattr(LatentDiffusion, method, lambda *a, **k: self.run(*a, **k))

    def run(self, networks: LatentDiffusion, *arguments: Any, **options: Any) -> Any:
        result = self.plain(networks, *arguments, **options)
        if self.spoil(networks):
            result[0][..., 0, 0] = float("nan")
        return result


def in_half(networks: LatentDiffusion) -> bool:
    return networks.dtype != torch.float32


def test_latents_that_overflow_in_half_precision_are_decoded_again_and_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    half = TorchDecoder(find_bundle(), "cpu", DecoderSettings(precision="bf16", batch=2))
    Spoiled(monkeypatch, "diffuse", in_half)
    painted = together(half, [request(3), request(4)])
    assert [p.flags for p in painted] == [(FLOAT32_AGAIN,), ()]
    assert levels_apart(painted[0].pixels, decoder().decode(layers(), seed=3)) <= 1


def test_a_picture_that_overflows_in_half_precision_is_painted_again_and_flagged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = TorchDecoder(find_bundle(), "cpu", DecoderSettings(precision="bf16"))
    plain = half._networks.decode_part

    def overflow(part: torch.Tensor) -> torch.Tensor:
        return plain(part) * float("inf")

    monkeypatch.setattr(half._networks, "decode_part", overflow)
    painted = together(half, [request(3)])[0]
    assert painted.flags == (FLOAT32_AGAIN,)
    assert psnr(painted.pixels, decoder().decode(layers(), seed=3)) > 40


def test_latents_that_are_no_numbers_even_in_float32_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    half = TorchDecoder(find_bundle(), "cpu", DecoderSettings(precision="bf16"))
    Spoiled(monkeypatch, "diffuse", lambda networks: True)
    for one in (half, decoder()):
        with pytest.raises(PinholeError, match=r"not finite in float32 either with sampler ddpm, 2 steps"):
            one.decode(layers(), seed=3)


def test_running_out_of_memory_ends_in_smaller_batches_and_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    one = TorchDecoder(find_bundle(), "cpu", DecoderSettings(batch=2))
    calls: list[tuple[int, int]] = []
    plain = LatentDiffusion.diffuse

    def small(self: LatentDiffusion, contents: Any, *arguments: Any, tile: int, **options: Any) -> Any:
        calls.append((len(contents), tile))
        if len(contents) > 1 or tile > 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, contents, *arguments, tile=tile, **options)

    monkeypatch.setattr(LatentDiffusion, "diffuse", small)
    wide = layers(3, 448, 320)
    tasks = [one.read(DecodeRequest(wide, Stage.FULL, 2, seed)) for seed in (3, 4)]
    pictures = [one.paint(diffused).pixels for diffused in one.diffuse(tasks)]
    assert calls == [(2, 96), (1, 96), (1, 32), (1, 32)]
    monkeypatch.undo()
    assert psnr(pictures[0], decoder().decode(wide, seed=3)) > 30


def test_warming_up_runs_every_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    one = TorchDecoder(find_bundle(), "cpu", DecoderSettings(batch=2))
    sizes: list[tuple[int, tuple[int, ...]]] = []
    plain = LatentDiffusion.diffuse

    def watch(self: LatentDiffusion, contents: Any, *arguments: Any, **options: Any) -> Any:
        sizes.append((len(contents), tuple(contents[0].shape)))
        return plain(self, contents, *arguments, **options)

    monkeypatch.setattr(LatentDiffusion, "diffuse", watch)
    one.warm_up([(100, 60)])
    assert sizes == [(1, (1, 8, 8, 16)), (2, (1, 8, 8, 16))]
