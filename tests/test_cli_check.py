from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from collectors.cli import check as check_module
from collectors.cli.check import Report
from collectors.cli.options import own_kinds, unknown_names
from collectors.layers import read_layers
from collectors.ledger.backup import backup
from collectors.ledger.files import WriterLock
from collectors.ledger.store import Stored
from collectors.points import Batch, Refusal
from tests.support.commands import Installation
from tests.support.ledgers import LARGEST, ClaudeHome, point
from tests.test_cli_reports import HOSTILE, NOBODY, SONNET
from tests.test_cli_views import CANARY


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "home of ada")


def check(installation: Installation, code: int = 0, **environ: str) -> list[dict[str, Any]]:
    done = installation.run("check", "--json", **environ)
    assert done.returncode == code, done.stdout + done.stderr
    import json

    found = json.loads(done.stdout)
    assert found["exit_code"] == code
    return list(found["findings"])


def texts(findings: list[dict[str, Any]], section: str, state: str = "") -> list[str]:
    return [
        finding["text"]
        for finding in findings
        if finding["section"] == section and state in ("", finding["state"])
    ]


@contextlib.contextmanager
def influxdb(status: int) -> Iterator[str]:
    """A server that answers every write with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# -- settings -------------------------------------------------------------------------------------


def test_on_a_fresh_machine_all_is_well(installation: Installation) -> None:
    done = installation.run("check")

    assert done.returncode == 0
    assert done.stdout.endswith("\nWhat leaves this machine\n  ok nothing\n\nAll is well.\n")
    assert f"nothing at {installation.home}/.config/claude/projects" in done.stdout
    assert not installation.ledger.parent.exists()


def test_every_wrong_setting_is_named_and_no_value(installation: Installation) -> None:
    findings = check(
        installation, 2, COLLECT_INTERVAL=CANARY, LOG_LEVEL="loud", INFLUXDB_SERIES_BUDGET="3"
    )

    [wrong] = texts(findings, "Settings", "error")
    for name in ("COLLECT_INTERVAL", "LOG_LEVEL", "INFLUXDB_SERIES_BUDGET"):
        assert f"{name} from environment ({name})" in wrong
    assert CANARY not in str(findings)


def test_a_wrong_setting_of_one_collector_leaves_the_rest_checked(
    installation: Installation,
) -> None:
    findings = check(installation, 2, CLAUDE_CODE_PLAN="lifetime")

    wrong = texts(findings, "Settings", "error")
    assert all("CLAUDE_CODE_PLAN from environment" in text for text in wrong)
    assert wrong
    assert texts(findings, "Ledger")


def test_a_zone_that_is_none_ends_with_code_2(installation: Installation) -> None:
    findings = check(installation, 2, TZ="Mars/Olympus")

    assert "not a time zone" in texts(findings, "Settings", "error")[0]


def test_an_env_file_that_others_can_read_is_warned_of(installation: Installation) -> None:
    path = installation.config / ".env"
    path.write_text("TZ=UTC\n")
    path.chmod(0o644)

    [warning] = texts(check(installation), "Settings", "warning")

    assert warning == f"{path} can be read by other users: chmod 600 {path}"


# -- collectors -----------------------------------------------------------------------------------


def test_what_would_be_read_from_where_is_listed(installation: Installation) -> None:
    ClaudeHome(installation.home)

    found = texts(check(installation), "Collectors", "ok")

    assert found == [
        (
            f"claude-code reads {installation.home}/.config/claude/projects,"
            f" {installation.home}/.claude/projects"
        )
    ]


def test_a_collector_that_failed_last_ends_with_code_3(installation: Installation) -> None:
    ledger = installation.open()
    ledger.note_run("claude-code", 1, 1, Stored(), "the folder is gone", "put it back")
    ledger.close()

    findings = check(installation, 3)

    [finding] = [f for f in findings if f["state"] == "error"]
    assert finding["text"] == "claude-code: the folder is gone"
    assert finding["hint"] == "put it back"


def test_sources_that_tell_of_the_same_use_are_named(installation: Installation) -> None:
    ClaudeHome(installation.home)
    (installation.home / ".claude/stats-cache.json").write_text("{}")

    found = texts(check(installation), "Collectors", "note")

    assert found == [
        (
            "claude-stats and claude-code tell of the same use: claude-stats fills only days on"
            " which claude-code has nothing"
        )
    ]


# -- prices ---------------------------------------------------------------------------------------


def test_models_without_a_price_are_named_with_the_reason(installation: Installation) -> None:
    installation.fill(point("a", model=NOBODY), point("b", model=SONNET))

    [warning] = texts(check(installation), "Prices", "warning")

    assert warning.startswith(f"110 tokens of anthropic {NOBODY} have no price: ")
    assert len(warning) > len(f"110 tokens of anthropic {NOBODY} have no price: ")


def test_a_mistake_in_ones_price_file_ends_with_code_2(installation: Installation) -> None:
    file = installation.home / "my.yaml"
    file.write_text("prices:\n- {model: x, input: cheap}\n")

    findings = check(installation, 2, PRICES_FILE=str(file))

    assert "my.yaml: entry 1 (x), input" in texts(findings, "Prices", "error")[0]


# -- ledger ---------------------------------------------------------------------------------------


def test_the_ledger_says_what_it_holds(installation: Installation) -> None:
    installation.fill(point("a", "2026-03-01T10:00"), point("b", "2026-03-05T23:30"))

    found = texts(check(installation), "Ledger", "ok")

    assert "2 records, 2026-03-01 to 2026-03-06" in found


def test_skipped_records_are_counted_by_reason_with_a_place(installation: Installation) -> None:
    ledger = installation.open()
    refusals = [Refusal(reason="not JSON", location=f"/logs/{n}.jsonl", offset=n) for n in range(3)]
    ledger.commit("claude-code", LARGEST, Batch(refusals=refusals))
    ledger.close()

    findings = check(installation)

    [finding] = [f for f in findings if f["section"] == "Ledger" and f["state"] == "warning"]
    assert finding["text"] == "3 records of claude-code skipped: not JSON"
    assert finding["hint"] == "such as in /logs/2.jsonl"


def test_a_ledger_others_can_read_is_warned_of(installation: Installation) -> None:
    installation.fill(point("a"))
    installation.ledger.chmod(0o644)

    [warning] = texts(check(installation), "Ledger", "warning")

    assert warning == f"{installation.ledger} can be read by other users"


def test_a_file_that_is_no_ledger_ends_with_code_2_and_stays(installation: Installation) -> None:
    installation.ledger.parent.mkdir()
    installation.ledger.write_text("my thesis")

    findings = check(installation, 2)

    assert "is not a tokendash ledger" in texts(findings, "Ledger", "error")[0]
    assert installation.ledger.read_text() == "my thesis"


def test_damage_is_named_with_the_way_back(installation: Installation) -> None:
    installation.fill(*(point(f"k{n}", f"2026-03-02T10:{n % 60:02d}") for n in range(2_000)))
    content = bytearray(installation.ledger.read_bytes())
    # Half the pages become rubbish; the header and the schema stay.
    content[len(content) // 2 :] = b"\x5a" * (len(content) - len(content) // 2)
    installation.ledger.write_bytes(content)

    findings = check(installation, 1)

    wrong = [f for f in findings if f["section"] == "Ledger" and f["state"] == "error"]
    assert wrong
    for finding in wrong:
        assert "damaged" in finding["text"] or "cannot be read" in finding["text"]
        assert "tokendash restore" in finding["hint"]


def test_numbers_that_were_changed_by_hand_are_damage(installation: Installation) -> None:
    installation.fill(point("a"), point("b"))
    # SQLite sees nothing wrong: records and buckets still agree with each other.
    with contextlib.closing(sqlite3.connect(installation.ledger)) as db, db:
        db.execute("UPDATE record SET output_tokens=output_tokens+1000")
        db.execute("UPDATE bucket SET output_tokens=output_tokens+2000")

    findings = check(installation, 1)

    [wrong] = [f for f in findings if f["section"] == "Ledger" and f["state"] == "error"]
    assert wrong["text"].startswith("is damaged: record: 2 rows do not match their check")
    assert "\nclaude-code: the books say " in wrong["text"]
    assert "tokendash restore" in wrong["hint"]
    assert not any("2 records" in text for text in texts(findings, "Ledger", "ok"))


def test_another_ledger_in_the_place_of_ones_own_is_damage(
    installation: Installation, tmp_path: Path
) -> None:
    installation.fill(point("a"))
    other = Installation(tmp_path / "another home")
    other.fill(point("b"))
    shutil.copy(other.ledger, installation.ledger)

    wrong = texts(check(installation, 1), "Ledger", "error")

    assert wrong == [
        "is damaged: this is not the ledger that was here before (a file or -wal of another one)"
    ]


def test_a_ledger_that_vanished_is_not_a_fresh_start(installation: Installation) -> None:
    installation.fill(point("a"))
    installation.ledger.unlink()

    wrong = texts(check(installation, 1), "Ledger", "error")

    assert wrong == [f"there is none at {installation.ledger}, but one was here before"]


def test_who_writes_the_ledger_is_named(installation: Installation) -> None:
    installation.fill(point("a"))

    with WriterLock(installation.ledger):
        found = texts(check(installation), "Ledger", "ok")

    assert any(text.startswith("written by process ") for text in found)


@pytest.mark.parametrize(("days", "state"), [(1, "ok"), (9, "warning")])
def test_the_age_of_the_newest_backup_is_shown(
    installation: Installation, days: int, state: str
) -> None:
    installation.fill(point("a"))
    folder = Path(installation.json("paths")["backups"][0])
    backup(
        installation.ledger, folder, keep=7, now=datetime.now(UTC) - timedelta(days=days, hours=1)
    )

    [text] = [text for text in texts(check(installation), "Ledger", state) if "backup" in text]
    assert text == f"1 backup in {folder}, the newest {days} d ago"


def test_a_ledger_on_a_shared_file_system_is_warned_of(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    point = str(tmp_path).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nhost {point} virtiofs rw 0 0\n")
    monkeypatch.setattr(check_module, "_MOUNTS", mounts)
    report = Report()

    check_module._folder(report, installation.ledger.parent)

    [finding] = report.findings
    assert finding.state == "warning"
    assert f"(virtiofs at {tmp_path})" in finding.text


def test_where_the_system_does_not_tell_nothing_is_guessed(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "_MOUNTS", tmp_path / "none")
    report = Report()

    check_module._folder(report, installation.ledger.parent)

    assert report.findings == []


# -- InfluxDB -------------------------------------------------------------------------------------


def test_an_influxdb_that_takes_writes_is_well(installation: Installation) -> None:
    with influxdb(204) as url:
        findings = check(installation, INFLUXDB_URL=url, INFLUXDB_TOKEN=CANARY)

    assert texts(findings, "InfluxDB") == [f"{url} takes writes to bucket 'tokens'"]


@pytest.mark.parametrize("status", [401, 404, 503])
def test_one_that_refuses_ends_with_code_4_and_a_hint(
    installation: Installation, status: int
) -> None:
    with influxdb(status) as url:
        findings = check(installation, 4, INFLUXDB_URL=url, INFLUXDB_TOKEN=CANARY)

    [finding] = [f for f in findings if f["section"] == "InfluxDB"]
    assert finding["state"] == "error"
    assert finding["hint"]
    assert CANARY not in str(findings)


def test_one_that_is_not_there_ends_with_code_4(installation: Installation) -> None:
    check(installation, 4, INFLUXDB_URL="http://127.0.0.1:9", INFLUXDB_TOKEN="x")


def test_an_address_that_is_none_ends_with_code_2(installation: Installation) -> None:
    findings = check(installation, 2, INFLUXDB_URL="localhost:8086")

    assert "INFLUXDB_URL is not an http or https address" in texts(findings, "InfluxDB", "error")


def test_a_token_over_plain_http_to_the_internet_is_warned_of(
    installation: Installation,
) -> None:
    findings = check(installation, 4, INFLUXDB_URL="http://influx.invalid:8086")

    assert "plain http to another network" in texts(findings, "Settings", "warning")[0]


# -- what leaves ----------------------------------------------------------------------------------


def test_what_leaves_the_machine_is_said_in_full(installation: Installation) -> None:
    with influxdb(204) as url:
        findings = check(installation, INFLUXDB_URL=url, HOST_NAME="laptop", PROJECT_TAG="hash")

    assert texts(findings, "What leaves this machine") == [
        (
            f"to {url} (this machine): token counts and amounts, tagged by provider, source, model,"
            " project, host, account"
        ),
        "projects are named as a hash (PROJECT_TAG)",
        "this machine is named laptop (HOST_NAME)",
        "no prompt, reply, path, session or key",
    ]


# -- the form -------------------------------------------------------------------------------------


def test_the_gravest_finding_decides_the_exit_code() -> None:
    report = Report()
    assert report.exit_code == 0
    report.add("a", "error", "x", code=4)
    assert report.exit_code == 4
    report.add("a", "error", "x", code=3)
    assert report.exit_code == 3
    report.add("a", "error", "x", code=2)

    assert report.exit_code == 2


def test_it_changes_nothing(installation: Installation) -> None:
    installation.fill(point("a"))
    before = installation.ledger.read_bytes()

    check(installation)

    assert installation.ledger.read_bytes() == before


def test_hostile_names_do_not_reach_the_terminal(installation: Installation) -> None:
    installation.fill(point("a", model=HOSTILE))

    done = installation.run("check", FORCE_COLOR="1", NO_COLOR="1")

    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "\\u202egpj.exe" in done.stdout


def test_a_name_in_a_settings_file_that_nothing_reads_is_warned_of(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    path = folder / ".env"
    path.write_text("INFLUX_URL=http://127.0.0.1:1\nCOLLECT_INTERVAL=60\nGRAFANA_PORT=3000\n")
    path.chmod(0o600)

    layers = read_layers({}, config_dir=folder, repository=tmp_path)

    assert unknown_names(layers, own_kinds()) == {str(path): ["INFLUX_URL"]}
