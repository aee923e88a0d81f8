"""Pictures as PNG files that say of themselves where they come from."""

import io
from collections.abc import Mapping

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shared.codec.interfaces import Pixels


def encode_png(pixels: Pixels, facts: Mapping[str, str]) -> bytes:
    """Return a PNG file.

    Args:
        pixels: RGB bytes ``height x width x 3``.
        facts: text chunks (PNG specification, section 11.3.3), keyword to Latin-1 text.
    """
    info = PngInfo()
    for keyword, text in facts.items():
        info.add_text(keyword, text)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
