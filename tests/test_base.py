"""The contract: what a collector's author writes, and what that does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field, SecretStr, ValidationError

import collectors
from collectors.agents.claude_code import ClaudeCodeCollector
from collectors.agents.jsonl import JsonlCollector
from collectors.base import BaseCollector, Batch, Billing, Context, Options, TokenUsagePoint
from collectors.ledger import reports
from collectors.ledger.store import Source
from collectors.merging import Merge
from tests.support.collecting import in_inline_time, running


class AcmeCollector(BaseCollector):  # type: ignore[type-arg]  # as an author without types writes it
    def is_configured(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        return True

    async def collect(self) -> list[TokenUsagePoint]:
        return [
            TokenUsagePoint(
                provider="openai",
                model="gpt-4o-mini",
                timestamp=datetime(2026, 3, 2, 10, tzinfo=UTC),
                input_tokens=1_000_000,
                output_tokens=100_000,
            )
        ]


@in_inline_time
async def test_the_smallest_collector_runs_and_is_counted_priced_and_idempotent(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, AcmeCollector()) as it:
        await it.orchestrator.run_all_once()
        await it.orchestrator.run_all_once()
        ledger = it.guard.ledger
        [row] = reports.report(ledger.db, ledger.calendar, period="daily")

        assert row.keys == {"source": "acme", "provider": "openai", "model": "gpt-4o-mini"}
        assert (row.period, row.usage.requests, row.usage.total_tokens) == (
            "2026-03-02",
            1,
            1_100_000,
        )
        # 1.0 M × $0.15 + 0.1 M × $0.60
        assert row.usage.cost_nano == 210_000_000


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("AcmeCollector", "acme"),
        ("AcmeToolCollector", "acme-tool"),
        ("OpenAIUsage", "open-ai-usage"),
        ("XAICollector", "xai"),
        ("Gemini2Collector", "gemini2"),
        ("Collector", "unnamed"),
    ],
)
def test_a_collector_without_a_name_is_named_after_its_class(class_name: str, name: str) -> None:
    made: Any = type(class_name, (BaseCollector,), {})

    assert made.name == name


def test_a_name_that_was_chosen_is_inherited_and_a_derived_one_is_not() -> None:
    class Mine(ClaudeCodeCollector):
        pass

    class OfMyToolCollector(JsonlCollector[Options]):
        pass

    assert Mine.name == "claude-code"
    assert OfMyToolCollector.name == "of-my-tool"


def test_the_base_class_itself_has_no_name() -> None:
    assert not hasattr(BaseCollector, "name")


def test_a_collector_declares_how_its_records_count() -> None:
    class Declared(BaseCollector[Options]):
        name: ClassVar[str] = "declared"
        merge = Merge.LARGEST
        parser_version = 4
        billing = Billing.SUBSCRIPTION

        def counts_as(self) -> str:
            return "another"

    assert Source.of(Declared()) == Source("another", Merge.LARGEST, 4, Billing.SUBSCRIPTION)


async def test_reading_is_collecting_once_unless_a_source_resumes() -> None:
    batches = [batch async for batch in AcmeCollector().read({"any": "cursor"})]

    assert [len(batch.points) for batch in batches] == [1]
    assert batches[0] == Batch(points=batches[0].points)


async def test_a_collector_gets_clock_and_home_from_its_context_only() -> None:
    now = datetime(2026, 3, 2, tzinfo=UTC)
    context = Context(home=Path("/nowhere"), now=lambda: now)

    collector = AcmeCollector(context=context)

    assert collector.observed_at() == now
    assert collector.context.home == Path("/nowhere")


@pytest.mark.parametrize("call", ["is_configured", "collect"])
def test_what_an_author_must_write_is_missing_loudly(call: str) -> None:
    method = getattr(BaseCollector(), call)

    with pytest.raises(NotImplementedError):
        asyncio.run(method()) if asyncio.iscoroutinefunction(method) else method()


class KeyedOptions(Options):
    api_key: SecretStr = Field(SecretStr(""), description="The key")
    limit: int = 3


def test_options_refuse_what_they_do_not_know_and_show_no_value() -> None:
    with pytest.raises(ValidationError) as caught:
        KeyedOptions(api_key="sk-canary-0002", limti=4, limit="sk-canary-0002")  # type: ignore[call-arg]

    assert "canary" not in str(caught.value)
    assert {error["loc"][0] for error in caught.value.errors()} == {"limti", "limit"}


def test_options_do_not_change_and_do_not_print_secrets() -> None:
    options = KeyedOptions(api_key=SecretStr("sk-canary-0003"))

    with pytest.raises(ValidationError):
        options.limit = 5  # type: ignore[misc]
    assert "canary" not in f"{options!r} {options} {options.model_dump_json()}"


def test_every_name_of_the_package_is_there_and_others_are_not() -> None:
    assert collectors.ClaudeCodeCollector is ClaudeCodeCollector
    assert collectors.BaseCollector is BaseCollector
    for name in collectors.__all__:
        assert getattr(collectors, name)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = collectors.Nothing


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'pydantic', 'msgspec', 'aiohttp'}"
    code = f"import collectors, sys; print(sorted({heavy} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
