"""Claude Code and cache: what the prompt cache saves, for every agent; `source` is chosen first."""

# ruff: noqa: S608 - queries are made of constants of this folder

from __future__ import annotations

from typing import Final

from grafana.board import dashboard
from grafana.colours import ACT, CACHE_WRITE, CACHE_WRITE_1H, GOOD, GREY, WATCH
from grafana.fields import (
    BY_THRESHOLD,
    COUNT,
    SHARE,
    TOKENS,
    USD,
    Json,
    Number,
    fixed,
    plain,
    series_colours,
    steps,
    target,
)
from grafana.influxql import IN_RANGE, LOCAL, PER_DAY, PROMPT, ratio, where_any
from grafana.kit import Column, Grid, bars, lines, stat, table
from grafana.shared import (
    CACHE,
    CACHE_HIT,
    HIT_COLUMN,
    HIT_STEPS,
    MONEY,
    MONEY_COLUMNS,
    MONEY_TEXT,
    NOTHING_FOUND,
    PER_REQUEST,
    PLAN_HINT,
    PLAN_NOT_SET,
    SUBSCRIPTION,
    drill_down,
    tokens_by_kind,
    variables,
)

_ONE_DECIMAL: Final = Number("short", 1)
_GAIN: Final = steps((ACT, None), (GOOD, 0))


def build() -> Json:
    """The dashboard."""
    return dashboard(
        CACHE,
        "Token usage · Claude Code & cache",
        "What the prompt cache of coding agents saves, and what breaks it.",
        [
            _prompt_from_cache(),
            _saved(),
            _reads_per_write(),
            _prompt_per_request(),
            _output_per_request(),
            _at_list_price(),
            _hit_per_model(),
            _savings_per_day(),
            tokens_by_kind(9, Grid(0, 13, 12, 8)),
            _cache_writes(),
            _windows(),
            _agents(),
            _models(),
        ],
        variables(first="source"),
        refresh="5m",
    )


def _prompt_from_cache() -> Json:
    return stat(
        1,
        "Prompt from cache",
        Grid(0, 0, 4, 4),
        [target(ratio('sum("cache_read_tokens")', PROMPT), "cache hit")],
        description=plain("""
            Part of all prompt tokens of the range read from cache. Below half usually means a cache
            that expires between calls. A dash: no prompt tokens.
        """),
        shown=SHARE,
        thresholds=HIT_STEPS,
    )


def _saved() -> Json:
    return stat(
        2,
        "Saved by caching",
        Grid(4, 0, 4, 4),
        [target(f'SELECT sum("cache_savings_usd") FROM "token_usage" WHERE {IN_RANGE}', "saved")],
        description=plain("""
            What the same tokens would have cost more without a cache, at list price: cheaper reads
            less dearer writes. Below zero when what was written was hardly read. Under a
            subscription nobody pays you this.
        """),
        shown=USD,
        empty="$0.00",
        thresholds=_GAIN,
    )


def _reads_per_write() -> Json:
    return stat(
        3,
        "Reads per write",
        Grid(8, 0, 4, 4),
        [target(ratio('sum("cache_read_tokens")', 'sum("cache_write_tokens")'), "reads per write")],
        description=plain("""
            How often each token written to the cache was read. Below one, the cache costs more than
            it saves. A dash: nothing written, or a provider that does not report writes.
        """),
        shown=_ONE_DECIMAL,
        thresholds=steps((ACT, None), (WATCH, 1), (GOOD, 3)),
    )


def _prompt_per_request() -> Json:
    return stat(
        4,
        "Prompt per request",
        Grid(12, 0, 4, 4),
        [target(ratio(PROMPT, 'sum("requests")'), "prompt per request")],
        description="Average size of what is sent, in tokens: how full the context window runs.",
        shown=TOKENS,
    )


def _output_per_request() -> Json:
    return stat(
        5,
        "Output per request",
        Grid(16, 0, 4, 4),
        [target(ratio('sum("output_tokens")', 'sum("requests")'), "output per request")],
        description="Average length of an answer in tokens, reasoning included.",
        shown=TOKENS,
    )


def _at_list_price() -> Json:
    return stat(
        6,
        "At list price",
        Grid(20, 0, 4, 4),
        [
            target(
                f"""SELECT sum("{field}") FROM "token_usage"
                WHERE {where_any(field)} AND {IN_RANGE}""",
                name,
            )
            for field, name in (
                ("api_equivalent_usd", SUBSCRIPTION),
                ("plan_unknown_usd", PLAN_NOT_SET),
            )
        ],
        description=plain(f"""
            What the use of the range under a subscription would have cost on the API. Nobody
            charges you this. {PLAN_HINT}
        """),
        shown=USD,
        empty="$0.00",
        names="value_and_name",
        colour=fixed(GREY),
    )


