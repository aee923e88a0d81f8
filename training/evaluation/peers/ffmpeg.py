"""Runs the ffmpeg that the package imageio-ffmpeg brings, from memory to memory."""

import subprocess
from functools import cache

from shared.errors import PinholeError

_TIMEOUT = 600.0  # seconds; a picture of 100 megapixels needs less


class FfmpegError(PinholeError):
    """The program ran and failed, or was stopped because it hung."""


@cache
def program() -> str:
    """Return the path of ffmpeg.

    Raises:
        PinholeError: if imageio-ffmpeg is not installed or has no program for this machine.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise PinholeError("no ffmpeg is found; install the package imageio-ffmpeg") from error


@cache
def version() -> str:
    """Return the version of ffmpeg as it calls itself ("7.1")."""
    words = _run(["-version"], b"").decode(errors="replace").split()
    return words[2] if len(words) > 2 else "unknown"


@cache
def codecs() -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of this build's encoders and of its decoders."""
    return _names("-encoders"), _names("-decoders")


def missing(encoder: str, decoder: str) -> str | None:
    """Return one line if this build lacks one of the two, else None."""
    try:
        encoders, decoders = codecs()
    except PinholeError as error:
        return str(error)
    for kind, name, names in (("encoder", encoder, encoders), ("decoder", decoder, decoders)):
        if name not in names:
            return f"ffmpeg {version()} has no {kind} {name}; install a newer imageio-ffmpeg"
    return None


def run(arguments: list[str], data: bytes, seconds: float = _TIMEOUT) -> bytes:
    """Run ffmpeg on ``data`` (its ``pipe:0``) and return what it wrote to ``pipe:1``.

    Args:
        arguments: without program and output.
        data: input.
        seconds: time after which it is taken to hang.

    Raises:
        FfmpegError: with ffmpeg's own last line.
    """
    return _run(["-v", "error", "-nostdin", *arguments, "pipe:1"], data, seconds)


def _run(arguments: list[str], data: bytes, seconds: float = _TIMEOUT) -> bytes:
    try:
        done = subprocess.run(
            [program(), "-hide_banner", *arguments], input=data, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FfmpegError(f"ffmpeg did not end within {seconds:.0f} seconds; use a smaller picture") from error
    except OSError as error:
        raise PinholeError(f"cannot run ffmpeg ({error.strerror or error}); reinstall imageio-ffmpeg") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise FfmpegError(f"ffmpeg failed ({lines[-1] if lines else f'exit status {done.returncode}'})")
    return done.stdout


def _names(option: str) -> frozenset[str]:
    # A table of " V....D name  description" follows a legend that ends in a line of dashes.
    _, _, table = _run([option], b"").decode(errors="replace").partition("------\n")
    return frozenset(words[1] for line in table.splitlines() if len(words := line.split()) > 1)
