"""The demonstration from end to end: real sockets, real archive, the simulated link and the page."""

import base64
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from sim.demo import ROUNDS, DemoResult, run_demo, simulate
from sim.peers import cross_loopback
from sim.photographs import PHOTOGRAPHS, folder
from sim.report import BundleNames, write_report
from tests.sim.sim_codec import BUNDLE_ID, ThumbnailDecoder, ThumbnailEncoder


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    work = tmp_path_factory.mktemp("demo")
    return run_demo(ThumbnailEncoder(), ThumbnailDecoder(), work, quality=2)


@pytest.fixture(scope="module")
def page(result: DemoResult, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "new" / "index.html"
    write_report(result, BundleNames("thumbnails", BUNDLE_ID, "2 (large)"), path)
    return path.read_text(encoding="utf-8")


def test_every_photograph_arrives_with_the_bytes_that_were_encoded(result: DemoResult) -> None:
    assert [p.photograph for p in result.pictures] == list(PHOTOGRAPHS)
    encoder, decoder = ThumbnailEncoder(), ThumbnailDecoder()
    for picture in result.pictures:
        # The node notes the capture time in the base layer's header; the refinements are the same without it.
        assert picture.layers[1:] == encoder.encode(picture.original, 2)[1:]
        np.testing.assert_array_equal(picture.preview.pixels, decoder.preview(picture.layers))
        np.testing.assert_array_equal(picture.full.pixels, decoder.decode(picture.layers))
        assert picture.full.psnr > 15
        assert {baseline.codec for baseline, _ in picture.baselines} <= {"WebP", "AVIF"}
        assert all(baseline.size <= picture.size for baseline, _ in picture.baselines)
        assert 0 < picture.delivery.base <= picture.delivery.complete
        assert picture.delivery.packets > 0


def test_both_links_carried_every_layer(result: DemoResult) -> None:
    layers = sum(len(picture.layers) for picture in result.pictures)
    assert result.crossing.sender.layers_acknowledged == layers
    assert result.crossing.duplicates == 0
    assert result.outcome.senders[0].layers_acknowledged == layers * ROUNDS
    forward = result.outcome.forward[0]
    assert 0.03 < forward.loss_rate < 0.07
    assert sum(p.delivery.lost for p in result.pictures) > 0
    assert all(p.delivery.complete <= p.delivery.worst for p in result.pictures)


def test_the_simulated_half_is_the_same_every_time(result: DemoResult) -> None:
    layers = [picture.layers for picture in result.pictures]
    assert simulate(layers, 5, rounds=3)[1] == simulate(layers, 5, rounds=3)[1]
    assert simulate(layers, 5, rounds=3)[1] != simulate(layers, 6, rounds=3)[1]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_itself(page: str) -> None:
    parser = _Page()
    parser.feed(page)
    assert not parser.open
    assert len(parser.addresses) >= 5 * len(PHOTOGRAPHS)
    assert all(address.startswith("data:image/webp;base64,") for address in parser.addresses)
    assert base64.b64decode(parser.addresses[0].split(",")[1])[8:12] == b"WEBP"
    assert not re.search(r"url\(|@import|<script[^>]+src", page)


def test_the_page_says_what_was_measured(page: str, result: DemoResult) -> None:
    for picture in result.pictures:
        assert picture.photograph.title in page
        assert picture.photograph.credit in page
        assert f"{picture.size:,} bytes" in page
        assert f"PSNR {picture.full.psnr:.2f} dB" in page
        for baseline, _ in picture.baselines:
            assert baseline.note in page
    assert "9.6 kbit/s" in page
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "{{" not in text
    assert "None" not in text


def test_pictures_that_cannot_be_decoded_end_the_demo_with_their_name(tmp_path: Path) -> None:
    class Broken(ThumbnailDecoder):
        def decode(self, layers: Sequence[bytes], *, steps: int | None = None, seed: int = 0) -> Pixels:
            raise RuntimeError("out of memory")

    with pytest.raises(PinholeError, match=r"\.(png|jpg): .*out of memory"):
        cross_loopback(folder(), tmp_path, ThumbnailEncoder(), Broken(), quality=1)


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PinholeError, match="empty: no pictures"):
        cross_loopback(tmp_path / "empty", tmp_path / "work", ThumbnailEncoder(), ThumbnailDecoder(), quality=1)


def test_an_unknown_quality_ends_the_demo_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="quality 9"):
        cross_loopback(folder(), tmp_path, ThumbnailEncoder(), ThumbnailDecoder(), quality=9)
