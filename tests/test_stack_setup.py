"""The stack's set-up: against an InfluxDB 2, killed at every step, and in every bad situation."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from collectors.errors import TargetError
from influxdb.onboarding import DESCRIPTIONS, Tokens, ensure_onboarded
from tests.support.influx2_fake import FakeInflux2, Moment, serve

REPOSITORY = Path(__file__).resolve().parent.parent
HALF_A_YEAR = 26 * 7 * 24 * 3600
SECRETS = {
    "admin/operator_token": 0o600,
    "admin/influxdb_password": 0o600,
    "grafana/admin_password": 0o444,
    "grafana/secret_key": 0o444,
    "grafana/influx_read_token": 0o444,
    "exporter/influx_write_token": 0o444,
}
MADE_ONCE = [name for name in SECRETS if "influx_" not in name]
GRAFANA_FILES = {
    "grafana.ini": "app_mode = production\n[security]\nadmin_user = admin\n",
    "provisioning/datasources/tokendash.yaml": (
        "apiVersion: 1\n"
        "datasources:\n"
        "  - {name: tokendash, uid: tokendash, type: influxdb, url: 'http://elsewhere:1',\n"
        "     jsonData: {dbName: other, timeInterval: 5m}}\n"
    ),
    "dashboards/overview.json": '{"uid": "td-overview", "title": "Overview", "panels": []}',
}


@dataclass(frozen=True)
class Ending:
    """How one run of the set-up ended."""

    code: int
    changes: int
    output: str


@dataclass
class Home:
    """The volumes of one stack, and the image's Grafana files."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, text in GRAFANA_FILES.items():
            path = self.root / "image" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def secret(self, name: str) -> str:
        path = self.root / "secrets" / name
        return path.read_text() if path.exists() else ""

    def secrets(self) -> dict[str, str]:
        return {name: self.secret(name) for name in SECRETS if self.secret(name)}

    def config(self, name: str) -> str:
        return (self.root / "config" / name).read_text()


class Zygote:
    """Starts set-up processes; see tests/support/setup_zygote.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.setup_zygote"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid: asyncio.Future[int] | None = None

    async def run(self, home: Home, url: str, **task: Any) -> Ending:
        """Run the set-up once in a process of its own."""
        log = home.root / "log"
        log.unlink(missing_ok=True)
        environ = {
            "INFLUXDB_URL": url,
            "SETUP_SECRETS": str(home.root / "secrets"),
            "SETUP_CONFIG": str(home.root / "config"),
            "SETUP_GRAFANA": str(home.root / "image"),
            "SETUP_PATIENCE": "5",
            **home.environ,
        }
        assert self.process.stdin
        self.pid = asyncio.get_running_loop().create_future()
        line = json.dumps(task | {"environ": environ, "log": str(log)}) + "\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()
        self.pid.set_result((await self._answer())["pid"])
        ended = await self._answer()
        return Ending(ended["code"], ended["changes"], log.read_text())

    async def _answer(self) -> dict[str, int]:
        assert self.process.stdout
        answer: dict[str, int] = json.loads(await asyncio.to_thread(self.process.stdout.readline))
        return answer

    async def kill(self) -> None:
        """Kill the process that is running now."""
        assert self.pid
        os.kill(await self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the zygote; its last child has ended before."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """A process that forks set-ups."""
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A stack that was never started."""
    return Home(tmp_path / "stack")


