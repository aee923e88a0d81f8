"""The encoder on bundles of several weight sets: graphs come and go, the guidance latent stays."""

from pathlib import Path

import numpy as np
import pytest

from sender import encoder as encoder_module
from sender.encoder import OnnxEncoder
from sender.graphs import FloatGraph, GraphFiles
from shared.codec.bundle import Bundle, find_bundle
from shared.codec.interfaces import Pixels
from shared.codec.onnx_session import CPU
from shared.errors import PinholeError
from tests.codec.test_weight_sets import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return find_bundle(write_bundle(tmp_path_factory.mktemp("sets")))


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    blocks: Pixels = np.random.default_rng(3).integers(0, 256, (3, 4, 3)).astype(np.uint8).repeat(40, 0).repeat(40, 1)
    return blocks


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the graphs that were opened and run, in this order."""
    names: list[str] = []
    start, call = FloatGraph.__init__, FloatGraph.__call__

    def noted(graph: FloatGraph, files: GraphFiles, name: str, *others: object, **more: object) -> None:
        names.append(f"open {getattr(files, 'name', '')}/{name}")
        graph.__dict__["name"] = name
        start(graph, files, name, *others, **more)  # type: ignore[arg-type]

    def run(graph: FloatGraph, **inputs: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> object:
        names.append(f"run {graph.__dict__['name']}")
        return call(graph, **inputs)

    monkeypatch.setattr(FloatGraph, "__init__", noted)
    monkeypatch.setattr(FloatGraph, "__call__", run)
    return names


def test_a_sets_graphs_are_opened_when_they_are_wanted(bundle: Bundle, pixels: Pixels, opened: list[str]) -> None:
    encoder = OnnxEncoder(bundle)
    assert opened == ["open sets/guidance"]
    encoder.encode(pixels, 2)
    encoder.encode(pixels, 2)
    assert [name for name in opened if name.startswith("open")] == [
        "open sets/guidance",
        "open fine/analysis",
        "open fine/hyper_analysis",
    ]
    with pytest.raises(PinholeError, match="several sets of weights"):
        _ = encoder.coder
    assert encoder.coder_for(2) is encoder.coder_for(2)
    assert encoder.coder_for(1) is not encoder.coder_for(2)


def test_a_search_over_sets_runs_the_guidance_once_and_each_analysis_once(
    bundle: Bundle, pixels: Pixels, opened: list[str]
) -> None:
    encoder = OnnxEncoder(bundle)
    coarse, fine = (encoder.encode(pixels, quality) for quality in (1, 2))
    sizes = [sum(map(len, layers)) for layers in (coarse, fine)]
    assert sizes[0] < sizes[1]
    del opened[:]
    assert encoder.encode_within(pixels, sizes[1]) == fine
    assert encoder.encode_within(pixels, sizes[1] - 1) == coarse
    for name, most in (("guidance", 2), ("analysis", 4), ("hyper_analysis", 4)):
        assert opened.count(f"run {name}") <= most
    assert opened.count("run guidance") == 2


def test_sets_used_least_recently_make_room(
    bundle: Bundle, pixels: Pixels, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [OnnxEncoder(bundle).encode(pixels, quality) for quality in (1, 2)]
    monkeypatch.setattr(encoder_module, "OPEN_SETS", 1)
    encoder = OnnxEncoder(bundle)
    del opened[:]
    assert [encoder.encode(pixels, quality) for quality in (1, 2, 1, 1)] == [*expected, expected[0], expected[0]]
    assert sum(name.startswith("open") for name in opened) == 2 * 3


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_half_precision_graphs_are_for_gpus_only() -> None:
    pocket = find_bundle("pocket")
    asked: list[str] = []

    class Files:
        def has(self, name: str) -> bool:
            return name == "sender/guidance_fp16.onnx"

        def path(self, name: str) -> Path:
            asked.append(name)
            return pocket.path("sender/guidance.onnx")

    FloatGraph(Files(), "guidance", 1, [CPU])
    assert asked == ["sender/guidance.onnx"]
    FloatGraph(Files(), "guidance", 1, ["AzureExecutionProvider", CPU])
    assert asked[1:] == ["sender/guidance_fp16.onnx"]
    # A provider that cannot be had falls back to the CPU, and so must the graph.
    graph = FloatGraph(Files(), "guidance", 1, [("DmlExecutionProvider", {}), CPU])
    assert asked[2:] == ["sender/guidance_fp16.onnx", "sender/guidance.onnx"]
    picture = np.zeros((1, 3, 64, 64), np.float32)
    assert graph(picture=picture).shape == (1, 8, 8, 8)
