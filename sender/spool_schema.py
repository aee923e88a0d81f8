"""The tables of the spool; `sender.spool` says what they mean."""

SCHEMA_VERSION = 2
"""Of the tables. Spools made when quality was INTEGER need no other: SQLite keeps 2.5 in such a column as it is."""

MIGRATIONS = {1: ("ALTER TABLE node ADD COLUMN session INTEGER NOT NULL DEFAULT 0",)}
"""By version, the statements that bring its tables to the next one."""

APPLICATION_ID = 0x50494E53
"""``PINS`` in SQLite's file header: tells a spool from any other SQLite file."""
SCHEMA = f"""
CREATE TABLE node (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    sender INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    next_sequence INTEGER NOT NULL,
    session INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE pictures (
    sequence INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    digest BLOB NOT NULL,
    revision TEXT NOT NULL,
    captured INTEGER NOT NULL,
    taken REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'done', 'expired')),
    quality REAL NOT NULL,
    layer_count INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    UNIQUE (name, digest)
);
CREATE INDEX pictures_by_revision ON pictures (name, revision);
CREATE INDEX pictures_pending ON pictures (taken) WHERE state = 'pending';
CREATE TABLE layers (
    sequence INTEGER NOT NULL REFERENCES pictures (sequence),
    layer INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (sequence, layer)
);
CREATE INDEX layers_base ON layers (sequence) WHERE layer = 0;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
