"""The tariffs of one kind of record over time: which source holds when, and what it says."""

from __future__ import annotations

from bisect import bisect_right
from decimal import Decimal
from typing import NamedTuple

from collectors.pricing import supplement
from collectors.pricing.bundled import DAY_MS, Entry, is_weekend
from collectors.pricing.names import plain_name
from collectors.pricing.overrides import Override
from collectors.pricing.tariff import TOKEN_CLASSES, Price, PriceTable, Tariff

# Values of an attribute that leave the price as it is.
_NORMAL = {
    "service_tier": frozenset({"", "standard", "default", "on_demand"}),
    "speed": frozenset({"", "standard"}),
    "inference_geo": frozenset({"", "not_available", "global"}),
}


class PriceAttributes(NamedTuple):
    """Everything but the time that decides the price of a record."""

    provider: str
    model: str
    service_tier: str = ""
    speed: str = ""
    inference_geo: str = ""
    batch: bool = False


_Wanted = list[tuple[str, str]]


class Schedule:
    """All tariffs of one attribute tuple, worked out for each stretch of time when needed."""

    def __init__(
        self,
        *,
        attributes: PriceAttributes,
        provider: str,
        overrides: list[Override],
        override_source: str,
        entry: Entry | None,
        seller: str,
        entry_source: str,
    ) -> None:
        self._attributes = attributes
        self._provider = provider
        self._overrides = overrides
        self._override_source = override_source
        self._entry = entry
        self._seller = seller
        self._entry_source = entry_source
        self._wanted, self._geo, self._refusal = _wanted(attributes)
        self._starts, self._edges, self._labels = self._boundaries()
        self._weekdays = bool(entry and any(each.weekdays_only for each in entry.prices))
        self._slots: dict[tuple[int, int, bool], Tariff | None] = {}
        self._by_start: list[Tariff | None] = []
        if self._starts and not self._edges:
            moments = (self._starts[0] - 1, *self._starts)
            self._by_start = [self._priced(moment) for moment in moments]
        self.is_constant = not self._starts and not self._edges
        self.constant = self.at(0, 0) if self.is_constant else None

    def at(self, timestamp_ms: int, width: int) -> Tariff | None:
        """The tariff at a time; None also when it changes within `width` seconds from there."""
        if self._by_start:
            found = self._by_start[bisect_right(self._starts, timestamp_ms)]
        else:
            slot = self._slot(timestamp_ms)
            if slot not in self._slots:
                self._slots[slot] = self._priced(timestamp_ms)
            found = self._slots[slot]
        if width and self._changes(timestamp_ms, timestamp_ms + width * 1000 - 1):
            return None
        return found

    def stretches(self) -> list[tuple[str, int, str]]:
        """(start, a moment within, hours of the day) of every stretch with a price of its own."""
        days = [("", (self._starts[0] // DAY_MS - 7) * DAY_MS if self._starts else 0)]
        days += [(self._labels[start], start) for start in self._starts]
        if not self._edges:
            return [(label, start, "") for label, start in days]
        ends = [*self._edges[1:], self._edges[0]]
        return [
            # A Monday, so that hours which hold on weekdays only are seen.
            (label, _monday(start) + edge, f"{_clock(edge)}-{_clock(end)}")
            for label, start in days
            for edge, end in zip(self._edges, ends, strict=True)
        ]

    def resolve(self, timestamp_ms: int) -> Tariff | str:
        """The tariff at a time, or the reason why there is none."""
        if self._refusal:
            return self._refusal
        for override in self._overrides:
            if override.start_ms is None or override.start_ms <= timestamp_ms:
                return self._from_override(override)
        if self._entry is None:
            provider = self._provider or "an unnamed provider"
            return f"no price is known for {self._attributes.model!r} of {provider}"
        return self._from_entry(self._entry, timestamp_ms)

    def _priced(self, timestamp_ms: int) -> Tariff | None:
        found = self.resolve(timestamp_ms)
        return None if isinstance(found, str) else found

    def _from_override(self, override: Override) -> Tariff | str:
        prices, notes, plain = override.prices, "", plain_name(self._attributes.model)
        for attribute, value in [*self._wanted, *self._geo]:
            factor = override.factors.get((attribute, value))
            if factor is None:
                rule = supplement.factor_for(self._provider, plain, attribute, value)
                factor = rule.factor if rule else None
            if factor is None:
                return self._no_factor(attribute, value)
            prices, notes = _scale(prices, factor), f"{notes} {value} x{factor}"
        start = f" {override.start_text}" if override.start_text else ""
        return Tariff(f"{self._override_source} {override.label}{start}{notes}", prices)

    def _from_entry(self, entry: Entry, timestamp_ms: int) -> Tariff | str:
        standard = entry.standard(timestamp_ms)
        prices, notes = standard.prices, ""
        if standard.is_partial:
            return f"{entry.name} bills reasoning apart from output"
        if not prices:
            if not entry.id.endswith(supplement.FREE_SUFFIX):
                return f"{entry.name} is listed without a price"
            prices = {name: Price(0) for name in TOKEN_CLASSES}
        if step := supplement.long_context_for(entry.provider, entry.id):
            prices = {
                name: Price(
                    price.base, ((step.above, price.scaled(_step_factor(name, step)).base),)
                )
                if name in TOKEN_CLASSES
                else price
                for name, price in prices.items()
            }
        for attribute, value in [*self._wanted, *self._geo]:
            # A model sold on by another provider has that provider's standard price only.
            is_own = entry.provider == self._seller
            variant = entry.variant(attribute, value, timestamp_ms) if is_own else None
            if variant is not None:
                prices, notes = prices | variant, f"{notes} {value}"
                continue
            rule = supplement.factor_for(self._seller, entry.id, attribute, value)
            if rule is None:
                return self._no_factor(attribute, value)
            prices, notes = _scale(prices, rule.factor), f"{notes} {value} x{rule.factor}"
        start = f" {standard.start_text}" if standard.start_text else ""
        return Tariff(f"{self._entry_source} {entry.name}{start}{notes}", prices)

    def _no_factor(self, attribute: str, value: str) -> str:
        return f"no price is known for {attribute}={value} of {self._attributes.model!r}"

    def _boundaries(self) -> tuple[list[int], list[int], dict[int, str]]:
        starts: dict[int, str] = {
            each.start_ms: each.start_text for each in self._overrides if each.start_ms is not None
        }
        edges: set[int] = set()
        if self._entry is not None:
            dated = [*self._entry.prices]
            if self._wanted or self._geo:
                dated += [each.dated for each in self._entry.variants]
            for each in dated:
                if each.start_ms is not None:
                    starts.setdefault(each.start_ms, each.start_text)
                if each.hours is not None:
                    edges.update(each.hours)
        return sorted(starts), sorted(edges), starts

    def _slot(self, timestamp_ms: int) -> tuple[int, int, bool]:
        day = bisect_right(self._starts, timestamp_ms)
        if not self._edges:
            return day, 0, False
        hour = bisect_right(self._edges, timestamp_ms % DAY_MS)
        return day, hour, self._weekdays and is_weekend(timestamp_ms)

    def _changes(self, first_ms: int, last_ms: int) -> bool:
        if bisect_right(self._starts, first_ms) != bisect_right(self._starts, last_ms):
            return True
        if not self._edges:
            return False
        if first_ms // DAY_MS != last_ms // DAY_MS:
            return True
        return self._slot(first_ms) != self._slot(last_ms)


def _wanted(attributes: PriceAttributes) -> tuple[_Wanted, _Wanted, str]:
    """The attributes that change a price, the place apart, and why they cannot be combined."""
    tier = attributes.service_tier.strip().lower()
    wanted: _Wanted = []
    if attributes.batch or tier == "batch":
        wanted.append(("processing", "batch"))
    if tier != "batch" and tier not in _NORMAL["service_tier"]:
        wanted.append(("service_tier", tier))
    speed = attributes.speed.strip().lower()
    if speed not in _NORMAL["speed"]:
        wanted.append(("speed", speed))
    place = attributes.inference_geo.strip().lower()
    geo = [] if place in _NORMAL["inference_geo"] else [("inference_geo", place)]
    refusal = ""
    if len(wanted) > 1:
        refusal = "no price is known for " + " with ".join("=".join(pair) for pair in wanted)
    return wanted, geo, refusal


def _scale(prices: PriceTable, factor: Decimal) -> PriceTable:
    return {
        name: price.scaled(factor) if name in TOKEN_CLASSES else price
        for name, price in prices.items()
    }


def _step_factor(name: str, rule: supplement.LongContext) -> Decimal:
    return rule.output_factor if name == "output" else rule.input_factor


def _monday(timestamp_ms: int) -> int:
    """The first Monday 00:00 UTC at or after a time."""
    day = -(-timestamp_ms // DAY_MS)
    return (day + (4 - day) % 7) * DAY_MS  # day 4 was a Monday


def _clock(moment_ms: int) -> str:
    minutes = moment_ms // 60_000
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
