"""Check dashboards and alert rules against a real InfluxQL engine, without Grafana.

expand()    macros and variables replaced as Grafana does it
choices()   what each variable offers on a database
run_all()   every query of every panel -> how many values came back
evaluate()  an alert rule: its queries, then reduce and threshold
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from tests.support.influxd import Series

Json = dict[str, Any]
Query = Callable[[str], list[Series]]
"""One InfluxQL statement -> its series, such as `Database.query`."""


@dataclass(frozen=True)
class All:
    """The choice All of a variable whose custom value for it is inserted as it is."""

    value: str = ".*"


ALL: Final = All()
Choice = str | Sequence[str] | All
Variables = Mapping[str, Choice]

VARIABLE: Final = re.compile(r"\$\{(\w+)(?::(\w+))?\}|\$(\w+)")
_REGEX_SIGNS: Final = re.compile(r"[\\^$*+?.()|\[\]{}/]")
MACROS: Final = {"timeFilter", "__interval", "__interval_ms", "interval"}
# Grafana's own steps: an interval up to the first number becomes the second; milliseconds.
_ROUNDING: Final = (
    (90_000, 60_000),
    (210_000, 120_000),
    (450_000, 300_000),
    (750_000, 600_000),
    (1_050_000, 900_000),
    (1_500_000, 1_200_000),
    (2_700_000, 1_800_000),
    (5_400_000, 3_600_000),
    (9_000_000, 7_200_000),
    (16_200_000, 10_800_000),
    (32_400_000, 21_600_000),
    (86_400_000, 43_200_000),
    (604_800_000, 86_400_000),
    (1_814_400_000, 604_800_000),
)
_LONGEST_STEP: Final = 2_592_000_000
MIN_STEP: Final = 300_000  # `timeInterval` of the data source


# ---- queries ----------------------------------------------------------------------------------


def escaped(value: str) -> str:
    """A value as the format `:regex` writes it."""
    return _REGEX_SIGNS.sub(lambda sign: "\\" + sign.group(), value)


def step_ms(from_s: int, to_s: int, points: int = 1000) -> int:
    """`$__interval` of a panel that draws this many points, in milliseconds."""
    wanted = (to_s - from_s) * 1000 / points
    step = next((step for below, step in _ROUNDING if wanted < below), _LONGEST_STEP)
    return max(step, MIN_STEP)


def duration(milliseconds: int) -> str:
    """A duration as Grafana writes it into a query; it knows no weeks."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds >= size:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def expand(sql: str, variables: Variables, from_s: int, to_s: int, points: int = 1000) -> str:
    """A query with macros and variables replaced.

    Raises:
        KeyError: the query names a variable that is not there.
        ValueError: a format that the data source does not have.
    """
    step = step_ms(from_s, to_s, points)
    macros = {
        "timeFilter": f"time >= {from_s * 1000}ms and time <= {to_s * 1000}ms",
        "__interval": duration(step),
        "interval": duration(step),
        "__interval_ms": str(step),
    }

    def replaced(found: re.Match[str]) -> str:
        name, form = found[1] or found[3], found[2] or "regex"
        if name in macros:
            return macros[name]
        choice = variables[name]
        if isinstance(choice, All):
            return choice.value
        values = [choice] if isinstance(choice, str) else list(choice)
        if form == "raw":
            return ",".join(values)
        if form != "regex":
            raise ValueError(f"{found[0]}: format {form}")
        parts = [escaped(value) for value in values]
        return parts[0] if len(parts) == 1 else f"({'|'.join(parts)})"

    return VARIABLE.sub(replaced, sql)


def all_of(dashboard: Json, zone: str = "UTC") -> dict[str, Choice]:
    """Every filter of a dashboard on All."""
    found: dict[str, Choice] = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found[variable["name"]] = ALL if variable["multi"] else zone
    return found


def choices(dashboard: Json, query: Query) -> dict[str, list[str]]:
    """What each query variable offers, with All chosen before it."""
    chosen = all_of(dashboard)
    return {
        variable["name"]: sorted(
            {
                row[1]
                for series in query(expand(variable["query"], chosen, 0, 1))
                for row in series["values"]
            }
        )
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    }


def month_start(moment_s: int, zone: tzinfo = UTC) -> int:
    """The first second of the month in the viewer's zone: `now/M`."""
    now = datetime.fromtimestamp(moment_s, zone)
    return int(now.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp())


def ask(
    panel: Json, target: Json, query: Query, variables: Variables, from_s: int, to_s: int
) -> list[Series]:
    """The answer to one query of a panel, with the panel's own time range where it has one.

    Raises:
        ValueError: an answer Grafana cannot show.
    """
    if panel.get("timeFrom") == "now/M":
        from_s = month_start(to_s)
    found = query(expand(target["query"], variables, from_s, to_s))
    at = f"{key(panel, target)}"
    if target["resultFormat"] == "table" and len({series["name"] for series in found}) > 1:
        raise ValueError(f"{at}: a table target may read one measurement only")
    for value in numbers(found):
        if not math.isfinite(value):
            raise ValueError(f"{at}: {value}")
    return found


