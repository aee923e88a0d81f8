"""The runner around a small codec of the tests' own: what is measured, what is not measured twice, what may fail."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shared.errors import CorruptDataError, PinholeError, UsageError
from shared.picture import load_picture, save_picture
from tests.evaluation.evaluate_fakes import OUR_ERROR, Coarse, MeanError, SetError, fail_at, texture
from training.evaluation.datasets import PictureProtocol, open_dataset
from training.evaluation.measuring import Outcome
from training.evaluation.runner import Evaluation
from training.evaluation.store import Key, ResultStore, fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "Pictures"
    made.mkdir()
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        save_picture(texture(seed), made / f"{name}.png")
    return made


def metrics(*pictures: MeanError, sets: tuple[SetError, ...] = ()) -> Any:
    return SimpleNamespace(pictures=list(pictures), sets=list(sets), unavailable=[])


def evaluate(folder: Path, *candidates: Coarse, measures: Any = None, **options: Any) -> Outcome:
    dataset = open_dataset(str(folder), PictureProtocol.AS_IS)
    out = folder.parent / options.pop("out", "out")
    return Evaluation(dataset, candidates, measures or metrics(MeanError()), out, **options).run()


def test_every_picture_target_and_variant_is_measured_once(folder: Path) -> None:
    codec, error = Coarse(), MeanError()
    outcome = evaluate(folder, codec, measures=metrics(error))
    assert outcome.failures == []
    found = {(r.picture, r.variant, r.target) for r in outcome.results}
    assert len(outcome.results) == len(found) == 27
    assert found == {(p, v, t) for p in "abc" for v in ("rough", "same", "flat") for t in "123"}
    for result in outcome.results:
        original = load_picture(folder / f"{result.picture}.png")
        decoded = Coarse().encode(original, result.target, None).decode(result.variant)
        assert result.metrics == {"error": pytest.approx(np.abs(original.astype(float) - decoded.pixels).mean())}
        assert (result.dataset, result.method, result.width, result.height) == ("pictures", "coarse", 40, 24)
        assert result.bits_per_pixel == 8 * decoded.size / 960
        assert (result.encode_seconds, result.decode_seconds) == (0.25, None if result.variant == "flat" else 0.5)
    # "same" is the object that "rough" is.
    assert error.calls == 12  # for each picture three of "rough", and one of "flat", the same at every target
    assert codec.calls == {"encode": 9, "decode": 27, "coded_bytes": 9}
    assert [(r.picture, r.target) for r in outcome.rates] == [(p, t) for p in "abc" for t in "123"]
    assert all(rate.size - rate.payload == 10 and rate.size - rate.estimate == 20.5 for rate in outcome.rates)


def test_what_matches_gets_the_bytes_of_the_first_that_does_not(folder: Path) -> None:
    peer, first, second = Coarse("peer", matches=True), Coarse("first"), Coarse("second")
    outcome = evaluate(folder, peer, first, second)
    sizes = [r.size for r in outcome.results if r.method == "first" and r.variant == "rough"]
    assert peer.asked == sizes
    assert first.asked == second.asked == [None] * 9
    # The bytes are known from disk when nothing is encoded any more.
    again = Coarse("first")
    stronger = Coarse("peer", version="2", matches=True)
    evaluate(folder, again, stronger)
    assert again.calls["encode"] == 0
    assert stronger.asked == sizes


def test_a_run_that_was_stopped_goes_on(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder, Coarse(trouble=fail_at("2", "flat", KeyboardInterrupt())))
    codec, error = Coarse(), MeanError()
    outcome = evaluate(folder, codec, measures=metrics(error))
    # Done were the first picture's first target and two of three variants of its second.
    assert codec.calls == {"encode": 8, "decode": 22, "coded_bytes": 7}
    assert error.calls == 10
    assert outcome == evaluate(folder, Coarse(), out="never-stopped")


def test_nothing_is_done_twice(folder: Path) -> None:
    first = evaluate(folder, Coarse(), measures=metrics(MeanError(), sets=(SetError(),)), show=2)
    codec, error = Coarse(), MeanError()
    lines = (folder.parent / "out" / "results.jsonl").read_bytes()
    second = evaluate(folder, codec, measures=metrics(error, sets=(SetError(),)), show=2)
    assert codec.calls == {}
    assert error.calls == 0
    assert second == first
    assert (folder.parent / "out" / "results.jsonl").read_bytes() == lines


def test_a_crash_on_one_picture_is_told_and_the_rest_go_on(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"no picture")
    told: list[str] = []
    codec = Coarse(trouble=fail_at("2", "flat", ZeroDivisionError("by zero")))
    broken = Coarse("broken", trouble=fail_at("3", "", OUR_ERROR))
    outcome = evaluate(folder, codec, broken, Coarse("peer", matches=True), tell=told.append)
    assert told == outcome.failures
    assert [line.split(":")[0] for line in told] == [
        "a coarse flat at 2",
        "a broken at 3",
        "b",
        "c coarse flat at 2",
        "c broken at 3",
    ]
    assert "ZeroDivisionError: by zero" in told[0]
    assert "out of paint" in told[1]
    assert len([r for r in outcome.results if r.method == "coarse"]) == 16
    assert len([r for r in outcome.results if r.method == "broken"]) == 12
    assert len([r for r in outcome.results if r.method == "peer"]) == 6
    log = (folder.parent / "out" / "errors.log").read_text()
    assert log.count("Traceback") == 2
    assert "out of paint" not in log
    # What failed is tried again, and only that.
    healthy = Coarse()
    outcome = evaluate(folder, healthy)
    assert healthy.calls == {"encode": 2, "decode": 2}
    assert [line.split(":")[0] for line in outcome.failures] == ["b"]


def test_a_peer_without_bytes_to_match_is_a_failure_of_its_own(folder: Path) -> None:
    broken = Coarse(trouble=fail_at("1", "", OUR_ERROR))
    outcome = evaluate(folder, broken, Coarse("peer", matches=True))
    assert len([r for r in outcome.results if r.method == "peer"]) == 6
    assert sum("matched to could not be made" in line for line in outcome.failures) == 3


def test_another_version_another_crop_another_size_to_match_are_measured_again(folder: Path) -> None:
    evaluate(folder, Coarse())
    newer = Coarse(version="2")
    assert len(evaluate(folder, newer).results) == 27
    assert newer.calls["encode"] == 9
    turned = load_picture(folder / "a.png")[::-1]
    save_picture(np.ascontiguousarray(turned), folder / "a.png")
    codec = Coarse()
    assert len(evaluate(folder, codec).results) == 27
    assert codec.calls["encode"] == 3


def test_a_metric_that_comes_later_is_measured_alone(folder: Path) -> None:
    evaluate(folder, Coarse())
    old, wide = MeanError(), MeanError("wide", least_width=100)
    outcome = evaluate(folder, Coarse(), measures=metrics(old, wide))
    assert (old.calls, wide.calls) == (0, 12)
    assert all(set(result.metrics) == {"error"} for result in outcome.results)
    # That it is not defined here is remembered too; those that are not asked for are left out.
    codec = Coarse()
    outcome = evaluate(folder, codec, measures=metrics(wide))
    assert codec.calls == {}
    assert all(result.metrics == {} for result in outcome.results)


def test_pictures_are_kept_for_the_page(folder: Path) -> None:
    outcome = evaluate(folder, Coarse(), Coarse("peer", matches=True), show=2)
    assert sorted(outcome.originals) == ["a", "c"]
    assert [(k.result.picture, k.result.method, k.result.target) for k in outcome.kept] == [
        ("a", "coarse", "2"),
        ("c", "coarse", "2"),
    ]
    for kept in outcome.kept:
        original = load_picture(outcome.originals[kept.result.picture])
        assert np.array_equal(original, load_picture(folder / f"{kept.result.picture}.png"))
        expected = Coarse().encode(original, "2", None).decode("rough")
        assert np.array_equal(load_picture(kept.path), expected.pixels)
    # One that is gone is decoded again, without measuring.
    outcome.kept[0].path.unlink()
    codec, error = Coarse(), MeanError()
    again = evaluate(folder, codec, Coarse("peer", matches=True), measures=metrics(error), show=2)
    assert (codec.calls, error.calls) == ({"encode": 1, "decode": 1}, 0)
    assert again.kept == outcome.kept
    assert evaluate(folder, Coarse(), show=1, show_target="3").kept[0].result.target == "3"


def test_metrics_over_the_set_see_every_picture_that_was_decoded(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"no picture")
    codec = Coarse()
    outcome = evaluate(folder, codec, Coarse("peer", matches=True), measures=metrics(MeanError(), sets=(SetError(),)))
    assert len(outcome.set_results) == 12
    for point in outcome.set_results:
        members = [
            r for r in outcome.results if (r.method, r.variant, r.target) == (point.method, point.variant, point.target)
        ]
        assert point.metrics["pictures"] == len(members) == 2
        assert point.metrics["set error"] == pytest.approx(np.mean([r.metrics["error"] for r in members]))
        assert point.bits_per_pixel == pytest.approx(np.mean([r.bits_per_pixel for r in members]))
        assert point.note == "for tests"


def test_progress_counts_every_decode_whatever_happens(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"no picture")
    counts: list[int] = []
    candidates = [Coarse(trouble=fail_at("1", "", OUR_ERROR)), Coarse("peer", matches=True)]
    dataset = open_dataset(str(folder), PictureProtocol.AS_IS)
    evaluation = Evaluation(
        dataset,
        candidates,
        metrics(MeanError()),
        folder.parent / "out",
        advance=lambda text, count: counts.append(count),
    )
    evaluation.run()
    assert sum(counts) == evaluation.decodes == 36


def test_candidates_are_checked(folder: Path) -> None:
    with pytest.raises(UsageError, match="two candidates are called coarse"):
        evaluate(folder, Coarse(), Coarse())
    with pytest.raises(UsageError, match="at least one bundle"):
        evaluate(folder, Coarse(matches=True))
    (folder.parent / "out").mkdir()
    (folder.parent / "out" / "pictures").write_text("")
    with pytest.raises(PinholeError, match="cannot make folder"):
        evaluate(folder, Coarse())


def test_half_a_line_is_dropped_and_a_foreign_one_refused(folder: Path) -> None:
    evaluate(folder, Coarse())
    path = folder.parent / "out" / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 36
    path.write_bytes(b"".join(lines)[:-10])
    codec = Coarse()
    assert len(evaluate(folder, codec).results) == 27
    assert codec.calls["encode"] == 1
    for foreign in (b"hello\n", b"[]\n", b'{"kind": "result"}\n', lines[0].replace(b'"rate"', b'"picture"', 1)):
        path.write_bytes(lines[0] + foreign)
        with pytest.raises(CorruptDataError, match=r"results\.jsonl, line 2: not a result"):
            ResultStore(path)


def test_the_fingerprint_is_of_shape_and_values() -> None:
    picture = texture(1)
    assert fingerprint(picture) == fingerprint(picture.copy())
    changed = picture.copy()
    changed[3, 4, 1] ^= 1
    others = [changed, np.ascontiguousarray(picture.reshape(40, 24, 3)), picture[:-1]]
    assert len({fingerprint(other) for other in [picture, *others]}) == 4


def test_every_field_of_a_key_counts() -> None:
    key = Key("p", "m", "v", "x", "1", 100)
    change: Any = dataclasses.replace
    others = [change(key, **{field: 7}) for field in json.loads(json.dumps(dataclasses.asdict(key)))]
    assert len({other.digest() for other in [key, *others]}) == 7
