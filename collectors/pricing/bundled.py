"""The pinned genai-prices table, read without its library and only as far as it is needed.

Same rules as the library: the first model of a provider whose clause matches; of its dated prices
the last active one; of its variants the first active one that states a price. Different on
purpose: a class without a price is unknown here, where the library charges it as input or not at
all; and an attribute without a variant is unknown, where the library charges the standard price.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from collectors.pricing import supplement
from collectors.pricing.tariff import NANO, Price, PriceTable, half_up, nano_per_million

TABLE = Path(__file__).with_name("genai_prices.json")
DAY_MS = 86_400_000

# 20251211 in an id may stand for 2025-12-11 in the table.
_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


class _Dated(msgspec.Struct):
    """Prices and when they hold; as they are in the file."""

    rates: dict[str, Any]
    start: str | None = msgspec.field(default=None, name="from")
    hours: tuple[str, str] | None = None
    split_output: bool = False
    when: dict[str, str] = {}  # variants only


class _Model(msgspec.Struct):
    id: str
    match: list[Any]
    prices: list[_Dated]
    variants: list[_Dated] = []


class _Provider(msgspec.Struct):
    fallback: list[str]
    models: list[_Model]


class _Table(msgspec.Struct):
    source: str
    version: str
    providers: dict[str, msgspec.Raw]


class DatedPrices(NamedTuple):
    """Prices with the time they hold: from an instant on, or within hours of the day, or always."""

    start_ms: int | None
    start_text: str
    hours: tuple[int, int] | None  # milliseconds of the UTC day; the end is not included
    weekdays_only: bool
    prices: PriceTable
    is_partial: bool  # output is billed in parts that records do not have

    def is_active(self, timestamp_ms: int) -> bool:
        """Whether these prices hold at a time."""
        if self.start_ms is not None:
            return timestamp_ms >= self.start_ms
        if self.hours is None:
            return True
        if self.weekdays_only and is_weekend(timestamp_ms):
            return False
        moment = timestamp_ms % DAY_MS
        start, end = self.hours
        return start <= moment < end if start <= end else moment >= start or moment < end


class Variant(NamedTuple):
    """Prices that replace standard ones when a request attribute has a value."""

    when: dict[str, str]
    dated: DatedPrices


class Entry:
    """One model of the table."""

    def __init__(self, provider: str, model: _Model) -> None:
        self.provider = provider
        self.id = model.id
        weekdays = (provider, model.id) in supplement.WEEKDAY_HOURS
        self.prices = [_dated(each, weekdays) for each in model.prices]
        self.variants = [Variant(each.when, _dated(each, weekdays)) for each in model.variants]

    @property
    def name(self) -> str:
        """Provider and id, as price ids and listings show them."""
        return f"{self.provider}/{self.id}"

    def standard(self, timestamp_ms: int) -> DatedPrices:
        """The prices without any request attribute at a time."""
        for dated in reversed(self.prices):
            if dated.is_active(timestamp_ms):
                return dated
        return self.prices[0]

    def variant(self, attribute: str, value: str, timestamp_ms: int) -> PriceTable | None:
        """What an attribute changes at a time; None when the table does not say."""
        wanted = {attribute: value}
        matching = [each.dated for each in self.variants if each.when == wanted]
        active = [each for each in matching if each.is_active(timestamp_ms)]
        if not active and (self.provider, attribute, value) in supplement.BACKDATED:
            active = self._backdated(matching, timestamp_ms)
        if not active:
            return None
        changed: PriceTable = {}
        for dated in reversed(active):  # of several, the first has the last word
            changed |= dated.prices
        return changed

    def _backdated(self, matching: list[DatedPrices], timestamp_ms: int) -> list[DatedPrices]:
        starting = [each for each in matching if each.start_ms is not None]
        if not starting:
            return []
        first = min(starting, key=lambda each: each.start_ms or 0)
        then = self.standard(first.start_ms or 0).prices
        return [first] if then == self.standard(timestamp_ms).prices else []


class BundledPrices:
    """Finds entries of the table; decodes a provider when it is first asked for."""

    def __init__(self, path: Path = TABLE) -> None:
        self._table = msgspec.json.decode(path.read_bytes(), type=_Table)
        self._providers: dict[str, _Provider | None] = {}

    @property
    def version(self) -> str:
        """Name and version of the table."""
        return f"{self._table.source} {self._table.version}"

    @property
    def provider_ids(self) -> list[str]:
        """Every provider of the table."""
        return list(self._table.providers)

    def find(self, provider: str, name: str) -> Entry | None:
        """The entry that a lower-case model name matches at a provider, by the table's own rules.

        Some providers sell others' models at the same price; then the entry carries the other
        provider's name.
        """
        if found := self._match(provider, name):
            return found
        dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", name)
        return self._match(provider, dashed) if dashed != name else None

    def model_ids(self, provider: str) -> list[str]:
        """The ids of a provider's models."""
        decoded = self._provider(provider)
        return [each.id for each in decoded.models] if decoded else []

    def _match(self, provider: str, name: str) -> Entry | None:
        decoded = self._provider(provider)
        if decoded is None:
            return None
        for each in (provider, *decoded.fallback):
            sold = self._provider(each)
            for model in sold.models if sold else ():
                if _matches(model.match, name):
                    return Entry(each, model)
        return None

    def _provider(self, provider: str) -> _Provider | None:
        if provider not in self._providers:
            raw = self._table.providers.get(provider)
            if raw is None:
                return None
            self._providers[provider] = msgspec.json.decode(raw, type=_Provider)
        return self._providers[provider]


def is_weekend(timestamp_ms: int) -> bool:
    """Whether a time falls on Saturday or Sunday in UTC."""
    return (timestamp_ms // DAY_MS + 3) % 7 >= 5  # day 0 was a Thursday


def _matches(clause: list[Any], name: str) -> bool:
    sign = clause[0]
    if sign == "=":
        return bool(name == clause[1])
    if sign == "or":
        return any(_matches(each, name) for each in clause[1:])
    if sign == "^":
        return name.startswith(clause[1])
    if sign == "~":
        return clause[1] in name
    if sign == "$":
        return name.endswith(clause[1])
    if sign == "re":
        return re.search(clause[1], name) is not None
    return all(_matches(each, name) for each in clause[1:])  # "and"


def _dated(dated: _Dated, weekdays_only: bool) -> DatedPrices:
    start = dated.start
    return DatedPrices(
        start_ms=None if start is None else _date_ms(start),
        start_text=start or "",
        hours=None if dated.hours is None else (_time_ms(dated.hours[0]), _time_ms(dated.hours[1])),
        weekdays_only=weekdays_only,
        prices=_prices(dated.rates),
        is_partial=dated.split_output,
    )


def _prices(rates: dict[str, Any]) -> PriceTable:
    prices: PriceTable = {}
    for key, value in rates.items():
        if key.endswith("_thousand"):
            prices[key.removesuffix("_thousand")] = Price(half_up(Decimal(value) * NANO / 1000))
        elif isinstance(value, str):
            prices[key] = Price(nano_per_million(Decimal(value)))
        else:
            base, *tiers = value
            prices[key] = Price(
                nano_per_million(Decimal(base)),
                tuple((above, nano_per_million(Decimal(price))) for above, price in tiers),
            )
    return prices


def _date_ms(text: str) -> int:
    midnight = datetime.combine(date.fromisoformat(text), time(), UTC)
    return int(midnight.timestamp()) * 1000


def _time_ms(text: str) -> int:
    moment = time.fromisoformat(text)
    return (moment.hour * 60 + moment.minute) * 60_000
