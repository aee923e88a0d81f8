"""The CSV files and the terminal's tables, field by field."""

import csv
import io
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.evaluation.csv_files import write_rates, write_results
from training.evaluation.results import RateResult, Result, SetResult
from training.evaluation.terminal import rate_table, summary_table


def result(picture: str, method: str, variant: str, target: str, size: int, **metrics: float) -> Result:
    return Result("set", picture, method, variant, target, "q, 1", 40, 20, size, 0.5, None, metrics, "odd, but so")


RESULTS = [
    result("a", "pocket", "full", "1", 100, PSNR=20.0, LPIPS=0.5),
    result("b", "pocket", "full", "1", 300, PSNR=30.0),
    result("a", "VVC", "", "1", 110, PSNR=25.0, LPIPS=0.25),
    result("b", "VVC", "", "1", 310, PSNR=26.0, LPIPS=0.75),
]


def text_of(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_results_have_one_row_each(tmp_path: Path) -> None:
    write_results(tmp_path / "results.csv", RESULTS)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert rows[0] == {
        "dataset": "set",
        "picture": "a",
        "method": "pocket",
        "variant": "full",
        "target": "1",
        "setting": "q, 1",
        "width": "40",
        "height": "20",
        "bytes": "100",
        "bits_per_pixel": "1.000000",
        "encode_seconds": "0.5000",
        "decode_seconds": "",
        "PSNR": "20.000000",
        "LPIPS": "0.500000",
        "note": "odd, but so",
    }
    assert [row["LPIPS"] for row in rows] == ["0.500000", "", "0.250000", "0.750000"]
    assert [row["bits_per_pixel"] for row in rows] == ["1.000000", "3.000000", "1.100000", "3.100000"]


def test_rates_have_one_row_each(tmp_path: Path) -> None:
    write_rates(tmp_path / "rates.csv", [RateResult("set", "a", "pocket", "2.5", 99.126, 100, 120)])
    assert (tmp_path / "rates.csv").read_text().splitlines() == [
        "dataset,picture,method,target,estimate_bytes,payload_bytes,bytes",
        "set,a,pocket,2.5,99.13,100,120",
    ]


def test_the_summary_has_means_over_the_pictures() -> None:
    points = [SetResult("set", "VVC", "", "1", 2.1, {"FID": 77.5}, "few patches")]
    text = text_of(summary_table(RESULTS, points, "pocket"))
    bundle = next(line for line in text.splitlines() if "pocket" in line)
    peer = next(line for line in text.splitlines() if "VVC" in line)
    assert text.index("pocket") < text.index("VVC")
    # LPIPS only over the picture that has it in both curves.
    assert [cell.strip(" │") for cell in bundle.split("│")][1:9] == [
        *("pocket", "full", "1", "2.0000 *", "25", "0.5", "", "0.50 s"),
    ]
    assert [cell.strip(" │") for cell in peer.split("│")][1:9] == [
        "VVC",
        "",
        "1",
        "2.1000 *",
        "25.5",
        "0.25",
        "77.5",
        "0.50 s",
    ]
    assert "PSNR ↑" in text
    assert "LPIPS ↓" in text
    assert "few patches" in text
    assert "means over 2 pictures" in text


def test_rates_are_summed_up_by_operating_point() -> None:
    rates = [
        RateResult("set", "a", "pocket", "10", 1000.0, 1005, 1030),
        RateResult("set", "b", "pocket", "10", 3000.0, 3015, 3030),
        RateResult("set", "a", "pocket", "2.5", 100.0, 102, 125),
    ]
    lines = [line for line in text_of(rate_table(rates)).splitlines() if "pocket" in line]
    assert [cell.strip(" │") for cell in lines[0].split("│")][2:8] == [
        *("2.5", "100.0", "102.0", "+2.00 %", "125.0", "+25.00 %"),
    ]
    assert [cell.strip(" │") for cell in lines[1].split("│")][2:8] == [
        *("10", "2000.0", "2010.0", "+0.50 %", "2030.0", "+1.50 %"),
    ]
