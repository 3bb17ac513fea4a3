"""A small real outbox on SQLite, the mutants a sender's tests must catch, and what to compare.

The tests of the writer ask for a `Rig` and never for a particular ledger, so the same tests
against any outbox that `outbox_factory` knows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from collectors.measurements import FIELDS, Row, Value
from collectors.outputs.influx import Outbox
from tests.support.fault_server import Store

Run = Callable[..., Awaitable[Any]]

MUTANTS: Final = ("blind_clear", "clear_first", "no_confirm")
MEASUREMENT: Final = "token_usage"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS bucket(id INTEGER PRIMARY KEY, start INTEGER NOT NULL,
  model TEXT NOT NULL, tokens INTEGER NOT NULL, requests INTEGER NOT NULL,
  revision INTEGER NOT NULL, UNIQUE(start, model)) STRICT;
CREATE TABLE IF NOT EXISTS series(id INTEGER PRIMARY KEY, model TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS target(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS sent(target INTEGER NOT NULL, bucket INTEGER NOT NULL,
  revision INTEGER NOT NULL, sent_at REAL, kind TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '', PRIMARY KEY(target, bucket)) STRICT, WITHOUT ROWID;
"""
_SELECT = """SELECT bucket.id, bucket.start, bucket.model, bucket.tokens, bucket.requests,
  bucket.revision, series.id FROM bucket JOIN series ON series.model=bucket.model
  LEFT JOIN sent ON sent.bucket=bucket.id AND sent.target=?"""


async def inline(call: Callable[..., Any], *args: Any) -> Any:
    """`LedgerThread.run` without a thread, for loops whose time is not real."""
    return call(*args)


class Rig(Protocol):
    """An outbox and the events that fill it."""

    @property
    def outbox(self) -> Outbox:
        """What the writer is given."""

    def add(self, start: int, model: str, tokens: int) -> None:
        """Count tokens of one request in the bucket that starts at `start`."""

    def add_many(self, events: Sequence[tuple[int, str, int]]) -> None:
        """Count many requests (start, model, tokens) in one transaction."""

    def expected(self) -> Store:
        """What InfluxDB must hold in the end."""

    def pending(self) -> int:
        """How many rows are dirty for the one target that was registered."""

    def dead_letters(self) -> list[tuple[str, str, str]]:
        """Kind, message and model of what was set aside, oldest bucket first."""

    def reopen(self) -> None:
        """What a restart does: everything in memory is lost."""

    def close(self) -> None:
        """Close the file."""


class SqliteOutbox:
    """Revisions, acknowledgements by compare-and-set, confirmations after a settle time."""

    def __init__(self, path: Path, settle: float) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=OFF")  # what power loss does is the ledger's test
        self.db.executescript(_SCHEMA)
        self._settle = settle

    def target(self, url: str, org: str, bucket: str) -> int:
        """The number of a target."""
        name = f"{url} {org} {bucket}"
        self.db.execute("INSERT OR IGNORE INTO target(name) VALUES(?)", (name,))
        row = self.db.execute("SELECT id FROM target WHERE name=?", (name,)).fetchone()
        return int(row[0])

    def due(self, target: int, limit: int, now: float) -> list[Row]:
        """Dirty rows newest first, then confirmations."""
        found = self.db.execute(
            _SELECT + " WHERE bucket.revision > coalesce(sent.revision, 0)"
            " ORDER BY bucket.start DESC LIMIT ?",
            (target, limit),
        ).fetchall()
        if len(found) < limit:
            found += self.db.execute(
                _SELECT + " WHERE bucket.revision = sent.revision AND sent.sent_at IS NOT NULL"
                " AND (sent.sent_at <= ? OR sent.sent_at > ?) LIMIT ?",
                (target, now - self._settle, now, limit - len(found)),
            ).fetchall()
        return [_row(*columns) for columns in found]

    def acknowledge(self, target: int, rows: Sequence[Row], now: float) -> None:
        """Note the revisions sent; the second time for one revision confirms it."""
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany(
            "INSERT INTO sent(target, bucket, revision, sent_at) SELECT ?, id, ?, ? FROM bucket"
            " WHERE start=? AND model=? ON CONFLICT DO UPDATE SET kind='', message='',"
            " sent_at = CASE WHEN revision = excluded.revision THEN NULL ELSE excluded.sent_at END,"
            " revision = excluded.revision",
            [(target, row.revision, now, row.start, dict(row.tags)["model"]) for row in rows],
        )
        self.db.execute("COMMIT")

    def refuse(
        self, target: int, rows: Sequence[Row], status: int, message: str, kind: str
    ) -> None:
        """Set rows aside until they change."""
        self.db.executemany(
            "INSERT INTO sent(target, bucket, revision, sent_at, kind, message)"
            " SELECT ?, id, ?, NULL, ?, ? FROM bucket WHERE start=? AND model=?"
            " ON CONFLICT DO UPDATE SET revision=excluded.revision, sent_at=NULL,"
            " kind=excluded.kind, message=excluded.message",
            [
                (target, row.revision, kind, message, row.start, dict(row.tags)["model"])
                for row in rows
            ],
        )

    def pending(self, target: int) -> int:
        """How many rows are dirty."""
        row = self.db.execute(
            "SELECT count(*) FROM bucket LEFT JOIN sent ON sent.bucket=bucket.id AND sent.target=?"
            " WHERE bucket.revision > coalesce(sent.revision, 0)",
            (target,),
        ).fetchone()
        return int(row[0])

    def dead_letters(self) -> list[tuple[str, str, str]]:
        """Kind, message and model of what was set aside."""
        return self.db.execute(
            "SELECT kind, message, model FROM sent JOIN bucket ON bucket.id=sent.bucket"
            " WHERE kind != '' ORDER BY start"
        ).fetchall()


