"""Which ledger this is: an id inside it, the same in a small file beside it, what both prove.

A -wal file left by another ledger is replayed by SQLite without a word, and so is one of an older
copy of the same ledger. The id is mixed into the check of every row, so a foreign row does not
pass; the file beside the ledger notices one that was exchanged whole, is older than it was, or is
gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import uuid
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

_ID = "ledger_id"
_OPENS = "opens"


class Identity(NamedTuple):
    """A ledger's id and how often it was opened for writing; `writers` maps machine to name.

    `closed` says what its books were when it was closed in order, and is empty while it is open.
    """

    ledger: str
    opens: int
    writers: tuple[tuple[str, str], ...] = ()
    closed: str = ""


def read_identity(db: sqlite3.Connection) -> Identity | None:
    """The identity stored in an open ledger; None in one that was never opened for writing."""
    values = dict(
        db.execute("SELECT name, value FROM meta WHERE name IN (?, ?)", (_ID, _OPENS)).fetchall()
    )
    if _ID not in values:
        return None
    writers = db.execute("SELECT machine, uuid FROM writer ORDER BY id").fetchall()
    return Identity(
        values[_ID], int(values.get(_OPENS, "0")), tuple((row[0], row[1]) for row in writers)
    )


def establish(db: sqlite3.Connection) -> int:
    """Give a new ledger its id, count this opening, return the seed of its row checks.

    The caller holds the transaction.
    """
    found = read_identity(db)
    ledger = found.ledger if found else str(uuid.uuid4())
    opens = found.opens + 1 if found else 1
    db.executemany("INSERT OR REPLACE INTO meta VALUES(?,?)", [(_ID, ledger), (_OPENS, str(opens))])
    return seed_of(ledger)


def state_of(db: sqlite3.Connection) -> str:
    """What the books of a ledger come to; changes with every record."""
    sums = db.execute("SELECT coalesce(sum(records), 0), coalesce(sum(checks), 0) FROM book")
    return ":".join(str(value) for value in sums.fetchone())


def seed_of(ledger_id: str) -> int:
    """What the row checks of one ledger start from, so that no other ledger's rows pass."""
    return crc32(ledger_id.encode())


def text_check(seed: int, *values: object) -> int:
    """A checksum over the values of a row that is not all integers."""
    return crc32(repr(values).encode("utf-8", "surrogatepass"), seed)


class IdentityFile:
    """The copy of a ledger's identity beside it."""

    def __init__(self, ledger: Path) -> None:
        self.path = ledger.with_name(ledger.name + ".id")

    def read(self) -> Identity | None:
        """What was noted last; None when there is no file or it cannot be understood."""
        try:
            found = json.loads(self.path.read_bytes())
            writers = tuple((str(machine), str(name)) for machine, name in found["writers"])
            closed = str(found.get("closed", ""))
            return Identity(str(found["ledger"]), int(found["opens"]), writers, closed)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, identity: Identity) -> None:
        """Replace the note in one step; it holds ids only, and is private all the same."""
        partial = self.path.with_name(self.path.name + ".part")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(identity._asdict()).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        partial.replace(self.path)

    def remove(self) -> None:
        """Forget the note."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
