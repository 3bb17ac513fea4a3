"""Fault A10: a task is cancelled while its commit runs in the ledger's thread."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from collectors.ledger.checks import verify
from collectors.ledger.thread import LedgerThread
from tests.support.killing import report
from tests.support.ledgers import open_ledger, point, store

P = ParamSpec("P")
T = TypeVar("T")
CANCELS = 500


class Unshielded(LedgerThread):
    """Mutant: a cancelled task leaves its commit running behind it."""

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: call(*args, **kwargs))


async def _cancel(path: Path, kind: type[LedgerThread]) -> dict[str, int]:
    ledger = open_ledger(path)
    thread = kind()
    chance = random.Random(11)
    figures = {"n": CANCELS, "cancelled": 0, "left_open": 0, "stored": 0, "wrong": 0}
    for number in range(CANCELS):
        points = [point(f"msg_{number}_{index}") for index in range(40)]
        task = asyncio.create_task(thread.run(store, ledger, *points))
        is_late = chance.random() < 0.7  # once the commit has begun, else at any moment
        for _ in range(100_000 if is_late else chance.randrange(1, 4)):
            await asyncio.sleep(0)
            if ledger.db.in_transaction or task.done():
                break
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            figures["cancelled"] += 1
        figures["left_open"] += ledger.db.in_transaction
    await thread.run(lambda: None)
    thread.close()
    stored = ledger.db.execute("SELECT count(*) FROM record").fetchone()[0]
    figures["stored"] = stored // 40
    figures["wrong"] = stored % 40 + len(verify(ledger.db))
    ledger.close()
    return figures


async def test_a10_a_cancelled_commit_ends_before_its_task_does(tmp_path: Path) -> None:
    figures = await _cancel(tmp_path / "ledger.db", LedgerThread)

    report("A10", seed=11, **figures)
    assert figures["cancelled"] > CANCELS / 4
    assert (figures["left_open"], figures["wrong"]) == (0, 0)


async def test_a10_the_cancels_catch_a_commit_left_running(tmp_path: Path) -> None:
    figures = await _cancel(tmp_path / "ledger.db", Unshielded)

    report("A10", mutant="unshielded", caught=figures["left_open"] > 0)
    assert figures["left_open"] > 0
