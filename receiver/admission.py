"""Who may send to this station: keys, the allow list as people edit it, and what must outlive the station.

Files (the allow list, the state) are looked after between packets; the decisions are those of ``shared.link.sealed``.
"""

import os
from collections.abc import Callable
from pathlib import Path

import msgpack

from receiver.status import Reporter
from shared.allowlist import AllowListFile
from shared.errors import PinholeError
from shared.files import write_atomically
from shared.link.envelope import Cause
from shared.link.events import PacketRefused
from shared.link.keys import KEY_BYTES, SecretKey
from shared.link.sealed_gate import Remembered, SealedGate
from shared.link.station import Station

_STORE_EVERY = 2.0
"""Seconds between two writes while packets come: so much of a session could be played again after a crash, and would
only bring layers that are in the archive already."""

_LOOK_EVERY = 2.0
_FORMAT = 1


class SessionMemory:
    """The newest session of every sender's key, on disk.

    Args:
        path: the file; its folder is made if need be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored: dict[bytes, Remembered] = {}

    def load(self) -> dict[bytes, Remembered]:
        """What was stored, by the sender's X25519 public key.

        Raises:
            PinholeError: if the folder cannot be made, or the file is damaged.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise PinholeError(f"{self._path}: {error.strerror}; pass another --state") from error
        self._stored = self._parse(data)
        return dict(self._stored)

    def store(self, memory: dict[bytes, Remembered]) -> None:
        """Store what changed, durably.

        Raises:
            PinholeError: if it cannot be written.
        """
        if memory != self._stored:
            entries = [[key, *remembered] for key, remembered in sorted(memory.items())]
            write_atomically(self._path, msgpack.packb([_FORMAT, entries]))
            self._stored = dict(memory)

    def _parse(self, data: bytes) -> dict[bytes, Remembered]:
        damaged = PinholeError(
            f"{self._path} is damaged; without it recordings of old sessions would be taken for new ones. Move it away "
            "only when every sender has been started again since"
        )
        try:
            form, entries = msgpack.unpackb(data, max_str_len=0, max_map_len=0)
            memory = {key: Remembered(*numbers) for key, *numbers in entries}
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise damaged from error
        if form != _FORMAT:
            raise PinholeError(f"{self._path} is of another version of Pinhole; pass another --state")
        for key, remembered in memory.items():
            if not isinstance(key, bytes) or len(key) != KEY_BYTES or not all(type(n) is int for n in remembered):
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
            PinholeError: if the memory cannot be used.
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
        """Store the rest."""
        self._store()

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
    """File of a station's `SessionMemory` where none is given: below ``XDG_STATE_HOME`` (XDG Base Directory 0.8)."""
    base = os.environ.get("XDG_STATE_HOME")
    folder = (Path(base) if base else Path.home() / ".local" / "state") / "pinhole" / "receiver"
    return folder / state_name(identity)


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
