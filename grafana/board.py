"""Variables and dashboards around the panels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from grafana.fields import SOURCE, Json

DATA_SOURCE: Final = "tokendash"  # its fixed uid; alert rules know no variables
TAG: Final = "tokendash"
SCHEMA_VERSION: Final = 39  # the newest that all of 10 to 13 read


def variable(name: str, label: str, query: str) -> Json:
    """A filter by tag values: several may be chosen, All means no condition."""
    return _query_variable(name, label, query) | {
        "hide": 0,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def hidden_variable(name: str, query: str) -> Json:
    """A value the queries need and nobody chooses."""
    return _query_variable(name, name, query) | {"hide": 2, "multi": False, "includeAll": False}


def _query_variable(name: str, label: str, query: str) -> Json:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": query,
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "options": [],
    }


def data_source_variable() -> Json:
    """Which InfluxDB to read: ours where it is provisioned, else the first there is."""
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "influxdb",
        "current": {"selected": False, "text": DATA_SOURCE, "value": DATA_SOURCE},
        "hide": 2,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
    }


def dashboard(
    uid: str,
    title: str,
    description: str,
    panels: Sequence[Json],
    variables: Sequence[Json],
    *,
    refresh: str,
) -> Json:
    """A dashboard over whole days, today included."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "liveNow": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "weekStart": "monday",
        "refresh": refresh,
        "time": {"from": "now-6d/d", "to": "now"},
        "timepicker": {},
        "templating": {"list": [data_source_variable(), *variables]},
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "tags": [TAG],
                "title": "",
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "panels": list(panels),
    }


def dumps(document: Json) -> str:
    """The text of a dashboard file: the same bytes for the same content."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
