"""The entropy program: all integer layers that turn decoded symbols into the means and scales of the next ones.

It is the quantised form of ``EntropyParameters`` and, with the coding tables, all that both ends must share to the
bit. Latents, hyper-latents and means are integers in units of 2^-4, standard deviations in units of 2^-8.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from shared.codec.entropy.integer import IntegerLayer, Rescale
from shared.errors import PinholeError

LATENT_BITS = 4
"""Latents and means are integers in units of 2^-4."""
SCALE_BITS = 8
"""Standard deviations are integers in units of 2^-8."""
Layers = tuple[IntegerLayer, ...]


@dataclass(frozen=True)
class SliceProgram:
    """Layers of one latent slice: contexts and the two parameter heads.

    Attributes:
        channel: context of the earlier slices; empty for the first slice.
        local: context of the slice's own anchors.
        anchor: head for anchors; input is the concatenation of channel context and hyper parameters.
        nonanchor: head for the others; input is that of local context, channel context and hyper parameters.
    """

    channel: Layers
    local: Layers
    anchor: Layers
    nonanchor: Layers


@dataclass(frozen=True)
class EntropyProgram:
    """The whole integer entropy path of one bundle.

    Attributes:
        slices: channels of each latent slice, in coding order.
        z_input: from z in units of 2^-4 to 8-bit activations.
        y_input: from decoded y in units of 2^-4 to 8-bit activations.
        hyper: the hyper-decoder.
        parts: one program a slice.
    """

    slices: tuple[int, ...]
    z_input: Rescale
    y_input: Rescale
    hyper: Layers
    parts: tuple[SliceProgram, ...]

    @property
    def offsets(self) -> tuple[int, ...]:
        """First channel of every slice in y, and M at the end."""
        return tuple(accumulate(self.slices, initial=0))

    def layers(self) -> Iterator[IntegerLayer]:
        """Every layer, hyper-decoder first."""
        yield from self.hyper
        for part in self.parts:
            yield from (*part.channel, *part.local, *part.anchor, *part.nonanchor)

    def check_exact(self) -> None:
        """Assert the float32 bound for every layer.

        Raises:
            PinholeError: naming the bound, if some layer may leave it.
        """
        for layer in self.layers():
            layer.check_exact()

    def to_bytes(self) -> bytes:
        """Serialise to one ``.npz`` file's bytes, the same bytes for the same program."""
        arrays: dict[str, NDArray[np.generic]] = {}
        tree = {
            "slices": list(self.slices),
            "z_input": _pack_rescale("z_input", self.z_input, arrays),
            "y_input": _pack_rescale("y_input", self.y_input, arrays),
            "hyper": _pack_layers("hyper", self.hyper, arrays),
            "parts": [
                {name: _pack_layers(f"{i}.{name}", getattr(part, name), arrays) for name in _PART_FIELDS}
                for i, part in enumerate(self.parts)
            ],
        }
        arrays["tree"] = np.frombuffer(json.dumps(tree, sort_keys=True).encode(), np.uint8)
        out = io.BytesIO()
        np.savez_compressed(out, **arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "EntropyProgram":
        """Read what `to_bytes` wrote.

        Raises:
            PinholeError: if the bytes are not an entropy program.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                tree = json.loads(arrays["tree"].tobytes())
                read: Callable[[list[dict[str, object]]], Layers] = lambda specs: tuple(  # noqa: E731
                    _unpack_layer(spec, arrays) for spec in specs
                )
                return cls(
                    tuple(tree["slices"]),
                    _unpack_rescale(tree["z_input"], arrays),
                    _unpack_rescale(tree["y_input"], arrays),
                    read(tree["hyper"]),
                    tuple(SliceProgram(**{name: read(part[name]) for name in _PART_FIELDS}) for part in tree["parts"]),
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise PinholeError(f"entropy program cannot be read ({error}); install the bundle again") from error


_PART_FIELDS = ("channel", "local", "anchor", "nonanchor")


def _pack_rescale(name: str, rescale: Rescale, arrays: dict[str, NDArray[np.generic]]) -> dict[str, object]:
    arrays[f"{name}.multiplier"] = rescale.multiplier.astype(np.int16)
    arrays[f"{name}.shift"] = rescale.shift.astype(np.int8)
    return {"name": name, "low": rescale.low, "high": rescale.high}


def _unpack_rescale(spec: dict[str, object], arrays: "np.lib.npyio.NpzFile") -> Rescale:
    name = spec["name"]
    multiplier, shift = (arrays[f"{name}.{part}"].astype(np.int64) for part in ("multiplier", "shift"))
    return Rescale(multiplier, shift, int(str(spec["low"])), int(str(spec["high"])))


def _pack_layers(name: str, layers: Layers, arrays: dict[str, NDArray[np.generic]]) -> list[dict[str, object]]:
    specs = []
    for i, layer in enumerate(layers):
        spec = _pack_rescale(f"{name}.{i}", layer.rescale, arrays)
        arrays[f"{name}.{i}.weight"] = layer.weight
        arrays[f"{name}.{i}.bias"] = layer.bias
        if layer.table is not None:
            arrays[f"{name}.{i}.table"] = layer.table
        spec |= {"stride": layer.stride, "transposed": layer.transposed, "table": layer.table is not None}
        specs.append(spec)
    return specs


def _unpack_layer(spec: dict[str, object], arrays: "np.lib.npyio.NpzFile") -> IntegerLayer:
    name = spec["name"]
    return IntegerLayer(
        arrays[f"{name}.weight"],
        arrays[f"{name}.bias"],
        _unpack_rescale(spec, arrays),
        int(str(spec["stride"])),
        bool(spec["transposed"]),
        arrays[f"{name}.table"] if spec["table"] else None,
    )
