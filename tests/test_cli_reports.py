from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from collectors.cli import compare, reports
from collectors.cli.console import UsageError
from collectors.ledger.files import WriterLock
from tests.support.commands import Installation
from tests.support.ledgers import ClaudeHome, point

SONNET, HAIKU, NOBODY = (
    "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5-20251001",
    "no-such-model-1",
)
NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)  # 13:00 in Berlin
RULE = (
    "----------  --------------------------------------  --------  -------  ------  ----------"
    "  -----------  -------  ---------------  ------  ---------------------------"
)
HOSTILE = "evil\x1b[2J\u202egpj.exe"


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "home of ada")


@pytest.fixture
def three_days(installation: Installation) -> Installation:
    """Sonnet costs $3 and $15 a million tokens, Haiku $1 and $5."""
    installation.fill(
        # 1 March, Berlin: $0.30 + $0.15
        point("a", "2026-03-01T10:00", model=SONNET, input_tokens=100_000, output_tokens=10_000,
              project="/home/ada/app", session="s1", branch="main"),
        # 23:30 UTC on the 1st is 2 March in Berlin: $0.03 + $0.10
        point("b", "2026-03-01T23:30", model=HAIKU, input_tokens=30_000, output_tokens=20_000,
              project="/home/ada/app", session="s1", branch="main"),
        # 3 March: subscription $0.06 + $0.15; no price; metered $0.03 + $0
        point("c", "2026-03-03T08:00", model=SONNET, input_tokens=20_000, output_tokens=10_000,
              project="/home/ada/web", session="s2", billing="subscription"),
        point("d", "2026-03-03T08:01", model=NOBODY, input_tokens=700, output_tokens=7,
              project="/home/ada/web", session="s2"),
        point("e", "2026-03-03T09:00", model=HAIKU, input_tokens=30_000, output_tokens=0,
              project="/home/ada/web", session="s2"),
    )  # fmt: skip
    return installation


def ask(installation: Installation, *arguments: str) -> Any:
    return installation.json("report", *arguments, "--no-collect")


# -- numbers --------------------------------------------------------------------------------------


def test_a_daily_report_has_a_row_per_local_day_and_model(three_days: Installation) -> None:
    found = ask(three_days, "daily")

    rows = [(row["period"], row["model"], row["total_tokens"]) for row in found["rows"]]
    assert rows == [
        ("2026-03-01", SONNET, 110_000),
        ("2026-03-02", HAIKU, 50_000),
        ("2026-03-03", HAIKU, 30_000),
        ("2026-03-03", SONNET, 30_000),
        ("2026-03-03", NOBODY, 707),
    ]
    assert set(found) == {"rows", "totals"}
    assert set(found["rows"][0]) == {
        "period", "source", "provider", "model", "input_tokens", "cache_read_tokens",
        "cache_write_tokens", "cache_write_1h_tokens", "output_tokens", "reasoning_tokens",
        "unsplit_tokens", "total_tokens", "unpriced_tokens", "requests", "web_search_requests",
        "cost_usd", "api_equivalent_usd", "plan_unknown_usd", "cache_savings_usd",
    }  # fmt: skip


def test_the_totals_keep_the_meanings_of_money_apart(three_days: Installation) -> None:
    totals = ask(three_days, "daily")["totals"]

    assert totals["cost_usd"] == 0.61
    assert totals["api_equivalent_usd"] == 0.21
    assert totals["plan_unknown_usd"] == 0
    assert totals["unpriced_tokens"] == 707
    assert totals["requests"] == 5
    assert totals["total_tokens"] == 110_000 + 50_000 + 30_000 + 30_000 + 707


def test_weeks_begin_on_monday_and_months_on_the_first(three_days: Installation) -> None:
    weeks = {row["period"] for row in ask(three_days, "weekly")["rows"]}
    months = {row["period"] for row in ask(three_days, "monthly")["rows"]}

    assert weeks == {"2026-02-23", "2026-03-02"}
    assert months == {"2026-03"}


