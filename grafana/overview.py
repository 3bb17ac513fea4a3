"""The overview: is it running, what did today cost, where is the month going, what caused it.

Cut for two folds: the first 15 grid rows fit a laptop, the first 27 a television in kiosk mode.
"""

# ruff: noqa: S608 - queries are made of constants of this folder

from __future__ import annotations

from typing import Final

from grafana.board import dashboard
from grafana.colours import ACT, EMPHASIS, GOOD, GREY, TEXT, WATCH
from grafana.fields import (
    BY_THRESHOLD,
    COUNT,
    DAYS,
    SHARE,
    TOKENS,
    UNKNOWN,
    USD,
    USD_FINE,
    USD_WHOLE,
    Json,
    by_name,
    by_target,
    fixed,
    not_money,
    plain,
    provider_colours,
    steps,
    target,
    written,
)
from grafana.influxql import FILTER, IN_RANGE, LOCAL, PER_DAY, PROMPT, matches, ratio, where_any
from grafana.kit import Column, Grid, bar_gauge, bars, donut, panel, ranking, reduced, stat, table
from grafana.shared import (
    BY_MONEY,
    CACHE_HIT,
    HIT_COLUMN,
    HIT_STEPS,
    MONEY,
    MONEY_COLUMNS,
    MONEY_TEXT,
    NOTHING_FOUND,
    OVERVIEW,
    PAID,
    PER_REQUEST,
    PLAN_HINT,
    PLAN_NOT_SET,
    SUBSCRIPTION,
    drill_down,
    tokens_by_kind,
    variables,
)

ACCOUNTS: Final = 14  # the low-balance alert links to this panel

# The exporter rewrites its state every few minutes; what is an hour old is not the state any more.
_FRESH: Final = "time > now() - 1h"
_TWO_WEEKS: Final = f"time > now() - 14d AND {FILTER}"
_EVERYTHING: Final = "The filters above do not change it."


def build() -> Json:
    """The dashboard."""
    return dashboard(
        OVERVIEW,
        "Token usage · Overview",
        "What every LLM token costs: today, this month, by provider, model and project.",
        [
            _strip(),
            _paid_today(),
            _list_price_today(),
            _this_month(),
            _month_at_this_pace(),
            _tokens(),
            _prompt_from_cache(),
            _spend_per_day(),
            _today_against_usual(),
            _tokens_by_provider(),
            tokens_by_kind(11, Grid(0, 15, 12, 7)),
            _most_expensive_models(),
            _limits(),
            _accounts(),
            _models(),
            _requests(),
            _projects(),
        ],
        variables(),
        refresh="1m",
    )


def _strip() -> Json:
    heartbeat = target(
        # The mean of two ten-minute buckets is above zero for 10 to 20 minutes after the last
        # heartbeat. A plain count in the last 20 minutes would return nothing, and the word
        # "silent" would not appear but the whole field vanish.
        """SELECT moving_average(count("heartbeat"), 2) FROM "exporter_status"
        WHERE time > now() - 7d GROUP BY time(10m) fill(0)""",
        "Exporter",
    )
    sources = target(
        """SELECT sum("ok") AS "Sources fine", count("ok") - sum("ok") AS "Sources failing"
        FROM (SELECT last("ok") AS "ok" FROM "collector_status" WHERE time > now() - 1d
        GROUP BY "collector", "host")""",
        "$col",
    )
    exporter = target(
        """SELECT sum("unpriced") AS "Tokens without a price", sum("pending") AS "Waiting to send"
        FROM (SELECT last("unpriced_tokens") AS "unpriced", last("pending") AS "pending"
        FROM "exporter_status" WHERE time > now() - 1d GROUP BY "host")""",
        "$col",
    )
    plan = target(
        f"""SELECT sum("plan_unknown_usd") FROM "token_usage"
        WHERE {where_any("plan_unknown_usd")} AND time > now() - 7d""",
        "Plan not set, 7 days",
    )
    return panel(
        1,
        "stat",
        "",
        Grid(0, 0, 24, 2),
        [heartbeat, sources, exporter, plan],
        description=plain(f"""
            State of the exporter: whether it wrote within the last 20 minutes, how its sources did
            at their last run, tokens whose price is unknown, points not yet sent.
            {PLAN_HINT} {_EVERYTHING}
        """),
        shown=COUNT,
        empty="No word from the exporter in the last 7 days",
        colour=fixed(TEXT),
        transparent=True,
        options={
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "value_and_name",
            "justifyMode": "center",
            "orientation": "vertical",  # side by side
            "wideLayout": True,
            "showPercentChange": False,
            "text": {"titleSize": 13, "valueSize": 20},
            "reduceOptions": reduced("lastNotNull"),
        },
        overrides=[
            by_target(
                "A",
                {
                    "mappings": [
                        {"type": "value", "options": {"0": {"text": "silent", "index": 0}}},
                        {
                            "type": "range",
                            "options": {
                                "from": 0.01,
                                "to": None,
                                "result": {"text": "live", "index": 1},
                            },
                        },
                    ],
                    "thresholds": steps((ACT, None), (GOOD, 0.01)),
                    "color": BY_THRESHOLD,
                },
            ),
            by_name("Sources failing", _watched(1)),
            by_name("Tokens without a price", {**_watched(1), **written(TOKENS)}),
            by_name("Waiting to send", _watched(5000)),
            by_target("D", {**_watched(0.01), **written(USD)}),
        ],
    )


