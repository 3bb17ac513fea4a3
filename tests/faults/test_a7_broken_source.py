"""A7: with broken sources a start is soon, the log is short, and no other source waits."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

from collectors.ledger import reports
from collectors.ledger.files import open_reader
from tests.support.collecting import environment
from tests.support.daemons import Ended, started
from tests.support.ledgers import ClaudeHome

# Every way to be broken that is not the machine's: at import, when made, when asked, when read.
BROKEN = """
import asyncio, sys
from collectors.base import BaseCollector
from collectors.errors import RateLimitedError

class _Local(BaseCollector):
    is_local = True

    def is_configured(self):
        return True

class RaisesCollector(_Local):
    async def collect(self):
        raise ZeroDivisionError("1/0")

class ExitsCollector(_Local):
    async def collect(self):
        sys.exit(9)

class HangsCollector(_Local):
    async def collect(self):
        await asyncio.get_running_loop().create_future()

class CannotSayCollector(_Local):
    def is_configured(self):
        raise OSError("gone")

    async def collect(self):
        raise OSError("gone")

class CannotBeMadeCollector(_Local):
    def __init__(self, options, context):
        raise KeyError("x")

class WrongOptionsCollector(_Local):
    options_type = 3

class LimitedCollector(_Local):
    async def collect(self):
        raise RateLimitedError("slow down", "not a number")

class NoPointsCollector(_Local):
    async def collect(self):
        return ["points"]
"""
NAMES = (
    "Raises",
    "Exits",
    "Hangs",
    "CannotSay",
    "CannotBeMade",
    "WrongOptions",
    "Limited",
    "NoPoints",
)


def report(fault: str, **figures: Any) -> None:
    """One line of evidence."""
    print(json.dumps({"fault": fault, **figures}))


async def run_broken(
    folder: Path, *, mutant: str = "", calls: int = 40
) -> tuple[Ended, float, float, int]:
    """How it ended, seconds until ready, the longest wait for a new call, calls in the ledger."""
    plug_ins = folder / "plug-ins"
    plug_ins.mkdir()
    (plug_ins / "broken.py").write_text(BROKEN)
    (plug_ins / "unimportable.py").write_text("raise RuntimeError('no licence')")
    home = ClaudeHome(folder)
    extra = [f"broken:{name}Collector" for name in NAMES] + ["unimportable:X", "nowhere:X"]
    environ = environment(
        folder,
        LOCAL_INTERVAL="0.05",
        LOG_FORMAT="json",
        COLLECTORS_EXTRA=",".join(extra),
    )
    environ["PYTHONPATH"] = f"{plug_ins}:{Path(__file__).resolve().parents[2]}"
    longest = 0.0
    found = 0
    loop = asyncio.get_running_loop()
    async with started(environ, mutant=mutant) as daemon:
        try:
            seconds = await daemon.ready()
        except AssertionError:  # it was over before it could answer
            return await daemon.ended(), math.inf, math.inf, 0
        for number in range(1, calls // 10 + 1):
            home.append(10)
            written = loop.time()
            while (found := _requests(folder)) < 10 * number:
                if loop.time() - written > 3 or daemon.process.returncode is not None:
                    break
                await asyncio.sleep(0.005)
            longest = max(longest, loop.time() - written)
        if daemon.process.returncode is None:
            await daemon.stop()
        ended = await daemon.ended()
    return ended, seconds, longest, found


def _requests(folder: Path) -> int:
    db = open_reader(folder / "data" / "ledger.db")
    try:
        return int(db.execute("SELECT coalesce(sum(requests), 0) FROM bucket").fetchone()[0])
    finally:
        db.close()


async def test_a7_broken_sources_are_named_once_and_others_are_read_at_once(tmp_path: Path) -> None:
    ended, seconds, lag, found = await run_broken(tmp_path)
    entries = [json.loads(line) for line in ended.error.splitlines() if line.startswith("{")]
    failed = [entry["collector"] for entry in entries if entry["event"] == "collector.failed"]
    db = open_reader(tmp_path / "data" / "ledger.db")
    errors = {run.collector: run.error for run in reports.runs(db, 200) if run.error}
    db.close()

    report("A7", broken=len(NAMES) + 2, ready_seconds=round(seconds, 2), lag=round(lag, 3))
    assert ended.code == 0
    assert (found, seconds <= 2, lag <= 1) == (40, True, True)
    assert sorted(failed) == ["cannot-say", "exits", "limited", "no-points", "raises"]
    for part in (
        "collector cannot-be-made cannot be made: KeyError",
        "collector wrong-options cannot be made: ",
        "collector unimportable:X cannot be loaded: RuntimeError: no licence",
        "collector nowhere:X cannot be loaded: ModuleNotFoundError",
    ):
        assert ended.error.count(part) == 1
    assert errors.keys() == set(failed)
    assert errors["limited"] == "slow down"
    assert len(ended.error) < 30_000


async def test_a7_the_check_catches_one_failure_being_everybodys(tmp_path: Path) -> None:
    ended, _, _, found = await run_broken(tmp_path, mutant="one_for_all")

    assert ended.code not in (0, 3)
    assert found < 40
