from dataclasses import replace

import pytest

from shared.errors import UsageError
from tests.evaluation.report_results import PICTURES, SIZE, TARGETS, rate_results, result, set_results, sweep_results
from training.evaluation.curves import compare, direction, metric_order, prefix_of, steps_of, the_dataset
from training.evaluation.results import Result


def two_methods() -> list[Result]:
    return [one for one in rate_results() if one.method in ("pocket", "VVC")]


def test_points_are_means_over_all_pictures() -> None:
    comparison = compare(two_methods())
    assert [curve.label for curve in comparison.curves] == ["pocket, full", "pocket, preview", "VVC"]
    assert comparison.targets == list(TARGETS)
    assert not comparison.left_out
    mine = [one for one in two_methods() if (one.method, one.target) == ("VVC", "2")]
    point = comparison.curves[2].at("2")
    assert point is not None
    assert point.pictures == len(PICTURES)
    assert point.metrics["PSNR"] == pytest.approx(sum(one.metrics["PSNR"] for one in mine) / len(mine))
    assert point.bits_per_pixel == pytest.approx(sum(8 * one.size / (SIZE[0] * SIZE[1]) for one in mine) / len(mine))


def test_a_picture_that_one_curve_lacks_counts_for_none() -> None:
    lacking = [one for one in two_methods() if (one.method, one.target, one.picture) != ("VVC", "1", PICTURES[0])]
    comparison = compare(lacking)
    assert comparison.pictures == tuple(PICTURES[1:])
    assert {point.pictures for curve in comparison.curves for point in curve.points} == {len(PICTURES) - 1}
    assert comparison.left_out == (
        f"picture {PICTURES[0]} is left out of all means; it is missing from VVC at target 1",
    )
    # The same as if nobody had been measured on it.
    assert comparison.curves == compare([one for one in lacking if one.picture != PICTURES[0]]).curves


def test_a_point_with_few_pictures_does_not_shrink_the_others() -> None:
    kept = {(PICTURES[0]), (PICTURES[1])}
    few = [one for one in two_methods() if (one.method, one.target) != ("VVC", "1") or one.picture in kept]
    comparison = compare(few)
    assert comparison.pictures == tuple(PICTURES)
    assert comparison.curves[2].at("1") is None
    assert comparison.left_out == (f"VVC at target 1: only 2 of {len(PICTURES)} pictures; the point is left out",)


def test_points_without_a_common_picture_give_way() -> None:
    apart = [
        one
        for one in two_methods()
        if (one.picture in PICTURES[:3]) == (one.method == "VVC") and one.target == "1" and one.variant != "preview"
    ]
    comparison = compare(apart)
    assert len(comparison.pictures) == 3
    assert len(comparison.curves) == 1
    # The point that gave way is named, and so are the pictures that only it had.
    assert comparison.left_out[0] == f"VVC at target 1: only 3 of {len(PICTURES)} pictures; the point is left out"
    assert [line.split()[1] for line in comparison.left_out[1:]] == PICTURES[:3]


def test_a_metric_that_is_missing_on_a_picture_is_averaged_without_it() -> None:
    results = [
        replace(one, metrics={name: value for name, value in one.metrics.items() if name != "MS-SSIM"})
        if (one.method, one.target, one.picture) == ("VVC", "1", PICTURES[5])
        else one
        for one in two_methods()
    ]
    whole, lacking = compare(two_methods()).curves[0], compare(results).curves[0]
    assert lacking.points[0].metrics["PSNR"] == whole.points[0].metrics["PSNR"]
    assert lacking.points[0].metrics["MS-SSIM"] != whole.points[0].metrics["MS-SSIM"]
    # Its rate is that of the same pictures.
    assert lacking.points[0].rates["MS-SSIM"] < lacking.points[0].rates["PSNR"]


def test_values_that_are_not_finite_count_as_missing() -> None:
    results = [
        replace(one, metrics={**one.metrics, "PSNR": float("inf")})
        if (one.method, one.target, one.picture) == ("VVC", "1", PICTURES[5])
        else one
        for one in two_methods()
    ]
    assert all(point.metrics["PSNR"] < 100 for curve in compare(results).curves for point in curve.points)


def test_notes_are_counted() -> None:
    point = compare(one for one in rate_results() if one.method == "AVIF").curves[0].points[0]
    assert point.notes == ("smallest possible file, larger than the target (6 of 6 pictures)",)


def test_set_metrics_join_their_point() -> None:
    comparison = compare(two_methods(), set_results())
    assert all("FID" in point.metrics for curve in comparison.curves for point in curve.points)
    assert comparison.curves[0].line("FID")[0] == list(TARGETS.values())
    assert comparison.metrics[-1] == "FID"


def test_sweeps_stay_out_of_the_main_curves() -> None:
    assert compare([*two_methods(), *sweep_results()]) == compare(two_methods())


def test_the_reference_bundle_comes_first() -> None:
    other = [replace(one, method="alpha") for one in two_methods() if one.method == "pocket"]
    labels = [curve.label for curve in compare([*two_methods(), *other], reference="pocket").curves]
    assert labels == ["pocket, full", "pocket, preview", "alpha, full", "alpha, preview", "VVC"]


def test_one_dataset_at_a_time() -> None:
    one = result(("VVC", ""), "1", 0)
    assert the_dataset([one, one]) == "kodak"
    with pytest.raises(UsageError, match="2 datasets"):
        the_dataset([one, replace(one, dataset="other")])
    with pytest.raises(UsageError, match="missing"):
        the_dataset([])


def test_variants_are_understood() -> None:
    assert steps_of("1 step") == (1, "")
    assert steps_of("50 steps from noise") == (50, "from noise")
    assert steps_of("4 steps, dpm++sde, from 499") == (4, "dpm++sde, from 499")
    assert steps_of("4 steps, euler-a") == (4, "euler-a")
    assert steps_of("4 steps, from 499") == (4, "from 499")
    assert steps_of("preview") == (0, "")
    assert steps_of("full") is None
    assert prefix_of("layers 2/4") == (2, 4, False)
    assert prefix_of("layers 2/4, full") == (2, 4, True)
    assert prefix_of("preview") is None


def test_metrics_have_a_direction_and_a_place() -> None:
    assert direction("PSNR") == direction("MS-SSIM") == 1
    assert direction("NIQE (refitted)") == direction("ST-LPIPS (Alex)") == direction("FID") == -1
    assert direction("Mystery") == 0
    assert metric_order(["Mystery", "FID", "ST-LPIPS", "PSNR"]) == ["PSNR", "ST-LPIPS", "FID", "Mystery"]
