"""How the parts are put together from an environment."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from collectors.base import Options
from collectors.composition import Program, _secrets_in
from collectors.errors import NotALedgerError, SettingsError
from tests.support.collecting import environment

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def program(tmp_path: Path, **settings: str) -> Program:
    return Program(environment(tmp_path, **settings), home=tmp_path, clock=lambda: NOW)


def test_everything_that_is_written_lies_in_the_ledgers_folder(tmp_path: Path) -> None:
    places = program(tmp_path).places

    data = tmp_path / "data"
    assert places.ledger == data / "ledger.db"
    written = [places.backups, places.spool, places.socket]
    assert [path.parent for path in written] == [data, data, data]
    assert places.config == tmp_path / "config"


def test_a_relative_ledger_lies_in_the_folder_of_the_call_and_the_home_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert program(tmp_path, DB_PATH="x/l.db").places.ledger == tmp_path / "x" / "l.db"
    assert program(tmp_path, DB_PATH="~/l.db").places.ledger == tmp_path / "home" / "l.db"


def test_a_call_from_a_folder_that_is_gone_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert program(tmp_path).places.ledger == tmp_path / "data" / "ledger.db"


def test_overrides_of_the_command_line_come_before_the_environment(tmp_path: Path) -> None:
    given = environment(tmp_path, LOG_LEVEL="error")

    assert Program(given, overrides={"LOG_LEVEL": "debug"}).settings.log_level == "debug"


def test_an_override_wins_however_the_environment_spells_a_setting(tmp_path: Path) -> None:
    given = environment(tmp_path, TOKENDASH_DB_PATH="/precious/ledger.db")

    made = Program(given, overrides={"DB_PATH": "/trial/ledger.db"})

    assert made.places.ledger == Path("/trial/ledger.db")


def test_settings_come_from_the_configuration_folder(tmp_path: Path) -> None:
    made = program(tmp_path)
    (tmp_path / "config" / ".env").write_text("INFLUXDB_BUCKET=mine\n")

    assert made.settings.influxdb_bucket == "mine"


def test_a_wrong_zone_and_an_unknown_source_are_errors_of_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TZ is 'Mars/Olympus', which is not a time zone"):
        _ = program(tmp_path, TZ="Mars/Olympus").calendar
    with pytest.raises(SettingsError, match="there is no collector named claude"):
        _ = program(tmp_path, SOURCES="claude").registry


def test_collectors_are_given_home_clock_zone_and_spool(tmp_path: Path) -> None:
    context = program(tmp_path, TZ="Asia/Tokyo", XDG_CONFIG_HOME="/xdg").context

    assert (context.home, context.config_home) == (tmp_path, Path("/xdg"))
    assert context.now() == NOW
    assert str(context.zone) == "Asia/Tokyo"
    assert context.spool == tmp_path / "data" / "spool"


def test_without_an_address_there_is_no_target(tmp_path: Path) -> None:
    assert program(tmp_path).influx_target() is None


def test_a_target_reads_its_token_anew_each_time_and_the_logs_learn_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first-token\n")
    made = program(tmp_path, INFLUXDB_URL="http://127.0.0.1:1", INFLUXDB_TOKEN_FILE=str(path))
    target = made.influx_target()
    assert target is not None

    first = target.read_token()
    path.write_text("second-token\n")
    second = target.read_token()

    assert (first, second) == ("first-token", "second-token")
    assert made.redaction.clean("first-token second-token") == "[redacted] [redacted]"


def test_every_secret_is_known_to_redaction_those_of_collectors_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "keyed_tool.py").write_text(
        "from collectors.base import BaseCollector, Options\n"
        "from pydantic import SecretStr\n"
        "class KeyedOptions(Options):\n"
        "    api_key: SecretStr = SecretStr('')\n"
        "    spare: SecretStr | None = None\n"
        "    proxy: str = ''\n"
        "class Keyed(BaseCollector[KeyedOptions]):\n"
        "    name = 'keyed'\n"
        "    options_type = KeyedOptions\n"
    )

    made = program(
        tmp_path,
        INFLUXDB_TOKEN="canary-1",
        COLLECTORS_EXTRA="keyed_tool:Keyed",
        KEYED_API_KEY="canary-2",
        KEYED_SPARE="canary-3",
        KEYED_PROXY="http://ada:canary%2D4@proxy:3128",
    )

    assert set(made.secrets()) == {"canary-1", "canary-2", "canary-3", "canary%2D4", "canary-4"}


def test_secrets_are_found_however_deep_they_lie() -> None:
    class Inner(Options):
        key: SecretStr = SecretStr("deep-1")

    class Outer(Options):
        many: list[SecretStr] = [SecretStr("list-1"), SecretStr("list-2")]  # noqa: RUF012
        named: dict[str, SecretStr] = {"a": SecretStr("map-1")}  # noqa: RUF012
        inner: Inner = Inner()
        address: str = "not a url @ all"

    assert sorted(_secrets_in(Outer())) == ["deep-1", "list-1", "list-2", "map-1"]


def test_secrets_are_known_even_when_collectors_cannot_be_made(tmp_path: Path) -> None:
    made = program(tmp_path, INFLUXDB_TOKEN="canary-1", SOURCES="nothing-like-it")

    assert made.secrets() == ["canary-1"]


def test_the_tags_follow_the_settings(tmp_path: Path) -> None:
    policy = program(
        tmp_path, PROJECT_TAG="hash", INFLUXDB_TAGS="provider,model", INFLUXDB_SERIES_BUDGET="20"
    ).tag_policy

    assert (policy.host, policy.project, list(policy.names), policy.budget) == (
        "h",
        "hash",
        ["provider", "model"],
        20,
    )


def test_the_ledger_is_made_private_and_a_file_that_is_none_is_left_alone(tmp_path: Path) -> None:
    made = program(tmp_path)
    made.open_ledger().close()
    other = tmp_path / "letter.txt"
    other.write_bytes(b"Dear diary, " * 1_000)

    with pytest.raises(NotALedgerError):
        program(tmp_path, DB_PATH=str(other)).open_ledger()

    assert made.places.ledger.stat().st_mode & 0o077 == 0
    assert other.read_bytes() == b"Dear diary, " * 1_000


def test_the_host_is_named_by_the_setting_or_by_itself(tmp_path: Path) -> None:
    assert program(tmp_path).host == "h"
    assert program(tmp_path, HOST_NAME="").host == os.uname().nodename
