"""Reports: hand-worked sums per day, week and month, in several zones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from collectors.clock import Calendar
from collectors.ledger import reports
from collectors.ledger.files import open_reader
from collectors.ledger.reports import Usage, report, sessions, total_of
from collectors.ledger.store import Ledger, Source, Stored
from collectors.merging import Merge
from collectors.points import Batch, Billing, Refusal, Role
from tests.support.ledgers import open_ledger, point, store

API = Source("api", Merge.LATEST)
VIEW = Source("seen", Merge.LATEST, role=Role.VIEW)
# Around New Year of 2027 (a Friday), in UTC.
MOMENTS = {
    "2026-12-27T22:30": 1,  # Sunday
    "2026-12-27T23:30": 2,  # Berlin: Monday the 28th
    "2026-12-31T22:30": 4,
    "2026-12-31T23:30": 8,  # Berlin: 1 January
    "2027-01-01T04:30": 16,  # New York: 31 December
    "2027-01-04T00:30": 32,  # a Monday; New York: Sunday
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = open_ledger(tmp_path / "ledger.db", clock=lambda: 1.9e9)
    yield found
    found.close()


@pytest.fixture
def year_end(ledger: Ledger) -> Ledger:
    store(
        ledger,
        *[
            point(when, when, input_tokens=tokens, output_tokens=0)
            for when, tokens in MOMENTS.items()
        ],
        source=API,
    )
    return ledger


def tokens(ledger: Ledger, zone: str, **options: Any) -> dict[str, int]:
    """Tokens by period."""
    found = report(ledger.db, Calendar(ZoneInfo(zone)), by=(), **options)
    return {row.period: row.usage.input_tokens for row in found}


# -- periods ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        (
            "UTC",
            {"2026-12-27": 3, "2026-12-31": 12, "2027-01-01": 16, "2027-01-04": 32},
        ),
        (
            "Europe/Berlin",
            {"2026-12-27": 1, "2026-12-28": 2, "2026-12-31": 4, "2027-01-01": 24, "2027-01-04": 32},
        ),
        (
            "America/New_York",
            {"2026-12-27": 3, "2026-12-31": 28, "2027-01-03": 32},
        ),
        (
            "Asia/Kathmandu",
            {"2026-12-28": 3, "2027-01-01": 28, "2027-01-04": 32},
        ),
    ],
)
def test_days_are_those_of_the_zone(year_end: Ledger, zone: str, expected: dict[str, int]) -> None:
    assert tokens(year_end, zone, period="daily") == expected


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", {"2026-12-21": 3, "2026-12-28": 28, "2027-01-04": 32}),
        ("Europe/Berlin", {"2026-12-21": 1, "2026-12-28": 30, "2027-01-04": 32}),
        ("America/New_York", {"2026-12-21": 3, "2026-12-28": 60}),
    ],
)
def test_weeks_begin_on_monday_and_are_named_by_it(
    year_end: Ledger, zone: str, expected: dict[str, int]
) -> None:
    assert tokens(year_end, zone, period="weekly") == expected


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", {"2026-12": 15, "2027-01": 48}),
        ("Europe/Berlin", {"2026-12": 7, "2027-01": 56}),
        ("America/New_York", {"2026-12": 31, "2027-01": 32}),
    ],
)
def test_months_are_named_by_year_and_month(
    year_end: Ledger, zone: str, expected: dict[str, int]
) -> None:
    assert tokens(year_end, zone, period="monthly") == expected


@pytest.mark.parametrize(
    ("since", "until", "daily", "monthly"),
    [
        (date(2026, 12, 28), date(2027, 1, 1), {"2026-12-28": 2, "2026-12-31": 4, "2027-01-01": 24},
         {"2026-12": 6, "2027-01": 24}),
        (date(2026, 12, 31), date(2026, 12, 31), {"2026-12-31": 4}, {"2026-12": 4}),
        (date(2027, 1, 1), None, {"2027-01-01": 24, "2027-01-04": 32}, {"2027-01": 56}),
        (None, date(2026, 12, 27), {"2026-12-27": 1}, {"2026-12": 1}),
        (date(2027, 1, 5), None, {}, {}),
        (None, date(2026, 12, 26), {}, {}),
        (date(2027, 1, 2), date(2026, 1, 1), {}, {}),
        (date(1970, 1, 1), date(9999, 12, 30), {"2026-12-27": 1, "2026-12-28": 2, "2026-12-31": 4,
         "2027-01-01": 24, "2027-01-04": 32}, {"2026-12": 7, "2027-01": 56}),
    ],
)  # fmt: skip
def test_since_and_until_are_whole_days_and_both_are_in(
    year_end: Ledger,
    since: date | None,
    until: date | None,
    daily: dict[str, int],
    monthly: dict[str, int],
) -> None:
    span = {"since": since, "until": until}

    assert tokens(year_end, "Europe/Berlin", period="daily", **span) == daily
    assert tokens(year_end, "Europe/Berlin", period="monthly", **span) == monthly
    assert sum(tokens(year_end, "Europe/Berlin", **span).values()) == sum(daily.values())


def test_a_week_that_is_cut_keeps_the_name_of_its_monday(year_end: Ledger) -> None:
    found = tokens(year_end, "UTC", period="weekly", since=date(2026, 12, 31))

    assert found == {"2026-12-28": 28, "2027-01-04": 32}


@pytest.mark.parametrize(("day", "hours"), [("2027-03-28", 23), ("2026-10-25", 25)])
def test_e3_a_long_and_a_short_day_hold_what_happened_in_their_hours(
    ledger: Ledger, day: str, hours: int
) -> None:
    start = int(datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp())
    for hour in range(-1, hours + 1):
        call = point(f"hour {hour}", input_tokens=1, output_tokens=0)
        call.timestamp = (start + hour * 3600 + 1800) * 1000
        store(ledger, call, source=API)

    found = tokens(ledger, "Europe/Berlin", period="daily")

    assert (len(found), found[day], sum(found.values())) == (3, hours, hours + 2)


def test_an_empty_ledger_reports_nothing(ledger: Ledger) -> None:
    assert report(ledger.db, ledger.calendar, period="daily") == []
    assert total_of([]) == Usage()
    assert sessions(ledger.db, ledger.calendar) == []
    assert reports.covered_days(ledger.db, ledger.calendar) is None


# -- what is summed --------------------------------------------------------------------------------


def test_rows_are_grouped_by_what_is_asked_for_in_one_order(ledger: Ledger) -> None:
    store(
        ledger,
        point("a", input_tokens=1, project="/p/shop"),
        point("b", input_tokens=2, project="/p/blog"),
        point("c", input_tokens=4, project="/p/shop", model="gpt-4o", provider="openai"),
        source=API,
    )

    def by(*names: Any) -> dict[tuple[str, ...], int]:
        found = report(ledger.db, ledger.calendar, by=names)
        return {tuple(row.keys.values()): row.usage.input_tokens for row in found}

    assert by("project") == {("/p/blog",): 2, ("/p/shop",): 5}
    assert by("model", "provider") == by("provider", "model")
    assert by("provider") == {("anthropic",): 3, ("openai",): 4}
    assert by() == {(): 7}


def test_another_view_of_what_is_counted_is_in_no_total(ledger: Ledger) -> None:
    store(ledger, point("a", input_tokens=1), source=API)
    store(ledger, point("a", input_tokens=100), source=VIEW)

    assert tokens(ledger, "UTC") == {"": 1}
    assert tokens(ledger, "UTC", role=Role.VIEW) == {"": 100}
    assert tokens(ledger, "UTC", period="daily") == {"2026-03-02": 1}


def test_the_three_meanings_of_money_stay_apart(ledger: Ledger) -> None:
    for billing in Billing:
        call = point(billing.value, input_tokens=100_000, output_tokens=0)
        store(ledger, call, source=Source(billing.value, Merge.LATEST, billing=billing))

    total = total_of(report(ledger.db, ledger.calendar))

    # Sonnet 4.5 asks $3 for a million input tokens
    assert (total.cost_nano, total.api_equivalent_nano, total.plan_unknown_nano) == (3 * 10**8,) * 3
    assert total.fields()["cost_usd"] == 0.3
    assert total.requests == 3


def test_what_has_no_price_is_counted_and_named_not_free(ledger: Ledger) -> None:
    store(ledger, point("a", model="no-such-model-1", input_tokens=90), source=API)
    store(ledger, point("b", model="no-such-model-2", input_tokens=190), source=API)
    store(ledger, point("c"), source=API)

    assert total_of(report(ledger.db, ledger.calendar)).unpriced_tokens == 300
    assert reports.unpriced_models(ledger.db) == [
        ("anthropic", "no-such-model-2", 200),
        ("anthropic", "no-such-model-1", 100),
    ]


def test_total_tokens_are_the_disjoint_classes_and_the_hit_ratio_is_of_the_prompt() -> None:
    usage = Usage(
        input_tokens=10,
        cache_read_tokens=60,
        cache_write_tokens=30,
        cache_write_1h_tokens=20,
        output_tokens=7,
        reasoning_tokens=5,
        unsplit_tokens=3,
    )

    assert usage.total_tokens == 110
    assert usage.cache_hit_ratio == 0.6
    assert Usage().cache_hit_ratio is None
    assert usage.fields()["total_tokens"] == 110


def test_a_row_as_json_has_its_period_keys_and_every_sum(ledger: Ledger) -> None:
    store(ledger, point("a"), source=API)

    [row] = report(ledger.db, ledger.calendar, period="monthly")

    found = row.as_json()
    assert list(found)[:4] == ["period", "source", "provider", "model"]
    assert (found["period"], found["input_tokens"], found["total_tokens"]) == ("2026-03", 100, 110)
    assert set(Usage().fields()) < set(found)


# -- sessions --------------------------------------------------------------------------------------


def test_sessions_say_where_and_when_and_how_much_latest_first(ledger: Ledger) -> None:
    store(
        ledger,
        point("a", "2026-03-02T10:00", session="s1", project="/p/shop", branch="main"),
        point("b", "2026-03-02T11:00", session="s1", project="/p/shop", branch="main"),
        point("c", "2026-03-03T10:00", session="s2", project="/p/blog"),
        point("d", "2026-03-04T10:00"),
        source=API,
    )

    latest, first = sessions(ledger.db, ledger.calendar)

    assert (latest.session, latest.project, latest.usage.requests) == ("s2", "/p/blog", 1)
    assert (first.session, first.branch, first.usage.input_tokens) == ("s1", "main", 200)
    assert datetime.fromtimestamp(first.first_ms / 1000, UTC).hour == 10
    assert datetime.fromtimestamp(first.last_ms / 1000, UTC).hour == 11


def test_sessions_of_some_days_only(ledger: Ledger) -> None:
    store(
        ledger,
        point("a", "2026-03-02T22:30", session="s1"),  # Berlin: 23:30
        point("b", "2026-03-02T23:30", session="s2"),  # Berlin: the 3rd
        source=API,
    )

    def found(**span: Any) -> list[str]:
        return [x.session for x in sessions(ledger.db, ledger.calendar, **span)]

    assert found(until=date(2026, 3, 2)) == ["s1"]
    assert found(since=date(2026, 3, 3)) == ["s2"]
    assert found(since=date(2026, 3, 3), until=date(2026, 3, 3)) == ["s2"]
    assert found(limit=1) == ["s2"]


def test_sessions_of_a_view_are_not_listed(ledger: Ledger) -> None:
    store(ledger, point("a", session="s1"), source=VIEW)

    assert sessions(ledger.db, ledger.calendar) == []


# -- runs and refusals -----------------------------------------------------------------------------


def test_runs_are_listed_newest_first_and_the_last_success_is_the_last_without_error(
    ledger: Ledger,
) -> None:
    ledger.note_run("a", 100.0, 0.5, Stored(points=3, changed=2, skipped=1), "", "")
    ledger.note_run("a", 200.0, 0.5, Stored(), "down", "wait")
    ledger.note_run("b", 150.0, 0.5, Stored(), "down", "wait")

    assert [(run.collector, run.started_at, run.error) for run in reports.runs(ledger.db)] == [
        ("b", 150.0, "down"),
        ("a", 200.0, "down"),
        ("a", 100.0, ""),
    ]
    assert reports.runs(ledger.db, limit=1, collector="a")[0].started_at == 200.0
    assert reports.last_success(ledger.db) == {"a": 100.0}


def test_a_thousand_runs_of_each_collector_are_kept(ledger: Ledger) -> None:
    for number in range(1_010):
        ledger.note_run("busy", float(number), 0.1, Stored(), "", "")
    ledger.note_run("calm", 5.0, 0.1, Stored(), "", "")

    counts = dict(ledger.db.execute("SELECT collector, count(*) FROM run GROUP BY 1"))

    assert counts == {"busy": 1_000, "calm": 1}
    assert reports.runs(ledger.db, 2_000, "busy")[-1].started_at == 10.0


def test_skipped_records_are_counted_by_reason_with_one_place(ledger: Ledger) -> None:
    refusals = [Refusal(reason="not JSON", location="/l/a.jsonl", offset=n) for n in (1, 2)]
    refusals.append(Refusal(reason="timestamp missing", location="/l/b.jsonl"))
    ledger.commit("api", API, Batch(refusals=refusals, skipped=3))

    assert reports.refusals(ledger.db) == [
        ("api", "not JSON", 2, "/l/a.jsonl"),
        ("api", "timestamp missing", 1, "/l/b.jsonl"),
    ]


def test_reports_read_beside_a_writer_through_a_read_only_connection(year_end: Ledger) -> None:
    reader = open_reader(year_end.path)

    found = report(reader, Calendar(ZoneInfo("UTC")), by=())
    reader.close()

    assert found[0].usage.input_tokens == 63
