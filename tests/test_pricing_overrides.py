"""The user's price file: order, dates, decimals, mistakes, and the earlier dashboard's shape."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import pricing
from collectors.pricing import Cost, PriceAttributes, PriceBook, Tariff

FIXTURES = Path(__file__).parent / "fixtures" / "pricing"
SHIPPED = Path(pricing.__file__).parent

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str, name: str = "prices.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOVEMBER = ms("2026-11-20T12:00:00")


def tariff(
    book: PriceBook, provider: str, model: str, when: int = NOVEMBER, **attributes: Any
) -> Tariff:
    found = book.tariff(PriceAttributes(provider, model, **attributes), when)
    assert found is not None
    return found


def price_in(book: PriceBook, provider: str, model: str, when: int = NOVEMBER) -> Decimal | None:
    rate = tariff(book, provider, model, when).rates.input
    return None if rate is None else Decimal(rate) / 10**9


# Order


def test_an_own_price_goes_before_the_list(write: Write) -> None:
    book = PriceBook(write("prices: [{model: gpt-5, input: 1, output: 8}]"))

    assert price_in(book, "openai", "gpt-5") == 1
    assert price_in(book, "openai", "gpt-5-mini") == Decimal("0.25")


def test_an_own_price_holds_for_the_id_with_its_decorations(write: Write) -> None:
    book = PriceBook(write("prices: [{model: claude-opus-4-5, input: 4, output: 20}]"))

    assert price_in(book, "anthropic", "claude-opus-4-5-20251101[1m]") == 4


def test_an_own_price_of_another_provider_does_not_hold(write: Write) -> None:
    book = PriceBook(write("prices: [{model: gpt-5, provider: azure, input: 1}]"))

    assert price_in(book, "azure.ai.openai", "gpt-5") == 1
    assert price_in(book, "openai", "gpt-5") == Decimal("1.25")


def test_the_closest_entry_wins_whatever_its_place(write: Write) -> None:
    book = PriceBook(
        write(
            """
            prices:
              - {pattern: "claude-.*", input: 1}
              - {pattern: "claude-.*", provider: anthropic, input: 2}
              - {model: claude-opus-4-5, input: 3}
              - {model: claude-opus-4-5, provider: anthropic, input: 4}
            """
        )
    )

    assert price_in(book, "anthropic", "claude-opus-4-5-20251101") == 4
    assert price_in(book, "openrouter", "claude-opus-4-5") == 3
    assert price_in(book, "anthropic", "claude-x") == 2
    assert price_in(book, "other", "claude-x") == 1


def test_a_pattern_matches_the_whole_id(write: Write) -> None:
    book = PriceBook(write("prices: [{pattern: 'acme-[0-9]+', input: 1}]"))

    assert price_in(book, "acme", "ACME-12") == 1
    assert book.tariff(PriceAttributes("acme", "acme-12b"), NOVEMBER) is None


def test_a_local_model_is_free_when_the_file_says_so(write: Write) -> None:
    book = PriceBook(write("prices: [{pattern: '.*', provider: ollama, free: true}]"))

    assert tariff(book, "ollama", "llama3").cost(9, 9, 9, 9, 9, web_search_requests=1) == Cost(0, 0)
    assert book.tariff(PriceAttributes("openai", "llama3"), NOVEMBER) is None


# Dates


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ("2026-07-01", "2026-07-01T00:00:00"),
        ("2026-07-01T10:00:05", "2026-07-01T10:00:05"),
        ("2026-07-01T10:00:05Z", "2026-07-01T10:00:05"),
        ("2026-07-01T00:00:00+05:30", "2026-06-30T18:30:00"),
    ],
)
def test_an_own_price_holds_from_its_instant_on(write: Write, start: str, first: str) -> None:
    book = PriceBook(write(f"prices: [{{model: gpt-5, from: '{start}', input: 1}}]"))

    assert price_in(book, "openai", "gpt-5", ms(first) - 1) == Decimal("1.25")
    assert price_in(book, "openai", "gpt-5", ms(first)) == 1


def test_the_latest_started_price_holds_in_any_order_of_the_file(write: Write) -> None:
    book = PriceBook(
        write(
            """
            prices:
              - {model: m, from: 2026-03-01, input: 3}
              - {model: m, input: 1}
              - {model: m, from: 2026-02-01, input: 2}
            """
        )
    )

    days = ("2026-01-31T23:59:59", "2026-02-01T00:00:00", "2026-03-01T00:00:00")
    assert [price_in(book, "acme", "m", ms(day)) for day in days] == [1, 2, 3]


def test_a_day_that_holds_two_prices_has_none(write: Write) -> None:
    book = PriceBook(write("prices: [{model: gpt-5, from: '2026-07-01T12:00:00Z', input: 1}]"))
    attributes = PriceAttributes("openai", "gpt-5")

    assert book.tariff(attributes, ms("2026-07-01T00:00:00"), width=86_400) is None
    assert book.tariff(attributes, ms("2026-07-02T00:00:00"), width=86_400) is not None


# Numbers


def test_a_price_per_token_equals_the_price_per_million(write: Write) -> None:
    book = PriceBook(
        write(
            """
            prices:
              - {model: a, unit: per_token, input: 0.0000001, output: 3e-07}
              - {model: b, input: 0.1, output: 0.3}
            """
        )
    )

    assert tariff(book, "acme", "a").rates == tariff(book, "acme", "b").rates
    assert tariff(book, "acme", "a").rates.input == 100_000_000


def test_half_a_nano_dollar_is_rounded_up_once_for_the_whole_record(write: Write) -> None:
    half_nano = PriceBook(write("prices: [{model: m, input: 0.0005, output: 0.0005}]"))
    found = tariff(half_nano, "acme", "m")

    costs = [found.cost(count, 0, 0, 0, out) for count, out in ((1, 0), (2, 0), (1, 1), (3, 0))]
    assert [cost.cost_nano_usd for cost in costs if cost] == [1, 1, 1, 2]


def test_multipliers_of_the_file_apply_to_token_prices(write: Write) -> None:
    book = PriceBook(
        write(
            """
            prices:
              - model: m
                input: 2
                output: 10
                web_search: 0.01
                batch: 0.25
                service_tier: {priority: 1.5}
                inference_geo: {eu: 1.2}
            """
        )
    )

    assert tariff(book, "acme", "m", batch=True).rates.input == 500_000_000
    both = tariff(book, "acme", "m", service_tier="priority", inference_geo="eu")
    assert both.rates.output == 18_000_000_000
    assert both.web_search == 10_000_000
    assert book.tariff(PriceAttributes("acme", "m", speed="fast"), NOVEMBER) is None


def test_anthropics_documented_multipliers_apply_to_a_negotiated_price(write: Write) -> None:
    book = PriceBook(
        write("prices: [{model: claude-opus-5-5, provider: anthropic, input: 3, output: 15}]")
    )

    found = tariff(book, "anthropic", "claude-opus-5-5", batch=True, inference_geo="us")
    assert found.rates.input == 1_650_000_000


def test_steps_of_the_file_apply_to_the_whole_request(write: Write) -> None:
    book = PriceBook(
        write(
            """
            prices:
              - model: m
                input: 1
                output: 2
                tiers:
                  - {above: 1_000, input: 3}
                  - {above: 2_000, input: 5, output: 4}
            """
        )
    )
    found = tariff(book, "acme", "m")

    costs = [found.cost(count, 0, 0, 0, 10) for count in (1_000, 1_001, 2_001)]
    assert [cost.cost_nano_usd for cost in costs if cost] == [
        (1_000 * 1 + 10 * 2) * 1_000,
        (1_001 * 3 + 10 * 2) * 1_000,
        (2_001 * 5 + 10 * 4) * 1_000,
    ]


# Mistakes


def test_every_mistake_is_named_and_the_other_entries_hold() -> None:
    book = PriceBook(FIXTURES / "mistakes.yaml")

    found = [(error.entry, error.field) for error in book.problems]
    assert found == [
        ("entry 2 (typo)", "ouput"),
        ("entry 3 (not-a-number)", "input"),
        ("entry 4 (negative)", "output"),
        ("entry 5 (bad-date)", "from"),
        ("entry 6 (bad-unit)", "unit"),
        ("entry 7", "model"),
        ("entry 8 (no-price)", "input"),
        ("entry 9 (gpt-(5)", "pattern"),
        ("entry 10 (free-but-priced)", "input"),
        ("entry 11 (step-without-base)", "tiers"),
        ("entry 12 (falling-steps)", "tiers[2].above"),
        ("entry 13 (good-first)", "from"),
        ("entry 14", ""),
        ("entry 15 (bad-multiplier)", "service_tier.flex"),
    ]
    assert price_in(book, "acme", "good-first") == 1
    assert price_in(book, "acme", "good-last") == 3
    assert str(book.problems[1]) == (
        "mistakes.yaml: entry 3 (not-a-number), input: is 'cheap', not a number"
    )
    assert all(error.hint for error in book.problems)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("prices.yaml", "prices: [", "is not YAML"),
        ("prices.json", '{"prices": ', "is not JSON: line 1"),
        ("prices.yaml", "price: []", "neither a list `prices` nor a mapping `models`"),
        ("prices.yaml", "prices: {a: 1}", "`prices` is not a list"),
        ("prices.json", '{"models": []}', "`models` is not a mapping"),
        ("prices.yaml", "prices: [{model: a, input: 1, input: 2}]", "'input' stands twice"),
        ("prices.json", '{"models": {"a": {}, "a": {}}}', "'a' stands twice"),
        ("prices.yaml", "prices: [{[a]: 1}]", "is not a field name"),
        ("prices.yaml", "prices: &a [*a]", "is not YAML"),
    ],
)
def test_a_file_that_cannot_be_understood_leaves_the_list_in_use(
    write: Write, name: str, text: str, what: str
) -> None:
    book = PriceBook(write(text, name))

    assert [what in str(error) for error in book.problems] == [True]
    assert str(book.problems[0]).startswith(name)
    assert price_in(book, "openai", "gpt-5") == Decimal("1.25")


def test_a_missing_file_is_a_problem_and_an_empty_one_is_not(write: Write, tmp_path: Path) -> None:
    assert "cannot be read" in str(PriceBook(tmp_path / "gone.yaml").problems[0])
    assert PriceBook(write("")).problems == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1", "true", "1e99", "[]", '"free"'])
def test_only_a_finite_amount_is_a_price(write: Write, number: str) -> None:
    book = PriceBook(write(f'{{"prices": [{{"model": "m", "input": {number}}}]}}', "prices.json"))

    assert [error.field for error in book.problems] == ["input"]
    assert book.tariff(PriceAttributes("acme", "m"), NOVEMBER) is None


# The earlier dashboard's file


def test_the_earlier_dashboards_file_is_read_unchanged() -> None:
    book = PriceBook(FIXTURES / "earlier_dashboard.json")

    assert book.problems == []
    kimi = tariff(book, "moonshot_ai", "kimi-k2.5").cost(2_000_000, 1_000_000, 0, 0, 500_000)
    assert kimi is not None
    assert kimi.cost_nano_usd == 2_800_000_000  # 1.2 + 0.1 + 1.5 dollars
    assert tariff(book, "inhouse", "inhouse-7b").cost(1, 1, 0, 0, 1) is None


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_its_costs_equal_its_own_formula(prompt: int, cached: int, output: int) -> None:
    cached = min(cached, prompt)
    by_formula = (
        (prompt - cached) * Decimal("0.0000025")
        + cached * Decimal("0.00000125")
        + output * Decimal("0.00001")
    )

    found = tariff(EARLIER, "openai", "gpt-4o").cost(prompt - cached, cached, 0, 0, output)

    assert found is not None
    assert Decimal(found.cost_nano_usd) == by_formula * 10**9


EARLIER = PriceBook(FIXTURES / "earlier_dashboard.json")


# What is shipped


def test_the_shipped_example_is_read_without_a_mistake() -> None:
    book = PriceBook(SHIPPED / "prices.example.yaml")

    assert book.problems == []
    assert price_in(book, "anthropic", "claude-opus-4-5", ms("2026-06-30T23:59:59")) == Decimal(
        "4.5"
    )
    assert price_in(book, "anthropic", "claude-opus-4-5-20251101", ms("2026-07-01T00:00:00")) == 4
    acme = tariff(book, "acme", "acme-coder-2-latest", service_tier="flex")
    assert acme.rates.output == 7_500_000_000


@pytest.mark.parametrize(
    ("path", "is_valid"),
    [
        (SHIPPED / "prices.example.yaml", True),
        (FIXTURES / "earlier_dashboard.json", True),
        (FIXTURES / "mistakes.yaml", False),
    ],
)
def test_the_published_schema_agrees_with_the_reader(path: Path, is_valid: bool) -> None:
    schema = SHIPPED / "prices.schema.json"

    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--schemafile", str(schema), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode == 0) == is_valid, checked.stdout


def test_the_book_version_follows_the_content_of_the_file(write: Write) -> None:
    first = PriceBook(write("prices: [{model: m, input: 1}]"))
    second = PriceBook(write("prices: [{model: m, input: 2}]"))

    assert first.book_version != second.book_version
    assert tariff(first, "acme", "m").price_id != tariff(second, "acme", "m").price_id
    assert "prices.yaml" in tariff(first, "acme", "m").price_id


def test_explain_shows_own_prices_beside_the_list(write: Write) -> None:
    book = PriceBook(write("prices: [{model: gpt-5, from: 2026-07-01, input: 1, output: 8}]"))

    rows = book.explain(PriceAttributes("openai", "gpt-5"))

    assert [(row.start, row.prices["input"], row.prices["cache_read"]) for row in rows] == [
        ("", Decimal("1.25"), Decimal("0.125")),
        ("2026-07-01", Decimal(1), None),
    ]
