"""The exporter as a whole: a real process with its socket, and its parts put together."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from structlog.testing import capture_logs

from collectors.composition import Program
from collectors.daemon import Exporter, StatusPublisher, exit_code_of, opened
from collectors.errors import LedgerLockedError, SettingsError
from collectors.ledger.files import open_reader
from collectors.web.control import ControlError
from tests.support.collecting import Scripted, environment, finding, raising
from tests.support.daemons import started, until
from tests.support.fault_server import BUCKET, ORG, TOKEN, FaultServer
from tests.support.ledgers import ClaudeHome

FAST = {"LOCAL_INTERVAL": "0.05", "LOG_FORMAT": "json"}


def target(server: FaultServer) -> dict[str, str]:
    return {
        "INFLUXDB_URL": server.url,
        "INFLUXDB_TOKEN": TOKEN,
        "INFLUXDB_ORG": ORG,
        "INFLUXDB_BUCKET": BUCKET,
        "INFLUXDB_INTERVAL": "0.05",
    }


# -- a real process --------------------------------------------------------------------------------


async def test_a_daemon_greets_reads_what_grows_answers_and_ends_in_order(tmp_path: Path) -> None:
    home = ClaudeHome(tmp_path)
    home.append(20)

    async with started(environment(tmp_path, **FAST)) as daemon:
        await daemon.ready()
        mode = daemon.socket.lstat().st_mode
        health = await daemon.ask("health")
        home.append(20)
        answer = await daemon.ask("collect", collectors=["claude-code"])
        ended = await daemon.stop()

    assert "reads claude-code" in ended.error
    assert "InfluxDB is not set" in ended.error
    assert stat.S_IMODE(mode) == 0o600
    assert health["pid"] == daemon.pid
    assert health["influxdb"] is None
    assert answer == {"collected": ["claude-code"]}
    assert (ended.code, ended.seconds < 5) == (0, True)
    assert not daemon.socket.exists()
    db = open_reader(tmp_path / "data" / "ledger.db")
    assert home.differences(db) == (0, 0)
    db.close()


async def test_ctrl_c_ends_in_order_and_says_so_by_130(tmp_path: Path) -> None:
    async with started(environment(tmp_path, **FAST)) as daemon:
        await daemon.ready()
        ended = await daemon.stop(signal.SIGINT)

    assert ended.code == 130
    assert "Traceback" not in ended.error


def test_a_stop_by_another_signal_is_a_success() -> None:
    assert [exit_code_of(x) for x in ([], [signal.SIGTERM], [signal.SIGINT])] == [0, 0, 130]


async def test_a6_a_second_daemon_is_refused_at_once_and_names_the_first(tmp_path: Path) -> None:
    environ = environment(tmp_path, **FAST)

    async with started(environ) as first:
        await first.ready()
        async with started(environ) as second:
            refused = await second.ended()
        health = await first.ask("health")

    assert refused.code == 5
    assert f"another tokendash (process {first.pid}) writes this ledger" in refused.error
    assert "Traceback" not in refused.error
    assert refused.seconds < 3
    assert health["pid"] == first.pid  # its socket was left alone


async def test_after_a_kill_the_next_daemon_takes_over_lock_and_socket(tmp_path: Path) -> None:
    environ = environment(tmp_path, **FAST)
    async with started(environ) as killed:
        await killed.ready()
        await killed.stop(signal.SIGKILL)

    left = killed.socket.exists()
    async with started(environ) as following:
        await following.ready()
        health = await following.ask("health")

    assert left
    assert health["pid"] == following.pid


def foreign_database() -> bytes:
    """A database of another program, which does not say so in its header."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE friends(name TEXT)")
        db.executemany("INSERT INTO friends VALUES(?)", [("x" * 500,)] * 20)
        db.commit()
        return db.serialize()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"Dear diary, " * 1_000, id="letter"),
        pytest.param(b"SQLite format 3\0" + b"x" * 4_080, id="other_database"),
        pytest.param(foreign_database(), id="foreign"),
        pytest.param(foreign_database()[:-5_000], id="foreign_cut_off"),
        pytest.param(foreign_database()[:4_096], id="foreign_first_page"),
        pytest.param(b"x", id="one_byte"),
    ],
)
async def test_a_file_at_the_ledgers_path_that_is_none_is_never_touched(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "data" / "ledger.db"
    path.parent.mkdir()
    path.write_bytes(content)
    before = path.stat()

    async with started(environment(tmp_path)) as daemon:
        ended = await daemon.ended()

    after = path.stat()
    assert ended.code == 2
    assert f"{path} is not a tokendash ledger" in ended.error
    assert path.read_bytes() == content
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"SOURCES": "claude"}, 2, "there is no collector named claude"),
        ({"TZ": "Mars/Olympus"}, 2, "TZ is 'Mars/Olympus', which is not a time zone"),
        ({"COLLECT_INTERVAL": "often", "LOG_LEVEL": "loud"}, 2, "LOG_LEVEL from environment"),
        ({"INFLUXDB_URL": "influx:8086"}, 2, "INFLUXDB_URL is not an http or https address"),
        ({"INFLUXDB_TOKEN_FILE": "/nowhere/t"}, 2, "INFLUXDB_TOKEN_FILE names /nowhere/t"),
    ],
)
async def test_a_wrong_setting_ends_the_start_with_words_and_2(
    tmp_path: Path, settings: dict[str, str], code: int, said: str
) -> None:
    async with started(environment(tmp_path, **settings)) as daemon:
        ended = await daemon.ended()

    assert ended.code == code
    assert said in ended.error
    assert "Traceback" not in ended.error


