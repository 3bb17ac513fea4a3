"""Alert rules as Grafana's files want them. A mistake in these files stops Grafana at its start.

Rules kept here: one query with one column each, because a second query without data makes the whole
rule NoData; a threshold at the end, because any other non-zero value fires; no `${}` in annotations
and no `$` in labels, which are expanded as environment variables; fixed intervals and the fixed
data source, because dashboard variables do not exist here.
"""

from __future__ import annotations

from typing import Final

import yaml

from grafana.board import DATA_SOURCE
from grafana.fields import Json, plain
from grafana.overview import ACCOUNTS
from grafana.shared import OVERVIEW

_HEADER: Final = "# Written by grafana/build.py from grafana/alerting.py: change it there.\n"
_EXPRESSION: Final = {"type": "__expr__", "uid": "__expr__"}


def build() -> Json:
    """The rules file."""
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": "tokendash",
                "folder": "tokendash",
                "interval": "1m",
                "rules": [_low_balance()],
            }
        ],
    }


def dumps(document: Json) -> str:
    """The text of the rules file: the same bytes for the same content."""
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
    return _HEADER + text


def _low_balance() -> Json:
    # An account without a limit or without dollars has no difference and stays quiet.
    difference = """SELECT last("balance_usd") - last("low_balance_usd") FROM "account_balance"
        WHERE $timeFilter GROUP BY "provider", "account\""""
    return {
        "uid": "td-low-balance",
        "title": "Low balance",
        "condition": "C",
        "data": [
            {
                "refId": "A",
                "datasourceUid": DATA_SOURCE,
                "relativeTimeRange": {"from": 6 * 3600, "to": 0},
                "model": {
                    "refId": "A",
                    "rawQuery": True,
                    "resultFormat": "time_series",
                    "query": plain(difference),
                    "intervalMs": 60_000,
                    "maxDataPoints": 43_200,
                },
            },
            {
                "refId": "B",
                "datasourceUid": "__expr__",
                "model": {
                    "refId": "B",
                    "datasource": dict(_EXPRESSION),
                    "type": "reduce",
                    "expression": "A",
                    "reducer": "last",
                    "settings": {"mode": "dropNN"},
                },
            },
            {
                "refId": "C",
                "datasourceUid": "__expr__",
                "model": {
                    "refId": "C",
                    "datasource": dict(_EXPRESSION),
                    "type": "threshold",
                    "expression": "B",
                    "conditions": [{"evaluator": {"type": "lt", "params": [0]}}],
                },
            },
        ],
        "for": "10m",
        "noDataState": "OK",
        "execErrState": "Error",
        "labels": {"app": "tokendash", "severity": "critical"},
        "annotations": {
            "summary": plain("""
                {{ index $labels "provider" }} account {{ index $labels "account" }} is below its
                low-balance limit
            """),
            "description": "Top up the account, or lower its limit if this is enough.",
        },
        "dashboardUid": OVERVIEW,
        "panelId": ACCOUNTS,
    }
