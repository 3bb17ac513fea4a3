"""Where things are put together: settings, places, ledger, collectors, target."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from platformdirs import PlatformDirs
from pydantic import BaseModel, SecretStr

from collectors.base import Context
from collectors.clock import Calendar, Clock, find_zone, system_clock
from collectors.ledger.dimensions import TagPolicy
from collectors.ledger.store import Ledger
from collectors.pricing import PriceBook
from collectors.registry import Registry, make_registry
from collectors.settings import Layers, Settings, read_layers

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
        return self.data / f"{self.ledger.stem}-backups"

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
        self.environ = {**environ, **(overrides or {})}
        self.home = home or Path.home()
        self.clock = clock
        self.started = time.monotonic()

    @cached_property
    def _dirs(self) -> PlatformDirs:
        return PlatformDirs("tokendash", appauthor=False)

    @cached_property
    def config_dir(self) -> Path:
        """The folder of `.env` and `tokendash.yaml`."""
        named = self.environ.get("TOKENDASH_CONFIG_DIR")
        return Path(named).expanduser() if named else Path(self._dirs.user_config_dir)

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
        path = self.settings.db_path
        ledger = path.expanduser() if path else Path(self._dirs.user_data_dir) / "ledger.db"
        return Places(Path(os.path.abspath(ledger)), self.config_dir)

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

    def open_ledger(self) -> Ledger:
        """The ledger, for writing; the caller closes it.

        Raises:
            LedgerError: it is locked, unreadable, damaged or not a ledger.
        """
        return Ledger(
            self.places.ledger,
            calendar=self.calendar,
            prices=self.prices,
            policy=self.tag_policy,
            settle=self.settings.influxdb_settle,
            clock=self._wall,
        )

    def _wall(self) -> float:
        return self.clock().timestamp()

    def secrets(self) -> list[str]:
        """Every secret that is set, for redaction."""
        models: list[BaseModel] = [self.settings]
        with contextlib.suppress(Exception):
            models += [collector.options for collector in self.registry.collectors]
        return [
            value.get_secret_value()
            for model in models
            for value in (getattr(model, name) for name in type(model).model_fields)
            if isinstance(value, SecretStr) and value.get_secret_value()
        ]


ProgramFactory = Callable[[], Program]
