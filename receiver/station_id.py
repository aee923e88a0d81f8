"""The id by which brokers tell stations apart, where it is not the identity of a key.

A station without keys has none, and the stations of a group have the same.
"""

import hashlib
import secrets
from pathlib import Path

from shared.errors import PinholeError
from shared.guarded_files import make_private_folder, read_guarded, stamp_of, write_guarded

_SEED_FILE = "station-seed"
_SEED_BYTES = 16


def own_station_id(folder: Path, archive: str) -> int:
    """The id of the station that keeps this archive: the same after a restart, another for each archive and machine.

    It is made from a random seed, which is kept in the state folder. Two stations may share that folder; an archive
    has one station at a time.

    Args:
        folder: state folder, made if need be.
        archive: folder or URL.

    Returns:
        1 to 2^32 - 1.

    Raises:
        PinholeError: if the seed cannot be kept, or is damaged.
    """
    path = folder / _SEED_FILE
    where = archive if "://" in archive else str(Path(archive).resolve())
    digest = hashlib.blake2s(where.encode("utf-8", "surrogateescape"), digest_size=4, key=_seed(path))
    return int.from_bytes(digest.digest(), "big") or 1  # 0 would mean nobody


def _seed(path: Path) -> bytes:
    if stamp_of(path) is None:
        make_private_folder(path.parent)
        try:
            write_guarded(path, secrets.token_bytes(_SEED_BYTES), mode=0o600, replace=False)
        except PinholeError:
            if stamp_of(path) is None:  # else another station of this folder was quicker, and its seed serves both
                raise
    seed, _ = read_guarded(path, secret=False, limit=_SEED_BYTES)
    if len(seed) != _SEED_BYTES:
        raise PinholeError(f"{path} is damaged; remove it, and the station gets another id at its broker")
    return seed
