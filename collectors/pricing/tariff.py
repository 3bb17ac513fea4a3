"""Prices resolved for one kind of record, and the integer arithmetic that applies them.

Money is integer nano-dollars (1e-9 USD). A price is nano-dollars per million tokens, so tokens
times price is a millionth of a nano-dollar: exact until the one rounding at the end of a record.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from math import gcd
from typing import NamedTuple

import msgspec

NANO = 1_000_000_000
MILLION = 1_000_000

TOKEN_CLASSES = ("input", "cache_read", "cache_write", "cache_write_1h", "output")


class Price(NamedTuple):
    """One price: the base, and what replaces it for the whole request above a prompt size."""

    base: int
    tiers: tuple[tuple[int, int], ...] = ()  # (prompt tokens that must be exceeded, price)

    def at(self, threshold: int) -> int:
        """The price of a request whose prompt exceeds `threshold` and no higher step."""
        value = self.base
        for above, price in self.tiers:
            if above <= threshold:
                value = price
        return value

    def scaled(self, factor: Decimal) -> Price:
        """This price times a factor, rounded half up to a nano-dollar per million."""
        return Price(
            half_up(self.base * factor),
            tuple((above, half_up(price * factor)) for above, price in self.tiers),
        )


PriceTable = dict[str, Price]  # class name (TOKEN_CLASSES, web_search, request) -> price


class Cost(msgspec.Struct, frozen=True, gc=False):
    """What one record costs, in integer nano-dollars.

    `cache_savings_nano_usd` is what reading from the cache saved less what writing to it cost
    extra, so it is negative for a cache that was written and not read. `tier_assumed` is true
    when the record is a sum of calls that may include some above a context step: the base price
    was used, and the cost is an estimate.
    """

    cost_nano_usd: int
    cache_savings_nano_usd: int
    tier_assumed: bool = False


class Rates(NamedTuple):
    """Five prices in nano-dollars per million tokens; None where the source lists no price."""

    input: int | None
    cache_read: int | None
    cache_write: int | None
    cache_write_1h: int | None
    output: int | None


def half_up(value: Decimal) -> int:
    """The nearest integer; a half goes away from zero."""
    return int(value.to_integral_value(ROUND_HALF_UP))


def nano_per_million(usd_per_million: Decimal) -> int:
    """Nano-dollars per million tokens of a price in dollars per million tokens."""
    return half_up(usd_per_million * NANO)


class Tariff:
    """The prices of one kind of record at one time; `cost` applies them.

    Immutable by agreement and shared between records. A context step applies to the whole
    request: above it every token, cached and output included, has the price of the step.
    """

    __slots__ = ("_base", "_steps", "price_id", "request", "steps", "web_search")

    def __init__(self, price_id: str, table: PriceTable) -> None:
        self.price_id = price_id
        web_search, request = table.get("web_search"), table.get("request")
        self.web_search: int | None = web_search.base if web_search else None
        self.request: int = request.base if request else 0
        thresholds = {
            above for name in TOKEN_CLASSES if name in table for above, _ in table[name].tiers
        }
        self.steps: tuple[tuple[int, Rates], ...] = tuple(
            (threshold, Rates(*(_price_at(table, name, threshold) for name in TOKEN_CLASSES)))
            for threshold in sorted({-1} | thresholds)
        )
        self._base = _prepare(self.steps[0][1])
        # Highest step first: the first one exceeded is the one that applies.
        self._steps = tuple((above, _prepare(rates)) for above, rates in reversed(self.steps[1:]))

    @property
    def rates(self) -> Rates:
        """The prices below every context step."""
        return self.steps[0][1]

    def cost(
        self,
        input_tokens: int,
        cache_read_tokens: int,
        cache_write_tokens: int,
        cache_write_1h_tokens: int,
        output_tokens: int,
        web_search_requests: int = 0,
        requests: int = 1,
        is_sum: bool = False,
    ) -> Cost | None:
        """The list price of one record; None when a class it uses has no price.

        Token classes are the disjoint ones of `TokenUsagePoint`; `cache_write_1h_tokens` is part
        of `cache_write_tokens`. `is_sum` (or `requests` other than 1) says that the record is a
        sum over several calls, whose size says nothing about context steps. A rounding of exactly
        half a nano-dollar goes up; each of the two amounts is rounded once.
        """
        base, assumed = self._base, False
        if self._steps:
            prompt = input_tokens + cache_read_tokens + cache_write_tokens
            for above, prepared in self._steps:
                if prompt > above:
                    if is_sum or requests != 1:
                        assumed = True
                    else:
                        base = prepared
                    break
        (
            missing, inp, read, write, write_1h, output, read_saves, write_adds, write_1h_adds,
            scale, parts, half,
        ) = base  # fmt: skip
        writes_5m = cache_write_tokens - cache_write_1h_tokens
        if missing is not None and (
            (missing.input is None and (input_tokens or cache_read_tokens or cache_write_tokens))
            or (missing.cache_read is None and cache_read_tokens)
            or (missing.cache_write is None and writes_5m)
            or (missing.cache_write_1h is None and cache_write_1h_tokens)
            or (missing.output is None and output_tokens)
        ):
            return None
        amount = (
            input_tokens * inp
            + cache_read_tokens * read
            + writes_5m * write
            + cache_write_1h_tokens * write_1h
            + output_tokens * output
        )
        savings = (
            cache_read_tokens * read_saves
            - writes_5m * write_adds
            - cache_write_1h_tokens * write_1h_adds
        )
        cost = (amount * scale + half) // parts
        if web_search_requests:
            if self.web_search is None:
                return None
            cost += web_search_requests * self.web_search
        if self.request:
            if requests < 1:
                return None
            cost += requests * self.request
        return Cost(cost, (savings * scale + half) // parts, assumed)

    def __repr__(self) -> str:
        return f"Tariff({self.price_id!r})"


_Prepared = tuple[Rates | None, int, int, int, int, int, int, int, int, int, int, int]


def _prepare(rates: Rates) -> _Prepared:
    """Prices as small integers and the scale that makes nano-dollars of their sum.

    Their common divisor is taken out first: products of small integers are twice as fast, and
    all that matters to a sum is divided once, at its end. Unlisted prices count as 0 in the sum
    and are named apart.
    """
    divisor = gcd(*(rate or 0 for rate in rates)) or 1
    inp, read, write, write_1h, output = ((rate or 0) // divisor for rate in rates)
    missing = rates if None in rates else None
    common = gcd(divisor, MILLION)
    scale, parts = divisor // common, MILLION // common
    return (
        missing, inp, read, write, write_1h, output, inp - read, write - inp, write_1h - inp,
        scale, parts, parts // 2,
    )  # fmt: skip


def _price_at(table: PriceTable, name: str, threshold: int) -> int | None:
    price = table.get(name)
    return None if price is None else price.at(threshold)
