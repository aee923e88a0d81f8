"""The receiver's half of the codec: layers to a preview, and by diffusion to the full picture."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from receiver.colour import check_method, correct_colour
from receiver.latent_diffusion import POSITIONS_PER_BLOCK, LatentDiffusion
from receiver.layer_reader import LayerReader, ReadPicture
from receiver.noise import PictureNoise
from receiver.out_of_memory import MemoryLadder
from receiver.painting import NonFiniteError
from receiver.pictures import Painted, Stage
from receiver.sampling import DEFAULT_SAMPLER, check_sampling
from receiver.settings import DecoderSettings
from receiver.staging import DecodeRequest
from receiver.uncertainty import Uncertainty, check_count, measure_uncertainty
from shared.codec.bundle import Bundle
from shared.codec.header import PictureHeader
from shared.codec.interfaces import Pixels
from shared.errors import PinholeError, UsageError

FLOAT32_AGAIN = "decoded again in float32, because values in half precision were not finite"


@dataclass(frozen=True)
class Task:
    """A picture that was read, and how it is to be diffused.

    Attributes:
        picture: the picture.
        steps: of diffusion, 0 for the preview.
        seed: of its noise.
    """

    picture: ReadPicture
    steps: int
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the latent, 8 pixels a position."""
        rows, columns = self.picture.z.shape[-2:]
        return POSITIONS_PER_BLOCK * rows, POSITIONS_PER_BLOCK * columns


@dataclass(frozen=True)
class Diffused:
    """A picture as a latent.

    Attributes:
        task: where it comes from.
        latent: ``1 x C x h x w`` float32, on the decoder's device.
        content: its content variable, likewise.
        flags: what had to be done otherwise than asked.
    """

    task: Task
    latent: Tensor
    content: Tensor
    flags: tuple[str, ...] = field(default=())


