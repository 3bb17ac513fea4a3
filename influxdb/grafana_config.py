"""Grafana's files: checked, pointed at the stack's database, put into the volume it starts from.

Grafana does not start when a provisioning file is wrong: nothing is written before all are right.
"""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from collectors.errors import SettingsError
from influxdb.secret_files import OPEN_FOLDER, READABLE, UNFINISHED, write_whole

# Grafana complains about each of these that is missing.
FOLDERS = ("alerting", "dashboards", "datasources", "plugins")


def render(source: Path, *, url: str, database: str) -> dict[PurePosixPath, bytes]:
    """Every file Grafana reads, by its place below /etc/grafana.

    Raises:
        SettingsError: a file is missing or Grafana would refuse it; names the file and the place.
    """
    files: dict[PurePosixPath, bytes] = {}
    for path in _sources(source):
        name = PurePosixPath(path.relative_to(source).as_posix())
        try:
            content = path.read_bytes()
            files[name] = _checked(name, content, url, database)
        except OSError as error:
            raise SettingsError(f"grafana/{name} cannot be read: {error.strerror}", CURE) from None
        except (ValueError, yaml.YAMLError, configparser.Error) as error:
            reason = " ".join(str(error).split())
            raise SettingsError(f"grafana/{name} would stop Grafana: {reason}", CURE) from None
    if PurePosixPath("grafana.ini") not in files:
        raise SettingsError(f"there is no grafana.ini in {source}", CURE)
    return files


CURE = "correct the file in the clone, then `docker compose build` and `docker compose up -d`"


def _sources(source: Path) -> Iterator[Path]:
    if (source / "grafana.ini").exists():
        yield source / "grafana.ini"
    for path in sorted((source / "provisioning").rglob("*")):
        if path.suffix in {".yaml", ".yml", ".json"}:
            yield path
    yield from sorted((source / "dashboards").glob("*.json"))


def _checked(name: PurePosixPath, content: bytes, url: str, database: str) -> bytes:
    text = content.decode("utf-8")
    if name.suffix == ".ini":
        configparser.RawConfigParser(strict=True).read_string("[DEFAULT]\n" + text)
        return content
    if name.parts[0] == "dashboards":
        _check_dashboard(json.loads(text))
        return content
    document = json.loads(text) if name.suffix == ".json" else yaml.safe_load(text)
    if not isinstance(document, dict) or document.get("apiVersion") != 1:
        raise ValueError("it does not start with `apiVersion: 1`")
    if name.parts[1] == "alerting":
        _check_alerting(document)
    if name.parts[1] == "datasources" and _point_at(document, url, database):
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode()
    return content


def _check_dashboard(document: object) -> None:
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", str(document.get("uid") or "")):
        raise ValueError("its `uid` must be 1 to 40 letters, digits, `-` or `_`")
    if not document.get("title"):
        raise ValueError("it has no `title`")


def _check_alerting(document: Mapping[str, Any]) -> None:
    for group in document.get("groups") or ():
        label = f"group {group.get('name')!r}"
        if not group.get("name") or not group.get("folder"):
            raise ValueError(f"{label} needs a name and a folder")
        if _seconds(group.get("interval")) % 10 or not _seconds(group.get("interval")):
            raise ValueError(f"{label}: the interval must be a multiple of 10s")
        for rule in group.get("rules") or ():
            missing = [key for key in ("uid", "title", "condition", "data") if not rule.get(key)]
            if missing:
                raise ValueError(f"{label}, rule {rule.get('uid')!r} lacks {', '.join(missing)}")
            if bool(rule.get("panelId")) and not rule.get("dashboardUid"):
                raise ValueError(f"{label}, rule {rule['uid']!r} has a panelId but no dashboardUid")
    for point in document.get("contactPoints") or ():
        for receiver in point.get("receivers") or ():
            if not all(receiver.get(key) for key in ("uid", "type", "settings")):
                raise ValueError(
                    f"contact point {point.get('name')!r}: uid, type and settings needed"
                )


def _seconds(interval: object) -> int:
    found = re.fullmatch(r"(\d+)([smh])", str(interval))
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0


def _point_at(document: dict[str, Any], url: str, database: str) -> bool:
    """Write the database's address and name into the InfluxDB sources; whether that changed any."""
    is_changed = False
    for source in document.get("datasources") or ():
        if source.get("type") != "influxdb":
            continue
        options = source.setdefault("jsonData", {})
        # Grafana expands `$`, and a doubled one is a plain one.
        wanted = url.replace("$", "$$"), database.replace("$", "$$")
        if (source.get("url"), options.get("dbName")) != wanted:
            source["url"], options["dbName"] = wanted
            is_changed = True
    return is_changed


def install(files: Mapping[PurePosixPath, bytes], target: Path) -> list[PurePosixPath]:
    """Make the volume hold exactly these files, each replaced whole; return what changed."""
    changed: list[PurePosixPath] = []
    folders = {Path(name).parent for name in files}
    for folder in sorted(folders | {Path("provisioning") / name for name in FOLDERS}):
        _open_folder(target, folder)
    for name, content in files.items():
        path = target / name
        if not path.is_file() or path.read_bytes() != content:
            changed.append(name)
            write_whole(path, content, READABLE)
    for path in sorted(target.rglob("*")):
        name = PurePosixPath(path.relative_to(target).as_posix())
        if name not in files and not path.is_dir():
            if not path.name.endswith(UNFINISHED):
                changed.append(name)
            path.unlink()
    return changed


def _open_folder(target: Path, folder: Path) -> None:
    for part in (*reversed(folder.parents), folder):
        path = target / part
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(OPEN_FOLDER)
