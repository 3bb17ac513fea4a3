"""Write `genai_prices.json`, the pinned genai-prices table without its library.

Importing genai-prices costs several hundred milliseconds and one calculation tens of microseconds;
the table alone is read in a few milliseconds. Run after changing the pinned version:

    python -m collectors.pricing.generate

A price key or constraint that this module does not know stops it, so that a new kind of price is
looked at rather than left out.
"""

from __future__ import annotations

import json
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("genai_prices.json")

_RATES = {
    "input_mtok": "input",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "web_searches_kcount": "web_search_thousand",
    "requests_kcount": "request_thousand",
}
# Output split by purpose, which our records do not have for every source.
_SPLIT_OUTPUT = frozenset({"output_reasoning_mtok", "output_citation_mtok"})
# Sound, pictures, pages and stores: no source reports them; text models price text tokens.
_NOT_TEXT = frozenset(
    {
        "audio_hours",
        "cache_audio_read_mtok",
        "cache_image_read_mtok",
        "input_annotated_document_kpages",
        "input_audio_hours",
        "input_audio_mtok",
        "input_document_kpages",
        "input_image_mtok",
        "input_mchars",
        "input_text_messages_kcount",
        "input_video_mtok",
        "output_audio_mtok",
        "output_image_mtok",
        "output_video_mtok",
        "storage_searches_kcount",
    }
)
_CLAUSES = {
    "ClauseEquals": ("equals", "="),
    "ClauseStartsWith": ("starts_with", "^"),
    "ClauseEndsWith": ("ends_with", "$"),
    "ClauseContains": ("contains", "~"),
}


def build() -> str:
    """The whole table as JSON text, one model a line."""
    from genai_prices.data import providers

    lines = [
        "{",
        '"source":"genai-prices",',
        f'"version":{_json(version("genai-prices"))},',
        '"license":"MIT, Pydantic Services Inc.; https://github.com/pydantic/genai-prices",',
        '"providers":{',
    ]
    for number, provider in enumerate(providers):
        fallback = provider.fallback_model_providers or []
        lines.append(f'{_json(provider.id)}:{{"fallback":{_json(fallback)},"models":[')
        lines.extend(
            _json(_model(model)) + ("," if position + 1 < len(provider.models) else "")
            for position, model in enumerate(provider.models)
        )
        lines.append("]}" + ("," if number + 1 < len(providers) else ""))
    lines += ["}", "}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table next to this module."""
    TABLE.write_text(build(), encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _model(model: Any) -> dict[str, Any]:
    prices = model.prices if isinstance(model.prices, list) else [None]
    row: dict[str, Any] = {
        "id": model.id,
        "match": _clause(model.match),
        "prices": [
            _constraint(each.constraint) | _rates(each.prices)
            if each is not None
            else _rates(model.prices)
            for each in prices
        ],
    }
    if model.price_variants:
        row["variants"] = [
            {"when": variant.when} | _constraint(variant.constraint) | _rates(variant.prices)
            for variant in model.price_variants
        ]
    return row


def _clause(clause: Any) -> list[Any]:
    kind = type(clause).__name__
    if kind == "ClauseOr":
        return ["or", *(_clause(each) for each in clause.or_)]
    if kind == "ClauseAnd":
        return ["and", *(_clause(each) for each in clause.and_)]
    if kind == "ClauseRegex":
        return ["re", clause.regex]
    attribute, sign = _CLAUSES[kind]
    return [sign, getattr(clause, attribute).lower()]


def _constraint(constraint: Any) -> dict[str, Any]:
    kind = type(constraint).__name__
    if constraint is None:
        return {}
    if kind == "StartDateConstraint":
        return {"from": constraint.start_date.isoformat()}
    if kind == "TimeOfDateConstraint":
        times = (constraint.start_time, constraint.end_time)
        if any(each.second or each.microsecond or each.utcoffset() for each in times):
            raise ValueError(f"a time of day that is not a whole UTC minute: {constraint}")
        return {"hours": [each.strftime("%H:%M") for each in times]}
    raise ValueError(f"a constraint of a new kind: {constraint}")


def _rates(prices: Any) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    row: dict[str, Any] = {"rates": rates}
    for key, value in vars(prices).items():
        if value is None or key in _NOT_TEXT:
            continue
        if key in _SPLIT_OUTPUT:
            row["split_output"] = True
        elif key in _RATES:
            rates[_RATES[key]] = _price(value)
        else:
            raise ValueError(f"a price of a new kind: {key}")
    return row


def _price(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    return [
        format(value.base, "f"),
        *([tier.start, format(tier.price, "f")] for tier in value.tiers),
    ]


if __name__ == "__main__":
    main()