class TorchDecoder:
    """Decodes pictures with one bundle; satisfies ``PictureDecoder`` and, for batches, ``StagedDecoder``.

    Data flow, the same for one picture and for many::

        layers -> read (integers, CPU) -> diffuse (a batch of one shape) -> paint (picture decoder) -> pixels

    Entropy decoding runs in integers on the CPU under ONNX Runtime; the networks run under torch on ``device``. Memory
    that does not suffice is met by smaller batches, then by tiles; values that are not finite in half precision by
    decoding again in float32, which the result is flagged with.

    Args:
        bundle: the bundle.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ... or ``"auto"`` for CUDA where there is one.
        settings: how pictures are decoded.

    Raises:
        PinholeError: if the device is not there, or the bundle is damaged.
        UsageError: if the settings do not fit the bundle.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", settings: DecoderSettings | None = None) -> None:
        settings = settings or DecoderSettings()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise PinholeError(f"device {device}: torch finds no CUDA device; use --device cpu or install the driver")
        self.device = torch.device(device)
        self.settings, self._bundle = settings, bundle
        diffusion = bundle.manifest["diffusion"]
        self.sampler = settings.sampler or str(diffusion.get("sampler", DEFAULT_SAMPLER))
        self.start = int(diffusion["start"]) if settings.start is None else settings.start
        self.default_steps = int(diffusion["steps"]) if settings.steps is None else settings.steps
        check_sampling(self.sampler, self.default_steps, self.start)
        check_method(settings.colour)
        self._reader = LayerReader(bundle)
        self._networks = LatentDiffusion(bundle, self.device, settings)
        self._diffusing = MemoryLadder(settings.batch, settings.tile)
        self._painting = MemoryLadder(1, settings.tile)
        # Pictures are painted on a stream of their own, so that the next batch is diffused meanwhile.
        self._stream = torch.cuda.Stream(self.device) if self.overlaps else None  # type: ignore[no-untyped-call]

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the bundle's hash."""
        return self._bundle.bundle_id

    @property
    def batch(self) -> int:
        """Pictures of one shape that `diffuse` takes at once at most."""
        return self.settings.batch

    @property
    def overlaps(self) -> bool:
        """Whether painting one picture while the next is diffused gains anything: on a GPU, not on shared cores."""
        return self.device.type == "cuda"

    def sampling(self, sampler: str, start: int) -> "TorchDecoder":
        """Return a decoder with another sampler and start that shares this one's networks.

        Raises:
            UsageError: if there is no such sampler or start.
        """
        check_sampling(sampler, 1, start)
        other = copy.copy(self)
        other.sampler, other.start = sampler, start
        return other

    def preview(self, layers: Sequence[bytes]) -> Pixels:
        """Decode without diffusion; see ``PictureDecoder.preview``."""
        return self.decode(layers, steps=0)

    def decode(self, layers: Sequence[bytes], *, steps: int | None = None, seed: int = 0) -> Pixels:
        """Decode with diffusion; see ``PictureDecoder.decode``.

        Raises:
            CorruptDataError: if a layer is damaged.
            PinholeError: if there are more ``steps`` than timesteps, or fewer than none, or memory does not suffice.
        """
        task = self.read(DecodeRequest(layers, Stage.FULL, steps, seed))
        return self.paint(self.diffuse([task])[0]).pixels

    def content(self, layers: Sequence[bytes]) -> tuple[PictureHeader, Tensor]:
        """Decode layers to the content variable, ``1 x C x H/8 x W/8`` of the padded picture.

        Raises:
            CorruptDataError: if a layer is damaged or belongs to another bundle.
        """
        picture = self._reader.read(layers)
        return picture.header, self._networks.content(picture, self.settings.tile)

    def uncertainty(
        self,
        layers: Sequence[bytes],
        count: int,
        *,
        steps: int | None = None,
        seed: int = 0,
        first: Pixels | None = None,
    ) -> Uncertainty:
        """Decode a picture with several seeds and return how far the decodes differ at every pixel.

        Args:
            layers: a prefix of its layers.
            count: number of seeds, 2 or more.
            steps: as for `decode`.
            seed: the picture's own.
            first: its decode with this seed, where it is at hand.

        Raises:
            UsageError: if ``count`` is below 2, or ``steps`` is 0: a preview does not depend on a seed.
            CorruptDataError: if a layer is damaged.
        """
        check_count(count)
        task = self.read(DecodeRequest(layers, Stage.FULL, steps, seed))
        if task.steps == 0:
            raise UsageError("the preview has no uncertainty over seeds; give --steps 1 or more")

        def one(other: int) -> Pixels:
            return self.paint(self.diffuse([Task(task.picture, task.steps, other)])[0]).pixels

        return measure_uncertainty(one, seed, count, first)

    def read(self, request: DecodeRequest) -> Task:
        """Entropy-decode a picture's layers; runs on the CPU and may run beside the other stages.

        Raises:
            CorruptDataError: if a layer is damaged.
            UsageError: if the sampler cannot take the steps that are asked for.
        """
        steps = self.default_steps if request.steps is None else request.steps
        steps = 0 if request.stage is Stage.PREVIEW else steps
        check_sampling(self.sampler, steps, self.start)
        return Task(self._reader.read(request.layers), steps, request.seed)

    def key(self, task: Task) -> tuple[object, ...]:
        """Return what pictures of one batch have in common."""
        return task.picture.weights.name, task.shape, task.steps

    def diffuse(self, tasks: Sequence[Task]) -> list[Diffused]:
        """Diffuse a batch of pictures that have one `key`.

        Raises:
            PinholeError: if memory does not suffice for one picture, or its latent is not finite even in float32.
        """
        done = self._diffusing.run(
            tasks[0].shape, tasks, lambda chosen, tile: self._diffuse(self._networks, chosen, tile)
        )
        lost = [i for i, one in enumerate(done) if not torch.isfinite(one.latent).all()]
        if lost:
            again = self._exactly([tasks[i] for i in lost])
            for i, one in zip(lost, again, strict=True):
                done[i] = one
        if self.overlaps:
            # What is painted on another stream must be there.
            torch.cuda.current_stream(self.device).synchronize()
        return done

    def paint(self, diffused: Diffused) -> Painted:
        """Decode a diffused latent to pixels, and correct their colours if that is set.

        Raises:
            PinholeError: if memory does not suffice, or the picture is not finite even in float32.
        """
        if self._stream is None:
            return self._paint(diffused)
        for tensor in (diffused.latent, diffused.content):
            tensor.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            return self._paint(diffused)

    def _paint(self, diffused: Diffused) -> Painted:
        flags, task = diffused.flags, diffused.task
        try:
            pixels = self._pixels(self._networks, diffused.latent, task)
        except NonFiniteError:
            if self._networks.dtype == torch.float32:
                raise
            flags = tuple(dict.fromkeys((*flags, FLOAT32_AGAIN)))
            pixels = self._pixels(self._exact(), diffused.latent, task)
        if self.settings.colour != "none" and task.steps:
            preview = self._pixels(self._networks, diffused.content, task)
            pixels = correct_colour(pixels, preview, self.settings.colour)
        return Painted(pixels, flags)

    def warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Compile and capture the networks for pictures of some sizes before the first one comes.

        Args:
            sizes: width and height in pixels.
        """
        for width, height in sizes:
            rows, columns = (-(-side // 64) for side in (height, width))
            for weights in self._bundle.weight_sets:
                layout = self._bundle.layout
                header = PictureHeader(self.bundle_id, width, height, weights.points[0].quality, layout.layers)
                latents = torch.zeros(1, sum(layout.slices), 4 * rows, 4 * columns).numpy()
                hyper = torch.zeros(1, layout.hyper_channels, rows, columns).numpy()
                task = Task(ReadPicture(header, weights, latents, hyper), min(2, self.start + 1), 0)
                for count in sorted({1, self.batch}):
                    self.paint(self.diffuse([task] * count)[0])

    def _diffuse(self, networks: LatentDiffusion, tasks: Sequence[Task], tile: int) -> list[Diffused]:
        contents = [networks.content(task.picture, tile) for task in tasks]
        latents = networks.diffuse(
            contents,
            tasks[0].picture.weights,
            [PictureNoise(task.seed) for task in tasks],
            sampler=self.sampler,
            steps=tasks[0].steps,
            start=self.start,
            tile=tile,
        )
        return [Diffused(*parts) for parts in zip(tasks, latents, contents, strict=True)]

    def _exactly(self, tasks: Sequence[Task]) -> list[Diffused]:
        """Diffuse once more in float32 what gave values that are not finite."""
        done: list[Diffused] = []
        if self._networks.dtype != torch.float32:
            networks = self._exact()
            ladder = MemoryLadder(1, self.settings.tile)
            again = ladder.run(tasks[0].shape, tasks, lambda chosen, tile: self._diffuse(networks, chosen, tile))
            done = [Diffused(one.task, one.latent, one.content, (FLOAT32_AGAIN,)) for one in again]
        if not done or not all(torch.isfinite(one.latent).all() for one in done):
            raise PinholeError(
                f"the latent is not finite in float32 either with sampler {self.sampler}, {tasks[0].steps} steps from "
                f"{self.start} and strength {self.settings.strength:g}; decode with --steps 0, or verify the bundle"
            )
        return done

    def _exact(self) -> LatentDiffusion:
        # Loaded when needed and let go again: it is as large as the networks in use, and rarely needed.
        return LatentDiffusion(self._bundle, self.device, self.settings.exact())

    def _pixels(self, networks: LatentDiffusion, latent: Tensor, task: Task) -> Pixels:
        header = task.picture.header

        def attempt(latents: Sequence[Tensor], tile: int) -> list[Pixels]:
            return [networks.pixels(one, header.height, header.width, tile) for one in latents]

        return self._painting.run(task.shape, [latent], attempt)[0]
