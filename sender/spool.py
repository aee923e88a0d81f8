"""The spool: what the node has taken and the ground does not have yet, on disk.

One SQLite file in WAL mode with ``synchronous=FULL``: a commit has reached the disk before the call returns, so a
picture that was taken survives ``kill -9`` and power cuts. SQLite's exclusive locking keeps a second process out and
lets go by itself when the process dies.

The ``layers`` table holds exactly the layers that the ground has not acknowledged: an acknowledgement deletes the row,
and a picture without rows is done. The ``pictures`` table keeps the identity (digest and name) of everything ever
taken, about 150 bytes each, so that nothing is sent twice.
"""

import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from sender.renumbering import LARGEST_SEQUENCE, NumbersUsedUpError, Renumbered, renumber
from sender.spool_schema import APPLICATION_ID, MIGRATIONS, SCHEMA, SCHEMA_VERSION
from shared.errors import PinholeError

FILE_NAME = "spool.sqlite"

# Bytes of the disk that no picture may take: on a disk that is full to the last byte not even an acknowledgement could
# be written, and the spool could never become smaller by itself. The log, which is what acknowledgements need, is
# merged into the database every 64 pages (256 KB) so that it stays well below.
_RESERVE = 1 << 20
_LOG_PAGES = 64

_STARTS_SINCE = 1_577_836_800  # 2020, seconds since 1970
_SESSIONS_PER_SECOND = 100
_SECONDS_PER_EPOCH = 600  # so that 16 bits tell which of two starts came later as long as 227 days lie between them


class SpoolError(PinholeError):
    """The spool cannot be used."""


class SpoolFullError(SpoolError):
    """The disk under the spool is full: nothing was written, what was there before is intact."""


@dataclass(frozen=True)
class WaitingLayer:
    """A layer that the ground has not acknowledged.

    Attributes:
        sequence: of its picture.
        layer: 0 for the base.
        layers: number of layers of the whole picture.
        payload: the layer's bytes.
    """

    sequence: int
    layer: int
    layers: int
    payload: bytes


@dataclass(frozen=True)
class Backlog:
    """What is waiting in the spool: numbers of pictures and layers, and the layers' bytes."""

    pictures: int
    layers: int
    payload_bytes: int


@dataclass(frozen=True)
class DonePicture:
    """A picture that just left the spool, all of it acknowledged; ``age`` is the seconds since it was taken."""

    sequence: int
    name: str
    age: float


