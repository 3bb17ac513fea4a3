"""`tokendash stack`: the override file, in homes of every kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from collectors.cli.stack import (
    MARKER,
    OVERRIDE,
    LogFolder,
    Search,
    StackReport,
    describe,
    find_claude_code,
    render_override,
    write_stack,
)
from collectors.errors import SettingsError


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A clone, as far as the command can tell."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    (folder / "docker-compose.yml").write_text("services: {}\n")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder without any agent."""
    folder = tmp_path / "home of J. Döe"
    folder.mkdir()
    return folder


def collector(report: StackReport) -> dict[str, Any]:
    """The collector's part of the written file."""
    document = yaml.safe_load(report.path.read_text())
    assert list(document) == ["services"]
    assert list(document["services"]) == ["collector"]
    part: dict[str, Any] = document["services"]["collector"]
    return part


def test_the_usual_folder_is_mounted_read_only_and_never_created(repo: Path, home: Path) -> None:
    (home / ".claude/projects").mkdir(parents=True)

    written = collector(write_stack(repo, {}, home))

    assert written["volumes"] == [
        {
            "type": "bind",
            "source": str(home / ".claude/projects"),
            "target": "/logs/claude-code-1/projects",
            "read_only": True,
            "bind": {"create_host_path": False},
        }
    ]
    assert written["environment"] == {"CLAUDE_CONFIG_DIR": "/logs/claude-code-1"}


def test_both_usual_folders_are_found(repo: Path, home: Path) -> None:
    (home / ".claude/projects").mkdir(parents=True)
    (home / ".config/claude/projects").mkdir(parents=True)

    report = write_stack(repo, {}, home)

    assert [folder.host for folder in report.folders] == [
        home / ".claude/projects",
        home / ".config/claude/projects",
    ]
    assert collector(report)["environment"] == {
        "CLAUDE_CONFIG_DIR": "/logs/claude-code-1,/logs/claude-code-2"
    }


def test_the_agents_log_in_is_not_mounted(repo: Path, home: Path) -> None:
    (home / ".claude/projects").mkdir(parents=True)
    (home / ".claude/.credentials.json").write_text("{}")

    report = write_stack(repo, {}, home)

    assert all(folder.host.name == "projects" for folder in report.folders)


@pytest.mark.parametrize("separator", [",", os.pathsep, " , "])
def test_each_part_of_claude_config_dir_is_mounted(
    repo: Path, home: Path, tmp_path: Path, separator: str
) -> None:
    (home / ".claude/projects").mkdir(parents=True)
    work, own = tmp_path / "work logs", home / "own"
    (work / "projects").mkdir(parents=True)
    (own / "projects").mkdir(parents=True)
    env = {"CLAUDE_CONFIG_DIR": f"{work}{separator}~/own/projects{separator}/does/not/exist"}

    report = write_stack(repo, env, home)

    assert [folder.host for folder in report.folders] == [work / "projects", own / "projects"]
    assert Path("/does/not/exist/projects") in report.looked_at


def test_a_folder_with_a_comma_in_its_name_is_one_folder(repo: Path, home: Path) -> None:
    (home / "logs, old/projects").mkdir(parents=True)

    report = write_stack(repo, {"CLAUDE_CONFIG_DIR": str(home / "logs, old")}, home)

    assert [folder.host for folder in report.folders] == [home / "logs, old/projects"]


def test_one_folder_under_two_names_is_mounted_once(repo: Path, home: Path) -> None:
    (home / ".claude/projects").mkdir(parents=True)
    (home / ".config").mkdir()
    (home / ".config/claude").symlink_to(home / ".claude")

    report = write_stack(repo, {}, home)

    assert [folder.host for folder in report.folders] == [home / ".claude/projects"]


def test_without_any_agent_the_file_mounts_nothing_and_the_user_learns_where_it_looked(
    repo: Path, home: Path
) -> None:
    report = write_stack(repo, {}, home)

    assert "volumes" not in collector(report)
    lines = "\n".join(describe(report))
    assert "no agent logs found" in lines
    assert str(home / ".claude/projects") in lines
    assert str(home / ".config/claude/projects") in lines


def test_a_folder_that_is_gone_is_gone_from_the_file(repo: Path, home: Path) -> None:
    (home / ".claude/projects").mkdir(parents=True)
    write_stack(repo, {}, home)
    (home / ".claude/projects").rmdir()

    report = write_stack(repo, {}, home)

    assert report.is_changed
    assert "volumes" not in collector(report)


