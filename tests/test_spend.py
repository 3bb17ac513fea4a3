"""Spend at a glance: hand-worked windows, and parts that add up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors.clock import Calendar
from collectors.insights.spend import ALL, Part, Spend, spend_status, windows
from collectors.ledger import reports
from collectors.ledger.reports import sums_between
from collectors.ledger.store import Ledger, Source
from collectors.merging import Merge
from collectors.points import Billing, Role
from tests.support.ledgers import open_ledger, point, store
from tests.test_clock import ZONES

METERED = Source("api", Merge.LATEST)
BERLIN = Calendar(ZoneInfo("Europe/Berlin"))
HOST = Part(ALL, "laptop", "")
DOLLAR = 1_000_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = open_ledger(tmp_path / "ledger.db", clock=lambda: 1.9e9)
    yield found
    found.close()


def at_local(text: str, zone: str = "Europe/Berlin") -> datetime:
    """A local time, as UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def spent(ledger: Ledger, moment: datetime, units: int, **values: Any) -> None:
    """Count a call of so many units of three dollars: a million input tokens cost $0.15."""
    given = {"provider": "openai", "model": "gpt-4o-mini", "output_tokens": 0, **values}
    call = point(f"{moment.isoformat()} {values}", input_tokens=units * 20_000_000, **given)
    call.timestamp = moment
    store(ledger, call, source=METERED)


def units_of(spend: Spend) -> dict[str, int]:
    """What was spent in each window, in units of three dollars; zeros are left out."""
    named = {name: getattr(spend, name) for name in Spend.__struct_fields__}
    assert all(value % (3 * DOLLAR) == 0 for value in named.values())
    return {name: value // (3 * DOLLAR) for name, value in named.items() if value}


# -- windows ---------------------------------------------------------------------------------------


def hours(window: tuple[int, int]) -> float:
    return (window[1] - window[0]) / 3600


def test_windows_are_local_days_weeks_and_months() -> None:
    found = windows(at_local("2026-11-24T10:02:30"), BERLIN)  # a Tuesday

    local = {
        name: tuple(
            datetime.fromtimestamp(edge, BERLIN.zone).strftime("%m-%d %H:%M") for edge in edges
        )
        for name, edges in found.items()
    }
    assert local == {
        "today": ("11-24 00:00", "11-25 00:00"),
        "yesterday": ("11-23 00:00", "11-24 00:00"),
        "yesterday_so_far": ("11-23 00:00", "11-23 10:05"),
        "week": ("11-23 00:00", "11-25 00:00"),
        "month": ("11-01 00:00", "11-25 00:00"),
        "last_month": ("10-01 00:00", "11-01 00:00"),
        "last_7_days": ("11-17 00:00", "11-24 00:00"),
        "last_30_days": ("10-25 00:00", "11-24 00:00"),
    }


@pytest.mark.parametrize(
    ("now", "today", "yesterday", "last_7_days", "last_30_days"),
    [
        ("2027-03-28T12:00", 23, 24, 7 * 24, 30 * 24),
        ("2027-03-29T12:00", 24, 23, 7 * 24 - 1, 30 * 24 - 1),
        ("2026-10-25T12:00", 25, 24, 7 * 24, 30 * 24),
        ("2026-10-26T12:00", 24, 25, 7 * 24 + 1, 30 * 24 + 1),
        ("2026-11-30T12:00", 24, 24, 7 * 24, 30 * 24),
    ],
)
def test_e3_days_of_23_and_25_hours_are_whole_days(
    now: str, today: int, yesterday: int, last_7_days: int, last_30_days: int
) -> None:
    found = windows(at_local(now), BERLIN)

    assert hours(found["today"]) == today
    assert hours(found["yesterday"]) == yesterday
    assert hours(found["last_7_days"]) == last_7_days
    assert hours(found["last_30_days"]) == last_30_days


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-11-24T00:00:00", "2026-11-23T00:05"),
        ("2026-11-24T00:04:59", "2026-11-23T00:05"),
        ("2026-11-24T23:59:59", "2026-11-24T00:00"),
        ("2026-10-26T02:30:00", "2026-10-25T02:35"),  # the first of two half past twos
        ("2026-03-30T12:00:00", "2026-03-29T12:05"),  # yesterday's clock, not 24 hours before
    ],
)
def test_yesterday_by_now_ends_with_the_bucket_of_the_same_time_of_day(
    now: str, until: str
) -> None:
    found = windows(at_local(now), BERLIN)

    assert found["yesterday_so_far"][1] == int(at_local(until).timestamp())


@pytest.mark.parametrize(
    ("now", "month", "last_month"),
    [
        ("2027-01-01T00:00", "2027-01-01", "2026-12-01"),
        ("2028-03-31T12:00", "2028-03-01", "2028-02-01"),
        ("2026-12-31T23:59", "2026-12-01", "2026-11-01"),
    ],
)
def test_the_month_before_is_a_whole_month_whatever_its_length(
    now: str, month: str, last_month: str
) -> None:
    found = windows(at_local(now), BERLIN)

    assert found["month"][0] == at_local(month).timestamp()
    assert found["last_month"] == (at_local(last_month).timestamp(), at_local(month).timestamp())


# -- sums ------------------------------------------------------------------------------------------