class Spool:
    """The spool of one node; its methods may be called from any thread.

    Every method raises SpoolFullError if the disk is full, and SpoolError if the file cannot be read or written.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open the spool in ``directory``, or make it, and count this start.

        Args:
            directory: where the spool lies; made if it does not exist.
            clock: wall clock in seconds since 1970.

        Raises:
            SpoolError: if the spool is in use by another process, damaged, of another version or not writable.
        """
        self._path = directory / FILE_NAME
        self._clock = clock
        self._lock = RLock()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpoolError(f"state folder {directory}: {error.strerror}; pass another --state") from error
        with self._explained():
            # timeout 0: the other process keeps its lock as long as it lives, waiting is no use
            self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            with self._explained():
                self._prepare()
            with self._transaction() as connection:
                # The clock makes them grow also where a spool is restored from a backup, the counters where a clock
                # begins anew at every start.
                passed = max(0.0, clock() - _STARTS_SINCE)
                connection.execute(
                    "UPDATE node SET session = max(session + 1, ?), epoch = 65535 & "
                    "CASE WHEN ((? - epoch) & 65535) BETWEEN 1 AND 32767 THEN ? ELSE epoch + 1 END",
                    (int(passed * _SESSIONS_PER_SECOND), *[int(passed / _SECONDS_PER_EPOCH)] * 2),
                )
                sender, epoch, session = connection.execute("SELECT sender, epoch, session FROM node").fetchone()
                row = connection.execute(
                    "SELECT count(DISTINCT sequence), count(*), coalesce(sum(length(payload)), 0) FROM layers"
                ).fetchone()
            self._sender, self._epoch, self._session = int(sender), int(epoch), int(session)
            self._backlog = Backlog(*row)
        except SpoolError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN IMMEDIATE")
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if not tables:
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute("INSERT INTO node VALUES (1, ?, 0, 1, 0)", (secrets.randbits(32),))
            elif application != APPLICATION_ID:
                raise SpoolError(f"{self._path} is not a Pinhole spool; pass another --state")
            elif version in MIGRATIONS:
                for older in range(version, SCHEMA_VERSION):
                    for statement in MIGRATIONS[older]:
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise SpoolError(
                    f"spool {self._path} has schema version {version}, this Pinhole reads {SCHEMA_VERSION}; "
                    "empty it with the Pinhole that wrote it or pass another --state"
                )
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @property
    def sender(self) -> int:
        """The node's id, made once at random: 0 to 2**32 - 1."""
        return self._sender

    @property
    def epoch(self) -> int:
        """Number of this start, u16: after that of every start before (RFC 1982), by one or as the clock says."""
        return self._epoch

    @property
    def session(self) -> int:
        """Number of this start among sealed sessions, u40: greater than that of every start before."""
        return self._session

    def knows_revision(self, name: str, revision: str) -> bool:
        """Tell whether this revision of a source's picture was taken before; spares reading the content."""
        return self._exists("SELECT 1 FROM pictures WHERE name = ? AND revision = ?", name, revision)

    def knows_content(self, name: str, digest: bytes, revision: str) -> bool:
        """Tell whether a picture was taken before, by its identity; notes its new revision if so."""
        with self._transaction() as connection:
            return bool(
                connection.execute(
                    "UPDATE pictures SET revision = ? WHERE name = ? AND digest = ?", (revision, name, digest)
                ).rowcount
            )

    def take(
        self, name: str, digest: bytes, revision: str, *, captured: int, quality: float, layers: Sequence[bytes]
    ) -> int:
        """Put a picture into the spool; when this returns, the picture is taken.

        Args:
            name: within the source.
            digest: of the content.
            revision: of the content.
            captured: seconds since 1970.
            quality: for the record.
            layers: at least one, the base first.

        Returns:
            Its sequence number, 1 upwards, never used before and never again.

        Raises:
            PinholeError: if a picture of this name and digest was taken before.
        """
        if not layers:
            raise ValueError("a picture has at least its base layer")
        size = sum(map(len, layers))
        if self._free_bytes() < _RESERVE + size:
            raise SpoolFullError(f"spool {self._path}: the disk is full; free some space")
        with self._transaction() as connection:
            (sequence,) = connection.execute("SELECT next_sequence FROM node").fetchone()
            if sequence > LARGEST_SEQUENCE:
                raise self._used_up()
            connection.execute("UPDATE node SET next_sequence = ?", (sequence + 1,))
            inserted = connection.execute(
                "INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?, 'pending', ?, ?, ?) "
                "ON CONFLICT (name, digest) DO NOTHING",
                (sequence, name, digest, revision, captured, self._clock(), quality, len(layers), size),
            ).rowcount
            if not inserted:
                raise PinholeError(f"{name}: this picture was taken before; give it another name to send it again")
            connection.executemany(
                "INSERT INTO layers VALUES (?, ?, ?)",
                [(sequence, index, payload) for index, payload in enumerate(layers)],
            )
        self._count(1, len(layers), size)
        return int(sequence)

    def waiting_bases(self, after: int, limit: int) -> list[WaitingLayer]:
        """Return up to ``limit`` base layers of pictures whose sequence is greater than ``after``, in order."""
        return self._waiting("l.layer = 0 AND l.sequence > ?", (after,), limit)

    def waiting_refinements(self, after: tuple[int, int], limit: int) -> list[WaitingLayer]:
        """Return up to ``limit`` refinements whose (sequence, layer) is greater than ``after``, in order."""
        return self._waiting("l.layer > 0 AND (l.sequence, l.layer) > (?, ?)", after, limit)

    def _waiting(self, condition: str, parameters: tuple[int, ...], limit: int) -> list[WaitingLayer]:
        with self._lock, self._explained():
            rows = self._connection.execute(
                "SELECT l.sequence, l.layer, p.layer_count, l.payload FROM layers l JOIN pictures p USING (sequence) "
                f"WHERE {condition} ORDER BY l.sequence, l.layer LIMIT ?",
                (*parameters, limit),
            ).fetchall()
        return [WaitingLayer(*row) for row in rows]

    def settle(self, layers: Iterable[tuple[int, int]]) -> list[DonePicture]:
        """Note layers, each (sequence, layer), as acknowledged (simplex: sent).

        Layers that are not waiting are passed over. All are noted in one commit.

        Returns:
            The pictures whose last waiting layer was among them.
        """
        done = []
        freed = []
        with self._transaction() as connection:
            touched = set()
            for key in layers:
                freed += self._drop(connection, "sequence = ? AND layer = ?", key)
                touched.add(key[0])
            for sequence in sorted(touched):
                if connection.execute("SELECT 1 FROM layers WHERE sequence = ?", (sequence,)).fetchone() is None:
                    row = connection.execute(
                        "SELECT name, taken FROM pictures WHERE sequence = ? AND state = 'pending'", (sequence,)
                    ).fetchone()
                    if row:
                        name, taken = row
                        connection.execute("UPDATE pictures SET state = 'done' WHERE sequence = ?", (sequence,))
                        done.append(DonePicture(sequence, name, max(0.0, self._clock() - taken)))
        self._count(-len(done), -len(freed), -sum(freed))
        return done

    def renumber(self, sequences: Iterable[int], highest: int) -> list[Renumbered]:
        """Let pictures go on under new numbers, because the ground has others under theirs; all move in one commit.

        Args:
            sequences: their numbers; pictures of which no layer waits are passed over.
            highest: the new numbers, and those of all pictures taken later, are above it.

        Returns:
            Those that moved, in order.

        Raises:
            SpoolError: also if there are no numbers left; nothing has moved then.
        """
        with self._transaction() as connection:
            try:
                return renumber(connection, sequences, highest)
            except NumbersUsedUpError:
                raise self._used_up() from None

    def expire(self, max_age: float, *, keep: Collection[int] = ()) -> list[int]:
        """Give up the pictures taken more than ``max_age`` seconds ago, except the sequences in ``keep``.

        Age is told by the wall clock: set it before pictures are taken where it is lost at power-off.

        Returns:
            Their sequence numbers.
        """
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT sequence FROM pictures WHERE state = 'pending' AND taken < ?", (self._clock() - max_age,)
            ).fetchall()
            expired = [sequence for (sequence,) in rows if sequence not in keep]
            freed = []
            for sequence in expired:
                freed += self._drop(connection, "sequence = ?", (sequence,))
                connection.execute("UPDATE pictures SET state = 'expired' WHERE sequence = ?", (sequence,))
        self._count(-len(expired), -len(freed), -sum(freed))
        return expired

    @property
    def backlog(self) -> Backlog:
        """What is waiting."""
        return self._backlog

    def close(self) -> None:
        """Let go of the file; the spool cannot be used any more."""
        with self._lock, self._explained():
            self._connection.close()

    def _used_up(self) -> SpoolError:
        return SpoolError(f"spool {self._path} has used all its sequence numbers; pass a new --state")

    @staticmethod
    def _drop(connection: sqlite3.Connection, condition: str, parameters: tuple[int, ...]) -> list[int]:
        """Delete layers; return their sizes."""
        # Two statements, because RETURNING came with SQLite 3.35 and Debian 11 has 3.34.
        rows = connection.execute(f"SELECT length(payload) FROM layers WHERE {condition}", parameters).fetchall()
        connection.execute(f"DELETE FROM layers WHERE {condition}", parameters)
        return [size for (size,) in rows]

    def _count(self, pictures: int, layers: int, payload_bytes: int) -> None:
        """Keep the backlog's figures in step with what was just committed."""
        with self._lock:
            before = self._backlog
            self._backlog = Backlog(
                before.pictures + pictures, before.layers + layers, before.payload_bytes + payload_bytes
            )

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._path.parent).free
        except OSError as error:
            raise SpoolError(f"spool {self._path}: {error.strerror}; check the disk") from error

    def _exists(self, statement: str, *parameters: object) -> bool:
        with self._lock, self._explained():
            return self._connection.execute(statement, parameters).fetchone() is not None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the body does, all of it or nothing."""
        with self._lock, self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back by itself after some errors, a full disk among them.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into one line that names the spool and the mend."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            what = " ".join(str(error).split())  # an integrity check answers with several lines
            if name == "SQLITE_FULL":
                raise SpoolFullError(f"spool {self._path}: the disk is full; free some space") from error
            if name in ("SQLITE_BUSY", "SQLITE_LOCKED"):
                raise SpoolError(
                    f"spool {self._path} is in use by another process; stop it or pass another --state"
                ) from error
            if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB") or not name:
                raise SpoolError(
                    f"spool {self._path} is damaged ({what}); move it away or pass another --state"
                ) from error
            raise SpoolError(f"spool {self._path}: {what}; check the disk and its permissions") from error
