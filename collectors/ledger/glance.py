"""The ledger at a glance: sums of a few stretches of time, for commands that must start at once.

Plain SQL and plain values: neither msgspec nor anything else that takes long to import. Only
primary records are counted, as everywhere. Times are epoch seconds; stretches end before `end`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from collectors.ledger.schema import BUCKET_COLUMNS

_NANO = 1_000_000_000
_CLASSES = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "unsplit_tokens",
)
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

    @property
    def named(self) -> dict[str, int]:
        """The sums by the names of BUCKET_COLUMNS."""
        return dict(zip(BUCKET_COLUMNS, self.sums, strict=True))


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


def total_tokens(sums: Mapping[str, int]) -> int:
    """The sum of the disjoint token classes."""
    return sum(sums[name] for name in _CLASSES)


def fields(sums: Mapping[str, int]) -> dict[str, int | float]:
    """Sums under the names and in the units that reports and InfluxDB use."""
    counts = {name: number for name, number in sums.items() if not name.endswith("_nano")}
    return {
        **counts,
        "total_tokens": total_tokens(sums),
        "cost_usd": sums["cost_nano"] / _NANO,
        "api_equivalent_usd": sums["api_equivalent_nano"] / _NANO,
        "plan_unknown_usd": sums["plan_unknown_nano"] / _NANO,
        "cache_savings_usd": sums["savings_nano"] / _NANO,
    }


class DeadLetter(NamedTuple):
    """A point that an InfluxDB refused; `tags` as stored."""

    url: str
    bucket: str
    measurement: int
    tags: str
    start: int
    kind: str
    status: int
    message: str
    refused_at: float


def dead_letters(db: sqlite3.Connection, limit: int = -1) -> list[DeadLetter]:
    """Refused points, newest first; -1 means all of them."""
    rows = db.execute(
        "SELECT target.url, target.bucket, dead.measurement, tagset.tags, dead.start, dead.kind,"
        " dead.status, dead.message, dead.refused_at FROM dead"
        " JOIN tagset ON tagset.id=dead.tagset JOIN target ON target.id=dead.target"
        " ORDER BY dead.refused_at DESC, dead.start DESC LIMIT ?",
        (limit,),
    )
    return [DeadLetter(*row) for row in rows]


def cursor_of(db: sqlite3.Connection, source: str) -> dict[str, str]:
    """The stored cursor of a collector, values as JSON text."""
    rows = db.execute("SELECT name, value FROM cursor WHERE source=?", (source,))
    return dict(rows.fetchall())


def record_counts(db: sqlite3.Connection) -> dict[str, int]:
    """How many records every source has."""
    return dict(db.execute("SELECT source, records FROM book").fetchall())


def models(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Every provider and model there is a record of."""
    rows = db.execute(
        "SELECT DISTINCT provider, model FROM series WHERE role='primary' ORDER BY 1, 2"
    )
    return [(row[0], row[1]) for row in rows]


class Unpriced(NamedTuple):
    """Tokens without a price that share everything that could price them."""

    provider: str
    model: str
    service_tier: str
    speed: str
    inference_geo: str
    is_batch: bool
    tokens: int  # of records that no price was found for
    unsplit_tokens: int  # in sums that have no price whatever the model's prices are
    latest_ms: int


def unpriced(db: sqlite3.Connection) -> list[Unpriced]:
    """Everything that has no price, most tokens first; together as many as the buckets say."""
    rows = db.execute(
        "SELECT series.provider, series.model, coalesce(tariff.service_tier, ''),"
        " coalesce(tariff.speed, ''), coalesce(tariff.inference_geo, ''),"
        " coalesce(tariff.batch, 0), sum(CASE WHEN price=0 THEN input_tokens + cache_read_tokens"
        " + cache_write_tokens + output_tokens ELSE 0 END) AS tokens,"
        " sum(unsplit_tokens) AS unsplit, max(timestamp_ms)"
        " FROM record JOIN series ON series.id=record.series"
        " LEFT JOIN tariff ON tariff.id=record.tariff"
        " WHERE (record.price=0 OR record.unsplit_tokens>0) AND series.role='primary'"
        " GROUP BY 1, 2, 3, 4, 5, 6 HAVING tokens + unsplit > 0"
        " ORDER BY tokens + unsplit DESC, 1, 2"
    )
    return [Unpriced._make((*row[:5], bool(row[5]), *row[6:])) for row in rows]
