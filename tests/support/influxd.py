"""Real InfluxDB servers for tests: throw-away processes on loopback behind one small interface.

InfluxDB 1 (Debian's `influxdb`) is up in a tenth of a second and shares its query engine with 2.x.
A 2.x or 3 server joins when INFLUXD2 or INFLUXDB3 names its binary. One server serves a whole test
session, each test gets a database of its own: on 1.6 a dropped database may take what the next
test wrote with it, so nothing is ever dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Protocol, Self, TypedDict

import pytest

INSTALL: Final = "apt-get install -y influxdb"
START_SECONDS: Final = 30.0
# A week-long shard costs milliseconds each; data of a year would make fifty of them.
SHARD: Final = "26w"


class Series(TypedDict, total=False):
    """One series of an InfluxQL answer."""

    name: str
    tags: dict[str, str]
    columns: list[str]
    values: list[list[Any]]


class QueryError(Exception):
    """The server refused a query."""


class WriteError(Exception):
    """The server did not take all of what was written."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


class Engine(Protocol):
    """What tests need of an InfluxDB of any generation."""

    name: str
    url: str

    def new_database(self, retention: str = "") -> str:
        """Create an empty database or bucket; `retention` such as `7d` is its duration."""

    def write(self, database: str, lines: str | Iterable[str], precision: str = "s") -> None:
        """Write line protocol.

        Raises:
            WriteError: something was not stored.
        """

    def query(self, database: str, sql: str) -> list[Series]:
        """The series of the one statement's answer, times in milliseconds.

        Raises:
            QueryError: the server refused the query.
        """


class Database:
    """One database of an engine."""

    def __init__(self, engine: Engine, retention: str = "") -> None:
        self.engine = engine
        self.name = engine.new_database(retention)

    def write(self, lines: str | Iterable[str], precision: str = "s") -> None:
        """Write line protocol into this database."""
        self.engine.write(self.name, lines, precision)

    def query(self, sql: str) -> list[Series]:
        """Ask this database one InfluxQL statement."""
        return self.engine.query(self.name, sql)


class Server:
    """A server process with a folder of its own, killed and removed at the end."""

    name = "server"

    def __init__(self, binary: str) -> None:
        self.binary = binary
        self.url = f"http://127.0.0.1:{free_port()}"
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._count = itertools.count()

    def command(self) -> list[str]:
        """The command line; called when `folder` and `url` are set."""
        raise NotImplementedError

    def ready(self) -> None:
        """Called once the server answers."""

    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {}

    def next_name(self) -> str:
        """A database name that was never used on this server."""
        return f"db{next(self._count)}"

    @property
    def log(self) -> str:
        """What the server wrote to its standard error."""
        return (self.folder / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)},
            )
        try:
            self._wait()
            self.ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process and remove its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.binary} ended while starting: {self.log[-2000:]}")
            try:
                self.request("GET", "/ping")
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError(f"{self.binary} did not answer within {START_SECONDS:.0f} s")

    def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of one request; a status is never an exception."""
        url = f"{self.url}{path}"
        if params:
            url += f"?{urllib.parse.urlencode(params)}"
        request = urllib.request.Request(
            url, data=body, method=method, headers={**self.headers(), **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def query(self, database: str, sql: str) -> list[Series]:
        """The series of the one statement's answer, times in milliseconds."""
        params = {"db": database, "q": sql, "epoch": "ms"}
        status, body = self.request("POST", "/query", {}, urllib.parse.urlencode(params).encode())
        try:
            answer = json.loads(body)
        except ValueError:
            raise QueryError(f"{status} {body[:300]!r}: {sql}") from None
        results = answer.get("results") or [{}]
        problem = answer.get("error") or answer.get("message") or results[0].get("error")
        if problem:
            raise QueryError(f"{problem}: {sql}")
        series: list[Series] = results[0].get("series", [])
        return series


class Influxd(Server):
    """InfluxDB 1: the engine every checkout can have."""

    name = "influxd"

    def command(self) -> list[str]:
        """Write the configuration; return the command line."""
        configuration = self.folder / "influxdb.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=self.folder, http=self.url.removeprefix("http://"), rpc=free_port()
            )
        )
        return [self.binary, "run", "-config", str(configuration)]

    def new_database(self, retention: str = "") -> str:
        """Create an empty database."""
        name = self.next_name()
        kept = f"DURATION {retention}" if retention else f"DURATION INF SHARD DURATION {SHARD}"
        self.query("", f'CREATE DATABASE "{name}" WITH {kept}')
        return name

    def write(self, database: str, lines: str | Iterable[str], precision: str = "s") -> None:
        """Write line protocol by the v1 path."""
        params = {"db": database, "precision": precision}
        status, body = self.request("POST", "/write", params, joined(lines))
        if status != 204:
            raise WriteError(status, body.decode(errors="replace"))


