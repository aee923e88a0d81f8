"""Takes decode jobs from the queue, has an engine do them, and archives what comes out."""

import asyncio
import time
from collections.abc import Callable

from receiver.archive import Archive
from receiver.assembler import Assembler
from receiver.background import Background
from receiver.engine import Engine
from receiver.jobs import Job, JobQueue
from receiver.pictures import Painted, PictureKey, PictureRecord, Stage
from receiver.png import encode_png
from receiver.staging import DecodeRequest
from receiver.status import Reporter, Status
from shared.errors import CorruptDataError, PinholeError


class Decoding:
    """The decoding side of a receiver: what is due, in which order, and what became of it."""

    def __init__(
        self,
        archive: Archive,
        background: Background,
        engine: Engine,
        assembler: Assembler,
        *,
        full: bool,
        steps: int | None,
        largest: int,
        queue_limit: int,
        retry_after: float,
        status: Status,
        report: Reporter,
        clock: Callable[[], float],
    ) -> None:
        """Start with an empty queue.

        Args:
            archive: where layers come from and results go.
            background: the thread that owns the archive.
            engine: what decodes.
            assembler: what says when.
            full: whether full decodes are wanted.
            steps: steps of diffusion, None for the bundle's default.
            largest: pixels of the largest picture to decode; a header costs nothing, the memory it asks for does.
            queue_limit: decodes that wait in memory; the index keeps the others.
            retry_after: seconds between attempts while the storage refuses a result.
            status: counters to keep.
            report: where results are told.
            clock: seconds that never go back.
        """
        self._archive = archive
        self._background = background
        self._engine = engine
        self._assembler = assembler
        self._full = full
        self._steps = steps
        self._largest = largest
        self._queue_limit = queue_limit
        self._retry_after = retry_after
        self._status = status
        self._report = report
        self._clock = clock
        self.queue = JobQueue(queue_limit)
        self._failed: set[PictureKey] = set()
        self._unknown: set[bytes] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to decode, now or after its settle time."""
        return self.queue.idle and not self._assembler.settling

    async def resume(self) -> int:
        """Take up what an earlier run left undecoded; return how many pictures that is, as far as the queue reaches."""
        return await self._refill(self._clock())

    async def note(self, key: PictureKey, base: bool) -> None:
        """Take note of a picture that got new layers; ``base`` is whether the base layer was among them."""
        try:
            record = await self._background.run(self._archive.index.picture, key)
            if record is not None:
                await self._judge(record, base)
        except PinholeError as error:  # the layers are safe; `tick` asks the index again
            self.queue.refused = True
            self._report.warning(str(error))

    async def _judge(self, record: PictureRecord, base: bool) -> None:
        if record.bundle is None:
            if base:
                self._status.corrupt += 1
                self._report.warning(f"{record.key}: {record.error}")
            return
        if record.bundle != self._engine.bundle_id:
            if base:
                self._note_unknown(record, record.bundle)
            return
        if record.width * record.height > self._largest:
            if base:
                await self._refuse(record)
            return
        self._failed.discard(record.key)
        for job in self._assembler.update(record, self._clock()):
            self.queue.put(job)

    async def tick(self, now: float) -> None:
        """Queue what has settled, and what was refused once there is room again."""
        for job in self._assembler.due(now):
            self.queue.put(job)
        if self.queue.refused and self.queue.room > self._queue_limit // 2:
            try:
                await self._refill(now)
            except PinholeError:  # the index cannot be read just now; `refused` stays and the next tick tries again
                self.queue.refused = True

    async def work(self) -> None:
        """Do jobs until cancelled; run one for each slot of the engine."""
        while True:
            job = await self.queue.get()
            try:
                await self._decode(job)
            except PinholeError as error:
                await self._fail(job, str(error))
            except Exception as error:  # no picture may end the reception of the others
                await self._fail(job, f"{job.key}: {job.stage} failed: {type(error).__name__}: {error}")
            finally:
                self.queue.done()

    def _note_unknown(self, record: PictureRecord, bundle: bytes) -> None:
        self._status.unknown_bundle += 1
        if bundle not in self._unknown:
            self._unknown.add(bundle)
            self._report.warning(
                f"{record.key}: made with bundle {bundle.hex()}, this station decodes "
                f"{self._engine.bundle_id.hex()}; its layers are archived, start a receiver with that bundle to see it"
            )

    async def _refuse(self, record: PictureRecord) -> None:
        self._failed.add(record.key)
        self._status.refused += 1
        text = (
            f"{record.key}: {record.width}x{record.height} pixels are more than this station decodes; "
            "its layers are archived, raise --max-megapixels to see it"
        )
        self._report.warning(text)
        await self._background.run(self._archive.index.add_error, record.key, text, bad=None, now=time.time())

    async def _refill(self, now: float) -> int:
        # Twice the limit: pictures already queued are among the answers and must not hide all the others.
        records = await self._background.run(
            self._archive.index.unfinished, full=self._full, limit=2 * self._queue_limit, skip=self._failed
        )
        self.queue.refused = len(records) == 2 * self._queue_limit
        for record in records:
            if record.width * record.height > self._largest:
                await self._refuse(record)
            elif not self._assembler.waits(record.key):
                for job in self._assembler.update(record, now):
                    self.queue.put(job)
        return len(records)

    async def _decode(self, job: Job) -> None:
        record = await self._background.run(self._archive.index.picture, job.key)
        if record is None or record.decoded_layers(job.stage) >= record.usable:
            return
        layers, damage = await self._background.run(self._archive.read_layers, job.key, record.usable)
        if damage is not None:
            await self._mark_bad(job, str(damage), len(layers) + 1)
        steps = self._steps if job.stage is Stage.FULL else None
        while len(layers) > record.decoded_layers(job.stage):
            started = time.monotonic()
            try:
                painted = await self._engine.decode(DecodeRequest(layers, job.stage, steps, job.key.seed))
            except CorruptDataError as error:
                await self._mark_bad(job, f"{job.key}: {len(layers)} layers do not decode: {error}", len(layers))
                layers = layers[:-1]  # every shorter prefix is a picture too
                continue
            await self._keep(job, record, len(layers), painted, time.monotonic() - started)
            return

    async def _keep(self, job: Job, record: PictureRecord, layers: int, painted: Painted, seconds: float) -> None:
        steps = self._steps if job.stage is Stage.FULL else None
        facts = _facts(job, record, layers, steps)
        if painted.flags:
            facts["pinhole:flags"] = "; ".join(painted.flags)
            self._status.flagged += 1
            self._report.warning(f"{job.key}: {job.stage} {'; '.join(painted.flags)}")
        png = await asyncio.to_thread(encode_png, painted.pixels, facts)
        told = False
        while True:
            try:
                replaced = await self._background.run(
                    self._archive.store_result, job.key, job.stage, layers, png, seconds=seconds, steps=steps
                )
                break
            except PinholeError as error:
                if not told:
                    self._report.warning(f"{error} (trying again)")
                told = True
            await asyncio.sleep(self._retry_after)
        if replaced is None:
            return
        if replaced:
            self._status.refined += 1
        elif job.stage is Stage.PREVIEW:
            self._status.previews += 1
        else:
            self._status.decoded += 1
        self._report.line(
            f"{job.key}: {job.stage} {record.width}x{record.height} from {layers} of {record.layers_total} layers, "
            f"{record.layer_bytes} bytes, {seconds:.1f} s"
        )

    async def _mark_bad(self, job: Job, error: str, layers: int) -> None:
        self._status.corrupt += 1
        self._report.warning(error)
        await self._background.run(self._archive.index.add_error, job.key, error, bad=layers, now=time.time())

    async def _fail(self, job: Job, error: str) -> None:
        self._failed.add(job.key)
        self._status.failures += 1
        self._report.warning(f"{error.splitlines()[0]} (tried again at the next start)")
        try:
            await self._background.run(self._archive.index.add_error, job.key, error, bad=None, now=time.time())
        except PinholeError:
            return  # the disk is the trouble, and that has been said already


def _facts(job: Job, record: PictureRecord, layers: int, steps: int | None) -> dict[str, str]:
    facts = {
        "Software": "Pinhole",
        "pinhole:picture": f"{job.key.sender:08x}/{job.key.sequence}",
        "pinhole:layers": f"{layers}/{record.layers_total}",
        "pinhole:bundle": record.bundle.hex() if record.bundle else "",
    }
    if record.captured is not None:
        facts["Creation Time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.captured))
    if job.stage is Stage.FULL:
        facts["Disclaimer"] = "Painted by a generative model from received latents; fine detail may be invented."
        facts["pinhole:steps"] = "default" if steps is None else str(steps)
        facts["pinhole:seed"] = str(job.key.seed)
    return facts
