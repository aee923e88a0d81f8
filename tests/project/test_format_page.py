import re
from pathlib import Path

from shared.codec.header import PictureHeader
from shared.codec.pin import pack_pin, unpack_pin


def test_the_example_in_the_format_page_is_a_file(repository: Path) -> None:
    page = (repository / "docs" / "format.md").read_text(encoding="utf-8")
    rows = re.findall(r"^    ((?:[0-9a-f]{2} ?)+)  ", page, flags=re.MULTILINE)
    layers = unpack_pin(bytes.fromhex(" ".join(rows)))
    assert [len(layer) for layer in layers] == [12, 3, 2]
    header, length = PictureHeader.unpack(layers[0])
    assert length == 10
    assert header == PictureHeader(bytes.fromhex("1a2b3c4d"), 768, 512, 2.25, 3)
    assert pack_pin(layers).hex(" ") == " ".join(" ".join(rows).split()), "write these bytes into the page"
