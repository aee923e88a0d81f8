"""The process that fuzzes: ``python -m fuzz.worker NAME [libFuzzer's arguments]``."""

import sys

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

from fuzz import corpus


def main() -> None:
    """Import the harness instrumented, and hand over to libFuzzer."""
    name, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=["shared", "receiver", "reedsolo"]):
        harness = corpus.load(name)
    atheris.Setup([sys.argv[0], f"-max_len={harness.longest}", *arguments], harness.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
