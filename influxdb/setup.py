"""The stack's one-shot set-up: secrets, InfluxDB, Grafana's files; safe to kill and to repeat.

`docker compose up -d` runs it before Grafana and the collector: `python -m influxdb.setup`.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from collectors.errors import SettingsError, TokendashError
from collectors.settings import Settings, read_secret
from influxdb import grafana_config
from influxdb.onboarding import Tokens, ensure_onboarded
from influxdb.secret_files import READABLE, Vault, keep_or_create, read, refuse_sample

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def _default(name: str) -> str:
    # The collector reads the same settings; the default is written down once, there.
    return str(Settings.model_fields[name].default)


@dataclass(frozen=True)
class SetupSettings:
    """What the set-up is told by its environment; an empty variable counts as unset."""

    url: str
    org: str
    bucket: str
    retention: int | None
    admin_token: str = field(repr=False)
    grafana_password: str = field(repr=False)
    grafana_port: str
    secrets: Path
    config: Path
    source: Path
    patience: float

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> SetupSettings:
        """Read and check all settings.

        Raises:
            SettingsError: one is wrong; names it, never a secret's value.
        """
        admin_token = _secret(environ, "INFLUXDB_ADMIN_TOKEN")
        password = _secret(environ, "GRAFANA_PASSWORD")
        refuse_sample("INFLUXDB_ADMIN_TOKEN", admin_token)
        refuse_sample("GRAFANA_PASSWORD", password)
        bucket = environ.get("INFLUXDB_BUCKET") or _default("influxdb_bucket")
        if bucket.startswith("_") or '"' in bucket:
            raise SettingsError(
                f"INFLUXDB_BUCKET is {bucket!r}: InfluxDB keeps names with `_` in front for itself"
                ' and knows none with `"`',
                "choose another name",
            )
        url = environ.get("INFLUXDB_URL") or "http://influxdb:8086"
        if not re.match(r"https?://[^/@\s]+(/[^@\s]*)?$", url):
            raise SettingsError(
                "INFLUXDB_URL is not an http(s) address without a password in it",
                "set it to one such as http://influxdb:8086",
            )
        return cls(
            url=url,
            org=environ.get("INFLUXDB_ORG") or _default("influxdb_org"),
            bucket=bucket,
            retention=_retention(environ.get("INFLUXDB_RETENTION", "")),
            admin_token=admin_token,
            grafana_password=password,
            grafana_port=environ.get("GRAFANA_PORT") or "3456",
            secrets=Path(environ.get("SETUP_SECRETS") or "/secrets"),
            config=Path(environ.get("SETUP_CONFIG") or "/config"),
            source=Path(
                environ.get("SETUP_GRAFANA") or Path(__file__).resolve().parent.parent / "grafana"
            ),
            patience=_patience(environ.get("SETUP_PATIENCE") or "120"),
        )


def _secret(environ: Mapping[str, str], name: str) -> str:
    if value := environ.get(name, ""):
        return value
    path = environ.get(name + "_FILE", "")
    return read_secret(name, Path(path)) if path else ""


def _patience(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise SettingsError("SETUP_PATIENCE is not a number of seconds up to 3600", "leave it out")
    return seconds


def _retention(text: str) -> int | None:
    if not text:
        return None
    if text == "0":
        return 0
    parts = re.findall(r"(\d+)([smhdw])", text)
    seconds = sum(int(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds < 3600:
        raise SettingsError(
            f"INFLUXDB_RETENTION is {text!r}",
            "set it to 0 (keep everything) or at least an hour, such as 52w, 365d or 48h",
        )
    return seconds


async def run(settings: SetupSettings, say: Callable[[str], None]) -> None:
    """Bring secrets, InfluxDB and Grafana's files into agreement.

    Raises:
        TokendashError: what is wrong and how to mend it; what was done stays done.
    """
    vault = Vault(settings.secrets)
    with vault.locked():
        vault.prepare()
        is_first = not read(vault.read_token)
        password = keep_or_create(
            vault.admin_password, READABLE, length=32, given=settings.grafana_password
        )
        keep_or_create(vault.secret_key, READABLE)
        tokens = await ensure_onboarded(
            settings.url,
            settings.secrets,
            org=settings.org,
            bucket=settings.bucket,
            retention=settings.retention,
            admin_token=settings.admin_token,
            patience=settings.patience,
        )
        files = grafana_config.render(settings.source, url=settings.url, database=settings.bucket)
        changed = grafana_config.install(files, settings.config)
    is_other_password = bool(settings.grafana_password) and settings.grafana_password != password
    for line in _report(settings, tokens, changed, is_first, is_other_password):
        say(line)


def _report(
    settings: SetupSettings,
    tokens: Tokens,
    changed: list[PurePosixPath],
    is_first: bool,
    is_other_password: bool,
) -> list[str]:
    lines = [f"InfluxDB: organisation {settings.org}, bucket {settings.bucket}, ready"]
    if tokens.renewed and not is_first:
        lines.append(f"new InfluxDB token to {' and to '.join(sorted(tokens.renewed))}")
    needs_restart = [name for name in changed if name.parts[0] != "dashboards"]
    if not is_first and ("read" in tokens.renewed or needs_restart):
        lines.append("Grafana reads its files at start only: `docker compose restart grafana`")
    if is_other_password:
        lines.append(
            "GRAFANA_PASSWORD is not used: Grafana takes a password at its first start only. To"
            " change it: `docker compose exec grafana grafana cli admin reset-admin-password"
            " --password-from-stdin`"
        )
    lines.append(f"Grafana: http://localhost:{settings.grafana_port}, user admin; its password:")
    lines.append("  docker compose exec grafana cat /run/tokendash/admin_password")
    return lines


def main(environ: Mapping[str, str]) -> int:
    """Run once; return the exit code (0 done, 2 configuration, 4 InfluxDB unreachable)."""
    try:
        asyncio.run(run(SetupSettings.from_environment(environ), print))
    except TokendashError as error:
        print(f"setup: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"setup: {error.filename or 'a volume'}: {error.strerror}", file=sys.stderr)
        print(
            "  make room or repair the volume, then `docker compose up -d` again", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
