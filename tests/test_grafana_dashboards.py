"""Every query of every panel on a real engine: no error, the right numbers, nothing lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from grafana import claude_code, overview
from tests.support import dashdata
from tests.support.dashcheck import (
    ALL,
    All,
    Choice,
    Json,
    all_of,
    ask,
    choices,
    expand,
    numbers,
    panel_of,
    run_all,
    total,
)
from tests.support.dashdata import EVERYBODY, METERED, OF_ACCOUNT, PLANNED, UNPLANNED, Use
from tests.support.influxd import Database, Engine, Series

UNTIL = dashdata.last_hour()  # once: an hour that ends between seed and question moves no number
OVERVIEW = overview.build()
CACHE = claude_code.build()
BOTH = pytest.mark.parametrize("dashboard", [OVERVIEW, CACHE], ids=["overview", "cache"])

# What this version of the exporter does not write yet.
NOT_YET = {
    "5 Month at this pace · everything/A",
    "5 Month at this pace · everything/B",
    "9 Today against usual · everything/B",
    "13 Subscription limits · everything/A",
    "14 Accounts/A",
    "11 Subscription limits over time · everything/A",
}
NOT_SPLIT = {"11 Tokens by kind/B", "9 Tokens by kind/B"}  # no source of the seed gives only sums


@pytest.fixture(scope="session")
def month(engine: Engine) -> Database:
    """A month of use by everybody, and what the exporter says about itself."""
    database = Database(engine)
    now = time.time()
    database.write(dashdata.use_lines(EVERYBODY, UNTIL))
    database.write(dashdata.heartbeat_lines(now))
    database.write(dashdata.state_lines(now))
    return database


def span(days: int) -> tuple[int, int]:
    return UNTIL - days * 86400, UNTIL


def everything(**chosen: Choice) -> dict[str, Choice]:
    return {**all_of(OVERVIEW, dashdata.ZONE), **chosen}


def answer(
    database: Database, dashboard: Json, panel: int, ref: str, **chosen: Choice
) -> list[Series]:
    shown = panel_of(dashboard, panel)
    [target] = [target for target in shown["targets"] if target["refId"] == ref]
    return ask(shown, target, database.query, everything(**chosen), *span(7))


def value(found: Sequence[Series], column: str = "") -> Any:
    """The last value of the only series, as a stat shows it."""
    [series] = found
    place = series["columns"].index(column) if column else 1
    return series["values"][-1][place]


# ---- everything answers -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("days", [1, 7, 30])
def test_every_query_has_values_once_there_is_use(
    month: Database, dashboard: Json, days: int
) -> None:
    found = run_all(dashboard, month.query, everything(), *span(days))

    assert {name for name, count in found.items() if not count} - NOT_SPLIT <= NOT_YET


@BOTH
@pytest.mark.parametrize(
    "chosen",
    [
        *(
            {"provider": use.provider, "model": use.model, "project": use.project}
            for use in EVERYBODY
        ),
        {"account": OF_ACCOUNT.account},
        {"host": [METERED.host, PLANNED.host]},
        {"model": [use.model for use in EVERYBODY], "project": [use.project for use in EVERYBODY]},
        {"provider": "nobody"},
    ],
    ids=["metered", "planned", "unplanned", "account", "one account", "hosts", "lists", "nobody"],
)
def test_no_choice_makes_a_query_fail(
    month: Database, dashboard: Json, chosen: dict[str, Choice]
) -> None:
    for days in (1, 7, 30):
        run_all(dashboard, month.query, everything(**chosen), *span(days))


@BOTH
def test_an_empty_database_answers_with_nothing_and_without_errors(
    engine_database: Database, dashboard: Json
) -> None:
    nothing = {**all_of(dashboard, zone="")}

    found = run_all(dashboard, engine_database.query, nothing, *span(7))

    assert set(found.values()) == {0}
    assert set(map(tuple, choices(dashboard, engine_database.query).values())) == {()}


def test_panels_of_later_versions_fill_once_their_fields_arrive(engine_database: Database) -> None:
    now = time.time()
    engine_database.write(dashdata.use_lines(EVERYBODY, UNTIL, days=1))
    engine_database.write(dashdata.later_lines(now))

    filled = run_all(OVERVIEW, engine_database.query, everything(), int(now) - 86400, int(now))
    filled |= run_all(CACHE, engine_database.query, everything(), int(now) - 86400, int(now))

    assert {name for name in NOT_YET if not filled[name]} == set()
    forecast = answer(engine_database, OVERVIEW, 5, "B")
    assert value(forecast) == pytest.approx(60 / 80)


# ---- filters ------------------------------------------------------------------------------------


def test_variables_offer_every_name_that_was_written(month: Database) -> None:
    offered = choices(OVERVIEW, month.query)

    assert offered == {
        "provider": ["anthropic", "openai", "openrouter"],
        "source": ["claude_code", "codex", "openrouter"],
        "model": sorted(use.model for use in EVERYBODY),
        "project": sorted(use.project for use in EVERYBODY),
        "account": [OF_ACCOUNT.account],
        "host": ["box.local", "laptop"],
        "tz": [dashdata.ZONE],
    }


def test_models_are_offered_of_the_chosen_provider_only(month: Database) -> None:
    [variable] = [v for v in OVERVIEW["templating"]["list"] if v["name"] == "model"]

    found = month.query(expand(variable["query"], everything(provider="openai"), 0, 1))

    assert [row[1] for series in found for row in series["values"]] == [METERED.model]


def test_accounts_that_only_have_a_balance_can_be_chosen(engine_database: Database) -> None:
    engine_database.write(dashdata.use_lines([METERED], UNTIL, days=1))
    engine_database.write(dashdata.later_lines(time.time()))

    offered = choices(OVERVIEW, engine_database.query)

    assert offered["provider"] == ["deepseek", "openai"]
    assert offered["account"] == ["main"]


@pytest.mark.parametrize("tag", ["provider", "source", "model", "project"])
def test_the_parts_of_a_filter_add_up_to_the_whole(month: Database, tag: str) -> None:
    offered = choices(OVERVIEW, month.query)[tag]

    whole = total(answer(month, OVERVIEW, 6, "A"))
    parts = [total(answer(month, OVERVIEW, 6, "A", **{tag: one})) for one in offered]

    assert whole == 4 * 7 * 24 * dashdata.TOTAL
    assert sum(parts) == whole
    assert total(answer(month, OVERVIEW, 6, "A", **{tag: offered})) == whole


@pytest.mark.parametrize("use", EVERYBODY, ids=lambda use: use.source + " " + use.model)
def test_a_model_with_an_awkward_name_is_found_by_exactly_that_name(
    month: Database, use: Use
) -> None:
    found = answer(month, OVERVIEW, 6, "A", model=use.model, project=use.project)

    assert total(found) == 7 * 24 * dashdata.TOTAL


def test_all_counts_series_without_the_tag_and_a_chosen_value_does_not(month: Database) -> None:
    def tokens(**chosen: Choice) -> float:
        return total(answer(month, OVERVIEW, 6, "A", **chosen)) / (7 * 24 * dashdata.TOTAL)

    assert tokens(host=ALL, account=ALL) == 4
    assert tokens(host="laptop") == 2
    assert tokens(host="box.local") == 1
    assert tokens(account=OF_ACCOUNT.account) == 1
    assert tokens(account=OF_ACCOUNT.account, host="laptop") == 0


def test_an_all_value_that_wants_a_letter_would_lose_series_without_the_tag(
    month: Database,
) -> None:
    """The reason for `.*`: with `.+` no series has both a host and an account."""
    found = answer(month, OVERVIEW, 6, "A", host=All(".+"), account=All(".+"))

    assert total(found) == 0


# ---- numbers ------------------------------------------------------------------------------------


def test_paid_today_is_the_exporters_day(month: Database) -> None:
    hours = dashdata.hours_of_today(UNTIL)

    found = answer(month, OVERVIEW, 2, "A")

    # Two of the series are paid for.
    assert value(found) == pytest.approx(2 * hours * dashdata.PAID)
    assert len(found[0]["values"]) in (14, 15)


def test_list_prices_are_shown_by_meaning_and_never_added(month: Database) -> None:
    subscription = answer(month, OVERVIEW, 4, "B", provider="anthropic")
    unknown_plan = answer(month, OVERVIEW, 4, "C", provider="anthropic")

    ratio = total(subscription) / total(unknown_plan)
    assert ratio == pytest.approx(dashdata.SUBSCRIPTION / dashdata.UNKNOWN_PLAN)
    assert total(answer(month, OVERVIEW, 4, "A", provider="anthropic")) == 0


def test_a_fresh_user_sees_money_named_plan_not_set_and_not_only_zeros(
    engine_database: Database,
) -> None:
    engine_database.write(dashdata.use_lines([UNPLANNED], UNTIL))
    hours = dashdata.hours_of_today(UNTIL)

    def shown(panel: int, ref: str) -> list[Series]:
        return answer(engine_database, OVERVIEW, panel, ref)

    assert value(shown(2, "A")) == 0  # paid today
    assert shown(3, "A") == []  # no subscription
    assert value(shown(3, "B")) == pytest.approx(hours * dashdata.UNKNOWN_PLAN)
    assert value(shown(1, "D")) > 0  # the strip warns
    assert [s["tags"] for s in shown(12, "C")] == [{"model": UNPLANNED.model}]
    assert shown(8, "B") == []
    assert total(shown(8, "C")) == pytest.approx(7 * 24 * dashdata.UNKNOWN_PLAN)


def test_what_a_user_does_not_have_leaves_no_zero_line_behind(engine_database: Database) -> None:
    engine_database.write(dashdata.use_lines([METERED], UNTIL))

    nothing = [
        answer(engine_database, OVERVIEW, panel, ref)
        for panel, ref in ((1, "D"), (3, "A"), (3, "B"), (4, "B"), (4, "C"), (8, "B"), (8, "C"))
    ]

    assert nothing == [[]] * 7


def test_spend_per_day_adds_up_to_what_was_paid(month: Database) -> None:
    found = answer(month, OVERVIEW, 8, "A")

    by_provider = {series["tags"]["provider"]: total([series]) for series in found}
    assert by_provider == {
        "anthropic": 0,
        "openai": pytest.approx(7 * 24 * dashdata.PAID),
        "openrouter": pytest.approx(7 * 24 * dashdata.PAID),
    }


def test_days_begin_at_midnight_of_the_exporter(month: Database) -> None:
    found = answer(month, OVERVIEW, 8, "A")

    # Midnight in Kathmandu is 18:15 UTC.
    assert {stamp // 1000 % 86400 for stamp, _ in found[0]["values"]} == {(18 * 60 + 15) * 60}


def test_tokens_by_kind_add_up_to_all_tokens(month: Database) -> None:
    kinds = answer(month, OVERVIEW, 11, "A")

    columns = [sum(row[place] for row in kinds[0]["values"]) for place in (1, 2, 3, 4)]
    hours = 4 * 7 * 24
    assert columns == [hours * dashdata.READ, hours * dashdata.WRITE, hours * 100, hours * 40]
    assert sum(columns) == total(answer(month, OVERVIEW, 6, "A"))


@pytest.mark.parametrize(
    ("panel", "expected"),
    [
        (1, 0.7),  # 700 of 100 + 700 + 200
        (2, 4 * 7 * 24 * 0.0625),
        (3, 3.5),  # 700 / 200
        (4, 500),  # 1,000 in two requests
        (5, 20),
    ],
)
def test_cache_numbers_are_those_of_the_range(month: Database, panel: int, expected: float) -> None:
    assert value(answer(month, CACHE, panel, "A")) == pytest.approx(expected)


@pytest.mark.parametrize(("dashboard", "panel"), [(OVERVIEW, 7), (CACHE, 1), (CACHE, 3)])
def test_a_ratio_of_nothing_is_unknown_and_not_a_red_zero(
    engine_database: Database, dashboard: Json, panel: int
) -> None:
    stamp = UNTIL - 600
    engine_database.write(
        f"token_usage,{METERED.tags} input_tokens=0i,cache_read_tokens=0i,cache_write_tokens=0i,"
        f"unsplit_tokens=9i,total_tokens=9i,requests=0i {stamp}"
    )

    assert total(answer(engine_database, dashboard, 6, "A")) == (9 if dashboard is OVERVIEW else 0)
    assert answer(engine_database, dashboard, panel, "A") == []


def test_tokens_that_are_not_split_are_drawn_where_there_are_any(
    engine_database: Database,
) -> None:
    stamp = UNTIL - 600
    engine_database.write(
        f"token_usage,{METERED.tags} input_tokens=0i,unsplit_tokens=9i,total_tokens=9i {stamp}"
    )

    assert total(answer(engine_database, OVERVIEW, 11, "B")) == 9


def test_cache_writes_are_split_by_lifetime(month: Database) -> None:
    [series] = answer(month, CACHE, 10, "A", provider="openai")

    assert sum(row[1] for row in series["values"]) == 7 * 24 * 150
    assert sum(row[2] for row in series["values"]) == 7 * 24 * 50


def test_the_table_of_models_has_a_row_for_each_and_their_sums(month: Database) -> None:
    found = answer(month, OVERVIEW, 15, "A")

    rows = {
        series["tags"]["model"]: dict(zip(series["columns"], series["values"][0], strict=True))
        for series in found
    }
    assert rows.keys() == {use.model for use in EVERYBODY}
    metered = rows[METERED.model]
    assert metered["Paid"] == pytest.approx(7 * 24 * 0.25)
    assert metered["Subscription"] == metered["Plan not set"] == 0
    assert metered["Requests"] == 7 * 24 * 2
    assert metered["Cache hit"] == pytest.approx(0.7)
    assert metered["Paid per request"] == pytest.approx(0.125)
    assert rows[UNPLANNED.model]["Plan not set"] == pytest.approx(7 * 24 * 0.125)


# ---- the strip ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("silent", "is_live"),
    [(timedelta(0), True), (timedelta(minutes=9), True), (timedelta(minutes=21), False)],
)
def test_the_exporter_is_live_until_it_was_silent_for_twenty_minutes(
    engine_database: Database, silent: timedelta, is_live: bool
) -> None:
    engine_database.write(dashdata.heartbeat_lines(time.time(), silent))

    heartbeats = value(answer(engine_database, OVERVIEW, 1, "A"))

    assert (heartbeats > 0) is is_live


def test_the_strip_counts_sources_by_how_their_last_run_went(month: Database) -> None:
    found = answer(month, OVERVIEW, 1, "B")

    assert value(found, "Sources fine") == 1
    assert value(found, "Sources failing") == 1


def test_an_exporter_that_was_upgraded_is_not_counted_twice(engine_database: Database) -> None:
    now = int(time.time())
    engine_database.write(
        [
            f"exporter_status,tz=UTC,version=1,host=a unpriced_tokens=5i,pending=1i {now - 600}",
            f"exporter_status,tz=UTC,version=2,host=a unpriced_tokens=7i,pending=2i {now - 60}",
            f"exporter_status,tz=UTC,version=2,host=b unpriced_tokens=1i,pending=0i {now - 60}",
        ]
    )

    found = answer(engine_database, OVERVIEW, 1, "C")

    assert value(found, "Tokens without a price") == 8
    assert value(found, "Waiting to send") == 2


def test_today_against_usual_adds_up_hosts_and_accounts(month: Database) -> None:
    found = answer(month, OVERVIEW, 9, "A")

    assert value(found, "Today so far") == 1.5 + 2 + 4 + 8
    assert value(found, "Yesterday by now") == 4
    assert value(found, "Average day, 7 d") == 12


def test_a_state_that_is_hours_old_is_not_shown_as_today(engine_database: Database) -> None:
    engine_database.write(dashdata.state_lines(time.time() - 3 * 3600))

    assert numbers(answer(engine_database, OVERVIEW, 9, "A")) == []
