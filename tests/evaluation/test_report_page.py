import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import PinholeError
from tests.evaluation.report_results import (
    METHODS,
    PICTURES,
    rate_results,
    result,
    set_results,
    shown_pictures,
    sweep_results,
)
from training.evaluation.bd_rate import all_bd_rates
from training.evaluation.curves import compare
from training.evaluation.report import write_report
from training.evaluation.tables import as_markdown, bd_rate_tables, operating_point_tables

COMMAND = "pinhole evaluate kodak --peers all -o report"


class Tags(HTMLParser):
    """All tags of a page, and whether they are closed as they should be."""

    VOID = ("meta", "img", "br", "input", "link", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "out" / "plots").mkdir(parents=True)
    (folder / "out" / "plots" / "rate-old.png").write_bytes(b"of an earlier report")
    return write_report(
        folder / "out",
        [*rate_results(), *sweep_results()],
        set_results(),
        shown_pictures(folder / "shown"),
        "Made-up <results>",
        COMMAND,
    )


def test_all_files_are_written(report: Path) -> None:
    names = {path.name for path in report.parent.iterdir()}
    assert names == {"index.html", "table.md", "summary.csv", "bd_rate.csv", "plots"}
    plots = {path.name for path in (report.parent / "plots").iterdir()}
    assert {"overview.png", "steps.png", "layers.png", "rate-st-lpips.png", "rate-niqe-refitted.png"} <= plots
    assert "rate-old.png" not in plots
    for path in (report.parent / "plots").iterdir():
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn


def test_the_page_asks_nothing_of_the_network(report: Path) -> None:
    page = Tags(report.read_text())
    assert not page.open
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:", "#")), (tag, value[:60])
    policy = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert (policy[0] or "").startswith("default-src 'none'")
    # Style and script neither load anything.
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", report.read_text())


