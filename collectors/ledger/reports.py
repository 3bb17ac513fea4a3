"""The ledger's reading side: the numbers every door shows, each worked out in one place.

All functions take a connection that may be read-only. Only primary records are totals; views of
what is already counted are asked for by role.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Literal

import msgspec

from collectors.clock import Calendar
from collectors.ledger.schema import BUCKET_COLUMNS
from collectors.points import Role

Period = Literal["daily", "weekly", "monthly", "total"]
Dimension = Literal["source", "provider", "model", "project", "host", "account"]

NANO = 1_000_000_000
_SUMS = ",".join(f"coalesce(sum(bucket.{name}),0)" for name in BUCKET_COLUMNS)
_DIMENSIONS = ("source", "provider", "model", "project", "host", "account")


class Usage(msgspec.Struct):
    """Sums of some records; money in integer nano-dollars. Token classes are disjoint."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    unsplit_tokens: int = 0
    unpriced_tokens: int = 0
    requests: int = 0
    web_search_requests: int = 0
    cost_nano: int = 0
    api_equivalent_nano: int = 0
    plan_unknown_nano: int = 0
    savings_nano: int = 0

    @property
    def total_tokens(self) -> int:
        """The sum of the disjoint token classes."""
        return (
            self.input_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
            + self.output_tokens
            + self.unsplit_tokens
        )

    @property
    def cache_hit_ratio(self) -> float | None:
        """Part of all prompt tokens that was read from cache; None without a prompt."""
        prompt = self.input_tokens + self.cache_read_tokens + self.cache_write_tokens
        return self.cache_read_tokens / prompt if prompt else None

    def add(self, other: Usage) -> None:
        """Add the sums of other records."""
        for name in BUCKET_COLUMNS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def fields(self) -> dict[str, int | float]:
        """The sums under the names used by InfluxDB, the JSON API and the command line."""
        return {
            "input_tokens": self.input_tokens,
            "cache_read_tokens": self.cache_read_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "cache_write_1h_tokens": self.cache_write_1h_tokens,
            "output_tokens": self.output_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "unsplit_tokens": self.unsplit_tokens,
            "total_tokens": self.total_tokens,
            "unpriced_tokens": self.unpriced_tokens,
            "requests": self.requests,
            "web_search_requests": self.web_search_requests,
            "cost_usd": self.cost_nano / NANO,
            "api_equivalent_usd": self.api_equivalent_nano / NANO,
            "plan_unknown_usd": self.plan_unknown_nano / NANO,
            "cache_savings_usd": self.savings_nano / NANO,
        }


class ReportRow(msgspec.Struct):
    """One line of a report: what it is about, and its sums."""

    period: str  # first local day of the period, `YYYY-MM-DD`, or `YYYY-MM`; empty for all time
    keys: dict[str, str]
    usage: Usage

    def as_json(self) -> dict[str, Any]:
        """Period, keys and sums in one flat object."""
        period = {"period": self.period} if self.period else {}
        return {**period, **self.keys, **self.usage.fields()}


class Session(msgspec.Struct):
    """One session of an agent: where, when, and its sums."""

    source: str
    session: str
    project: str
    branch: str
    first_ms: int
    last_ms: int
    usage: Usage


def total_of(rows: Sequence[ReportRow]) -> Usage:
    """The sum of a report's rows."""
    total = Usage()
    for row in rows:
        total.add(row.usage)
    return total


def covered_days(db: sqlite3.Connection, calendar: Calendar) -> tuple[date, date] | None:
    """First and last local day anything was counted on; None for an empty ledger."""
    first, last = db.execute("SELECT min(start), max(start) FROM bucket").fetchone()
    if first is None:
        return None
    return calendar.day_of(first), calendar.day_of(last)


def report(
    db: sqlite3.Connection,
    calendar: Calendar,
    *,
    period: Period = "total",
    by: Sequence[Dimension] = ("source", "provider", "model"),
    since: date | None = None,
    until: date | None = None,
    role: Role = Role.PRIMARY,
) -> list[ReportRow]:
    """Sums per period and dimensions, periods in order; `since` and `until` are inclusive days."""
    days = covered_days(db, calendar)
    if days is None:
        return []
    first, last = max(days[0], since or days[0]), min(days[1], until or days[1])
    if first > last:
        return []
    names = [name for name in _DIMENSIONS if name in by]
    spans = _spans(calendar, period, first, last)
    # Grouped by small integers in the database, by name here: half the time.
    dimensions = {
        row[0]: row[1:]
        for row in db.execute(
            f"SELECT id, {', '.join(names) or 'NULL'} FROM series WHERE role=?", (role,)
        )
    }
    rows = db.execute(
        f"SELECT span.key, bucket.series, {_SUMS} FROM json_each(?) AS span"
        " CROSS JOIN bucket ON bucket.start >= json_extract(span.value, '$[0]')"
        " AND bucket.start < json_extract(span.value, '$[1]') GROUP BY 1, 2",
        (json.dumps([span[1:] for span in spans]),),
    )
    found: dict[tuple[int, tuple[str, ...]], Usage] = {}
    for span, series, *sums in rows:
        named = dimensions.get(series)
        if named is None:
            continue  # of another role
        key = (span, named[: len(names)])
        usage = Usage(*sums)
        if key in found:
            found[key].add(usage)
        else:
            found[key] = usage
    return [
        ReportRow(spans[span][0], dict(zip(names, named, strict=True)), found[span, named])
        for span, named in sorted(found)
    ]


