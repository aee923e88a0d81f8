"""`pinhole evaluate`: rate and quality of bundles, and of other codecs at the same bytes, over a set of pictures."""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shared.errors import UsageError
from training.evaluation.datasets import PictureProtocol

if TYPE_CHECKING:
    from training.evaluation.peers import Peer

_T = TypeVar("_T")

ALL, NONE, MIDDLE = "all", "none", "middle"
STEPS = "0,1,2,4,8,20,50"
_FILE_WIDTH = 200


def evaluate(
    dataset: Annotated[
        str, typer.Argument(help="Folder of pictures, or 'packages': photographs out of Python packages.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="Folder of the results; one that was stopped goes on."),
    ],
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]BUNDLE",
            help="Bundle name or folder, to be called NAME; may be repeated. Peers get the bytes of the first.",
            show_default="pocket",
        ),
    ] = None,
    peers: Annotated[
        str, typer.Option(metavar="NAMES", help="Other codecs at the same bytes: all, none, or as in VVC,AVIF.")
    ] = ALL,
    quality: Annotated[
        str, typer.Option(metavar="Q,...", help="Qualities, whole or between (2.5); all: every operating point.")
    ] = ALL,
    steps: Annotated[
        str, typer.Option(metavar="N,...", help="Step counts of diffusion to sweep over, or none.")
    ] = STEPS,
    paper_start: Annotated[
        bool, typer.Option("--paper-start", help="Sweep over the step counts from pure noise too.")
    ] = False,
    samplers: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Sweep over the step counts with these samplers too, as in ddpm,unipc."),
    ] = NONE,
    starts: Annotated[
        str,
        typer.Option(metavar="T,...", help="Sweep over the step counts from these timesteps too, as in 199,499,999."),
    ] = NONE,
    prefixes: Annotated[bool, typer.Option("--prefixes/--no-prefixes", help="Decode every layer prefix.")] = True,
    sweep_quality: Annotated[
        str, typer.Option(metavar="Q,...", help="Where steps and prefixes are swept: middle, all, or qualities.")
    ] = MIDDLE,
    start: Annotated[
        int | None,
        typer.Option(metavar="T", help="Timestep that diffusion starts from, 999: noise.", show_default="the bundle's"),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(metavar="NAME", help="What samples, unless swept over.", show_default="the bundle's")
    ] = None,
    protocol: Annotated[
        PictureProtocol,
        typer.Option(
            help="crop: shorter side to 768, middle 768x768, as in the papers; auto: crop all but Kodak and packages."
        ),
    ] = PictureProtocol.AUTO,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Take the first N pictures only.")] = None,
    metrics: Annotated[str, typer.Option(metavar="NAMES", help="Metrics, as in PSNR,ST-LPIPS; or all.")] = ALL,
    fast_metrics: Annotated[
        bool,
        typer.Option("--fast-metrics", help="ST-LPIPS with convolutions in bfloat16; its fourth decimal may differ."),
    ] = False,
    show: Annotated[int, typer.Option(min=0, metavar="N", help="Keep N pictures for the page.")] = 6,
    show_quality: Annotated[
        str, typer.Option(metavar="Q", help="At which quality pictures are kept; or middle.")
    ] = MIDDLE,
    peer_cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keeps the peers' files between runs.", show_default="OUT/peers"),
    ] = None,
    device: Annotated[str, typer.Option(help="Where networks run: cpu, cuda or auto.")] = "auto",
) -> None:
    """Measure bundles and other codecs on pictures; write CSV files, figures and a page with all of it.

    Every byte of every file counts. What is measured is kept at once: the same command goes on where it was stopped,
    and does again only what another bundle, other pictures or other metrics ask for.
    """
    wanted = _Wanted.read(quality, steps, samplers, starts, sweep_quality, show_quality)
    errors = Console(stderr=True)

    def tell(line: str) -> None:
        errors.print(f"pinhole evaluate: {line}", highlight=False, markup=False, soft_wrap=True)

    with errors.status("loading"):
        # These load torch and the metrics' networks, a matter of seconds.
        import torch

        from shared.codec.bundle import find_bundle
        from training.evaluation.bundle_candidate import BundleCandidate, Sweep
        from training.evaluation.datasets import open_dataset
        from training.evaluation.metrics import load_metrics
        from training.evaluation.peer_candidate import PeerCandidate
        from training.evaluation.runner import Evaluation
        from training.evaluation.writing import write_everything

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        bundles = []
        for name, place in map(_named, bundle or ["pocket"]):
            found = find_bundle(place)
            known = [float(point.quality) for point in found.operating_points]
            sweep = Sweep(
                wanted.steps, paper_start, wanted.samplers, wanted.starts, prefixes, qualities=wanted.swept(known)
            )
            bundles.append(BundleCandidate(found, name, wanted.qualities, sweep, device, start, sampler))
        targets = [target.name for target in bundles[0].targets]
        if wanted.shown not in (None, *targets):
            raise UsageError(f"--show-quality {wanted.shown} is not measured; give one of {', '.join(targets)}")
        others = [PeerCandidate(peer, targets, peer_cache or output / "peers") for peer in _peers(peers, tell)]
        pictures = open_dataset(dataset, protocol, limit)
        loaded = load_metrics(None if metrics == ALL else metrics.split(","), device, fast_metrics)
    for line in loaded.unavailable:
        tell(line)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        evaluation = Evaluation(
            pictures,
            [*bundles, *others],
            loaded,
            output,
            show=show,
            show_target=wanted.shown,
            tell=tell,
            advance=lambda text, count: progress.update(task, description=text, advance=count),
        )
        progress.update(task, total=evaluation.decodes)
        try:
            outcome = evaluation.run()
        except KeyboardInterrupt:
            tell(f"stopped; what was measured is in {output}, and the same command goes on from there")
            raise
    # Names only: the page is for others, who have other folders.
    named = [part for candidate in bundles for part in ("--bundle", candidate.name)]
    command = shlex.join(["pinhole", "evaluate", pictures.name, *named, "--peers", peers, "-o", "OUT"])
    console = Console()
    if not console.is_terminal:
        # A file or a pipe has no width; the table needs more than the 80 columns that would be assumed.
        console = Console(width=_FILE_WIDTH)
    typer.echo(f"page: {write_everything(output, outcome, command, bundles[0].name, console)}")
    if outcome.failures:
        tell(f"{len(outcome.failures)} failed:")
        for line in outcome.failures:
            tell(line)
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Wanted:
    """The options that are lists or words, read.

    Attributes:
        qualities: None for every operating point.
        steps: step counts.
        samplers: names.
        starts: timesteps.
        sweep: qualities of the sweep, None for the middle one, empty for all.
        shown: the quality whose pictures are kept, None for the middle one.
    """

    qualities: tuple[float, ...] | None
    steps: tuple[int, ...]
    samplers: tuple[str, ...]
    starts: tuple[int, ...]
    sweep: tuple[float, ...] | None
    shown: str | None

    @classmethod
    def read(cls, quality: str, steps: str, samplers: str, starts: str, sweep: str, shown: str) -> "_Wanted":
        """Read the options.

        Raises:
            UsageError: naming the one that is wrong.
        """
        return cls(
            None if quality == ALL else _numbers(quality, float, "--quality"),
            () if steps == NONE else _numbers(steps, int, "--steps"),
            () if samplers == NONE else tuple(samplers.split(",")),
            () if starts == NONE else _numbers(starts, int, "--starts"),
            None if sweep == MIDDLE else () if sweep == ALL else _numbers(sweep, float, "--sweep-quality"),
            None if shown == MIDDLE else f"{_numbers(shown, float, '--show-quality')[0]:g}",
        )

    def swept(self, points: Sequence[float]) -> tuple[float, ...] | None:
        """Return where a bundle with these operating points is swept, None for its middle quality."""
        return self.sweep if self.sweep != () else self.qualities or tuple(points)


def _numbers(text: str, kind: Callable[[str], _T], option: str) -> tuple[_T, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: give numbers with commas between them, or the words of the help") from None


def _named(given: str) -> tuple[str | None, str]:
    """Split NAME=BUNDLE; a folder may have the character in its own name."""
    name, equals, place = given.partition("=")
    return (name, place) if equals and name and os.sep not in name and not Path(given).exists() else (None, given)


def _peers(names: str, tell: Callable[[str], None]) -> "list[Peer]":
    """Return the peers that are asked for and can run here; tell of the others."""
    if names == NONE:
        return []
    from training.evaluation.peers import PEERS, select_peers

    usable = []
    for peer in PEERS.values() if names == ALL else select_peers(names.split(",")):
        reason = peer.missing()
        if reason is None:
            usable.append(peer)
        else:
            tell(f"{peer.name} is left out: {reason}")
    return usable
