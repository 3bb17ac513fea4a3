"""The settings there are, and the checking of what `layers.py` found written down."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from collectors.errors import SettingsError
from collectors.layers import PREFIX, REPOSITORY, Layers, Value, read_layers, read_secret

__all__ = [
    "PREFIX",
    "REPOSITORY",
    "Layers",
    "Settings",
    "Value",
    "fields_of",
    "is_secret",
    "read_layers",
    "read_secret",
]

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
        10, ge=0.05, le=86_400, description="Seconds between two looks at this machine's log files"
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
    influxdb_token: SecretStr = Field(
        SecretStr(""), description="A token that may write the bucket"
    )
    influxdb_org: str = Field("tokendash", description="InfluxDB 2 organisation")
    influxdb_bucket: str = Field("tokens", description="InfluxDB 2 bucket, or 1.x/3 database")
    influxdb_interval: float = Field(
        30, ge=0.05, le=86_400, description="Seconds between two sends; spread by 10 %"
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
        "name",
        description="How projects appear outside the ledger: last path part, hash, not at all",
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


class StackSettings(BaseModel):
    """Settings of the compose stack only; docker compose and its set-up service read them."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    grafana_port: int = Field(3456, description="Port of Grafana on this machine")
    grafana_password: SecretStr = Field(
        SecretStr(""), description="Grafana's first password; default: a random one"
    )
    influxdb_retention: str = Field(
        "", description="How long InfluxDB keeps points, such as `52w`; default: for ever"
    )
    influxdb_admin_token: SecretStr = Field(
        SecretStr(""), description="An operator token, to recover lost secrets only"
    )
    host_uid: int = Field(1000, description="User the collector runs as; `tokendash stack` knows")
    host_gid: int = Field(1000, description="Group the collector runs as; `tokendash stack` knows")


HOUR_ALIASES = {"SYNC_INTERVAL_HOURS": "COLLECT_INTERVAL"}


def load(layers: Layers, model: type[M], prefix: str = "") -> M:
    """Validate the settings of one model.

    Raises:
        SettingsError: names every wrong setting and its origin, never a value.
    """
    raw: dict[str, Any] = {}
    unread: dict[str, SettingsError] = {}
    for key, env_name, info in fields_of(model, prefix):
        try:
            found = _find(layers, env_name, info)
        except SettingsError as error:
            unread[env_name] = error
            continue
        if found is not None:
            raw[key] = found.text
            layers.used[env_name] = found.origin
    wrong: ValidationError | None = None
    try:
        checked = model.model_validate(raw)
        if not unread:
            return checked
    except ValidationError as error:
        wrong = error
    raise SettingsError(*_explain(unread, wrong, model, prefix, layers.used))


def _find(layers: Layers, env_name: str, info: FieldInfo) -> Value | None:
    found = layers.find(env_name, is_secret=is_secret(info))
    if found is None:
        for alias, target in HOUR_ALIASES.items():
            if target == env_name and (hours := layers.find(alias)) is not None:
                return Value(_hours(alias, hours), hours.origin)
    return found


def _hours(name: str, value: Value) -> float:
    try:
        return float(value.text) * 3600
    except (TypeError, ValueError):
        raise SettingsError(
            f"{name} is not a number of hours", "set it to a number such as 6"
        ) from None


def _explain(
    unread: Mapping[str, SettingsError],
    wrong: ValidationError | None,
    model: type[BaseModel],
    prefix: str,
    used: Mapping[str, str],
) -> tuple[str, str]:
    """Message and hint that name every wrong setting, so that one correction is enough."""
    if wrong is None and len(unread) == 1:
        [error] = unread.values()
        return str(error), error.hint
    lines = [str(error) for error in unread.values()]
    names = {key: env_name for key, env_name, _ in fields_of(model, prefix)}
    found = (
        []
        if wrong is None
        else wrong.errors(include_input=False, include_context=False, include_url=False)
    )
    for item in found:
        name = names.get(str(item["loc"][0]), str(item["loc"][0])) if item["loc"] else ""
        if name in unread:  # it is missing because it could not be read
            continue
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