def problems(home: Home, fake: FakeInflux2, ending: Ending) -> list[str]:
    """What a finished set-up must have left behind and has not."""
    found = [] if ending.code == 0 else [f"exit code {ending.code}: {ending.output}"]
    secrets = home.secrets()
    found += [f"{name} is missing" for name in SECRETS if name not in secrets]
    for name, mode in SECRETS.items():
        path = home.root / "secrets" / name
        if path.exists() and stat.S_IMODE(path.stat().st_mode) != mode:
            found.append(f"{name} has mode {stat.S_IMODE(path.stat().st_mode):o}")
    for name, value in secrets.items():
        if value in ending.output:
            found.append(f"{name} was printed")
    buckets = [item for item in fake.buckets.values() if item.name == "tokens"]
    if len(buckets) != 1 or (buckets[0].retention, buckets[0].shard) != (0, HALF_A_YEAR):
        return [*found, f"buckets are {buckets}"]
    operator = fake.holder(secrets.get("admin/operator_token", ""))
    if operator is None or not operator.allows("write", "authorizations", buckets[0].org_id):
        found.append("the stored operator token is not one")
    for scope, name in (
        ("write", "exporter/influx_write_token"),
        ("read", "grafana/influx_read_token"),
    ):
        resource = {"type": "buckets", "id": buckets[0].id, "orgID": buckets[0].org_id}
        holder = fake.holder(secrets.get(name, ""))
        if holder is None or holder.permissions != [{"action": scope, "resource": resource}]:
            found.append(f"the stored {scope} token is not one")
    if len(fake.authorizations) != 3:
        found.append(f"{len(fake.authorizations)} authorizations instead of 3")
    found += [f"{path} is left over" for path in home.root.rglob("*.new")]
    present = {
        str(path.relative_to(home.root / "config"))
        for path in (home.root / "config").rglob("*")
        if path.is_file()
    }
    if present != set(GRAFANA_FILES):
        found.append(f"Grafana's files are {sorted(present)}")
    return found


def broken(home: Home) -> list[str]:
    """Secrets that are neither absent nor whole."""
    lengths = {"grafana/admin_password": 32, "grafana/influx_read_token": 88}
    lengths["exporter/influx_write_token"] = 88
    return [
        f"{name} is broken"
        for name in SECRETS
        if (home.root / "secrets" / name).exists()
        and len(home.secret(name)) != lengths.get(name, 48)
    ]


async def kill_and_run_again(
    zygote: Zygote, home: Home, mutant: str, *, change: int = 0, request: int = 0, moment: str = ""
) -> list[str]:
    """Kill one run at a change of the file system or a request; what the next run leaves wrong."""
    fake = FakeInflux2()

    async def intercept(when: Moment, _: web.Request) -> web.StreamResponse | None:
        if when == moment and len(fake.requests) == request:
            await zygote.kill()
            return web.Response(status=500, text="nobody is left to read this")
        return None

    fake.intercept = intercept if request else None
    async with serve(fake) as url:
        killed = await zygote.run(home, url, kill_at=change, mutant=mutant)
        if killed.code != -signal.SIGKILL:
            return [f"it was not killed: {killed}"]
        found = broken(home)
        before = home.secrets()
        fake.intercept = None
        ending = await zygote.run(home, url, mutant=mutant)
    found += problems(home, fake, ending)
    found += [
        f"{name} was made anew"
        for name in MADE_ONCE
        if name in before and home.secret(name) != before[name]
    ]
    return found


async def sweep(zygote: Zygote, tmp_path: Path, mutant: str = "") -> tuple[int, list[str]]:
    """Kill the set-up before each change of the file system, and before and after each request."""
    fake = FakeInflux2()
    async with serve(fake) as url:
        clean = await zygote.run(Home(tmp_path / "clean"), url)
    points: list[dict[str, Any]] = [{"change": number} for number in range(1, clean.changes + 1)]
    points += [
        {"request": number, "moment": moment}
        for number in range(1, len(fake.requests) + 1)
        for moment in ("before", "after")
    ]
    found = []
    for number, point in enumerate(points):
        place = Home(tmp_path / str(number))
        wrong = await kill_and_run_again(zygote, place, mutant, **point)
        found += [f"{point}: {item}" for item in wrong]
        shutil.rmtree(place.root)
        if mutant and found:
            break
    return len(points), found


