from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collectors import __version__
from collectors.cli import app, views
from collectors.ledger.store import Stored
from collectors.measurements import Row
from tests.support.commands import Installation
from tests.support.ledgers import ClaudeHome, point
from tests.test_cli_reports import HAIKU, HOSTILE, NOBODY, SONNET

CANARY = "canary-7f3a9c51e2d84b60-tail"
SHORT_CANARY = "canary-8d2"
NOW = datetime(2026, 3, 3, 12, 2, tzinfo=UTC)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "home of ada")


# -- providers ------------------------------------------------------------------------------------


def test_every_collector_says_where_it_looks(installation: Installation) -> None:
    ClaudeHome(installation.home)

    rows = {row["collector"]: row for row in installation.json("providers")["rows"]}

    claude, stats = rows["claude-code"], rows["claude-stats"]
    assert claude["configured"] is True
    assert claude["looked_for"] == [
        str(installation.home / ".config/claude/projects"),
        str(installation.home / ".claude/projects"),
    ]
    assert claude["last_success"] is None
    assert stats["configured"] is False
    assert stats["counts_as"] == "claude-code"


def test_the_last_success_and_the_last_error_are_shown(installation: Installation) -> None:
    installation.fill(point("a"), point("b"))
    ledger = installation.open()
    ledger.note_run("claude-code", 1_772_000_000, 1, Stored(), "", "")
    ledger.note_run("claude-code", 1_772_000_100, 1, Stored(), "the folder is gone", "put it back")
    ledger.close()

    [row] = [
        row for row in installation.json("providers")["rows"] if row["collector"] == "claude-code"
    ]
    shown = installation.run("providers").stdout

    assert row["last_success"] == "2026-02-25T06:13:20Z"
    assert row["last_run"] == "2026-02-25T06:15:00Z"
    assert row["error"] == "the folder is gone"
    assert row["records"] == 2
    assert "claude-code: the folder is gone – put it back" in shown


def test_a_collector_that_cannot_be_made_is_a_problem_not_a_crash(
    installation: Installation,
) -> None:
    found = installation.json("providers", COLLECTORS_EXTRA="nowhere:Nothing")

    assert "nowhere:Nothing cannot be loaded" in found["problems"][0]["error"]
    assert len(found["rows"]) >= 2


def test_a_collector_that_cannot_say_whether_it_is_set_up_ends_no_command(
    installation: Installation, tmp_path: Path
) -> None:
    (tmp_path / "broken_plugin.py").write_text(
        "from collectors.base import BaseCollector\n"
        "class BrokenCollector(BaseCollector):\n"
        "    name = 'broken'\n"
        "    def is_configured(self):\n"
        "        raise RuntimeError('no such thing')\n"
    )
    environ = {
        "COLLECTORS_EXTRA": "broken_plugin:BrokenCollector",
        "PYTHONPATH": f"{installation.environ['PYTHONPATH']}:{tmp_path}",
    }

    rows = {r["collector"]: r for r in installation.json("providers", **environ)["rows"]}
    checked = installation.run("check", **environ)

    assert rows["broken"]["configured"] is True
    assert checked.returncode == 0, checked.stderr
    assert "broken" in checked.stdout


# -- burn -----------------------------------------------------------------------------------------


