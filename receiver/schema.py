"""Tables of the archive's index (SQLAlchemy declarative mapping)."""

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from receiver.pictures import PictureKey, PictureRecord, State

VERSION = 2
"""Raised whenever a table changes; an index of another version is refused, never guessed at."""


class Base(DeclarativeBase):
    """Common base of the tables."""


class Property(Base):
    """Facts about the archive as a whole; ``schema`` holds the version of the tables."""

    __tablename__ = "properties"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Picture(Base):
    """One row per picture; times are seconds since 1970, durations seconds, `PictureRecord` explains the rest."""

    __tablename__ = "pictures"
    __table_args__ = (UniqueConstraint("sender", "sequence"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sender: Mapped[int] = mapped_column(BigInteger)
    sequence: Mapped[int] = mapped_column(BigInteger)
    received: Mapped[float]
    updated: Mapped[float] = mapped_column(default=0.0)
    captured: Mapped[int | None] = mapped_column(BigInteger)
    width: Mapped[int] = mapped_column(default=0)
    height: Mapped[int] = mapped_column(default=0)
    quality: Mapped[float] = mapped_column(default=0.0)
    bundle: Mapped[str | None]
    """Bundle id in hexadecimal."""
    layers_total: Mapped[int] = mapped_column(default=1)
    layers_have: Mapped[int] = mapped_column(default=0)
    layers_bad: Mapped[int | None]
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    state: Mapped[str] = mapped_column(default=State.INCOMPLETE.value, index=True)
    preview_layers: Mapped[int] = mapped_column(default=0)
    preview_at: Mapped[float | None]
    preview_seconds: Mapped[float | None]
    picture_layers: Mapped[int] = mapped_column(default=0)
    picture_at: Mapped[float | None]
    picture_seconds: Mapped[float | None]
    picture_steps: Mapped[int | None]
    """Steps asked for; null is the bundle's default."""
    error: Mapped[str | None]

    def record(self) -> PictureRecord:
        """Return the row as a plain value."""
        return PictureRecord(
            PictureKey(self.sender, self.sequence),
            layers_total=self.layers_total,
            layers_have=self.layers_have,
            layers_bad=self.layers_bad,
            preview_layers=self.preview_layers,
            picture_layers=self.picture_layers,
            received=self.received,
            layer_bytes=self.bytes,
            state=State(self.state),
            bundle=None if self.bundle is None else bytes.fromhex(self.bundle),
            width=self.width,
            height=self.height,
            quality=self.quality,
            captured=self.captured,
            error=self.error,
        )


class Layer(Base):
    """One row per stored layer; the unique constraint is what makes a layer arrive exactly once."""

    __tablename__ = "layers"
    __table_args__ = (UniqueConstraint("picture_id", "layer"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    picture_id: Mapped[int] = mapped_column(ForeignKey("pictures.id"))
    layer: Mapped[int]
    bytes: Mapped[int]
    sha256: Mapped[str]
    received: Mapped[float]
