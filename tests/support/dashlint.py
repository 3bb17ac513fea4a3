"""What can be seen in dashboards and alert rules without a database: layout, words, portability."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tests.support.dashcheck import MACROS, VARIABLE, Json

# Not on InfluxDB 3, or only there, or not on 1.x.
_NOT_PORTABLE: Final = re.compile(
    r"\b(holt_winters\w*|(double_|triple_)?exponential_\w+|sample|slimit|soffset|chande\w*"
    r"|kaufmans\w*|relative_strength\w*|cardinality|count_hll|date_part|into|delete|drop)\b"
    r"|\bshow\s+series\b|\bfrom\s+\S+\.\S+",
    re.IGNORECASE,
)
UNITS: Final = {
    "short", "none", "string", "currencyUSD", "percent", "percentunit", "s", "ms", "d", "bytes",
}  # fmt: skip
KINDS: Final = {"timeseries", "stat", "piechart", "table", "bargauge", "barchart", "heatmap"}
_STATE_COLOURS: Final = {"red", "orange", "green"}


def lint(
    dashboards: Sequence[Json], fields: Mapping[str, set[str]], folds: Mapping[str, Sequence[int]]
) -> list[str]:
    """Faults of dashboards that belong together.

    `fields` names the fields of each measurement, `folds` the grid rows of a dashboard that no
    panel may cross.
    """
    found: list[str] = []
    uids = [dashboard["uid"] for dashboard in dashboards]
    if len(set(uids)) != len(uids):
        found.append("two dashboards share a uid")
    for dashboard in dashboards:
        uid = dashboard["uid"]
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", uid):
            found.append(f"{uid}: malformed uid")
        names = {variable["name"] for variable in dashboard["templating"]["list"]}
        faults = [
            *_layout(dashboard, folds.get(uid, ())),
            *_variables(dashboard),
            *(
                f"{panel['id']} {panel['title']}: {fault}"
                for panel in dashboard["panels"]
                for fault in (
                    *_panel(panel),
                    *_targets(panel, names, fields),
                    *_links(panel, names, uids),
                )
            ),
        ]
        found += [f"{uid}: {fault}" for fault in faults]
    return found


def _layout(dashboard: Json, folds: Sequence[int]) -> Iterator[str]:
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(set(ids)) != len(ids):
        yield "two panels share an id"
    taken: dict[tuple[int, int], int] = {}
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        for fold in folds:
            if grid["y"] < fold < grid["y"] + grid["h"]:
                yield f"{panel['title']} crosses the fold at {fold}"
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                if x >= 24:
                    yield f"{panel['title']} leaves the grid"
                if taken.setdefault((x, y), panel["id"]) != panel["id"]:
                    yield f"{panel['title']} overlaps panel {taken[x, y]} at {x},{y}"
    height = max(y for _, y in taken) + 1
    gaps = [(x, y) for y in range(height) for x in range(24) if (x, y) not in taken]
    if gaps:
        yield f"a gap at {gaps[0]}"


def _variables(dashboard: Json) -> Iterator[str]:
    listed = dashboard["templating"]["list"]
    queries = [target["query"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {
        found[1] or found[3]
        for text in [*queries, *(variable["query"] for variable in listed)]
        for found in VARIABLE.finditer(text)
    }
    for place, variable in enumerate(listed):
        name = variable["name"]
        if variable.get("multi") and variable.get("allValue") != ".*":
            yield f"variable {name} lacks the All value .*"
        if variable["type"] == "query" and name not in used:
            yield f"variable {name} is not used"
        if variable["type"] == "query" and variable["datasource"]["uid"] != "${datasource}":
            yield f"variable {name} reads a fixed data source"
        before = {earlier["name"] for earlier in listed[:place]}
        for found in VARIABLE.finditer(variable["query"]):
            if found[1] not in before:
                yield f"variable {name} reads {found[1]}, which comes later"


def _panel(panel: Json) -> Iterator[str]:
    defaults = panel["fieldConfig"]["defaults"]
    if panel["type"] not in KINDS:
        yield f"panel type {panel['type']}"
    if not panel["description"].endswith("."):
        yield "no description in sentences"
    if not defaults.get("noValue") or "no data" in defaults["noValue"].lower():
        yield "nothing friendly to show for no value"
    if defaults.get("unit") not in UNITS or "decimals" not in defaults:
        yield f"unit {defaults.get('unit')} or its decimals"
    values = [step["value"] for step in defaults["thresholds"]["steps"]]
    if values[0] is not None or values[1:] != sorted(values[1:]):
        yield "thresholds must start with null and rise"
    if len(panel["targets"]) > 3 and panel["title"]:
        yield "more than three queries, which run one after another"
    legend = panel["options"].get("legend")
    if panel["type"] in ("timeseries", "piechart") and (
        legend["showLegend"] != _may_be_several(panel)
    ):
        yield "a legend belongs where several series are possible, and only there"
    if panel["type"] == "table":
        yield from _table(panel)
    fixed = re.findall(r"'fixedColor': '(\w+)'", str(panel["fieldConfig"]))
    if _STATE_COLOURS & set(fixed):
        yield "a colour of state outside thresholds"


def _may_be_several(panel: Json) -> bool:
    first = panel["targets"][0]
    return (
        len(panel["targets"]) > 1
        or "$tag_" in first.get("alias", "")
        or first["query"].partition(" FROM ")[0].count(" AS ") > 1
    )


def _table(panel: Json) -> Iterator[str]:
    [target] = panel["targets"]
    wanted = {*grouped_by(target["query"]), *selected(target["query"])}
    organised = [t["options"] for t in panel["transformations"] if t["id"] == "organize"]
    if not organised or not organised[0]["excludeByName"].get("Time"):
        yield "a table needs organize without Time"
    elif set(organised[0]["indexByName"]) != wanted:
        yield f"organize orders {sorted(organised[0]['indexByName'])}, not {sorted(wanted)}"
    footer = set(panel["options"]["footer"]["fields"])
    names = {*footer, *(entry["displayName"] for entry in panel["options"]["sortBy"])}
    if names - wanted:
        yield f"sorts or sums columns that are not there: {sorted(names - wanted)}"


def _targets(panel: Json, names: set[str], fields: Mapping[str, set[str]]) -> Iterator[str]:
    refs = [target["refId"] for target in panel["targets"]]
    if len(set(refs)) != len(refs):
        yield "two queries share a refId"
    for target in panel["targets"]:
        sql, alias = target["query"], target.get("alias", "")
        if target["datasource"] != {"type": "influxdb", "uid": "${datasource}"}:
            yield "a fixed data source"
        yield from _portable(sql)
        if "$timeFilter" not in sql and "time >" not in sql:
            yield "no bound in time"
        if target["resultFormat"] == "time_series" and not alias:
            yield "a series without an alias has its tags in random order"
        for tag in re.findall(r"\$tag_(\w+)", alias):
            if tag not in grouped_by(sql):
                yield f"the alias names {tag}, the query does not group by it"
        for found in VARIABLE.finditer(sql):
            name = found[1] or found[3]
            if name not in names | MACROS:
                yield f"no variable {name}"
            if name in names and found[2] is None:
                yield f"${name} needs a format such as ${{{name}:regex}}"
        yield from unknown_fields(sql, fields)


def _portable(sql: str) -> Iterator[str]:
    if found := _NOT_PORTABLE.search(sql):
        yield f"{found[0]} is not portable"
    if ";" in sql:
        yield "one statement per query"


def unknown_fields(sql: str, fields: Mapping[str, set[str]]) -> Iterator[str]:
    """Fields a query aggregates that its measurement does not have."""
    inner = innermost(sql)
    found = re.search(r'FROM "(\w+)"', inner)
    if found is None:
        yield "the measurement is not quoted"
        return
    known = fields.get(found[1], set())
    conditions = re.findall(r'"(\w+)" > 0', inner)
    for name in {*re.findall(r'\b\w+\("(\w+)"\)', inner), *conditions}:
        if name not in known:
            yield f"{found[1]} has no field {name}"


def innermost(sql: str) -> str:
    """The statement that reads a measurement: the sub-query where there is one."""
    _, bracket, rest = sql.partition("(SELECT ")
    if not bracket:
        return sql
    depth = 1
    for place, sign in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if not depth:
            return rest[:place]
    return rest


def _links(panel: Json, names: set[str], uids: Sequence[str]) -> Iterator[str]:
    for override in panel["fieldConfig"]["overrides"]:
        for entry in override["properties"]:
            for link in entry["value"] if entry["id"] == "links" else ():
                uid = link["url"].removeprefix("/d/").partition("?")[0]
                if uid not in uids:
                    yield f"a link to {uid}, which is not a dashboard"
                chosen = set(re.findall(r"var-(\w+)=", link["url"]))
                kept = set(re.findall(r"\$\{(\w+):queryparam\}", link["url"]))
                if (chosen | kept) - names:
                    yield f"a link with unknown variables {sorted((chosen | kept) - names)}"
                if chosen & kept:
                    yield f"a link that sets {sorted(chosen & kept)} twice"


def selected(sql: str) -> list[str]:
    """The names the outer SELECT gives its columns."""
    return re.findall(r' AS "([^"]+)"', sql.partition(" FROM ")[0])


def grouped_by(sql: str) -> list[str]:
    """The tags the outer statement groups by."""
    return re.findall(r'"(\w+)"', sql.rpartition("GROUP BY")[2]) if "GROUP BY" in sql else []


def lint_rules(document: Json, fields: Mapping[str, set[str]]) -> list[str]:
    """Faults of a file of alert rules; most of them would keep Grafana from starting."""
    found: list[str] = []
    uids: list[str] = []
    for group in document["groups"]:
        if not group.get("folder") or not re.fullmatch(r"\d*0s|\d+m", group["interval"]):
            found.append(f"{group['name']}: a folder, and an interval of a multiple of 10s")
        for rule in group["rules"]:
            uids.append(rule["uid"])
            found += [f"{rule['uid']}: {fault}" for fault in _rule(rule, fields)]
    if len(set(uids)) != len(uids):
        found.append("two rules share a uid")
    return found


def _rule(rule: Json, fields: Mapping[str, set[str]]) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", rule["uid"]):
        yield "malformed uid"
    if ("dashboardUid" in rule) != ("panelId" in rule):
        yield "dashboardUid and panelId go together"
    models = {node["refId"]: node["model"] for node in rule["data"]}
    if models.get(rule["condition"], {}).get("type") != "threshold":
        yield "the condition must be a threshold: NaN fires otherwise"
    if any("$" in str(value) for value in rule["labels"].values()):
        yield "a $ in a label is expanded as an environment variable"
    if any("${" in str(value) for value in rule["annotations"].values()):
        yield "${} in an annotation is expanded as an environment variable"
    for node in rule["data"]:
        sql = node["model"].get("query")
        if sql is None:
            continue
        if "$" in sql.replace("$timeFilter", ""):
            yield "variables and $__interval do not exist in alert queries"
        yield from _portable(sql)
        yield from unknown_fields(sql, fields)
