"""Building blocks: panels as the JSON that Grafana 10 to 13 reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from grafana.colours import EMPHASIS, GREY, TEXT
from grafana.fields import (
    BY_NAME,
    BY_THRESHOLD,
    SOURCE,
    TOKENS,
    UNKNOWN,
    Json,
    Number,
    by_name,
    by_pattern,
    fixed,
    steps,
    target,
    written,
)

PLUGIN_VERSION: Final = "10.0.0"  # keeps Grafana from applying migrations of much older panels


class Grid(NamedTuple):
    """Place and size on the grid of 24 columns; a row is 38 pixels."""

    x: int
    y: int
    w: int
    h: int


def panel(
    number: int,
    kind: str,
    title: str,
    grid: Grid,
    targets: Sequence[Json],
    *,
    description: str,
    shown: Number,
    empty: str,
    options: Json,
    colour: Json | None = None,
    thresholds: Json | None = None,
    custom: Json | None = None,
    overrides: Sequence[Json] = (),
    transformations: Sequence[Json] = (),
    limits: tuple[float, float] | None = None,
    mappings: Sequence[Json] = (),
    time_from: str = "",
    transparent: bool = False,
) -> Json:
    """A panel. `number` is its id for good: links and alert rules refer to it.

    `empty` is shown instead of "No data"; it says what nothing means here.
    """
    defaults: Json = {**written(shown), "noValue": empty, "mappings": list(mappings)}
    defaults["color"] = colour or BY_NAME
    defaults["thresholds"] = thresholds or steps((TEXT, None))
    if limits is not None:
        defaults["min"], defaults["max"] = limits
    if custom is not None:
        defaults["custom"] = custom
    made: Json = {
        "id": number,
        "type": kind,
        "title": title,
        "description": description,
        "gridPos": grid._asdict(),
        "datasource": SOURCE,
        "pluginVersion": PLUGIN_VERSION,
        "targets": [{"refId": chr(ord("A") + i), **one} for i, one in enumerate(targets)],
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": options,
    }
    if transformations:
        made["transformations"] = list(transformations)
    if time_from:
        made |= {"timeFrom": time_from, "hideTimeOverride": True}
    if transparent:
        made["transparent"] = True
    return made


def stat(
    number: int,
    title: str,
    grid: Grid,
    targets: Sequence[Json],
    *,
    description: str,
    shown: Number,
    empty: str = UNKNOWN,
    calc: str = "lastNotNull",
    sparkline: bool = False,
    names: str = "auto",
    colour: Json | None = None,
    thresholds: Json | None = None,
    overrides: Sequence[Json] = (),
    time_from: str = "",
) -> Json:
    """One number, or a few; `auto` shows names only when there are several."""
    return panel(
        number,
        "stat",
        title,
        grid,
        targets,
        description=description,
        shown=shown,
        empty=empty,
        colour=colour or (BY_THRESHOLD if thresholds else fixed(TEXT)),
        thresholds=thresholds,
        overrides=overrides,
        time_from=time_from,
        options={
            "colorMode": "value",
            "graphMode": "area" if sparkline else "none",
            "textMode": names,
            "justifyMode": "auto",
            "orientation": "auto",
            "wideLayout": True,
            "showPercentChange": False,
            "reduceOptions": reduced(calc),
        },
    )


def reduced(calc: str) -> Json:
    """One value per series."""
    return {"values": False, "calcs": [calc], "fields": ""}


_AXIS: Final[Json] = {
    "axisPlacement": "auto",
    "axisBorderShow": False,
    "axisSoftMin": 0,
    "axisGridShow": True,
}
_BARS: Final[Json] = {
    "drawStyle": "bars",
    "fillOpacity": 85,
    "lineWidth": 0,
    "gradientMode": "none",
    "barAlignment": 0,
    "stacking": {"mode": "normal", "group": "A"},
    **_AXIS,
}
_LINES: Final[Json] = {
    "drawStyle": "line",
    "lineWidth": 2,
    "fillOpacity": 8,
    "gradientMode": "opacity",
    "showPoints": "auto",  # one day alone is a point, not an invisible line
    "spanNulls": True,
    "stacking": {"mode": "none", "group": "A"},
    **_AXIS,
}


def bars(
    number: int,
    title: str,
    grid: Grid,
    targets: Sequence[Json],
    *,
    several: bool,
    description: str,
    shown: Number,
    empty: str,
    colour: Json | None = None,
    thresholds: Json | None = None,
    overrides: Sequence[Json] = (),
    custom: Json | None = None,
    summed: bool = True,
) -> Json:
    """Amounts per interval, stacked; `several` series get a legend, `summed` ones their sums."""
    return panel(
        number,
        "timeseries",
        title,
        grid,
        targets,
        description=description,
        shown=shown,
        empty=empty,
        colour=colour,
        thresholds=thresholds,
        overrides=overrides,
        custom={**_BARS, **(custom or {})},
        options=_series_options(grid, several, *(("sum", "Total") if summed else ("", ""))),
    )


def lines(
    number: int,
    title: str,
    grid: Grid,
    targets: Sequence[Json],
    *,
    description: str,
    shown: Number,
    empty: str,
    limits: tuple[float, float] | None = None,
    thresholds: Json | None = None,
    custom: Json | None = None,
) -> Json:
    """Levels over time, one line per series, with a legend of their last values."""
    return panel(
        number,
        "timeseries",
        title,
        grid,
        targets,
        description=description,
        shown=shown,
        empty=empty,
        limits=limits,
        thresholds=thresholds,
        custom={**_LINES, **(custom or {})},
        options=_series_options(grid, True, "lastNotNull", "Last *"),
    )


def _series_options(grid: Grid, several: bool, calc: str, column: str) -> Json:
    as_table = several and bool(calc)
    legend: Json = {
        "showLegend": several,
        "displayMode": "table" if as_table else "list",
        # Beside the chart where there is room: below, a table would take a third of its height.
        "placement": "right" if as_table and grid.w >= 12 else "bottom",
        "calcs": [calc] if as_table else [],
    }
    if as_table:
        legend |= {"sortBy": column, "sortDesc": True}
    return {"legend": legend, "tooltip": {"mode": "multi" if several else "single", "sort": "desc"}}


def bar_gauge(
    number: int,
    title: str,
    grid: Grid,
    targets: Sequence[Json],
    *,
    description: str,
    shown: Number,
    empty: str,
    reduce_options: Json | None = None,
    colour: Json | None = None,
    thresholds: Json | None = None,
    overrides: Sequence[Json] = (),
    transformations: Sequence[Json] = (),
    limits: tuple[float, float] | None = None,
) -> Json:
    """Horizontal bars, one per series or row."""
    return panel(
        number,
        "bargauge",
        title,
        grid,
        targets,
        description=description,
        shown=shown,
        empty=empty,
        colour=colour or (BY_THRESHOLD if thresholds else fixed(GREY)),
        thresholds=thresholds,
        overrides=overrides,
        transformations=transformations,
        limits=limits,
        options={
            "orientation": "horizontal",
            "displayMode": "basic",
            "valueMode": "text",
            "showUnfilled": False,
            "namePlacement": "left",
            "sizing": "auto",
            "minVizWidth": 8,
            "minVizHeight": 16,
            "maxVizHeight": 300,
            "legend": {
                "showLegend": False,
                "displayMode": "list",
                "placement": "bottom",
                "calcs": [],
            },
            "reduceOptions": reduce_options or reduced("lastNotNull"),
        },
    )


TOP: Final = 10


def ranking(
    number: int,
    title: str,
    grid: Grid,
    targets: Sequence[Json],
    *,
    description: str,
    shown: Number,
    empty: str,
    colour: str,
) -> Json:
    """The ten largest series, largest first; each query returns one value per series."""
    column = "Total"  # what the reducer calls its column
    return bar_gauge(
        number,
        title,
        grid,
        targets,
        description=description,
        shown=shown,
        empty=empty,
        colour=fixed(colour),
        reduce_options={"values": True, "calcs": [], "fields": f"/^{column}$/", "limit": TOP},
        transformations=[
            {"id": "reduce", "options": {"reducers": ["sum"], "mode": "seriesToRows"}},
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": column, "desc": True}]}},
            {"id": "limit", "options": {"limitField": TOP}},
        ],
    )


def donut(
    number: int,
    title: str,
    grid: Grid,
    targets: Sequence[Json],
    *,
    description: str,
    shown: Number,
    empty: str,
    overrides: Sequence[Json],
) -> Json:
    """Shares of a whole: parts of one kind only."""
    return panel(
        number,
        "piechart",
        title,
        grid,
        targets,
        description=description,
        shown=shown,
        empty=empty,
        overrides=overrides,
        options={
            "pieType": "donut",
            "displayLabels": [],
            "sort": "desc",
            "legend": {
                "showLegend": True,
                "displayMode": "table",
                "placement": "right",
                "calcs": [],
                "values": ["value", "percent"],
            },
            "tooltip": {"mode": "single", "sort": "none"},
            "reduceOptions": reduced("lastNotNull"),
        },
    )


class Column(NamedTuple):
    """A column of a table: the name in the query's answer and how it looks."""

    name: str
    shown: Number | None = None  # None: text
    title: str = ""
    width: int = 0
    summed: bool = False
    bar: bool = False  # in-cell bar
    thresholds: Json | None = None  # coloured numbers
    link: Json | None = None


