"""Status points: their times, their tags, and values that are known or absent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from collectors.insights.spend import ALL, Part, Spend
from collectors.measurements import FIELDS, Row
from collectors.orchestrator import Health
from collectors.outputs.lines import LineBuilder
from collectors.outputs.status import ExporterState, StatusRows

NOW = datetime(2026, 11, 24, 10, 2, 30, tzinfo=UTC)
SLOT = datetime(2026, 11, 24, 10, 1, tzinfo=UTC)  # with the writer's offset never in the future
STATE = ExporterState(pending=3, dead_letters=1, unpriced_tokens=70, uptime_s=42, db_bytes=4_096)
OFFSET = 7_000_000_123


def status() -> StatusRows:
    return StatusRows("laptop", OFFSET, "Europe/Berlin", "0.1.0")


def rows(
    at: datetime = NOW,
    health: list[Health] | None = None,
    spend: dict[Part, Spend] | None = None,
    maker: StatusRows | None = None,
) -> list[Row]:
    return (maker or status()).rows(at, health or [], spend or {}, STATE)


def values(row: Row) -> dict[str, Any]:
    names = [field.name for field in FIELDS[row.measurement]]
    return dict(zip(names, row.values, strict=True))


def test_the_exporter_reports_itself_with_every_field() -> None:
    [row] = rows()

    assert (row.measurement, dict(row.tags)) == (
        "exporter_status",
        {"host": "laptop", "tz": "Europe/Berlin", "version": "0.1.0"},
    )
    assert values(row) == {
        "heartbeat": 1,
        "pending": 3,
        "dead_letters": 1,
        "unpriced_tokens": 70,
        "uptime_s": 42,
        "db_bytes": 4_096,
    }


def test_a_status_point_lies_at_the_start_of_the_minute_before_plus_the_writers_offset() -> None:
    [row] = rows()

    assert row.timestamp_ns == int(SLOT.timestamp()) * 10**9 + OFFSET
    assert row.timestamp_ns < NOW.timestamp() * 10**9


def test_a_well_collector_says_how_long_ago_it_succeeded() -> None:
    well = Health(
        "claude-code", runs=4, last_success=NOW.timestamp() - 12.4, records=9, duration=0.0126
    )

    row = rows(health=[well])[1]

    assert dict(row.tags) == {"collector": "claude-code", "host": "laptop"}
    assert values(row) == {
        "ok": 1,
        "consecutive_failures": 0,
        "age_s": 12,
        "records": 9,
        "duration_ms": 13,
        "last_error": "",
    }


def test_a_failing_collector_is_not_ok_and_an_unknown_age_is_absent_not_zero() -> None:
    failing = Health("x", runs=2, consecutive_failures=2, error="the source is down")

    row = rows(health=[failing])[1]

    assert values(row)["ok"] == 0
    assert values(row)["age_s"] is None
    assert "age_s" not in LineBuilder().line(row)
    assert 'last_error="the source is down"' in LineBuilder().line(row)


def test_a_success_that_lies_in_the_future_after_a_set_clock_has_no_negative_age() -> None:
    row = rows(health=[Health("x", runs=1, last_success=NOW.timestamp() + 3_600)])[1]

    assert values(row)["age_s"] == 0


def test_spend_of_a_host_and_of_an_account_are_series_of_their_own() -> None:
    spend = {
        Part(ALL, "laptop", ""): Spend(today=1_500_000_000),
        Part("openai", "", "org-a"): Spend(today=250_000_000),
    }

    _, host, account = rows(spend=spend)

    assert dict(host.tags) == {"scope": "all", "host": "laptop"}
    assert dict(account.tags) == {"scope": "openai", "account": "org-a"}
    assert (values(host)["today_usd"], values(account)["today_usd"]) == (1.5, 0.25)
    assert all(value is not None for value in (*host.values, *account.values))


def test_two_machines_that_watch_one_account_write_the_same_point() -> None:
    spend = {Part("openai", "", "org-a"): Spend(today=1)}
    other = StatusRows("server", 99, "UTC", "0.1.0")

    mine, theirs = rows(spend=spend)[1], rows(spend=spend, maker=other)[1]

    assert LineBuilder().line(mine) == LineBuilder().line(theirs)


def test_the_same_series_keeps_its_number_and_never_meets_one_of_the_ledger() -> None:
    maker = status()
    first = rows(health=[Health("a", runs=1), Health("b", runs=1)], maker=maker)
    second = rows(NOW + timedelta(minutes=5), health=[Health("b", runs=1)], maker=maker)

    numbers = {row.tags: row.series for row in first}
    assert len(set(numbers.values())) == 3
    assert max(numbers.values()) < 0
    assert second[1].series == numbers[second[1].tags]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (timedelta(seconds=10), timedelta()),
        (timedelta(seconds=40), timedelta(minutes=1)),
        (timedelta(days=400), timedelta(days=400)),
        (timedelta(seconds=-20), timedelta()),
        (timedelta(seconds=-60), timedelta()),  # a slip: not before what was just written
        (timedelta(hours=-1), timedelta(hours=-1)),  # a correction: the clock is right now
        (timedelta(days=-400), timedelta(days=-400)),
    ],
)
def test_e1_a_set_clock_is_followed_and_a_slipping_one_does_not_go_back(
    step: timedelta, expected: timedelta
) -> None:
    maker = status()
    [before] = rows(maker=maker)

    [after] = rows(NOW + step, maker=maker)

    assert after.timestamp_ns - before.timestamp_ns == expected / timedelta(seconds=1) * 10**9


def test_names_that_could_break_a_tag_are_made_harmless() -> None:
    maker = StatusRows("lap\ntop ", 0, "UTC", "1")

    row = rows(maker=maker)[0]

    assert dict(row.tags)["host"] == "lap_top"
    assert "\n" not in LineBuilder().line(row)


def test_every_measurement_sends_exactly_the_fields_it_has() -> None:
    made = rows(
        health=[Health("x", runs=1, last_success=1.0)], spend={Part(ALL, "laptop", ""): Spend()}
    )

    assert {row.measurement: len(row.values) for row in made} == {
        name: len(FIELDS[name]) for name in ("exporter_status", "collector_status", "spend_status")
    }
    assert all(value is not None for row in made for value in row.values)
