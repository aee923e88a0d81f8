"""The demonstration: photographs over real sockets and over a simulated link, measured.

First the photographs go from a real sender node to a real receiver daemon. The very layers that the daemon archived
then cross the simulated link, so both halves of the report speak of the same bytes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from shared.codec.interfaces import PictureDecoder, PictureEncoder, Pixels
from shared.errors import PinholeError
from shared.link.config import LinkConfig
from shared.link.events import LayerReceived
from sim.baselines import CODECS, Baseline, available, encode_at
from sim.channel import ChannelConfig
from sim.link import SimulatedLink, Submission
from sim.loss import GilbertElliott
from sim.metrics import bits_per_pixel, ms_ssim, psnr
from sim.peers import Crossing, cross_loopback
from sim.photographs import PHOTOGRAPHS, Photograph, folder
from sim.scenario import Scenario, Traffic
from sim.simulation import Outcome, PictureFate, Recorder, outcome_of

Progress = Callable[[str], None]

RATE = 9600.0
LOSS = 0.05
BURST = 3.0
INTERVAL = 6.0
"""Seconds between two photographs; with repair, one takes about half of that at 9.6 kbit/s."""

ROUNDS = 50
"""Times that every photograph crosses the simulated link: six crossings alone would say little about 5 % loss."""

_PACKET_BYTES = 400
_RETURN_RATE = 2400.0
_LATENCY = 0.3
_PATIENCE = 3600.0  # virtual seconds after the last photograph


@dataclass(frozen=True)
class Measured:
    """A decoded picture and how near it is to the original.

    Attributes:
        pixels: ``height x width x 3``.
        psnr: decibels.
        ms_ssim: 0 to 1, or None where the picture is too small for it.
    """

    pixels: Pixels
    psnr: float
    ms_ssim: float | None


@dataclass(frozen=True)
class Delivery:
    """A picture's ways over the simulated link.

    Attributes:
        crossings: how often it was sent.
        base: median seconds from submission to the base layer's arrival.
        complete: median seconds from submission to the last layer's arrival.
        worst: the longest of these.
        packets: mean number of packets that the sender put on the line meanwhile.
        lost: mean number of those that were lost.
        repair: mean number of repair packets and packets sent again meanwhile.
    """

    crossings: int
    base: float
    complete: float
    worst: float
    packets: float
    lost: float
    repair: float


@dataclass(frozen=True)
class PictureResult:
    """Everything the report says of one photograph.

    Attributes:
        photograph: which.
        original: its pixels.
        layers: as archived.
        preview: decoded without diffusion.
        full: decoded with diffusion.
        baselines: other codecs at the same number of bytes, with their measures.
        delivery: over the simulated link.
    """

    photograph: Photograph
    original: Pixels
    layers: list[bytes]
    preview: Measured
    full: Measured
    baselines: list[tuple[Baseline, Measured]]
    delivery: Delivery

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(map(len, self.layers))

    @property
    def bits_per_pixel(self) -> float:
        """Bits of all layers per pixel."""
        return bits_per_pixel(self.size, self.original)


@dataclass(frozen=True)
class DemoResult:
    """Outcome of the demonstration.

    Attributes:
        pictures: one for each photograph.
        crossing: the transfer over real sockets.
        outcome: the transfer over the simulated link.
        quality: at which the pictures were encoded.
        steps: steps of diffusion that were asked for, None for the bundle's default.
        seconds: wall-clock time of the whole demonstration.
    """

    pictures: list[PictureResult]
    crossing: Crossing
    outcome: Outcome
    quality: float
    steps: int | None
    seconds: float


def run_demo(
    encoder: PictureEncoder,
    decoder: PictureDecoder,
    work: Path,
    *,
    quality: float,
    steps: int | None = None,
    seed: int = 1,
    photographs: Sequence[Photograph] = PHOTOGRAPHS,
    progress: Progress = lambda text: None,
) -> DemoResult:
    """Send the photographs both ways, decode and measure them.

    Args:
        encoder: of the sender.
        decoder: of the receiver.
        work: an empty folder for spool and archive.
        quality: at which to encode, 1 upwards.
        steps: steps of diffusion, None for the bundle's default.
        seed: of the simulated link.
        photographs: which to report on, all in the folder of the photographs.
        progress: gets one line for every event.

    Raises:
        PinholeError: if a picture does not make it.
    """
    started = time.monotonic()
    progress("real sockets: sender node and receiver daemon over ZeroMQ on loopback")
    crossing = cross_loopback(folder(), work, encoder, decoder, quality=quality, steps=steps, progress=progress)
    archived = {picture.name: picture for picture in crossing.pictures}
    missing = [photograph.file for photograph in photographs if photograph.file not in archived]
    if missing:
        raise PinholeError(f"the receiver has no {missing[0]}; put it back into {folder()}")
    progress(f"simulated link: {RATE:.0f} bit/s, {LOSS:.0%} loss in bursts of {BURST:g}")
    outcome, deliveries = simulate([archived[photograph.file].layers for photograph in photographs], seed)
    pictures = []
    for photograph, delivery in zip(photographs, deliveries, strict=True):
        progress(f"{photograph.file}: measured against WebP and AVIF of the same size")
        received = archived[photograph.file]
        original = photograph.pixels()
        size = sum(map(len, received.layers))
        found = [encode_at(original, codec, size) for codec in CODECS if available(codec)]
        pictures.append(
            PictureResult(
                photograph,
                original,
                received.layers,
                measure(original, received.preview),
                measure(original, received.full),
                [(baseline, measure(original, baseline.pixels)) for baseline in found if baseline is not None],
                delivery,
            )
        )
    return DemoResult(pictures, crossing, outcome, quality, steps, time.monotonic() - started)


def measure(original: Pixels, decoded: Pixels) -> Measured:
    """Measure a decoded picture against its original."""
    return Measured(decoded, psnr(original, decoded), ms_ssim(original, decoded))


def scenario(pictures: int, seed: int) -> Scenario:
    """Return the scenario of the simulated link."""
    return Scenario(
        name="demo",
        description="9.6 kbit/s with 5 % loss in bursts of 3 both ways, 0.3 s delay",
        duration=pictures * INTERVAL + _PATIENCE,
        seed=seed,
        senders=1,
        sealed=True,
        forward=ChannelConfig(rate=RATE, latency=_LATENCY, loss=GilbertElliott.from_mean(LOSS, BURST)),
        back=ChannelConfig(rate=_RETURN_RATE, latency=_LATENCY, loss=GilbertElliott.from_mean(LOSS, BURST)),
        link=LinkConfig(
            packet_bytes=_PACKET_BYTES,
            rate=RATE,
            burst_bytes=2 * _PACKET_BYTES,
            flush_after=0.0,
            interleave=1,
            retransmit_after=2.0,
        ),
        traffic=Traffic(pictures=pictures, interval=INTERVAL),
    )


def simulate(pictures: Sequence[Sequence[bytes]], seed: int, *, rounds: int = ROUNDS) -> tuple[Outcome, list[Delivery]]:
    """Send pictures over the simulated link, one after the other, and all of them again.

    Args:
        pictures: layers of each.
        seed: of the channels.
        rounds: how often each is sent.

    Returns:
        What was counted, and each picture's own ways.

    Raises:
        PinholeError: if a layer does not arrive, or not with the bytes that were sent.
    """
    total = len(pictures) * rounds
    chosen = scenario(total, seed)
    submissions = [Submission(i * INTERVAL, 0, i, pictures[i % len(pictures)]) for i in range(total)]
    recorder = Recorder(submissions)
    marks: dict[tuple[str, int], tuple[int, int, int]] = {}

    def counts() -> tuple[int, int, int]:
        channel, sender = link.forward[0].statistics, link.senders[0].statistics
        return channel.offered, channel.lost, sender.repair_symbols_sent + sender.symbols_resent

    def mark_start(sequence: int) -> Callable[[], None]:
        def act() -> None:
            marks["start", sequence] = counts()

        return act

    def received(now: float, event: LayerReceived) -> None:
        recorder.received(now, event)
        if recorder.fates[event.sequence].complete_seconds is not None:
            marks.setdefault(("end", event.sequence), counts())

    link = SimulatedLink(
        chosen.link, chosen.forward, chosen.back, seed=seed, sealed=chosen.sealed, on_received=received
    )
    for submission in submissions:
        link.clock.schedule(submission.time, mark_start(submission.sequence))
        link.submit(submission)
    link.run_until(chosen.duration)
    for i, fate in enumerate(recorder.fates):
        if fate.complete_seconds is None or fate.damaged:
            raise PinholeError(f"picture {i} did not cross the simulated link in time; try another seed")
    deliveries = [
        _delivery(recorder.fates[i :: len(pictures)], [_between(marks, j) for j in range(i, total, len(pictures))])
        for i in range(len(pictures))
    ]
    return outcome_of(chosen, link, recorder), deliveries


def _between(marks: dict[tuple[str, int], tuple[int, int, int]], sequence: int) -> tuple[int, ...]:
    return tuple(end - start for start, end in zip(marks["start", sequence], marks["end", sequence], strict=True))


def _delivery(fates: Sequence[PictureFate], counts: Sequence[tuple[int, ...]]) -> Delivery:
    base = [seconds for fate in fates if (seconds := fate.base_seconds) is not None]
    complete = [seconds for fate in fates if (seconds := fate.complete_seconds) is not None]
    packets, lost, repair = (fmean(column) for column in zip(*counts, strict=True))
    return Delivery(len(fates), median(base), median(complete), max(complete), packets, lost, repair)
