"""Where things are put together: settings, places, ledger, collectors, target."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

from collectors.base import Context
from collectors.clock import Calendar, Clock, find_zone, system_clock
from collectors.layers import PREFIX
from collectors.ledger.backup import backup_folder
from collectors.ledger.dimensions import TagPolicy
from collectors.ledger.files import WriterLock
from collectors.ledger.guard import GuardedLedger
from collectors.ledger.store import Ledger
from collectors.logs import Redaction
from collectors.places import config_dir, ledger_path
from collectors.pricing import PriceBook
from collectors.registry import Registry, make_registry
from collectors.settings import Layers, Settings, read_layers

if TYPE_CHECKING:
    from collectors.outputs.influx import InfluxTarget

LONGEST_SOCKET_PATH = 100  # the kernel's limit is 104 on macOS, 108 on Linux


@dataclass(frozen=True)
class Places:
    """Where everything of one installation lies."""

    ledger: Path
    config: Path

    @property
    def data(self) -> Path:
        """The ledger's folder: everything written lies in it."""
        return self.ledger.parent

    @property
    def backups(self) -> Path:
        """Daily copies of the ledger."""
        return backup_folder(self.ledger)

    @property
    def spool(self) -> Path:
        """Where quick commands drop their input for the next writer."""
        return self.data / "spool"

    @property
    def socket(self) -> Path:
        """The control socket; elsewhere, private, when the ledger's path is too long for one."""
        path = self.data / f"{self.ledger.stem}.sock"
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"tokendash-{os.getuid()}" / f"{digest}.sock"


class Program:
    """One composition of the whole program from an environment; parts are made when asked for."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        home: Path | None = None,
        clock: Clock = system_clock,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        named = overrides or {}
        # Nearer than the environment, however a setting is spelled there.
        kept = {key: x for key, x in environ.items() if key.removeprefix(PREFIX) not in named}
        self.environ: Mapping[str, str] = {**kept, **named}
        self.home = home or Path.home()
        self.clock = clock
        self.started = time.monotonic()
        self.redaction = Redaction()

    @cached_property
    def config_dir(self) -> Path:
        """The folder of `.env` and `tokendash.yaml`."""
        return config_dir(self.environ)

    @cached_property
    def layers(self) -> Layers:
        """Settings as written, with their origins."""
        return read_layers(self.environ, config_dir=self.config_dir)

    @cached_property
    def settings(self) -> Settings:
        """The program's own settings, validated."""
        return self.layers.load(Settings)

    @cached_property
    def places(self) -> Places:
        """Where the ledger and what belongs to it lie."""
        return Places(ledger_path(self.layers), self.config_dir)

    @cached_property
    def calendar(self) -> Calendar:
        """Days in the user's zone."""
        return Calendar(find_zone(self.settings.tz, self.environ))

    @cached_property
    def context(self) -> Context:
        """What collectors are given."""
        config_home = self.environ.get("XDG_CONFIG_HOME")
        return Context(
            home=self.home,
            config_home=Path(config_home) if config_home else None,
            spool=self.places.spool,
            now=self.clock,
            zone=self.calendar.zone,
        )

    @cached_property
    def registry(self) -> Registry:
        """The collectors that are switched on."""
        settings = self.settings
        return make_registry(
            self.layers,
            self.context,
            only=settings.sources,
            without=settings.sources_off,
            extra=settings.collectors_extra,
        )

    @cached_property
    def prices(self) -> PriceBook:
        """The price book, with the user's file in front."""
        return PriceBook(self.settings.prices_file)

    @cached_property
    def host(self) -> str:
        """The value of the tag `host`."""
        return self.settings.host_name or socket.gethostname()

    @cached_property
    def tag_policy(self) -> TagPolicy:
        """Which tags are written, and how."""
        settings = self.settings
        return TagPolicy(
            host=self.host,
            project=settings.project_tag,
            names=settings.influxdb_tags,
            budget=settings.influxdb_series_budget,
        )

    def open_ledger(self, lock: WriterLock | None = None, path: Path | None = None) -> Ledger:
        """The ledger as it is, for writing; the caller closes it.

        Raises:
            LedgerError: it is locked, unreadable or not a ledger.
        """
        return Ledger(
            path or self.places.ledger,
            calendar=self.calendar,
            prices=self.prices,
            policy=self.tag_policy,
            settle=self.settings.influxdb_settle,
            clock=self._wall,
            lock=lock,
        )

    def guarded_ledger(self) -> GuardedLedger:
        """The ledger, verified and if need be rebuilt, for a program that goes on running.

        Raises:
            LedgerError: it is locked, cannot be read or written, or is not a ledger.
        """
        return GuardedLedger(
            self.places.ledger, self.open_ledger, now=self.clock, backups=self.places.backups
        )

    def _wall(self) -> float:
        return self.clock().timestamp()

    def influx_target(self) -> InfluxTarget | None:
        """The InfluxDB that is set, if any.

        Raises:
            SettingsError: its address or token cannot be used.
        """
        settings = self.settings
        if not settings.influxdb_url:
            return None
        from collectors.outputs.influx import InfluxTarget

        return InfluxTarget(
            settings.influxdb_url,
            settings.influxdb_org,
            settings.influxdb_bucket,
            self._influx_token,
        )

    def _influx_token(self) -> str:
        found = self.layers.find("INFLUXDB_TOKEN", is_secret=True)
        token = str(found.text) if found else ""
        self.redaction.learn([token])
        return token

    def secrets(self) -> list[str]:
        """Every secret that is set, for redaction."""
        models: list[BaseModel] = [self.settings]
        with contextlib.suppress(Exception):
            models += [collector.options for collector in self.registry.collectors]
        return [secret for model in models for secret in _secrets_in(model) if secret]


def _secrets_in(value: Any) -> Iterator[str]:
    """Secrets inside an options object, however deep; also a password inside an address."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _secrets_in(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _secrets_in(item)
    elif isinstance(value, str) and "://" in value and "@" in value:
        with contextlib.suppress(ValueError):
            password = urlsplit(value).password or ""
            yield from {password, unquote(password)}


ProgramFactory = Callable[[], Program]