async def test_killed_at_any_step_the_next_run_completes_what_is_missing(
    zygote: Zygote, tmp_path: Path
) -> None:
    points, found = await sweep(zygote, tmp_path)

    print(json.dumps({"fault": "J1-kill", "n": points, "wrong": len(found)}))
    assert found == []
    assert points >= 60


@pytest.mark.parametrize(
    "mutant",
    [
        "written_in_place",
        "stored_after_onboarding",
        "orphans_stay",
        "secrets_made_anew",
        "unfinished_file_reused",
    ],
)
async def test_a_setup_that_cannot_be_killed_safely_is_noticed(
    zygote: Zygote, tmp_path: Path, mutant: str
) -> None:
    _, found = await sweep(zygote, tmp_path, mutant)

    print(json.dumps({"fault": "J1-kill", "mutant": mutant, "caught": found[:1]}))
    assert found != []


async def test_running_again_changes_nothing(zygote: Zygote, home: Home) -> None:
    fake = FakeInflux2()
    async with serve(fake) as url:
        await zygote.run(home, url)
        before = home.secrets()
        first_requests = len(fake.requests)

        again = await zygote.run(home, url)

    assert problems(home, fake, again) == []
    assert home.secrets() == before
    assert "restart grafana" not in again.output
    changing = [item for item in fake.requests[first_requests:] if item[0] != "GET"]
    assert changing == [("POST", "/api/v2/write")]


async def test_the_grafana_password_is_named_by_its_place_and_never_printed(
    zygote: Zygote, home: Home
) -> None:
    async with serve(FakeInflux2()) as url:
        ending = await zygote.run(home, url)

    assert "docker compose exec grafana cat /run/tokendash/admin_password" in ending.output
    assert "http://localhost:3456, user admin" in ending.output
    assert [name for name, value in home.secrets().items() if value in ending.output] == []


async def test_two_stacks_share_no_secret(zygote: Zygote, tmp_path: Path) -> None:
    homes = [Home(tmp_path / "one"), Home(tmp_path / "two")]
    for home in homes:
        async with serve(FakeInflux2()) as url:
            await zygote.run(home, url)

    values = [value for home in homes for value in home.secrets().values()]
    assert len(set(values)) == 2 * len(SECRETS)


async def test_readers_can_read_their_files_whatever_the_umask(zygote: Zygote, home: Home) -> None:
    async with serve(FakeInflux2()) as url:
        await zygote.run(home, url, umask=0o077)

    secrets = home.root / "secrets"
    modes = {name: stat.S_IMODE((secrets / name).stat().st_mode) for name in
             ("admin", "grafana", "exporter")}  # fmt: skip
    assert modes == {"admin": 0o700, "grafana": 0o755, "exporter": 0o755}
    for path in (home.root / "config").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o444), path


async def test_the_operators_secrets_stay_private_without_a_umask(
    zygote: Zygote, home: Home
) -> None:
    async with serve(FakeInflux2()) as url:
        await zygote.run(home, url, umask=0)

    for path in (home.root / "secrets/admin").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


async def test_grafana_is_pointed_at_the_stacks_database(zygote: Zygote, home: Home) -> None:
    home.environ["INFLUXDB_BUCKET"] = "my $tokens"
    async with serve(FakeInflux2()) as url:
        ending = await zygote.run(home, url)

    [source] = yaml.safe_load(home.config("provisioning/datasources/tokendash.yaml"))["datasources"]
    assert ending.code == 0
    assert source["url"] == url
    assert source["jsonData"] == {"dbName": "my $$tokens", "timeInterval": "5m"}
    assert home.config("grafana.ini") == GRAFANA_FILES["grafana.ini"]


async def test_a_file_that_left_the_image_leaves_grafana(zygote: Zygote, home: Home) -> None:
    async with serve(FakeInflux2()) as url:
        (home.root / "image/dashboards/old.json").write_text('{"uid": "old", "title": "Old"}')
        await zygote.run(home, url)
        (home.root / "image/dashboards/old.json").unlink()

        await zygote.run(home, url)

    assert not (home.root / "config/dashboards/old.json").exists()
    assert (home.root / "config/dashboards/overview.json").exists()