def test_burn_is_per_hour_and_per_day_of_each_window(installation: Installation) -> None:
    installation.fill(
        point("week", "2026-02-25T12:00", model=HAIKU, input_tokens=0, output_tokens=150_000),
        point("day", "2026-03-02T18:00", model=HAIKU, input_tokens=24_000, output_tokens=0),
        # Now is 12:02: the hour is the twelve buckets up to the one of 12:00.
        point("out", "2026-03-03T11:04", model=HAIKU, input_tokens=48_000, output_tokens=0),
        point("in", "2026-03-03T11:05", model=SONNET, input_tokens=20_000, output_tokens=0),
    )
    ledger = installation.open()

    found = views.burned(ledger.db, NOW)

    ledger.close()
    rows = {name: views.burn_row(name, usage) for name, usage in found.items()}
    hour, day, week = rows.values()
    assert hour["total_tokens"] == 20_000
    assert hour["cost_usd_per_hour"] == 0.06
    assert hour["cost_usd_per_day"] == pytest.approx(1.44)
    assert day["total_tokens"] == 92_000
    assert day["cost_usd"] == 0.132
    assert day["cost_usd_per_hour"] == pytest.approx(0.0055)
    assert week["total_tokens"] == 242_000
    assert week["cost_usd_per_day"] == pytest.approx((0.132 + 0.75) / 7)
    assert week["window"] == "last_168_hours"


def test_burn_is_printed_for_people_and_programs(installation: Installation) -> None:
    installation.fill(point("a"))

    done = installation.run("burn", "--no-collect")
    found = installation.json("burn", "--no-collect")

    assert [line.split("  ")[0] for line in done.stdout.splitlines()[2:]] == [
        "last hour", "last 24 hours", "last 168 hours",
    ]  # fmt: skip
    assert [row["hours"] for row in found["rows"]] == [1, 24, 168]


# -- prices ---------------------------------------------------------------------------------------


def test_prices_of_the_models_in_the_ledger(installation: Installation) -> None:
    installation.fill(point("a", model=SONNET), point("b", model=NOBODY, provider="anthropic"))

    rows = installation.json("prices")["rows"]

    first = next(row for row in rows if row["model"] == SONNET)
    nobody = next(row for row in rows if row["model"] == NOBODY)
    assert float(first["input_usd_per_million"]) == 3
    assert float(first["output_usd_per_million"]) == 15
    assert float(first["cache_read_usd_per_million"]) == 0.3
    assert float(first["cache_write_1h_usd_per_million"]) == 6
    assert "genai-prices" in first["price_id"]
    assert nobody["input_usd_per_million"] is None
    assert NOBODY in nobody["reason"]


def test_a_model_the_ledger_does_not_hold_can_be_asked_for(installation: Installation) -> None:
    done = installation.run("prices", "claude-haiku-4-5", NOBODY)

    assert done.returncode == 0
    assert "claude-haiku-4-5" in done.stdout
    assert "anthropic" in done.stdout
    assert "unpriced" in done.stdout.split(NOBODY)[1]


def test_ones_own_prices_are_shown_with_their_source(installation: Installation) -> None:
    file = installation.home / "my.yaml"
    file.write_text("prices:\n- {model: no-such-model-1, input: 1.25, output: 2}\n- {model: x}\n")

    found = installation.json("prices", NOBODY, PRICES_FILE=str(file))

    [row] = found["rows"]
    assert float(row["input_usd_per_million"]) == 1.25
    assert "my.yaml" in row["price_id"]
    assert "entry 2 (x)" in found["problems"][0]


def test_the_unpriced_are_listed_with_the_reason(installation: Installation) -> None:
    installation.fill(
        point("a", model=NOBODY, input_tokens=5_000, output_tokens=0),
        point("b", model=SONNET, input_tokens=0, output_tokens=0, unsplit_tokens=900),
        point("c", model=SONNET),
    )

    rows = installation.json("prices", "--unpriced")["rows"]

    assert [(row["model"], row["tokens"]) for row in rows] == [(NOBODY, 5_000), (SONNET, 900)]
    assert NOBODY in rows[0]["reason"]
    assert "not split into input and output" in rows[1]["reason"]


def test_the_unpriced_add_up_to_what_the_reports_say(installation: Installation) -> None:
    installation.fill(
        point("a", model=NOBODY, unsplit_tokens=40),
        point("b", model=NOBODY, service_tier="priority", batch=True),
        point("c", model=SONNET, unsplit_tokens=900),
        point("d", model=SONNET),
    )

    rows = installation.json("prices", "--unpriced")["rows"]
    totals = installation.json("report", "models", "--no-collect")["totals"]

    assert sorted(row["tokens"] for row in rows) == [40, 110, 110, 900]
    assert totals["unpriced_tokens"] == 40 + 110 + 110 + 900


