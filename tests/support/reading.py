"""What tests of log reading share: a real ledger, the way of a batch into it, and what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from collectors.agents.claude_code import ClaudeCodeCollector, ClaudeCodeOptions
from collectors.agents.jsonl import JsonlCollector, Work
from collectors.agents.scan import ScanPool
from collectors.base import AnyCollector, Batch, Context
from collectors.clock import Calendar
from collectors.ledger.dimensions import TagPolicy
from collectors.ledger.schema import RECORD_COLUMNS
from collectors.ledger.store import Ledger, Source, Stored
from collectors.merging import absorb, resolve
from collectors.points import TokenUsagePoint
from collectors.pricing import PriceBook

NOW = datetime(2026, 9, 3, tzinfo=UTC)
COUNTS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "unsplit_tokens",
    "web_search_requests",
)

# One price book for all ledgers: it is read only, and building it takes a moment.
_PRICES: list[PriceBook] = []


def open_ledger(path: Path, *, zone: str = "UTC", now: datetime = NOW) -> Ledger:
    """A ledger of its own for one test; close it when done."""
    if not _PRICES:
        _PRICES.append(PriceBook())
    return Ledger(
        path,
        calendar=Calendar(ZoneInfo(zone)),
        prices=_PRICES[0],
        policy=TagPolicy(host="testhost"),
        machine="machine-of-the-test",
        clock=now.timestamp,
    )


def claude(home: Path, *, now: datetime = NOW, **options: str) -> ClaudeCodeCollector:
    """The collector for the Claude Code folders below a home."""
    return ClaudeCodeCollector(ClaudeCodeOptions(**options), Context(home=home, now=lambda: now))


def commit(ledger: Ledger, collector: AnyCollector, batch: Batch) -> Stored:
    """Store one batch as the orchestrator does."""
    return ledger.commit(collector.name, Source.of(collector), batch)


async def take_in(ledger: Ledger, collector: AnyCollector) -> Stored:
    """Read what is new and store it; says how much that was."""
    total = Stored()
    async for batch in collector.read(ledger.cursor(collector.name)):
        stored = commit(ledger, collector, batch)
        total.points += stored.points
        total.changed += stored.changed
        total.skipped += stored.skipped
    return total


def scan_in(
    ledger: Ledger, collector: JsonlCollector[Any], work: Sequence[Work] | None = None
) -> Stored:
    """The same without an event loop, for chosen files in a chosen order."""
    total = Stored()
    if work is None:
        work = collector.changed(collector.listing(), ledger.cursor(collector.name))
    for batch in collector.scan(work):
        stored = commit(ledger, collector, batch)
        total.points += stored.points
        total.changed += stored.changed
        total.skipped += stored.skipped
    return total


async def pool_in(ledger: Ledger, collector: JsonlCollector[Any]) -> None:
    """The same through worker processes."""
    work = collector.changed(collector.listing(), ledger.cursor(collector.name))
    async with ScanPool(collector) as pool:
        async for batch in pool.scan(work):
            commit(ledger, collector, batch)


def records(ledger: Ledger) -> list[dict[str, Any]]:
    """Every record as people think of it, zeros left out, in order of time."""
    rows = ledger.db.execute(
        "SELECT series.provider, series.model, series.project, context.session, context.branch,"
        " tariff.service_tier, tariff.speed, tariff.batch, record.timestamp_ms, record.requests,"
        f" record.stated_nano, {','.join(f'record.{name}' for name in COUNTS)}"
        " FROM record JOIN series ON series.id=record.series"
        " LEFT JOIN context ON context.id=record.context"
        " LEFT JOIN tariff ON tariff.id=record.tariff"
        " ORDER BY record.timestamp_ms, series.model, record.output_tokens"
    )
    found = []
    for row in rows:
        provider, model, project, session, branch, tier, speed, batch, at, requests, stated = row[
            :11
        ]
        record = {
            "at": datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds"),
            "provider": provider,
            "model": model,
            "project": project,
            "session": session,
            "branch": branch,
            "service_tier": tier,
            "speed": speed,
            "batch": batch,
            "requests": requests,
            "stated_nano_usd": max(stated, 0),
            **dict(zip(COUNTS, row[11:], strict=True)),
        }
        found.append({name: value for name, value in record.items() if value})
    return found


def refusals(ledger: Ledger) -> dict[str, int]:
    """How many places were refused, by reason."""
    return dict(ledger.db.execute("SELECT reason, count(*) FROM refused GROUP BY reason"))


def day_sums(ledger: Ledger) -> dict[tuple[str, str], tuple[int, ...]]:
    """Sums by UTC day and model, in the order of the corpus' truth."""
    rows = ledger.db.execute(
        "SELECT date(start, 'unixepoch'), model, sum(requests), sum(input_tokens),"
        " sum(output_tokens), sum(cache_read_tokens),"
        " sum(cache_write_tokens - cache_write_1h_tokens), sum(cache_write_1h_tokens),"
        " sum(reasoning_tokens) FROM bucket JOIN series ON series.id=bucket.series GROUP BY 1, 2"
    )
    return {(day, model): tuple(sums) for day, model, *sums in rows if any(sums)}


