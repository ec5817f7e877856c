"""The SQLite file that indexes the runs: connections, schema, and errors that say what to do."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import psutil

from mtz_core.errors import RunError

SCHEMA_VERSION = 3
BUSY_SECONDS = 30.0
NETWORKS = (
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs"),
    *("cifs", "smb3", "smbfs", "afs", "panfs", "pvfs2", "wekafs", "orangefs", "ocfs2", "gfs2"),
)
"""File systems on which processes of several machines may meet."""
SCHEMA = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, status TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL, started REAL, finished REAL,
    pid INTEGER, pid_created REAL, heartbeat REAL, fraction REAL NOT NULL DEFAULT 0, message TEXT,
    spec TEXT NOT NULL, summary TEXT NOT NULL,
    cancel INTEGER NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 1, last_seq INTEGER NOT NULL DEFAULT 0,
    checkpoint_file TEXT, checkpoint_seq INTEGER NOT NULL DEFAULT 0,
    owner TEXT, host TEXT, tags TEXT NOT NULL DEFAULT '[]', fingerprint TEXT
);
CREATE INDEX runs_by_age ON runs (created);
CREATE INDEX runs_by_fingerprint ON runs (fingerprint);
CREATE TABLE events (
    run TEXT NOT NULL, seq INTEGER NOT NULL, time REAL NOT NULL, kind TEXT NOT NULL, layer TEXT, data TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;
CREATE INDEX events_by_kind ON events (run, kind, seq);
CREATE TABLE arrays (
    run TEXT NOT NULL, seq INTEGER NOT NULL, layer TEXT NOT NULL, key TEXT NOT NULL, file TEXT NOT NULL,
    PRIMARY KEY (run, seq, key)
) WITHOUT ROWID;
"""
QUEUE = """
CREATE TABLE queue (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, owner TEXT NOT NULL, asked REAL NOT NULL,
    started REAL, beat REAL, host TEXT, pid INTEGER, pid_created REAL,
    tries INTEGER NOT NULL DEFAULT 0, memory INTEGER NOT NULL DEFAULT 0, paused INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE turns (name TEXT PRIMARY KEY, turn INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE administrators (browser TEXT PRIMARY KEY, token TEXT NOT NULL) WITHOUT ROWID
"""
SINCE = {
    1: f"""
ALTER TABLE runs ADD COLUMN owner TEXT;
ALTER TABLE runs ADD COLUMN host TEXT;
ALTER TABLE runs ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
{QUEUE}
""",
    2: """
ALTER TABLE runs ADD COLUMN fingerprint TEXT;
CREATE INDEX runs_by_fingerprint ON runs (fingerprint)
""",
}
"""What the version after each has and it had not."""


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database read-only; everything read inside is one consistent snapshot. A store not yet made is empty.

    Raises `RunError` if the file is damaged or was written by a newer version.
    """
    with _errors(path):
        connection = _connect(f"{path.absolute().as_uri()}?mode=ro" if path.exists() else ":memory:")
        try:
            connection.execute("BEGIN")
            try:
                version = _check_version(connection, path)
            except sqlite3.OperationalError as error:
                if "readonly" not in str(error):
                    raise
                connection.close()
                with writing(path):
                    pass  # takes back what a writer that was killed had half done, which a reader may not
                connection = _connect(f"{path.absolute().as_uri()}?mode=ro")
                connection.execute("BEGIN")
                version = _check_version(connection, path)
            if 0 < version < SCHEMA_VERSION:
                connection.close()
                with writing(path):
                    pass  # brings it up to date
                connection = _connect(f"{path.absolute().as_uri()}?mode=ro")
                connection.execute("BEGIN")
            elif version == 0:
                connection.close()
                connection = _connect(":memory:")
                _make_tables(connection)
            yield connection
        finally:
            connection.close()


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database, made if need be, and commit everything done inside as one transaction, or nothing of it.

    Raises `RunError` if it cannot be written, is damaged, or was written by a newer version.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the run store {path.parent}: {error.strerror or error}") from error
    with _errors(path):
        connection = _connect(f"{path.absolute().as_uri()}?mode=rwc")
        try:
            wanted = journal(path.parent)
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != wanted:
                _switch_journal(connection, wanted)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            version = _check_version(connection, path)
            if version == 0:
                _make_tables(connection)
            for older in range(version or SCHEMA_VERSION, SCHEMA_VERSION):
                _execute_all(connection, SINCE[older])
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _make_tables(connection: sqlite3.Connection) -> None:
    _execute_all(connection, f"{SCHEMA};{QUEUE}")


def _execute_all(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):  # `executescript` would commit the transaction that we are in
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def journal(folder: Path) -> str:
    """Return the kind of journal that a database in this folder is written with.

    `wal` lets readers go on while somebody writes, and needs memory that all processes share, which those of different
    machines do not have (https://www.sqlite.org/wal.html): on a network's disk it is `delete`.
    """
    return "delete" if file_system(folder) in NETWORKS else "wal"


def file_system(folder: Path) -> str:
    """Return the kind of file system that a folder is on, as the system calls it; empty where it does not say."""
    return _kind(folder.resolve())


@lru_cache(maxsize=256)
def _kind(folder: Path) -> str:
    found, depth = "", 0
    with suppress(OSError, RuntimeError):
        for known in psutil.disk_partitions(all=True):
            inside = Path(known.mountpoint).parts
            if len(inside) >= depth and folder.parts[: len(inside)] == inside:
                found, depth = str(known.fstype), len(inside)
    return found.lower()


def _switch_journal(connection: sqlite3.Connection, wanted: str) -> None:
    # SQLite's busy handler isn't called for this switch, and several workers may open a new store at once.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute(f"PRAGMA journal_mode={wanted}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise RunError(
            f"the run store {path.parent} was written by a newer MTZ Explorer (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); update the program or choose another folder"
        )
    return version


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RunError(f"the run store {path.parent} cannot be used: {error}") from error
