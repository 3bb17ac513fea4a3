"""The ledger's writing side: each batch with its cursor in one transaction, or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec

from collectors.base import AnyCollector
from collectors.clock import (
    BUCKET_SECONDS,
    EARLIEST_MS,
    LATEST_MS,
    Calendar,
    latest_event_ms,
)
from collectors.errors import LedgerError
from collectors.ledger import records as r
from collectors.ledger.dimensions import Dimensions, TagPolicy, machine_id
from collectors.ledger.files import SpareFile, WriterLock, open_writer
from collectors.ledger.identity import (
    IdentityFile,
    establish,
    read_identity,
    state_of,
    text_check,
)
from collectors.ledger.outbox import Outbox
from collectors.ledger.schema import BUCKET_COLUMNS, IS_FILL, RECORD_COLUMNS
from collectors.merging import Merge, absorb, resolve
from collectors.names import canonical
from collectors.points import (
    BalancePoint,
    Batch,
    Billing,
    LimitPoint,
    Point,
    Quality,
    Refusal,
    Role,
    TokenUsagePoint,
    from_ms,
)
from collectors.pricing import PriceAttributes, PriceBook

_NANO = 1_000_000_000
_MOST = 1 << 53  # the largest count every reader of JSON and floats agrees on
_MOST_PLACES = 10_000
UNREADABLE = "file unreadable"  # how reasons begin that pass when the file is read again

_INSERT = (
    f"INSERT INTO record({','.join(RECORD_COLUMNS)}, row_check)"
    f" VALUES({','.join('?' * (len(RECORD_COLUMNS) + 1))})"
)
_UPDATE = (
    f"UPDATE record SET {','.join(f'{name}=?' for name in RECORD_COLUMNS)}, row_check=? WHERE id=?"
)
_SELECT = f"SELECT {','.join(RECORD_COLUMNS)}, id, row_check FROM record"
_GROW = (
    f"INSERT INTO bucket(start, series, {','.join(BUCKET_COLUMNS)})"
    f" VALUES({','.join('?' * (len(BUCKET_COLUMNS) + 2))})"
    f" ON CONFLICT(start, series) DO UPDATE SET"
    f" {','.join(f'{name}={name}+excluded.{name}' for name in BUCKET_COLUMNS)}"
)
_CHANGE = (
    f"UPDATE bucket SET {','.join(f'{name}={name}+?' for name in BUCKET_COLUMNS)}"
    " WHERE start=? AND series=?"
)
_DROP_EMPTY = (
    "DELETE FROM bucket WHERE start=? AND series=? AND"
    f" {' AND '.join(f'{name}=0' for name in BUCKET_COLUMNS)}"
)
_GROW_BY_NEW = (
    f"INSERT INTO bucket(start, series, {','.join(BUCKET_COLUMNS)})"
    f" SELECT bucket, series, {r.SUMS_SQL} FROM record WHERE id>? GROUP BY 1, 2"
    f" ON CONFLICT(start, series) DO UPDATE SET"
    f" {','.join(f'{name}={name}+excluded.{name}' for name in BUCKET_COLUMNS)}"
)
_POST_NEW = f"""INSERT INTO book(source, records, tokens, nano, checks)
  SELECT ?, count(*), sum({r.TOKENS_SQL}), sum(cost_nano), sum(row_check) FROM record WHERE id>?
  ON CONFLICT(source) DO UPDATE SET records=records+excluded.records,
  tokens=tokens+excluded.tokens, nano=nano+excluded.nano, checks=checks+excluded.checks"""
_CORRECT = """UPDATE book SET records=records+?, tokens=tokens+?, nano=nano+?, checks=checks+?
  WHERE source=?"""


@dataclass(frozen=True)
class Source:
    """What the ledger must know of a collector to count its points."""

    name: str
    merge: Merge = Merge.LATEST
    parser: int = 1
    billing: Billing = Billing.METERED
    role: Role = Role.PRIMARY

    @classmethod
    def of(cls, collector: AnyCollector) -> Source:
        """The counting rules a collector declares."""
        return cls(
            collector.counts_as(),
            collector.merge,
            collector.parser_version,
            collector.billing_now(),
        )


@dataclass
class Stored:
    """What a commit did."""

    points: int = 0
    changed: int = 0
    skipped: int = 0
    files: int = 0  # entries of the cursor that moved: for a log reader, files that were read


@dataclass
class _Changes:
    """Everything one transaction is about to write."""

    inserts: list[tuple[int, ...]] = field(default_factory=list)
    updates: list[tuple[int, ...]] = field(default_factory=list)
    deletes: list[tuple[int]] = field(default_factory=list)
    buckets: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    books: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def move(self, old: r.Row, old_check: int, new: r.Row | None, new_check: int) -> None:
        """Count a row that was stored differently, or (without `new`) no longer is."""
        self._count(old, old_check, -1)
        if new is not None:
            self._count(new, new_check, 1)

    def _count(self, row: r.Row, check: int, sign: int) -> None:
        sums = self.buckets.setdefault((row[r.BUCKET], row[r.SERIES]), [0] * len(BUCKET_COLUMNS))
        for index, value in enumerate(r.sums_of(row)):
            sums[index] += sign * value
        for index, value in enumerate((1, r.total_tokens(row), row[r.COST], check)):
            self.books[index] += sign * value


class _Place(NamedTuple):
    """What a point is counted under, and what its price depends on."""

    series: int
    context: int
    tariff: int
    attributes: PriceAttributes


class Ledger:
    """One open ledger. Synchronous: one process, one connection, one thread (`LedgerThread`)."""

    COMMIT_EVERY: ClassVar[int] = 5_000

    def __init__(
        self,
        path: Path,
        *,
        calendar: Calendar,
        prices: PriceBook,
        policy: TagPolicy,
        machine: str = "",
        settle: float = 600,
        clock: Callable[[], float] = time.time,
        lock: WriterLock | None = None,
    ) -> None:
        self.path = path
        self.calendar = calendar
        self.prices = prices
        self.clock = clock
        self.lock = lock if lock is not None else WriterLock(path)
        self.lock.acquire()
        try:
            self.spare = SpareFile(path)
            self.db = open_writer(path)
            self._inode = path.stat().st_ino
            try:
                with self.transaction():
                    self.seed = establish(self.db)
                    self.dimensions = Dimensions(self.db, policy, machine or machine_id())
                    self.outbox = Outbox(self.db, self.dimensions, calendar, settle, clock)
                    self.outbox.settle_policy()
                self.remember()
                identity = read_identity(self.db)
                if identity is not None:
                    with contextlib.suppress(OSError):  # on a full disk the older note will do
                        IdentityFile(path).write(identity)
            except BaseException:
                self.db.close()
                raise
        except BaseException:
            self.lock.release()
            raise

    def close(self) -> None:
        """Close the connection and give the lock back."""
        try:
            # An older state of this ledger that turns up later is then known for what it is.
            with contextlib.suppress(sqlite3.Error, OSError):
                identity = read_identity(self.db)
                if identity is not None and self.is_in_place():
                    IdentityFile(self.path).write(identity._replace(closed=state_of(self.db)))
            self.db.close()
        finally:
            self.lock.release()

    def is_in_place(self) -> bool:
        """Whether the file that is open is still the one at the ledger's path."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; what is read inside cannot change under it."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            # What went wrong first is what counts; a connection that cannot even go back is
            # dropped by whoever handles that.
            with contextlib.suppress(sqlite3.Error):
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                if hasattr(self, "outbox"):
                    self.remember()
            raise

    def remember(self) -> None:
        """Read again what is kept in memory: after a rollback some of it is not so."""
        self.dimensions.forget()
        self._places: dict[tuple[Any, ...], _Place] = {}
        self._cursors: dict[str, dict[str, Any]] = {}
        self._fill_days = self._load_fill_days()
        self._has_folded = bool(self.db.execute("SELECT 1 FROM folded LIMIT 1").fetchone())

    # -- cursors, runs, refusals ---------------------------------------------------------------

    def cursor(self, source: str) -> dict[str, Any]:
        """The stored cursor of a collector: names of its own to small values.

        Kept in memory as long as the ledger is open: thousands of files are asked for at each poll.
        """
        found = self._cursors.get(source)
        if found is None:
            rows = self.db.execute("SELECT name, value FROM cursor WHERE source=?", (source,))
            found = self._cursors[source] = {name: json.loads(value) for name, value in rows}
        return dict(found)

    def _save_cursor(self, source: str, cursor: Mapping[str, Any]) -> None:
        gone = [(source, name) for name, value in cursor.items() if value is None]
        kept = [
            (source, name, json.dumps(value, separators=(",", ":")))
            for name, value in cursor.items()
            if value is not None
        ]
        self.db.executemany("DELETE FROM cursor WHERE source=? AND name=?", gone)
        self.db.executemany(
            "INSERT OR REPLACE INTO cursor VALUES(?,?,?,?)",
            [(*row, text_check(self.seed, *row)) for row in kept],
        )
        held = self._cursors.get(source)
        if held is not None:
            for name, value in cursor.items():
                if value is None:
                    held.pop(name, None)
                else:
                    held[name] = value

    def forget_cursor(self, source: str) -> None:
        """Let a source be read again from its beginning; what is counted stays counted."""
        with self.transaction():
            self.db.execute("DELETE FROM cursor WHERE source=?", (source,))
            self._cursors.pop(source, None)

    def note_run(
        self,
        collector: str,
        started_at: float,
        seconds: float,
        stored: Stored,
        error: str,
        hint: str,
    ) -> None:
        """Keep one line of history about a collector's run; the last 1,000 of each stay."""
        with self.transaction():
            self.db.execute(
                "INSERT INTO run(collector, started_at, seconds, points, changed, skipped, error,"
                " hint) VALUES(?,?,?,?,?,?,?,?)",
                (
                    collector,
                    started_at,
                    seconds,
                    stored.points,
                    stored.changed,
                    stored.skipped,
                    error,
                    hint,
                ),
            )
            self.db.execute(
                "DELETE FROM run WHERE collector=? AND id <= (SELECT id FROM run WHERE collector=?"
                " ORDER BY id DESC LIMIT 1 OFFSET 1000)",
                (collector, collector),
            )

    # -- committing ----------------------------------------------------------------------------

    def commit(self, collector: str, source: Source, batch: Batch) -> Stored:
        """Store a batch and its cursor together.

        Points are recognised by key and merged under the source's rule; the difference moves
        between the buckets they are counted in, and those buckets become dirty.

        Raises:
            LedgerError: two points of one window share a key; nothing was stored.
        """
        stored = Stored(points=len(batch.points), skipped=batch.skipped, files=len(batch.cursor))
        usage: list[TokenUsagePoint] = []
        refusals = list(batch.refusals)
        latest_ms = latest_event_ms(from_ms(int(self.clock() * 1000)))
        with self.transaction():
            for number, point in enumerate(batch.points):
                reason = "" if batch.is_checked else _fault(point, latest_ms)
                if reason:
                    refusals.append(refusal_of(source, point, number, reason))
                    stored.skipped += 1
                elif isinstance(point, TokenUsagePoint):
                    usage.append(point)
                elif isinstance(point, BalancePoint):
                    stored.changed += self._store_balance(collector, point)
                else:
                    stored.changed += self._store_limit(collector, point)
            if usage:
                stored.changed += self._count(source, usage)
            self._save_cursor(collector, batch.cursor)
            self._forgive(collector, batch.cursor)
            self._save_refusals(collector, refusals)
        return stored

    def _forgive(self, collector: str, cursor: Mapping[str, Any]) -> None:
        """Forget that files could not be read which were read now."""
        unreadable = self.db.execute(
            "SELECT DISTINCT location FROM refused WHERE source=? AND reason GLOB ?",
            (collector, UNREADABLE + "*"),
        ).fetchall()
        self.db.executemany(
            "DELETE FROM refused WHERE source=? AND location=? AND reason GLOB ?",
            [(collector, place, UNREADABLE + "*") for (place,) in unreadable if place in cursor],
        )

    def _save_refusals(self, collector: str, refusals: Sequence[Refusal]) -> None:
        now = self.clock()
        self.db.executemany(
            "INSERT INTO refused VALUES(?,?,?,?,?,?)"
            " ON CONFLICT DO UPDATE SET refused_at=excluded.refused_at, length=excluded.length",
            [(collector, x.location, x.offset, x.length, x.reason, now) for x in refusals],
        )

    def _count(self, source: Source, points: list[TokenUsagePoint]) -> int:
        families = self._gather(source, points)
        known = self._known(families)
        in_variants = self._in_variants(known)
        changes = _Changes()
        changed = 0
        for family, variants in families.items():
            old = known.get(family)
            if source.merge is Merge.FILL:
                changed += self._fill(source, variants, old, changes)
                continue
            if old is None and self._has_folded and self._is_folded(family):
                continue
            if old is None and len(variants) == 1:
                [point] = variants.values()
                changed += self._insert(source, point, changes)
            elif (
                old is not None
                and len(old) == 1
                and variants.keys() == {old[0][r.VARIANT]}
                and family not in in_variants
            ):
                changed += self._merge_one(source, old[0], variants[old[0][r.VARIANT]], changes)
            else:
                changed += self._merge_family(source, family, variants, old or [], changes)
        if self._fill_days and source.merge is not Merge.FILL:
            self._withdraw_fills(source, changes)
        self._write(source, changes)
        return changed

    def _gather(
        self, source: Source, points: list[TokenUsagePoint]
    ) -> dict[int, dict[int, TokenUsagePoint]]:
        """Points by family and variant, merged within the batch."""
        families: dict[int, dict[int, TokenUsagePoint]] = {}
        largest = source.merge is Merge.LARGEST
        for point in points:
            if not point.key_hash:
                point.identify(source.name)
            variants = families.get(point.key_hash)
            if variants is None:
                families[point.key_hash] = {point.variant_hash: point}
                continue
            seen = variants.get(point.variant_hash)
            if seen is None:
                variants[point.variant_hash] = point
            elif largest:
                absorb(seen, point)
            else:
                raise LedgerError(
                    f"{source.name} returned two points with the same key"
                    f" ({point.model}, {from_ms(point.timestamp_ms).isoformat()})",
                    "the collector must give each call or interval its own `key`",
                )
        return families

    def _known(self, families: Mapping[int, Any]) -> dict[int, list[tuple[int, ...]]]:
        known: dict[int, list[tuple[int, ...]]] = {}
        rows = self.db.execute(
            f"{_SELECT} WHERE family IN (SELECT value FROM json_each(?))",
            (json.dumps(list(families)),),
        )
        for row in rows:
            known.setdefault(row[r.FAMILY], []).append(row)
        return known

    def _in_variants(self, known: Mapping[int, Any]) -> set[int]:
        """Which of these families had several variants at some time."""
        if not known:
            return set()
        rows = self.db.execute(
            "SELECT DISTINCT family FROM variant WHERE family IN (SELECT value FROM json_each(?))",
            (json.dumps(list(known)),),
        )
        return {family for (family,) in rows}

    def _is_folded(self, family: int) -> bool:
        """Whether a call is part of a day's sum already, whichever variant of it turns up."""
        row = self.db.execute("SELECT 1 FROM folded WHERE family=?", (family,)).fetchone()
        return row is not None

    def _insert(self, source: Source, point: TokenUsagePoint, changes: _Changes) -> int:
        row = self._row(source, point)
        changes.inserts.append((*row, r.row_check(row, self.seed)))
        return 1

    def _replace(
        self, source: Source, old: tuple[int, ...], point: TokenUsagePoint, changes: _Changes
    ) -> int:
        """Put a point in the place of a stored row, unless the source says the same as before."""
        if not point.billing:
            # A plan that changed since then is not what this use was paid by.
            point.billing = _known_billing(old)
        row = self._row(source, point)
        if row[r.SERIES] != old[r.SERIES]:
            series = self.dimensions.settled(old[r.SERIES], row[r.SERIES])
            row = (*row[: r.SERIES], series, *row[r.SERIES + 1 :])
        if self._costs_the_same(row, old):
            row = _with_price_of(row, old)
        width = len(RECORD_COLUMNS)
        if (
            row[r.USAGE] == old[r.USAGE]
            and row[r.SERIES] == old[r.SERIES]
            and row[r.CONTEXT] == old[r.CONTEXT]
            and row[r.TARIFF] == old[r.TARIFF]
            and not (row[r.FLAGS] ^ old[r.FLAGS]) & ~r.FLAG_TIER_ASSUMED
            and row[r.PARSER] == old[r.PARSER]
        ):
            return 0  # a newer price book alone changes no history
        check = r.row_check(row, self.seed)
        changes.move(old[:width], old[width + 1], row, check)
        changes.updates.append((*row, check, old[width]))
        return 1

    def _costs_the_same(self, row: r.Row, old: tuple[int, ...]) -> bool:
        """Whether nothing a price depends on is different, but perhaps the price book."""
        if row[r.PRICED_BY] != old[r.PRICED_BY] or row[r.TARIFF] != old[r.TARIFF]:
            return False
        if row[r.TIMESTAMP_MS] != old[r.TIMESTAMP_MS]:
            return False
        new, was = self.dimensions.series(row[r.SERIES]), self.dimensions.series(old[r.SERIES])
        return (new.provider, new.model) == (was.provider, was.model)

    def _merge_one(
        self, source: Source, old: tuple[int, ...], point: TokenUsagePoint, changes: _Changes
    ) -> int:
        if source.merge is Merge.LARGEST and source.parser <= old[r.PARSER]:
            kept = self._point(old)
            absorb(kept, point)
            point = kept
        return self._replace(source, old, point, changes)

    def _merge_family(
        self,
        source: Source,
        family: int,
        variants: dict[int, TokenUsagePoint],
        old: list[tuple[int, ...]],
        changes: _Changes,
    ) -> int:
        """Several variants of one key: keep them all, count what `resolve` says counts."""
        seen = {
            variant: (msgspec.msgpack.decode(point, type=TokenUsagePoint), parser)
            for variant, point, parser in self.db.execute(
                "SELECT variant, point, parser FROM variant WHERE family=?", (family,)
            )
        }
        if not seen:
            seen = {row[r.VARIANT]: (self._point(row), row[r.PARSER]) for row in old}
        for variant, point in variants.items():
            held = seen.get(variant)
            if held is not None and source.merge is Merge.LARGEST and source.parser <= held[1]:
                absorb(held[0], point)
            else:
                seen[variant] = (point, source.parser)
        self.db.executemany(
            "INSERT OR REPLACE INTO variant VALUES(?,?,?,?,?)",
            [
                (*row, text_check(self.seed, *row))
                for row in (
                    (family, variant, msgspec.msgpack.encode(point), parser)
                    for variant, (point, parser) in seen.items()
                )
            ],
        )
        counted = resolve({variant: point for variant, (point, _) in seen.items()})
        stored = {row[r.VARIANT]: row for row in old}
        billing = next((name for row in old if (name := _known_billing(row))), "")
        changed = 0
        for variant, row in stored.items():
            if variant not in counted:
                changes.move(row[: len(RECORD_COLUMNS)], row[-1], None, 0)
                changes.deletes.append((row[len(RECORD_COLUMNS)],))
                changed += 1
        for variant, point in counted.items():
            point.key_hash, point.variant_hash = family, variant
            point.billing = point.billing or billing
            if variant in stored:
                changed += self._replace(source, stored[variant], point, changes)
            elif not (self._has_folded and self._is_folded(family)):
                changed += self._insert(source, point, changes)
        return changed

    # -- estimates for days without records -----------------------------------------------------

    def _load_fill_days(self) -> set[tuple[str, int]]:
        """Source and record id of every day that is filled by an estimate."""
        rows = self.db.execute(
            "SELECT DISTINCT series.source, record.bucket FROM record JOIN series"
            f" ON series.id=record.series WHERE {IS_FILL}"
        )
        return {(source, bucket) for source, bucket in rows}

    def _is_covered(self, source: str, day: date) -> bool:
        """Whether real records of a source were counted on a day; estimates have no requests."""
        start, end = self.calendar.day_range(day)
        row = self.db.execute(
            "SELECT 1 FROM bucket JOIN series ON series.id=bucket.series WHERE bucket.start>=?"
            " AND bucket.start<? AND series.source=? AND bucket.requests>0 LIMIT 1",
            (start, end, source),
        ).fetchone()
        return row is not None

    def _fill(
        self,
        source: Source,
        variants: dict[int, TokenUsagePoint],
        old: list[tuple[int, ...]] | None,
        changes: _Changes,
    ) -> int:
        [point] = variants.values()
        day = self.calendar.day_of(point.timestamp_ms // 1000)
        if self._is_covered(source.name, day):
            return 0
        self._fill_days.add((source.name, point.timestamp_ms // 1000 // 300 * 300))
        if old:
            return self._replace(source, old[0], point, changes)
        return self._insert(source, point, changes)

    def _withdraw_fills(self, source: Source, changes: _Changes) -> None:
        """Take estimates back for days on which a record is about to be counted."""
        counted = (*changes.inserts, *changes.updates)
        for day in {self.calendar.day_of(row[r.BUCKET]) for row in counted if row[r.REQUESTS]}:
            start, end = self.calendar.day_range(day)
            filled = {x for x in self._fill_days if x[0] == source.name and start <= x[1] < end}
            if not filled:
                continue
            rows = self.db.execute(
                f"{_SELECT} WHERE bucket>=? AND bucket<? AND {IS_FILL}"
                " AND series IN (SELECT id FROM series WHERE source=?)",
                (start, end, source.name),
            ).fetchall()
            for row in rows:
                changes.move(row[: len(RECORD_COLUMNS)], row[-1], None, 0)
                changes.deletes.append((row[len(RECORD_COLUMNS)],))
            self._fill_days -= filled

    # -- rows -----------------------------------------------------------------------------------

    def _row(self, source: Source, point: TokenUsagePoint) -> r.Row:
        timestamp = point.timestamp_ms
        place = self._place_of(source, point)
        price = cost = savings = 0
        flags = r.FLAG_CACHE_COUNTS if point.has_cache_counts else 0
        tariff = self.prices.tariff(place.attributes, timestamp, point.width)
        if tariff is not None:
            costs = tariff.cost(
                point.input_tokens,
                point.cache_read_tokens,
                point.cache_write_tokens,
                point.cache_write_1h_tokens,
                point.output_tokens,
                point.web_search_requests,
                point.requests,
                point.width > 0,
            )
            # A sum no call can cost is not a price, and would not fit a bucket.
            if costs is not None and costs.cost_nano_usd <= _MOST:
                price = self.dimensions.price_of(tariff.price_id)
                cost, savings = costs.cost_nano_usd, costs.cache_savings_nano_usd
                if costs.tier_assumed:
                    flags |= r.FLAG_TIER_ASSUMED
        if point.replayed:
            flags |= r.FLAG_REPLAYED
        if point.quality != "exact":
            flags |= r.FLAG_ESTIMATED
        if source.merge is Merge.FILL:
            flags |= r.FLAG_FILL
        billing = Billing(point.billing) if point.billing else source.billing
        stated = point.stated_cost_usd
        return (
            point.key_hash,
            point.variant_hash,
            place.series,
            timestamp // 1000 // BUCKET_SECONDS * BUCKET_SECONDS,
            place.context,
            place.tariff,
            timestamp,
            point.latest or timestamp,
            point.width,
            point.input_tokens,
            point.cache_read_tokens,
            point.cache_write_tokens,
            point.cache_write_1h_tokens,
            point.output_tokens,
            point.reasoning_tokens,
            point.unsplit_tokens,
            # A call without any use yet is kept for its time, but is no request.
            point.requests if point.total_tokens or point.web_search_requests else 0,
            point.web_search_requests,
            r.BILLING_CODES[billing],
            price,
            cost,
            savings,
            -1 if stated is None else _nano(stated),
            flags,
            source.parser,
        )

    def _place_of(self, source: Source, point: TokenUsagePoint) -> _Place:
        """The numbers of everything a point is counted under, remembered by their names."""
        key = (
            source.name,
            source.role,
            point.provider,
            point.model,
            point.project,
            point.account,
            point.session,
            point.branch,
            point.user,
            point.service_tier,
            point.speed,
            point.inference_geo,
            point.batch,
        )
        found = self._places.get(key)
        if found is None:
            if len(self._places) >= _MOST_PLACES:
                self._places.clear()
            found = self._places[key] = _Place(
                self.dimensions.series_of(source.name, point, source.role),
                self.dimensions.context_of(point.session, point.branch, point.user),
                self.dimensions.tariff_of(point),
                PriceAttributes(
                    point.provider,
                    point.model,
                    point.service_tier,
                    point.speed,
                    point.inference_geo,
                    point.batch,
                ),
            )
        return found

    def _point(self, row: tuple[int, ...]) -> TokenUsagePoint:
        """The point a stored row stands for."""
        series = self.dimensions.series(row[r.SERIES])
        session, branch, user = self.dimensions.context(row[r.CONTEXT])
        tier, speed, geo, batch = self.dimensions.tariff(row[r.TARIFF])
        flags = row[r.FLAGS]
        return TokenUsagePoint(
            provider=series.provider,
            model=series.model,
            project=series.project,
            account=series.account,
            timestamp=row[r.TIMESTAMP_MS],
            latest=row[r.LATEST_MS],
            width=row[r.WIDTH],
            input_tokens=row[r.INPUT],
            cache_read_tokens=row[r.CACHE_READ],
            cache_write_tokens=row[r.CACHE_WRITE],
            cache_write_1h_tokens=row[r.CACHE_WRITE_1H],
            output_tokens=row[r.OUTPUT],
            reasoning_tokens=row[r.REASONING],
            unsplit_tokens=row[r.UNSPLIT],
            requests=row[r.REQUESTS],
            web_search_requests=row[r.WEB_SEARCH],
            session=session,
            branch=branch,
            user=user,
            service_tier=tier,
            speed=speed,
            inference_geo=geo,
            batch=batch,
            replayed=bool(flags & r.FLAG_REPLAYED),
            has_cache_counts=bool(flags & r.FLAG_CACHE_COUNTS),
            quality=Quality.ESTIMATED if flags & r.FLAG_ESTIMATED else Quality.EXACT,
            billing=_known_billing(row),
            stated_cost_usd=None if row[r.STATED] < 0 else Decimal(row[r.STATED]) / _NANO,
            key_hash=row[r.FAMILY],
            variant_hash=row[r.VARIANT],
        )

    def _write(self, source: Source, changes: _Changes) -> None:
        db = self.db
        db.executemany("DELETE FROM record WHERE id=?", changes.deletes)
        db.executemany(_UPDATE, changes.updates)
        grow: list[tuple[int, ...]] = []
        change: list[tuple[int, ...]] = []
        touched: list[tuple[int, int]] = []
        for place, sums in changes.buckets.items():
            if not any(sums):
                continue
            touched.append(place)
            # An upsert would check its negative part against the table's CHECKs before adding it.
            if min(sums[:-1]) < 0:
                change.append((*sums, *place))
            else:
                grow.append((*place, *sums))
        db.executemany(_CHANGE, change)
        db.executemany(_GROW, grow)
        db.executemany(_DROP_EMPTY, [row[-2:] for row in change])
        if any(changes.books):
            db.execute(_CORRECT, (*changes.books, source.name))
        if changes.inserts:
            # New rows are summed by the database: at a first backfill they are all there is.
            last = db.execute("SELECT coalesce(max(id), 0) FROM record").fetchone()[0]
            db.executemany(_INSERT, changes.inserts)
            db.execute(_GROW_BY_NEW, (last,))
            db.execute(_POST_NEW, (source.name, last))
            touched += db.execute(
                "SELECT DISTINCT bucket, series FROM record WHERE id>?", (last,)
            ).fetchall()
        self.outbox.mark(touched)

    # -- balances and limits ----------------------------------------------------------------------

    def _store_balance(self, collector: str, point: BalancePoint) -> int:
        details = {
            "granted": None if point.granted is None else str(point.granted),
            "used": None if point.used is None else str(point.used),
            "derived": point.derived,
        }
        tags = [("provider", point.provider), ("account", point.account)]
        if point.currency != "USD":
            tags.append(("currency", point.currency))
        return self._store_snapshot(
            "balance", collector, point, tags, "", point.currency, str(point.balance), details
        )

    def _store_limit(self, collector: str, point: LimitPoint) -> int:
        resets = None if point.resets_at is None else int(point.resets_at.timestamp() * 1000)
        tags = [
            ("provider", point.provider),
            ("account", point.account),
            ("window", point.window),
        ]
        details = {"resets_at_ms": resets, "plan": point.plan}
        value = repr(point.used_ratio)
        return self._store_snapshot(
            "limit", collector, point, tags, point.window, "", value, details
        )

    def _store_snapshot(
        self,
        kind: str,
        collector: str,
        point: BalancePoint | LimitPoint,
        tags: list[tuple[str, str]],
        name: str,
        currency: str,
        value: str,
        details: Mapping[str, Any],
    ) -> int:
        pairs = tuple(sorted((key, canonical(text)) for key, text in tags))
        tagset = self.dimensions.make_tagset(pairs, 0)
        stamp = int(point.timestamp.timestamp()) * 1000
        row = (
            kind,
            tagset,
            stamp,
            collector,
            canonical(point.provider),
            canonical(point.account),
            canonical(name) if name else "",
            currency,
            value,
            json.dumps(details, sort_keys=True),
        )
        cursor = self.db.execute(
            "INSERT INTO snapshot VALUES(?,?,?,?,?,?,?,?,?,?,?)"
            " ON CONFLICT DO UPDATE SET value=excluded.value, details=excluded.details,"
            " row_check=excluded.row_check"
            " WHERE value<>excluded.value OR details<>excluded.details",
            (*row, text_check(self.seed, *row)),
        )
        if cursor.rowcount:
            self.outbox.mark_snapshot(kind, stamp // 1000, tagset)
        return max(cursor.rowcount, 0)


def _known_billing(row: tuple[int, ...]) -> str:
    """How a stored record is paid; empty when that is not known."""
    billing = r.BILLING_NAMES[row[r.BILLING]]
    return "" if billing is Billing.UNKNOWN else billing


def _with_price_of(row: r.Row, old: tuple[int, ...]) -> r.Row:
    """A row with the price another was counted at: a newer price book changes no history."""
    changed = list(row)
    for column in (r.PRICE, r.COST, r.SAVINGS):
        changed[column] = old[column]
    flag = r.FLAG_TIER_ASSUMED
    changed[r.FLAGS] = (row[r.FLAGS] & ~flag) | (old[r.FLAGS] & flag)
    return tuple(changed)


def _nano(usd: Decimal) -> int:
    return int((usd * _NANO).to_integral_value(ROUND_HALF_UP))


def refusal_of(source: Source, point: Point, number: int, reason: str) -> Refusal:
    """A refused point's place: its key, else its number, so that each counts as one."""
    if isinstance(point, TokenUsagePoint) and point.key:
        point.identify(source.name)
        return Refusal(reason=reason, offset=point.key_hash)
    return Refusal(reason=reason, offset=number)


def _fault(point: Point, latest_ms: int) -> str:
    """Why a point cannot be counted or kept; empty when it can."""
    if isinstance(point, TokenUsagePoint):
        return _usage_fault(point, latest_ms)
    if point.timestamp.tzinfo is None:
        return "timestamp without a zone"
    if not EARLIEST_MS <= point.timestamp.timestamp() * 1000 < LATEST_MS:
        return "timestamp that cannot be"
    numbers = [point.balance] if isinstance(point, BalancePoint) else [point.used_ratio]
    if not all(math.isfinite(value) for value in numbers):
        return "reading that is no number"
    if not point.provider or not point.account:
        return "provider or account missing"
    return ""


def _usage_fault(point: TokenUsagePoint, latest_ms: int) -> str:
    try:
        timestamp = point.timestamp_ms
    except ValueError:
        return "timestamp without a zone"
    if not EARLIEST_MS <= timestamp <= latest_ms:
        return "timestamp outside 2020 to tomorrow"
    if not point.provider or not point.model:
        return "provider or model missing"
    if (
        point.input_tokens < 0
        or point.cache_read_tokens < 0
        or point.output_tokens < 0
        or point.unsplit_tokens < 0
        or point.requests < 0
        or point.web_search_requests < 0
        or not 0 <= point.cache_write_1h_tokens <= point.cache_write_tokens
        or not 0 <= point.reasoning_tokens <= point.output_tokens
        or point.total_tokens > _MOST
        or point.requests > _MOST
    ):
        return "token count out of range"
    return ""
