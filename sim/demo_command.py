"""``pinhole demo``: the whole way of six photographs on this machine, with a report to look at."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path("demo-report"),
    bundle: Annotated[str, typer.Option(help="Bundle name or folder.")] = "pocket",
    quality: Annotated[
        float | None,
        typer.Option(help="1 (fewest bytes) upwards; rounded to 1/16.", show_default="the bundle's highest"),
    ] = None,
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
        from shared.codec.quality import choose_quality, quality_name, quality_text
        from sim.demo import run_demo
        from sim.report import BundleNames, write_report

        found = find_bundle(bundle)
        encoder = OnnxEncoder(found)
        decoder = TorchDecoder(found, device)
    points = encoder.operating_points
    chosen = choose_quality(points, points[-1].quality if quality is None else quality)
    with tempfile.TemporaryDirectory(prefix="pinhole-demo-") as work, console.status("starting") as status:

        def progress(text: str) -> None:
            console.print(f"  {text}", highlight=False, markup=False)
            status.update(text.replace("[", "\\["))

        result = run_demo(encoder, decoder, Path(work), quality=chosen, steps=steps, seed=seed, progress=progress)
        status.update("writing the report")
        path = output / "index.html"
        steps_text = "the bundle's default diffusion" if steps is None else f"{steps} steps of diffusion"
        quality_words = f"{quality_text(chosen)} ({quality_name(points, chosen)})"
        names = BundleNames(found.name, encoder.bundle_id, quality_words, steps_text)
        write_report(result, names, path)
    console.print(f"report: {path}", soft_wrap=True, highlight=False)
