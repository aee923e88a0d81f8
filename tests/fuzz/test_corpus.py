"""Replays what fuzzing kept through every harness, without atheris."""

import pytest

from fuzz import corpus, frames, packets, pictures
from fuzz.harness import Harness
from shared.link.outstanding import Outstanding
from shared.link.packet import DataPacket
from shared.link.replay import ReplayWindow
from shared.link.station_session import StationSession
from shared.transports.lines import framing
from shared.transports.zeromq import credit as zeromq_credit

_MOST_INPUTS, _MOST_BYTES = 2000, 1_500_000


@pytest.mark.parametrize("name", corpus.NAMES)
def test_nothing_that_was_kept_is_a_finding(name: str) -> None:
    harness = corpus.load(name)
    _replay(harness, [b"", *harness.seeds(), *corpus.read(name), *corpus.read(name, "findings")])


@pytest.mark.parametrize("name", corpus.NAMES)
def test_seeds_fit_their_harness_and_are_read(name: str) -> None:
    harness = corpus.load(name)
    seeds = harness.seeds()
    assert len({*seeds}) == len(seeds) >= 8
    assert max(map(len, seeds)) <= harness.longest


def test_what_is_kept_stays_small() -> None:
    kept = [data for name in corpus.NAMES for kind in ("corpus", "findings") for data in corpus.read(name, kind)]
    assert len(kept) <= _MOST_INPUTS
    assert sum(map(len, kept)) <= _MOST_BYTES
    assert all(corpus.read(name) for name in corpus.NAMES), "a harness has no corpus"


BREAKS: list[tuple[str, object, str, object]] = [
    ("frames", frames, "LARGEST_SEQUENCE", 5),
    ("hellos", ReplayWindow, "is_new", lambda window, counter: True),
    ("messages", zeromq_credit, "_MODULUS", 1 << 40),
    ("packets", packets, "parse_data", lambda flags, body: DataPacket(0, 300, 1, 0, body)),
    ("pictures", pictures, "pack_pin", lambda layers: b"".join(layers)),
    ("reports", Outstanding, "__contains__", lambda outstanding, key: True),
    ("station", StationSession, "_drop_layer", lambda session, key: session._layers.pop(key, None)),
    ("streams", framing, "unstuff", lambda frame: frame[1:]),
]
"""Of harnesses, what to break so that they must complain."""


@pytest.mark.parametrize(("name", "where", "what", "broken"), BREAKS)
def test_a_harness_notices_a_break(
    name: str, where: object, what: str, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A net that has holes itself would catch nothing."""
    harness = corpus.load(name)
    monkeypatch.setattr(where, what, broken)
    with pytest.raises((AssertionError, KeyError)):
        _replay(harness, [*harness.seeds(), *corpus.read(name)])


def _replay(harness: Harness, inputs: list[bytes]) -> None:
    for data in inputs:
        harness.run(data)
