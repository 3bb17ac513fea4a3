"""The user's price file: own prices, dated, for models the book lacks or prices differently.

Two shapes, both as YAML or JSON. Ours (schema: `prices.schema.json`, example:
`prices.example.yaml`) is a list `prices` of entries. The other is the pricing JSON of an earlier
dashboard, `models.<id>.pricing.{input,output,cached}` in dollars per token, read unchanged.

Numbers are decimals from the first character on, never floats. An entry with a mistake is left
out and reported with file, entry and field; the other entries hold.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

from collectors.errors import SettingsError
from collectors.pricing.names import book_id
from collectors.pricing.tariff import MILLION, NANO, TOKEN_CLASSES, Price, PriceTable, half_up

_UNITS = {"per_million": Decimal(1), "per_token": Decimal(MILLION)}
_EACH = ("web_search", "request")
_NAMING = {"model", "aliases", "pattern", "provider", "from", "unit", "free", "note"}
_FACTORS = ("batch", "service_tier", "speed", "inference_geo")
_FIELDS = _NAMING | {*TOKEN_CLASSES, *_EACH, *_FACTORS, "tiers"}


class PriceFileError(SettingsError):
    """One mistake in a price file; the entry it is in does not count."""

    def __init__(self, file: str, entry: str, field: str, what: str) -> None:
        place = ", ".join(part for part in (entry, field) if part)
        super().__init__(
            f"{file}: {place}: {what}" if place else f"{file}: {what}",
            "mend the entry; `tokendash prices` shows what holds now",
        )
        self.file = file
        self.entry = entry
        self.field = field


class Override(NamedTuple):
    """One entry of the user's file."""

    names: frozenset[str]
    pattern: re.Pattern[str] | None
    provider: str | None  # the book's id; None: any
    start_ms: int | None
    start_text: str
    label: str
    prices: PriceTable
    factors: dict[tuple[str, str], Decimal]  # (attribute, value) -> multiplier on token prices

    def rank(self, provider: str, names: list[str]) -> tuple[bool, bool, int] | None:
        """How closely this entry names a model, the least is the closest; None: not at all.

        An exact name goes before a pattern, a stated provider before any, and the id as written
        before what is left of it without decorations.
        """
        if self.provider is not None and self.provider != provider:
            return None
        for position, name in enumerate(names):
            if name in self.names:
                return False, self.provider is None, position
        for position, name in enumerate(names):
            if self.pattern is not None and self.pattern.fullmatch(name):
                return True, self.provider is None, position
        return None


class OverrideFile(NamedTuple):
    """What a price file says, and what is wrong with it."""

    name: str
    fingerprint: str
    entries: list[Override]
    problems: list[PriceFileError]


def read_overrides(path: Path) -> OverrideFile:
    """Read a price file; mistakes end up in `problems`, never in an exception."""
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = PriceFileError(path.name, "", "", f"cannot be read: {error.strerror}")
        return OverrideFile(path.name, "", [], [problem])
    fingerprint = hashlib.sha256(content).hexdigest()[:8]
    entries: list[Override] = []
    problems: list[PriceFileError] = []
    try:
        document = _parse(path.suffix.lower(), content)
        rows = list(_rows(document))
    except ValueError as error:
        problems.append(PriceFileError(path.name, "", "", str(error)))
        return OverrideFile(path.name, fingerprint, entries, problems)
    seen: dict[tuple[str, str | None, int | None], str] = {}
    for label, read, row in rows:
        try:
            entry = read(row)
            _refuse_double(entry, seen)
        except _FieldError as error:
            problems.append(PriceFileError(path.name, label, error.field, str(error)))
        else:
            entries.append(entry)
    return OverrideFile(path.name, fingerprint, entries, problems)


class _FieldError(ValueError):
    def __init__(self, field: str, what: str) -> None:
        super().__init__(what)
        self.field = field


_Reader = Callable[[Any], Override]


