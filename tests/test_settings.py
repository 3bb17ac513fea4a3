"""Settings: where each value comes from, and what is said about wrong ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, Field, SecretStr

from collectors.base import Options
from collectors.errors import SettingsError
from collectors.layers import Layers, read_env_file, read_layers
from collectors.settings import Settings, fields_of

Write = Callable[..., Layers]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Configuration folder and repository."""
    config, repository = tmp_path / "config", tmp_path / "repository"
    config.mkdir()
    repository.mkdir()
    (repository / "requirements.txt").touch()
    return config, repository


@pytest.fixture
def write(folders: tuple[Path, Path]) -> Write:
    """Writes the files given by name and reads the layers."""
    config, repository = folders

    def layers(
        environ: dict[str, str] | None = None,
        *,
        env: str | None = None,
        repository_env: str | None = None,
        yaml: str | None = None,
        repository_yaml: str | None = None,
        mode: int = 0o600,
    ) -> Layers:
        for path, text in (
            (config / ".env", env),
            (repository / ".env", repository_env),
            (config / "tokendash.yaml", yaml),
            (repository / "tokendash.yaml", repository_yaml),
        ):
            if text is not None:
                path.write_text(text)
                path.chmod(mode)
        return read_layers(environ or {}, config_dir=config, repository=repository)

    return layers


# -- where a value comes from ----------------------------------------------------------------------


def test_the_nearest_of_all_places_wins(write: Write) -> None:
    places: dict[str, Any] = {
        "environ": {"HOST_NAME": "environment"},
        "env": "HOST_NAME=env\n",
        "repository_env": "HOST_NAME=repository-env\n",
        "yaml": "settings: {host_name: yaml}\n",
        "repository_yaml": "settings: {HOST_NAME: repository-yaml}\n",
    }
    found = []

    for nearest in range(len(places) + 1):
        kept = dict(list(places.items())[nearest:])
        for name in ("env", "repository_env", "yaml", "repository_yaml"):
            kept.setdefault(name, "")
        found.append(write(**kept).load(Settings).host_name)

    assert found == ["environment", "env", "repository-env", "yaml", "repository-yaml", ""]


def test_a_value_knows_where_it_was_found(write: Write, folders: tuple[Path, Path]) -> None:
    layers = write(
        {"TOKENDASH_HOST_NAME": "a", "HOST_NAME": "b"},
        env="TZ=UTC\n",
        yaml="settings: {log_level: debug}",
    )

    settings = layers.load(Settings)

    assert settings.host_name == "a"  # its own name before one that others may mean
    assert layers.used == {
        "HOST_NAME": "environment (TOKENDASH_HOST_NAME)",
        "TZ": f"{folders[0] / '.env'} (TZ)",
        "LOG_LEVEL": f"{folders[0] / 'tokendash.yaml'} (LOG_LEVEL)",
    }


def test_every_setting_can_be_written_with_the_prefix() -> None:
    values = {
        "DB_PATH": "/x/ledger.db",
        "PRICES_FILE": "/x/p.yaml",
        "PROJECT_TAG": "hash",
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "json",
    }
    environ = {}
    for _, name, info in fields_of(Settings, ""):
        is_number = info.annotation in (int, float)
        environ[f"TOKENDASH_{name}"] = values.get(name, "77" if is_number else "text")
    layers = Layers(environ)

    layers.load(Settings)

    assert set(layers.used) == {name for _, name, _ in fields_of(Settings, "")}


def test_an_empty_value_is_as_good_as_none(write: Write) -> None:
    layers = write(
        {"HOST_NAME": "", "COLLECT_INTERVAL": ""},
        env="HOST_NAME=\nTZ\n",
        yaml="settings: {host_name: from-yaml, collect_interval: null, sources: ''}",
    )

    settings = layers.load(Settings)

    assert (settings.host_name, settings.collect_interval) == ("from-yaml", 300)
    assert (settings.tz, settings.sources) == ("", [])