async def test_changed_provisioning_asks_for_a_restart_of_grafana(
    zygote: Zygote, home: Home
) -> None:
    async with serve(FakeInflux2()) as url:
        first = await zygote.run(home, url)
        (home.root / "image/grafana.ini").write_text("app_mode = development\n")

        second = await zygote.run(home, url)

    assert "restart grafana" not in first.output
    assert "docker compose restart grafana" in second.output


BROKEN_FILES = {
    "provisioning/alerting/rules.yaml": (
        "apiVersion: 1\ngroups: [{name: a, folder: b, interval: 15s, rules: []}]\n",
        "multiple of 10s",
    ),
    "provisioning/alerting/points.yaml": (
        "apiVersion: 1\ncontactPoints: [{name: a, receivers: [{uid: a, type: slack}]}]\n",
        "settings needed",
    ),
    "provisioning/datasources/more.yaml": ("apiVersion: 1\n  datasources: [", "mapping values"),
    "provisioning/dashboards/provider.yaml": ("providers: []\n", "apiVersion: 1"),
    "dashboards/broken.json": ('{"uid": "a", ', "Expecting"),
    "dashboards/nameless.json": ('{"uid": "a"}', "title"),
    "grafana.ini": ("[security\n", "grafana.ini"),
}


@pytest.mark.parametrize("name", sorted(BROKEN_FILES))
async def test_a_file_grafana_would_refuse_stops_the_setup_and_leaves_the_old_ones(
    zygote: Zygote, home: Home, name: str
) -> None:
    text, reason = BROKEN_FILES[name]
    async with serve(FakeInflux2()) as url:
        await zygote.run(home, url)
        before = {path: path.read_bytes() for path in home.root.glob("config/**/*.*")}
        (home.root / "image" / name).parent.mkdir(exist_ok=True)
        (home.root / "image" / name).write_text(text)

        ending = await zygote.run(home, url)
        after = {path: path.read_bytes() for path in home.root.glob("config/**/*.*")}
        mutant = await zygote.run(home, url, mutant="files_not_checked")

    assert ending.code == 2
    assert f"grafana/{name} would stop Grafana" in ending.output
    assert reason in ending.output
    assert after == before
    assert mutant.code == 0


async def test_without_influxdb_the_setup_ends_after_its_own_limit(
    zygote: Zygote, home: Home
) -> None:
    home.environ["SETUP_PATIENCE"] = "0.4"
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]

    ending = await zygote.run(home, f"http://127.0.0.1:{port}")

    assert ending.code == 4
    assert "waited 0.4 s for InfluxDB to become healthy" in ending.output
    assert f"http://127.0.0.1:{port}" in ending.output
    assert "docker compose logs influxdb" in ending.output


async def test_an_influxdb_that_is_still_starting_is_waited_for(zygote: Zygote, home: Home) -> None:
    fake = FakeInflux2()
    fake.is_healthy = False

    async def recover(moment: Moment, _: web.Request) -> web.StreamResponse | None:
        fake.is_healthy = len(fake.requests) > 2
        return None

    fake.intercept = recover
    async with serve(fake) as url:
        ending = await zygote.run(home, url)

    assert problems(home, fake, ending) == []
    assert [path for _, path in fake.requests[:3]] == ["/health"] * 3


async def test_removed_secrets_with_kept_data_name_the_cure(zygote: Zygote, home: Home) -> None:
    fake = FakeInflux2()
    async with serve(fake) as url:
        await zygote.run(home, url)
        shutil.rmtree(home.root / "secrets")

        ending = await zygote.run(home, url)

    assert ending.code == 2
    assert "does not know the operator token" in ending.output
    assert "influxd influxdb recovery auth create-operator" in ending.output
    assert "--org tokendash --username tokendash" in ending.output
    assert "INFLUXDB_ADMIN_TOKEN=" in ending.output