def table(
    number: int,
    title: str,
    grid: Grid,
    query: str,
    columns: Sequence[Column],
    *,
    sort: Sequence[str],
    descending: bool = True,
    description: str,
    empty: str,
) -> Json:
    """Rows by tag. The order is set here: Grafana returns tag columns in random order."""
    summed = [column.name for column in columns if column.summed]
    return panel(
        number,
        "table",
        title,
        grid,
        [target(query, table=True)],
        description=description,
        shown=TOKENS,
        empty=empty,
        colour=fixed(TEXT),
        custom={"align": "auto", "filterable": False, "cellOptions": {"type": "auto"}},
        # `empty` is for the whole table; a single missing number is a dash.
        overrides=[by_pattern("/.*/", {"noValue": UNKNOWN}), *map(_column_override, columns)],
        transformations=[
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "indexByName": {column.name: i for i, column in enumerate(columns)},
                    "renameByName": {},
                },
            }
        ],
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "sortBy": [{"displayName": name, "desc": descending} for name in sort],
            "footer": {
                "show": bool(summed),
                "reducer": ["sum"],
                "fields": summed,
                "countRows": False,
            },
        },
    )


def _column_override(column: Column) -> Json:
    properties: Json = {}
    if column.title:
        properties["displayName"] = column.title
    if column.shown is not None:
        properties |= written(column.shown)
        properties["custom.align"] = "right"
    if column.width:
        properties["custom.width"] = column.width
    if column.bar:
        properties["custom.cellOptions"] = {"type": "gauge", "mode": "gradient"}
        properties["color"] = fixed(EMPHASIS)
    if column.thresholds is not None:
        properties["custom.cellOptions"] = {"type": "color-text"}
        properties["color"] = BY_THRESHOLD
        properties["thresholds"] = column.thresholds
    if column.link is not None:
        properties["links"] = [column.link]
    return by_name(column.name, properties)


def link_to(uid: str, title: str, chosen: Sequence[str], kept: Sequence[str]) -> Json:
    """A link that takes the row's values of `chosen` tags and the variables `kept` with it."""
    pairs = [f"var-{name}=${{__data.fields.{name}:percentencode}}" for name in chosen]
    pairs += [f"${{{name}:queryparam}}" for name in ("datasource", *kept)]
    return {"title": title, "url": f"/d/{uid}?${{__url_time_range}}&{'&'.join(pairs)}"}
