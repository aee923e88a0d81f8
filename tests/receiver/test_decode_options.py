import pytest

from receiver.decode_options import DEFAULT_BATCH, ColourChoice, DecodeOptions, PrecisionChoice
from receiver.settings import DecoderSettings
from shared.errors import UsageError


def test_options_become_settings() -> None:
    options = DecodeOptions(4, "unipc", 499, 0.5, "storm", ColourChoice.ADAIN, PrecisionChoice.BF16, True, 2, 64, 8)
    assert options.settings() == DecoderSettings(
        steps=4,
        sampler="unipc",
        start=499,
        strength=0.5,
        prompt="storm",
        colour="adain",
        precision="bf16",
        compile=True,
        batch=2,
        tile=64,
        overlap=8,
    )


def test_pictures_come_in_batches_unless_told_otherwise() -> None:
    assert DecodeOptions().settings().batch == DEFAULT_BATCH
    assert DecodeOptions(batch=9).settings().batch == 9


def test_the_papers_way_is_a_reference_and_takes_no_changes() -> None:
    paper = DecodeOptions(paper=True).settings()
    assert paper == DecoderSettings.paper()
    assert (paper.steps, paper.sampler, paper.start, paper.precision, paper.batch) == (50, "ddpm", 999, "fp32", 1)
    assert not paper.compile
    assert not paper.channels_last
    with pytest.raises(UsageError, match=r"--paper fixes.*leave out --steps, --sampler"):
        DecodeOptions(steps=2, sampler="ddim", paper=True).settings()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DecodeOptions(steps=-1), "--steps"),
        (DecodeOptions(start=1000), "--start 1000: give 0 to 999"),
        (DecodeOptions(strength=-0.1), "--strength"),
        (DecodeOptions(batch=-1), "--batch"),
        (DecodeOptions(tile=20), "--tile 20: give a multiple of 8"),
        (DecodeOptions(tile=100), "--tile 100"),
        (DecodeOptions(tile=64, overlap=40), "--overlap 40: give 0 to half of --tile, 32"),
    ],
)
def test_values_out_of_range_are_named(options: DecodeOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options.settings()
