"""Commands that turn files into files: where the results go, and how a file that failed is reported."""

from collections.abc import Sequence
from pathlib import Path

from shared.errors import PinholeError, UsageError


def output_paths(inputs: Sequence[Path], output: Path, suffix: str) -> list[Path]:
    """Choose the output file of every input.

    Args:
        inputs: input files, at least one.
        output: a file for one input, or a folder: one that exists, or one to make where there are several inputs.
        suffix: of the files in a folder, with its dot.

    Returns:
        One path per input; folders on the way exist.

    Raises:
        PinholeError: if several inputs would go to one file, or an input would be overwritten.
    """
    if len(inputs) == 1 and not output.is_dir():
        paths = [output]
        folder = output.parent
    else:
        paths = [output / f"{source.stem}{suffix}" for source in inputs]
        folder = output
    taken: dict[Path, Path] = {}
    for source, path in zip(inputs, paths, strict=True):
        if path in taken:
            raise UsageError(f"{taken[path]} and {source} would both become {path}; write them to two folders")
        taken[path] = source
    sources = {source.resolve() for source in inputs}
    for path in paths:
        if path.resolve() in sources:
            raise UsageError(f"output {path} is one of the inputs; give another name or folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PinholeError(f"cannot make folder {folder}: {error.strerror or error}; give another output") from error
    return paths


def error_line(command: str, source: Path, error: PinholeError) -> str:
    """Return the one line that says which input failed and why.

    Args:
        command: name of the command, as in ``pinhole NAME``.
        source: the input; named unless the error names it already.
        error: the reason.
    """
    what = "" if str(source) in str(error) else f"{source}: "
    return " ".join(f"pinhole {command}: {what}{error}".split())
