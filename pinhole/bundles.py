"""Which bundles came with this installation."""

from collections.abc import Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from shared.codec.bundle import Bundle, find_bundle
from shared.errors import PinholeError


def installed_bundles() -> Iterator[Bundle]:
    """Yield the bundles in the package data of `shared`, by name."""
    folder = Path(str(files("shared"))) / "bundles"
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield find_bundle(path.name)


def bundle_name(bundle_id: bytes) -> str | None:
    """Return the name of the installed bundle with this id (4 bytes), or None where there is none."""
    # A damaged bundle is the matter of `pinhole bundle verify`, not of whoever looks another one up.
    with suppress(PinholeError):
        for bundle in installed_bundles():
            if bundle.bundle_id == bundle_id:
                return bundle.name
    return None
