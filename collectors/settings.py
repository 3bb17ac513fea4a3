"""Settings: environment, then `.env`, then `tokendash.yaml`, then defaults; each value knows its origin."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from collectors.errors import SettingsError

PREFIX = "TOKENDASH_"
REPOSITORY = Path(__file__).resolve().parent.parent

M = TypeVar("M", bound=BaseModel)


def _split(value: object) -> object:
    if isinstance(value, str):
        return [part for part in re.split(r"[,\s]+", value) if part]
    return value


Names = Annotated[list[str], BeforeValidator(_split)]


class Settings(BaseModel):
    """Settings of the program itself; collectors add their own."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    db_path: Path | None = Field(
        None, description="The ledger; default: `ledger.db` in the user's data folder"
    )
    collect_interval: float = Field(
        300, ge=1, le=86_400, description="Seconds between two runs of a collector"
    )
    local_interval: float = Field(
        10, ge=0.2, le=86_400, description="Seconds between two looks at this machine's log files"
    )
    collect_timeout: float = Field(
        120, gt=0, description="Seconds one batch of a collector may take before it is given up"
    )
    sources: Names = Field(
        default_factory=list, description="Only these collectors (names, comma-separated)"
    )
    sources_off: Names = Field(default_factory=list, description="All collectors but these")
    collectors_extra: Names = Field(
        default_factory=list, description="Your own collectors as `module:Class`"
    )
    tz: str = Field("", description="IANA zone that cuts days; default: the host's")
    influxdb_url: str = Field("", description="InfluxDB's address; unset: the ledger keeps it all")
    influxdb_token: SecretStr = Field(SecretStr(""), description="A token that may write the bucket")
    influxdb_org: str = Field("tokendash", description="InfluxDB 2 organisation")
    influxdb_bucket: str = Field("tokens", description="InfluxDB 2 bucket, or 1.x/3 database")
    influxdb_interval: float = Field(
        30, ge=0.2, le=86_400, description="Seconds between two sends; spread by 10 %"
    )
    influxdb_settle: float = Field(
        600, ge=0, description="Seconds after which an acknowledged point is sent once more"
    )
    influxdb_tags: Names = Field(
        default_factory=lambda: ["provider", "source", "model", "project", "host", "account"],
        description="Tags written; leave one out to have fewer series",
    )
    influxdb_series_budget: int = Field(
        500, ge=10, description="Series this exporter may make; the rest is summed as `(other)`"
    )
    host_name: str = Field("", description="Value of the tag `host`; default: the host's name")
    project_tag: Literal["name", "hash", "off"] = Field(
        "name", description="How projects appear outside the ledger: last path part, hash, not at all"
    )
    prices_file: Path | None = Field(
        None, description="Your prices (YAML or JSON), used before the built-in ones"
    )
    history_retention_days: int = Field(
        0, ge=0, description="`prune` folds detail older than this; 0 keeps it for good"
    )
    backup_keep: int = Field(7, ge=1, description="Daily backups of the ledger to keep")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line on stderr"
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto`: for people on a terminal, JSON elsewhere"
    )


HOUR_ALIASES = {"SYNC_INTERVAL_HOURS": "COLLECT_INTERVAL"}


@dataclass(frozen=True)
class Value:
    """One raw setting and where it was found."""

    text: Any
    origin: str


@dataclass(frozen=True)
class Layers:
    """All settings as they were written, nearest first; validated by `load`."""

    environ: Mapping[str, str]
    files: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    notes: tuple[str, ...] = ()
    used: dict[str, str] = field(default_factory=dict)

    def find(self, name: str, *, is_secret: bool = False) -> Value | None:
        """The nearest non-empty value of a setting, its `TOKENDASH_` form or its `_FILE` form."""
        for origin, values in (("environment", self.environ), *self.files):
            for key in (PREFIX + name, name):
                value = values.get(key)
                if value is not None and value != "":
                    return Value(_expand(value, self.environ), f"{origin} ({key})")
            if is_secret:
                for key in (PREFIX + name + "_FILE", name + "_FILE"):
                    path = values.get(key)
                    if path:
                        return Value(read_secret(name, Path(str(path))), f"file named by {key}")
        return None

    def load(self, model: type[M], prefix: str = "") -> M:
        """Validate the settings of one model.

        Raises:
            SettingsError: names every wrong setting and its origin, never a value.
        """
        raw: dict[str, Any] = {}
        for key, env_name, info in fields_of(model, prefix):
            found = self.find(env_name, is_secret=is_secret(info))
            if found is None:
                for alias, target in HOUR_ALIASES.items():
                    if target == env_name and (hours := self.find(alias)) is not None:
                        found = Value(_hours(alias, hours), hours.origin)
            if found is not None:
                raw[key] = found.text
                self.used[env_name] = found.origin
        try:
            return model.model_validate(raw)
        except ValidationError as error:
            raise SettingsError(*_explain(error, model, prefix, self.used)) from None


def _hours(name: str, value: Value) -> float:
    try:
        return float(value.text) * 3600
    except (TypeError, ValueError):
        raise SettingsError(f"{name} is not a number of hours", "set it to a number such as 6") from None


def _explain(
    error: ValidationError, model: type[BaseModel], prefix: str, used: Mapping[str, str]
) -> tuple[str, str]:
    names = {key: env_name for key, env_name, _ in fields_of(model, prefix)}
    lines = []
    for item in error.errors(include_input=False, include_context=False, include_url=False):
        name = names.get(str(item["loc"][0]), str(item["loc"][0])) if item["loc"] else ""
        lines.append(f"{name} from {used.get(name, 'default')}: {item['msg']}")
    return "wrong setting: " + "; ".join(lines), "correct it, or remove it to use the default"


def fields_of(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, FieldInfo]]:
    """Field name, environment name and definition of every setting of a model."""
    for key, info in model.model_fields.items():
        alias = info.validation_alias
        yield key, alias if isinstance(alias, str) else (prefix + key).upper(), info


def is_secret(info: FieldInfo) -> bool:
    """Whether a setting must never be shown."""
    return info.annotation is SecretStr or SecretStr in get_args(info.annotation)


def read_secret(name: str, path: Path) -> str:
    """The content of a secret's file, trimmed.

    Raises:
        SettingsError: the file cannot be read or is empty.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(
            f"{name}_FILE names {path}, which cannot be read: {reason}",
            f"make the file readable, or set {name} directly",
        ) from None
    if not text:
        raise SettingsError(f"{name}_FILE names {path}, which is empty", "write the secret into it")
    return text


def _expand(value: Any, environ: Mapping[str, str]) -> Any:
    """`${NAME}` inside a value, from the environment; an unset name stays as written."""
    if isinstance(value, str) and "${" in value:
        return re.sub(r"\$\{(\w+)\}", lambda m: environ.get(m[1], m[0]), value)
    return value


def read_layers(
    environ: Mapping[str, str], *, config_dir: Path, repository: Path = REPOSITORY
) -> Layers:
    """Collect the settings of environment, `.env` and `tokendash.yaml`.

    Only the configuration folder and the repository are looked at, never the folder a command is
    called in.

    Raises:
        SettingsError: a file cannot be read or is not what its name says.
    """
    files: list[tuple[str, Mapping[str, Any]]] = []
    notes: list[str] = []
    folders = [config_dir]
    if (repository / "requirements.txt").exists():
        folders.append(repository)
    for folder in folders:
        path = folder / ".env"
        if path.is_file():
            mode = path.stat().st_mode
            if mode & (stat.S_IRGRP | stat.S_IROTH) and os.name == "posix":
                notes.append(f"{path} can be read by other users: chmod 600 {path}")
            try:
                files.append((str(path), dotenv_values(path, interpolate=False)))
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(
                    f"{path} cannot be read ({type(error).__name__})", "make it a readable UTF-8 file"
                ) from None
    for folder in folders:
        path = folder / "tokendash.yaml"
        if path.is_file():
            files.append((str(path), _read_yaml(path)))
    return Layers(environ, tuple(files), tuple(notes))


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{path} cannot be read{where}", "correct the file's YAML") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} is not a mapping of settings", "write `NAME: value` lines")
    settings = content.get("settings", {})
    if not isinstance(settings, dict):
        raise SettingsError(f"{path}: `settings` is not a mapping", "write `NAME: value` lines")
    return {str(key).upper(): value for key, value in settings.items()}