async def test_a_recovered_operator_token_brings_the_stack_back(zygote: Zygote, home: Home) -> None:
    fake = FakeInflux2()
    recovered = "recovered-operator-token-of-the-database"
    async with serve(fake) as url:
        await zygote.run(home, url)
        [old] = fake.described("tokendash's Token")
        bucket = next(item for item in fake.buckets.values() if item.name == "tokens")
        shutil.rmtree(home.root / "secrets")
        await zygote.run(home, url)
        del fake.authorizations[old.id]
        fake._add_authorization(bucket.org_id, "Recovery", old.permissions, recovered)
        home.environ["INFLUXDB_ADMIN_TOKEN"] = recovered

        ending = await zygote.run(home, url)
        del home.environ["INFLUXDB_ADMIN_TOKEN"]
        without = await zygote.run(home, url)

    assert problems(home, fake, ending) == []
    assert problems(home, fake, without) == []
    assert home.secret("admin/operator_token") == recovered


async def test_a_wrong_recovery_token_is_named_and_not_shown(zygote: Zygote, home: Home) -> None:
    fake = FakeInflux2()
    fake.onboard("somebody", "tokendash", "tokens", "the-token-of-somebody-else")
    home.environ["INFLUXDB_ADMIN_TOKEN"] = "a-wrong-token-given-by-hand"
    async with serve(fake) as url:
        ending = await zygote.run(home, url)

    assert ending.code == 2
    assert "nor the one in INFLUXDB_ADMIN_TOKEN" in ending.output
    assert "given-by-hand" not in ending.output
    assert home.secret("admin/operator_token") != "a-wrong-token-given-by-hand"


async def test_removed_data_with_kept_secrets_is_set_up_again(zygote: Zygote, home: Home) -> None:
    async with serve(FakeInflux2()) as url:
        await zygote.run(home, url)
    before = home.secrets()
    empty = FakeInflux2()

    async with serve(empty) as url:
        ending = await zygote.run(home, url)

    assert problems(home, empty, ending) == []
    changed = {name for name in before if home.secret(name) != before[name]}
    assert changed == {"grafana/influx_read_token", "exporter/influx_write_token"}
    assert "new InfluxDB token to read and to write" in ending.output
    assert "docker compose restart grafana" in ending.output


async def test_somebody_who_was_faster_is_noticed(zygote: Zygote, home: Home) -> None:
    fake = FakeInflux2()

    async def be_faster(moment: Moment, request: web.Request) -> web.StreamResponse | None:
        if moment == "before" and (request.method, request.path) == ("POST", "/api/v2/setup"):
            fake.onboard("stranger", "tokendash", "tokens", "token-of-the-stranger")
        return None

    fake.intercept = be_faster
    async with serve(fake) as url:
        ending = await zygote.run(home, url)

    assert ending.code == 2
    assert "does not know the operator token" in ending.output
    assert "docker volume rm tokendash_influxdb-data" in ending.output


@pytest.mark.parametrize("path", ["/api/v2/setup", "/api/v2/authorizations", "/api/v2/buckets"])
async def test_an_answer_that_got_lost_is_not_taken_for_a_refusal(
    zygote: Zygote, home: Home, path: str
) -> None:
    async def run(place: Home, mutant: str) -> list[str]:
        fake = FakeInflux2()
        lost: list[str] = []

        async def lose(moment: Moment, request: web.Request) -> web.StreamResponse | None:
            is_theirs = request.method != "GET" and request.path.startswith(path)
            if moment == "after" and is_theirs and not lost:
                lost.append(request.path)
                assert request.transport
                request.transport.abort()
            return None

        fake.intercept = lose
        async with serve(fake) as url:
            ending = await zygote.run(place, url, mutant=mutant)
        assert len(lost) == 1
        return problems(place, fake, ending)

    found = await run(home, "")

    assert found == []
    if path == "/api/v2/authorizations":
        assert await run(Home(home.root / "mutant"), "orphans_stay") != []