def test_spend_falls_into_each_window_it_belongs_to(ledger: Ledger) -> None:
    for local, amount in {
        "2026-11-24T00:00": 1,  # the first minute of today
        "2026-11-24T10:01": 2,
        "2026-11-23T23:59": 4,  # Monday, later than now
        "2026-11-23T10:04": 8,  # Monday, in now's bucket
        "2026-11-22T12:00": 16,  # Sunday: last week
        "2026-11-17T00:00": 32,  # a week before today
        "2026-11-16T23:55": 64,
        "2026-11-01T00:00": 128,
        "2026-10-31T23:55": 256,
        "2026-10-25T00:00": 512,  # thirty days before today
        "2026-10-24T23:55": 1024,
        "2026-10-01T00:00": 2048,
        "2026-09-30T23:55": 4096,
    }.items():
        spent(ledger, at_local(local), amount)

    found = spend_status(ledger.db, at_local("2026-11-24T10:02:30"), BERLIN)

    assert units_of(found[HOST]) == {
        "today": 1 + 2,
        "yesterday": 4 + 8,
        "yesterday_so_far": 8,
        "week": 1 + 2 + 4 + 8,
        "month": 1 + 2 + 4 + 8 + 16 + 32 + 64 + 128,
        "last_month": 256 + 512 + 1024 + 2048,
        "last_7_days": 4 + 8 + 16 + 32,
        "last_30_days": 4 + 8 + 16 + 32 + 64 + 128 + 256 + 512,
    }


def test_the_repeated_hour_counts_both_times(ledger: Ledger) -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 02:30 summer time
    spent(ledger, first, 1)
    spent(ledger, first + timedelta(hours=1), 2)  # 02:30 again

    found = spend_status(ledger.db, at_local("2026-10-26T12:00"), BERLIN)

    assert units_of(found[HOST])["yesterday"] == 3


def test_averages_are_over_whole_days_before_today() -> None:
    spend = Spend(today=5 * DOLLAR, last_7_days=14 * DOLLAR, last_30_days=15 * DOLLAR)

    fields = spend.fields()

    assert (fields["avg7_usd_per_day"], fields["avg30_usd_per_day"]) == (2.0, 0.5)
    assert fields["today_usd"] == 5.0


def test_parts_are_hosts_and_accounts_and_each_scope_adds_up_to_all(ledger: Ledger) -> None:
    now = at_local("2026-11-24T10:00")
    spent(ledger, now, 1)
    spent(ledger, now, 2, account="org-a")
    spent(ledger, now, 4, account="org-b")
    spent(ledger, now, 8, provider="azure", account="org-a")

    found = {
        part: units_of(spend).get("today")
        for part, spend in spend_status(ledger.db, now, BERLIN).items()
    }

    assert found[Part("openai", "laptop", "")] == 1
    assert found[Part("openai", "", "org-a")] == 2
    assert found[Part("openai", "", "org-b")] == 4
    assert found[HOST] == 1
    assert found[Part(ALL, "", "org-b")] == 4
    whole = sum(found[part] or 0 for part in found if part.scope == ALL)
    assert whole == sum(found[part] or 0 for part in found if part.scope != ALL)


def test_a_part_that_never_spent_is_there_as_zeros_when_asked_for(ledger: Ledger) -> None:
    now = at_local("2026-11-24T10:00")

    assert spend_status(ledger.db, now, BERLIN) == {}
    assert spend_status(ledger.db, now, BERLIN, [HOST]) == {HOST: Spend()}


def test_views_and_list_prices_of_subscriptions_and_unknown_plans_are_not_spending(
    ledger: Ledger,
) -> None:
    now = at_local("2026-11-24T10:00")
    for name, billing, role in (
        ("sub", Billing.SUBSCRIPTION, Role.PRIMARY),
        ("open", Billing.UNKNOWN, Role.PRIMARY),
        ("seen", Billing.METERED, Role.VIEW),
    ):
        call = point(name, input_tokens=1_000_000)
        call.timestamp = now
        store(ledger, call, source=Source(name, Merge.LATEST, 1, billing, role))

    found = spend_status(ledger.db, now, BERLIN)

    assert {spend.today for spend in found.values()} == {0}
    assert all(part.account == "" for part in found)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    zone=st.sampled_from(ZONES),
    moments=st.lists(st.integers(1_767_225_600, 1_798_761_600), min_size=1, max_size=20),
    data=st.data(),
)
def test_e3_in_any_zone_the_sum_of_days_is_the_total(
    ledger: Ledger, zone: str, moments: list[int], data: st.DataObject
) -> None:
    ledger.db.execute("BEGIN")  # each example sees only its own
    for table in ("record", "bucket"):
        ledger.db.execute(f"DELETE FROM {table}")
    ledger.db.execute("COMMIT")
    ledger.remember()
    for number, moment in enumerate(moments):
        call = point(f"call {number}", input_tokens=data.draw(st.integers(1, 10**6)))
        call.timestamp = moment * 1000
        store(ledger, call, source=METERED)
    calendar = Calendar(ZoneInfo(zone))

    total = reports.total_of(reports.report(ledger.db, calendar, by=()))
    per_period = {
        period: reports.total_of(reports.report(ledger.db, calendar, period=period, by=("model",)))
        for period in ("daily", "weekly", "monthly")
    }

    assert total.requests == len(moments)
    assert set(map(repr, per_period.values())) == {repr(total)}
    # a year of "today" is the year
    days = [date(2025, 12, 31) + timedelta(days=n) for n in range(368)]
    assert total.cost_nano == sum(
        usage.cost_nano
        for day in days
        for usage in sums_between(ledger.db, *calendar.day_range(day)).values()
    )
