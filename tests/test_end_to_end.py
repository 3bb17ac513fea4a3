"""The main job: real-format logs through the program into a real InfluxDB and its panels."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from grafana import claude_code, overview
from tests.bench import make_corpus
from tests.support.dashcheck import all_of, run_all
from tests.support.influxd import Database, Influxd
from tests.support.v2_facade import ThreadedV2Facade
from tests.test_grafana_dashboards import NOT_SPLIT, NOT_YET

ROOT = Path(__file__).resolve().parents[1]
DAYS = 12
TOKENS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "reasoning")


@dataclass
class Pipeline:
    """What went in and where it came out."""

    home: Path
    truth: dict[str, Any]
    database: Database
    environment: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "collectors", *arguments],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )

    def ledger(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.home / 'ledger.db'}?mode=ro", uri=True)


def _collect(
    home: Path,
    facade: ThreadedV2Facade,
    database: Database,
    *,
    size: str,
    plan: str,
    seed: str,
    until: int,
) -> Pipeline:
    """Logs of the last weeks, collected and sent by one `--once`."""
    last_day = (datetime.now(UTC) + timedelta(days=until)).date().isoformat()
    options = {"out": str(home), "size-mb": size, "agents": "claude", "days": str(DAYS)}
    options |= {"end": last_day, "jobs": "1", "seed": seed}
    make_corpus.main([word for name, value in options.items() for word in (f"--{name}", value)])
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DB_PATH": str(home / "ledger.db"),
        "HOST_NAME": f"host of {plan or 'nobody'}",
        "INFLUXDB_URL": facade.url,
        "INFLUXDB_TOKEN": facade.token,
        "INFLUXDB_BUCKET": database.name,
        "CLAUDE_CODE_PLAN": plan,
        "TZ": "UTC",
        "TOKENDASH_CONFIG_DIR": str(home / "config"),
    }
    truth = json.loads((home / "truth.json").read_text())["agents"]["claude"]
    pipeline = Pipeline(home, truth, database, environment)
    done = pipeline.run("--once")
    assert done.returncode == 0, done.stderr
    return pipeline


@pytest.fixture(scope="module")
def facade(influxd: Influxd) -> Iterator[ThreadedV2Facade]:
    with ThreadedV2Facade(influxd.url) as found:
        yield found


@pytest.fixture(scope="module")
def pipeline(
    tmp_path_factory: pytest.TempPathFactory,
    influxd: Influxd,
    facade: ThreadedV2Facade,
    request: pytest.FixtureRequest,
) -> Pipeline:
    home = tmp_path_factory.mktemp("main job") / "with space"
    size = "500" if request.config.getoption("--soak") else "24"
    # Sessions are resumed up to three days later; times after tomorrow would be set aside.
    return _collect(home, facade, Database(influxd), size=size, plan="api", seed="1", until=-4)


@pytest.fixture(scope="module")
def three_hosts(
    tmp_path_factory: pytest.TempPathFactory, influxd: Influxd, facade: ThreadedV2Facade
) -> list[Pipeline]:
    """Three exporters on one InfluxDB, one for each way Claude Code's use can be paid."""
    database = Database(influxd)
    return [
        _collect(
            tmp_path_factory.mktemp("host") / "home",
            facade,
            database,
            size="6",
            plan=plan,
            seed=f"host {plan}",
            until=1,
        )
        for plan in ("api", "max20", "")
    ]


def _by_day_and_model(found: list[Any]) -> dict[tuple[str, str], tuple[int, ...]]:
    """Requests and token classes of an InfluxQL answer grouped by day and model."""
    sums: dict[tuple[str, str], tuple[int, ...]] = {}
    for series in found:
        for moment, *values in series["values"]:
            if any(values):
                day = datetime.fromtimestamp(moment / 1000, UTC).date().isoformat()
                sums[day, series["tags"]["model"]] = tuple(int(value or 0) for value in values)
    return sums


def _truth(pipeline: Pipeline) -> dict[tuple[str, str], tuple[int, ...]]:
    return {
        (day, model): tuple(row[name] for name in ("requests", *TOKENS))
        for day, models in pipeline.truth["by_day_model"].items()
        for model, row in models.items()
    }


