import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CorruptDataError
from training.evaluation.published import all_published, published_for, read_published

HEAD = "# Facts.\n# source paper: a paper\ndataset,method,setting,bpp,metric,value,source\n"
KODAK = {(768, 512), (512, 768)}


def test_the_shipped_file_is_sound() -> None:
    published = all_published()
    assert {point.dataset for point in published.points} == {"Kodak", "CLIC2020", "Tecnick"}
    assert {point.source for point in published.points} == set(published.sources)
    without = {point.method for point in published.points if point.bits_per_pixel is None}
    assert without == {"SD Encoder"}


def test_kodak_figures_of_diffeic() -> None:
    published, note = published_for("kodak", KODAK, 24)
    rates, values = published.line("DiffEIC", "LPIPS")
    assert rates == sorted(rates)
    assert values[0] == 0.3185
    assert values[-1] == 0.1055
    assert {"StableCodec", "AEIC-ME", "AEIC-SE", "DiT-IC", "RDEIC-2", "MS-ILLM"} <= set(published.methods)
    assert "strictly" not in note


def test_only_the_matching_dataset_and_protocol() -> None:
    clic, _ = published_for("CLIC-2020", {(768, 768)}, 428)
    assert {point.dataset for point in clic.points} == {"CLIC2020"}
    other, note = published_for("clic2020", {(2048, 1365), (768, 768)}, 428)
    assert not other.points
    assert "768x768" in note
    assert "2048x1365" in note
    assert published_for("packages", {(768, 512)}, 20)[1] == ""
    assert "ours over 8" in published_for("kodak", KODAK, 8)[1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("Kodak,X,1,0.1,PSNR,244.4,paper", "PSNR 244.4 is not within"),
        ("Kodak,X,1,0.1,PSNR,nan,paper", "PSNR nan is not within"),
        ("Kodak,X,1,0.1,PSNR,,paper", "is no number"),
        ("Kodak,X,1,-0.1,PSNR,24,paper", "bpp -0.1 is not within"),
        ("Kodak,X,1,0.1,PSMR,24,paper", "unknown metric"),
        ("Kodak,X,1,0.1,PSNR,24,rumour", "source 'rumour' is not explained"),
        ("Kodak,X,1,0.1,PSNR,24", "7 cells"),
        ("Kodak,X,1,0.1,PSNR,24,paper,more", "7 cells"),
        (",X,1,0.1,PSNR,24,paper", "must not be empty"),
        ("Kodak,Y,1,0.2,PSNR,24,paper", "another rate or source"),
        ("Kodak,Y,1,0.1,LPIPS,0.2,paper", "given twice"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(row: str, words: str) -> None:
    with pytest.raises(CorruptDataError, match=r"facts\.csv, line 5: ") as caught:
        read_published(f"{HEAD}Kodak,Y,1,0.1,LPIPS,0.1,paper\n{row}\n", "facts.csv")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_columns_are_refused() -> None:
    with pytest.raises(CorruptDataError, match=r"facts.csv: columns are dataset, method; they must be"):
        read_published("dataset,method\nKodak,X\n", "facts.csv")
    with pytest.raises(CorruptDataError, match="columns are missing"):
        read_published("", "facts.csv")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_one_way(text: str) -> None:
    try:
        read_published(HEAD + text, "facts.csv")
    except CorruptDataError as error:
        message = str(error)
    else:
        return
    assert message.startswith("facts.csv")
