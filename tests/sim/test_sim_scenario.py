"""Scenarios from TOML: what is understood, and how the rest is refused."""

from pathlib import Path

import pytest

from shared.errors import PinholeError
from sim.scenario import load_scenario, parse_scenario, presets
from sim.traffic import submissions


def test_every_preset_loads_and_has_traffic() -> None:
    assert {"drone-64k", "iridium-2400", "lora-5k", "satcom-9600"} <= set(presets())
    for name in presets():
        scenario = load_scenario(name)
        assert scenario.name == name
        assert scenario.description
        assert submissions(scenario)
        assert scenario.link.rate is not None
        assert scenario.forward.rate is not None
        assert scenario.link.rate <= scenario.forward.rate, "the budget must not overrun the line"


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[forward]\nrate = 2400\nloss = 0.1\n[traffic]\npictures = 3\n')
    scenario = load_scenario(str(path), seed=7)
    assert (scenario.name, scenario.seed, scenario.senders) == ("mine", 7, 1)
    assert scenario.forward.rate == 2400.0
    # Losses without a burst length are independent: the next state does not depend on the present one.
    assert scenario.forward.loss.p + scenario.forward.loss.r == pytest.approx(1.0)
    assert scenario.forward.loss.mean_loss == pytest.approx(0.1)
    assert scenario.back is None
    assert scenario.link.simplex


def test_a_return_table_makes_the_link_duplex() -> None:
    scenario = parse_scenario({"name": "x", "return": {"rate": 100}, "traffic": {"pictures": 1}}, "x.toml")
    assert scenario.back is not None
    assert not scenario.link.simplex


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = 'x'\nspeed = 3", "unknown setting 'speed'"),
        ("name = 'x'\n[forward]\nrates = 3", "[forward]: unknown setting 'rates'; did you mean 'rate'?"),
        ("name = 'x'\n[link]\nparityy = 3", "[link]: unknown setting 'parityy'"),
        ("name = 'x'\n[traffic]\npicture = 3", "[traffic]: unknown setting 'picture'"),
        ("[traffic]\npictures = 1", "setting 'name' is missing"),
        ("name = 'x'\n[forward]\nrate = 'fast'", "rate is 'fast'; give a number"),
        ("name = 'x'\n[forward]\nkeep_order = 1", "keep_order is 1; give true or false"),
        ("name = 'x'\n[forward]\nqueue_bytes = true", "queue_bytes is True; give a whole number"),
        ("name = 'x'\n[forward]\nrate = -5", "rate is -5.0"),
        ("name = 'x'\n[forward]\nloss = 1.5", "loss is 1.5"),
        ("name = 'x'\n[forward]\nloss = 0.1\np = 0.1\nr = 0.5", "not both"),
        ("name = 'x'\n[forward]\np = 0.1", "needs both p and r"),
        ("name = 'x'\nforward = 3", "'forward' must be a table"),
        ("name = 'x'\nduration = 0", "duration is 0"),
        ("name = 'x'\nsenders = 0", "senders is 0"),
        ("name = 'x'\nseed = -1", "seed is -1"),
        ("name = 'x'\n[traffic]\nlayer_bytes = []\npictures = 1", "layer_bytes"),
        ("name = 'x'\n[traffic]\nlayer_bytes = [1, 'a']\npictures = 1", "layer_bytes is 'a'"),
        ("name = 'x'\n[link]\nsimplex = true\n[return]\nrate = 9\n[traffic]\npictures = 1", "contradicts"),
        ("name = 'x'\n[link]\npacket_bytes = 3\n[traffic]\npictures = 1", "packet"),
        ("name = ", "not valid TOML"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(PinholeError) as caught:
        load_scenario(str(path))
    assert said in str(caught.value)
    assert "bad.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_presets_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="drone-64k"):
        load_scenario("balloon")
    with pytest.raises(PinholeError, match=r"gone\.toml"):
        load_scenario(str(tmp_path / "gone.toml"))


def test_traffic_depends_on_nothing_but_the_seed() -> None:
    scenario = load_scenario("drone-64k")
    assert submissions(scenario) == submissions(scenario)
    assert submissions(scenario) != submissions(load_scenario("drone-64k", seed=99))
    sizes = [sum(map(len, s.layers)) for s in submissions(scenario)]
    assert sum(sizes) / len(sizes) == pytest.approx(sum(scenario.traffic.layer_bytes), rel=0.06)


def test_traffic_from_a_folder_is_encoded_once_and_sent_in_turn(tmp_path: Path) -> None:
    for name in ("b.png", "a.pin", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    path = tmp_path / "f.toml"
    path.write_text('name = "f"\nsenders = 2\n[traffic]\nfolder = "."\npictures = 3\ninterval = 10\n')
    asked: list[str] = []

    def encode(picture: Path) -> list[bytes]:
        asked.append(picture.name)
        return [picture.read_bytes()]

    found = submissions(load_scenario(str(path)), encode)
    assert asked == ["a.pin", "b.png"]
    assert [(s.time, s.sender, s.sequence, s.layers[0]) for s in found] == [
        (0.0, 0, 0, b"a.pin"),
        (5.0, 1, 0, b"a.pin"),
        (10.0, 0, 1, b"b.png"),
        (15.0, 1, 1, b"b.png"),
        (20.0, 0, 2, b"a.pin"),
        (25.0, 1, 2, b"a.pin"),
    ]


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text('name = "f"\n[traffic]\nfolder = "nowhere"\n')
    with pytest.raises(PinholeError, match="nowhere"):
        submissions(load_scenario(str(path)))
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(PinholeError, match="no pictures"):
        submissions(load_scenario(str(path)))