def fingerprint(ledger: Ledger) -> list[tuple[Any, ...]]:
    """Everything that is counted, for comparing two ledgers; numbers of dimensions left out."""
    columns = [
        name
        for name in RECORD_COLUMNS
        if name not in ("series", "context", "tariff", "price", "flags")
    ]
    return ledger.db.execute(
        f"SELECT {','.join(f'record.{name}' for name in columns)}, series.model, series.project,"
        " context.session, context.branch FROM record JOIN series ON series.id=record.series"
        " LEFT JOIN context ON context.id=record.context ORDER BY family, variant"
    ).fetchall()


def assert_books_balance(ledger: Ledger) -> None:
    """Buckets and books are the sums of the records, each kept on its own way."""
    of_records = ledger.db.execute(
        "SELECT sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(requests),"
        " count(*) FROM record"
    ).fetchone()
    of_buckets = ledger.db.execute(
        "SELECT sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(requests)"
        " FROM bucket"
    ).fetchone()
    of_books = ledger.db.execute("SELECT sum(records) FROM book").fetchone()

    assert of_buckets == of_records[:4]
    assert (of_books[0] or 0) == of_records[4]


class Counted:
    """What counts after some batches, kept in memory: for tests that read thousands of times."""

    def __init__(self) -> None:
        self.cursor: dict[str, Any] = {}
        self._seen: dict[int, dict[int, TokenUsagePoint]] = {}

    def add(self, batch: Batch) -> None:
        """Fold a batch in under the rule of agent logs."""
        self.cursor |= batch.cursor
        for point in batch.points:
            assert isinstance(point, TokenUsagePoint)
            variants = self._seen.setdefault(point.key_hash, {})
            held = variants.get(point.variant_hash)
            if held is None:
                variants[point.variant_hash] = replace(point)
            else:
                absorb(held, point)

    def scan(self, collector: JsonlCollector[Any]) -> None:
        """Take in what is new."""
        for batch in collector.scan(collector.changed(collector.listing(), self.cursor)):
            self.add(batch)

    def result(self) -> list[tuple[Any, ...]]:
        """Every call that counts, in an order of its own."""
        return sorted(
            (
                family,
                point.model,
                point.timestamp_ms,
                point.session,
                point.project,
                point.has_cache_counts,
                *(getattr(point, name) for name in COUNTS),
            )
            for family, variants in self._seen.items()
            for point in resolve(variants).values()
        )


def limits(ledger: Ledger) -> list[list[Any]]:
    """Every reading of a limit: provider, account, window, time, value."""
    return [
        list(row)
        for row in ledger.db.execute(
            "SELECT provider, account, name, timestamp_ms, value FROM snapshot"
            " WHERE kind='limit' ORDER BY timestamp_ms, name"
        )
    ]
