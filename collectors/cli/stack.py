"""`tokendash stack`: what docker-compose.yml cannot know about this machine, written beside it.

The committed file mounts no folder of the host. This one finds the agent logs that exist, mounts
them read-only and lets the collector run as their owner. Docker is not needed to write it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from collectors.errors import SettingsError

OVERRIDE = "docker-compose.override.yml"
MARKER = "# Written by `tokendash stack`; run it again instead of editing this file."
IMAGE_USER = (1000, 1000)


@dataclass(frozen=True)
class LogFolder:
    """One folder of an agent on this machine and where the collector finds it in the container.

    `variable` is the setting that names the agent's folder; several folders of one agent share it,
    and `value` is what this one adds to it.
    """

    name: str
    host: Path
    container: str
    variable: str
    value: str


@dataclass(frozen=True)
class Search:
    """What an agent's search found, and every place it looked at."""

    folders: tuple[LogFolder, ...]
    looked_at: tuple[Path, ...]


Finder = Callable[[Mapping[str, str], Path], Search]


@dataclass(frozen=True)
class StackReport:
    """What was written, for whom, and what to know about it."""

    path: Path
    folders: tuple[LogFolder, ...]
    looked_at: tuple[Path, ...]
    user: tuple[int, int]
    is_changed: bool
    notes: tuple[str, ...] = field(default=())


def find_claude_code(env: Mapping[str, str], home: Path) -> Search:
    """Claude Code's transcripts: CLAUDE_CONFIG_DIR when it is set, else both usual places.

    Only `projects` is mounted: the folder above it also holds the agent's log-in.
    """
    text = env.get("CLAUDE_CONFIG_DIR", "").strip()
    # One path upstream, a list for some tools; a folder whose name holds a comma is one path.
    is_one = bool(text) and _expanded(text, home).is_dir()
    named = [text] if is_one else [part.strip() for part in re.split(rf"[,{os.pathsep}]", text)]
    roots = [_expanded(part, home) for part in named if part]
    config_home = env.get("XDG_CONFIG_HOME", "")
    usual = [home / ".claude", Path(config_home or home / ".config") / "claude"]
    looked_at = [
        root if root.name == "projects" else root / "projects"
        for root in dict.fromkeys(roots or usual)
    ]
    folders: list[LogFolder] = []
    for place in looked_at:
        host = place.resolve()
        if host.is_dir() and host not in [folder.host for folder in folders]:
            root_in_container = f"/logs/claude-code-{len(folders) + 1}"
            folders.append(
                LogFolder(
                    name="claude_code",
                    host=host,
                    container=f"{root_in_container}/projects",
                    variable="CLAUDE_CONFIG_DIR",
                    value=root_in_container,
                )
            )
    return Search(tuple(folders), tuple(looked_at))


def _expanded(text: str, home: Path) -> Path:
    if text == "~" or text.startswith("~/"):
        return home / text[2:]
    return Path(text)


# One finder for each agent whose logs lie on this machine.
FINDERS: tuple[Finder, ...] = (find_claude_code,)


def write_stack(
    repo: Path,
    env: Mapping[str, str],
    home: Path,
    *,
    finders: Sequence[Finder] = FINDERS,
    zone: str = "",
    host_name: str = "",
) -> StackReport:
    """Write docker-compose.override.yml for this machine; the same machine gives the same bytes.

    `zone` and `host_name` are this machine's, for a container knows neither; settings win.

    Raises:
        SettingsError: there is no compose file here, a file of that name is somebody else's, or it
            cannot be written.
    """
    if not (repo / "docker-compose.yml").is_file():
        raise SettingsError(
            f"there is no docker-compose.yml in {repo}",
            "the stack needs a clone of the repository: run ./tokendash stack in one",
        )
    searches = [finder(env, home) for finder in finders]
    folders = tuple(folder for search in searches for folder in search.folders)
    looked_at = tuple(place for search in searches for place in search.looked_at)
    user, notes = _user_of(folders, home)
    content = render_override(folders, user, zone=zone, host_name=host_name).encode()
    path = repo / OVERRIDE
    is_changed = _replace_own(path, content)
    notes += _compose_file_note(env)
    return StackReport(path, folders, looked_at, user, is_changed, notes)


