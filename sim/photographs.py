"""The photographs of the demonstration; ``photographs/ATTRIBUTION.md`` has the whole story of each."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from shared.codec.interfaces import Pixels
from shared.picture import load_picture


@dataclass(frozen=True)
class Photograph:
    """One photograph.

    Attributes:
        file: name of the file.
        title: what it shows.
        credit: author and licence.
        source: address of the original, or empty.
    """

    file: str
    title: str
    credit: str
    source: str = ""

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return folder() / self.file

    def pixels(self) -> Pixels:
        """Return RGB bytes ``height x width x 3``."""
        return load_picture(self.path)


PHOTOGRAPHS = (
    Photograph("astronaut.png", "Astronaut", "NASA, public domain", "https://flic.kr/p/r9qvLn"),
    Photograph("coffee.png", "Coffee", "Rachel Michetti, CC0"),
    Photograph("chelsea.png", "Chelsea", "Stéfan van der Walt, CC0"),
    Photograph(
        "rocket.jpg", "Rocket", "SpaceX, public domain", "https://www.flickr.com/photos/spacexphotos/16511594820/"
    ),
    Photograph(
        "china.jpg", "Temple", "danielbuechele, CC BY 2.0", "https://www.flickr.com/photos/danielbuechele/6061409035/"
    ),
    Photograph("flower.jpg", "Flower", "vultilion, CC BY 2.0", "https://www.flickr.com/photos/vultilion/6056698931/"),
)


def folder() -> Path:
    """Return the folder of the photographs."""
    return Path(str(resources.files("sim"))) / "photographs"
