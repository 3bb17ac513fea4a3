"""The loop: wakes each collector on its interval, stores what it yields, keeps InfluxDB told.

Collectors run as tasks of their own that catch everything themselves: one that fails, hangs or
floods delays nobody else. All times are of the loop's clock, so a set or sleeping wall clock makes
at most one catch-up run.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import structlog

from collectors.base import AnyCollector, Batch
from collectors.clock import Clock
from collectors.errors import AuthError, CollectError, RateLimitedError, TokendashError
from collectors.ledger.billing import settle_unknown
from collectors.ledger.guard import GuardedLedger, LedgerRebuiltError
from collectors.ledger.store import Source, Stored
from collectors.ledger.thread import LedgerThread
from collectors.logs import text_of
from collectors.registry import is_configured

LONGEST_PAUSE = 900.0
LONGEST_RETRY_AFTER = 21_600.0  # a server's word is taken for up to six hours
AUTH_PAUSE = 3600.0


@dataclass
class Health:
    """What is known of one collector's runs."""

    name: str
    runs: int = 0
    consecutive_failures: int = 0
    last_success: float = 0.0  # epoch seconds; 0: never in this process
    records: int = 0  # points of the last run
    duration: float = 0.0
    error: str = ""
    hint: str = ""
    noted_at: float = float("-inf")  # loop time of the last line in the ledger's history of runs


@dataclass(frozen=True)
class Intervals:
    """Seconds between runs, and the most one batch may take."""

    collect: float = 300
    local: float = 10
    timeout: float = 120