def render_override(
    folders: Iterable[LogFolder], user: tuple[int, int], *, zone: str = "", host_name: str = ""
) -> str:
    """The override file's text."""
    settings: dict[str, str] = {}
    for folder in folders:
        present = settings.get(folder.variable)
        settings[folder.variable] = f"{present},{folder.value}" if present else folder.value
    if zone:
        settings["TZ"] = "${TZ:-" + zone + "}"
    if re.fullmatch(r"[A-Za-z0-9._-]+", host_name):
        settings["HOST_NAME"] = "${HOST_NAME:-" + host_name + "}"
    collector: dict[str, Any] = {"user": f"${{HOST_UID:-{user[0]}}}:${{HOST_GID:-{user[1]}}}"}
    if settings:
        collector["environment"] = settings
    mounts = [
        {
            "type": "bind",
            # Compose expands `$`; a doubled one is a plain one.
            "source": str(folder.host).replace("$", "$$"),
            "target": folder.container,
            "read_only": True,
            # Without this a missing folder would be created, owned by root.
            "bind": {"create_host_path": False},
        }
        for folder in folders
    ]
    if mounts:
        collector["volumes"] = mounts
    document = {"services": {"collector": collector}}
    return MARKER + "\n" + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=4096)


def _user_of(folders: Sequence[LogFolder], home: Path) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Who may read the logs: their owner, else the owner of the home folder."""
    owners = {folder.host: _owner(folder.host) for folder in folders}
    notes: list[str] = []
    user = next(iter(owners.values()), _owner(home))
    for host, owner in owners.items():
        if owner[0] != user[0]:
            notes.append(
                f"{host} belongs to user {owner[0]}, the collector runs as {user[0]}: files only"
                " their owner may read stay unread"
            )
    if user[0] == 0:
        notes.append("the logs belong to root, so the collector runs as root without capabilities")
    if user != IMAGE_USER:
        notes.append(
            f"if the stack ran before as user {IMAGE_USER[0]}, give it its ledger back:"
            " docker compose run --rm --no-deps --user 0:0 --cap-add CHOWN --cap-add DAC_OVERRIDE"
            f" --entrypoint chown collector -R {user[0]}:{user[1]} /data"
        )
    return user, tuple(notes)


def _owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


def _compose_file_note(env: Mapping[str, str]) -> tuple[str, ...]:
    chosen = env.get("COMPOSE_FILE", "")
    if not chosen or OVERRIDE in chosen:
        return ()
    return (f"COMPOSE_FILE is set and does not name {OVERRIDE}: add it, or compose ignores it",)


def _replace_own(path: Path, content: bytes) -> bool:
    """Put the content in place unless the file is somebody else's; whether it changed anything."""
    try:
        if path.is_symlink() or path.exists():
            present = path.read_bytes()
            if present.split(b"\n", 1)[0].rstrip() != MARKER.encode():
                raise SettingsError(
                    f"{path} was not written by `tokendash stack` and is left as it is",
                    f"rename it, run the command again, and name both files in .env:"
                    f" COMPOSE_FILE=docker-compose.yml:{OVERRIDE}:<yours>.yml",
                )
            if present == content:
                return False
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            with unfinished.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written: {error.strerror}", "run the command as the clone's owner"
        ) from error
    return True


def describe(report: StackReport) -> list[str]:
    """What to tell the user, a line each; the last one is the next command."""
    verb = "Wrote" if report.is_changed else "Nothing new in"
    lines = [f"{verb} {report.path}"]
    lines += [f"  {folder.name}: {folder.host} (read-only)" for folder in report.folders]
    if not report.folders:
        lines.append("  no agent logs found; the stack starts without. Looked at:")
        lines += [f"    {place}" for place in report.looked_at]
    lines.append(f"  the collector runs as user {report.user[0]}, group {report.user[1]}")
    lines += [f"  note: {note}" for note in report.notes]
    lines.append("Next: docker compose up -d")
    return lines