def _watched(limit: float) -> Json:
    return {"thresholds": steps((TEXT, None), (WATCH, limit)), "color": BY_THRESHOLD}


def _paid_today() -> Json:
    return stat(
        2,
        "Paid today",
        Grid(0, 2, 4, 4),
        [
            target(
                f"""SELECT sum("cost_usd") FROM "token_usage_daily" WHERE {_TWO_WEEKS}
                {PER_DAY} fill(0) {LOCAL}""",
                PAID,
            )
        ],
        description=plain(f"""
            Metered use at list price since midnight in the exporter's time zone; the line shows two
            weeks. Use under a subscription is beside it. Accounts that report by UTC day count from
            midnight UTC. {PLAN_HINT}
        """),
        shown=USD,
        empty="$0.00",
        sparkline=True,
    )


def _list_price_today() -> Json:
    return stat(
        3,
        "At list price today",
        Grid(4, 2, 4, 4),
        [
            target(
                f"""SELECT sum("{field}") FROM "token_usage_daily" WHERE {where_any(field)}
                AND {_TWO_WEEKS} {PER_DAY} fill(0) {LOCAL}""",
                name,
            )
            for field, name in (
                ("api_equivalent_usd", SUBSCRIPTION),
                ("plan_unknown_usd", PLAN_NOT_SET),
            )
        ],
        description=plain(f"""
            What today's use under a subscription would have cost on the API. Nobody charges you
            this, so it is in no other number. {PLAN_HINT}
        """),
        shown=USD,
        empty="$0.00",
        sparkline=True,
        names="value_and_name",
        colour=fixed(GREY),
    )


def _this_month() -> Json:
    return stat(
        4,
        "This month",
        Grid(8, 2, 4, 4),
        [
            target(f'SELECT sum("cost_usd") FROM "token_usage" WHERE {IN_RANGE}', PAID),
            *(
                target(
                    f"""SELECT sum("{field}") FROM "token_usage"
                    WHERE {where_any(field)} AND {IN_RANGE}""",
                    name,
                )
                for field, name in (
                    ("api_equivalent_usd", SUBSCRIPTION),
                    ("plan_unknown_usd", PLAN_NOT_SET),
                )
            ),
        ],
        description=plain(f"""
            Since the first of the month in your browser's time zone; with a fixed time range, since
            its start. Paid is metered use at list price; in grey, list prices nobody charges.
            {PLAN_HINT}
        """),
        shown=USD,
        empty="$0.00",
        time_from="now/M",
        overrides=[by_name(name, {"color": fixed(GREY)}) for name in (SUBSCRIPTION, PLAN_NOT_SET)],
    )


def _month_at_this_pace() -> Json:
    projected = f"""FROM (SELECT last("projected_month_usd") AS "projected",
        last("monthly_budget_usd") AS "budget" FROM "spend_status"
        WHERE "scope" = 'all' AND {_FRESH} GROUP BY "host", "account")"""
    return stat(
        5,
        "Month at this pace · everything",
        Grid(12, 2, 4, 4),
        [
            target(f'SELECT sum("projected") {projected}', "forecast"),
            target(f'SELECT sum("projected") / sum("budget") {projected}', "of budget"),
        ],
        description=plain(f"""
            Forecast of what this calendar month will be paid, and its part of the budget if there
            is one. Forecasts and budgets come with a later version of the exporter; until then this
            shows a dash. {_EVERYTHING}
        """),
        shown=USD_WHOLE,
        overrides=[
            by_target(
                "B",
                {
                    **written(SHARE),
                    "thresholds": steps((TEXT, None), (WATCH, 0.8), (ACT, 1)),
                    "color": BY_THRESHOLD,
                },
            )
        ],
    )


def _tokens() -> Json:
    return stat(
        6,
        "Tokens",
        Grid(16, 2, 4, 4),
        [
            target(
                f"""SELECT sum("total_tokens") FROM "token_usage" WHERE {IN_RANGE}
                GROUP BY time($__interval) fill(0)""",
                "tokens",
            )
        ],
        description="All tokens of the chosen range, cache reads and writes included.",
        shown=TOKENS,
        empty="0",
        calc="sum",
        sparkline=True,
    )