class Influxd2(Server):
    """InfluxDB 2.x, onboarded by our own set-up code."""

    name = "influxd2"
    org = "tokendash"

    def __init__(self, binary: str) -> None:
        super().__init__(binary)
        self.token = ""
        self._org_id = ""

    def command(self) -> list[str]:
        """The command line of a server that keeps everything in its folder."""
        return [
            self.binary,
            "run",
            f"--http-bind-address={self.url.removeprefix('http://')}",
            f"--bolt-path={self.folder}/influxd.bolt",
            f"--sqlite-path={self.folder}/influxd.sqlite",
            f"--engine-path={self.folder}/engine",
            "--reporting-disabled",
        ]

    def ready(self) -> None:
        """Onboard the server; its operator token makes the buckets of the tests."""
        self.token = onboard(self.url, self.folder / "secrets", self.org)
        _, body = self.request("GET", "/api/v2/orgs", {"org": self.org})
        self._org_id = json.loads(body)["orgs"][0]["id"]

    def headers(self) -> dict[str, str]:
        """The token, once there is one."""
        return {"Authorization": f"Token {self.token}"} if self.token else {}

    def new_database(self, retention: str = "") -> str:
        """Create an empty bucket."""
        rules = [{"type": "expire", "everySeconds": seconds(retention)}] if retention else []
        bucket = {"orgID": self._org_id, "name": self.next_name(), "retentionRules": rules}
        status, body = self.request(
            "POST",
            "/api/v2/buckets",
            body=json.dumps(bucket).encode(),
            headers={"Content-Type": "application/json"},
        )
        if status != 201:
            raise WriteError(status, body.decode(errors="replace"))
        return str(bucket["name"])

    def write(self, database: str, lines: str | Iterable[str], precision: str = "s") -> None:
        """Write line protocol by the v2 path."""
        params = {"org": self.org, "bucket": database, "precision": precision}
        status, body = self.request("POST", "/api/v2/write", params, joined(lines))
        if status != 204:
            raise WriteError(status, body.decode(errors="replace"))


class Influxdb3(Server):
    """InfluxDB 3 Core, in memory and without tokens."""

    name = "influxdb3"

    def command(self) -> list[str]:
        """The command line of a server that keeps nothing."""
        return [
            self.binary,
            "serve",
            "--node-id=test",
            "--object-store=memory",
            f"--http-bind={self.url.removeprefix('http://')}",
            "--without-auth",
            "--disable-telemetry-upload",
        ]

    def new_database(self, retention: str = "") -> str:
        """Create an empty database."""
        database = {"db": self.next_name()}
        if retention:
            database["retention_period"] = retention
        status, body = self.request(
            "POST",
            "/api/v3/configure/database",
            body=json.dumps(database).encode(),
            headers={"Content-Type": "application/json"},
        )
        if status >= 300:
            raise WriteError(status, body.decode(errors="replace"))
        return database["db"]

    def write(self, database: str, lines: str | Iterable[str], precision: str = "s") -> None:
        """Write line protocol by the v2 path, which 3 has as well."""
        params = {"bucket": database, "precision": precision}
        status, body = self.request("POST", "/api/v2/write", params, joined(lines))
        if status not in (200, 204):
            raise WriteError(status, body.decode(errors="replace"))


_CONFIGURATION: Final = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  query-log-enabled = false
[monitor]
  store-enabled = false
[subscriber]
  enabled = false
[continuous_queries]
  enabled = false
[http]
  bind-address = "{http}"
  log-enabled = false
[logging]
  level = "error"
"""


def find_influxd() -> Influxd:
    """The InfluxDB 1 of this machine, not yet started; skips the test when there is none."""
    binary = shutil.which("influxd")
    if binary is None:
        missing("influxd", INSTALL)
    return Influxd(binary)


def find_influxd2() -> Influxd2:
    """The InfluxDB 2 that INFLUXD2 names, not yet started; skips the test when there is none."""
    return Influxd2(named_binary("INFLUXD2", "an InfluxDB 2 `influxd`"))


def find_influxdb3() -> Influxdb3:
    """The InfluxDB 3 that INFLUXDB3 names, not yet started; skips the test when there is none."""
    return Influxdb3(named_binary("INFLUXDB3", "an InfluxDB 3 `influxdb3`"))


def named_binary(variable: str, what: str) -> str:
    """The binary a variable names; skips when it is not set, fails when it names nothing."""
    given = os.environ.get(variable, "")
    if not given:
        pytest.skip(f"{variable} is not set: export {variable}=PATH of {what} to run these")
    binary = shutil.which(given)
    if binary is None:
        pytest.fail(f"{variable}={given} is not a program that can be run", pytrace=False)
    return binary


def missing(name: str, install: str) -> NoReturn:
    """Skip by name with the line that installs it; under CI a missing engine is a failure."""
    message = f"{name} not found: {install}"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def onboard(url: str, secrets: Path, org: str) -> str:
    """Onboard an InfluxDB 2 the way the compose stack does; returns the operator token."""
    from influxdb.onboarding import ensure_onboarded  # only where a 2.x binary was given

    return asyncio.run(ensure_onboarded(url, secrets, org=org, bucket="tokens")).operator


def joined(lines: str | Iterable[str]) -> bytes:
    """Line protocol as one request body."""
    return (lines if isinstance(lines, str) else "\n".join(lines)).encode()


def seconds(duration: str) -> int:
    """Seconds of an InfluxQL duration such as `7d`."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[duration[-1]]


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