def test_a_dot_env_of_the_folder_a_command_is_called_in_is_not_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "project"
    elsewhere.mkdir()
    (elsewhere / ".env").write_text("HOST_NAME=trap\n")
    (elsewhere / "tokendash.yaml").write_text("settings: {host_name: trap}\n")
    monkeypatch.chdir(elsewhere)

    assert write().load(Settings).host_name == ""


def test_a_folder_above_an_installed_package_is_not_taken_for_the_repository(
    write: Write, folders: tuple[Path, Path]
) -> None:
    (folders[1] / "requirements.txt").unlink()

    assert write(repository_env="HOST_NAME=trap\n").load(Settings).host_name == ""


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_dot_env_that_others_can_read_is_noted_with_the_way_out(
    write: Write, folders: tuple[Path, Path], mode: int
) -> None:
    layers = write(env="INFLUXDB_TOKEN=t\n", mode=mode)

    path = folders[0] / ".env"
    assert layers.notes == (f"{path} can be read by other users: chmod 600 {path}",)
    assert write(mode=0o600, env="").notes == ()


# -- how files are read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=plain", "plain"),
        ("export NAME=plain", "plain"),
        ("NAME = spaced ", "spaced"),
        ('NAME="with space # and hash"', "with space # and hash"),
        ("NAME='single $HOME'", "single $HOME"),
        ("NAME=value # comment", "value"),
        ("NAME=a=b==", "a=b=="),
        ("NAME=https://x.example/a?b=c", "https://x.example/a?b=c"),
        ("\ufeffNAME=after-mark", "after-mark"),
        ("NAME=windows\r", "windows"),
        ("OTHER=1\n\n# comment\nNAME=third", "third"),
        ("NAME=first\nNAME=last", "last"),
        ("NAME=", ""),
    ],
)
def test_a_dot_env_means_what_other_tools_take_it_for(
    tmp_path: Path, line: str, value: str
) -> None:
    path = tmp_path / ".env"
    path.write_bytes((line + "\n").encode())

    assert read_env_file(path)["NAME"] == value


def test_a_name_in_braces_is_filled_in_from_the_environment(write: Write) -> None:
    layers = write(
        {"ME": "ada"},
        env="HOST_NAME=${ME}-laptop\nINFLUXDB_ORG=${UNSET_X}\n",
        yaml="settings: {sources: ['${ME}', b], influxdb_bucket: '${ME}'}",
    )

    settings = layers.load(Settings)

    assert settings.host_name == "ada-laptop"
    assert settings.influxdb_org == "${UNSET_X}"
    assert settings.influxdb_bucket == "ada"


def test_lists_are_written_with_commas_or_blanks_or_as_lists(write: Write) -> None:
    for text in ("a,b", "a, b", " a b ", "a,,b,"):
        assert write({"SOURCES": text}).load(Settings).sources == ["a", "b"]
    assert write(yaml="settings: {sources: [a, b]}").load(Settings).sources == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"settings: [", " cannot be read at line 1"),
        (b"a: 1\nb: 'x\n", " cannot be read at line 3"),
        (b"- a\n", " is not a mapping of settings"),
        (b"just text", " is not a mapping of settings"),
        (b"settings: 3\n", ": `settings` is not a mapping"),
        (b"\xff\xfe", " cannot be read"),
        (b"settings: !!python/object/apply:os.system ['true']", " cannot be read at line 1"),
    ],
)
def test_a_yaml_file_that_is_none_is_named_with_its_line(
    write: Write, folders: tuple[Path, Path], content: bytes, said: str
) -> None:
    path = folders[0] / "tokendash.yaml"
    path.write_bytes(content)

    with pytest.raises(SettingsError) as caught:
        write()

    assert str(caught.value) == f"{path}{said}"
    assert caught.value.hint


def test_an_empty_yaml_file_is_no_settings(write: Write) -> None:
    assert write(yaml="# nothing yet\n").load(Settings).host_name == ""


def test_a_dot_env_that_is_not_text_is_named(write: Write, folders: tuple[Path, Path]) -> None:
    (folders[0] / ".env").write_bytes(b"NAME=\xff\xfe\n")

    with pytest.raises(SettingsError, match=r"\.env cannot be read \(UnicodeDecodeError\)"):
        write()


