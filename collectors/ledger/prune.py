"""Folding old detail into one record per day and series, without changing any total.

What is lost is the detail itself: single calls, their time of day, session and branch. What stays
is every sum of tokens, requests and money by day, series, billing and price. The keys of what was
folded are kept, so that reading old logs again adds nothing. InfluxDB keeps the fine points it has:
nothing is sent for them any more, while the daily measurement goes on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

from collectors.clock import EARLIEST_MS, Calendar
from collectors.errors import LedgerError
from collectors.ledger import records as r
from collectors.ledger.outbox import USAGE, VIEW
from collectors.ledger.schema import BUCKET_COLUMNS, IS_FILL, RECORD_COLUMNS
from collectors.ledger.store import Ledger
from collectors.points import hash64

DAY_SECONDS = 86_400
_SELECT = f"SELECT {','.join(RECORD_COLUMNS)}, id, row_check FROM record"
_INSERT = (
    f"INSERT INTO record({','.join(RECORD_COLUMNS)}, row_check)"
    f" VALUES({','.join('?' * (len(RECORD_COLUMNS) + 1))})"
)
# A call whose other variant is newer stays whole; an estimate stays, for a record may replace it.
_OLD = f"""bucket < ? AND NOT ({IS_FILL}) AND NOT EXISTS
  (SELECT 1 FROM record AS other WHERE other.family=record.family AND other.bucket >= ?)"""
_SUMMED = range(r.INPUT, r.WEB_SEARCH + 1)


class Plan(NamedTuple):
    """What a pruning would do."""

    before_ms: int  # start of a local day; everything older is folded
    days: int
    records: int
    becomes: int
    unsent: int  # old points InfluxDB was never told


class Pruned(NamedTuple):
    """What a pruning did."""

    days: int
    records: int
    became: int


def cut_at(calendar: Calendar, before_ms: int) -> int:
    """The start, in epoch seconds, of the local day a cut falls into: days are folded whole."""
    return calendar.day_start(calendar.day_of(before_ms // 1000))


def plan(db: sqlite3.Connection, calendar: Calendar, before_ms: int, *, target: int = 0) -> Plan:
    """Figures of a pruning, without doing it."""
    cut = cut_at(calendar, before_ms)
    accounts = _accounts(db)
    days = records = becomes = 0
    for day in _list_old(db, calendar, cut):
        groups = _groups(db, calendar, day, accounts)
        days += bool(groups)
        records += sum(len(rows) for rows in groups.values())
        becomes += len(groups)
    return Plan(cut * 1000, days, records, becomes, _unsent(db, cut, target))


def prune(
    ledger: Ledger,
    before_ms: int,
    *,
    drops_unsent: bool = False,
    target: int = 0,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Pruned:
    """Fold everything older than the local day of `before_ms`; one transaction per day.

    Stopped or killed between two days, what is done is done and every total is right.
    `is_wanted` is asked before each day. With a `target`, what others were never sent does not
    count: one that is set no longer would keep everything for ever.

    Raises:
        LedgerError: some of it was never sent to InfluxDB; `drops_unsent` folds it all the same.
    """
    cut = cut_at(ledger.calendar, before_ms)
    unsent = _unsent(ledger.db, cut, target)
    if unsent and not drops_unsent:
        raise LedgerError(
            f"{unsent} points older than the cut have not reached InfluxDB yet",
            "let the exporter send them first, or fold them as well: `tokendash prune"
            " --fold-unsent` (their days are sent in token_usage_daily)",
        )
    accounts = _accounts(ledger.db)
    days = records = became = 0
    for day in _list_old(ledger.db, ledger.calendar, cut):
        if not is_wanted():
            break
        with ledger.transaction():
            groups = _groups(ledger.db, ledger.calendar, day, accounts)
            if groups:
                _fold(ledger, day, groups)
        days += bool(groups)
        records += sum(len(rows) for rows in groups.values())
        became += len(groups)
    with ledger.transaction():
        ledger.db.execute("DELETE FROM context WHERE id NOT IN (SELECT context FROM record)")
    ledger.remember()
    return Pruned(days, records, became)


def _accounts(db: sqlite3.Connection) -> set[int]:
    return {row[0] for row in db.execute("SELECT id FROM series WHERE account<>''")}


def _unsent(db: sqlite3.Connection, cut: int, target: int) -> int:
    """Old points that a target, or (0) any target, was never sent."""
    row = db.execute(
        "SELECT count(*) FROM sent WHERE revision > sent_revision AND start < ?1"
        " AND measurement IN (?2, ?3) AND (?4 = 0 OR target = ?4)",
        (cut, USAGE, VIEW, target),
    ).fetchone()
    return int(row[0])


def _list_old(db: sqlite3.Connection, calendar: Calendar, cut: int) -> list[date]:
    """Note the ids of what is old, by bucket, in one pass; return the local days they are on.

    A temporary table, because `record` has no index by time and a day is looked up many times.
    """
    db.execute("DROP TABLE IF EXISTS temp.old")
    db.execute(
        "CREATE TEMP TABLE old(bucket INTEGER NOT NULL, id INTEGER NOT NULL,"
        " PRIMARY KEY(bucket, id)) WITHOUT ROWID"
    )
    db.execute(f"INSERT INTO temp.old SELECT bucket, id FROM record WHERE {_OLD}", (cut, cut))
    buckets = db.execute("SELECT DISTINCT bucket FROM temp.old ORDER BY 1").fetchall()
    return list(dict.fromkeys(calendar.day_of(bucket) for (bucket,) in buckets))


def _groups(
    db: sqlite3.Connection, calendar: Calendar, day: date, accounts: set[int]
) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Old records of one day by what they become; empty when there is nothing to fold."""
    rows = db.execute(
        f"{_SELECT} WHERE id IN (SELECT id FROM temp.old WHERE bucket>=? AND bucket<?)",
        calendar.day_range(day),
    ).fetchall()
    groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for row in rows:
        groups.setdefault(_group(row, calendar, accounts), []).append(row)
    is_done = len(groups) == len(rows) and all(row[r.FLAGS] & r.FLAG_FOLDED for row in rows)
    return {} if is_done else groups


