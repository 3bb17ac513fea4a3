from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import Field, SecretStr

from collectors.base import BaseCollector, Options
from collectors.cli import generate, options
from collectors.cli.console import UsageError
from collectors.errors import SettingsError
from collectors.layers import REPOSITORY
from collectors.settings import Settings

MARKED = (
    "# Title\n<!-- settings:begin -->\nold\n<!-- settings:end -->\nbetween\n"
    "<!-- collectors:begin --><!-- collectors:end -->\nend\n"
)


def test_the_generated_documents_are_current() -> None:
    stale = [
        path.name
        for path, content in options.documents(REPOSITORY).items()
        if path.read_text(encoding="utf-8") != content
    ]

    assert stale == [], "run: python -m collectors.cli.generate"


def test_the_example_names_every_setting_with_its_default() -> None:
    text = options.env_example()
    uncommented = "\n".join(
        line[1:] for line in text.splitlines() if line.startswith("#") and not line.startswith("# ")
    )

    values = dotenv_values(stream=io.StringIO(uncommented), interpolate=False)
    assert values["COLLECT_INTERVAL"] == "300"
    assert values["INFLUXDB_TAGS"] == "provider,source,model,project,host,account"
    assert values["CLAUDE_CODE_PLAN"] == ""
    assert set(values) >= {name.upper() for name in Settings.model_fields}
    assert not [
        line for line in text.splitlines() if line and not line.startswith("#")
    ]  # a copy of it changes nothing


def test_copied_as_it_is_the_example_changes_nothing() -> None:
    assert dotenv_values(stream=io.StringIO(options.env_example())) == {}


class ExampleOptions(Options):
    """Settings of an example."""

    api_key: SecretStr = Field(SecretStr("never-shown-anywhere"), description="The key | to use")
    path: str = Field("x", validation_alias="SHARED", description="Where it lies")


class First(BaseCollector[ExampleOptions]):
    """Reads the first example.

    More about it.
    """

    name = "first"
    options_type = ExampleOptions


class Second(First):
    """Reads the second example."""

    name = "second"


def test_a_setting_of_two_collectors_is_listed_once_with_both_names() -> None:
    found = options.collector_options([First, Second])

    assert [(option.name, option.owner) for option in found] == [
        ("FIRST_API_KEY", "first"),
        ("SHARED", "first, second"),
        ("SECOND_API_KEY", "second"),
    ]


def test_no_default_of_a_secret_is_written() -> None:
    [key, _] = options.collector_options([First])

    assert "#FIRST_API_KEY=\n" in options._env_entry(key)
    assert key.default == "set (…here)"


def test_the_tables_of_the_readme_have_a_row_for_everything() -> None:
    settings, collectors = options.settings_table(), options.collectors_table()

    assert "| `COLLECT_INTERVAL` | `300` | Seconds between two runs of a collector |" in settings
    assert "| `claude-code` | Claude Code's transcripts" in collectors
    assert settings.count("\n") + 1 == 2 + len(options.documented_options())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(MARKED)
    return tmp_path


def test_writing_replaces_what_lies_between_the_markers_alone(repository: Path) -> None:
    assert generate.run([], repository) == 0

    text = (repository / "README.md").read_text()
    assert text.startswith("# Title\n<!-- settings:begin -->\n| Setting |")
    assert "\nbetween\n<!-- collectors:begin -->\n| Collector |" in text
    assert text.endswith("|\n<!-- collectors:end -->\nend\n")
    assert (repository / ".env.example").read_text() == options.env_example()


def test_a_second_time_there_is_nothing_to_write(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate.run([], repository)
    capsys.readouterr()

    assert generate.run([], repository) == 0
    assert generate.run(["--check"], repository) == 0
    assert capsys.readouterr().out == ""


def test_the_check_names_what_is_not_current_and_changes_nothing(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.run(["--check"], repository) == 1

    said = capsys.readouterr().err
    assert f"{repository / '.env.example'} is not current" in said
    assert "python -m collectors.cli.generate" in said
    assert (repository / "README.md").read_text() == MARKED
    assert not (repository / ".env.example").exists()


@pytest.mark.parametrize("marker", ["settings:begin", "settings:end", "collectors:end"])
def test_a_missing_marker_is_named(repository: Path, marker: str) -> None:
    (repository / "README.md").write_text(MARKED.replace(f"<!-- {marker} -->", ""))

    with pytest.raises(SettingsError, match=marker.partition(":")[0]):
        generate.run([], repository)


def test_without_a_readme_it_says_so(repository: Path) -> None:
    (repository / "README.md").unlink()

    with pytest.raises(SettingsError, match=r"README\.md cannot be read"):
        generate.run(["--check"], repository)


def test_there_is_no_other_option(repository: Path) -> None:
    with pytest.raises(UsageError):
        generate.run(["--chekc"], repository)


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("", ""),
        ("short", "set"),
        ("nineteen-characters", "set"),
        ("twenty-characters-ok", "set (…s-ok)"),
    ],
)
def test_of_a_secret_only_the_end_of_a_long_one_is_shown(secret: str, shown: str) -> None:
    assert options.masked(secret) == shown


def test_the_repository_has_what_the_generator_needs(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "README.md", tmp_path)

    assert generate.run([], tmp_path) == 0