def _parse(suffix: str, content: bytes) -> Any:
    text = content.decode("utf-8-sig")
    if suffix == ".json":
        try:
            return json.loads(text, parse_float=Decimal, object_pairs_hook=_no_doubles)
        except json.JSONDecodeError as error:
            raise ValueError(f"is not JSON: line {error.lineno}: {error.msg}") from error
    return _parse_yaml(text)


def _parse_yaml(text: str) -> Any:
    # Imported here: most users have no price file, and yaml costs more than the whole book.
    import yaml

    class Loader(yaml.BaseLoader):  # every scalar stays text: no float, no surprise date
        def construct_mapping(
            self,
            node: yaml.MappingNode,
            deep: bool = True,  # noqa: ARG002 - the base's signature; always deep here
        ) -> dict[Any, Any]:
            return _no_doubles(
                [
                    (self.construct_object(key, deep=True), self.construct_object(value, deep=True))
                    for key, value in node.value
                ]
            )

    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 - a BaseLoader: makes text only
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from error


def _no_doubles(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise _FieldError("", f"{key!r} is not a field name")
        if key in mapping:
            raise ValueError(f"{key!r} stands twice in one place")
        mapping[key] = value
    return mapping


def _rows(document: Any) -> Iterator[tuple[str, _Reader, Any]]:
    if document in (None, ""):
        return
    if not isinstance(document, dict) or not {"prices", "models"} & document.keys():
        raise ValueError("holds neither a list `prices` nor a mapping `models`")
    prices, models = document.get("prices", ""), document.get("models", "")
    for field, value, kind in (("prices", prices, list), ("models", models, dict)):
        if value not in (None, "") and not isinstance(value, kind):
            raise _FieldError("", f"`{field}` is not a {'list' if kind is list else 'mapping'}")
    for number, row in enumerate(prices or [], 1):
        name = (row.get("model") or row.get("pattern")) if isinstance(row, dict) else None
        yield f"entry {number}" + (f" ({name})" if name else ""), _read_entry, row
    for name, row in (models or {}).items():
        yield f"models.{name}", _read_simple, (name, row)


def _read_simple(row: Any) -> Override:
    """An entry of the earlier dashboard: dollars per token, no dates, no cache writes."""
    name, body = row
    pricing = body.get("pricing") if isinstance(body, dict) else None
    if not isinstance(pricing, dict):
        raise _FieldError("pricing", "is not a mapping")
    prices: PriceTable = {}
    for key, token_class in (("input", "input"), ("output", "output"), ("cached", "cache_read")):
        if pricing.get(key) is not None:
            prices[token_class] = Price(_nano(f"pricing.{key}", pricing[key], Decimal(MILLION)))
    if not prices:
        raise _FieldError("pricing", "holds none of input, output, cached")
    return Override(frozenset({name.lower()}), None, None, None, "", name, prices, {})


def _read_entry(row: Any) -> Override:
    if not isinstance(row, dict):
        raise _FieldError("", "is not a mapping")
    for field in row:
        if field not in _FIELDS:
            raise _FieldError(str(field), "is not a known field")
    model = _text(row, "model")
    aliases = row.get("aliases") or []
    if not isinstance(aliases, list) or not all(isinstance(each, str) for each in aliases):
        raise _FieldError("aliases", "is not a list of model ids")
    pattern = _pattern(_text(row, "pattern"))
    if not model and not aliases and pattern is None:
        raise _FieldError("model", "is missing (or give a pattern)")
    provider = _text(row, "provider")
    start_text = _text(row, "from")
    prices = _entry_prices(row)
    if not any(name in prices for name in TOKEN_CLASSES):
        raise _FieldError(
            "input", "is missing: the entry has no price (a free model: `free: true`)"
        )
    return Override(
        names=frozenset(each.lower() for each in (model, *aliases) if each),
        pattern=pattern,
        provider=book_id(provider) if provider else None,
        start_ms=_start_ms(start_text) if start_text else None,
        start_text=start_text,
        label=model or (aliases[0] if aliases else _text(row, "pattern")),
        prices=prices,
        factors=dict(_factors(row)),
    )


def _entry_prices(row: dict[str, Any]) -> PriceTable:
    free = row.get("free", False)
    if free in (True, "true"):
        if taken := [name for name in (*TOKEN_CLASSES, *_EACH, "tiers") if name in row]:
            raise _FieldError(taken[0], "contradicts `free: true`")
        return {name: Price(0) for name in (*TOKEN_CLASSES, *_EACH)}
    if free not in (False, "false"):
        raise _FieldError("free", "is neither true nor false")
    unit = row.get("unit", "per_million")
    if unit not in _UNITS:
        raise _FieldError("unit", f"is {unit!r}, not per_million or per_token")
    scale = _UNITS[unit]
    tiers = _tiers(row.get("tiers") or [], scale)
    prices = {
        name: Price(_nano(name, row[name], scale), tuple(tiers.pop(name, ())))
        for name in TOKEN_CLASSES
        if name in row
    }
    if tiers:
        raise _FieldError("tiers", f"price {next(iter(tiers))}, which has no base price")
    return prices | {
        name: Price(_nano(name, row[name], Decimal(1))) for name in _EACH if name in row
    }


def _tiers(rows: Any, scale: Decimal) -> dict[str, list[tuple[int, int]]]:
    if not isinstance(rows, list):
        raise _FieldError("tiers", "is not a list")
    steps: dict[str, list[tuple[int, int]]] = {}
    previous = 0
    for number, row in enumerate(rows, 1):
        place = f"tiers[{number}]"
        if not isinstance(row, dict) or not row.keys() <= {"above", *TOKEN_CLASSES}:
            raise _FieldError(place, "takes `above` and prices of token classes")
        above = str(row.get("above", "")).replace("_", "")
        if not above.isdecimal() or int(above) <= previous:
            raise _FieldError(f"{place}.above", "is not a rising number of prompt tokens")
        previous = int(above)
        for name in row.keys() - {"above"}:
            price = _nano(f"{place}.{name}", row[name], scale)
            steps.setdefault(name, []).append((previous, price))
    return steps


def _factors(row: dict[str, Any]) -> Iterator[tuple[tuple[str, str], Decimal]]:
    if "batch" in row:
        yield ("processing", "batch"), _decimal("batch", row["batch"])
    for attribute in _FACTORS[1:]:
        values = row.get(attribute) or {}
        if not isinstance(values, dict):
            raise _FieldError(attribute, "is not a mapping from value to multiplier")
        for value, factor in values.items():
            field = f"{attribute}.{value}"
            yield (attribute, str(value).lower()), _decimal(field, factor)


def _nano(field: str, value: Any, scale: Decimal) -> int:
    return half_up(_decimal(field, value) * scale * NANO)


def _decimal(field: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise _FieldError(field, "is not a number")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise _FieldError(field, f"is {value!r}, not a number") from None
    if not number.is_finite() or number < 0:
        raise _FieldError(field, f"is {value}, not a price of 0 or more")
    if number > NANO:
        raise _FieldError(field, f"is {value}: too large to be a price in dollars")
    return number


def _text(row: dict[str, Any], field: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _FieldError(field, "is not text")
    return value.strip()


def _pattern(text: str) -> re.Pattern[str] | None:
    if not text:
        return None
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise _FieldError("pattern", f"is not a regular expression: {error}") from error


def _start_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _FieldError("from", f"is {text!r}, not a date or an ISO 8601 time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _refuse_double(entry: Override, seen: dict[tuple[str, str | None, int | None], str]) -> None:
    keys = [*sorted(entry.names), *([f"/{entry.pattern.pattern}/"] if entry.pattern else [])]
    for name in keys:
        key = (name, entry.provider, entry.start_ms)
        if key in seen:
            raise _FieldError("from", f"another entry prices {name} from the same time")
    seen.update({(name, entry.provider, entry.start_ms): entry.label for name in keys})