def _hit_per_model() -> Json:
    return lines(
        7,
        "Prompt from cache, by model",
        Grid(0, 4, 12, 9),
        [
            target(
                ratio(
                    'sum("cache_read_tokens")',
                    PROMPT,
                    group=f'{PER_DAY}, "model" fill(none) {LOCAL}',
                    by='GROUP BY "model"',
                ),
                "$tag_model",
            )
        ],
        description=plain("""
            Part of each day's prompt tokens read from cache. A day without prompt tokens has no
            point. With many models, choose some above.
        """),
        shown=SHARE,
        empty=NOTHING_FOUND,
        limits=(0, 1),
        custom={"fillOpacity": 0, "gradientMode": "none"},
    )


def _savings_per_day() -> Json:
    return bars(
        8,
        "Saved by caching, per day",
        Grid(12, 4, 12, 9),
        [
            target(
                f"""SELECT sum("cache_savings_usd") FROM "token_usage" WHERE {IN_RANGE}
                {PER_DAY} fill(0) {LOCAL}""",
                "saved",
            )
        ],
        several=False,
        description=plain("""
            At list price: cheaper reads less dearer writes. A day below zero wrote more to the
            cache than was read from it.
        """),
        shown=USD,
        empty=NOTHING_FOUND,
        colour=BY_THRESHOLD,
        thresholds=_GAIN,
        custom={"gradientMode": "scheme"},
    )


def _cache_writes() -> Json:
    return bars(
        10,
        "Cache writes by lifetime",
        Grid(12, 13, 12, 8),
        [
            target(
                f"""SELECT sum("cache_write_tokens") - sum("cache_write_1h_tokens") AS "5 minutes",
                sum("cache_write_1h_tokens") AS "1 hour" FROM "token_usage" WHERE {IN_RANGE}
                GROUP BY time($__interval) fill(0) {LOCAL}""",
                "$col",
            )
        ],
        several=True,
        description=plain("""
            Tokens written to the cache for five minutes or for an hour. An hour costs more to write
            and pays off when pauses between calls are long.
        """),
        shown=TOKENS,
        empty=NOTHING_FOUND,
        overrides=series_colours({"5 minutes": CACHE_WRITE, "1 hour": CACHE_WRITE_1H}),
    )


def _windows() -> Json:
    return lines(
        11,
        "Subscription limits over time · everything",
        Grid(0, 21, 12, 8),
        [
            target(
                """SELECT max("used_ratio") FROM "rate_window" WHERE $timeFilter
                GROUP BY time($__interval), "provider", "account", "window" fill(none)""",
                "$tag_provider $tag_account $tag_window",
            )
        ],
        description=plain("""
            How full each limit window was; the line marks 90 %. Windows come with a later version
            of the exporter; until then this panel stays empty. The filters above do not change it.
        """),
        shown=SHARE,
        empty="No limit window is read yet",
        limits=(0, 1),
        thresholds=steps(("transparent", None), (ACT, 0.9)),
        custom={
            "fillOpacity": 0,
            "gradientMode": "none",
            "thresholdsStyle": {"mode": "dashed"},
        },
    )


def _agents() -> Json:
    return table(
        12,
        "Agents compared",
        Grid(12, 21, 12, 8),
        f"""SELECT sum("requests") AS "Requests", sum("total_tokens") AS "Tokens", {HIT_COLUMN},
        sum("cache_savings_usd") AS "Saved", {MONEY_COLUMNS}
        FROM "token_usage" WHERE {IN_RANGE} GROUP BY "source\"""",
        [
            Column("source", title="Agent", link=drill_down("source")),
            Column("Requests", COUNT, width=85, summed=True),
            Column("Tokens", TOKENS, width=85, summed=True),
            CACHE_HIT._replace(width=85),
            Column("Saved", USD, width=95, summed=True),
            *(column._replace(width=100, bar=False) for column in MONEY),
        ],
        sort=("Tokens",),
        description=f"Saved is at list price. {MONEY_TEXT}",
        empty=NOTHING_FOUND,
    )


def _models() -> Json:
    return table(
        13,
        "Models",
        Grid(0, 29, 24, 8),
        f"""SELECT {MONEY_COLUMNS}, sum("requests") AS "Requests", sum("input_tokens") AS "Input",
        sum("cache_write_tokens") AS "Cache write", sum("cache_read_tokens") AS "Cache read",
        sum("output_tokens") AS "Output", {HIT_COLUMN},
        sum("cost_usd") / sum("requests") AS "Paid per request"
        FROM "token_usage" WHERE {IN_RANGE} GROUP BY "provider", "model\"""",
        [
            Column("provider", title="Provider", width=140),
            Column("model", title="Model", link=drill_down("model", "provider")),
            *(column._replace(width=115) for column in MONEY),
            Column("Requests", COUNT, width=95, summed=True),
            Column("Input", TOKENS, width=95, summed=True),
            Column("Cache write", TOKENS, width=105, summed=True),
            Column("Cache read", TOKENS, width=105, summed=True),
            Column("Output", TOKENS, width=95, summed=True),
            CACHE_HIT._replace(width=95),
            PER_REQUEST._replace(width=135),
        ],
        sort=("Cache read",),
        description=f"Click a model to see it alone. {MONEY_TEXT}",
        empty=NOTHING_FOUND,
    )
