"""Intake: from a capture of the source to a picture in the spool."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sender.rate import ArrivalRate, RatePolicy, byte_target, encode_for
from sender.source import Capture, CaptureChangedError, Source
from sender.spool import Spool, SpoolError
from shared.codec.header import PictureHeader
from shared.codec.interfaces import PictureEncoder
from shared.errors import PinholeError
from shared.link.frames import LARGEST_LAYER, MOST_LAYERS


@dataclass(frozen=True)
class Taken:
    """A picture that is in the spool now: its sequence number, quality, number of layers and their bytes."""

    sequence: int
    name: str
    quality: float
    layers: int
    payload_bytes: int


@dataclass(frozen=True)
class Refused:
    """A picture that cannot be sent; ``reason`` is one line that names it and the mend."""

    name: str
    reason: str


@dataclass(frozen=True)
class Passed:
    """A capture that needs nothing: taken before, or (``changed``) to be offered again when it is whole."""

    name: str
    changed: bool


class Intake:
    """Polls the source, encodes, spools. Synchronous: the node runs it in a worker thread.

    Attributes:
        found_all: whether everything that lay in the source at the start has been offered by ``poll``.
        overhead: bytes on the wire per byte of layers, at least 1: as the policy says, until somebody measures it.
    """

    def __init__(
        self,
        source: Source,
        encoder: PictureEncoder,
        spool: Spool,
        policy: RatePolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect a source to a spool; ``clock`` counts seconds steadily."""
        self._source = source
        self._encoder = encoder
        self._spool = spool
        self._policy = policy
        self.overhead = policy.overhead
        self._clock = clock
        self._arrivals: ArrivalRate | None = None

    @property
    def found_all(self) -> bool:
        """Whether the source has offered everything that it held at the start."""
        return self._arrivals is not None

    def poll(self) -> list[Capture]:
        """Return the captures that became ready, oldest first.

        Raises:
            PinholeError: if the source cannot be read now.
        """
        captures = list(self._source.poll())
        if self._arrivals is not None:
            self._arrivals = self._arrivals.after(captures, self._clock())
        elif self._source.settled:
            self._arrivals = ArrivalRate(self._clock())
        return captures

    def take(self, capture: Capture, waiting: int) -> Taken | Refused | Passed:
        """Take one picture.

        Args:
            capture: from ``poll``.
            waiting: captures that are ready, this one among them.

        Returns:
            What became of it. Whatever is wrong with one picture concerns that picture only.

        Raises:
            SpoolError: if the spool cannot be written; the capture may be tried again.
        """
        try:
            digest = capture.digest()
            if self._spool.knows_content(capture.name, digest, capture.revision):
                return Passed(capture.name, changed=False)
            layers = self._encode(capture, waiting)
            quality = PictureHeader.unpack(layers[0])[0].quality
        except SpoolError:
            raise
        except CaptureChangedError:
            return Passed(capture.name, changed=True)
        except PinholeError as error:
            return Refused(capture.name, str(error))
        sequence = self._spool.take(
            capture.name, digest, capture.revision, captured=capture.captured, quality=quality, layers=layers
        )
        return Taken(sequence, capture.name, quality, len(layers), sum(map(len, layers)))

    def _encode(self, capture: Capture, waiting: int) -> list[bytes]:
        pixels = capture.pixels()
        target = byte_target(
            replace(self._policy, overhead=self.overhead),
            backlog=self._spool.backlog.payload_bytes,
            waiting=waiting,
            interval=self._arrivals.interval if self._arrivals else None,
        )
        try:
            layers = encode_for(self._encoder, pixels, self._policy, target, captured=capture.captured)
        except PinholeError:
            raise
        except Exception as error:  # a runtime's failure on one picture must not end the node
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise PinholeError(f"{capture.name}: encoding failed ({what}); send this picture another way") from error
        largest = max(map(len, layers))
        if len(layers) > MOST_LAYERS or largest > LARGEST_LAYER:
            raise PinholeError(
                f"{capture.name}: {len(layers)} layers of up to {largest} bytes, the link carries {MOST_LAYERS} of "
                f"{LARGEST_LAYER}; choose a lower quality"
            )
        return layers
