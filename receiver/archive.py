"""The archive: layers and pictures as files, with an index.

Layout below the root::

    index.sqlite                                  (unless the index lives elsewhere)
    <sender, 8 hexadecimal digits>/<sequence>/layer-0.bin, layer-1.bin, ...
    <sender, 8 hexadecimal digits>/<sequence>/preview.png, picture.png

A layer's file is durable before its row is, and its row before anyone is told: the index never promises a layer that
is not there, and a layer without a row (power cut in between) is adopted at the next start.
"""

import hashlib
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from filelock import FileLock, Timeout

from receiver.files import FileStore, PlaceRefusedError
from receiver.index import Index, LayerEntry
from receiver.pictures import PictureKey, Stage
from shared.codec.header import PictureHeader
from shared.errors import CorruptDataError, PinholeError

_LAYER_FILE = re.compile(r"^([0-9a-f]{8})/(\d+)/layer-(\d+)\.bin$")


@dataclass(frozen=True)
class ReceivedLayer:
    """A layer to be stored.

    Attributes:
        key: its picture.
        layer: number, 0 is the base.
        layers: how many layers the sender says the picture has.
        payload: its bytes.
    """

    key: PictureKey
    layer: int
    layers: int
    payload: bytes


class Stored(Enum):
    """What became of a layer."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    """The archive has another picture under this number and keeps it: other bytes here, or in a layer beside it."""


@dataclass(frozen=True)
class StoreReport:
    """Outcome of storing several layers in order.

    Attributes:
        stored: one entry for each layer given; None for one that is not in the archive now.
        refused: pictures that the archive has no place for, and why; of each the first layer that was refused and all
            after it are not stored, those of other pictures are.
        error: why the archive took no more layers of any picture (full disk), or None.
        highest: of each sender with a conflict, the largest sequence number of its pictures in the archive.
    """

    stored: list[Stored | None]
    refused: dict[PictureKey, PinholeError] = field(default_factory=dict)
    error: PinholeError | None = None
    highest: dict[int, int] = field(default_factory=dict)


class Archive:
    """Everything a station has received, and what it made of it. One writer at a time; not for several threads."""

    def __init__(
        self,
        url: str,
        *,
        index_url: str | None = None,
        bundle_id: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open an archive for writing, and make it if it is missing.

        Args:
            url: folder on the local disk, or any fsspec URL.
            index_url: SQLAlchemy URL of the index; None puts an SQLite file into a local archive.
            bundle_id: the bundle this station decodes, see `Index`.
            clock: seconds since 1970.

        Raises:
            PinholeError: if it cannot be opened, or another receiver writes to it.
        """
        self.files = FileStore(url)
        self._clock = clock
        self._lock: FileLock | None = None
        root = self.files.local_root
        if root is not None:
            self._lock = FileLock(root / ".lock")
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise PinholeError(
                    f"archive {url} is in use by another receiver; stop that one or give another folder"
                ) from None
            except OSError as error:
                raise PinholeError(
                    f"archive {url} cannot be locked: {error}; give a folder you may write to"
                ) from error
        try:
            if index_url is None:
                if root is None:
                    raise PinholeError(
                        f"archive {url} is not a local folder; say where its index goes with --index URL"
                    )
                index_url = f"sqlite:///{root / 'index.sqlite'}"
            self.index = Index(index_url, bundle_id=bundle_id)
        except PinholeError:
            self._release()
            raise

    def store_layer(self, layer: ReceivedLayer) -> bool:
        """Store one layer, durable when this returns; return False if the archive had it already.

        Raises:
            PinholeError: if it cannot be stored (full disk, no place for it); nothing has changed then.
        """
        report = self.store_layers([layer])
        error = report.error or report.refused.get(layer.key)
        if error is not None:
            raise error
        return report.stored[0] is Stored.NEW

    def store_layers(self, layers: Sequence[ReceivedLayer], taken: Collection[PictureKey] = ()) -> StoreReport:
        """Store layers in order with one commit, as far as the storage lets it; what is reported stored is durable.

        One picture that there is no place for holds up no other; a storage that fails as a whole is tried once. Where
        one layer of a picture is in conflict with what is stored, no other of that picture joins what is stored.

        Args:
            layers: what has arrived.
            taken: pictures of which a layer was in conflict when it arrived just before these.
        """
        stored: list[Stored | None] = [None] * len(layers)
        refused: dict[PictureKey, PinholeError] = {}
        entries: list[LayerEntry] = []
        failure: PinholeError | None = None
        arrived = [hashlib.sha256(layer.payload).hexdigest() for layer in layers]
        try:
            digests = {key: self.index.digests(key) for key in {layer.key for layer in layers}}
            others = {*taken} | {
                layer.key
                for layer, digest in zip(layers, arrived, strict=True)
                if digests[layer.key].get(layer.layer, digest) != digest
            }
            for number, (layer, digest) in enumerate(zip(layers, arrived, strict=True)):
                if layer.key in refused:
                    continue
                known = digests[layer.key].get(layer.layer)
                if known == digest:
                    stored[number] = Stored.DUPLICATE
                    continue
                if known is not None or layer.key in others:
                    others.add(layer.key)
                    stored[number] = Stored.CONFLICT
                    continue
                try:
                    self.files.write(layer_name(layer.key, layer.layer), layer.payload)
                except PlaceRefusedError as error:
                    refused[layer.key] = error
                    continue
                entries.append(_entry(layer, digest))
                digests[layer.key][layer.layer] = digest
                stored[number] = Stored.NEW
        except PinholeError as error:
            failure = error
        try:
            conflicts = {layer.key for layer, what in zip(layers, stored, strict=True) if what is Stored.CONFLICT}
            highest = {sender: self._highest(sender, entries) for sender in {key.sender for key in conflicts}}
            if entries:
                self.index.add_layers(entries, self._clock())
        except PinholeError as error:
            return StoreReport([None] * len(layers), error=error)
        return StoreReport(stored, refused, failure, highest)

    def read_layers(self, key: PictureKey, count: int) -> tuple[list[bytes], CorruptDataError | None]:
        """Read the first ``count`` layers of a picture and check them against the index.

        Returns:
            The layers up to the first damaged file, and what is wrong with that one (None if all are sound).

        Raises:
            PinholeError: if a file cannot be read.
        """
        digests = self.index.digests(key)
        layers: list[bytes] = []
        for number in range(count):
            payload = self.files.read(layer_name(key, number))
            if hashlib.sha256(payload).hexdigest() != digests.get(number):
                return layers, CorruptDataError(f"{key}: stored layer {number} is damaged; check the archive's disk")
            layers.append(payload)
        return layers, None

    def store_result(
        self, key: PictureKey, stage: Stage, layers: int, png: bytes, *, seconds: float, steps: int | None = None
    ) -> int | None:
        """Archive a decoded picture, unless a result of at least as many layers is there.

        Args:
            key: which picture.
            stage: preview or full decode.
            layers: number of layers it was decoded from.
            png: the file.
            seconds: duration of the decode.
            steps: steps of diffusion, None for the bundle's default.

        Returns:
            How many layers the result that it replaced was made of, 0 if it is the first; None if it was not kept.

        Raises:
            PinholeError: if it cannot be stored; the former result stays.
        """
        record = self.index.picture(key)
        former = 0 if record is None else record.decoded_layers(stage)
        if former >= layers:
            return None
        self.files.write(picture_name(key, stage), png)
        self.index.add_result(key, stage, layers, now=self._clock(), seconds=seconds, steps=steps)
        return former

    def adopt(self) -> int:
        """Enter layers whose files a crash left without a row (local archives only); return how many there were."""
        root = self.files.local_root
        if root is None:
            return 0
        self.files.remove_parts()
        known = self.index.all_layers()
        entries = []
        for path in sorted(root.glob("*/*/layer-*.bin")):
            match = _LAYER_FILE.match(path.relative_to(root).as_posix())
            if match is None:
                continue
            key, number = PictureKey(int(match[1], 16), int(match[2])), int(match[3])
            if (key, number) not in known:
                payload = self.files.read(layer_name(key, number))
                entries.append(_entry(ReceivedLayer(key, number, _layers_announced(payload, number), payload)))
        return sum(self.index.add_layers(entries, self._clock())) if entries else 0

    def close(self) -> None:
        """Close the index and let other receivers in."""
        self.index.close()
        self._release()

    def local_path(self, key: PictureKey, stage: Stage) -> Path | None:
        """Return where a result lies on the local disk, or None for other storage."""
        root = self.files.local_root
        return None if root is None else root / picture_name(key, stage)

    def _highest(self, sender: int, entries: Sequence[LayerEntry]) -> int:
        """The largest number of a sender's pictures, with those about to be entered."""
        entered = (entry.key.sequence for entry in entries if entry.key.sender == sender)
        return max([self.index.highest(sender), *entered])

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def layer_name(key: PictureKey, layer: int) -> str:
    """Return the path of a layer below the archive's root."""
    return f"{key.sender:08x}/{key.sequence}/layer-{layer}.bin"


def picture_name(key: PictureKey, stage: Stage) -> str:
    """Return the path of a decoded picture below the archive's root."""
    return f"{key.sender:08x}/{key.sequence}/{stage.value}.png"


def _entry(layer: ReceivedLayer, digest: str | None = None) -> LayerEntry:
    header: PictureHeader | CorruptDataError | None = None
    if layer.layer == 0:
        try:
            header, _ = PictureHeader.unpack(layer.payload)
        except CorruptDataError as error:
            header = error
    digest = hashlib.sha256(layer.payload).hexdigest() if digest is None else digest
    return LayerEntry(layer.key, layer.layer, layer.layers, len(layer.payload), digest, header)


def _layers_announced(payload: bytes, layer: int) -> int:
    """Return how many layers a picture has as far as one of them tells: the base by its header."""
    if layer == 0:
        try:
            return PictureHeader.unpack(payload)[0].layers
        except CorruptDataError:
            return 1
    return layer + 1