def test_since_and_until_are_whole_local_days(three_days: Installation) -> None:
    found = ask(three_days, "daily", "--since", "2026-03-02", "--until=2026-03-02")

    assert [row["total_tokens"] for row in found["rows"]] == [50_000]
    assert found["totals"]["cost_usd"] == 0.13


def test_models_and_projects_are_summed_over_all_days(three_days: Installation) -> None:
    models = ask(three_days, "models")
    projects = ask(three_days, "projects")

    assert {row["model"]: row["requests"] for row in models["rows"]} == {
        SONNET: 2,
        HAIKU: 2,
        NOBODY: 1,
    }
    assert {row["project"]: row["total_tokens"] for row in projects["rows"]} == {
        "/home/ada/app": 160_000,
        "/home/ada/web": 60_707,
    }
    assert models["totals"] == projects["totals"]
    assert "period" not in models["rows"][0]


def test_a_session_has_its_times_project_and_branch(three_days: Installation) -> None:
    found = ask(three_days, "sessions")

    first, second = found["rows"]
    assert first["session"] == "s1"
    assert first["project"] == "/home/ada/app"
    assert first["branch"] == "main"
    assert first["first_timestamp"] == "2026-03-01T10:00:00.000Z"
    assert first["last_timestamp"] == "2026-03-01T23:30:00.000Z"
    assert first["cost_usd"] == 0.58
    assert second["session"] == "s2"


def test_a_source_and_a_provider_can_be_picked(three_days: Installation) -> None:
    none = ask(three_days, "daily", "--source", "codex")
    one = ask(three_days, "daily", "--source", "codex", "--source", "claude-code")
    other = ask(three_days, "models", "--provider", "openai")

    assert none["rows"] == []
    assert none["totals"]["requests"] == 0
    assert one["totals"]["requests"] == 5
    assert other["rows"] == []


def test_sessions_cannot_be_cut_by_provider(three_days: Installation) -> None:
    done = three_days.run("report", "sessions", "--provider", "anthropic", "--no-collect")

    assert done.returncode == 2
    assert "report models --provider" in done.stderr


# -- tables ---------------------------------------------------------------------------------------


def test_the_table_in_a_pipe_is_plain_and_whole(three_days: Installation) -> None:
    done = three_days.run("report", "daily", "--no-collect")

    # fmt: off
    lines = [
        ("Day         Models                                  Requests    Input  Output  Cache"
         " read  Cache write   Tokens  Unpriced tokens    Paid  Subscription, at list price"),
        RULE,
        ("2026-03-01  sonnet-4-5                                     1  100,000  10,000       "
         "    0            0  110,000                0   $0.45                            -"),
        ("2026-03-02  haiku-4-5                                      1   30,000  20,000       "
         "    0            0   50,000                0   $0.13                            -"),
        ("2026-03-03  sonnet-4-5, haiku-4-5, no-such-model-1         3   50,700  10,007       "
         "    0            0   60,707              707  ≥$0.03                       ≥$0.21"),
        RULE,
        ("3 days                                                     5  180,700  40,007       "
         "    0            0  220,707              707  ≥$0.61                       ≥$0.21"),
        "707 tokens have no price and are in no amount: `tokendash prices --unpriced` says why.",
        "Subscription at list price: what this use would cost per token; it is not spent.",
    ]
    # fmt: on
    assert done.stdout.splitlines() == lines


def test_what_has_no_price_is_called_unpriced_and_never_zero(installation: Installation) -> None:
    installation.fill(point("a", model=NOBODY))

    done = installation.run("report", "models", "--no-collect")

    assert "unpriced" in done.stdout.splitlines()[2]
    assert "$0" not in done.stdout
    assert "110 tokens have no price" in done.stdout


def test_an_unknown_plan_says_how_to_state_it(installation: Installation) -> None:
    installation.fill(point("a", billing="unknown", input_tokens=1_000_000))

    done = installation.run("report", "daily", "--no-collect")

    assert "Plan unknown, at list price" in done.stdout.splitlines()[0]
    assert "Paid" not in done.stdout
    assert "set CLAUDE_CODE_PLAN to api, pro, max5, max20 or team" in done.stdout