async def test_a_place_where_no_socket_can_be_costs_only_the_socket(tmp_path: Path) -> None:
    home = ClaudeHome(tmp_path)
    home.append(5)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ledger.sock").mkdir()

    async with started(environment(tmp_path, **FAST)) as daemon:
        await until(lambda: "control.unavailable" in daemon.said)
        await until((tmp_path / "data" / "ledger.db-wal").exists)
        ended = await daemon.stop()

    assert ended.code == 0


async def test_a_daemon_leaves_no_core_file(tmp_path: Path) -> None:
    async with started(environment(tmp_path, **FAST)) as daemon:
        await daemon.ready()
        limits = Path(f"/proc/{daemon.pid}/limits")
        if not limits.exists():
            pytest.skip("this system has no /proc to look at")
        [core] = [line for line in limits.read_text().splitlines() if "core file" in line]

    assert core.split()[4:6] == ["0", "0"]


# -- the parts together ----------------------------------------------------------------------------


class Wall:
    """A wall clock that the test sets."""

    def __init__(self, text: str = "2026-03-10T12:00:30") -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@asynccontextmanager
async def exporter(
    tmp_path: Path,
    *collectors: Any,
    wall: Wall | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Exporter]:
    """An exporter in this process, with these collectors instead of ours."""
    program = Program(environment(tmp_path, **settings), home=tmp_path, clock=wall or Wall())
    program.registry.collectors[:] = collectors
    async with opened(program) as found:
        found.connect()
        yield found


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with FaultServer() as found:
        yield found


def sent(server: FaultServer, measurement: str, **tags: str) -> list[dict[str, Any]]:
    """The points of a measurement that have these tags, in order of time."""
    return [
        {"at": time, **dict(point_tags), **fields}
        for (name, point_tags, time), fields in sorted(server.store.items(), key=lambda x: x[0][2])
        if name == measurement and tags.items() <= dict(point_tags).items()
    ]


async def test_once_collects_sends_and_reports_its_own_state(
    tmp_path: Path, server: FaultServer
) -> None:
    source = Scripted(finding("a", "b"), name="api")

    async with exporter(tmp_path, source, settings=target(server)) as it:
        outcome = await it.once()

    assert outcome.flush is not None
    assert (outcome.flush.error, outcome.flush.pending) == (None, 0)
    [usage] = sent(server, "token_usage")
    assert (usage["requests"], usage["source"], usage["host"]) == (2, "api", "h")
    [status] = sent(server, "exporter_status")
    assert (status["heartbeat"], status["pending"], status["tz"]) == (1, 0, "UTC")
    [spend] = sent(server, "spend_status", scope="all")
    assert spend["month_usd"] == pytest.approx(2 * (100 * 3 + 10 * 15) / 1e6)


async def test_a_collector_that_never_ran_is_not_reported_as_well(
    tmp_path: Path, server: FaultServer
) -> None:
    absent = Scripted(name="absent")
    absent.is_there = False
    failing = Scripted(raising(ZeroDivisionError()), name="failing")

    with capture_logs():
        async with exporter(tmp_path, absent, failing, settings=target(server)) as it:
            await it.once()
            health = await it._health({})

    assert [(row["collector"], row["ok"]) for row in sent(server, "collector_status")] == [
        ("failing", 0)
    ]
    assert health["collectors"]["absent"]["runs"] == 0
    assert health["collectors"]["failing"] == {
        "runs": 1,
        "consecutive_failures": 1,
        "error": "ZeroDivisionError in the collector failing",
    }


