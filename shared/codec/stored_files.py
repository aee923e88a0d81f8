"""Files of a bundle: read or located only after their size and hash have been found to be those of the manifest.

A manifest lists the files that lie in the bundle's folder under ``files``, and under ``external`` those that it refers
to and does not copy, each with the folder or hub repository and the file within it::

    "external": {"receiver/unet.safetensors": {"source": "stabilityai/stable-diffusion-2-1-base",
                 "file": "unet/diffusion_pytorch_model.safetensors", "bytes": 3463726504, "sha256": "..."}}
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared.errors import PinholeError


class StoredFiles:
    """Checked access to a bundle's files.

    Args:
        name: of the bundle, for errors.
        folder: where it lies.
        manifest: its manifest.
    """

    def __init__(self, name: str, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._name, self._folder = name, folder
        self._files: Mapping[str, Mapping[str, Any]] = manifest["files"]
        self._external: Mapping[str, Mapping[str, Any]] = manifest.get("external", {})
        self._checked: dict[str, Path] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._external

    def __iter__(self) -> Iterator[str]:
        yield from self._files
        yield from self._external

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            PinholeError: if it is missing or not what the manifest says.
        """
        entry, path = self._locate(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self._unreadable(name, error) from None
        self._check(name, entry, len(data), hashlib.sha256(data).hexdigest())
        return data

    def path(self, name: str) -> Path:
        """Return where a file lies, for those too large to be read at once; it is hashed once for each process.

        Raises:
            PinholeError: as `read`.
        """
        if name not in self._checked:
            entry, path = self._locate(name)
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = path.stat().st_size
            except OSError as error:
                raise self._unreadable(name, error) from None
            self._check(name, entry, size, digest)
            self._checked[name] = path
        return self._checked[name]

    def _locate(self, name: str) -> tuple[Mapping[str, Any], Path]:
        if name in self._files:
            return self._files[name], self._folder / name
        if name in self._external:
            return self._external[name], self._outside(name, self._external[name])
        raise PinholeError(f"bundle {self._name} lists no file {name}; install a bundle that has it")

    def _outside(self, name: str, entry: Mapping[str, Any]) -> Path:
        source, file = str(entry["source"]), str(entry["file"])
        if Path(source).is_dir():
            return Path(source) / file
        try:
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(source, file))
        except Exception as error:  # the hub's client raises a dozen kinds, from bad names to refused connections
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise PinholeError(
                f"bundle {self._name} refers to {file} of {source} for {name}, which is no folder here and cannot be "
                f"had from the hub ({reason}); bring it there, or import the bundle again with --copy"
            ) from error

    def _unreadable(self, name: str, error: OSError) -> PinholeError:
        return PinholeError(f"bundle {self._name}: {name} cannot be read ({error.strerror}); install it again")

    def _check(self, name: str, entry: Mapping[str, Any], size: int, digest: str) -> None:
        if size == entry["bytes"] and digest == entry["sha256"]:
            return
        if name in self._external:
            raise PinholeError(
                f"bundle {self._name}: {entry['file']} of {entry['source']} is another file than the bundle was made "
                "with (wrong SHA-256); bring the right one, or import the bundle again"
            )
        raise PinholeError(f"bundle {self._name}: {name} is damaged (wrong SHA-256); install the bundle again")
