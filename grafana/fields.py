"""How values look: numbers, colours, thresholds, overrides, and the query behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from grafana.colours import GREY, PROVIDERS, provider_pattern

Json = dict[str, Any]

SOURCE: Final[Json] = {"type": "influxdb", "uid": "${datasource}"}

UNKNOWN: Final = "\N{EN DASH}"  # zero is 0, unknown is a dash

BY_NAME: Final[Json] = {"mode": "palette-classic-by-name"}
BY_THRESHOLD: Final[Json] = {"mode": "thresholds"}

Step = tuple[str, float | None]


class Number(NamedTuple):
    """How a number is written."""

    unit: str
    decimals: int


USD: Final = Number("currencyUSD", 2)
USD_WHOLE: Final = Number("currencyUSD", 0)
USD_FINE: Final = Number("currencyUSD", 4)
COUNT: Final = Number("short", 0)
TOKENS: Final = Number("short", 1)
SHARE: Final = Number("percentunit", 0)
DAYS: Final = Number("d", 0)


def target(query: str, alias: str = "", *, table: bool = False) -> Json:
    """One query of a panel; an alias may name `$col` or a `$tag_` the query groups by."""
    made: Json = {
        "datasource": SOURCE,
        "rawQuery": True,
        "query": " ".join(query.split()),
        "resultFormat": "table" if table else "time_series",
    }
    if alias:
        made["alias"] = alias
    return made


def fixed(colour: str) -> Json:
    """A colour that does not depend on value or name."""
    return {"mode": "fixed", "fixedColor": colour}


def steps(*found: Step) -> Json:
    """Thresholds from (colour, from which value) pairs; the first value is None."""
    return {
        "mode": "absolute",
        "steps": [{"color": colour, "value": value} for colour, value in found],
    }


def written(number: Number) -> Json:
    """The properties that say how a number is written."""
    return {"unit": number.unit, "decimals": number.decimals}


def by_name(name: str, properties: Mapping[str, object]) -> Json:
    """Other field properties for the series or column of one name."""
    return _override("byName", name, properties)


def by_pattern(pattern: str, properties: Mapping[str, object]) -> Json:
    """Other field properties for every name a /pattern/ matches."""
    return _override("byRegexp", pattern, properties)


def by_target(ref_id: str, properties: Mapping[str, object]) -> Json:
    """Other field properties for everything one query returns."""
    return _override("byFrameRefID", ref_id, properties)


def _override(matcher: str, option: str, properties: Mapping[str, object]) -> Json:
    return {
        "matcher": {"id": matcher, "options": option},
        "properties": [{"id": name, "value": value} for name, value in properties.items()],
    }


def provider_colours() -> list[Json]:
    """Each provider in its colour; one that has none gets a colour by its name."""
    return [
        by_pattern(provider_pattern(name), {"color": fixed(colour)})
        for name, colour in PROVIDERS.items()
    ]


def series_colours(colours: Mapping[str, str]) -> list[Json]:
    """Series of these names in these colours."""
    return [by_name(name, {"color": fixed(colour)}) for name, colour in colours.items()]


def not_money(name: str, *, dots: bool = False) -> Json:
    """A grey dashed or dotted line above bars: a price nobody is charged, so never stacked."""
    return by_name(
        name,
        {
            "color": fixed(GREY),
            "custom.drawStyle": "line",
            "custom.lineWidth": 2,
            "custom.lineStyle": {
                "fill": "dot" if dots else "dash",
                "dash": [2, 6] if dots else [8, 6],
            },
            "custom.fillOpacity": 0,
            "custom.showPoints": "auto",  # a single day is a point, not a line
            "custom.stacking": {"mode": "none", "group": "A"},
        },
    )


def plain(text: str) -> str:
    """A paragraph of source code as one line."""
    return re.sub(r"\s+", " ", text).strip()