def test_with_every_token_priced_there_is_nothing_to_list(installation: Installation) -> None:
    installation.fill(point("a"))

    assert installation.run("prices", "--unpriced").stdout == "Everything has a price.\n"


# -- config ---------------------------------------------------------------------------------------


def test_each_setting_names_its_value_and_origin(installation: Installation) -> None:
    env = installation.config / ".env"
    env.write_text("HOST_NAME=laptop\n")
    env.chmod(0o600)

    rows = {
        row["name"]: row for row in installation.json("config", SYNC_INTERVAL_HOURS="2")["rows"]
    }

    assert rows["HOST_NAME"]["value"] == "laptop"
    assert rows["HOST_NAME"]["origin"] == f"{env} (HOST_NAME)"
    assert rows["COLLECT_INTERVAL"]["value"] == "7200"
    assert rows["COLLECT_INTERVAL"]["origin"] == "environment (SYNC_INTERVAL_HOURS)"
    assert rows["INFLUXDB_BUCKET"]["value"] == "tokens"
    assert rows["INFLUXDB_BUCKET"]["origin"] == "default"
    assert rows["CLAUDE_CODE_PLAN"]["owner"] == "claude-code, claude-stats"


@pytest.mark.parametrize("command", ["config", "check", "status", "providers", "paths"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_command_shows_a_secret(
    installation: Installation, command: str, form: tuple[str, ...]
) -> None:
    secrets = {
        "INFLUXDB_URL": "http://127.0.0.1:9",
        "INFLUXDB_TOKEN": CANARY if command != "status" else SHORT_CANARY,
    }

    done = installation.run(command, *form, **secrets)

    for canary in (CANARY, SHORT_CANARY, CANARY[:-4]):
        assert canary not in done.stdout + done.stderr


def test_of_a_long_secret_the_end_is_shown_and_of_a_short_one_nothing(
    installation: Installation,
) -> None:
    def token(value: str) -> str:
        rows = installation.json("config", INFLUXDB_TOKEN=value)["rows"]
        return str(next(row["value"] for row in rows if row["name"] == "INFLUXDB_TOKEN"))

    assert token(CANARY) == "set (…tail)"
    assert token(SHORT_CANARY) == "set"


def test_the_origin_of_a_secret_from_a_file_is_the_file(installation: Installation) -> None:
    file = installation.home / "token"
    file.write_text(CANARY + "\n")

    rows = installation.json("config", INFLUXDB_TOKEN_FILE=str(file))["rows"]

    [row] = [row for row in rows if row["name"] == "INFLUXDB_TOKEN"]
    assert row["origin"] == "file named by INFLUXDB_TOKEN_FILE"
    assert row["value"] == "set (…tail)"


def test_a_wrong_setting_is_named_without_its_value(installation: Installation) -> None:
    done = installation.run("config", COLLECT_INTERVAL=CANARY)

    assert done.returncode == 2
    assert "COLLECT_INTERVAL from environment (COLLECT_INTERVAL)" in done.stderr
    assert CANARY not in done.stderr
    assert "Traceback" not in done.stderr


# -- paths and dead letters -----------------------------------------------------------------------


def test_paths_names_every_place(installation: Installation) -> None:
    found = installation.json("paths")

    assert found["ledger"] == [str(installation.ledger)]
    assert found["config"] == [str(installation.config)]
    assert set(found) >= {"backups", "spool", "socket", "logs of claude-code"}
    assert str(installation.ledger) in installation.run("paths").stdout


def test_dead_letters_are_listed_with_what_the_server_said(installation: Installation) -> None:
    installation.fill(point("a", "2026-03-02T10:03", project="/home/ada/app"))
    ledger = installation.open()
    number = ledger.outbox.target("http://influx:8086", "tokendash", "tokens")
    row: Row = next(
        each for each in ledger.outbox.due(number, 10, 0) if each.measurement == "token_usage"
    )
    ledger.outbox.refuse(number, [row], 400, f"field type {HOSTILE}", "refused")
    ledger.close()

    [letter] = installation.json("dead")["rows"]
    shown = installation.run("dead").stdout

    assert letter["measurement"] == "token_usage"
    assert letter["timestamp"] == "2026-03-02T10:00:00Z"
    assert letter["status"] == 400
    assert letter["tags"]["project"] == "app"
    assert letter["url"] == "http://influx:8086"
    assert "evil\\x1b[2J\\u202egpj.exe" in shown
    assert "\x1b" not in shown


def test_without_dead_letters_it_says_so(installation: Installation) -> None:
    assert installation.run("dead").stdout == "InfluxDB has refused nothing.\n"


# -- the parser -----------------------------------------------------------------------------------


def test_the_version_is_one_line(installation: Installation) -> None:
    assert installation.run("--version").stdout == f"tokendash {__version__}\n"


def test_help_names_every_command(installation: Installation) -> None:
    done = installation.run("--help", COLUMNS="120")

    assert done.returncode == 0
    for name in ("run", "report", "status", "providers", "burn", "check", "config", "prices"):
        assert f" {name} " in done.stdout
    assert done.stdout.index(" report ") < done.stdout.index(" burn ")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ([], ["run"]),
        (["--once"], ["run", "--once"]),
        (["--dry-run", "--collector", "x"], ["run", "--dry-run", "--collector", "x"]),
        (["--help"], ["--help"]),
        (["--version"], ["--version"]),
        (["report"], ["report", "daily"]),
        (["report", "--json"], ["report", "daily", "--json"]),
        (["report", "--help"], ["report", "--help"]),
        (["burn", "--json"], ["burn", "--json"]),
    ],
)
def test_what_is_meant_when_no_command_is_named(arguments: list[str], meant: list[str]) -> None:
    assert app.completed(arguments) == meant


