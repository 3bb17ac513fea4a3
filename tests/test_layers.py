from __future__ import annotations

import io
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from platformdirs import PlatformDirs

from collectors.composition import Program
from collectors.errors import SettingsError
from collectors.layers import read_env_file, read_layers
from collectors.places import config_dir, ledger_path

NAMES = st.sampled_from(["A", "DB_PATH", "export", "export X", "x1", "9", "", "A B"])
TEXTS = st.text(st.sampled_from("ab1/.:-_ \t'\"#\\=${}`é\u00a0,"), max_size=12)
LINES = st.one_of(
    st.builds("{}={}".format, NAMES, TEXTS),
    st.builds("export {} = {} ".format, NAMES, TEXTS),
    st.builds("# {}".format, TEXTS),
    TEXTS,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.lists(LINES, max_size=4).map("\n".join))
@example("A=1\nB=two words\n")
@example("A=1 # remark\n")
@example("A='1\n2'\n")
@example("A=b#c\nA=\n")
@example("A\n")
def test_an_env_file_means_what_dotenv_says(tmp_path: Path, text: str) -> None:
    path = tmp_path / ".env"
    path.write_text(text, encoding="utf-8")

    assert dict(read_env_file(path)) == dict(
        dotenv_values(stream=io.StringIO(text), interpolate=False)
    )


def test_a_plain_env_file_is_read_without_dotenv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".env"
    path.write_text("# where it lies\nexport DB_PATH=/srv/a.db\n\nTZ = Europe/Berlin\nEMPTY=\n")
    monkeypatch.setitem(__import__("sys").modules, "dotenv", None)  # importing it would fail

    assert read_env_file(path) == {"DB_PATH": "/srv/a.db", "TZ": "Europe/Berlin", "EMPTY": ""}


def test_an_env_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"A=\xff\n")

    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        read_env_file(path)


def test_the_nearest_layer_wins_and_names_itself(tmp_path: Path) -> None:
    config, repository = tmp_path / "config", tmp_path / "repo"
    for folder in (config, repository):
        folder.mkdir()
    (repository / "requirements.txt").touch()
    (config / ".env").write_text("TZ=Europe/Berlin\n")
    (repository / ".env").write_text("TZ=UTC\nHOST_NAME=from-repository\n")
    (config / "tokendash.yaml").write_text("settings:\n  log_level: debug\n  host_name: no\n")

    layers = read_layers({"TOKENDASH_LOG_FORMAT": "json"}, config_dir=config, repository=repository)

    found = {name: layers.find(name) for name in ("TZ", "HOST_NAME", "LOG_LEVEL", "LOG_FORMAT")}
    assert {name: value and value.text for name, value in found.items()} == {
        "TZ": "Europe/Berlin",
        "HOST_NAME": "from-repository",
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "json",
    }
    assert found["TZ"] is not None
    assert found["TZ"].origin == f"{config / '.env'} (TZ)"
    assert layers.find("DB_PATH") is None


@pytest.mark.parametrize("db_path", ["", "/srv/ledger.db", "~/l.db", "relative/l.db"])
@pytest.mark.parametrize("config", ["", "~/conf"])
@pytest.mark.parametrize("xdg", ["", "xdg"])
def test_quick_commands_and_the_program_agree_on_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, db_path: str, config: str, xdg: str
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": str(tmp_path), "DB_PATH": db_path, "TOKENDASH_CONFIG_DIR": config}
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        environ[name] = str(tmp_path / xdg) if xdg else ""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    program = Program(environ)

    assert config_dir(environ) == program.config_dir
    assert ledger_path(program.layers) == program.places.ledger


def test_the_usual_places_are_those_of_platformdirs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    dirs = PlatformDirs("tokendash", appauthor=False)

    assert config_dir({}) == Path(dirs.user_config_dir)
    assert ledger_path(read_layers({}, config_dir=Path("/nowhere"))) == Path(
        dirs.user_data_dir, "ledger.db"
    )
