from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from collectors.cli import quick
from collectors.cli.light import ago, span
from collectors.ledger import glance
from collectors.ledger.files import WriterLock
from collectors.ledger.reports import Usage
from collectors.ledger.schema import BUCKET_COLUMNS
from collectors.ledger.store import Stored
from collectors.points import Batch, Refusal
from tests.support.commands import Installation
from tests.support.ledgers import LARGEST, ClaudeHome, point
from tests.test_cli_reports import HAIKU, HOSTILE, NOBODY, SONNET, loaded_by

NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)  # a Tuesday, 13:00 in Berlin


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "home of ada")


@pytest.fixture
def used(installation: Installation) -> Installation:
    """Use on six days; Sonnet costs $3 and $15 a million tokens, Haiku $1 and $5."""
    installation.fill(
        point("old", "2026-02-24T22:59", model=HAIKU, input_tokens=1, output_tokens=0),
        point("feb", "2026-02-25T10:00", model=HAIKU, input_tokens=10_000, output_tokens=0),
        point("a", "2026-03-01T10:00", model=SONNET, input_tokens=100_000, output_tokens=0),
        point("b", "2026-03-01T23:30", model=HAIKU, input_tokens=0, output_tokens=20_000),
        point("c", "2026-03-03T08:00", model=SONNET, input_tokens=20_000, output_tokens=10_000),
        point("d", "2026-03-03T11:50", model=HAIKU, input_tokens=30_000, output_tokens=0),
    )
    return installation


def status(installation: Installation, capsys: pytest.CaptureFixture[str]) -> Any:
    assert quick.show_status(installation.environ, as_json=True, clock=lambda: NOW) == 0
    return json.loads(capsys.readouterr().out)


def text(installation: Installation, capsys: pytest.CaptureFixture[str], **environ: str) -> str:
    quick.show_status({**installation.environ, **environ}, as_json=False, clock=lambda: NOW)
    return capsys.readouterr().out