def test_an_unknown_command_ends_with_code_2(installation: Installation) -> None:
    done = installation.run("statsu")

    assert done.returncode == 2
    assert "tokendash: No such command 'statsu'" in done.stderr
    assert "`tokendash --help`" in done.stderr


def test_ctrl_c_ends_with_code_130_and_no_traceback(installation: Installation) -> None:
    code = (
        "import sys; from collectors.cli.console import guarded\n"
        "def work(): raise KeyboardInterrupt\n"
        "sys.exit(guarded(work))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env=installation.environ, capture_output=True, check=False
    )

    assert done.returncode == 130
    assert done.stderr == b""


def test_a_name_the_locale_cannot_spell_is_no_crash(installation: Installation) -> None:
    installation.fill(point("a", model="étude-日本"))

    done = installation.run(
        "report", "models", "--no-collect", PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )

    assert done.returncode == 0
    assert "\\xe9tude-\\u65e5\\u672c" in done.stdout


def test_json_is_one_line_in_a_pipe_and_plain_ascii(installation: Installation) -> None:
    installation.fill(point("a", model=HOSTILE, project="/srv/日本"))

    done = installation.run("report", "projects", "--json", "--no-collect")

    assert done.stdout.count("\n") == 1
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["rows"][0]["project"] == "/srv/日本"


def test_nothing_of_a_caller_s_folder_is_read(installation: Installation) -> None:
    (installation.home / ".env").write_text("DB_PATH=/elsewhere/ledger.db\nTZ=nonsense\n")
    with contextlib.suppress(FileExistsError):
        os.mkfifo(installation.home / "tokendash.yaml")  # reading it would hang

    found = installation.json("paths")

    assert found["ledger"] == [str(installation.ledger)]
