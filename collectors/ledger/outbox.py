"""What each InfluxDB still has to be told: dirty buckets, acknowledgements, dead letters.

A bucket is dirty while its revision is newer than the one acknowledged; an acknowledgement names
the revision that was sent, so news that arrive during a request stay dirty. Acknowledged buckets
are sent once more after a settle time: a request that timed out may be applied late, on top of a
newer one.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from collectors.clock import Calendar
from collectors.ledger.dimensions import Dimensions, Series, Tags, decode_tags
from collectors.ledger.schema import BUCKET_COLUMNS
from collectors.measurements import FIELDS, Row, Value
from collectors.points import Role

USAGE, VIEW, DAILY, BALANCE, LIMIT = range(1, 6)
MEASUREMENTS = {
    USAGE: "token_usage",
    VIEW: "token_usage_view",
    DAILY: "token_usage_daily",
    BALANCE: "account_balance",
    LIMIT: "rate_window",
}
_CODES = {name: code for code, name in MEASUREMENTS.items()}
_SNAPSHOTS = {"balance": BALANCE, "limit": LIMIT}
_NANO = 1_000_000_000
DAY_SECONDS = 86_400

_MARK = """INSERT INTO sent(target, start, measurement, tagset, revision, sent_revision)
  VALUES(?,?,?,?,1,0) ON CONFLICT DO UPDATE SET revision=revision+1"""
_SUMS = ",".join(f"sum(bucket.{name})" for name in BUCKET_COLUMNS)
_ZEROS = (0,) * len(BUCKET_COLUMNS)


class DeadLetter(NamedTuple):
    """A point InfluxDB refused: what it was and what the server said."""

    target: int
    measurement: str
    tags: Tags
    start: int
    kind: str
    status: int
    message: str
    refused_at: float


class _Key(NamedTuple):
    start: int
    measurement: int
    tagset: int
    revision: int


class Outbox:
    """The sending state of one ledger, per target; used on the ledger's thread only."""

    def __init__(
        self,
        db: sqlite3.Connection,
        dimensions: Dimensions,
        calendar: Calendar,
        settle: float,
        clock: Callable[[], float],
    ) -> None:
        self._db = db
        self._dimensions = dimensions
        self._calendar = calendar
        self.settle = settle
        self._clock = clock
        self._tags: dict[int, tuple[Tags, int]] = {}
        self._of_account: dict[int, bool] = {}

    # -- marking ---------------------------------------------------------------------------------

    def _targets(self) -> list[tuple[int, int]]:
        """Every target, and where the fine points begin that it is still told about."""
        rows = self._db.execute(
            "SELECT target.id, coalesce(meta.value, '0') FROM target"
            " LEFT JOIN meta ON meta.name='frozen ' || target.id"
        )
        return [(target, int(frozen)) for target, frozen in rows]

    def _mark(self, keys: Iterable[tuple[int, int, int]]) -> None:
        self._db.executemany(
            _MARK,
            [
                (target, *key)
                for target, frozen in self._targets()
                for key in keys
                if key[0] >= frozen or key[1] not in (USAGE, VIEW)
            ],
        )

    def freeze(self, start: int, end: int) -> None:
        """Say no more about the fine points of a stretch, and of what is before it.

        Targets keep the points they have of it; its days go on being sent. A target that is new
        later gets what the ledger holds then. The caller holds the transaction.
        """
        for target, frozen in self._targets():
            for table in ("sent", "dead"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE target=? AND start>=? AND start<?"
                    " AND measurement IN (?, ?)",
                    (target, start, end, USAGE, VIEW),
                )
            self._db.execute(
                "INSERT OR REPLACE INTO meta VALUES(?,?)",
                (f"frozen {target}", str(max(frozen, end))),
            )

    def mark(self, places: Iterable[tuple[int, int]]) -> None:
        """Make the points of these buckets (start, series) dirty for every target."""
        if not self._targets():
            return
        keys: set[tuple[int, int, int]] = set()
        for start, series in places:
            tagset = self._dimensions.tagset_of(series)
            if self._dimensions.series(series).role == Role.VIEW:
                keys.add((start, VIEW, tagset))
            else:
                keys.add((start, USAGE, tagset))
                keys.add((self._day_start(start, tagset), DAILY, tagset))
        self._mark(keys)

    def _is_of_account(self, tagset: int) -> bool:
        """Whether a tag set is of accounts, whose days are UTC's: no machine's zone is theirs."""
        found = self._of_account.get(tagset)
        if found is None:
            row = self._db.execute("SELECT writer FROM tagset WHERE id=?", (tagset,)).fetchone()
            found = self._of_account[tagset] = row[0] == 0
        return found

    def _day_start(self, start: int, tagset: int) -> int:
        """Where the daily point lies that a bucket belongs to."""
        if self._is_of_account(tagset):
            return start // DAY_SECONDS * DAY_SECONDS
        return self._calendar.day_start(self._calendar.day_of(start))

    def _day_range(self, start: int, *, is_of_account: bool) -> tuple[int, int] | None:
        """The day that begins at a time; None when none does (any more)."""
        if is_of_account:
            return None if start % DAY_SECONDS else (start, start + DAY_SECONDS)
        first, end = self._calendar.day_range(self._calendar.day_of(start))
        return (first, end) if first == start else None

    def mark_snapshot(self, kind: str, start: int, tagset: int) -> None:
        """Make one reading dirty for every target."""
        code = _SNAPSHOTS[kind]
        self._mark([(start, code, tagset)])

    def target(self, url: str, org: str, bucket: str) -> int:
        """The number of a target; a new one is owed the whole history."""
        key = (url, org, bucket)
        found = self.find_target(*key)
        if found:
            return found
        self._db.execute("BEGIN IMMEDIATE")
        try:
            cursor = self._db.execute("INSERT INTO target(url, org, bucket) VALUES(?,?,?)", key)
            number = int(cursor.lastrowid or 0)
            self._owe_everything(number)
            self._db.execute("COMMIT")
        except BaseException:
            self._go_back()
            raise
        return number

    def find_target(self, url: str, org: str, bucket: str) -> int:
        """The number of a target that was registered; 0 when it was not."""
        row = self._db.execute(
            "SELECT id FROM target WHERE url=? AND org=? AND bucket=?", (url, org, bucket)
        ).fetchone()
        return int(row[0]) if row else 0

    def replay(self) -> int:
        """Owe every target everything again; return how many points are dirty now."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute("DELETE FROM dead")
            self._db.execute("UPDATE sent SET revision=revision+1")
            for target, frozen in self._targets():
                self._owe_everything(target, frozen)
            row = self._db.execute(
                "SELECT count(*) FROM sent WHERE revision > sent_revision"
            ).fetchone()
            self._db.execute("COMMIT")
        except BaseException:
            self._go_back()
            raise
        return int(row[0])

    def _owe_everything(self, target: int, frozen: int = 0) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO sent(target, start, measurement, tagset, revision,"
            " sent_revision) SELECT DISTINCT ?, bucket.start,"
            " CASE series.role WHEN 'view' THEN ? ELSE ? END, series.tagset, 1, 0"
            " FROM bucket JOIN series ON series.id=bucket.series WHERE bucket.start >= ?",
            (target, VIEW, USAGE, frozen),
        )
        self._owe_days(target)
        for kind, code in _SNAPSHOTS.items():
            self._db.execute(
                "INSERT OR IGNORE INTO sent(target, start, measurement, tagset, revision,"
                " sent_revision) SELECT ?, timestamp_ms / 1000, ?, tagset, 1, 0 FROM snapshot"
                " WHERE kind=?",
                (target, code, kind),
            )

    def _owe_days(self, target: int) -> None:
        days = {
            (self._day_start(start, tagset), tagset)
            for start, tagset in self._db.execute(
                "SELECT DISTINCT bucket.start / 900 * 900, series.tagset FROM bucket"
                " JOIN series ON series.id=bucket.series WHERE series.role=?",
                (Role.PRIMARY,),
            )
        }
        self._db.executemany(
            "INSERT OR IGNORE INTO sent(target, start, measurement, tagset, revision,"
            " sent_revision) VALUES(?,?,?,?,1,0)",
            [(target, start, DAILY, tagset) for start, tagset in days],
        )

    # -- changes of tags and zone ---------------------------------------------------------------

    def settle_policy(self) -> None:
        """Move what is sent when tags or the zone were set differently last time.

        Old places become dirty and are sent as zeros; new places are sent in full.
        """
        tags = self._dimensions.policy.fingerprint()
        zone = str(self._calendar.zone)
        if self._swap_meta("tag_policy", tags) not in (None, tags):
            self._retag()
        # The points of accounts are marked too; they are the same in every zone.
        if self._swap_meta("zone", zone) not in (None, zone):
            self._db.execute("UPDATE sent SET revision=revision+1 WHERE measurement=?", (DAILY,))
            for target, _ in self._targets():
                self._owe_days(target)

    def _swap_meta(self, name: str, value: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (name, value))
        return None if row is None else str(row[0])

    def _retag(self) -> None:
        rows = self._db.execute(
            "SELECT id, source, provider, model, project, host, account, role, writer, tagset"
            " FROM series ORDER BY id"
        ).fetchall()
        # Series are given their tags again in the order they were first seen, so that the budget
        # falls on the same ones whatever came before.
        self._db.execute("UPDATE series SET tagset=0")
        for number, *dimensions, writer, old in rows:
            new = self._dimensions.tagset_for(Series(*dimensions), writer)
            self._db.execute("UPDATE series SET tagset=? WHERE id=?", (new, number))
            if new != old:
                starts = [
                    row[0]
                    for row in self._db.execute(
                        "SELECT start FROM bucket WHERE series=?", (number,)
                    )
                ]
                self._touch(starts, old, dimensions[-1])
                self._touch(starts, new, dimensions[-1])
        self._dimensions.forget()

    def _touch(self, starts: Sequence[int], tagset: int, role: str) -> None:
        keys = {(start, VIEW if role == Role.VIEW else USAGE) for start in starts}
        if role != Role.VIEW:
            keys |= {(self._day_start(start, tagset), DAILY) for start in starts}
        self._mark([(start, code, tagset) for start, code in keys])

    # -- sending ---------------------------------------------------------------------------------

    def due(self, target: int, limit: int, now: float) -> list[Row]:
        """Up to `limit` points to send: dirty ones newest first, then confirmations now due."""
        keys = [
            _Key(*row)
            for row in self._db.execute(
                "SELECT start, measurement, tagset, revision FROM sent WHERE target=?"
                " AND revision > sent_revision ORDER BY start DESC LIMIT ?",
                (target, limit),
            )
        ]
        if len(keys) < limit:
            # A time of sending in the future means the clock was set back: due at once.
            keys += [
                _Key(*row)
                for row in self._db.execute(
                    "SELECT start, measurement, tagset, revision FROM sent WHERE target=?"
                    " AND sent_at IS NOT NULL AND (sent_at <= ? OR sent_at > ?)"
                    " AND revision = sent_revision LIMIT ?",
                    (target, now - self.settle, now, limit - len(keys)),
                )
            ]
        return self.rows(keys)

    def rows(self, keys: Sequence[_Key]) -> list[Row]:
        """The points of these keys with their present values; zeros where nothing is counted."""
        usage = [key for key in keys if key.measurement in (USAGE, VIEW)]
        days = [key for key in keys if key.measurement == DAILY]
        sums: dict[tuple[int, int, int], Sequence[int]] = {}
        if usage:
            # sent.tagset -> its series -> their buckets; role decides the measurement.
            query = self._db.execute(
                "SELECT wanted.start, wanted.measurement, wanted.tagset, " + _SUMS + " FROM"
                " (SELECT json_extract(value, '$[0]') AS start,"
                " json_extract(value, '$[1]') AS measurement, json_extract(value, '$[2]') AS tagset"
                " FROM json_each(?)) AS wanted"
                " JOIN series ON series.tagset=wanted.tagset"
                " AND (series.role='view') = (wanted.measurement=2)"
                " JOIN bucket ON bucket.start=wanted.start AND bucket.series=series.id"
                " GROUP BY 1, 2, 3",
                (json.dumps([key[:3] for key in usage]),),
            )
            for start, measurement, tagset, *values in query:
                sums[start, measurement, tagset] = values
        for start, of_account in {(key.start, self._is_of_account(key.tagset)) for key in days}:
            span = self._day_range(start, is_of_account=of_account)
            if span is None:
                continue  # midnight of another zone: nothing is counted there any more
            query = self._db.execute(
                "SELECT series.tagset, " + _SUMS + " FROM bucket JOIN series"
                " ON series.id=bucket.series WHERE bucket.start>=? AND bucket.start<?"
                " AND series.role=? AND (series.account<>'')=? GROUP BY 1",
                (*span, Role.PRIMARY, of_account),
            )
            for tagset, *values in query:
                sums[start, DAILY, tagset] = values
        rows = []
        for key in keys:
            if key.measurement in (BALANCE, LIMIT):
                values_sent = self._reading(key)
            else:
                values_sent = usage_values(sums.get(key[:3], _ZEROS))
            rows.append(self._row(key, values_sent))
        return rows

    def _row(self, key: _Key, values: tuple[Value, ...]) -> Row:
        tags, offset = self._tags_of(key.tagset)
        return Row(
            measurement=MEASUREMENTS[key.measurement],
            tags=tags,
            series=key.tagset * 8 + key.measurement,
            timestamp_ns=key.start * _NANO + offset,
            values=values,
            start=key.start,
            revision=key.revision,
        )

    def _tags_of(self, tagset: int) -> tuple[Tags, int]:
        found = self._tags.get(tagset)
        if found is None:
            text, offset = self._db.execute(
                "SELECT tagset.tags, coalesce(writer.offset_ns, 0) FROM tagset LEFT JOIN writer"
                " ON writer.id=tagset.writer WHERE tagset.id=?",
                (tagset,),
            ).fetchone()
            found = self._tags[tagset] = (decode_tags(text), offset)
        return found

    def _reading(self, key: _Key) -> tuple[Value, ...]:
        kind = "balance" if key.measurement == BALANCE else "limit"
        row = self._db.execute(
            "SELECT currency, value, details FROM snapshot WHERE kind=? AND tagset=?"
            " AND timestamp_ms=?",
            (kind, key.tagset, key.start * 1000),
        ).fetchone()
        fields = FIELDS[MEASUREMENTS[key.measurement]]
        if row is None:
            return tuple(None for _ in fields)
        currency, value, details = row[0], row[1], json.loads(row[2])
        known: dict[str, Value] = {}
        if kind == "balance":
            known["balance_usd" if currency == "USD" else "balance"] = float(Decimal(value))
        else:
            known = {"used_ratio": float(value), "resets_at_ms": details.get("resets_at_ms")}
        return tuple(known.get(field.name) for field in fields)

    # -- answers ---------------------------------------------------------------------------------

    def acknowledge(self, target: int, rows: Sequence[Row], now: float) -> None:
        """Note that the server took these revisions; a second time means confirmed."""
        keys = [(target, row.start, row.series % 8, row.series // 8) for row in rows]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "UPDATE sent SET sent_at = CASE WHEN sent_revision=?1 THEN NULL ELSE ?2 END,"
                " sent_revision=?1 WHERE target=?3 AND start=?4 AND measurement=?5 AND tagset=?6"
                " AND revision>=?1",  # a revision from before a rebuild was never this ledger's
                [(row.revision, now, *key) for row, key in zip(rows, keys, strict=True)],
            )
            if self.dead_count(target):  # what was refused once and is taken now is alive
                self._db.executemany(
                    "DELETE FROM dead WHERE target=? AND start=? AND measurement=? AND tagset=?",
                    keys,
                )
            self._db.execute("COMMIT")
        except BaseException:
            self._go_back()
            raise

    def refuse(
        self, target: int, rows: Sequence[Row], status: int, message: str, kind: str
    ) -> None:
        """Set points aside that the server refuses; each is tried again when it changes."""
        keys = [(target, row.start, row.series % 8, row.series // 8) for row in rows]
        now = self._clock()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "INSERT OR REPLACE INTO dead VALUES(?,?,?,?,?,?,?,?)",
                [(*key, kind, status, message, now) for key in keys],
            )
            self._db.executemany(
                "UPDATE sent SET sent_revision=?1, sent_at=NULL WHERE target=?2 AND start=?3"
                " AND measurement=?4 AND tagset=?5 AND revision>=?1",
                [(row.revision, *key) for row, key in zip(rows, keys, strict=True)],
            )
            self._db.execute("COMMIT")
        except BaseException:
            self._go_back()
            raise

    def _go_back(self) -> None:
        # SQLite may have rolled back by itself; what went wrong first is what counts.
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def pending(self, target: int) -> int:
        """How many points wait to be sent."""
        row = self._db.execute(
            "SELECT count(*) FROM sent WHERE target=? AND revision > sent_revision", (target,)
        ).fetchone()
        return int(row[0])

    def dead_count(self, target: int) -> int:
        """How many points a server refused."""
        row = self._db.execute("SELECT count(*) FROM dead WHERE target=?", (target,)).fetchone()
        return int(row[0])

    def dead_letters(self, target: int | None = None) -> list[DeadLetter]:
        """Points that a server refused, newest first."""
        rows = self._db.execute(
            "SELECT dead.target, measurement, tagset.tags, start, kind, status, message, refused_at"
            " FROM dead JOIN tagset ON tagset.id=dead.tagset WHERE ?1 IS NULL OR dead.target=?1"
            " ORDER BY refused_at DESC",
            (target,),
        )
        return [
            DeadLetter(row[0], MEASUREMENTS[row[1]], decode_tags(row[2]), *row[3:]) for row in rows
        ]


def usage_values(sums: Sequence[int]) -> tuple[Value, ...]:
    """A bucket's sums as the fields of `token_usage`."""
    named = dict(zip(BUCKET_COLUMNS, sums, strict=True))
    named["total_tokens"] = (
        named["input_tokens"]
        + named["cache_read_tokens"]
        + named["cache_write_tokens"]
        + named["output_tokens"]
        + named["unsplit_tokens"]
    )
    money = {
        "cost_usd": named["cost_nano"],
        "api_equivalent_usd": named["api_equivalent_nano"],
        "plan_unknown_usd": named["plan_unknown_nano"],
        "cache_savings_usd": named["savings_nano"],
    }
    return tuple(
        money[field.name] / _NANO if field.kind == "float" else named[field.name]
        for field in FIELDS["token_usage"]
    )