@pytest.mark.parametrize("columns", [60, 80, 100])
@pytest.mark.parametrize("kind", sorted(reports.KINDS))
def test_a_table_fits_the_terminal(three_days: Installation, kind: str, columns: int) -> None:
    done = three_days.run(
        "report", kind, "--no-collect", COLUMNS=str(columns), FORCE_COLOR="1", NO_COLOR="1"
    )

    assert done.returncode == 0
    assert max(len(line) for line in done.stdout.splitlines()) <= columns
    assert "≥$0.61" in done.stdout  # money is never what is left out


def test_colours_are_for_terminals_and_not_under_no_color(three_days: Installation) -> None:
    coloured = three_days.run("report", "daily", "--no-collect", FORCE_COLOR="1")
    plain = three_days.run("report", "daily", "--no-collect", FORCE_COLOR="1", NO_COLOR="1")
    piped = three_days.run("report", "daily", "--no-collect")

    assert "\x1b[" in coloured.stdout
    assert "\x1b" not in plain.stdout
    assert "\x1b" not in piped.stdout


def test_hostile_names_do_not_reach_the_terminal(installation: Installation) -> None:
    installation.fill(point("a", model=HOSTILE, project=f"/srv/{HOSTILE}", session=HOSTILE))

    shown = [
        installation.run("report", kind, "--no-collect", FORCE_COLOR="1", NO_COLOR="1").stdout
        for kind in reports.KINDS
    ]

    # The ledger keeps names without control characters; what turns text around is shown as such.
    assert "evil_[2J\\u202egpj.exe" in installation.run("report", "models", "--no-collect").stdout
    assert not [text for text in shown if "\x1b" in text or "\u202e" in text]


def test_a_name_cannot_be_a_formula_in_a_spreadsheet(installation: Installation) -> None:
    installation.fill(
        point("a", model="=HYPERLINK(1)"),
        point("b", model="+1"),
        point("c", model="@x"),
        point("d", model='plain,"quoted"'),
    )

    done = installation.run("report", "models", "--csv", "--no-collect")

    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["model"] for row in rows} == {
        "'=HYPERLINK(1)", "'+1", "'@x", 'plain,"quoted"',
    }  # fmt: skip
    assert {row["unpriced_tokens"] for row in rows} == {"110"}


def test_csv_has_the_rows_of_json(three_days: Installation) -> None:
    found = ask(three_days, "daily")["rows"]
    done = three_days.run("report", "daily", "--csv", "--no-collect")

    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [{key: str(value) for key, value in row.items()} for row in found] == rows


def test_an_empty_range_says_what_is_covered(three_days: Installation) -> None:
    done = three_days.run("report", "daily", "--since", "2027-01-01", "--no-collect")

    assert done.stdout == (
        "Nothing was counted in this range.\nThe ledger covers 2026-03-01 to 2026-03-03.\n"
    )


# -- days and mistakes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("today", date(2026, 3, 3)),
        ("Yesterday", date(2026, 3, 2)),
        ("1d", date(2026, 3, 3)),
        ("7d", date(2026, 2, 25)),
        ("30d", date(2026, 2, 2)),
        ("2026-02-28", date(2026, 2, 28)),
    ],
)
def test_a_day_can_be_written_in_these_ways(text: str, day: date) -> None:
    assert reports.parse_day(text, date(2026, 3, 3), "--since") == day


@pytest.mark.parametrize(
    "text", ["0d", "-1d", "2026-02-30", "soon", "", "9999-01-01", "0001-01-01", "١d", "99999999d"]
)
def test_anything_else_is_not_a_day(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        reports.parse_day(text, date(2026, 3, 3), "--since")

    assert caught.value.exit_code == 2
    assert "2026-03-14, today, yesterday, 7d or 30d" in caught.value.hint


def test_a_bad_day_ends_with_code_2_and_a_hint(installation: Installation) -> None:
    done = installation.run("report", "daily", "--since", "3x", "--no-collect")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "tokendash: --since is '3x', which is not a day\n"
        "  write it as 2026-03-14, today, yesterday, 7d or 30d\n"
    )