def run_all(
    dashboard: Json, query: Query, variables: Variables, from_s: int, to_s: int
) -> dict[str, int]:
    """Run every query of every panel: `panel id title/refId` -> number of values that are not null.

    Raises:
        Exception: whatever `query` raises when the engine refuses a query.
        ValueError: an answer Grafana cannot show.
    """
    return {
        key(panel, target): sum(
            value is not None
            for series in ask(panel, target, query, variables, from_s, to_s)
            for row in series["values"]
            for value in row[1:]
        )
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def key(panel: Json, target: Json) -> str:
    """How the results of one query are named."""
    return f"{panel['id']} {panel['title']}/{target['refId']}"


def numbers(found: Sequence[Series]) -> list[float]:
    """Every number of an answer, times left out."""
    return [
        value
        for series in found
        for row in series["values"]
        for value in row[1:]
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]


def total(found: Sequence[Series]) -> float:
    """The sum of every number of an answer."""
    return math.fsum(numbers(found))


def panel_of(dashboard: Json, number: int) -> Json:
    """The panel with this id."""
    found: Json = next(panel for panel in dashboard["panels"] if panel["id"] == number)
    return found


def grid_map(dashboard: Json) -> str:
    """The layout as text, two characters a column, for looking at."""
    panels = dashboard["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    rows = [["  "] * 24 for _ in range(height)]
    for panel in panels:
        grid = panel["gridPos"]
        for y in range(grid["y"], grid["y"] + grid["h"]):
            for x in range(grid["x"], grid["x"] + grid["w"]):
                rows[y][x] = f"{panel['id']:>2}"
    drawn = [f"{y:>3} {' '.join(row)}" for y, row in enumerate(rows)]
    legend = [f"{panel['id']:>3} {panel['type']:<10} {panel['title']}" for panel in panels]
    return "\n".join([dashboard["title"], *drawn, *legend])


# ---- alert rules ------------------------------------------------------------------------------

Labels = tuple[tuple[str, str], ...]


def evaluate(rule: Json, query: Query, now_s: int) -> dict[Labels, bool] | str:
    """Which instances of a rule fire; the rule's noDataState when there is nothing to judge.

    Raises:
        ValueError: something Grafana would refuse or silently drop.
    """
    series: dict[str, dict[Labels, list[float | None]]] = {}
    values: dict[str, dict[Labels, float | None]] = {}
    for node in rule["data"]:
        model, ref = node["model"], node["refId"]
        if node["datasourceUid"] != "__expr__":
            series[ref] = _rule_series(rule, node, query, now_s)
            if not series[ref]:
                return str(rule["noDataState"])
        elif model["type"] == "reduce":
            values[ref] = {
                labels: _last(found, model["settings"]["mode"])
                for labels, found in series[model["expression"]].items()
            }
            if model["reducer"] != "last":
                raise ValueError(f"{rule['uid']}/{ref}: reducer {model['reducer']}")
        elif model["type"] == "threshold":
            values[ref] = {
                labels: None if value is None else float(_passes(model, value))
                for labels, value in values[model["expression"]].items()
            }
        else:
            raise ValueError(f"{rule['uid']}/{ref}: expression {model['type']}")
    judged = {
        labels: bool(value)
        for labels, value in values[rule["condition"]].items()
        if value is not None
    }
    return judged or str(rule["noDataState"])


def firing(rule: Json, query: Query, now_s: int) -> list[dict[str, str]]:
    """The labels of the instances that fire."""
    judged = evaluate(rule, query, now_s)
    if isinstance(judged, str):
        return [{}] if judged == "Alerting" else []
    return [dict(labels) for labels, fires in judged.items() if fires]


def _rule_series(
    rule: Json, node: Json, query: Query, now_s: int
) -> dict[Labels, list[float | None]]:
    at = f"{rule['uid']}/{node['refId']}"
    window = node["relativeTimeRange"]
    sql = expand(node["model"]["query"], {}, now_s - window["from"], now_s - window["to"])
    found: dict[Labels, list[float | None]] = {}
    for one in query(sql):
        if len(one["columns"]) != 2:
            raise ValueError(f"{at}: two columns give two series with the same labels")
        labels = tuple(sorted(one.get("tags", {}).items()))
        if labels in found:
            raise ValueError(f"{at}: two series with the labels {labels}")
        found[labels] = [row[1] for row in one["values"]]
        if any(isinstance(value, (bool, str)) for value in found[labels]):
            raise ValueError(f"{at}: Grafana drops series that are not numbers")
    return found


def _last(found: Sequence[float | None], mode: str) -> float | None:
    if mode == "dropNN":
        found = [value for value in found if value is not None]
    return found[-1] if found else None


def _passes(model: Json, value: float) -> bool:
    evaluator = model["conditions"][0]["evaluator"]
    limits = evaluator["params"]
    tests: dict[str, Callable[[float], bool]] = {
        "gt": lambda given: given > limits[0],
        "lt": lambda given: given < limits[0],
        "within_range": lambda given: limits[0] < given < limits[1],
        "outside_range": lambda given: given < limits[0] or given > limits[1],
    }
    return tests[evaluator["type"]](value)
