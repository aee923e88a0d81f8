"""Index of the archive: which layers are stored and what became of every picture."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Engine, case, create_engine, event, func, or_, select
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from receiver.pictures import PictureKey, PictureRecord, Stage, State, complete_prefix
from receiver.schema import VERSION, Base, Layer, Picture, Property
from shared.codec.header import PictureHeader
from shared.errors import CorruptDataError, PinholeError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class LayerEntry:
    """A layer whose file is durable, ready to be entered.

    Attributes:
        key: its picture.
        layer: number, 0 is the base.
        layers: how many layers the sender says the picture has.
        bytes: its length.
        sha256: hexadecimal digest of its bytes.
        header: the picture header if this is the base, or the reason why it cannot be read.
    """

    key: PictureKey
    layer: int
    layers: int
    bytes: int
    sha256: str
    header: PictureHeader | CorruptDataError | None = None


def _translated(method: Callable[Concatenate["Index", P], R]) -> Callable[Concatenate["Index", P], R]:
    """Make one clear line of whatever the database says (full disk, lost connection, damaged file)."""

    @wraps(method)
    def call(self: "Index", /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
            raise PinholeError(f"index {self.name}: {reason}; free space or mend the database") from error

    return call


class Index:
    """The database of an archive. Every method is one transaction, durable when it returns."""

    def __init__(self, url: str, *, bundle_id: bytes | None = None) -> None:
        """Open the database at an SQLAlchemy URL and make its tables if they are missing.

        Args:
            url: for example ``sqlite:////data/archive/index.sqlite`` or ``postgresql+psycopg://...``.
            bundle_id: the bundle that this station decodes; None: do not judge bundles.

        Raises:
            PinholeError: if it cannot be opened or is of another version.
        """
        try:
            parsed = make_url(url)
            self.name = parsed.render_as_string(hide_password=True)
            self._engine = create_engine(parsed)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise PinholeError(f"index {url.split('@')[-1]}: {error}; give an SQLAlchemy URL") from error
        if parsed.get_backend_name() == "sqlite":
            _make_durable(self._engine)
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)
        self._bundle = None if bundle_id is None else bundle_id.hex()
        self._open()

    @_translated
    def _open(self) -> None:
        Base.metadata.create_all(self._engine)
        with self._begin() as session:
            schema = session.get(Property, "schema")
            if schema is None:
                session.add(Property(name="schema", value=str(VERSION)))
            elif schema.value != str(VERSION):
                raise PinholeError(
                    f"index {self.name} has schema version {schema.value}, this Pinhole uses {VERSION}; "
                    "use the Pinhole that made it or another archive folder"
                )

    @_translated
    def digests(self, key: PictureKey) -> dict[int, str]:
        """Return the SHA-256 of every stored layer of a picture, in hexadecimal, by layer number."""
        with self._begin() as session:
            rows = session.execute(
                select(Layer.layer, Layer.sha256)
                .join(Picture, Picture.id == Layer.picture_id)
                .where(Picture.sender == key.sender, Picture.sequence == key.sequence)
            )
            return {layer: digest for layer, digest in rows}

    @_translated
    def all_layers(self) -> set[tuple[PictureKey, int]]:
        """Return every stored layer."""
        with self._begin() as session:
            rows = session.execute(select(Picture.sender, Picture.sequence, Layer.layer).join_from(Layer, Picture))
            return {(PictureKey(sender, sequence), layer) for sender, sequence, layer in rows}

    @_translated
    def highest(self, sender: int) -> int:
        """Return the largest sequence number of a sender's pictures, 0 if it has none."""
        with self._begin() as session:
            return session.scalar(select(func.max(Picture.sequence)).where(Picture.sender == sender)) or 0

    @_translated
    def add_layers(self, entries: Sequence[LayerEntry], now: float) -> list[bool]:
        """Enter layers in one transaction; return for each whether it was new.

        Args:
            entries: layers whose files are durable.
            now: time of arrival, seconds since 1970.

        Raises:
            PinholeError: if the database refuses; then none is entered. A second station process that enters the
                same layer at the same moment is one such case, and trying again finds the layer there.
        """
        with self._begin() as session:
            return [self._add_layer(session, entry, now) for entry in entries]

    def _add_layer(self, session: Session, entry: LayerEntry, now: float) -> bool:
        row = _find(session, entry.key)
        if row is None:
            row = Picture(sender=entry.key.sender, sequence=entry.key.sequence, received=now, layers_total=1, bytes=0)
            row.preview_layers = row.picture_layers = 0
            session.add(row)
            session.flush()
        elif _find_layer(session, row, entry.layer) is not None:
            return False
        session.add(Layer(picture_id=row.id, layer=entry.layer, bytes=entry.bytes, sha256=entry.sha256, received=now))
        session.flush()
        present = session.scalars(select(Layer.layer).where(Layer.picture_id == row.id))
        row.layers_have = complete_prefix(present)
        row.layers_total = max(row.layers_total, entry.layers, entry.layer + 1)
        row.bytes += entry.bytes
        row.updated = now
        if isinstance(entry.header, PictureHeader):
            row.bundle = entry.header.bundle_id.hex()
            row.width, row.height, row.quality = entry.header.width, entry.header.height, entry.header.quality
            row.captured = entry.header.captured
        elif entry.header is not None:
            row.layers_bad, row.error = 1, str(entry.header)
        self._refresh_state(row)
        return True

    @_translated
    def add_result(
        self, key: PictureKey, stage: Stage, layers: int, *, now: float, seconds: float, steps: int | None = None
    ) -> None:
        """Note that a decode of ``layers`` layers is archived; ``seconds`` is how long it took."""
        with self._begin() as session:
            row = _require(session, key)
            if stage is Stage.PREVIEW:
                row.preview_layers, row.preview_at, row.preview_seconds = layers, now, seconds
            else:
                row.picture_layers, row.picture_at, row.picture_seconds = layers, now, seconds
                row.picture_steps = steps
            row.updated = now
            if row.layers_bad is None:
                row.error = None
            self._refresh_state(row)

    @_translated
    def add_error(self, key: PictureKey, error: str, *, bad: int | None, now: float) -> None:
        """Note what went wrong; ``bad`` is the number of layers that does not decode, None if that is not the cause."""
        with self._begin() as session:
            row = _require(session, key)
            row.error, row.updated = error, now
            if bad is not None:
                row.layers_bad = bad if row.layers_bad is None else min(row.layers_bad, bad)
            self._refresh_state(row)

    @_translated
    def picture(self, key: PictureKey) -> PictureRecord | None:
        """Return what is known of a picture."""
        with self._begin() as session:
            row = _find(session, key)
            return None if row is None else row.record()

    @_translated
    def pictures(self) -> list[PictureRecord]:
        """Return all pictures in order of arrival."""
        with self._begin() as session:
            return [row.record() for row in session.scalars(select(Picture).order_by(Picture.received, Picture.id))]

    @_translated
    def unfinished(self, *, full: bool, limit: int, skip: Iterable[PictureKey] = ()) -> list[PictureRecord]:
        """Return pictures that still want decoding with this station's bundle, those never seen first, oldest first.

        Args:
            full: whether full decodes are wanted.
            limit: most pictures to return.
            skip: pictures to leave out.
        """
        usable: ColumnElement[int] = case(
            (Picture.layers_bad.is_(None), Picture.layers_have),
            (Picture.layers_bad - 1 < Picture.layers_have, Picture.layers_bad - 1),
            else_=Picture.layers_have,
        )
        wanted: ColumnElement[bool] = Picture.preview_layers < usable
        if full:
            wanted = or_(wanted, Picture.picture_layers < usable)
        left_out = set(skip)
        query = select(Picture).where(wanted).order_by(Picture.preview_layers > 0, Picture.received, Picture.id)
        if self._bundle is not None:
            query = query.where(Picture.bundle == self._bundle)
        with self._begin() as session:
            records: list[PictureRecord] = []
            for row in session.scalars(query.limit(limit + len(left_out))):
                if PictureKey(row.sender, row.sequence) not in left_out and len(records) < limit:
                    records.append(row.record())
            return records

    @_translated
    def count(self) -> dict[State, int]:
        """Return how many pictures are in each state."""
        with self._begin() as session:
            rows = session.execute(select(Picture.state, func.count()).group_by(Picture.state))
            return {State(state): number for state, number in rows}

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _begin(self) -> AbstractContextManager[Session]:
        return self._sessions.begin()

    def _refresh_state(self, row: Picture) -> None:
        if row.layers_have == 0:
            state = State.INCOMPLETE
        elif row.layers_bad == 1:
            state = State.CORRUPT
        elif self._bundle is not None and row.bundle != self._bundle:
            state = State.UNKNOWN_BUNDLE
        elif row.picture_layers:
            state = State.DECODED
        elif row.preview_layers:
            state = State.PREVIEWED
        else:
            state = State.RECEIVED
        row.state = state.value


def _find(session: Session, key: PictureKey) -> Picture | None:
    return session.scalars(
        select(Picture).where(Picture.sender == key.sender, Picture.sequence == key.sequence)
    ).one_or_none()


def _find_layer(session: Session, picture: Picture, layer: int) -> Layer | None:
    return session.scalars(select(Layer).where(Layer.picture_id == picture.id, Layer.layer == layer)).one_or_none()


def _require(session: Session, key: PictureKey) -> Picture:
    row = _find(session, key)
    if row is None:
        raise PinholeError(f"{key} is not in the archive")
    return row


def _make_durable(engine: Engine) -> None:
    """Make every commit of an SQLite index survive a power cut, and readers (the dashboard) not wait for the writer."""

    @event.listens_for(engine, "connect")
    def configure(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()