def _group(row: tuple[int, ...], calendar: Calendar, accounts: set[int]) -> tuple[int, ...]:
    """What the records that become one have in common; the first is where it is counted."""
    bucket = row[r.BUCKET]
    start = max(calendar.day_start(calendar.day_of(bucket)), EARLIEST_MS // 1000)
    if row[r.SERIES] in accounts:
        # Days of an account are also cut at midnight UTC, the provider's day.
        start = max(start, bucket // DAY_SECONDS * DAY_SECONDS)
    return (
        start,
        row[r.SERIES],
        row[r.TARIFF],
        row[r.BILLING],
        row[r.PRICE],
        row[r.FLAGS] & (r.FLAG_ESTIMATED | r.FLAG_TIER_ASSUMED),
    )


def _fold(ledger: Ledger, day: date, groups: dict[tuple[int, ...], list[tuple[int, ...]]]) -> None:
    db = ledger.db
    width = len(RECORD_COLUMNS)
    old = [row for rows in groups.values() for row in rows]
    new = [_sum_up(group, rows, ledger) for group, rows in groups.items()]
    checked = [(*row, r.row_check(row, ledger.seed)) for row in new]
    single = [row for row in old if not row[r.FLAGS] & r.FLAG_FOLDED]
    db.executemany(
        "INSERT OR IGNORE INTO folded VALUES(?,?)",
        [(row[r.FAMILY], row[r.VARIANT]) for row in single],
    )
    db.executemany("DELETE FROM variant WHERE family=?", [(row[r.FAMILY],) for row in single])
    db.executemany("DELETE FROM record WHERE id=?", [(row[width],) for row in old])
    db.executemany(_INSERT, checked)
    _move_buckets(db, old, new)
    sources = dict(db.execute("SELECT id, source FROM series").fetchall())
    books: dict[str, list[int]] = {}
    for sign, rows in ((-1, old), (1, checked)):
        for row in rows:
            book = books.setdefault(sources[row[r.SERIES]], [0, 0])
            book[0] += sign
            book[1] += sign * row[-1]
    db.executemany(
        "UPDATE book SET records=records+?, checks=checks+? WHERE source=?",
        [(*sums, source) for source, sums in books.items()],
    )
    ledger.outbox.freeze(*ledger.calendar.day_range(day))


def _sum_up(group: tuple[int, ...], rows: list[tuple[int, ...]], ledger: Ledger) -> r.Row:
    """One record in the place of many; its key is what they have in common."""
    start, series, tariff, billing, price, flags = group
    _, end = ledger.calendar.day_range(ledger.calendar.day_of(start))
    stated = [row[r.STATED] for row in rows if row[r.STATED] >= 0]
    row = [0] * len(RECORD_COLUMNS)
    row[r.FAMILY] = hash64(f"folded\0{':'.join(str(part) for part in group)}")
    row[r.SERIES], row[r.TARIFF], row[r.BILLING], row[r.PRICE] = series, tariff, billing, price
    row[r.BUCKET] = start
    row[r.TIMESTAMP_MS] = start * 1000
    row[r.LATEST_MS] = max(start * 1000, *(x[r.LATEST_MS] for x in rows))
    row[r.WIDTH] = end - start
    for column in _SUMMED:
        row[column] = sum(x[column] for x in rows)
    row[r.COST] = sum(x[r.COST] for x in rows)
    row[r.SAVINGS] = sum(x[r.SAVINGS] for x in rows)
    row[r.STATED] = sum(stated) if stated else -1
    row[r.FLAGS] = r.FLAG_FOLDED | r.FLAG_CACHE_COUNTS | flags
    row[r.PARSER] = max(x[r.PARSER] for x in rows)
    return tuple(row)


def _move_buckets(db: sqlite3.Connection, old: list[tuple[int, ...]], new: list[r.Row]) -> None:
    """Take the old records out of their buckets and put the new ones into theirs."""
    sums: dict[tuple[int, int], list[int]] = {}
    for sign, rows in ((-1, old), (1, new)):
        for row in rows:
            place = sums.setdefault((row[r.BUCKET], row[r.SERIES]), [0] * len(BUCKET_COLUMNS))
            for index, value in enumerate(r.sums_of(row[: len(RECORD_COLUMNS)])):
                place[index] += sign * value
    zeros = ",".join("0" for _ in BUCKET_COLUMNS)
    db.executemany(
        f"INSERT OR IGNORE INTO bucket(start, series, {','.join(BUCKET_COLUMNS)})"
        f" VALUES(?,?,{zeros})",
        list(sums),
    )
    db.executemany(
        f"UPDATE bucket SET {','.join(f'{name}={name}+?' for name in BUCKET_COLUMNS)}"
        " WHERE start=? AND series=?",
        [(*values, *place) for place, values in sums.items()],
    )
    empty = " AND ".join(f"{name}=0" for name in BUCKET_COLUMNS)
    db.executemany(f"DELETE FROM bucket WHERE start=? AND series=? AND {empty}", list(sums))


def compact(ledger: Ledger) -> int:
    """Give the room of what was folded back to the disk; return the file's size in bytes.

    Needs as much free space as the ledger will have, and the ledger's thread meanwhile.
    """
    ledger.db.execute("VACUUM")
    ledger.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return ledger.path.stat().st_size
