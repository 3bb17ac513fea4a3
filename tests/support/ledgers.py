"""Ledgers, points and Claude Code logs for tests, and what a ledger holds in comparable form."""

from __future__ import annotations

import functools
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from collectors.agents.claude_code import ClaudeCodeCollector, ClaudeCodeOptions
from collectors.base import Context
from collectors.clock import Calendar
from collectors.ledger.dimensions import TagPolicy
from collectors.ledger.files import WriterLock
from collectors.ledger.schema import BUCKET_COLUMNS
from collectors.ledger.store import Ledger, Source
from collectors.merging import Merge
from collectors.points import Batch, TokenUsagePoint
from collectors.pricing import PriceBook

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
MODELS = ("claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001", "no-such-model-1")
LARGEST = Source("claude-code", Merge.LARGEST)
LATEST = Source("anthropic-usage", Merge.LATEST)


@functools.cache
def prices() -> PriceBook:
    return PriceBook()


def at(text: str) -> datetime:
    """A UTC time such as 2026-03-02T10:00."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def open_ledger(
    path: Path,
    *,
    zone: str = "Europe/Berlin",
    policy: TagPolicy = TagPolicy(host="laptop"),  # noqa: B008 - frozen
    machine: str = "machine-a",
    book: PriceBook | None = None,
    lock: WriterLock | None = None,
    kind: type[Ledger] = Ledger,
    clock: Callable[[], float] = NOW.timestamp,
) -> Ledger:
    return kind(
        path,
        calendar=Calendar(ZoneInfo(zone)),
        prices=book or prices(),
        policy=policy,
        machine=machine,
        clock=clock,
        lock=lock,
    )


def opener(path: Path, kind: type[Ledger] = Ledger) -> Callable[[WriterLock], Ledger]:
    """What `open_checked` and `GuardedLedger` open a ledger with."""
    return lambda lock: open_ledger(path, lock=lock, kind=kind)


def point(key: str = "msg_1", when: str = "2026-03-02T10:00", **values: Any) -> TokenUsagePoint:
    given = {"provider": "anthropic", "model": MODELS[0], "input_tokens": 100, "output_tokens": 10}
    return TokenUsagePoint(key=key, timestamp=at(when), **{**given, **values})


def store(ledger: Ledger, *points: TokenUsagePoint, source: Source = LARGEST) -> int:
    """Commit points as one batch; how many changed."""
    return ledger.commit(source.name, source, Batch(points=list(points))).changed


# -- what is in a ledger ---------------------------------------------------------------------------


def sums(db: sqlite3.Connection, columns: str = "output_tokens") -> Any:
    """A sum over all buckets."""
    return db.execute(f"SELECT coalesce(sum({columns}), 0) FROM bucket").fetchone()[0]


def records(db: sqlite3.Connection) -> Counter[tuple[Any, ...]]:
    """Every record with its names in the place of numbers that differ from ledger to ledger."""
    return Counter(
        db.execute(
            "SELECT family, variant, source, provider, model, project, host, account, role, bucket,"
            " session, branch, user, service_tier, speed, timestamp_ms, latest_ms, width,"
            " input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,"
            " output_tokens, reasoning_tokens, unsplit_tokens, requests, web_search_requests,"
            " billing, coalesce(price.name, ''), cost_nano, savings_nano, stated_nano, flags,"
            " parser FROM record JOIN series ON series.id=record.series"
            " LEFT JOIN context ON context.id=record.context"
            " LEFT JOIN tariff ON tariff.id=record.tariff LEFT JOIN price ON price.id=record.price"
        ).fetchall()
    )


def buckets(db: sqlite3.Connection) -> dict[tuple[Any, ...], tuple[int, ...]]:
    """Every bucket that counts something, by its start and names."""
    rows = db.execute(
        "SELECT start, source, provider, model, project, host, account, role,"
        f" {','.join(BUCKET_COLUMNS)} FROM bucket JOIN series ON series.id=bucket.series"
    )
    return {row[:8]: row[8:] for row in rows if any(row[8:])}


def days(db: sqlite3.Connection, calendar: Calendar) -> dict[tuple[Any, ...], tuple[int, ...]]:
    """Sums of every local day and series."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for (start, *names), values in buckets(db).items():
        day = found.setdefault((calendar.day_of(start), *names), [0] * len(BUCKET_COLUMNS))
        for index, value in enumerate(values):
            day[index] += value
    return {key: tuple(values) for key, values in found.items()}


