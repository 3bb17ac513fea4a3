"""A5 and A10: a stop at any moment ends in order and soon, and no commit is left half done."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from collectors.ledger.files import open_reader
from collectors.ledger.thread import LedgerThread
from collectors.points import Batch
from tests.support.collecting import environment
from tests.support.daemons import ROOT, Daemon, Ended, started, until
from tests.support.fault_server import BUCKET, ORG, TOKEN, FaultServer
from tests.support.ledgers import LATEST, ClaudeHome, open_ledger, point

T = TypeVar("T")
SEED = 20_261_124

# A source whose thread nothing can interrupt: a log on a network drive that went away.
STUCK = """
import asyncio, os, time
from collectors.base import BaseCollector

class Stuck(BaseCollector):
    name = "stuck"
    is_local = True

    def is_configured(self):
        return True

    async def collect(self):
        open(os.environ["STUCK_FILE"], "w").close()
        await asyncio.to_thread(time.sleep, 60)
        return []
"""


def report(fault: str, **figures: Any) -> None:
    """One line of evidence."""
    print(json.dumps({"fault": fault, **figures}))


def settings(folder: Path, **more: str) -> dict[str, str]:
    return environment(folder, LOCAL_INTERVAL="0.05", LOG_FORMAT="json", **more)


# -- A5 --------------------------------------------------------------------------------------------


async def stops_at_random(
    folder: Path, runs: int, *, mutant: str = ""
) -> tuple[list[Ended], ClaudeHome]:
    """Stop daemons at random moments while a log grows."""
    rng = random.Random(SEED)
    home = ClaudeHome(folder, seed=SEED)
    lock = folder / "data" / "ledger.db.lock"
    ended = []
    for _ in range(runs):
        async with started(settings(folder), mutant=mutant) as daemon:
            await until(functools.partial(_has_the_lock, lock, daemon))
            for _ in range(rng.randrange(4)):
                home.append(rng.randrange(300), rng.choice("abc"), cuts=True)
                await asyncio.sleep(rng.random() * 0.15)
            ended.append(await daemon.stop())
    return ended, home


def _has_the_lock(path: Path, daemon: Daemon) -> bool:
    """The first moment at which a stop must be in order."""
    return path.exists() and f'"pid": {daemon.pid}}}' in path.read_text()


async def test_a5_a_stop_at_any_moment_ends_in_order_and_loses_nothing(tmp_path: Path) -> None:
    ended, home = await stops_at_random(tmp_path, 6)
    home.finish()
    async with started(settings(tmp_path), "run", "--once") as last:
        await last.ended()
    db = open_reader(tmp_path / "data" / "ledger.db")
    lost, doubled = home.differences(db)
    db.close()

    longest = max(one.seconds for one in ended)
    report(
        "A5", runs=len(ended), max_seconds=round(longest, 2), lost=lost, double=doubled, seed=SEED
    )
    assert [one.code for one in ended] == [0] * len(ended)
    assert not [one.error for one in ended if "Traceback" in one.error]
    assert longest <= 5
    assert (lost, doubled) == (0, 0)


async def test_a5_the_stops_catch_a_program_that_ignores_signals(tmp_path: Path) -> None:
    ended, _ = await stops_at_random(tmp_path, 1, mutant="ignores_signals")

    assert [one.code for one in ended] == [-signal.SIGTERM]


@asynccontextmanager
async def stuck_daemon(folder: Path, mutant: str = "") -> AsyncIterator[Daemon]:
    """A daemon one of whose threads is at something that never ends."""
    (folder / "stuck.py").write_text(STUCK)
    file = folder / "stuck-now"
    environ = settings(
        folder, COLLECTORS_EXTRA="stuck:Stuck", SOURCES="stuck", STUCK_FILE=str(file)
    )
    environ["PYTHONPATH"] = f"{folder}:{ROOT}"
    async with started(environ, mutant=mutant) as daemon:
        await until(file.exists)
        yield daemon


async def test_a5_a_thread_that_nothing_can_interrupt_does_not_hold_up_the_end(
    tmp_path: Path,
) -> None:
    async with stuck_daemon(tmp_path) as daemon:
        ended = await daemon.stop()

    report("A5", stuck_seconds=round(ended.seconds, 2))
    assert (ended.code, ended.seconds <= 5) == (0, True)


async def test_a5_the_stuck_thread_catches_a_program_without_a_limit(
    tmp_path: Path,
) -> None:
    async with stuck_daemon(tmp_path, "waits_for_ever") as daemon:
        with pytest.raises(TimeoutError):
            await daemon.stop(limit=4.5)


async def test_a5_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with stuck_daemon(tmp_path) as daemon:
        daemon.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        ended = await daemon.stop(signal.SIGTERM)

    assert ended.code == 128 + signal.SIGTERM
    assert ended.seconds < 1


async def test_a5_an_influxdb_that_does_not_answer_does_not_hold_up_the_end(tmp_path: Path) -> None:
    home = ClaudeHome(tmp_path)
    home.append(50)
    async with FaultServer() as server:
        server.decide = lambda: "hang"
        target = {
            "INFLUXDB_URL": server.url,
            "INFLUXDB_TOKEN": TOKEN,
            "INFLUXDB_ORG": ORG,
            "INFLUXDB_BUCKET": BUCKET,
            "INFLUXDB_INTERVAL": "0.05",
        }
        async with started(settings(tmp_path, **target)) as daemon:
            await until(lambda: server.in_flight)
            ended = await daemon.stop()
            after = len(server.request_sizes)
            await asyncio.sleep(0.2)
            later = len(server.request_sizes)

    report("A5", hanging_influxdb_seconds=round(ended.seconds, 2))
    assert ended.code == 0
    assert ended.seconds < 2
    assert later == after  # nothing new was sent


# -- A10 -------------------------------------------------------------------------------------------


class Unshielded(LedgerThread):
    """The mutant: a task that is cancelled leaves its commit to itself."""

    async def run(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: call(*args, **kwargs))


async def cancel_in_commits(folder: Path, thread: LedgerThread, times: int) -> tuple[int, int, int]:
    """Transactions left open, calls lost and calls doubled when tasks end in mid-commit."""
    rng = random.Random(SEED)
    ledger = open_ledger(folder / "ledger.db")
    left_open = cancelled = 0
    try:
        for number in range(times):
            points = [point(f"{number} {n}") for n in range(60)]
            batch = Batch(points=points, cursor={f"batch {number}": number})
            task = asyncio.ensure_future(thread.run(ledger.commit, "x", LATEST, batch))
            await asyncio.sleep(rng.random() * 0.002)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                cancelled += 1
            left_open += _is_open(ledger.db)
        await thread.run(lambda: None)
        stored = ledger.db.execute("SELECT count(*) FROM record").fetchone()[0]
        final = ledger.db.execute("SELECT count(*) FROM cursor").fetchone()[0]
    finally:
        thread.close()
        ledger.close()
    assert cancelled > times / 4
    difference = stored - 60 * final
    return left_open, max(0, -difference), max(0, difference)


def _is_open(db: sqlite3.Connection) -> bool:
    return db.in_transaction


async def test_a10_five_hundred_tasks_cancelled_in_a_commit_leave_no_transaction_open(
    tmp_path: Path,
) -> None:
    left_open, lost, doubled = await cancel_in_commits(tmp_path, LedgerThread(), 500)

    report("A10", n=500, in_transaction_left_open=left_open, lost=lost, double=doubled, seed=SEED)
    assert (left_open, lost, doubled) == (0, 0, 0)


async def test_a10_the_cancelling_catches_a_commit_that_is_not_waited_for(tmp_path: Path) -> None:
    left_open, _, _ = await cancel_in_commits(tmp_path, Unshielded(), 60)

    assert left_open > 0