def test_days_the_wrong_way_round_are_refused(installation: Installation) -> None:
    done = installation.run(
        "report", "daily", "--since", "2026-03-02", "--until", "2026-03-01", "--no-collect"
    )

    assert done.returncode == 2
    assert "is after" in done.stderr


def test_without_a_ledger_and_without_collecting_there_is_a_way_out(
    installation: Installation,
) -> None:
    done = installation.run("report", "--no-collect")

    assert done.returncode == 1
    assert "there is no ledger at" in done.stderr
    assert "tokendash --once" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("report", "dayly"), "daily"),
        (("report", "daily", "--sinc", "1d"), "--since"),
        (("report", "daily", "--json", "--csv"), "exclude"),
    ],
)
def test_a_wrong_call_ends_with_code_2(
    installation: Installation, arguments: tuple[str, ...], word: str
) -> None:
    done = installation.run(*arguments)

    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_is_no_error(three_days: Installation) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        [sys.executable, "-P", "-m", "collectors", "report", "daily", "--no-collect", "--json"],
        env=three_days.environ,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )

    os.close(writer)
    assert done.returncode == 0
    assert done.stderr == b""


# -- starting quickly -----------------------------------------------------------------------------

HEAVY = {"typer", "pydantic", "aiohttp", "rich", "structlog", "tenacity", "yaml", "dotenv"}