# -- logs of Claude Code ---------------------------------------------------------------------------


class ClaudeHome:
    """A home folder with growing transcripts, and the truth about them."""

    def __init__(self, home: Path, seed: int = 7) -> None:
        self.home = home
        self.random = random.Random(seed)
        self.truth: dict[str, tuple[str, int, int, int]] = {}  # id: model, input, output, cache
        self._half: dict[str, bytes] = {}
        self._number = 0
        self.folder = home / ".claude/projects/-home-ada-app"
        self.folder.mkdir(parents=True)

    def path(self, name: str = "a") -> Path:
        return self.folder / f"{name}.jsonl"

    def line(self, number: int, output: int) -> bytes:
        key = f"msg_{number:024d}"
        chosen = random.Random(number)
        model = MODELS[number % 3]
        before, cache = chosen.randrange(1, 5_000), chosen.randrange(0, 90_000)
        known = self.truth.get(key, (model, before, 0, cache))
        self.truth[key] = (model, before, max(output, known[2]), cache)
        second = number * 97 % 86_400
        entry = {
            "type": "assistant",
            "timestamp": f"2026-03-{1 + number % 7:02d}T{second // 3600:02d}"
            f":{second % 3600 // 60:02d}:{second % 60:02d}.000Z",
            "requestId": f"req_{number:024d}",
            "sessionId": f"session-{number % 5}",
            "cwd": f"/home/ada/app{number % 3}",
            "message": {
                "id": key,
                "model": model,
                "usage": {
                    "input_tokens": before,
                    "output_tokens": output,
                    "cache_read_input_tokens": cache,
                    "cache_creation_input_tokens": 0,
                },
            },
            "pad": "x" * chosen.randrange(300),
        }
        return json.dumps(entry, separators=(",", ":")).encode() + b"\n"

    def append(self, calls: int, name: str = "a", *, cuts: bool = False) -> None:
        """Write calls, streamed over one to three lines; maybe the last line only in part."""
        data = self._half.pop(name, b"")
        for _ in range(calls):
            self._number += 1
            for _ in range(self.random.randrange(1, 4)):
                data += self.line(self._number, self.random.randrange(1, 3_000))
        if cuts and self.random.random() < 0.5:
            cut = self.random.randrange(1, 60)
            data, self._half[name] = data[:-cut], data[-cut:]
        with self.path(name).open("ab") as file:
            file.write(data)

    def finish(self) -> None:
        """Complete every half-written line."""
        for name in list(self._half):
            with self.path(name).open("ab") as file:
                file.write(self._half.pop(name))

    def collector(self) -> ClaudeCodeCollector:
        return ClaudeCodeCollector(
            ClaudeCodeOptions(config_dir=str(self.home / ".claude")),
            Context(home=self.home, now=lambda: NOW),
        )

    def differences(self, db: sqlite3.Connection) -> tuple[int, int]:
        """Calls lost and calls counted twice or wrongly, by each model's exact sums."""
        lost = double = 0
        for model in MODELS:
            mine = [entry for entry in self.truth.values() if entry[0] == model]
            want = [len(mine), sum(x[1] for x in mine), sum(x[2] for x in mine)]
            want.append(sum(x[3] for x in mine))
            got = db.execute(
                "SELECT coalesce(sum(requests), 0), coalesce(sum(input_tokens), 0),"
                " coalesce(sum(output_tokens), 0), coalesce(sum(cache_read_tokens), 0)"
                " FROM bucket JOIN series ON series.id=bucket.series WHERE model=?",
                (model,),
            ).fetchone()
            pairs = list(zip(got, want, strict=True))
            lost += max(0, want[0] - got[0]) or any(have < due for have, due in pairs)
            double += max(0, got[0] - want[0]) or any(have > due for have, due in pairs)
        return lost, double


def ingest(
    ledger: Ledger, collector: ClaudeCodeCollector, done: Callable[[], None] = lambda: None
) -> int:
    """Read what is new file by file, one commit each, calling `done` after each."""
    source = Source.of(collector)
    stored = 0
    for item in collector.changed(collector.listing(), ledger.cursor(collector.name)):
        for batch in collector.scan([item]):
            stored += ledger.commit(collector.name, source, batch).points
            done()
    return stored
