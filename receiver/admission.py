"""Who may send to this station: keys, the allow list as people edit it, and what must outlive the station.

Files (the allow list, the state) are looked after between packets; the decisions are those of ``shared.link.sealed``.
"""

import os
from collections.abc import Callable
from pathlib import Path

import msgpack
from filelock import FileLock, Timeout

from receiver.status import Reporter
from shared.allowlist import AllowListFile
from shared.errors import PinholeError
from shared.files import write_atomically
from shared.link.envelope import Cause
from shared.link.events import PacketRefused
from shared.link.keys import KEY_BYTES, SecretKey
from shared.link.sealed_gate import GateMemory, Remembered, SealedGate
from shared.link.station import Station

_STORE_EVERY = 2.0
"""Seconds between two writes while packets come: so much of a session could be played again after a crash, and would
only bring layers that are in the archive already."""

_LOOK_EVERY = 2.0
_FORMAT = 2
_FORMAT_WITHOUT_IDS = 1
_LARGEST_ID = 0xFFFFFFFF


class SessionMemory:
    """The newest session of every sender's key and the ids that senders have used, on disk. One station at a time.

    Args:
        path: the file; its folder is made if need be, and a lock beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored = GateMemory({}, {})
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))

    def load(self) -> GateMemory:
        """What was stored; from now on until `close` it is this station's alone.

        Raises:
            PinholeError: if another receiver uses it, the folder cannot be made, or the file is damaged.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Each of two stations would overwrite what the other knows, and so take old sessions again.
            self._lock.acquire(timeout=0)
            self._stored = self._parse(self._path.read_bytes())
        except FileNotFoundError:
            self._stored = GateMemory({}, {})
        except Timeout:
            raise PinholeError(
                f"{self._path} is in use by another receiver with this key; stop that one, or pass another --state"
            ) from None
        except (OSError, NotImplementedError) as error:  # the latter where the file system has no locks
            self.close()
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise PinholeError(f"{self._path}: {reason}; pass another --state") from error
        except PinholeError:
            self.close()
            raise
        return self._stored

    def store(self, memory: GateMemory) -> None:
        """Store what changed, durably.

        Raises:
            PinholeError: if it cannot be written.
        """
        if memory != self._stored:
            sessions = [[key, *remembered] for key, remembered in sorted(memory.sessions.items())]
            ids = [[identity, *senders] for identity, senders in sorted(memory.ids.items())]
            write_atomically(self._path, msgpack.packb([_FORMAT, sessions, ids]))
            self._stored = memory

    def close(self) -> None:
        """Let other receivers have it."""
        self._lock.release()

    def _parse(self, data: bytes) -> GateMemory:
        damaged = PinholeError(
            f"{self._path} is damaged; without it recordings of old sessions would be taken for new ones. Move it away "
            "only when every sender has been started again since"
        )
        try:
            form, *parts = msgpack.unpackb(data, max_str_len=0, max_map_len=0)
            if form not in (_FORMAT, _FORMAT_WITHOUT_IDS):
                raise PinholeError(f"{self._path} is of another version of Pinhole; pass another --state")
            sessions, ids = parts if form == _FORMAT else (*parts, [])
            memory = GateMemory(
                {key: Remembered(*numbers) for key, *numbers in sessions},
                {identity: tuple(senders) for identity, *senders in ids},
            )
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise damaged from error
        for key, remembered in memory.sessions.items():
            if not isinstance(key, bytes) or len(key) != KEY_BYTES or not all(type(n) is int for n in remembered):
                raise damaged
        for identity, senders in memory.ids.items():
            if not all(type(n) is int and 0 <= n <= _LARGEST_ID for n in (identity, *senders)):
                raise damaged
        return memory


class Admission:
    """Keeps a sealed station's gate up to date."""

    def __init__(self, keys: list[SecretKey], allowed: AllowListFile, memory: SessionMemory, report: Reporter) -> None:
        """Open the gate.

        Args:
            keys: of the station, the one in use first.
            allowed: who may send.
            memory: of earlier runs.
            report: where changes and troubles are told.

        Raises:
            PinholeError: if the memory cannot be used, or another receiver uses it.
        """
        self.gate = SealedGate(keys, allowed.senders, memory.load())
        self._allowed = allowed
        self._memory = memory
        self._report = report
        self._sessions_stored = 0
        self._look_at = self._store_at = -float("inf")
        self._failing = False

    def tick(self, station: Station, now: float) -> None:
        """Follow the allow list and store what must not be forgotten; call it a few times a second."""
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self._follow(station)
        if now >= self._store_at:
            self._store_at = now + _STORE_EVERY
            self._store()

    def before_acknowledging(self) -> bool:
        """Store sessions begun since the last call; whether all that must be stored is stored."""
        return self.gate.sessions_begun == self._sessions_stored or self._store()

    def close(self) -> None:
        """Store the rest, and let another station have the memory."""
        self._store()
        self._memory.close()

    def name_of(self, sender: int) -> str:
        """What people call a sender; empty for one without a name."""
        return self.gate.name_of(sender) or ""

    def _follow(self, station: Station) -> None:
        if not self._allowed.changed():
            return
        try:
            changed = self._allowed.reload()
        except PinholeError as error:
            self._report.warning(str(error))
            return
        if changed:
            for sender in self.gate.set_allowed(self._allowed.senders):
                station.forget(sender)
            number = len(self._allowed.senders)
            self._report.line(f"allow list read again: {number} {'key' if number == 1 else 'keys'} may send")

    def _store(self) -> bool:
        begun = self.gate.sessions_begun
        try:
            self._memory.store(self.gate.memory())
        except PinholeError as error:
            if not self._failing:
                self._report.warning(f"{error} (nothing of new sessions is acknowledged until then)")
            self._failing = True
            return False
        self._failing = False
        self._sessions_stored = begun
        return True


def tell_refusals(station: Station, report: Reporter, where: Callable[[object], str] = str) -> None:
    """Report the first packet that was refused for each cause."""
    while (refusal := station.next_refusal()) is not None:
        report.warning(_refusal_line(refusal, where(refusal.path)))


def default_state(identity: int) -> Path:
    """File of a station's `SessionMemory` where no folder is given."""
    return default_folder() / state_name(identity)


def default_folder() -> Path:
    """A station's state folder where none is given: below ``XDG_STATE_HOME`` (XDG Base Directory 0.8)."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "pinhole" / "receiver"


def state_name(identity: int) -> str:
    """Name of the file in a state folder."""
    return f"sessions-{identity:08x}"


def _refusal_line(refusal: PacketRefused, where: str) -> str:
    if refusal.cause is Cause.UNKNOWN_SESSION:
        return (
            f"dropped: a packet of no session known here, from {where}. That is usual right after a start of this "
            "station; its sender is asked who it is. Later it is a damaged or forged one (more are only counted)"
        )
    return f"dropped: {refusal.detail} (came from {where}; more of this kind are only counted)"