QUERY = (
    'SELECT sum("requests"), sum("input_tokens"), sum("output_tokens"), sum("cache_read_tokens"),'
    ' sum("cache_write_tokens") - sum("cache_write_1h_tokens"), sum("cache_write_1h_tokens"),'
    ' sum("reasoning_tokens") FROM "{}" WHERE time > now() - 60d AND time < now() + 2d'
    ' GROUP BY time(1d), "model"'
)


@pytest.mark.parametrize("measurement", ["token_usage", "token_usage_daily"])
def test_influxdb_holds_exactly_the_truth_of_the_logs(pipeline: Pipeline, measurement: str) -> None:
    found = pipeline.database.query(QUERY.format(measurement))

    assert _by_day_and_model(found) == _truth(pipeline)


def test_influxdb_equals_the_ledger_bucket_by_bucket(pipeline: Pipeline) -> None:
    stored: dict[tuple[int, str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for series in pipeline.database.query(
        'SELECT "total_tokens", "cost_usd" FROM "token_usage" GROUP BY "model", "project"'
    ):
        tags = series["tags"]
        for moment, tokens, cost in series["values"]:
            key = (moment // 300_000 * 300, tags["model"], tags["project"])
            stored[key] = (tokens, round(cost * 1e9))

    ledger: dict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for start, model, project, tokens, nano in pipeline.ledger().execute(
        "SELECT start, model, project, input_tokens+cache_read_tokens+cache_write_tokens+"
        "output_tokens+unsplit_tokens, cost_nano FROM bucket JOIN series ON series.id=series"
    ):
        sums = ledger[start, model, project.rpartition("/")[2]]
        sums[0] += tokens
        sums[1] += nano
    assert dict(stored) == {key: tuple(sums) for key, sums in ledger.items()}


@pytest.mark.parametrize("days", [7, 30])
@pytest.mark.parametrize(
    "dashboard", [overview.build(), claude_code.build()], ids=["overview", "cache"]
)
def test_every_panel_answers_from_what_the_exporters_wrote(
    three_hosts: list[Pipeline], dashboard: Any, days: int
) -> None:
    query = three_hosts[0].database.query
    now = int(datetime.now(UTC).timestamp())

    found = run_all(dashboard, query, all_of(dashboard, "UTC"), now - days * 86_400, now)

    assert {name for name, count in found.items() if not count} - NOT_SPLIT <= NOT_YET


def test_hosts_that_share_an_influxdb_add_up(three_hosts: list[Pipeline]) -> None:
    [series] = three_hosts[0].database.query('SELECT sum("requests") FROM "token_usage"')

    counted = [
        host.ledger().execute("SELECT sum(requests) FROM bucket").fetchone()[0]
        for host in three_hosts
    ]
    assert series["values"][0][1] == sum(counted)


def test_the_report_and_influxdb_show_the_same_money(pipeline: Pipeline) -> None:
    report = json.loads(pipeline.run("report", "daily", "--no-collect", "--json").stdout)

    [series] = pipeline.database.query('SELECT sum("cost_usd") FROM "token_usage"')
    assert report["totals"]["cost_usd"] == pytest.approx(series["values"][0][1], abs=1e-6)
    assert report["totals"]["requests"] == pipeline.truth["total"]["requests"]
    assert sum(row["cost_usd"] for row in report["rows"]) == pytest.approx(
        report["totals"]["cost_usd"]
    )


def test_a_second_run_has_nothing_to_send(pipeline: Pipeline) -> None:
    again = pipeline.run("--once")

    assert again.returncode == 0
    assert "0 records read" in again.stdout
    assert "0 points sent" in again.stdout


def test_a_new_influxdb_receives_the_whole_history(pipeline: Pipeline, influxd: Influxd) -> None:
    before = _by_day_and_model(pipeline.database.query(QUERY.format("token_usage")))
    another = Database(influxd)
    with ThreadedV2Facade(influxd.url) as facade:
        target = {"INFLUXDB_URL": facade.url, "INFLUXDB_TOKEN": facade.token}
        environment = {**pipeline.environment, **target, "INFLUXDB_BUCKET": another.name}

        done = replace(pipeline, environment=environment).run("--once")

    assert done.returncode == 0
    assert _by_day_and_model(another.query(QUERY.format("token_usage"))) == before
