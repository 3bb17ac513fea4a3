"""What is written to InfluxDB: every measurement's fields, and one point of it as a row.

`FIELDS` is the one place where a field's name and type live. InfluxDB keeps the type of a field's
first value for good, so a field never changes its type: counts are integers, money is float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import msgspec

Kind = Literal["int", "float", "str"]
Value = int | float | str | None
Tags = tuple[tuple[str, str], ...]


class Field(NamedTuple):
    """Name and type of one field."""

    name: str
    kind: Kind


class Row(msgspec.Struct, frozen=True):
    """One point; the same `start`, `measurement` and tags always make the same timestamp."""

    measurement: str
    tags: Tags  # canonical, sorted by name
    series: int  # stable per measurement and tags, for the life of the ledger
    timestamp_ns: int
    values: tuple[Value, ...]  # in the order of the measurement's fields; None is not sent
    start: int = 0  # of the bucket, epoch seconds
    revision: int = 0  # of the bucket, when these values were read


def _fields(*, ints: str = "", floats: str = "", strings: str = "") -> tuple[Field, ...]:
    named = [Field(name, "int") for name in ints.split()]
    named += [Field(name, "float") for name in floats.split()]
    named += [Field(name, "str") for name in strings.split()]
    return tuple(sorted(named))


_USAGE = _fields(
    ints="input_tokens cache_read_tokens cache_write_tokens cache_write_1h_tokens output_tokens"
    " reasoning_tokens unsplit_tokens total_tokens unpriced_tokens requests",
    floats="cost_usd api_equivalent_usd plan_unknown_usd cache_savings_usd",
)

FIELDS: Final[Mapping[str, tuple[Field, ...]]] = {
    "token_usage": _USAGE,
    "token_usage_view": _USAGE,
    "token_usage_daily": _USAGE,
    "spend_status": _fields(
        floats="today_usd yesterday_usd yesterday_so_far_usd week_usd month_usd last_month_usd"
        " avg7_usd_per_day avg30_usd_per_day"
    ),
    "collector_status": _fields(
        ints="ok consecutive_failures age_s records duration_ms", strings="last_error"
    ),
    "exporter_status": _fields(
        ints="heartbeat pending dead_letters unpriced_tokens uptime_s db_bytes"
    ),
    "account_balance": _fields(
        floats="balance balance_usd low_balance_usd burn_usd_per_day runway_days"
    ),
    "rate_window": _fields(ints="resets_at_ms", floats="used_ratio"),
}
"""Fields of each measurement, sorted by name: the order of `Row.values`."""