class Orchestrator:
    """Runs collectors against one ledger."""

    def __init__(
        self,
        collectors: Sequence[AnyCollector],
        ledger: GuardedLedger,
        thread: LedgerThread,
        intervals: Intervals,
        clock: Clock,
        *,
        on_stored: Callable[[str, Stored], None] | None = None,
        clean: Callable[[str], str] = str,
    ) -> None:
        self.collectors = list(collectors)
        self.health = {collector.name: Health(collector.name) for collector in collectors}
        self._ledger = ledger
        self._thread = thread
        self._intervals = intervals
        self._clock = clock
        self._on_stored = on_stored
        self._settled: set[str] = set()
        self._clean = clean  # takes secrets out of what a source says about its failure
        self._one_run_each: dict[str, asyncio.Lock] = {}
        self._log = structlog.get_logger()

    async def run(self, stop: asyncio.Event) -> None:
        """Run every collector on its interval until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._repeat(c, stop)) for c in self.collectors]
            await stop.wait()
            for task in tasks:
                task.cancel()

    async def run_all_once(self) -> list[Health]:
        """Run every configured collector once, all at the same time."""
        async with asyncio.TaskGroup() as group:
            for collector in self.collectors:
                group.create_task(self._run_if_configured(collector))
        return list(self.health.values())

    async def _run_if_configured(self, collector: AnyCollector) -> float:
        # A source may appear while we run: asked every time, absence is normal.
        if await asyncio.to_thread(is_configured, collector):
            return await self.run_once(collector)
        return 0.0

    def interval_of(self, collector: AnyCollector) -> float:
        """Seconds between two runs of a collector that is well."""
        intervals = self._intervals
        return intervals.local if collector.is_local else intervals.collect

    async def _repeat(self, collector: AnyCollector, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        spread = 0.0 if collector.is_local else 0.05
        while not stop.is_set():
            started = loop.time()
            pause = await self._run_if_configured(collector)
            interval = self.interval_of(collector) * random.uniform(1 - spread, 1 + spread)  # noqa: S311 - spreads load, keeps no secret
            # From the start of this run: turns missed in a long run or by a suspended laptop are
            # not made up for one by one.
            delay = max(started + interval - loop.time(), pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), delay)

    async def run_once(self, collector: AnyCollector) -> float:
        """Store everything that is new in one source; return the pause a failure asks for."""
        # A command may ask for a run while one is going on: two at once would read the same twice.
        async with self._one_run_each.setdefault(collector.name, asyncio.Lock()):
            return await self._run(collector)

    async def _run(self, collector: AnyCollector) -> float:
        loop = asyncio.get_running_loop()
        health = self.health.setdefault(collector.name, Health(collector.name))
        started, wall = loop.time(), self._clock().timestamp()
        stored = Stored()
        failure: BaseException | None = None
        try:
            await self._store_new(collector, stored)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            failure = error  # nobody cancelled us: the collector did that by itself
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a collector may raise anything
            failure = error
            if isinstance(error, LedgerRebuiltError):
                self._settled.clear()  # a backup may hold use whose plan was not known yet
        health.duration = loop.time() - started
        health.records = stored.points
        was_failing = health.consecutive_failures > 0
        pause = self._settle(health, wall, failure)
        is_news = failure is not None or was_failing or stored.changed or stored.skipped
        # Quiet runs are noted now and then, so that the ledger knows how old what it says is.
        if is_news or loop.time() - health.noted_at >= self._intervals.collect:
            health.noted_at = loop.time()
            await self._note(collector.name, wall, health, stored)
        health.runs += 1
        return pause

    async def _store_new(self, collector: AnyCollector, stored: Stored) -> None:
        name, source = collector.name, Source.of(collector)
        if name not in self._settled:  # settings stay as they are while we run
            settled = await self._thread.run(
                self._ledger.run,
                lambda ledger: settle_unknown(ledger, source.name, source.billing),
            )
            self._settled.add(name)
            if settled and self._on_stored is not None:  # other amounts, though nothing was read
                self._on_stored(name, Stored(changed=settled))
        cursor = await self._thread.run(self._ledger.run, lambda ledger: ledger.cursor(name))
        batches = collector.read(cursor)
        async with contextlib.aclosing(batches):  # type: ignore[type-var]  # an async generator
            while (batch := await self._next(name, batches)) is not None:
                part = await self._thread.run(self._ledger.commit, collector.name, source, batch)
                stored.points += part.points
                stored.changed += part.changed
                stored.skipped += part.skipped
                if self._on_stored is not None:
                    self._on_stored(collector.name, part)

    async def _next(self, name: str, batches: AsyncIterator[Batch]) -> Batch | None:
        limit = asyncio.timeout(self._intervals.timeout)
        try:
            async with limit:
                return await anext(batches, None)
        except TimeoutError:
            if not limit.expired():
                raise  # some other limit, inside the collector
            raise CollectError(
                f"{name} took longer than {self._intervals.timeout:g} s",
                "it is tried again; raise COLLECT_TIMEOUT when the source is really that slow",
            ) from None

    def _settle(self, health: Health, wall: float, failure: BaseException | None) -> float:
        """Note how a run ended, log a change of state, and say how long to pause."""
        log = self._log.bind(collector=health.name)
        if failure is None:
            if health.consecutive_failures:
                log.info("collector.recovered", failures=health.consecutive_failures)
            health.consecutive_failures = 0
            health.last_success = wall
            health.error = health.hint = ""
            return 0.0
        health.consecutive_failures += 1
        is_news = health.consecutive_failures == 1
        if isinstance(failure, TokendashError):
            health.error = self._clean(text_of(failure))
            health.hint = self._clean(text_of(getattr(failure, "hint", "")))
            say = log.warning if is_news else log.debug
            say("collector.failed", error=health.error, hint=health.hint)
        else:
            health.error = f"{type(failure).__name__} in the collector {health.name}"
            health.hint = "this is a fault of the collector; please report it with the log"
            say = log.error if is_news else log.debug
            say("collector.failed", error=health.error, exc_info=failure)
        if isinstance(failure, AuthError):
            return AUTH_PAUSE
        backoff: float = min(LONGEST_PAUSE, 5.0 * 2 ** min(health.consecutive_failures, 10))
        if isinstance(failure, RateLimitedError):
            asked = getattr(failure, "retry_after", None)
            if isinstance(asked, int | float) and 0 <= asked < math.inf:
                return min(float(asked), LONGEST_RETRY_AFTER)
        return backoff

    async def _note(self, name: str, wall: float, health: Health, stored: Stored) -> None:
        try:
            await self._thread.run(
                self._ledger.run,
                lambda ledger: ledger.note_run(
                    name, wall, health.duration, stored, health.error, health.hint
                ),
            )
        except Exception as error:  # noqa: BLE001 - history about a run must not end the run
            self._log.warning("run.unnoted", collector=name, error=type(error).__name__)