class SqliteRig:
    """The rig around `SqliteOutbox`."""

    def __init__(self, path: Path, settle: float = 600, mutant: str = "") -> None:
        self._path = path
        self._settle = settle
        self._mutant = mutant
        self.inner = SqliteOutbox(path, settle)
        self.outbox = mutated(self.inner, mutant)

    def reopen(self) -> None:
        """Close and open again."""
        self.inner.db.close()
        self.inner = SqliteOutbox(self._path, self._settle)
        self.outbox = mutated(self.inner, self._mutant)

    def add(self, start: int, model: str, tokens: int) -> None:
        """Count tokens of one request."""
        self.add_many([(start, model, tokens)])

    def add_many(self, events: Sequence[tuple[int, str, int]]) -> None:
        """Count many requests in one transaction."""
        db = self.inner.db
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "INSERT OR IGNORE INTO series(model) VALUES(?)", {(model,) for _, model, _ in events}
        )
        db.executemany(
            "INSERT INTO bucket(start, model, tokens, requests, revision) VALUES(?,?,?,1,1)"
            " ON CONFLICT DO UPDATE SET tokens=tokens+excluded.tokens, requests=requests+1,"
            " revision=revision+1",
            events,
        )
        db.execute("COMMIT")

    def expected(self) -> Store:
        """Every bucket with its present values, as InfluxDB would hold it."""
        rows = [_row(*columns) for columns in self.inner.db.execute(_SELECT, (0,))]
        return {
            (row.measurement, row.tags, row.timestamp_ns): {
                field.name: value
                for field, value in zip(FIELDS[row.measurement], row.values, strict=True)
                if value is not None
            }
            for row in rows
        }

    def pending(self) -> int:
        """How many rows are dirty for the first target."""
        return self.inner.pending(1)

    def dead_letters(self) -> list[tuple[str, str, str]]:
        """Kind, message and model of what was set aside."""
        return self.inner.dead_letters()

    def close(self) -> None:
        """Close the file."""
        self.inner.db.close()


MakeRig = Callable[..., Rig]


@pytest.fixture
def outbox_factory(tmp_path: Path) -> Iterator[MakeRig]:
    """Makes rigs, each on a file of its own, and closes them at the end."""
    made: list[Rig] = []

    def make(settle: float = 600, mutant: str = "") -> Rig:
        made.append(SqliteRig(tmp_path / f"outbox{len(made)}.db", settle, mutant))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


def _row(
    number: int, start: int, model: str, tokens: int, requests: int, revision: int, series: int
) -> Row:
    assert number > 0
    known: dict[str, Value] = {
        "input_tokens": tokens,
        "total_tokens": tokens,
        "requests": requests,
        "cost_usd": tokens / 1e6,
    }
    values = tuple(
        known.get(field.name, 0.0 if field.kind == "float" else 0) for field in FIELDS[MEASUREMENT]
    )
    tags = (("host", "box"), ("model", model), ("provider", "anthropic"))
    return Row(MEASUREMENT, tags, series, start * 10**9 + 7, values, start, revision)


class PassedThrough:
    """Any outbox, unchanged; the mutants below make one mistake each that was seen elsewhere."""

    def __init__(self, inner: Outbox) -> None:
        self.inner = inner

    def target(self, url: str, org: str, bucket: str) -> int:
        return self.inner.target(url, org, bucket)

    def due(self, target: int, limit: int, now: float) -> list[Row]:
        return self.inner.due(target, limit, now)

    def acknowledge(self, target: int, rows: Sequence[Row], now: float) -> None:
        self.inner.acknowledge(target, rows, now)

    def refuse(
        self, target: int, rows: Sequence[Row], status: int, message: str, kind: str
    ) -> None:
        self.inner.refuse(target, rows, status, message, kind)

    def pending(self, target: int) -> int:
        return self.inner.pending(target)


class _BlindClear(PassedThrough):
    """Marks the row clean as it is now, not as it was sent."""

    def acknowledge(self, target: int, rows: Sequence[Row], now: float) -> None:
        current = {(row.series, row.start): row for row in self.inner.due(target, 1_000_000, now)}
        newest = [current.get((row.series, row.start), row) for row in rows]
        self.inner.acknowledge(target, newest, now)


class _ClearFirst(PassedThrough):
    """Marks rows clean when they are taken, before the server has said anything."""

    def due(self, target: int, limit: int, now: float) -> list[Row]:
        rows = self.inner.due(target, limit, now)
        if rows:
            self.inner.acknowledge(target, rows, now)
        return rows

    def acknowledge(self, target: int, rows: Sequence[Row], now: float) -> None:
        return


class _NoConfirm(PassedThrough):
    """Takes the first acknowledgement for the confirmation."""

    def acknowledge(self, target: int, rows: Sequence[Row], now: float) -> None:
        self.inner.acknowledge(target, rows, now)
        dirty = {(row.series, row.start) for row in self.inner.due(target, 1_000_000, now)}
        settled = [row for row in rows if (row.series, row.start) not in dirty]
        self.inner.acknowledge(target, settled, now)


def mutated(outbox: Outbox, mutant: str) -> Outbox:
    """The outbox itself, or one that makes the mistake of that name."""
    if not mutant:
        return outbox
    kinds = {"blind_clear": _BlindClear, "clear_first": _ClearFirst, "no_confirm": _NoConfirm}
    return kinds[mutant](outbox)
