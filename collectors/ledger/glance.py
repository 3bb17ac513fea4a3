"""The ledger at a glance: sums of a few stretches of time, for commands that must start at once.

Plain SQL and plain values: neither msgspec nor anything else that takes long to import. Only
primary records are counted, as everywhere. Times are epoch seconds; stretches end before `end`.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from collectors.ledger.schema import BUCKET_COLUMNS

_SUMS = ", ".join(f"coalesce(sum(bucket.{name}), 0)" for name in BUCKET_COLUMNS)
_FROM = (
    " FROM bucket JOIN series ON series.id=bucket.series"
    " WHERE bucket.start>=? AND bucket.start<? AND series.role='primary'"
)


class ModelSums(NamedTuple):
    """The sums of one model; `sums` are in the order of BUCKET_COLUMNS."""

    source: str
    provider: str
    model: str
    sums: tuple[int, ...]


class LastRun(NamedTuple):
    """How the newest run of a collector that was noted went."""

    collector: str
    started_at: float
    error: str
    hint: str


class Target(NamedTuple):
    """One InfluxDB and what it still has to be told."""

    url: str
    bucket: str
    pending: int
    dead_letters: int


def sums_of(db: sqlite3.Connection, start: int, end: int) -> dict[str, int]:
    """Everything counted in a stretch of time, by the names of BUCKET_COLUMNS."""
    row = db.execute(f"SELECT {_SUMS}{_FROM}", (start, end)).fetchone()
    return dict(zip(BUCKET_COLUMNS, row, strict=True))


def models_of(db: sqlite3.Connection, start: int, end: int) -> list[ModelSums]:
    """What each source, provider and model added in a stretch of time."""
    rows = db.execute(
        f"SELECT series.source, series.provider, series.model, {_SUMS}{_FROM}"
        " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        (start, end),
    )
    return [ModelSums(row[0], row[1], row[2], tuple(row[3:])) for row in rows]


def last_data(db: sqlite3.Connection) -> dict[str, int]:
    """Start of the newest bucket of every source."""
    found: dict[str, int] = {}
    for (source,) in db.execute("SELECT DISTINCT source FROM series WHERE role='primary'"):
        # From the newest backwards: this stops at the first one it meets.
        row = db.execute(
            "SELECT start FROM bucket WHERE series IN"
            " (SELECT id FROM series WHERE source=? AND role='primary')"
            " ORDER BY start DESC LIMIT 1",
            (source,),
        ).fetchone()
        if row is not None:
            found[source] = row[0]
    return found


def last_runs(db: sqlite3.Connection) -> dict[str, LastRun]:
    """The newest noted run of every collector."""
    rows = db.execute(
        "SELECT collector, started_at, error, hint FROM run"
        " WHERE id IN (SELECT max(id) FROM run GROUP BY collector)"
    )
    return {row[0]: LastRun(*row) for row in rows}


def targets(db: sqlite3.Connection) -> list[Target]:
    """Every InfluxDB that was ever set."""
    rows = db.execute(
        "SELECT url, bucket,"
        " (SELECT count(*) FROM sent WHERE sent.target=target.id AND revision > sent_revision),"
        " (SELECT count(*) FROM dead WHERE dead.target=target.id) FROM target ORDER BY id"
    )
    return [Target(*row) for row in rows]


def refused(db: sqlite3.Connection) -> int:
    """How many records were skipped."""
    return int(db.execute("SELECT count(*) FROM refused").fetchone()[0])


def newest(db: sqlite3.Connection) -> int | None:
    """Start of the newest bucket; None for an empty ledger."""
    row = db.execute("SELECT max(start) FROM bucket").fetchone()
    return None if row[0] is None else int(row[0])