# -- secrets ---------------------------------------------------------------------------------------


def token_of(layers: Layers) -> str:
    return layers.load(Settings).influxdb_token.get_secret_value()


@pytest.mark.parametrize("name", ["INFLUXDB_TOKEN_FILE", "TOKENDASH_INFLUXDB_TOKEN_FILE"])
def test_a_secret_may_lie_in_a_file_of_its_own(write: Write, tmp_path: Path, name: str) -> None:
    path = tmp_path / "token"
    path.write_text("  t-from-file\n")
    layers = write({name: str(path)})

    assert token_of(layers) == "t-from-file"
    assert layers.used["INFLUXDB_TOKEN"] == f"file named by {name}"


def test_a_secret_itself_comes_before_its_file_and_a_nearer_file_before_a_farther_secret(
    write: Write, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text("t-file")

    assert token_of(write({"INFLUXDB_TOKEN": "t-own", "INFLUXDB_TOKEN_FILE": str(path)})) == "t-own"
    assert (
        token_of(write({"INFLUXDB_TOKEN_FILE": str(path)}, env="INFLUXDB_TOKEN=t-env")) == "t-file"
    )


def test_a_setting_that_is_no_secret_has_no_file_form(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_text("from-file")

    assert write({"HOST_NAME_FILE": str(path)}).load(Settings).host_name == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "which cannot be read: No such file or directory"),
        (b"", "which is empty"),
        (b" \n", "which is empty"),
        (b"\xff\xfe\xfa", "which cannot be read: not UTF-8 text"),
    ],
)
def test_a_secrets_file_that_cannot_be_used_is_named(
    write: Write, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SettingsError) as caught:
        token_of(write({"INFLUXDB_TOKEN_FILE": str(path)}))

    assert str(caught.value) == f"INFLUXDB_TOKEN_FILE names {path}, {said}"
    assert caught.value.hint


def test_a_folder_in_the_place_of_a_secrets_file_is_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        token_of(write({"INFLUXDB_TOKEN_FILE": str(tmp_path)}))


# -- wrong values ----------------------------------------------------------------------------------