def loaded_by(installation: Installation, *arguments: str) -> set[str]:
    """The heavy packages a command had imported when it was done."""
    code = (
        "import sys; from collectors.main import main; main(sys.argv[1:]);"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        env=installation.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(eval(done.stderr.splitlines()[-1]))


def test_a_report_starts_without_parser_settings_and_drawing(three_days: Installation) -> None:
    (three_days.config / ".env").write_text("# mine\nCLAUDE_CODE_PLAN=api\n")
    (three_days.config / ".env").chmod(0o600)

    assert loaded_by(three_days, "report", "daily", "--no-collect", "--json") == set()
    assert loaded_by(three_days, "report", "sessions", "--no-collect") == set()


def test_the_quick_way_knows_the_options_of_the_full_parser() -> None:
    from typer.main import get_command

    from collectors.cli.app import make_app

    group = get_command(make_app()).commands["report"]  # type: ignore[attr-defined]
    options = {
        option
        for kind in reports.KINDS
        for parameter in group.commands[kind].params
        for option in parameter.opts
    } - {"--help", "-h"}

    assert set(group.commands) == {*reports.KINDS, "compare"}
    for option in options:
        assert reports.parse(["report", "daily", option, "1d"]) or reports.parse(
            ["report", "daily", option]
        )
    assert reports.parse(["report", "daily", "--help"]) is None
    assert reports.parse(["report", "compare"]) is None
    assert reports.parse(["report", "--since", "7d"]) == reports.Request(since="7d")


def test_both_ways_print_the_same(three_days: Installation) -> None:
    quick = three_days.run("report", "models", "--json", "--no-collect")
    full = subprocess.run(
        [sys.executable, "-P", "-c",
         "import sys; from collectors.cli.app import run; sys.exit(run(sys.argv[1:]))",
         "report", "models", "--json", "--no-collect"],
        env=three_days.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert quick.stdout == full.stdout


# -- what is new ----------------------------------------------------------------------------------


def test_a_report_takes_in_what_is_new_first(installation: Installation) -> None:
    logs = ClaudeHome(installation.home)
    logs.append(12)

    found = installation.json("report", "daily")
    logs.append(3)
    more = installation.json("report", "daily")
    same = installation.json("report", "daily", "--no-collect")

    assert found["totals"]["requests"] == 12
    assert more["totals"]["requests"] == 15
    assert more["totals"]["output_tokens"] == sum(truth[2] for truth in logs.truth.values())
    assert same == more


def test_a_report_beside_a_writer_reads_and_says_how_old_the_data_is(
    three_days: Installation,
) -> None:
    with WriterLock(three_days.ledger):
        done = three_days.run("report", "daily", "--json")

    assert json.loads(done.stdout)["totals"]["requests"] == 5
    assert f"process {os.getpid()} writes this ledger" in done.stderr
    assert " d ago" in done.stderr


def test_a_ledger_that_cannot_be_written_is_read_all_the_same(three_days: Installation) -> None:
    three_days.ledger.with_name("ledger.db.lock").unlink()
    three_days.ledger.with_name("ledger.db.lock").mkdir()  # no lock can be taken, not even by root

    done = three_days.run("report", "daily", "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["totals"]["requests"] == 5
    assert "nothing new was taken in" in done.stderr


# -- two periods ----------------------------------------------------------------------------------


def compared(installation: Installation, capsys: pytest.CaptureFixture[str], **values: Any) -> Any:
    wanted = compare.Comparison(as_json=True, collect=False, **values)
    assert compare.run(wanted, installation.environ, lambda: NOW) == 0
    return json.loads(capsys.readouterr().out)


def test_a_comparison_has_differences_and_percentages_per_model_and_in_total(
    three_days: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(three_days, capsys, a="today", b="yesterday")

    haiku, sonnet, nobody = found["rows"]
    assert haiku["model"] == HAIKU
    assert haiku["total_tokens_a"] == 30_000
    assert haiku["total_tokens_b"] == 50_000
    assert haiku["total_tokens_change"] == -20_000
    assert haiku["total_tokens_change_percent"] == -40
    assert haiku["cost_usd_change"] == -0.1
    assert haiku["cost_usd_change_percent"] == -76.9231  # 0.03 against 0.13
    assert sonnet["api_equivalent_usd_a"] == 0.21
    assert sonnet["api_equivalent_usd_change_percent"] is None  # there was none before
    assert nobody["unpriced_tokens_a"] == 707
    assert found["totals"]["total_tokens_change"] == 60_707 - 50_000
    assert found["totals"]["requests_change_percent"] == 200
    assert found["a"] == {"since": "2026-03-03", "until": "2026-03-03"}


def test_the_same_time_of_day_leaves_out_what_came_later(
    three_days: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    # Now is 13:00 in Berlin; on the 1st the one call came at 11:00, on the 2nd at 00:30.
    three_days.fill(point("late", "2026-03-02T12:05", model=HAIKU, input_tokens=9, output_tokens=0))

    full = compared(three_days, capsys, a="2026-03-02", b="2026-03-01")
    cut = compared(three_days, capsys, a="2026-03-02", b="2026-03-01", same_time=True)

    assert full["totals"]["total_tokens_a"] == 50_009
    assert cut["totals"]["total_tokens_a"] == 50_000
    assert cut["totals"]["total_tokens_b"] == 110_000


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("7d", "2026-02-25", "2026-03-03"),
        ("week", "2026-03-02", "2026-03-03"),
        ("last-week", "2026-02-23", "2026-03-01"),
        ("month", "2026-03-01", "2026-03-03"),
        ("last-month", "2026-02-01", "2026-02-28"),
        ("2024-02", "2024-02-01", "2024-02-29"),
        ("2026-01-05..yesterday", "2026-01-05", "2026-03-02"),
    ],
)
def test_a_period_can_be_written_in_these_ways(text: str, first: str, last: str) -> None:
    found = compare.parse_period(text, date(2026, 3, 3), "--a")

    assert tuple(map(str, found)) == (first, last)


@pytest.mark.parametrize("text", ["2026-13", "tomorrow", "today..yesterday", "..", "1d..2d..3d"])
def test_anything_else_is_not_a_period(text: str) -> None:
    with pytest.raises(UsageError):
        compare.parse_period(text, date(2026, 3, 3), "--a")


def test_the_comparison_is_a_table_too(three_days: Installation) -> None:
    done = three_days.run(
        "report", "compare", "--a", "2026-03-03", "--b", "2026-03-02", "--no-collect"
    )

    total = done.stdout.splitlines()[-1].split()
    assert total == [
        "Total", "60,707", "50,000", "+10,707", "+21.4%",
        "≥$0.03", "$0.13", "-$0.10", "-76.9%", "≥$0.21", "-", "+$0.21", "new",
    ]  # fmt: skip
