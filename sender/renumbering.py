"""New numbers for pictures whose own the ground has given to others.

Numbers are given once, by the spool. A spool that was restored from a backup, or copied with its card, gives some for
the second time; the ground, which has other pictures under them, says so, and how far it has counted.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

LARGEST_SEQUENCE = 2**32 - 1

HIGHEST_BELIEVED = 2**31
"""Largest number up to which a station is believed to have counted: a picture a second reaches it in 68 years, and a
station that names a larger one, in error or malice, would use up the numbers of the spool at one blow."""


@dataclass(frozen=True)
class Renumbered:
    """A picture that goes on under a new number.

    Attributes:
        name: within the source.
        before: its number until now.
        sequence: its number from now on.
    """

    name: str
    before: int
    sequence: int


class NumbersUsedUpError(Exception):
    """There are no numbers left to give."""


def renumber(connection: sqlite3.Connection, sequences: Iterable[int], highest: int) -> list[Renumbered]:
    """Give pictures of a spool new numbers; to be called within a transaction, so that all move or none.

    Args:
        connection: to the spool.
        sequences: their numbers; those of which no layer waits are passed over.
        highest: the new numbers are above it, and above all that the spool has given out.

    Returns:
        Those that moved, in the order of their old numbers, which is that of the new ones.

    Raises:
        NumbersUsedUpError: if a number would exceed `LARGEST_SEQUENCE`.
    """
    # Layers refer to pictures: until the commit they may refer to one that has just gone.
    connection.execute("PRAGMA defer_foreign_keys = ON")
    (following,) = connection.execute("SELECT max(next_sequence, ?) FROM node", (highest + 1,)).fetchone()
    moved: list[Renumbered] = []
    for before in sorted({*sequences}):
        row = connection.execute(
            "SELECT name FROM pictures WHERE sequence = ? AND state = 'pending'", (before,)
        ).fetchone()
        if row is None:
            continue
        if following > LARGEST_SEQUENCE:
            raise NumbersUsedUpError
        for table in ("pictures", "layers"):
            connection.execute(f"UPDATE {table} SET sequence = ? WHERE sequence = ?", (following, before))
        moved.append(Renumbered(row[0], before, following))
        following += 1
    # Also where nothing moves: what is taken from now on must not get a number that is known to be used.
    connection.execute("UPDATE node SET next_sequence = ?", (following,))
    return moved