async def test_tokens_follow_the_bucket(zygote: Zygote, home: Home) -> None:
    async def run(place: Home, mutant: str) -> list[str]:
        fake = FakeInflux2()
        async with serve(fake) as url:
            await zygote.run(place, url)
            [old] = [item for item in fake.buckets.values() if item.name == "tokens"]
            del fake.buckets[old.id]
            return problems(place, fake, await zygote.run(place, url, mutant=mutant))

    found = await run(home, "")

    assert found == []
    assert await run(Home(home.root / "mutant"), "scope_not_checked") != []


async def test_a_stored_token_that_is_dead_is_replaced(zygote: Zygote, home: Home) -> None:
    async def run(place: Home, mutant: str) -> list[str]:
        fake = FakeInflux2()
        async with serve(fake) as url:
            await zygote.run(place, url)
            path = place.root / "secrets/exporter/influx_write_token"
            path.unlink()
            path.write_text("restored from the wrong backup")
            path.chmod(0o444)
            return problems(place, fake, await zygote.run(place, url, mutant=mutant))

    found = await run(home, "")

    assert found == []
    assert await run(Home(home.root / "mutant"), "token_not_tried") != []


async def test_an_unknown_organisation_names_the_known_ones(zygote: Zygote, home: Home) -> None:
    fake = FakeInflux2()
    async with serve(fake) as url:
        await zygote.run(home, url)
        home.environ["INFLUXDB_ORG"] = "other"

        ending = await zygote.run(home, url)

    assert ending.code == 2
    assert "has no organisation other; it has: tokendash" in ending.output
    assert "set INFLUXDB_ORG" in ending.output


async def test_another_kind_of_server_is_named(zygote: Zygote, home: Home) -> None:
    fake = FakeInflux2()

    async def be_influxdb_1(moment: Moment, request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=404) if request.path.startswith("/api/v2/setup") else None

    fake.intercept = be_influxdb_1
    async with serve(fake) as url:
        ending = await zygote.run(home, url)

    assert ending.code == 2
    assert "is not an InfluxDB 2" in ending.output


async def test_the_operator_token_follows_no_redirect(zygote: Zygote, home: Home) -> None:
    other = FakeInflux2()
    fake = FakeInflux2()

    async with serve(other) as elsewhere, serve(fake) as url:

        async def redirect(moment: Moment, request: web.Request) -> web.StreamResponse | None:
            if request.path == "/api/v2/orgs":
                raise web.HTTPTemporaryRedirect(elsewhere + request.path)
            return None

        fake.intercept = redirect
        ending = await zygote.run(home, url)

    assert ending.code == 2
    assert other.requests == []


@pytest.mark.parametrize("name", ["GRAFANA_PASSWORD", "INFLUXDB_ADMIN_TOKEN"])
@pytest.mark.parametrize(
    "value", ["admin", "Password", "changeme", "my-super-secret-auth-token", "sh0rt", "with$dollar"]
)
async def test_sample_and_unusable_secrets_are_refused(
    zygote: Zygote, home: Home, name: str, value: str
) -> None:
    home.environ[name] = value
    fake = FakeInflux2()
    async with serve(fake) as url:
        ending = await zygote.run(home, url)

    assert ending.code == 2
    assert f"setup: {name} " in ending.output
    assert value not in ending.output
    assert fake.requests == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("INFLUXDB_RETENTION", "a while", "INFLUXDB_RETENTION is 'a while'"),
        ("INFLUXDB_RETENTION", "59m", "at least an hour"),
        ("INFLUXDB_RETENTION", "52w!", "INFLUXDB_RETENTION is '52w!'"),
        ("INFLUXDB_BUCKET", "_tasks", "INFLUXDB_BUCKET is '_tasks'"),
        ("INFLUXDB_URL", "ftp://influxdb", "INFLUXDB_URL is not an http(s) address"),
        ("INFLUXDB_URL", "http://user:pass@influxdb:8086", "without a password"),
        ("SETUP_PATIENCE", "soon", "SETUP_PATIENCE is not a number"),
        ("GRAFANA_PASSWORD_FILE", "/nowhere", "GRAFANA_PASSWORD_FILE names /nowhere"),
    ],
)
async def test_a_wrong_setting_is_named(
    zygote: Zygote, home: Home, name: str, value: str, says: str
) -> None:
    home.environ[name] = value

    ending = await zygote.run(home, "http://127.0.0.1:9")

    assert ending.code == 2
    assert says in ending.output