def test_the_whole_screen(used: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    size = f"{used.ledger.stat().st_size / 1e6:,.1f} MB"

    assert text(used, capsys).splitlines() == [
        "tokendash 0.1.0: not running",
        f"ledger {used.ledger} ({size}), days in Europe/Berlin",
        "",
        "             requests   tokens   paid",
        "-----------  --------  -------  -----",
        "today               2   60,000  $0.24",
        "yesterday           1   20,000  $0.10",
        "last 7 days         5  190,000  $0.65",
        "this month          4  180,000  $0.64",
        "",
        "Top models today",
        f"  {SONNET}  30.0k tokens  $0.21",
        f"  {HAIKU}   30.0k tokens  $0.03",
        "",
        "Sources",
        "  claude-code  newest data 10 min ago",
        "",
        "! INFLUXDB_URL is not set: the ledger keeps everything until it is.",
    ]


def test_the_numbers_as_json(used: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    found = status(used, capsys)

    assert found["running"] is False
    assert found["pid"] is None
    assert found["tz"] == "Europe/Berlin"
    assert {name: sums["cost_usd"] for name, sums in found["periods"].items()} == {
        "today": 0.24,
        "yesterday": 0.1,
        "last_7_days": 0.65,
        "this_month": 0.64,
    }
    assert found["sources"] == [
        {"source": "claude-code", "last_data": "2026-03-03T11:50:00Z", "age_s": 600}
    ]
    assert [row["model"] for row in found["top_models_today"]] == [SONNET, HAIKU]


def test_sums_have_the_fields_of_a_report() -> None:
    sums = {name: number for number, name in enumerate(BUCKET_COLUMNS, 1)}

    assert glance.fields(sums) == Usage(*sums.values()).fields()
    assert glance.total_tokens(sums) == Usage(*sums.values()).total_tokens


def test_each_meaning_of_money_has_its_own_column(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.fill(
        point("a", "2026-03-03T08:00", billing="subscription", output_tokens=100_000),
        point("b", "2026-03-03T08:00", billing="unknown", output_tokens=200_000),
        point("c", "2026-03-03T08:00", model=NOBODY),
    )

    shown = text(installation, capsys)

    assert shown.splitlines()[3:7] == [
        "                                subscription,  plan unknown,",
        "             requests   tokens  at list price  at list price",
        "-----------  --------  -------  -------------  -------------",
        "today               3  300,310         ≥$1.50         ≥$3.00",
    ]
    assert "110 tokens of the last 30 days have no price" in shown
    assert "Set CLAUDE_CODE_PLAN to api, pro, max5, max20 or team." in shown


def test_what_has_no_price_is_not_zero(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.fill(point("c", "2026-03-03T08:00", model=NOBODY))

    today = text(installation, capsys).splitlines()[5]

    assert today.split() == ["today", "1", "110", "unpriced"]


def test_a_running_exporter_is_named(
    used: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    with WriterLock(used.ledger):
        found = status(used, capsys)
        shown = text(used, capsys)

    assert found["running"] is True
    assert found["pid"] == os.getpid()
    assert f": running, process {os.getpid()}" in shown


def test_without_a_ledger_it_says_how_to_make_one(installation: Installation) -> None:
    done = installation.run("status")

    assert done.returncode == 0
    assert "There is no ledger yet: `tokendash --once` makes it" in done.stdout
    assert not installation.ledger.exists()
    assert not installation.ledger.parent.exists()


def test_a_file_that_is_no_ledger_is_refused_and_untouched(installation: Installation) -> None:
    installation.ledger.parent.mkdir()
    installation.ledger.write_text("my thesis")

    done = installation.run("status")

    assert done.returncode == 2
    assert "is not a tokendash ledger" in done.stderr
    assert "DB_PATH" in done.stderr
    assert installation.ledger.read_text() == "my thesis"
    assert list(installation.ledger.parent.iterdir()) == [installation.ledger]


def test_failures_refusals_and_what_waits_are_named(
    used: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = used.open()
    try:
        refusal = Refusal(reason="not JSON", location="a.jsonl", offset=1, length=2)
        ledger.commit("claude-code", LARGEST, Batch(refusals=[refusal]))
        moment = NOW.timestamp() - 7200
        ledger.note_run("claude-code", moment, 1, Stored(), "the folder is gone", "put it back")
        ledger.outbox.target("http://influx.example:8086", "tokendash", "tokens")
    finally:
        ledger.close()

    found = status(used, capsys)
    shown = text(used, capsys)

    assert "! claude-code failed 2 h ago: the folder is gone (put it back)" in shown
    assert "! 1 record could not be read: `tokendash check` names the reason." in shown
    assert "claude-code  newest data 10 min ago  failed 2 h ago" in shown
    [target] = found["targets"]
    # Six buckets, and as many pairs of a day and a model.
    assert target["pending"] == 6 + 6
    assert "InfluxDB http://influx.example:8086 tokens: 12 points wait to be sent" in shown


def test_hostile_names_do_not_reach_the_screen(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.fill(point("a", "2026-03-03T08:00", model=HOSTILE))

    shown = text(installation, capsys)

    assert "evil_[2J\\u202egpj.exe" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_colours_are_for_terminals(used: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b[1m" in text(used, capsys, FORCE_COLOR="1")
    assert "\x1b" not in text(used, capsys, FORCE_COLOR="1", NO_COLOR="1")


def test_it_starts_without_anything_heavy(used: Installation) -> None:
    assert loaded_by(used, "status") == set()
    assert loaded_by(used, "status", "--json") == set()


def test_it_does_not_even_load_msgspec(used: Installation) -> None:
    done = used.run("status", PYTHONPROFILEIMPORTTIME="1")

    assert "sqlite3" in done.stderr
    assert "msgspec" not in done.stderr


def test_help_and_mistakes_come_from_the_full_parser(installation: Installation) -> None:
    helped = installation.run("status", "--help", COLUMNS="100")
    wrong = installation.run("status", "--jsn")

    assert "--json" in helped.stdout
    assert helped.returncode == 0
    assert wrong.returncode == 2
    assert "--json" in wrong.stderr


# -- before the agent deletes ---------------------------------------------------------------------


@pytest.fixture
def old_logs(installation: Installation) -> ClaudeHome:
    """Two transcripts: one of 28 days ago, one of today."""
    logs = ClaudeHome(installation.home)
    for name, days in (("old", 28), ("new", 0)):
        logs.append(3, name)
        moment = time.time() - days * 86_400 - 60
        os.utime(logs.path(name), (moment, moment))
    return logs


def warnings(installation: Installation) -> list[str]:
    return [hint for hint in installation.json("status")["hints"] if "deletes transcripts" in hint]


def test_transcripts_about_to_be_deleted_unread_are_warned_of(
    installation: Installation, old_logs: ClaudeHome
) -> None:
    size = old_logs.path("old").stat().st_size / 1e6

    assert warnings(installation) == [
        (
            f"Claude Code deletes transcripts after 30 days: 1 file ({size:,.1f} MB) older than 27"
            " days was never collected. Run `tokendash --once` now."
        )
    ]


def test_what_was_collected_may_be_deleted(
    installation: Installation, old_logs: ClaudeHome
) -> None:
    assert installation.run("--once").returncode == 0
    ledger = installation.open()
    ledger.db.execute("DELETE FROM run")  # as if it had been long ago
    ledger.close()

    assert warnings(installation) == []


def test_bytes_that_came_after_the_last_look_are_warned_of(
    installation: Installation, old_logs: ClaudeHome
) -> None:
    assert installation.run("--once").returncode == 0
    ledger = installation.open()
    ledger.db.execute("DELETE FROM run")
    ledger.close()
    old_logs.append(1, "old")
    moment = time.time() - 29 * 86_400
    os.utime(old_logs.path("old"), (moment, moment))

    assert len(warnings(installation)) == 1


def test_the_agents_own_setting_decides(installation: Installation, old_logs: ClaudeHome) -> None:
    setting = installation.home / ".claude/settings.json"
    setting.write_text('{"cleanupPeriodDays": 365}')
    unhurried = warnings(installation)
    setting.write_text('{"cleanupPeriodDays": 10}')
    hurried = warnings(installation)

    assert unhurried == []
    assert "after 10 days: 1 file" in hurried[0]


def test_after_a_recent_run_no_file_is_looked_at(
    installation: Installation, old_logs: ClaudeHome
) -> None:
    assert installation.run("--once").returncode == 0

    done = installation.run("status", PYTHONPROFILEIMPORTTIME="1")
    assert "collectors.agents" not in done.stderr


# -- lengths of time ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (86_399, "23 h"),
        (86_400, "1 d"),
        (-5, "0 s"),
    ],
)
def test_a_length_of_time_is_told_in_its_largest_unit(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_data_of_the_running_bucket_is_new() -> None:
    assert ago(299) == "just now"
    assert ago(299, exact=True) == "4 min ago"