def test_all_wrong_settings_are_named_at_once_with_their_origin_and_without_their_value(
    write: Write, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    layers = write(
        {
            "COLLECT_INTERVAL": "sk-canary-0010",
            "PROJECT_TAG": "sk-canary-0011",
            "INFLUXDB_TOKEN_FILE": str(tmp_path / "none"),
        },
        env="LOG_LEVEL=sk-canary-0012\n",
        yaml="settings: {backup_keep: sk-canary-0013, host_name: {a: sk-canary-0014}}",
    )

    with pytest.raises(SettingsError) as caught:
        layers.load(Settings)

    text = str(caught.value)
    for part in (
        "COLLECT_INTERVAL from environment (COLLECT_INTERVAL): ",
        "PROJECT_TAG from environment (PROJECT_TAG): ",
        f"LOG_LEVEL from {folders[0] / '.env'} (LOG_LEVEL): ",
        f"BACKUP_KEEP from {folders[0] / 'tokendash.yaml'} (BACKUP_KEEP): ",
        "HOST_NAME from ",
        f"INFLUXDB_TOKEN_FILE names {tmp_path / 'none'}, which cannot be read",
    ):
        assert part in text
    assert "canary" not in f"{text} {caught.value.hint} {caught.value!r}"
    assert caught.value.exit_code == 2


def test_no_cause_of_a_settings_error_holds_a_value() -> None:
    with pytest.raises(SettingsError) as caught:
        Layers({"COLLECT_INTERVAL": "sk-canary-0015"}).load(Settings)

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COLLECT_INTERVAL", "0"),
        ("COLLECT_INTERVAL", "-5"),
        ("COLLECT_INTERVAL", "nan"),
        ("COLLECT_INTERVAL", "inf"),
        ("COLLECT_INTERVAL", "5 minutes"),
        ("LOCAL_INTERVAL", "0"),
        ("COLLECT_TIMEOUT", "0"),
        ("COLLECT_TIMEOUT", "nan"),
        ("INFLUXDB_INTERVAL", "1e9"),
        ("INFLUXDB_SETTLE", "-1"),
        ("INFLUXDB_SETTLE", "nan"),
        ("INFLUXDB_SERIES_BUDGET", "3"),
        ("HISTORY_RETENTION_DAYS", "-1"),
        ("BACKUP_KEEP", "1.5"),
        ("PROJECT_TAG", "path"),
        ("LOG_LEVEL", "verbose"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Layers({name: value}).load(Settings)

    assert f"{name} from environment ({name}): " in str(caught.value)


@pytest.mark.parametrize(
    ("hours", "seconds"), [("6", 21_600.0), ("0.5", 1_800.0), ("24", 86_400.0)]
)
def test_an_interval_in_hours_by_its_older_name_is_understood(hours: str, seconds: float) -> None:
    layers = Layers({"SYNC_INTERVAL_HOURS": hours})

    assert layers.load(Settings).collect_interval == seconds
    assert layers.used["COLLECT_INTERVAL"] == "environment (SYNC_INTERVAL_HOURS)"


def test_the_interval_in_seconds_comes_before_the_one_in_hours() -> None:
    layers = Layers({"SYNC_INTERVAL_HOURS": "6", "COLLECT_INTERVAL": "60"})

    assert layers.load(Settings).collect_interval == 60


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        ("often", "SYNC_INTERVAL_HOURS is not a number of hours"),
        ("0", "COLLECT_INTERVAL from environment (SYNC_INTERVAL_HOURS): "),
        ("nan", "COLLECT_INTERVAL from environment (SYNC_INTERVAL_HOURS): "),
    ],
)
def test_a_wrong_interval_in_hours_is_named_as_it_was_written(hours: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Layers({"SYNC_INTERVAL_HOURS": hours}).load(Settings)

    assert said in str(caught.value)


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("is odd")
    return value


class ToolOptions(Options):
    api_key: SecretStr = Field(SecretStr(""))
    spare_key: SecretStr | None = None
    path: str = Field("", validation_alias="TOOL_HOME")
    even: Annotated[int, AfterValidator(_even)] = 0


def test_options_of_a_collector_have_its_name_in_front(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k2")
    environ = {
        "TOOL_API_KEY": "k",
        "TOOL_SPARE_KEY_FILE": str(tmp_path / "key"),
        "TOOL_HOME": "/x",
        "TOOL_EVEN": "4",
        "API_KEY": "trap",
    }

    options = Layers(environ).load(ToolOptions, "tool_")

    assert options.api_key.get_secret_value() == "k"
    assert options.spare_key is not None
    assert options.spare_key.get_secret_value() == "k2"
    assert (options.path, options.even) == ("/x", 4)


def test_a_wrong_option_is_named_by_what_the_user_wrote() -> None:
    with pytest.raises(SettingsError) as caught:
        Layers({"TOKENDASH_TOOL_EVEN": "3", "TOOL_HOME": "/x"}).load(ToolOptions, "tool_")

    assert str(caught.value) == (
        "wrong setting: TOOL_EVEN from environment (TOKENDASH_TOOL_EVEN): Value error, is odd"
    )


def test_settings_are_frozen_and_never_print_a_secret() -> None:
    settings = Layers({"INFLUXDB_TOKEN": "sk-canary-0016"}).load(Settings)

    assert (
        "canary"
        not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    )


def test_every_setting_is_described() -> None:
    undescribed = [name for _, name, info in fields_of(Settings, "") if not info.description]

    assert undescribed == []


def test_finding_settings_needs_neither_pydantic_nor_yaml_when_there_is_no_yaml() -> None:
    code = (
        "import sys; from pathlib import Path; from collectors.layers import read_layers;"
        "print(read_layers({'TZ': 'UTC'}, config_dir=Path('/nowhere'),"
        " repository=Path('/nowhere')).find('TZ').text);"
        "print(sorted({'pydantic', 'yaml', 'dotenv'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )

    assert done.stdout.split() == ["UTC", "[]"]