def _prompt_from_cache() -> Json:
    return stat(
        7,
        "Prompt from cache",
        Grid(20, 2, 4, 4),
        [target(ratio('sum("cache_read_tokens")', PROMPT), "cache hit")],
        description=plain("""
            Part of all prompt tokens of the range read from cache. Below half usually means a cache
            that expires between calls. A dash: no prompt tokens.
        """),
        shown=SHARE,
        thresholds=HIT_STEPS,
    )


def _spend_per_day() -> Json:
    return bars(
        8,
        "Spend per day",
        Grid(0, 6, 16, 9),
        [
            target(
                f"""SELECT sum("cost_usd") FROM "token_usage" WHERE {IN_RANGE}
                {PER_DAY}, "provider" fill(0) {LOCAL}""",
                "$tag_provider",
            ),
            *(
                target(
                    f"""SELECT sum("{field}") FROM "token_usage" WHERE {where_any(field)}
                    AND {IN_RANGE} {PER_DAY} fill(0) {LOCAL}""",
                    f"{name}, at list price",
                )
                for field, name in (
                    ("api_equivalent_usd", SUBSCRIPTION),
                    ("plan_unknown_usd", PLAN_NOT_SET),
                )
            ),
        ],
        several=True,
        description=plain(f"""
            Bars: money by provider, one bar a day of the exporter's time zone. Grey lines: use at
            list price that nobody charges; with subscriptions only, the bars stay at zero.
            {PLAN_HINT}
        """),
        shown=USD,
        empty=NOTHING_FOUND,
        overrides=[
            *provider_colours(),
            not_money(f"{SUBSCRIPTION}, at list price"),
            not_money(f"{PLAN_NOT_SET}, at list price", dots=True),
        ],
    )


def _today_against_usual() -> Json:
    def state(selected: str, read: str) -> str:
        return f"""SELECT {selected} FROM (SELECT {read} FROM "spend_status"
            WHERE "scope" = 'all' AND {_FRESH} GROUP BY "host", "account")"""

    return bar_gauge(
        9,
        "Today against usual · everything",
        Grid(16, 6, 8, 4),
        [
            target(
                state(
                    """sum("today") AS "Today so far", sum("yesterday") AS "Yesterday by now",
                    sum("average") AS "Average day, 7 d\"""",
                    """last("today_usd") AS "today", last("yesterday_so_far_usd") AS "yesterday",
                    last("avg7_usd_per_day") AS "average\"""",
                ),
                "$col",
            ),
            target(
                state('sum("projected")', 'last("projected_today_usd") AS "projected"'),
                "Today at this pace",
            ),
        ],
        description=plain(f"""
            Metered use at list price, as the exporter counted it within the last hour; use under a
            subscription is not in it. "Today at this pace" joins with a later version of the
            exporter, which forecasts. {_EVERYTHING}
        """),
        shown=USD,
        empty=UNKNOWN,
        overrides=[by_name("Today so far", {"color": fixed(EMPHASIS)})],
    )


def _tokens_by_provider() -> Json:
    return donut(
        10,
        "Tokens by provider",
        Grid(16, 10, 8, 5),
        [
            target(
                f"""SELECT sum("total_tokens") FROM "token_usage" WHERE {IN_RANGE}
                GROUP BY "provider\"""",
                "$tag_provider",
            )
        ],
        description=plain("""
            Shares of all tokens in the range. Tokens, because money paid and list prices do not add
            up to a whole; money by provider is in the legend on the left.
        """),
        shown=TOKENS,
        empty=NOTHING_FOUND,
        overrides=provider_colours(),
    )


def _most_expensive_models() -> Json:
    meanings = (
        ("cost_usd", "$tag_model"),
        ("api_equivalent_usd", f"$tag_model · {SUBSCRIPTION}"),
        ("plan_unknown_usd", f"$tag_model · {PLAN_NOT_SET}"),
    )
    return ranking(
        12,
        "Most expensive models",
        Grid(12, 15, 12, 7),
        [
            target(
                f"""SELECT sum("{field}") FROM "token_usage" WHERE {where_any(field)}
                AND {IN_RANGE} GROUP BY "model\"""",
                alias,
            )
            for field, alias in meanings
        ],
        description=plain(f"""
            The ten largest amounts of the range. A bare name is money paid; with "subscription" or
            "plan not set" it is a list price nobody charges. {PLAN_HINT}
        """),
        shown=USD,
        empty=NOTHING_FOUND,
        colour=EMPHASIS,
    )


