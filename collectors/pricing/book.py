"""The price book: from the attributes of a record to the tariff that prices it.

The first look-up of an attribute tuple reads tables; every later one is a dictionary hit. A tuple
whose price changes with time keeps one tariff for each stretch of time it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from collectors.pricing import supplement
from collectors.pricing.bundled import BundledPrices
from collectors.pricing.names import book_id, lookups
from collectors.pricing.overrides import OverrideFile, PriceFileError, read_overrides
from collectors.pricing.schedule import PriceAttributes, Schedule
from collectors.pricing.tariff import NANO, TOKEN_CLASSES, Tariff

# A log with invented model names must not fill the memory.
_MOST_CACHED = 20_000


class PriceRow(NamedTuple):
    """One line of a price listing."""

    provider: str
    model: str
    start: str  # "" for prices without a start date
    hours: str  # "01:00-04:00" UTC; "" all day
    above: int  # holds for prompts above this many tokens; 0: below the first step
    prices: dict[str, Decimal | None]  # dollars per million tokens, by token class
    web_search: Decimal | None  # dollars each
    price_id: str  # source, version and entry; "" where there is no price
    reason: str  # why there is no price


class PriceBook:
    """Finds tariffs; knows the user's file, the pinned table and the supplement."""

    def __init__(self, override_path: Path | None = None) -> None:
        self._file = read_overrides(override_path) if override_path is not None else _NO_FILE
        self._bundled = BundledPrices()
        self._schedules: dict[PriceAttributes, Schedule] = {}

    @property
    def problems(self) -> list[PriceFileError]:
        """Mistakes in the user's price file; the entries they are in do not count."""
        return list(self._file.problems)

    @property
    def book_version(self) -> str:
        """Names every source and its version; changes whenever a price may have changed."""
        parts = [self._bundled.version, f"supplement {supplement.VERSION}"]
        if self._file.fingerprint:
            parts.append(f"{self._file.name} {self._file.fingerprint}")
        return " + ".join(parts)

    def tariff(
        self, attributes: PriceAttributes, timestamp_ms: int, width: int = 0
    ) -> Tariff | None:
        """The prices of a record at a time; None when no source knows them.

        `width` is the length in seconds of the interval that the record covers: one whose price
        changes within it has no single price, and is unknown.
        """
        schedule = self._schedules.get(attributes)
        if schedule is None:
            schedule = self._add(attributes)
        if schedule.is_constant:
            return schedule.constant
        return schedule.at(timestamp_ms, width)

    def why_unpriced(self, attributes: PriceAttributes, timestamp_ms: int) -> str:
        """Why a record has no price at a time, in words; empty when it has one."""
        found = self._schedule(attributes).resolve(timestamp_ms)
        return found if isinstance(found, str) else ""

    def explain(self, attributes: PriceAttributes) -> list[PriceRow]:
        """Every price of a tuple of attributes, oldest first, one row a context step."""
        schedule = self._schedule(attributes)
        rows: list[PriceRow] = []
        for start, moment, hours in schedule.stretches():
            found = schedule.resolve(moment)
            place = (attributes.provider, attributes.model, start, hours)
            if isinstance(found, str):
                rows.append(PriceRow(*place, 0, dict.fromkeys(TOKEN_CLASSES), None, "", found))
                continue
            for above, rates in found.steps:
                prices = {name: _usd(rate) for name, rate in rates._asdict().items()}
                each = _usd(found.web_search)
                rows.append(PriceRow(*place, max(above, 0), prices, each, found.price_id, ""))
        return rows

    def list_prices(self, models: Iterable[tuple[str, str]]) -> list[PriceRow]:
        """The standard prices of (provider, model) pairs, such as all that the ledger holds."""
        return [
            row
            for provider, model in models
            for row in self.explain(PriceAttributes(provider, model))
        ]

    def known_models(self, provider: str) -> list[str]:
        """Ids that the pinned table lists for a provider."""
        return self._bundled.model_ids(book_id(provider))

    def _add(self, attributes: PriceAttributes) -> Schedule:
        if len(self._schedules) >= _MOST_CACHED:
            self._schedules.clear()
        schedule = self._schedules[attributes] = self._schedule(attributes)
        return schedule

    def _schedule(self, attributes: PriceAttributes) -> Schedule:
        pairs = lookups(attributes.provider, attributes.model)
        names = list(dict.fromkeys(name for _, name in pairs))
        provider = pairs[-1][0]
        ranked = sorted(
            (rank, -(override.start_ms or 0), position, override)
            for position, override in enumerate(self._file.entries)
            if (rank := override.rank(provider, names)) is not None
        )
        entry, seller = None, provider
        for seller, name in pairs:
            if entry := self._bundled.find(seller, name):
                break
        return Schedule(
            attributes=attributes,
            provider=provider,
            overrides=[each[-1] for each in ranked],
            override_source=f"{self._file.name} {self._file.fingerprint}",
            entry=entry,
            seller=seller,
            entry_source=self._bundled.version,
        )


_NO_FILE = OverrideFile("", "", [], [])


def _usd(nano: int | None) -> Decimal | None:
    return None if nano is None else Decimal(nano) / NANO