def _spans(
    calendar: Calendar, period: Period, first: date, last: date
) -> list[tuple[str, int, int]]:
    """Label, start and end of every period between two days, cut at those days."""
    if period == "total":
        return [("", calendar.day_start(first), calendar.day_start(last + timedelta(days=1)))]
    spans: list[tuple[str, int, int]] = []
    day = first
    while day <= last:
        start = calendar.period_start(day, period)
        if period == "monthly":
            following = (start + timedelta(days=31)).replace(day=1)
        else:
            following = start + timedelta(days=7 if period == "weekly" else 1)
        label = f"{start:%Y-%m}" if period == "monthly" else start.isoformat()
        end = min(following, last + timedelta(days=1))
        spans.append((label, calendar.day_start(day), calendar.day_start(end)))
        day = following
    return spans


def sums_between(
    db: sqlite3.Connection, start: int, end: int, role: Role = Role.PRIMARY
) -> dict[tuple[str, str, str], Usage]:
    """Sums per (provider, host, account) of the buckets in [start, end), epoch seconds."""
    rows = db.execute(
        f"SELECT series.provider, series.host, series.account, {_SUMS} FROM bucket"
        " JOIN series ON series.id=bucket.series"
        " WHERE bucket.start>=? AND bucket.start<? AND series.role=? GROUP BY 1, 2, 3",
        (start, end, role),
    )
    return {(row[0], row[1], row[2]): Usage(*row[3:]) for row in rows}


def sessions(
    db: sqlite3.Connection,
    calendar: Calendar,
    *,
    since: date | None = None,
    until: date | None = None,
    limit: int = 0,
) -> list[Session]:
    """Sessions with any use in a range of local days, latest first; 0 means all of them."""
    start = calendar.day_start(since) * 1000 if since else 0
    end = calendar.day_start(until + timedelta(days=1)) * 1000 if until else 1 << 62
    from collectors.ledger.records import SUMS_SQL

    rows = db.execute(
        "SELECT series.source, context.session, max(series.project), max(context.branch),"
        f" min(record.timestamp_ms), max(record.latest_ms), {SUMS_SQL}"
        " FROM record JOIN series ON series.id=record.series"
        " JOIN context ON context.id=record.context"
        " WHERE record.timestamp_ms>=? AND record.timestamp_ms<? AND series.role='primary'"
        " AND context.session<>'' GROUP BY 1, 2 ORDER BY 6 DESC LIMIT ?",
        (start, end, limit or -1),
    )
    return [
        Session(row[0], row[1], row[2], row[3], row[4], row[5], Usage(*row[6:])) for row in rows
    ]


def unpriced_models(db: sqlite3.Connection) -> list[tuple[str, str, int]]:
    """Provider, model and tokens without a price, most first."""
    rows = db.execute(
        "SELECT series.provider, series.model, sum(bucket.unpriced_tokens) AS tokens FROM bucket"
        " JOIN series ON series.id=bucket.series WHERE series.role='primary'"
        " GROUP BY 1, 2 HAVING tokens>0 ORDER BY tokens DESC"
    )
    return [(row[0], row[1], row[2]) for row in rows]


class RunLine(msgspec.Struct):
    """One past run of a collector."""

    collector: str
    started_at: float
    seconds: float
    points: int
    changed: int
    skipped: int
    error: str
    hint: str


def runs(db: sqlite3.Connection, limit: int = 20, collector: str = "") -> list[RunLine]:
    """The last runs, newest first."""
    rows = db.execute(
        "SELECT collector, started_at, seconds, points, changed, skipped, error, hint FROM run"
        " WHERE ?1='' OR collector=?1 ORDER BY id DESC LIMIT ?2",
        (collector, limit),
    )
    return [RunLine(*row) for row in rows]


def last_success(db: sqlite3.Connection) -> dict[str, float]:
    """When each collector last ran without an error, epoch seconds."""
    rows = db.execute("SELECT collector, max(started_at) FROM run WHERE error='' GROUP BY 1")
    return {row[0]: row[1] for row in rows}


def refusals(db: sqlite3.Connection) -> list[tuple[str, str, int, str]]:
    """Skipped records: source, reason, how many, and one place; most first."""
    rows = db.execute(
        "SELECT source, reason, count(*), max(location) FROM refused GROUP BY 1, 2 ORDER BY 3 DESC"
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]
