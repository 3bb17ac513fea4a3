"""Collectors with a script, and the loop that runs them: on real time, or on virtual time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

from collectors.base import AnyCollector, BaseCollector, Batch, Options, TokenUsagePoint
from collectors.ledger.guard import GuardedLedger
from collectors.ledger.thread import LedgerThread
from collectors.orchestrator import Intervals, Orchestrator
from tests.support.ledgers import NOW, opener, point
from tests.support.virtual_time import VirtualLoop, virtual_clock

P = ParamSpec("P")
T = TypeVar("T")

Act = Callable[[], Any]  # what one run does: returns points, raises, or is a coroutine function


class Scripted(BaseCollector[Options]):
    """A collector whose runs follow a script; after its end each run finds nothing."""

    name: ClassVar[str] = "scripted"

    def __init__(self, *script: Act, name: str = "", is_local: bool = True) -> None:
        super().__init__()
        self.name = name or type(self).name  # type: ignore[misc]  # one class, many collectors
        self.is_local = is_local  # type: ignore[misc]
        self.script = list(script)
        self.started: list[float] = []  # loop times
        self.is_there = True

    def is_configured(self) -> bool:
        return self.is_there

    async def collect(self) -> Sequence[TokenUsagePoint]:
        self.started.append(asyncio.get_running_loop().time())
        if not self.script:
            return []
        found = self.script.pop(0)()
        if isinstance(found, asyncio.Future):
            await found
        return found if isinstance(found, list) else []

    @property
    def gaps(self) -> list[float]:
        """Seconds between the starts of runs."""
        return [round(b - a, 3) for a, b in zip(self.started, self.started[1:], strict=False)]


class Flooding(BaseCollector[Options]):
    """Never runs out of batches."""

    name: ClassVar[str] = "flooding"
    is_local = True

    def is_configured(self) -> bool:
        return True

    async def read(self, cursor: Mapping[str, Any]) -> AsyncIterator[Batch]:
        number = int(cursor.get("number", 0))
        while True:
            number += 1
            yield Batch(points=[point(f"flood {number}")], cursor={"number": number})


def raising(error: BaseException) -> Act:
    """A run that fails."""

    def act() -> None:
        raise error

    return act


def finding(*keys: str) -> Act:
    """A run that finds a call for each key."""
    return lambda: [point(key) for key in keys]


def hanging() -> Act:
    """A run that never ends by itself."""
    return lambda: asyncio.get_running_loop().create_future()


@dataclass
class Running:
    """An orchestrator with the ledger it stores into."""

    orchestrator: Orchestrator
    guard: GuardedLedger
    thread: LedgerThread

    async def run_for(self, seconds: float) -> None:
        """Run as the daemon does, then stop."""
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        await self.orchestrator.run(stop)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What the ledger answers."""
        return self.guard.ledger.db.execute(sql).fetchall()


@asynccontextmanager
async def running(
    folder: Path,
    *collectors: AnyCollector,
    intervals: Intervals = Intervals(),  # noqa: B008 - frozen
    kind: type[Orchestrator] = Orchestrator,
    **options: Any,
) -> AsyncIterator[Running]:
    """An orchestrator on a new ledger in `folder`."""
    path = folder / "ledger.db"
    thread = LedgerThread()
    guard = GuardedLedger(path, opener(path), now=_clock)
    try:
        yield Running(kind(collectors, guard, thread, intervals, _clock, **options), guard, thread)
    finally:
        thread.close()
        guard.close()


def _clock() -> datetime:
    try:
        return virtual_clock()
    except (RuntimeError, AssertionError):  # no virtual loop runs here
        return NOW


class InlineLoop(VirtualLoop):
    """Virtual time in which threads take none: what goes to a thread is done at once."""

    def run_in_executor(  # type: ignore[override]  # plainer than its base, and enough
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        """Call it here."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - goes to whoever waits, as a thread's would
            future.set_exception(error)
        return future

    def suspend(self, seconds: float) -> None:
        """What a laptop's lid does: time goes by and nothing runs."""
        self._jumping.now += seconds


def in_inline_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make an async test one that runs in virtual time, threads included."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with asyncio.Runner(loop_factory=InlineLoop) as runner:
            return runner.run(test(*args, **kwargs))

    return run


def environment(home: Path, **settings: str) -> dict[str, str]:
    """The environment of an exporter that finds nothing but what the test gives it."""
    (home / "config").mkdir(parents=True, exist_ok=True)
    return {
        "HOME": str(home),
        "TOKENDASH_CONFIG_DIR": str(home / "config"),
        "DB_PATH": str(home / "data" / "ledger.db"),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "HOST_NAME": "h",
        "TZ": "UTC",
        **settings,
    }