def test_the_collector_runs_as_the_owner_of_the_logs(repo: Path, home: Path) -> None:
    logs = home / ".claude/projects"
    logs.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(logs, 12345, 23456)
    owner = logs.stat()

    report = write_stack(repo, {}, home)

    assert report.user == (owner.st_uid, owner.st_gid)
    assert collector(report)["user"] == (
        f"${{HOST_UID:-{owner.st_uid}}}:${{HOST_GID:-{owner.st_gid}}}"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_logs_of_two_users_and_a_former_ledger_are_pointed_out(repo: Path, home: Path) -> None:
    for place, owner in ((".claude", 4001), (".config/claude", 4002)):
        (home / place / "projects").mkdir(parents=True)
        os.chown(home / place / "projects", owner, owner)

    notes = "\n".join(write_stack(repo, {}, home).notes)

    assert "belongs to user 4002, the collector runs as 4001" in notes
    assert "chown collector -R 4001:4001 /data" in notes


def test_zone_and_name_of_this_machine_are_defaults_that_settings_replace(
    repo: Path, home: Path
) -> None:
    report = write_stack(repo, {}, home, zone="Europe/Berlin", host_name="laptop-1")

    assert collector(report)["environment"] == {
        "TZ": "${TZ:-Europe/Berlin}",
        "HOST_NAME": "${HOST_NAME:-laptop-1}",
    }


def test_a_host_name_that_compose_would_expand_is_left_out() -> None:
    assert "HOST_NAME" not in render_override((), (1, 1), host_name="$(reboot)}")


def test_a_dollar_in_a_path_is_not_expanded_by_compose(repo: Path, home: Path) -> None:
    logs = home / '$HOME and ${more}: "x" #\''
    (logs / "projects").mkdir(parents=True)

    written = collector(write_stack(repo, {"CLAUDE_CONFIG_DIR": str(logs)}, home))

    source = written["volumes"][0]["source"]
    assert source.replace("$$", "$") == str(logs / "projects")
    assert source.count("$$") == 2


def test_the_written_file_is_a_compose_file(repo: Path, home: Path) -> None:
    (home / ".claude/projects").mkdir(parents=True)

    report = write_stack(repo, {}, home, zone="Europe/Berlin", host_name="laptop")

    checker = Path(sys.executable).with_name("check-jsonschema")
    checked = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", report.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_writing_again_changes_nothing(repo: Path, home: Path) -> None:
    (home / ".claude/projects").mkdir(parents=True)
    first = write_stack(repo, {}, home)
    before = first.path.stat().st_mtime_ns, first.path.read_bytes()

    second = write_stack(repo, {}, home)

    assert (first.is_changed, second.is_changed) == (True, False)
    assert (second.path.stat().st_mtime_ns, second.path.read_bytes()) == before


def test_the_file_says_who_wrote_it_and_the_report_what_comes_next(repo: Path, home: Path) -> None:
    (home / ".claude/projects").mkdir(parents=True)

    report = write_stack(repo, {}, home)

    assert report.path.read_text().splitlines()[0] == MARKER
    lines = describe(report)
    assert lines[0] == f"Wrote {repo / OVERRIDE}"
    assert f"  claude_code: {home}/.claude/projects (read-only)" in lines
    assert lines[-1] == "Next: docker compose up -d"


@pytest.mark.parametrize("content", ["services: {}\n", "", f"# mine\n{MARKER}\n", f"{MARKER} no\n"])
def test_somebody_elses_override_is_left_alone(repo: Path, home: Path, content: str) -> None:
    (repo / OVERRIDE).write_text(content)

    with pytest.raises(SettingsError, match="left as it is") as caught:
        write_stack(repo, {}, home)

    assert (repo / OVERRIDE).read_text() == content
    assert "COMPOSE_FILE=docker-compose.yml:docker-compose.override.yml" in caught.value.hint


def test_a_folder_without_a_compose_file_is_no_clone(tmp_path: Path, home: Path) -> None:
    with pytest.raises(SettingsError, match="there is no docker-compose"):
        write_stack(tmp_path, {}, home)


def test_a_failed_write_names_the_file_and_leaves_nothing_behind(repo: Path, home: Path) -> None:
    (repo / OVERRIDE).mkdir()

    with pytest.raises(SettingsError, match="cannot be written"):
        write_stack(repo, {}, home)

    assert sorted(path.name for path in repo.iterdir()) == [OVERRIDE, "docker-compose.yml"]


def test_a_compose_file_setting_that_hides_the_override_is_pointed_out(
    repo: Path, home: Path
) -> None:
    hidden = write_stack(repo, {"COMPOSE_FILE": "docker-compose.yml"}, home)
    named = write_stack(repo, {"COMPOSE_FILE": f"docker-compose.yml:{OVERRIDE}"}, home)

    assert any("COMPOSE_FILE" in note for note in hidden.notes)
    assert not any("COMPOSE_FILE" in note for note in named.notes)


def test_other_agents_join_by_a_finder(repo: Path, home: Path) -> None:
    def find_other(env: object, home: Path) -> Search:
        place = home / ".other"
        folder = LogFolder("other", place, "/logs/other-1", "OTHER_HOME", "/logs/other-1")
        return Search((folder,), (place,))

    (home / ".claude/projects").mkdir(parents=True)
    (home / ".other").mkdir()

    written = collector(write_stack(repo, {}, home, finders=(find_claude_code, find_other)))

    assert [mount["target"] for mount in written["volumes"]] == [
        "/logs/claude-code-1/projects",
        "/logs/other-1",
    ]
    assert written["environment"]["OTHER_HOME"] == "/logs/other-1"
