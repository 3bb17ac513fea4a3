"""Claude Code's transcripts: what one line says, where they are, how they are paid."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from collectors.agents.claude_code import ClaudeCodeCollector, ClaudeCodeOptions
from collectors.agents.jsonl import timestamp_ms
from collectors.agents.scan import ScanPool
from collectors.agents.tail import LogFile
from collectors.base import Billing, Context, TokenUsagePoint
from collectors.errors import FormatError, SourceUnavailableError
from collectors.ledger.store import Ledger
from tests.support import reading

LOG = LogFile("/nowhere/projects/-nowhere-app/S1.jsonl", 0, 0, 1, "/nowhere/projects")
LATEST_MS = int(datetime(2026, 9, 4, tzinfo=UTC).timestamp() * 1000)


def entry(usage: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "type": "assistant",
        "sessionId": "S1",
        "cwd": "/nowhere/app",
        "timestamp": "2026-09-01T10:00:00.000Z",
        "requestId": "req_1",
        "message": {
            "id": "msg_1",
            "model": "claude-opus-4-8",
            "usage": usage if usage is not None else {"input_tokens": 3, "output_tokens": 5},
        },
        **changes,
    }


def parse(line: dict[str, Any] | bytes, **options: str) -> list[TokenUsagePoint]:
    collector = ClaudeCodeCollector(
        ClaudeCodeOptions(**options), Context(home=Path("/nowhere"), now=lambda: reading.NOW)
    )
    return list(
        collector.parse(line if isinstance(line, bytes) else json.dumps(line).encode(), LOG)
    )


def test_cached_tokens_are_not_part_of_input() -> None:
    [point] = parse(entry({"input_tokens": 3, "cache_read_input_tokens": 900}))

    assert point.input_tokens == 3
    assert point.prompt_tokens == 903


def test_the_raw_model_id_is_kept() -> None:
    line = entry()
    line["message"]["model"] = "claude-sonnet-4-5-20250929[1m]"

    [point] = parse(line)

    assert point.model == "claude-sonnet-4-5-20250929[1m]"
    assert point.provider == "anthropic"


def test_thinking_is_part_of_output_and_never_more() -> None:
    details = {"thinking_tokens": 60}

    [point] = parse(entry({"output_tokens": 50, "output_tokens_details": details}))

    assert (point.output_tokens, point.reasoning_tokens, point.total_tokens) == (50, 50, 50)


def test_iterations_are_requests_of_their_own_with_the_same_time_and_session() -> None:
    advisor = {"type": "advisor_message", "model": "claude-haiku-4-5", "input_tokens": 400}
    again = {"type": "compaction", "output_tokens": 7, "cache_creation": {
        "ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}}  # fmt: skip

    points = parse(
        entry({"input_tokens": 1, "iterations": [{"type": "message"}, advisor, again]}, costUSD=1)
    )

    assert [point.key for point in points] == [
        "msg_1",
        "msg_1\0advisor_message\0" + "1",
        "msg_1\0compaction\0" + "2",
    ]
    assert [point.model for point in points] == [
        "claude-opus-4-8",
        "claude-haiku-4-5",
        "claude-opus-4-8",
    ]
    assert [point.total_tokens for point in points] == [1, 400, 37]
    assert [point.stated_cost_usd for point in points] == [Decimal(1), None, None]
    assert len({(point.timestamp, point.session, point.variant) for point in points}) == 1


def test_lines_of_one_context_share_nothing_that_changes() -> None:
    collector = ClaudeCodeCollector(context=Context(now=lambda: reading.NOW))
    rich = entry(
        {
            "input_tokens": 9,
            "output_tokens": 9,
            "cache_read_input_tokens": 9,
            "cache_creation_input_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 9},
            "server_tool_use": {"web_search_requests": 9},
        },
        isSidechain=True,
        costUSD=9,
    )
    poor = entry({"input_tokens": 1}, requestId="req_2")
    collector.parse(json.dumps(rich).encode(), LOG)

    [point] = collector.parse(json.dumps(poor).encode(), LOG)

    assert (point.total_tokens, point.reasoning_tokens, point.web_search_requests) == (1, 0, 0)
    assert (point.replayed, point.has_cache_counts, point.stated_cost_usd) == (False, False, None)


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        (0.25, Decimal("0.25")),
        (0, None),
        (-1, None),
        ("NaN", None),
        ("Infinity", None),
        (1e30, None),
        (True, None),
        (None, None),
    ],
)
def test_a_stated_cost_is_kept_only_where_it_can_be_true(
    stated: object, kept: Decimal | None
) -> None:
    [point] = parse(entry(costUSD=stated))

    assert point.stated_cost_usd == kept


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"message": "text", "usage": 1}, "message is not an object"),
        ({"message": {"id": "m", "usage": {}}}, "model missing"),
        ({"message": {"model": "m", "usage": {}}}, "message id missing"),
        ({"message": {"id": 5, "model": "m", "usage": {}}}, "id is not text"),
        ({"message": {"id": "m", "model": ["x"], "usage": {}}}, "model is not text"),
        ({"message": {"id": "m", "model": "x", "usage": [1]}}, "usage is not an object"),
        ({"timestamp": 1788264000000}, "timestamp"),
        ({"isSidechain": {"a": 1}}, "isSidechain"),
        ({"requestId": 7}, "requestId is not text"),
    ],
)
def test_a_line_of_another_shape_is_refused_by_name(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse(entry(**change))


def test_a_call_without_any_id_but_its_lines_is_known_by_that() -> None:
    line = entry(uuid="u-1")
    del line["message"]["id"]

    [point] = parse(line)

    assert (point.key, point.variant) == ("uuid:u-1", "")


def test_both_default_folders_are_looked_into_and_xdg_moves_one() -> None:
    here = Path("/nowhere")
    plain = ClaudeCodeCollector(context=Context(home=here))
    moved = ClaudeCodeCollector(context=Context(home=here, config_home=Path("/xdg")))

    assert plain.looked_for() == ["/nowhere/.config/claude/projects", "/nowhere/.claude/projects"]
    assert moved.looked_for() == ["/xdg/claude/projects", "/nowhere/.claude/projects"]


def test_the_setting_names_folders_separated_by_comma_or_colon() -> None:
    options = ClaudeCodeOptions(CLAUDE_CONFIG_DIR="~/a, /b/projects:/c")  # type: ignore[call-arg]  # the alias is what users set

    collector = ClaudeCodeCollector(options, Context(home=Path("/nowhere")))

    assert collector.looked_for() == ["/nowhere/a/projects", "/b/projects", "/c/projects"]


def test_nothing_to_read_is_normal(tmp_path: Path) -> None:
    collector = reading.claude(tmp_path)

    assert not collector.is_configured()
    (tmp_path / ".claude" / "projects").mkdir(parents=True)
    assert collector.is_configured()


@pytest.mark.parametrize(
    ("plan", "billing"),
    [
        ("", Billing.UNKNOWN),
        ("api", Billing.METERED),
        ("pro", Billing.SUBSCRIPTION),
        ("max5", Billing.SUBSCRIPTION),
        ("max20", Billing.SUBSCRIPTION),
        ("team", Billing.SUBSCRIPTION),
    ],
)
def test_the_plan_says_how_use_is_paid(plan: str, billing: Billing) -> None:
    assert reading.claude(Path("/nowhere"), plan=plan).billing_now() is billing


@pytest.mark.parametrize(
    ("content", "days"),
    [
        (b'{"cleanupPeriodDays": 90}', 90),
        (b'{"cleanupPeriodDays": 0}', 0),
        (b'{"cleanupPeriodDays": true}', 30),
        (b'{"cleanupPeriodDays": "90"}', 30),
        (b"[1]", 30),
        (b"{half", 30),
        (b"\xff", 30),
        (None, 30),
    ],
)
def test_days_until_a_transcript_is_deleted_come_from_claude_codes_settings(
    tmp_path: Path, content: bytes | None, days: int
) -> None:
    if content is not None:
        (tmp_path / ".claude").mkdir()
        (tmp_path / ".claude" / "settings.json").write_bytes(content)

    assert reading.claude(tmp_path).cleanup_days() == days


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-09-01T10:00:00.000Z", "2026-09-01T10:00:00.000"),
        ("2026-09-01T10:00:59.999Z", "2026-09-01T10:00:59.999"),
        ("2026-09-01T10:00:00Z", "2026-09-01T10:00:00.000"),
        ("2026-09-01T12:00:00.5+02:00", "2026-09-01T10:00:00.500"),
        ("2026-09-01 10:00:00", "2026-09-01T10:00:00.000"),
        ("2026-09-01T10:00:00.123456789Z", "2026-09-01T10:00:00.123"),
        ("2020-01-01T00:00:00.000Z", "2020-01-01T00:00:00.000"),
    ],
)
def test_times_are_read_in_every_usual_form(text: str, expected: str) -> None:
    found = datetime.fromtimestamp(timestamp_ms(text, LATEST_MS) / 1000, UTC)

    assert found.isoformat(timespec="milliseconds").removesuffix("+00:00") == expected


async def test_a_newer_parser_reads_everything_again_and_replaces(tmp_path: Path) -> None:
    class Newer(ClaudeCodeCollector):
        parser_version: ClassVar[int] = ClaudeCodeCollector.parser_version + 1

        def parse(self, line: bytes, log: LogFile) -> list[TokenUsagePoint]:
            points = list(super().parse(line, log))
            for point in points:
                point.output_tokens //= 10
            return points

    log = tmp_path / ".claude" / "projects" / "p" / "S1.jsonl"
    log.parent.mkdir(parents=True)
    gone = log.with_name("S2.jsonl")
    log.write_text(json.dumps(entry({"output_tokens": 500})) + "\n")
    gone.write_text(
        json.dumps(entry({"output_tokens": 70}, message=entry({"output_tokens": 70})["message"]
                         | {"id": "msg_2"})) + "\n"
    )  # fmt: skip
    ledger = reading.open_ledger(tmp_path / "ledger.db")
    await reading.take_in(ledger, reading.claude(tmp_path))
    gone.unlink()

    await reading.take_in(ledger, Newer(context=Context(home=tmp_path, now=lambda: reading.NOW)))

    outputs = [record["output_tokens"] for record in reading.records(ledger)]
    assert sorted(outputs) == [50, 70]
    reading.assert_books_balance(ledger)
    ledger.close()


class OneFileABatch(ClaudeCodeCollector):
    """Many batches, so that a worker has something left when it dies."""

    files_per_batch: ClassVar[int] = 1


async def scan_until_killed(ledger: Ledger, collector: ClaudeCodeCollector) -> None:
    """Store one batch, then kill both workers where they stand."""
    work = collector.changed(collector.listing(), {})
    async with ScanPool(collector) as pool:
        async for batch in pool.scan(work):
            reading.commit(ledger, collector, batch)
            for worker in pool.worker_ids():
                os.kill(worker, signal.SIGKILL)


async def test_a_worker_that_is_killed_is_an_error_of_the_source_and_loses_nothing(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    for number in range(400):  # with long session names: more than two pipes hold
        log = home / ".claude" / "projects" / "p" / f"S{number}.jsonl"
        log.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(entry({"output_tokens": 1}, sessionId="S" * 2_000))
        log.write_text(line.replace("msg_1", f"msg_{number}") + "\n")
    ledger = reading.open_ledger(tmp_path / "ledger.db")
    collector = OneFileABatch(context=Context(home=home, now=lambda: reading.NOW))
    with pytest.raises(SourceUnavailableError, match=r"ended early \(exit code -9\)"):
        await scan_until_killed(ledger, collector)

    await reading.pool_in(ledger, collector)

    assert len(reading.records(ledger)) == 400
    ledger.close()


async def test_leaving_a_scan_early_ends_its_workers(tmp_path: Path) -> None:
    log = tmp_path / ".claude" / "projects" / "p" / "S1.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(entry()) + "\n")
    collector = reading.claude(tmp_path)
    async with ScanPool(collector) as pool:
        async for _ in pool.scan(collector.changed(collector.listing(), {})):
            break
        workers = pool.worker_ids()

    assert workers
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