def test_every_control_has_a_name(report: Path) -> None:
    text = report.read_text()
    page = Tags(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
    for tag, attributes in page.tags:
        if tag == "select" or (tag == "input" and attributes.get("type") != "radio"):
            assert attributes["id"] in labelled
        if tag == "img":
            assert "alt" in attributes
        if tag == "a":
            assert (attributes["href"] or "")[1:] in ids
    # What the script looks up is there.
    for wanted in re.findall(r'(?:get|getElementById)\("([a-z-]+)"\)', text):
        assert wanted in ids


def test_the_pages_pictures(report: Path) -> None:
    found = re.search(r'id="picture-data">(.*?)</script>', report.read_text(), re.DOTALL)
    assert found
    pictures = json.loads(found[1])
    assert [picture["name"] for picture in pictures] == PICTURES[:2]
    labels = [view["label"] for view in pictures[0]["views"]]
    assert labels[:3] == ["original", "pocket, full, quality 3", "pocket, preview, quality 3"]
    assert len(labels) == 1 + len(METHODS)
    assert all(view["uri"].startswith("data:image/webp;base64,") for view in pictures[0]["views"])
    webp = next(view for view in pictures[0]["views"] if view["label"].startswith("WebP"))
    assert "smallest possible file, larger than the target" in webp["lines"]


def test_titles_are_text_not_markup(report: Path) -> None:
    assert "<h1>Made-up &lt;results&gt;</h1>" in report.read_text()


def test_csv_files(report: Path) -> None:
    with open(report.parent / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["comparison"] for row in rows} == {"rate", "steps", "layers"}
    assert sum(row["comparison"] == "rate" for row in rows) == 4 * len(METHODS)
    assert all(float(row["bits_per_pixel"]) > 0 for row in rows)
    with open(report.parent / "bd_rate.csv", newline="") as file:
        deltas = list(csv.DictReader(file))
    wanted = next(
        row for row in deltas if (row["anchor"], row["curve"], row["metric"]) == ("VVC", "pocket, full", "ST-LPIPS")
    )
    assert float(wanted["bd_rate_percent"]) < -30
    assert all(row["bd_rate_percent"] or row["remark"] for row in deltas)


def test_markdown_has_the_tables(report: Path) -> None:
    text = (report.parent / "table.md").read_text()
    assert "### Quality 1: 0.0201 bits per pixel" in text or "### Quality 1: 0.0200 bits per pixel" in text
    assert "### BD-rate against VVC" in text
    assert "### Diffusion steps" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_order_of_results_does_not_count(report: Path, tmp_path: Path) -> None:
    shown = shown_pictures(tmp_path / "shown")
    results = [*rate_results(), *sweep_results()]
    again = write_report(
        tmp_path / "out", results[::-1], set_results()[::-1], shown[::-1], "Made-up <results>", COMMAND
    )
    for name in ("summary.csv", "bd_rate.csv", "table.md", "index.html", "plots/overview.png"):
        assert (again.parent / name).read_bytes() == (report.parent / name).read_bytes(), name


def test_best_is_only_among_those_at_the_same_bytes() -> None:
    # AVIF cannot go as low as quality 1; make it look best there.
    results = [
        replace(one, metrics={**one.metrics, "PSNR": 40.0}) if one.method == "AVIF" else one for one in rate_results()
    ]
    table = operating_point_tables(compare(results))[0]
    column = table.columns.index("PSNR [dB] ↑")
    rows = {row.label: row for row in table.rows}
    assert rows["AVIF"].cells[column].text == "40.00"
    assert not rows["AVIF"].cells[column].best
    assert rows["VVC"].cells[column].best
    notes = [table.footnotes[number - 1] for number in rows["AVIF"].cells[0].remarks]
    assert any("times the bytes" in note for note in notes)
    assert any("smallest possible file" in note for note in notes)


def test_bd_rate_tables_are_of_every_anchor() -> None:
    comparison = compare(one for one in rate_results() if one.method in ("pocket", "VVC", "JPEG"))
    tables = bd_rate_tables(comparison, all_bd_rates(comparison))
    assert [table.title for table in tables] == [curve.label for curve in comparison.curves]
    against = next(table for table in tables if table.title == "VVC")
    jpeg = next(row for row in against.rows if row.label == "JPEG")
    # Every target gave JPEG's one smallest file.
    assert {cell.text for cell in jpeg.cells} == {"-"}
    assert "fewer than 2 points" in against.footnotes[jpeg.cells[0].remarks[0] - 1]


def test_markdown_escapes_bars() -> None:
    table = operating_point_tables(compare([replace(result(("VVC", ""), "1", 0), method="a|b")]))[0]
    assert "| a\\|b |" in as_markdown(table, "method")


def test_a_report_of_peers_alone(tmp_path: Path) -> None:
    results = [one for one in rate_results() if one.method == "VVC"]
    page = write_report(tmp_path, results, [], [], "VVC", COMMAND).read_text()
    assert "picture-data" not in page.split("<script>")[0]
    assert 'id="anchor"' not in page


def test_a_shown_picture_that_is_gone(tmp_path: Path) -> None:
    shown = shown_pictures(tmp_path / "shown", 1)
    shown[1].path.unlink()
    with pytest.raises(PinholeError, match=r"cannot read picture .*kodim01-1\.png"):
        write_report(tmp_path / "out", rate_results(), [], shown, "x", COMMAND)


def test_versions_of_another_size_are_refused(tmp_path: Path) -> None:
    shown = shown_pictures(tmp_path / "shown", 1)
    Image.new("RGB", (100, 80)).save(shown[1].path)
    with pytest.raises(PinholeError, match="one size: evaluate kodim01 again"):
        write_report(tmp_path / "out", rate_results(), [], shown, "x", COMMAND)


def test_sweeps_alone_are_no_report(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="no peer, preview or full decode"):
        write_report(tmp_path, sweep_results(), [], [], "x", COMMAND)