async def test_a_given_grafana_password_counts_at_the_first_start_only(
    zygote: Zygote, home: Home
) -> None:
    async with serve(FakeInflux2()) as url:
        home.environ["GRAFANA_PASSWORD"] = "first long password"
        first = await zygote.run(home, url)
        home.environ["GRAFANA_PASSWORD"] = "second long password"
        second = await zygote.run(home, url)

    assert home.secret("grafana/admin_password") == "first long password"
    assert "is not used" not in first.output
    assert "GRAFANA_PASSWORD is not used" in second.output
    assert "reset-admin-password" in second.output


@pytest.mark.parametrize(
    ("text", "retention", "shard"),
    [
        ("", 0, HALF_A_YEAR),
        ("0", 0, HALF_A_YEAR),
        ("104w", 104 * 604_800, HALF_A_YEAR),
        ("30d", 30 * 86_400, 30 * 86_400),
        ("1w2d", 9 * 86_400, 9 * 86_400),
    ],
)
async def test_shards_are_half_a_year_or_as_long_as_what_is_kept(
    zygote: Zygote, home: Home, text: str, retention: int, shard: int
) -> None:
    home.environ["INFLUXDB_RETENTION"] = text
    fake = FakeInflux2()
    async with serve(fake) as url:
        await zygote.run(home, url)

    [bucket] = [item for item in fake.buckets.values() if item.name == "tokens"]
    assert (bucket.retention, bucket.shard) == (retention, shard)


async def test_a_retention_set_by_hand_stays_without_the_setting(
    zygote: Zygote, home: Home
) -> None:
    fake = FakeInflux2()
    async with serve(fake) as url:
        await zygote.run(home, url)
        [bucket] = [item for item in fake.buckets.values() if item.name == "tokens"]
        bucket.retention, bucket.shard = 90 * 86_400, 7 * 86_400

        await zygote.run(home, url)

    assert (bucket.retention, bucket.shard) == (90 * 86_400, 90 * 86_400)


async def test_two_setups_at_once_end_like_one(tmp_path: Path, home: Home) -> None:
    fake = FakeInflux2()
    environ = {
        **os.environ,
        "SETUP_SECRETS": str(home.root / "secrets"),
        "SETUP_CONFIG": str(home.root / "config"),
        "SETUP_GRAFANA": str(home.root / "image"),
    }
    async with serve(fake) as url:
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "influxdb.setup",
                cwd=REPOSITORY,
                env=environ | {"INFLUXDB_URL": url},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for _ in range(2)
        ]
        outputs = [await process.communicate() for process in processes]

    for process, (output, _) in zip(processes, outputs, strict=True):
        ending = Ending(process.returncode or 0, 0, output.decode())
        assert problems(home, fake, ending) == []


