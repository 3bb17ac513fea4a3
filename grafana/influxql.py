"""The pieces every query is made of, in the part of InfluxQL that 1.8, 2.4 and 3 share.

A custom All value of `.*` is inserted as it is and matches points without the tag too: series of a
host have no account, series of an account have no host. Selected values arrive escaped by `:regex`.
"""

# ruff: noqa: S608 - queries are made of constants of this folder

from __future__ import annotations

from typing import Final

FILTERED: Final = ("provider", "source", "model", "project", "account", "host")


def matches(*names: str) -> str:
    """The condition that the variables of these names put on their tags."""
    return " AND ".join(f'"{name}" =~ /^${{{name}:regex}}$/' for name in names)


FILTER: Final = matches(*FILTERED)
IN_RANGE: Final = f"$timeFilter AND {FILTER}"

# Day buckets begin at midnight of the exporter, whatever the browser's zone. InfluxQL wants it on
# the statement that groups by time; a sub-query does not inherit it.
LOCAL: Final = "tz('${tz:raw}')"
PER_DAY: Final = "GROUP BY time(1d)"

PROMPT: Final = 'sum("input_tokens") + sum("cache_read_tokens") + sum("cache_write_tokens")'
HIT: Final = f'sum("cache_read_tokens") / ({PROMPT})'


def ratio(upper: str, lower: str, *, group: str = "", by: str = "") -> str:
    """A quotient in the range that is absent, not 0, where there is nothing to divide by.

    InfluxQL says 0 when it divides by zero, which would show a red 0 % for no use at all. `group`
    goes to the inner query, `by` repeats its tags outside.
    """
    inner = (
        f'SELECT {upper} AS "upper", {lower} AS "lower" FROM "token_usage" WHERE {IN_RANGE} {group}'
    )
    return f'SELECT "upper" / "lower" FROM ({inner.strip()}) WHERE "lower" > 0 {by}'.strip()


def where_any(field: str) -> str:
    """Leaves out a series that is zero throughout: a meaning of money that this user has not."""
    return f'"{field}" > 0'
