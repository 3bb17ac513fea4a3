"""A record as a row of integers: what it adds to its bucket, and the check that guards it."""

from __future__ import annotations

import struct
from zlib import crc32

from collectors.ledger.schema import BUCKET_COLUMNS, RECORD_COLUMNS
from collectors.points import Billing

Row = tuple[int, ...]  # values of RECORD_COLUMNS
Sums = tuple[int, ...]  # values of BUCKET_COLUMNS

(
    FAMILY,
    VARIANT,
    SERIES,
    BUCKET,
    CONTEXT,
    TARIFF,
    TIMESTAMP_MS,
    LATEST_MS,
    WIDTH,
    INPUT,
    CACHE_READ,
    CACHE_WRITE,
    CACHE_WRITE_1H,
    OUTPUT,
    REASONING,
    UNSPLIT,
    REQUESTS,
    WEB_SEARCH,
    BILLING,
    PRICE,
    COST,
    SAVINGS,
    STATED,
    FLAGS,
    PARSER,
) = range(len(RECORD_COLUMNS))

# The part of a row that comes from the source; the rest is what we make of it.
USAGE = slice(TIMESTAMP_MS, BILLING)
PRICED_BY = slice(WIDTH, BILLING)

FLAG_REPLAYED = 1
FLAG_CACHE_COUNTS = 2
FLAG_ESTIMATED = 4
FLAG_FOLDED = 8  # a day's sum, made by `prune` from records that are gone
FLAG_FILL = 32  # an estimate for a day without records; withdrawn when one comes
FLAG_TIER_ASSUMED = 16  # priced as a sum of calls below every context step

BILLING_CODES = {Billing.METERED: 0, Billing.SUBSCRIPTION: 1, Billing.UNKNOWN: 2}

BILLING_NAMES = {code: billing for billing, code in BILLING_CODES.items()}

_pack = struct.Struct(f"<{len(RECORD_COLUMNS)}q").pack

# The same sums in SQL, for rebuilding buckets from records.
SUMS_SQL = """
sum(input_tokens), sum(cache_read_tokens), sum(cache_write_tokens), sum(cache_write_1h_tokens),
sum(output_tokens), sum(reasoning_tokens), sum(unsplit_tokens),
sum(unsplit_tokens + CASE WHEN price = 0 THEN
  input_tokens + cache_read_tokens + cache_write_tokens + output_tokens ELSE 0 END),
sum(requests), sum(web_search_requests),
sum(CASE billing WHEN 0 THEN cost_nano ELSE 0 END),
sum(CASE billing WHEN 1 THEN cost_nano ELSE 0 END),
sum(CASE billing WHEN 2 THEN cost_nano ELSE 0 END),
sum(savings_nano)"""

TOKENS_SQL = (
    "input_tokens + cache_read_tokens + cache_write_tokens + output_tokens + unsplit_tokens"
)


def row_check(row: Row, seed: int) -> int:
    """A checksum over every column, stored with the row: SQLite pages have none.

    `seed` is the ledger's own, so that a row of another ledger does not pass.
    """
    return crc32(_pack(*row), seed)


def total_tokens(row: Row) -> int:
    """The sum of a row's disjoint token classes."""
    return row[INPUT] + row[CACHE_READ] + row[CACHE_WRITE] + row[OUTPUT] + row[UNSPLIT]


def sums_of(row: Row) -> Sums:
    """What one record adds to the bucket it is counted in."""
    cost = row[COST]
    billing = row[BILLING]
    unpriced = row[UNSPLIT]
    if row[PRICE] == 0:
        unpriced += row[INPUT] + row[CACHE_READ] + row[CACHE_WRITE] + row[OUTPUT]
    return (
        row[INPUT],
        row[CACHE_READ],
        row[CACHE_WRITE],
        row[CACHE_WRITE_1H],
        row[OUTPUT],
        row[REASONING],
        row[UNSPLIT],
        unpriced,
        row[REQUESTS],
        row[WEB_SEARCH],
        cost if billing == 0 else 0,
        cost if billing == 1 else 0,
        cost if billing == 2 else 0,
        row[SAVINGS],
    )


assert len(BUCKET_COLUMNS) == SUMS_SQL.count("sum(")
