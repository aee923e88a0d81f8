from hypothesis import given
from hypothesis import strategies as st

from receiver.assembler import Assembler
from receiver.pictures import PictureKey, PictureRecord, Stage, complete_prefix

KEY = PictureKey(1, 1)


def record(
    have: int, *, preview_layers: int = 0, picture_layers: int = 0, layers_bad: int | None = None
) -> PictureRecord:
    return PictureRecord(KEY, 3, have, layers_bad, preview_layers, picture_layers)


def stages(assembler: Assembler, picture: PictureRecord, now: float) -> list[Stage]:
    return [job.stage for job in assembler.update(picture, now)]


@given(st.lists(st.integers(0, 15)))
def test_the_prefix_is_the_gapless_run_from_the_base(layers: list[int]) -> None:
    length = complete_prefix(layers)
    assert all(layer in layers for layer in range(length))
    assert length not in layers


def test_nothing_is_due_without_the_base() -> None:
    assembler = Assembler(settle=5.0)
    assert stages(assembler, record(0), 0.0) == []
    assert assembler.next_timer() is None


def test_the_base_gives_a_preview_at_once_and_a_picture_after_settling() -> None:
    assembler = Assembler(settle=5.0)
    assert stages(assembler, record(1), 10.0) == [Stage.PREVIEW]
    assert assembler.next_timer() == 15.0
    assert assembler.due(14.9) == []
    assert [job.stage for job in assembler.due(15.0)] == [Stage.FULL]
    assert assembler.settling == 0


def test_every_new_layer_starts_the_settle_time_again() -> None:
    assembler = Assembler(settle=5.0)
    assembler.update(record(1), 0.0)
    assembler.update(record(2, preview_layers=1), 4.0)
    assert assembler.due(8.9) == []
    assert len(assembler.due(9.0)) == 1


def test_all_layers_give_the_picture_at_once() -> None:
    assembler = Assembler(settle=5.0)
    assembler.update(record(1), 0.0)
    assert stages(assembler, record(3, preview_layers=1), 1.0) == [Stage.PREVIEW, Stage.FULL]
    assert assembler.next_timer() is None


def test_late_layers_decode_again_after_everything_else() -> None:
    assembler = Assembler(settle=5.0)
    jobs = assembler.update(record(3, preview_layers=2, picture_layers=2), 100.0)
    assert [(job.stage, job.refines) for job in jobs] == [(Stage.PREVIEW, True), (Stage.FULL, True)]
    first = Assembler(settle=5.0).update(record(3), 0.0)
    assert [job.urgency[0] for job in first + jobs] == [0, 2, 1, 3]


def test_what_is_known_not_to_decode_is_not_tried_again() -> None:
    assembler = Assembler(settle=5.0)
    assert stages(assembler, record(3, layers_bad=3, preview_layers=2, picture_layers=2), 0.0) == []
    assert stages(assembler, record(3, layers_bad=1), 0.0) == []


def test_previews_only() -> None:
    assembler = Assembler(settle=5.0, full=False)
    assert stages(assembler, record(3), 0.0) == [Stage.PREVIEW]
    assert assembler.settling == 0


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0.0, 10.0)), max_size=30))
def test_timers_come_in_order_and_each_picture_once(events: list[tuple[int, float]]) -> None:
    assembler = Assembler(settle=3.0)
    now = 0.0
    last: dict[PictureKey, float] = {}
    for number, wait in events:
        now += wait
        for job in assembler.due(now):
            assert last.pop(job.key) + 3.0 <= now
        key = PictureKey(number, 0)
        assembler.update(PictureRecord(key, 3, 1), now)
        last[key] = now
        assert assembler.next_timer() == min(last.values()) + 3.0
    assert {job.key for job in assembler.due(now + 3.0)} == set(last)
