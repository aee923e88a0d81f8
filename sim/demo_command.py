"""``pinhole demo``: the whole way of six photographs on this machine, with a report to look at."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path("demo-report"),
    bundle: Annotated[str, typer.Option(help="Bundle name or folder.")] = "pocket",
    quality: Annotated[int | None, typer.Option(help="Operating point.", show_default="the bundle's highest")] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Steps of diffusion.", show_default="the bundle's default")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated link.")] = 1,
    device: Annotated[str, typer.Option(help="Where the receiver decodes: cpu, cuda or auto.")] = "auto",
) -> None:
    """Send six photographs over real sockets and over a lossy simulated link; write an HTML report."""
    console = Console()
    with console.status("loading the bundle"):
        # These load torch and ONNX Runtime, a matter of seconds.
        from receiver.decoder import TorchDecoder
        from sender.encoder import OnnxEncoder
        from shared.codec.bundle import find_bundle
        from shared.errors import UsageError
        from sim.demo import run_demo
        from sim.report import BundleNames, write_report

        found = find_bundle(bundle)
        encoder = OnnxEncoder(found)
        decoder = TorchDecoder(found, device)
    points = {point.quality: point for point in encoder.operating_points}
    chosen = max(points) if quality is None else quality
    if chosen not in points:
        raise UsageError(f"bundle {found.name} has no quality {chosen}; give one of {', '.join(map(str, points))}")
    with tempfile.TemporaryDirectory(prefix="pinhole-demo-") as work, console.status("starting") as status:

        def progress(text: str) -> None:
            console.print(f"  {text}", highlight=False, markup=False)
            status.update(text.replace("[", "\\["))

        result = run_demo(encoder, decoder, Path(work), quality=chosen, steps=steps, seed=seed, progress=progress)
        status.update("writing the report")
        path = output / "index.html"
        steps_text = "the bundle's default diffusion" if steps is None else f"{steps} steps of diffusion"
        names = BundleNames(found.name, encoder.bundle_id, f"{chosen} ({points[chosen].name})", steps_text)
        write_report(result, names, path)
    console.print(f"report: {path}", soft_wrap=True, highlight=False)
