"""What both dashboards show: the three meanings of money, the token classes, the variables."""

# ruff: noqa: S608 - queries are made of constants of this folder

from __future__ import annotations

from typing import Final

from grafana.board import hidden_variable, variable
from grafana.colours import (
    ACT,
    CACHE_READ,
    CACHE_WRITE,
    GOOD,
    GREY,
    INPUT,
    OUTPUT,
    WATCH,
)
from grafana.fields import SHARE, TOKENS, USD, USD_FINE, Json, plain, series_colours, steps, target
from grafana.influxql import FILTERED, HIT, IN_RANGE, LOCAL, matches, where_any
from grafana.kit import Column, Grid, bars, link_to

OVERVIEW: Final = "td-overview"
CACHE: Final = "td-cache"

# Three meanings of money, never added: what is paid per token, and two list prices nobody charges.
PAID: Final = "paid"
SUBSCRIPTION: Final = "subscription"
PLAN_NOT_SET: Final = "plan not set"

PLAN_HINT: Final = plain("""
    "Plan not set" is use of which the exporter does not know how it is paid: set CLAUDE_CODE_PLAN
    to api, pro, max5, max20 or team in .env and start the exporter again.
""")

HIT_STEPS: Final = steps((ACT, None), (WATCH, 0.5), (GOOD, 0.8))
NOTHING_FOUND: Final = "No use in this range and selection"

_COUNTED: Final = '"token_usage"'
# Providers and accounts that only have a balance are worth choosing, too.
_COUNTED_OR_HELD: Final = '"token_usage", "account_balance"'


def tag_values(tag: str, measurements: str = _COUNTED, condition: str = "") -> str:
    """The query of a variable."""
    query = f'SHOW TAG VALUES FROM {measurements} WITH KEY = "{tag}"'
    return f"{query} WHERE {condition}" if condition else query


def variables(first: str = "provider") -> list[Json]:
    """The filters every dashboard has, one of them in front, and the exporter's zone."""
    found = {
        "provider": variable("provider", "Provider", tag_values("provider", _COUNTED_OR_HELD)),
        "source": variable("source", "Source", tag_values("source")),
        "model": variable("model", "Model", tag_values("model", condition=matches("provider"))),
        "project": variable("project", "Project", tag_values("project")),
        "account": variable("account", "Account", tag_values("account", _COUNTED_OR_HELD)),
        "host": variable("host", "Host", tag_values("host")),
    }
    if first != "provider":
        # A chained variable needs the one it reads before it, so the rest keeps its order.
        found = {first: found.pop(first), **found}
    return [*found.values(), hidden_variable("tz", tag_values("tz", '"exporter_status"'))]


def tokens_by_kind(number: int, grid: Grid) -> Json:
    """All tokens of the range by class, cache reads at the bottom, output on top."""
    interval = f"GROUP BY time($__interval) fill(0) {LOCAL}"
    return bars(
        number,
        "Tokens by kind",
        grid,
        [
            target(
                f"""SELECT sum("cache_read_tokens") AS "cache read",
                sum("cache_write_tokens") AS "cache write", sum("input_tokens") AS "input",
                sum("output_tokens") AS "output" FROM "token_usage" WHERE {IN_RANGE} {interval}""",
                "$col",
            ),
            target(
                f"""SELECT sum("unsplit_tokens") FROM "token_usage"
                WHERE {where_any("unsplit_tokens")} AND {IN_RANGE} {interval}""",
                "not split",
            ),
        ],
        several=True,
        description=plain("""
            Classes do not overlap and add up to all tokens. Input is what was sent without cache;
            "not split" comes from sources that give only a sum.
        """),
        shown=TOKENS,
        empty=NOTHING_FOUND,
        overrides=series_colours(
            {
                "cache read": CACHE_READ,
                "cache write": CACHE_WRITE,
                "input": INPUT,
                "output": OUTPUT,
                "not split": GREY,
            }
        ),
    )


MONEY_COLUMNS: Final = """sum("cost_usd") AS "Paid", sum("api_equivalent_usd") AS "Subscription",
    sum("plan_unknown_usd") AS "Plan not set\""""
MONEY: Final = (
    Column("Paid", USD, width=130, summed=True, bar=True),
    Column("Subscription", USD, width=125, summed=True),
    Column("Plan not set", USD, width=125, summed=True),
)
# With subscriptions only, the first column is zero throughout and the second decides.
BY_MONEY: Final = tuple(column.name for column in MONEY)
HIT_COLUMN: Final = f'{HIT} AS "Cache hit"'
CACHE_HIT: Final = Column("Cache hit", SHARE, width=100, thresholds=HIT_STEPS)
PER_REQUEST: Final = Column("Paid per request", USD_FINE, width=140)
MONEY_TEXT: Final = plain(f"""
    Paid is metered use at list price; Subscription and Plan not set are list prices nobody charges.
    The three are never added. {PLAN_HINT}
""")


def drill_down(tag: str, *others: str) -> Json:
    """A link from a row to the cache dashboard, filtered to that row and all else kept."""
    chosen = (*others, tag)
    kept = [name for name in FILTERED if name not in chosen]
    return link_to(CACHE, f"Cache and tokens of this {tag}", chosen, kept)