def _limits() -> Json:
    return bar_gauge(
        13,
        "Subscription limits · everything",
        Grid(0, 22, 8, 5),
        [
            target(
                """SELECT last("used_ratio") FROM "rate_window" WHERE time > now() - 1d
                GROUP BY "provider", "account", "window\"""",
                "$tag_provider $tag_account $tag_window",
            )
        ],
        description=plain(f"""
            How full each limit window is. Windows come with a later version of the exporter; until
            then this panel stays empty. {_EVERYTHING}
        """),
        shown=SHARE,
        empty="No limit window is read yet",
        limits=(0, 1),
        thresholds=steps((GOOD, None), (WATCH, 0.7), (ACT, 0.9)),
    )


def _accounts() -> Json:
    return table(
        ACCOUNTS,
        "Accounts",
        Grid(8, 22, 16, 5),
        f"""SELECT last("balance_usd") AS "Balance", last("low_balance_usd") AS "Alert below",
        last("burn_usd_per_day") AS "Burn per day", last("runway_days") AS "Runway"
        FROM "account_balance" WHERE time > now() - 2d AND {matches("provider", "account")}
        GROUP BY "provider", "account\"""",
        [
            Column("provider", title="Provider", width=160),
            Column("account", title="Account"),
            Column("Balance", USD, width=130),
            Column("Alert below", USD, width=130),
            Column("Burn per day", USD, width=130),
            Column(
                "Runway",
                DAYS,
                width=120,
                thresholds=steps((ACT, None), (WATCH, 3), (GOOD, 10)),
            ),
        ],
        sort=("Runway",),
        descending=False,
        description=plain("""
            What is left on prepaid accounts and for how long at the present pace; a dash means no
            burn. Balances come with a later version of the exporter; until then this table stays
            empty. Filtered by provider and account only.
        """),
        empty="No account balance is read yet",
    )


def _models() -> Json:
    return table(
        15,
        "Models",
        Grid(0, 27, 24, 9),
        f"""SELECT {MONEY_COLUMNS}, sum("requests") AS "Requests", sum("total_tokens") AS "Tokens",
        {HIT_COLUMN}, sum("cost_usd") / sum("requests") AS "Paid per request"
        FROM "token_usage" WHERE {IN_RANGE} GROUP BY "provider", "model\"""",
        [
            Column("provider", title="Provider", width=160),
            Column("model", title="Model", link=drill_down("model", "provider")),
            *MONEY,
            Column("Requests", COUNT, width=110, summed=True),
            Column("Tokens", TOKENS, width=110, summed=True),
            CACHE_HIT,
            PER_REQUEST,
        ],
        sort=BY_MONEY,
        description=f"Click a model for its cache and tokens. {MONEY_TEXT}",
        empty=NOTHING_FOUND,
    )


def _requests() -> Json:
    return bars(
        16,
        "Requests and cost per request",
        Grid(0, 36, 12, 7),
        [
            target(
                f"""SELECT sum("requests") FROM "token_usage" WHERE {IN_RANGE}
                {PER_DAY} fill(0) {LOCAL}""",
                "requests",
            ),
            target(
                f"""SELECT sum("cost_usd") / sum("requests") FROM "token_usage"
                WHERE {where_any("cost_usd")} AND {IN_RANGE} {PER_DAY} fill(none) {LOCAL}""",
                "paid per request",
            ),
        ],
        several=True,
        summed=False,
        description=plain("""
            Bars: requests per day. Line, right axis: money paid per request, where anything was
            paid.
        """),
        shown=COUNT,
        empty=NOTHING_FOUND,
        overrides=[
            by_name("requests", {"color": fixed(GREY)}),
            by_name(
                "paid per request",
                {
                    **written(USD_FINE),
                    "color": fixed(EMPHASIS),
                    "custom.axisPlacement": "right",
                    "custom.drawStyle": "line",
                    "custom.lineWidth": 2,
                    "custom.fillOpacity": 0,
                    "custom.showPoints": "auto",
                    "custom.stacking": {"mode": "none", "group": "A"},
                },
            ),
        ],
    )


def _projects() -> Json:
    return table(
        17,
        "Projects",
        Grid(12, 36, 12, 7),
        f"""SELECT {MONEY_COLUMNS}, sum("total_tokens") AS "Tokens", sum("requests") AS "Requests"
        FROM "token_usage" WHERE {IN_RANGE} GROUP BY "project\"""",
        [
            Column("project", title="Project", link=drill_down("project")),
            *MONEY,
            Column("Tokens", TOKENS, width=90, summed=True),
            Column("Requests", COUNT, width=90, summed=True),
        ],
        sort=BY_MONEY,
        description=f"Click a project for its cache and tokens. {MONEY_TEXT}",
        empty=NOTHING_FOUND,
    )