async def test_what_the_image_copies_is_enough_to_run_the_setup(tmp_path: Path) -> None:
    image = tmp_path / "app"
    for line in (REPOSITORY / "collectors/Dockerfile").read_text().splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and words[-1].startswith("/app/"):
            target = image / words[-1].removeprefix("/app/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / words[1]).is_dir():
                shutil.copytree(REPOSITORY / words[1], target)
            else:
                shutil.copy(REPOSITORY / words[1], target)
    fake = FakeInflux2()
    async with serve(fake) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "influxdb.setup",
            cwd=image,
            env={
                "PYTHONDONTWRITEBYTECODE": "1",
                "INFLUXDB_URL": url,
                "SETUP_SECRETS": str(tmp_path / "secrets"),
                "SETUP_CONFIG": str(tmp_path / "config"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
    assert len(fake.authorizations) == 3
    assert (tmp_path / "config/dashboards/token_usage.json").is_file()


# The same onboarding against a real server.


@asynccontextmanager
async def real_influxd(binary: str, folder: Path) -> AsyncIterator[str]:
    """A real InfluxDB 2 in a folder of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        binary,
        f"--bolt-path={folder / 'influxd.bolt'}",
        f"--sqlite-path={folder / 'influxd.sqlite'}",
        f"--engine-path={folder / 'engine'}",
        f"--http-bind-address=127.0.0.1:{port}",
        "--reporting-disabled",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def fake_influxd(binary: str, folder: Path) -> AsyncIterator[str]:
    """The fake server of the other tests."""
    async with serve(FakeInflux2()) as url:
        yield url


SERVERS: Mapping[str, Callable[[str, Path], Any]] = {"fake": fake_influxd, "real": real_influxd}


@pytest.mark.parametrize(
    "server",
    [
        "fake",
        pytest.param(
            "real",
            marks=pytest.mark.skipif(
                not os.environ.get("INFLUXD2"),
                reason="no InfluxDB 2: set INFLUXD2 to its influxd (2.4 or newer)",
            ),
        ),
    ],
)
async def test_onboarding_gives_a_token_that_only_writes_and_one_that_only_reads(
    tmp_path: Path, server: str
) -> None:
    binary = os.environ.get("INFLUXD2", "")
    async with SERVERS[server](binary, tmp_path) as url, aiohttp.ClientSession() as session:

        async def ask(method: str, path: str, token: str, **rest: Any) -> tuple[int, Any]:
            headers = {"Authorization": f"Token {token}"}
            async with session.request(method, url + path, headers=headers, **rest) as reply:
                is_json = "json" in reply.headers.get("Content-Type", "")
                return reply.status, (await reply.json()) if is_json else None

        async def write(token: str) -> int:
            where = {"org": "home", "bucket": "tokens"}
            return (await ask("POST", "/api/v2/write", token, params=where, data="m x=1i"))[0]

        async def measurements(token: str) -> Any:
            asked = {"db": "tokens", "q": "SHOW MEASUREMENTS"}
            status, answer = await ask("GET", "/query", token, params=asked)
            series = answer["results"][0].get("series", [{}]) if status == 200 else [{}]
            return series[0].get("values")

        async def onboard() -> Tokens:
            return await ensure_onboarded(
                url, tmp_path / "secrets", org="home", bucket="tokens", patience=30
            )

        tokens = await onboard()
        again = await onboard()
        _, buckets = await ask("GET", "/api/v2/buckets?name=tokens", tokens.operator)
        writes = [await write(tokens.write), await write(tokens.read)]
        reads = [await measurements(tokens.read), await measurements(tokens.write)]
        forbidden = await ask("GET", "/api/v2/authorizations", tokens.write)

    assert tokens.renewed == {"write", "read"}
    assert again.renewed == frozenset()
    assert (again.operator, again.write, again.read) == (
        tokens.operator,
        tokens.write,
        tokens.read,
    )
    rule = buckets["buckets"][0]["retentionRules"][0]
    assert rule["everySeconds"] == 0
    assert rule["shardGroupDurationSeconds"] == HALF_A_YEAR
    assert writes == [204, 403]
    assert reads == [[["m"]], None]
    assert forbidden[0] in (401, 403) or forbidden[1]["authorizations"] == []


async def test_an_unreachable_server_is_a_target_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]

    with pytest.raises(TargetError, match="waited"):
        await ensure_onboarded(
            f"http://127.0.0.1:{port}", tmp_path, org="home", bucket="tokens", patience=0.2
        )


def test_the_two_scoped_tokens_are_told_apart_by_their_descriptions() -> None:
    assert len(set(DESCRIPTIONS.values())) == 2
