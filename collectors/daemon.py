"""The exporter as one process: collectors, ledger, InfluxDB, control socket and housekeeping."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from collectors import __version__
from collectors.clock import BUCKET_SECONDS, is_plausible
from collectors.composition import Program
from collectors.insights.spend import ALL, Part, Spend, spend_status
from collectors.ledger import reports
from collectors.ledger.backup import backup, is_due
from collectors.ledger.checks import passes
from collectors.ledger.files import open_reader
from collectors.ledger.guard import GuardedLedger, GuardedOutbox
from collectors.ledger.prune import Pruned, prune
from collectors.ledger.store import Ledger, Stored
from collectors.ledger.thread import LedgerThread
from collectors.names import canonical
from collectors.orchestrator import Health, Intervals, Orchestrator
from collectors.registry import is_configured

if TYPE_CHECKING:
    from collectors.measurements import Row
    from collectors.outputs.influx import FlushResult, InfluxWriter

STATUS_SECONDS = 60.0
HOUSEKEEPING_SECONDS = 3600.0
DAY_SECONDS = 86_400.0
STOP_SECONDS = 3.0


@dataclass
class Outcome:
    """What one run over everything did."""

    health: list[Health] = field(default_factory=list)
    flush: FlushResult | None = None


class Exporter:
    """One open ledger with everything that feeds it and is fed by it."""

    def __init__(
        self,
        program: Program,
        ledger: GuardedLedger,
        thread: LedgerThread,
        on_stored: Callable[[str, Stored], None] | None = None,
    ) -> None:
        self.program = program
        self.ledger = ledger
        self.thread = thread
        settings = program.settings
        self.orchestrator = Orchestrator(
            program.registry.collectors,
            ledger,
            thread,
            Intervals(settings.collect_interval, settings.local_interval, settings.collect_timeout),
            program.clock,
            on_stored=self._stored(on_stored),
            clean=program.redaction.clean,
        )
        self.writer: InfluxWriter | None = None
        self.target_key = ("", "", "")  # what the ledger knows the writer's target by
        self._log = structlog.get_logger()
        self._changes = 0
        self._checked_at = float("-inf")

    def _stored(self, then: Callable[[str, Stored], None] | None) -> Callable[[str, Stored], None]:
        def note(name: str, stored: Stored) -> None:
            if stored.changed:
                self._changes += 1
            if then is not None:
                then(name, stored)

        return note

    def connect(self) -> None:
        """Make the InfluxDB writer, when one is set; call it inside the loop.

        Raises:
            SettingsError: the target cannot be one.
        """
        target = self.program.influx_target()
        if target is None:
            return
        from collectors.outputs.influx import InfluxWriter

        self.target_key = (target.address, target.org, target.bucket)
        self.writer = InfluxWriter(
            target,
            GuardedOutbox(self.ledger),
            self.thread.run,
            clock=self.program.clock,
            interval=self.program.settings.influxdb_interval,
        )

    async def once(self) -> Outcome:
        """Collect from everything once, then send what is due."""
        outcome = Outcome(await self.orchestrator.run_all_once())
        if self.writer is not None:
            try:
                outcome.flush = await self.writer.flush(self.program.clock().timestamp())
                await self._publish(StatusPublisher(self))
            finally:
                await self.writer.close()
        return outcome

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; every part catches its own failures."""
        from collectors.web.control import ControlServer

        control = ControlServer(self.program.places.socket, self._handlers())
        try:
            await control.start()
        except OSError as error:  # a file system without sockets, such as a mounted Windows drive
            self._log.warning("control.unavailable", path=str(control.path), error=error.strerror)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.orchestrator.run(stop))
                chores = [
                    group.create_task(
                        self._repeat("housekeeping", HOUSEKEEPING_SECONDS, self._keep)
                    )
                ]
                if self.writer is not None:
                    group.create_task(self._send(self.writer, stop))
                    publisher = StatusPublisher(self)
                    chores.append(
                        group.create_task(
                            self._repeat("status", STATUS_SECONDS, lambda: self._publish(publisher))
                        )
                    )
                await stop.wait()
                for chore in chores:
                    chore.cancel()
        finally:
            await control.close()
            if self.writer is not None:
                await self.writer.close()

    async def _send(self, writer: InfluxWriter, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await writer.run(stop)
            except* Exception as group:  # noqa: BLE001 - sending must outlive any single fault
                self._log.error("influx.interrupted", exc_info=group)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), STATUS_SECONDS)

    async def _repeat(self, name: str, seconds: float, work: Callable[[], Any]) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - a chore that fails is tried again later
                self._log.error("chore.failed", chore=name, exc_info=error)
            await asyncio.sleep(seconds)

    async def _publish(self, publisher: StatusPublisher) -> None:
        if self.writer is not None:
            await self.writer.send_gauges(await publisher.lines())

    async def _keep(self) -> None:
        """Once a day: a full check, a backup, and the folding of old detail if that is wanted."""
        now = self.program.clock()
        if not is_plausible(now):
            return
        if time.monotonic() - self._checked_at >= DAY_SECONDS:
            await self._check()
            self._checked_at = time.monotonic()
        if is_due(self.program.places.backups, now):
            await self._back_up(now)
            await self._fold(now)

    async def _check(self) -> None:
        # A connection of its own in another thread: collecting does not wait for it.
        problems = await asyncio.to_thread(_problems, self.program.places.ledger)
        if problems:
            self._log.error(
                "ledger.damaged",
                problem=problems[0],
                count=len(problems),
                hint="stop tokendash and run `tokendash restore`",
            )

    async def _back_up(self, now: datetime) -> None:
        places, settings = self.program.places, self.program.settings
        path = await asyncio.to_thread(
            backup, places.ledger, places.backups, keep=settings.backup_keep, now=now
        )
        self._log.info("backup.written", path=str(path))

    async def _fold(self, now: datetime) -> None:
        """After the day's backup, which still holds the detail that is folded now."""
        days = self.program.settings.history_retention_days
        if not days:
            return
        before_ms = int((now - timedelta(days=days)).timestamp() * 1000)

        def fold(ledger: Ledger) -> Pruned:
            target = ledger.outbox.find_target(*self.target_key)
            return prune(ledger, before_ms, target=target)

        done = await self.thread.run(self.ledger.run, fold)
        if done.records:
            self._log.info("detail.folded", records=done.records, became=done.became)

    # -- commands that arrive over the control socket --------------------------------------------

    def _handlers(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        return {
            "health": self._health,
            "collect": self._collect,
            "replay": self._replay,
            "send": self._send_now,
        }

    async def _health(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        del arguments
        return {
            "pid": os.getpid(),
            "version": __version__,
            "uptime_s": round(time.monotonic() - self.program.started),
            "collectors": {
                health.name: {
                    "runs": health.runs,
                    "consecutive_failures": health.consecutive_failures,
                    "error": health.error,
                }
                for health in self.orchestrator.health.values()
            },
            "influxdb": None if self.writer is None else str(self.writer.state),
        }

    async def _collect(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        wanted = set(arguments.get("collectors", ()))
        found = [
            collector
            for collector in self.orchestrator.collectors
            if (not wanted or collector.name in wanted) and is_configured(collector)
        ]
        async with asyncio.TaskGroup() as group:
            for collector in found:
                group.create_task(self.orchestrator.run_once(collector))
        return {"collected": [collector.name for collector in found]}

    async def _replay(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        del arguments
        pending = await self.thread.run(self.ledger.run, lambda ledger: ledger.outbox.replay())
        if self.writer is not None:
            self.writer.wake.set()
        return {"pending": pending}

    async def _send_now(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        del arguments
        if self.writer is not None:
            self.writer.wake.set()
        return {}


def _problems(path: Path) -> list[str]:
    with contextlib.closing(open_reader(path)) as db:
        return [problem for found in passes(db, is_full_check=True) for problem in found]


class StatusPublisher:
    """Works out the status points; spending again only when something changed or time passed."""

    def __init__(self, exporter: Exporter) -> None:
        from collectors.outputs.lines import LineBuilder
        from collectors.outputs.status import StatusRows

        self._exporter = exporter
        self._lines = LineBuilder()
        program = exporter.program
        self._rows = StatusRows(
            program.host,
            exporter.ledger.ledger.dimensions.offset_ns,
            str(program.calendar.zone),
            __version__,
        )
        self._spend: dict[Part, Spend] = {}
        self._spend_of = (-1, -1)

    async def lines(self) -> list[str]:
        """Line protocol of this minute's status points; none while the clock cannot be trusted."""
        exporter = self._exporter
        now = exporter.program.clock()
        if not is_plausible(now):
            return []
        rows = await exporter.thread.run(
            exporter.ledger.run, lambda ledger: self._collect_rows(ledger, now)
        )
        return [self._lines.line(row) for row in rows]

    def _collect_rows(self, ledger: Ledger, now: datetime) -> list[Row]:
        from collectors.outputs.status import ExporterState

        exporter = self._exporter
        program = exporter.program
        # "Today" ends and "yesterday by now" moves where a bucket begins.
        state_of_spend = (exporter._changes, int(now.timestamp()) // BUCKET_SECONDS)
        if self._spend_of != state_of_spend:
            always = [Part(ALL, canonical(program.host), "")]
            self._spend = spend_status(ledger.db, now, program.calendar, always)
            self._spend_of = state_of_spend
        target = ledger.outbox.find_target(*exporter.target_key)
        state = ExporterState(
            pending=ledger.outbox.pending(target) if target else 0,
            dead_letters=ledger.outbox.dead_count(target) if target else 0,
            unpriced_tokens=sum(row[2] for row in reports.unpriced_models(ledger.db)),
            uptime_s=round(time.monotonic() - program.started),
            db_bytes=ledger.path.stat().st_size,
        )
        # A source that never ran is neither well nor failing.
        ran = [health for health in exporter.orchestrator.health.values() if health.runs]
        return self._rows.rows(now, ran, self._spend, state)


@contextlib.asynccontextmanager
async def opened(
    program: Program, on_stored: Callable[[str, Stored], None] | None = None
) -> AsyncIterator[Exporter]:
    """An exporter on an open ledger; closed, with its last commit finished, at the end.

    Raises:
        LedgerError: the ledger is locked or cannot be opened.
    """
    thread = LedgerThread()
    try:
        ledger = await thread.run(program.guarded_ledger)
        log = structlog.get_logger()
        if ledger.rebuilt is not None:
            log.error("ledger.rebuilt", what=ledger.rebuilt.describe())
        for note in ledger.notes:
            log.warning("ledger.noted", what=note)
        try:
            yield Exporter(program, ledger, thread, on_stored)
        finally:
            await thread.run(ledger.close)
    finally:
        thread.close()


def stop_on_signals(stop: asyncio.Event) -> list[int]:
    """End in order at the first SIGTERM or SIGINT, at once at the second.

    The signals that came are in the list that is returned.
    """
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def handle(number: int) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        # A thread that nothing can interrupt (a log on a dead network drive) must not hold up the
        # end. What it was about to store is read again at the next start.
        watchdog = threading.Timer(STOP_SECONDS, os._exit, (exit_code_of(received),))
        watchdog.daemon = True
        watchdog.start()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number)
    return received


def exit_code_of(signals: Sequence[int]) -> int:
    """What a process that was stopped in order ends with: 130 after Ctrl-C, else 0."""
    return 130 if signal.SIGINT in signals else 0
