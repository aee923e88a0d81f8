"""Photographs: the split, the cache that notices changes, damaged files, crops by position."""

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.errors import PinholeError
from training.config import DataConfig
from training.crops import PositionSampler, crop_batches
from training.data import PhotographCache, PhotographFolder, Photographs, held_out


def make_photographs(folder: Path, count: int = 8, side: int = 96) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    for i in range(count):
        coarse = generator.integers(0, 256, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side * 3 // 2, side), Image.Resampling.BICUBIC).save(folder / f"p{i}.png")
    return folder


def test_eight_photographs_are_split_with_one_held_out(tmp_path: Path) -> None:
    cache = PhotographCache(make_photographs(tmp_path / "photos"), tmp_path / "cache", smallest=64)
    assert len(cache.validation) >= 1
    assert len(cache.training) + len(cache.validation) == 8
    crops = list(cache.validation_crops(128))
    assert all(crop.shape == (1, 3, 64, 128) for crop in crops)
    batch = next(cache.batches(3, 48, seed=1))
    assert batch.shape == (3, 3, 48, 48)
    assert batch.abs().max() <= 1


@given(st.lists(st.text("abcdef0123456789", min_size=1, max_size=12), min_size=1, max_size=60, unique=True))
def test_a_photograph_is_held_out_by_its_name_alone(names: list[str]) -> None:
    paths = [Path("folder") / f"{name}.png" for name in names]
    kept = held_out(paths)
    assert kept
    assert kept == {p for p in map(Path, (str(k) for k in held_out(list(reversed(paths)))))}


def test_the_cache_notices_a_changed_folder(tmp_path: Path) -> None:
    photos = make_photographs(tmp_path / "photos")
    first = PhotographCache(photos, tmp_path / "cache", smallest=64)
    stamp = (tmp_path / "cache" / "pixels.bin").stat().st_mtime_ns
    PhotographCache(photos, tmp_path / "cache", smallest=64)
    assert (tmp_path / "cache" / "pixels.bin").stat().st_mtime_ns == stamp
    before = [cache.copy() for cache in map(first.picture, first.training)]
    Image.new("RGB", (100, 100), "red").save(photos / "new.png")
    assert len(PhotographCache(photos, tmp_path / "cache", smallest=64).training) == len(first.training) + 1
    # Whoever mapped the old file still reads the old photographs.
    assert all(np.array_equal(a, b) for a, b in zip(before, map(first.picture, first.training), strict=True))
    Image.new("RGB", (100, 100), "blue").save(photos / "new.png")
    os.utime(photos / "new.png", ns=(1, 1))
    again = PhotographCache(photos, tmp_path / "cache", smallest=64)
    assert [0, 0, 255] in [again.picture(entry)[0, 0].tolist() for entry in again.training]


@pytest.mark.parametrize("cached", [True, False])
def test_a_damaged_photograph_is_left_out_with_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], cached: bool
) -> None:
    photos = make_photographs(tmp_path / "photos")
    (photos / "p1.png").write_bytes((photos / "p1.png").read_bytes()[:40])
    (photos / "zero.jpg").write_bytes(b"")
    found: Photographs
    found = PhotographCache(photos, tmp_path / "c", 64) if cached else PhotographFolder(photos, 64)
    for batch in islice(found.batches(4, 64, seed=2), 20):
        assert batch.shape == (4, 3, 64, 64)
    list(found.validation_crops(64))
    warnings = capfd.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert any("p1.png" in line for line in warnings)


def test_too_few_photographs_is_one_clear_error(tmp_path: Path) -> None:
    photos = make_photographs(tmp_path / "photos", count=1)
    for make in (lambda: PhotographCache(photos, tmp_path / "c", 64), lambda: PhotographFolder(photos, 64)):
        with pytest.raises(PinholeError, match="give two or more"):
            make()
    with pytest.raises(PinholeError, match="lower"):
        PhotographCache(make_photographs(tmp_path / "more"), tmp_path / "d", smallest=512)
    assert not list((tmp_path / "d").glob("*"))


@given(st.integers(0, 50), st.integers(1, 5), st.integers(1, 4))
def test_processes_share_positions_without_gap_or_overlap(first: int, batch: int, processes: int) -> None:
    seen = [
        position
        for process in range(processes)
        for positions in islice(PositionSampler(first, batch, process, processes), 3)
        for position in positions
    ]
    start = first * batch * processes
    assert sorted(seen) == list(range(start, start + 3 * batch * processes))


def test_crops_are_a_function_of_seed_and_position(tmp_path: Path) -> None:
    photos = make_photographs(tmp_path / "photos")
    cached = PhotographCache(photos, tmp_path / "cache", 64)
    config = DataConfig(batch=2, crop=64, smallest=64)
    whole = list(islice(crop_batches(cached, config, 5, 0), 6))
    later = list(islice(crop_batches(cached, config, 5, 3), 3))
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], later, strict=True))
    other = next(crop_batches(cached, config, 6, 0))
    assert not torch.equal(whole[0], other)
    # Decoded on the fly in a worker process, the crops are the very same.
    on_the_fly = crop_batches(PhotographFolder(photos, 64), DataConfig(batch=2, crop=64, smallest=64, workers=1), 5, 3)
    assert torch.equal(next(on_the_fly), later[0])


def test_scaled_crops_show_the_share_asked_for(tmp_path: Path) -> None:
    cached = PhotographCache(make_photographs(tmp_path / "photos", side=96), tmp_path / "cache", 64)
    config = DataConfig(batch=2, crop=128, smallest=64, crop_share=(0.8, 1.0))
    assert next(crop_batches(cached, config, 1, 0)).shape == (2, 3, 128, 128)
    with pytest.raises(PinholeError, match=r"data\.crop"):
        crop_batches(cached, DataConfig(crop=128, smallest=64), 1, 0)
