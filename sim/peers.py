"""A real sender node and a real receiver daemon, joined by ZeroMQ sockets on this machine, sealed.

Everything is what ``pinhole send`` and ``pinhole receive`` are made of: watched folder, spool, session, sockets,
archive, decoding. They share a process only to spare the second start of the decoder's libraries.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from receiver.archive import Archive
from receiver.daemon import Receiver, ReceiverConfig
from receiver.engine import LocalEngine
from receiver.listeners import Listeners
from receiver.pictures import PictureKey, Stage
from sender.intake import Intake, Passed, Refused, Taken
from sender.node import NodeSettings, SenderNode
from sender.rate import RatePolicy
from sender.source import Capture, WatchedFolder
from sender.spool import Spool
from shared.codec.interfaces import PictureDecoder, PictureEncoder, Pixels
from shared.errors import PinholeError
from shared.link.config import LinkConfig
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.sealed import SealedSender
from shared.link.sealed_gate import SealedGate
from shared.link.station import Station
from shared.link.statistics import SenderStatistics, StationStatistics
from shared.picture import load_picture
from shared.transports import ClientOptions, StationOptions, open_client

Progress = Callable[[str], None]

_POLL = 0.05  # seconds


@dataclass(frozen=True)
class ArchivedPicture:
    """What the daemon made of one picture.

    Attributes:
        name: of the file in the sender's folder.
        sequence: number that the sender gave it.
        layers: its layers as archived.
        preview: decoded without diffusion, ``height x width x 3``.
        full: decoded with diffusion, of the same shape.
    """

    name: str
    sequence: int
    layers: list[bytes]
    preview: Pixels
    full: Pixels


@dataclass(frozen=True)
class Crossing:
    """A transfer over real sockets.

    Attributes:
        url: of the station.
        seconds: wall-clock time from the start of both ends to the last decoded picture.
        pictures: in the order of their sequence numbers.
        sender: counters of the session.
        station: counters of the station.
        duplicates: layers that came to the archive more than once.
    """

    url: str
    seconds: float
    pictures: list[ArchivedPicture]
    sender: SenderStatistics
    station: StationStatistics
    duplicates: int


class _NotingIntake(Intake):
    """Remembers which picture got which number."""

    def note_to(self, taken: dict[str, int]) -> None:
        self._taken = taken

    def take(self, capture: Capture, waiting: int) -> Taken | Refused | Passed:
        outcome = super().take(capture, waiting)
        match outcome:
            case Taken(sequence, name):
                self._taken[name] = sequence
            case Refused(_, reason):
                raise PinholeError(reason)
        return outcome


@dataclass
class _Report:
    """Lines of the daemon; warnings are kept for the error that they explain."""

    progress: Progress
    warnings: list[str] = field(default_factory=list)

    def line(self, text: str) -> None:
        self.progress(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)
        self.progress(text)


def cross_loopback(
    folder: Path,
    work: Path,
    encoder: PictureEncoder,
    decoder: PictureDecoder,
    *,
    quality: float,
    steps: int | None = None,
    link: LinkConfig | None = None,
    progress: Progress = lambda text: None,
) -> Crossing:
    """Send every picture of a folder to a daemon over ZeroMQ on loopback and wait until all are decoded.

    Args:
        folder: the pictures.
        work: an empty folder for spool and archive.
        encoder: of the sender.
        decoder: of the daemon.
        quality: at which to encode, 1 upwards.
        steps: steps of diffusion, None for the bundle's default.
        link: settings of both ends.
        progress: gets one line for every event.

    Raises:
        PinholeError: if a picture cannot be sent or decoded.
    """
    return asyncio.run(_cross(folder, work, encoder, decoder, quality, steps, link or LinkConfig(), progress))


async def _cross(
    folder: Path,
    work: Path,
    encoder: PictureEncoder,
    decoder: PictureDecoder,
    quality: float,
    steps: int | None,
    link: LinkConfig,
    progress: Progress,
) -> Crossing:
    started = time.monotonic()
    ground, drone = SecretKey.generate(Role.STATION), SecretKey.generate(Role.SENDER)
    listeners, url = await _listen(
        StationOptions(station=ground.identity, secret=ground, admits=lambda key: key == drone.public.curve)
    )
    archive_folder = work / "archive"
    archive_folder.mkdir(parents=True)
    report = _Report(progress)
    gate = SealedGate([ground], [ListedSender("demo", drone.public)])
    station = Station(link, now=time.monotonic(), gate=gate)
    receiver = Receiver(
        # Everything arrives in the end: an incomplete picture is never decoded in full.
        ReceiverConfig(steps=steps, settle=3600.0),
        archive=Archive(str(archive_folder), bundle_id=decoder.bundle_id),
        engine=LocalEngine(decoder),
        station=station,
        listeners=listeners,
        report=report,
    )
    stop = asyncio.Event()
    daemon = asyncio.create_task(receiver.run(stop))
    spool = Spool(work / "spool")
    taken: dict[str, int] = {}
    try:
        intake = _NotingIntake(
            WatchedFolder(folder, taken=spool.knows_revision), encoder, spool, RatePolicy(quality=quality)
        )
        intake.note_to(taken)
        node = SenderNode(
            intake,
            spool,
            link,
            partial(open_client, url, ClientOptions(sender=spool.sender, secret=drone, station=ground.public)),
            envelope=SealedSender(drone, ground.public, sender=spool.sender, session=spool.session),
            settings=NodeSettings(once=True, poll_every=0.1),
            report=progress,
        )
        sending = asyncio.create_task(node.run())
        await asyncio.wait([daemon, sending], return_when=asyncio.FIRST_COMPLETED)
        if daemon.done():
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            daemon.result()
        await sending
        status = receiver.status
        while not daemon.done():
            settled = status.decoded + status.corrupt + status.failures + status.refused + status.unknown_bundle
            if settled >= len(taken):
                break
            await asyncio.sleep(_POLL)
        stop.set()
        await daemon
    finally:
        stop.set()
        await asyncio.gather(daemon, return_exceptions=True)
        spool.close()
    seconds = time.monotonic() - started
    if not taken:
        raise PinholeError(f"{folder}: no pictures to send; put some there")
    pictures = _read_archive(archive_folder, spool.sender, taken, decoder.bundle_id, report.warnings)
    return Crossing(url, seconds, pictures, node.statistics, station.totals, receiver.status.duplicates)


async def _listen(options: StationOptions) -> tuple[Listeners, str]:
    # Between the probe and the daemon's own bind another process may take the port: then try another one.
    for attempt in range(5):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        try:
            return await Listeners.open([url], options), url
        except PinholeError:
            if attempt == 4:
                raise
    raise AssertionError("unreachable")


def _read_archive(
    folder: Path, sender: int, taken: dict[str, int], bundle_id: bytes, warnings: list[str]
) -> list[ArchivedPicture]:
    archive = Archive(str(folder), bundle_id=bundle_id)
    try:
        pictures = []
        for name, sequence in sorted(taken.items(), key=lambda item: item[1]):
            key = PictureKey(sender, sequence)
            record = archive.index.picture(key)
            paths = [archive.local_path(key, stage) for stage in (Stage.PREVIEW, Stage.FULL)]
            if record is None or not record.complete or not all(path is not None and path.exists() for path in paths):
                reason = (record and record.error) or (warnings[-1] if warnings else "it did not arrive whole")
                raise PinholeError(f"{name}: the daemon could not decode it ({reason}); see the lines above")
            layers, damage = archive.read_layers(key, record.layers_total)
            if damage is not None:
                raise damage
            preview, full = (load_picture(path) for path in paths if path is not None)
            pictures.append(ArchivedPicture(name, sequence, layers, preview, full))
        return pictures
    finally:
        archive.close()
