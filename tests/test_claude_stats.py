"""Claude Code's daily statistics: an estimate that gives way to every record."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from collectors.agents.claude_code import ClaudeCodeOptions
from collectors.agents.claude_stats import ClaudeStatsCollector
from collectors.base import Billing, Context
from collectors.errors import SourceUnavailableError
from collectors.ledger.store import Ledger
from tests.support import reading


def stats(home: Path, zone: str = "UTC", **options: str) -> ClaudeStatsCollector:
    context = Context(home=home, zone=ZoneInfo(zone), now=lambda: reading.NOW)
    return ClaudeStatsCollector(ClaudeCodeOptions(**options), context)


def write_stats(home: Path, days: dict[str, int]) -> None:
    path = home / ".claude" / "stats-cache.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    daily = [
        {"date": day, "tokensByModel": {"claude-opus-4-8": tokens}} for day, tokens in days.items()
    ]
    path.write_text(json.dumps({"version": 2, "dailyModelTokens": daily}))


def write_transcript(home: Path, *times: str) -> Path:
    path = home / ".claude" / "projects" / "p" / "S1.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "type": "assistant",
            "sessionId": "S1",
            "timestamp": time,
            "requestId": f"req_{time}",
            "message": {
                "id": f"msg_{time}",
                "model": "claude-opus-4-8",
                "usage": {"input_tokens": 10, "output_tokens": 5},
            },
        }
        for time in times
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tokens(ledger: Ledger) -> tuple[int, int, int]:
    """All tokens, those that are an estimate, those without a price."""
    row = ledger.db.execute(
        "SELECT sum(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens"
        " + unsplit_tokens), sum(unsplit_tokens), sum(unpriced_tokens) FROM bucket"
    ).fetchone()
    return row[0] or 0, row[1] or 0, row[2] or 0


async def test_days_with_transcripts_are_not_filled(tmp_path: Path) -> None:
    write_stats(tmp_path, {"2026-08-30": 700, "2026-08-31": 4000})
    write_transcript(tmp_path, "2026-08-31T10:00:00.000Z")
    ledger = reading.open_ledger(tmp_path / "ledger.db")

    await reading.take_in(ledger, reading.claude(tmp_path))
    await reading.take_in(ledger, stats(tmp_path))

    assert tokens(ledger) == (715, 700, 700)
    ledger.close()


async def test_an_estimate_is_withdrawn_when_a_record_of_its_day_appears(tmp_path: Path) -> None:
    write_stats(tmp_path, {"2026-08-30": 700, "2026-08-31": 4000})
    ledger = reading.open_ledger(tmp_path / "ledger.db")
    await reading.take_in(ledger, stats(tmp_path))
    filled = tokens(ledger)
    write_transcript(tmp_path, "2026-08-31T10:00:00.000Z")

    await reading.take_in(ledger, reading.claude(tmp_path))
    await reading.take_in(ledger, stats(tmp_path))

    assert filled == (4700, 4700, 4700)
    assert tokens(ledger) == (715, 700, 700)
    reading.assert_books_balance(ledger)
    ledger.close()


async def test_deleting_transcripts_never_reopens_a_day(tmp_path: Path) -> None:
    write_stats(tmp_path, {"2026-08-31": 4000})
    log = write_transcript(tmp_path, "2026-08-31T10:00:00.000Z")
    ledger = reading.open_ledger(tmp_path / "ledger.db")
    await reading.take_in(ledger, reading.claude(tmp_path))
    log.unlink()

    await reading.take_in(ledger, reading.claude(tmp_path))
    await reading.take_in(ledger, stats(tmp_path))

    assert tokens(ledger) == (15, 0, 0)
    ledger.close()


async def test_a_day_is_a_local_day(tmp_path: Path) -> None:
    # 23:30 UTC on the 30th is already the 31st in Berlin.
    write_stats(tmp_path, {"2026-08-30": 700, "2026-08-31": 4000})
    write_transcript(tmp_path, "2026-08-30T23:30:00.000Z")
    ledger = reading.open_ledger(tmp_path / "ledger.db", zone="Europe/Berlin")

    await reading.take_in(ledger, reading.claude(tmp_path))
    await reading.take_in(ledger, stats(tmp_path, "Europe/Berlin"))

    assert tokens(ledger) == (715, 700, 700)
    ledger.close()


async def test_a_corrected_day_replaces_its_estimate(tmp_path: Path) -> None:
    write_stats(tmp_path, {"2026-08-30": 700})
    ledger = reading.open_ledger(tmp_path / "ledger.db")
    await reading.take_in(ledger, stats(tmp_path))
    write_stats(tmp_path, {"2026-08-30": 650})

    await reading.take_in(ledger, stats(tmp_path))

    assert tokens(ledger) == (650, 650, 650)
    reading.assert_books_balance(ledger)
    ledger.close()


async def test_an_estimate_is_no_request_and_starts_its_day(tmp_path: Path) -> None:
    write_stats(tmp_path, {"2026-08-30": 700})
    collector = stats(tmp_path, "Europe/Berlin")

    [batch] = [batch async for batch in collector.read({})]

    [point] = batch.points
    assert point.timestamp == datetime(2026, 8, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert getattr(point, "requests", None) == 0
    assert getattr(point, "quality", "") == "estimated"


async def test_a_half_written_file_is_an_error_that_passes(tmp_path: Path) -> None:
    write_stats(tmp_path, {"2026-08-30": 700})
    path = tmp_path / ".claude" / "stats-cache.json"
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(SourceUnavailableError, match="is not what this version understands"):
        [batch async for batch in stats(tmp_path).read({})]


async def test_no_file_is_normal(tmp_path: Path) -> None:
    collector = stats(tmp_path)

    [batch] = [batch async for batch in collector.read({})]

    assert not collector.is_configured()
    assert (batch.points, batch.refusals) == ([], [])


def test_its_estimates_are_claude_codes_use_under_claude_codes_plan(tmp_path: Path) -> None:
    collector = stats(tmp_path, plan="max20")

    assert collector.counts_as() == "claude-code"
    assert collector.billing_now() is Billing.SUBSCRIPTION
    assert collector.looked_for() == [
        str(tmp_path / ".config" / "claude" / "stats-cache.json"),
        str(tmp_path / ".claude" / "stats-cache.json"),
    ]
