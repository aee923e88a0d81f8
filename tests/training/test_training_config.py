"""Configurations: strict, mergeable, and every one that comes with Pinhole loads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PinholeError, UsageError
from training.config import Config, apply_overrides, build, load_config, merge_tables
from training.run_stage import CONFIGS, find_config, read_config, read_plan, share_out
from training.stage import JOBS, find_stage

POCKET = CONFIGS / "pocket"


@dataclass(frozen=True)
class Inner:
    widths: tuple[int, int] = (1, 2)
    any_length: tuple[float, ...] = ()
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Settings:
    inner: Inner = field(default_factory=Inner)
    share: float | None = None
    names: dict[str, str] = field(default_factory=dict)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_tables_become_dataclasses(tmp_path: Path) -> None:
    text = """
        stage = "codec"
        share = 1
        [inner]
        widths = [3, 4]
        any_length = [1, 2.5, 3]
        mode = "b"
        [names]
        x = "y"
        [optimise]
        steps = 7
        """
    config = load_config(write(tmp_path / "a.toml", text), Settings)
    assert config.settings == Settings(Inner((3, 4), (1.0, 2.5, 3.0), "b"), 1.0, {"x": "y"})
    assert config.optimise.steps == 7
    assert config.name == "codec"
    assert config.folder == Path("runs/pocket/codec")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stage = 'x'\n[inner]\nwidhts = [1, 2]", "did you mean 'widths'"),
        ("stage = 'x'\n[optimise]\nlearning_rat = 1", "did you mean 'learning_rate'"),
        ("stage = 'x'\nbogus_key_without_kin = 1", "unknown setting 'bogus_key_without_kin'"),
        ("name = 'x'", "'stage' is missing"),
        ("stage = 'x'\n[inner]\nwidths = [1]", "widths has 1 values; give 2"),
        ("stage = 'x'\n[inner]\nwidths = [1, true]", "widths is True; give a whole number"),
        ("stage = 'x'\n[inner]\nmode = 'c'", "choose one of 'a', 'b'"),
        ("stage = 'x'\n[optimise]\nsteps = 1.5", "steps is 1.5; give a whole number"),
        ("stage = 'x'\n[start]\ncodec = 1", "give text in quotes"),
        ("stage = 'x'\n[data]\ncrop = 100", "crop makes no sense; give a multiple of 8"),
        ("stage = 'x'\n[optimise]\naccumulate = 0", "accumulate makes no sense"),
        ("stage = ", "no TOML file"),
    ],
)
def test_one_clear_error(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path / "wrong.toml", text)
    with pytest.raises(PinholeError) as caught:
        load_config(path, Settings)
    assert named in str(caught.value)
    assert "wrong.toml" in str(caught.value)


def test_extends_merges_key_by_key_and_refuses_circles(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", 'stage = "x"\n[optimise]\nsteps = 5\nwarmup = 3\n')
    child = write(tmp_path / "child.toml", 'extends = "base.toml"\n[optimise]\nsteps = 9\n')
    config = load_config(child, Settings, ["optimise.warmup=4", "inner.mode=b"], photographs="photos")
    assert (config.optimise.steps, config.optimise.warmup) == (9, 4)
    assert config.settings.inner.mode == "b"
    assert config.photographs == Path("photos")
    write(tmp_path / "base.toml", 'extends = "child.toml"\n')
    with pytest.raises(PinholeError, match="extends itself"):
        load_config(child, Settings)
    with pytest.raises(PinholeError, match="cannot read"):
        load_config(tmp_path / "none.toml", Settings)


def test_an_override_needs_an_equals_sign() -> None:
    with pytest.raises(UsageError, match="key=value"):
        apply_overrides({}, ["optimise.steps"])


keys = st.text("abc", min_size=1, max_size=2)
tables = st.recursive(st.integers(), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8).filter(
    lambda value: isinstance(value, dict)
)


@given(tables, tables)
def test_merging_is_laying_over(base: dict[str, object], change: dict[str, object]) -> None:
    merged = merge_tables(base, change)
    assert merge_tables(merged, change) == merged
    assert merge_tables(base, {}) == base
    assert merged.keys() == base.keys() | change.keys()


names = st.sampled_from(["widths", "any_length", "mode", "other"])


@given(st.dictionaries(names, st.none() | st.text() | st.integers() | st.lists(st.floats()), min_size=1))
def test_what_does_not_fit_is_refused_and_the_rest_kept(table: dict[str, object]) -> None:
    lists = table.get("any_length")
    if set(table) == {"any_length"} and isinstance(lists, list):
        assert len(build(Inner, table, "here").any_length) == len(lists)
    elif "any_length" not in table and table.get("mode") not in ("a", "b"):
        with pytest.raises(PinholeError, match="here"):
            build(Inner, table, "here")


def pocket_configs() -> list[str]:
    return sorted(p.stem for p in POCKET.glob("*.toml") if p.stem not in ("plan", "common"))


@pytest.mark.parametrize("name", pocket_configs())
def test_every_pocket_configuration_loads(name: str) -> None:
    config = read_config(POCKET / f"{name}.toml")
    assert isinstance(config, Config)
    if config.stage not in JOBS:
        assert isinstance(config.settings, find_stage(config.stage).Settings)


def test_the_pocket_plan_starts_every_stage_after_what_it_needs() -> None:
    done: set[str] = set()
    for path in read_plan(find_config("pocket")):
        config = read_config(path)
        assert set(config.start.values()) <= done, config.name
        done.add(config.name)


def test_minutes_are_shared_out() -> None:
    configs = [read_config(POCKET / f"{name}.toml") for name in ("autoencoder", "prior")]
    shared = share_out(configs, 10)
    assert sum(c.optimise.finish_by_minutes for c in shared) == pytest.approx(10)
    ratio = configs[0].optimise.finish_by_minutes / configs[1].optimise.finish_by_minutes
    assert shared[0].optimise.finish_by_minutes / shared[1].optimise.finish_by_minutes == pytest.approx(ratio)
