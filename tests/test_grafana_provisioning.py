"""What Grafana starts from: data source, folder, alert rule, settings; they name one thing."""

from __future__ import annotations

import configparser
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana import alerting
from tests.support.dashcheck import evaluate, firing
from tests.support.dashlint import lint_rules
from tests.support.influxd import Database
from tests.test_grafana_layout import KNOWN

GRAFANA = Path(__file__).parent.parent / "grafana"
PROVISIONING = GRAFANA / "provisioning"


def loaded(path: str) -> Any:
    return yaml.safe_load((PROVISIONING / path).read_text(encoding="utf-8"))


def settings() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=True)
    parser.read_string((GRAFANA / "grafana.ini").read_text(encoding="utf-8"))
    return parser


def dashboards() -> dict[str, Any]:
    files = sorted((GRAFANA / "dashboards").glob("*.json"))
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in files}


def rule() -> Any:
    [group] = loaded("alerting/rules.yaml")["groups"]
    [found] = group["rules"]
    return found


# ---- files that belong together -----------------------------------------------------------------


def test_the_data_source_reads_influxql_with_a_token_from_a_file() -> None:
    [source] = loaded("datasources/tokendash.yaml")["datasources"]

    assert (source["uid"], source["type"], source["access"]) == ("tokendash", "influxdb", "proxy")
    assert "version" not in source["jsonData"]  # absent means InfluxQL
    assert source["jsonData"]["dbName"] == "tokens"
    assert source["jsonData"]["timeInterval"] == "5m"
    assert source["jsonData"]["httpHeaderName1"] == "Authorization"
    assert source["secureJsonData"] == {
        "httpHeaderValue1": "Token $__file{/run/tokendash/influx_read_token}"
    }


def test_dashboards_and_rules_meet_in_a_folder_found_by_its_title() -> None:
    [provider] = loaded("dashboards/tokendash.yaml")["providers"]
    [group] = loaded("alerting/rules.yaml")["groups"]

    assert provider["folder"] == group["folder"] == "tokendash"
    assert "folderUid" not in provider
    assert provider["options"]["path"] == "/etc/grafana/dashboards"


def test_what_the_rule_and_the_dashboards_refer_to_is_there() -> None:
    [source] = loaded("datasources/tokendash.yaml")["datasources"]
    found = rule()
    by_uid = {dashboard["uid"]: dashboard for dashboard in dashboards().values()}
    [variable] = [
        variable
        for variable in by_uid["td-overview"]["templating"]["list"]
        if variable["type"] == "datasource"
    ]

    used = {node["datasourceUid"] for node in found["data"]} - {"__expr__"}
    assert used == {source["uid"]} == {variable["current"]["value"]}
    [panel] = [
        panel
        for panel in by_uid[found["dashboardUid"]]["panels"]
        if panel["id"] == found["panelId"]
    ]
    assert panel["title"] == "Accounts"


def test_nobody_gets_in_without_the_generated_password() -> None:
    ini = settings()

    assert ini["security"]["admin_password"] == "$__file{/run/tokendash/admin_password}"
    assert ini["security"]["secret_key"] == "$__file{/run/tokendash/secret_key}"
    assert ini["auth.anonymous"]["enabled"] == "false"
    assert ini["users"]["allow_sign_up"] == "false"


def test_grafana_tells_nobody_and_fetches_nothing() -> None:
    ini = settings()

    assert set(ini["analytics"].values()) == {"false"}
    assert {*ini["analytics"]} >= {"reporting_enabled", "check_for_updates"}
    assert ini["news"]["news_feed_enabled"] == "false"
    assert ini["plugins"]["preinstall_disabled"] == "true"
    assert ini["security"]["disable_gravatar"] == "true"
    assert ini["snapshots"]["external_enabled"] == "false"


def test_grafana_opens_with_the_overview() -> None:
    path = Path(settings()["dashboards"]["default_home_dashboard_path"])

    assert path.parent == Path("/etc/grafana/dashboards")
    assert dashboards()[path.name]["uid"] == "td-overview"
    assert settings()["server"]["http_port"] == "3000"


def test_no_file_holds_a_secret() -> None:
    for path in [*PROVISIONING.rglob("*.yaml"), *(GRAFANA / "dashboards").glob("*.json")]:
        text = path.read_text(encoding="utf-8").replace("$__file{/run/tokendash/", "")

        assert "password" not in text.lower(), path.name
        assert "secret" not in text.lower().replace("securejsondata", ""), path.name


# ---- low balance ------------------------------------------------------------------------------


def test_the_rules_keep_to_what_grafana_accepts() -> None:
    assert lint_rules(loaded("alerting/rules.yaml"), KNOWN) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("interval: 1m", "interval: 45s", "multiple of 10s"),
        ("condition: C", "condition: B", "must be a threshold"),
        ("severity: critical", "severity: $labels.provider", "in a label"),
        ("index $labels", "index ${labels}", "in an annotation"),
        ("panelId: 14", "", "go together"),
        ("$timeFilter", "$timeFilter AND x = '$provider'", "do not exist in alert queries"),
        ('last("balance_usd")', 'last("balance_eur")', "no field balance_eur"),
        ("uid: td-low-balance", "uid: td low balance", "malformed uid"),
    ],
)
def test_a_fault_that_would_stop_grafana_is_found(old: str, new: str, complaint: str) -> None:
    text = alerting.dumps(alerting.build())
    assert old in text

    found = lint_rules(yaml.safe_load(text.replace(old, new)), KNOWN)

    assert complaint in "\n".join(found)


def balance(provider: str, fields: str, age_s: int = 60) -> str:
    return f"account_balance,provider={provider},account=main {fields} {int(time.time()) - age_s}"


@pytest.mark.parametrize(
    ("lines", "who"),
    [
        ([balance("openai", "balance_usd=4.99,low_balance_usd=5.0")], ["openai"]),
        ([balance("openai", "balance_usd=5.0,low_balance_usd=5.0")], []),
        ([balance("openai", "balance_usd=-0.5,low_balance_usd=0.0")], ["openai"]),
        ([balance("openai", "balance_usd=0.5,burn_usd_per_day=1.0")], []),  # no limit set
        ([balance("moonshot_ai", "low_balance_usd=5.0")], []),  # not in dollars
        ([balance("openai", "balance_usd=1.0,low_balance_usd=5.0", age_s=7 * 3600)], []),
        (
            [
                balance("openai", "balance_usd=1.0,low_balance_usd=5.0", age_s=600),
                balance("openai", "balance_usd=50.0,low_balance_usd=5.0"),
            ],
            [],  # topped up
        ),
        (
            [
                balance("openai", "balance_usd=99.0,low_balance_usd=5.0"),
                balance("deepseek", "balance_usd=1.0,low_balance_usd=5.0"),
                balance("moonshot_ai", "low_balance_usd=5.0"),
            ],
            ["deepseek"],
        ),
    ],
    ids=["below", "at", "overdrawn", "no limit", "no dollars", "old", "topped up", "one of three"],
)
def test_the_alert_fires_for_accounts_below_their_limit_only(
    engine_database: Database, lines: list[str], who: list[str]
) -> None:
    engine_database.write(lines)

    found = firing(rule(), engine_database.query, int(time.time()))

    assert found == [{"account": "main", "provider": name} for name in who]


def test_the_alert_is_quiet_on_an_empty_database(engine_database: Database) -> None:
    assert evaluate(rule(), engine_database.query, int(time.time())) == "OK"
