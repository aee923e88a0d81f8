"""What an evaluation finds: one `Result` for each decoded picture, one `SetResult` for each point of a curve.

A *curve* is all results of one method and variant over the targets; a point of it is the mean over the pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """One decode of one picture.

    Attributes:
        dataset: name of the set of pictures, such as "kodak".
        picture: the file's stem, unique in the dataset.
        method: name of the bundle ("pocket") or of the peer ("VVC", "HEVC", "AVIF", "JPEG XL", "WebP", "JPEG 2000",
            "JPEG").
        variant: for bundles "preview" (no diffusion), "full" (the bundle's own steps), "8 steps", "8 steps from noise"
            (from timestep 999), "layers 2/4" (preview of a prefix) or "layers 2/4, full"; empty for peers.
        target: quality of the operating point that the bytes belong to or were matched to ("1", "2.5").
        setting: what the encoder was told: "quality 3", "qp 41".
        width: in pixels.
        height: in pixels.
        size: bytes of the whole file; of the layers used and their framing where a prefix was decoded.
        encode_seconds: wall-clock seconds, None where not measured.
        decode_seconds: wall-clock seconds, None where not measured.
        metrics: values by name; what cannot be measured on this picture is missing.
        note: what a reader must know, such as "smallest possible file, larger than the target".
    """

    dataset: str
    picture: str
    method: str
    variant: str
    target: str
    setting: str
    width: int
    height: int
    size: int
    encode_seconds: float | None
    decode_seconds: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def bits_per_pixel(self) -> float:
        """Rate, every byte of the file counted."""
        return 8.0 * self.size / (self.width * self.height)


@dataclass(frozen=True)
class SetResult:
    """What can only be measured over all pictures together (FID, KID), at one point of a curve.

    Attributes:
        dataset: as in `Result`.
        method: as in `Result`.
        variant: as in `Result`.
        target: as in `Result`.
        bits_per_pixel: mean over the pictures.
        metrics: values by name.
        note: what a reader must know.
    """

    dataset: str
    method: str
    variant: str
    target: str
    bits_per_pixel: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class RateResult:
    """What the entropy coder spent on one picture at one operating point, against what its tables promised.

    Attributes:
        dataset: as in `Result`.
        picture: as in `Result`.
        method: as in `Result`.
        target: as in `Result`.
        estimate: ideal code length of all symbols under the coding tables, in bytes.
        payload: bytes of the range coder's strings, without picture header, checksums and frame.
        size: bytes of the whole file.
    """

    dataset: str
    picture: str
    method: str
    target: str
    estimate: float
    payload: int
    size: int