async def test_spend_is_worked_out_anew_when_something_changed_or_a_bucket_began(
    tmp_path: Path, server: FaultServer
) -> None:
    wall = Wall("2026-03-02T23:59:30")
    source = Scripted(finding("a"), finding("b"), name="api")
    seen = []

    async with exporter(tmp_path, source, wall=wall, settings=target(server)) as it:
        publisher = StatusPublisher(it)
        for step in (timedelta(), timedelta(), timedelta(seconds=40)):
            await it.orchestrator.run_once(source)
            wall.now += step
            lines = await publisher.lines()
            [line] = [x for x in lines if x.startswith("spend_status,") and "scope=all" in x]
            seen.append(
                {k: float(v) for k, v in (x.split("=") for x in line.split(" ")[1].split(","))}
            )

    call = (100 * 3 + 10 * 15) / 1e6
    assert [round(x["today_usd"], 9) for x in seen] == [call, 2 * call, 0]
    assert round(seen[2]["yesterday_usd"], 9) == 2 * call


async def test_a_replay_owes_everything_again_and_wakes_the_writer(
    tmp_path: Path, server: FaultServer
) -> None:
    source = Scripted(finding("a"), name="api")
    settings = {**target(server), "INFLUXDB_SETTLE": "0"}

    async with exporter(tmp_path, source, settings=settings) as it:
        await it.once()
        answer = await it._replay({})
        assert it.writer is not None
        is_woken = it.writer.wake.is_set()

    assert answer["pending"] > 0
    assert is_woken


async def test_commands_reach_a_running_exporter_and_run_only_what_they_name(
    tmp_path: Path,
) -> None:
    from collectors.web.control import ask

    one, other = Scripted(name="one", is_local=False), Scripted(name="other", is_local=False)
    stop = asyncio.Event()

    async with exporter(tmp_path, one, other) as it, asyncio.TaskGroup() as group:
        group.create_task(it.run(stop))
        path = it.program.places.socket
        await until(lambda: len(one.started) == len(other.started) == 1)
        answers = [
            await ask(path, "collect", {"collectors": ["one"]}),
            await ask(path, "collect", {}),
            await ask(path, "send", {}),
        ]
        with pytest.raises(ControlError):
            await ask(path, "collect", {"collectors": 3})
        stop.set()

    assert answers == [{"collected": ["one"]}, {"collected": ["one", "other"]}, {}]
    assert (len(one.started), len(other.started)) == (3, 2)


async def test_the_ledger_is_locked_while_it_is_open_and_free_afterwards(tmp_path: Path) -> None:
    async with exporter(tmp_path) as it:
        with pytest.raises(LedgerLockedError) as caught:
            async with opened(it.program):
                pass

    assert f"process {os.getpid()}" in str(caught.value)
    async with exporter(tmp_path):
        pass


async def test_a_target_that_cannot_be_one_is_an_error_of_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="INFLUXDB_URL holds a user name"):
        async with exporter(tmp_path, settings={"INFLUXDB_URL": "http://ada:canary@127.0.0.1:1"}):
            pass


async def test_a_chore_that_fails_is_logged_and_tried_again(tmp_path: Path) -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(len(done))
        if len(done) < 3:
            raise OSError("disk")

    with capture_logs() as logs:
        async with exporter(tmp_path) as it:
            task = asyncio.ensure_future(it._repeat("housekeeping", 0.001, work))
            await until(lambda: len(done) >= 4)
            task.cancel()

    failed = [entry for entry in logs if entry["event"] == "chore.failed"]
    assert [entry["chore"] for entry in failed] == ["housekeeping", "housekeeping"]


async def test_the_backup_of_the_day_is_made_once_and_not_by_a_clock_nobody_trusts(
    tmp_path: Path,
) -> None:
    wall = Wall("1970-01-01T00:00:10")

    async with exporter(tmp_path, wall=wall) as it:
        folder = it.program.places.backups
        await it._keep()
        in_1970 = folder.exists()
        wall.now = datetime(2026, 3, 10, 12, tzinfo=UTC)
        await it._keep()
        await it._keep()
        made = [path.name for path in folder.iterdir()]

    assert not in_1970
    assert len(made) == 1
    assert json.dumps(made).count("20260310T1200") == 1


async def test_what_waits_is_that_of_the_target_that_is_set_not_of_the_last_new_one(
    tmp_path: Path,
) -> None:
    async with exporter(tmp_path, settings={"INFLUXDB_URL": "http://127.0.0.1:1"}) as it:
        it.connect()
        own = it.ledger.ledger.outbox.target(*it.target_key)
        other = it.ledger.ledger.outbox.target("http://127.0.0.1:2", "o", "b")

        found = it.ledger.ledger.outbox.find_target(*it.target_key)

        assert found == own != other
