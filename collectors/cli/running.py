"""`run`, `--once` and `--dry-run`: the exporter at work, and what it says to a person."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collectors import __version__
from collectors.cli import tables
from collectors.cli.console import note, out, visible
from collectors.cli.quick import periods_table
from collectors.composition import Program
from collectors.daemon import Exporter, Outcome, exit_code_of, opened, stop_on_signals
from collectors.errors import LedgerLockedError
from collectors.ledger import glance
from collectors.ledger.files import WriterLock, open_reader
from collectors.ledger.guard import GuardedOutbox
from collectors.ledger.store import Stored
from collectors.logs import configure_logs, guard_process

if TYPE_CHECKING:
    from rich.progress import TaskID

EXIT_COLLECTOR, EXIT_TARGET = 3, 4


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("run")(run)


def run(
    once: Annotated[bool, typer.Option("--once", help="Collect once, send, and end")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be written; change nothing")
    ] = False,
    collector: Annotated[
        list[str] | None, typer.Option("--collector", help="Only this collector; may be repeated")
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "",
    log_format: Annotated[str, typer.Option(help="console or json")] = "",
) -> None:
    """Collect usage into the ledger and feed InfluxDB, until stopped."""
    overrides = {
        "SOURCES": ",".join(collector or ()),
        "LOG_LEVEL": log_level,
        "LOG_FORMAT": log_format,
    }
    program = Program(os.environ, overrides={k: v for k, v in overrides.items() if v})
    prepare_logs(program, quiet=once and not log_level)
    if dry_run:
        raise typer.Exit(_dry_run(program))
    if once:
        raise typer.Exit(run_once(program))
    raise typer.Exit(asyncio.run(run_daemon(program)))


def prepare_logs(program: Program, *, quiet: bool = False) -> None:
    """Log lines to stderr without a secret; `quiet` shows warnings and worse only."""
    settings = program.settings
    program.redaction.learn(program.secrets())
    level = "warning" if quiet and settings.log_level == "info" else settings.log_level
    configure_logs(level, settings.log_format, program.redaction)
    guard_process(program.redaction)
    for text in program.layers.notes:
        note(text)
    for problem in program.registry.problems:
        note(f"{problem}\n  {problem.hint}")


# -- the daemon -----------------------------------------------------------------------------------


async def run_daemon(program: Program) -> int:
    """Run the exporter until a signal; the exit code."""
    stop = asyncio.Event()
    signals = stop_on_signals(stop)  # first: opening a ledger that needs repair takes its time
    async with opened(program) as exporter:
        exporter.connect()
        note(greeting(program))
        await exporter.run(stop)
    return exit_code_of(signals)


def greeting(program: Program) -> str:
    """What runs, from where, to where: the first lines of a start."""
    lines = [f"tokendash {__version__}, ledger {program.places.ledger}"]
    configured = program.registry.configured()
    lines += [f"  reads {collector.name}" for collector in configured]
    if not configured:
        lines += nothing_found(program)
    settings = program.settings
    if settings.influxdb_url:
        lines.append(
            f"  writes bucket {settings.influxdb_bucket} every {settings.influxdb_interval:g} s"
        )
    else:
        lines.append(_no_influxdb())
    return "\n".join(lines)


def nothing_found(program: Program) -> list[str]:
    """What was looked for and where, when there is nothing to read yet."""
    lines = ["Nothing to read yet. Looked for:"]
    for collector in program.registry.collectors:
        lines += [f"  {collector.name:<14} {place}" for place in collector.looked_for()]
    lines.append("That is fine: what appears there later is found by itself.")
    return lines


def _no_influxdb() -> str:
    return (
        "InfluxDB is not set: all is kept in the ledger, and the history follows once"
        " INFLUXDB_URL is set."
    )


# -- once -----------------------------------------------------------------------------------------


def run_once(program: Program) -> int:
    """Collect once, send once, say what came of it; return the exit code."""
    outcome = asyncio.run(_collect_once(program))
    configured = {collector.name for collector in program.registry.configured()}
    out(f"tokendash {__version__}, ledger {program.places.ledger}")
    if not configured - {"spool"}:
        out("\n".join(nothing_found(program)))
    failed = [health for health in outcome.health if health.error]
    for health in outcome.health:
        if health.runs and health.name != "spool":
            result = (
                f"failed: {health.error}" if health.error else f"{health.records:,} records read"
            )
            out(f"  {health.name:<14} {result}")
            if health.hint:
                out(f"  {'':<14} {health.hint}")
    with closing(open_reader(program.places.ledger)) as db:
        print_summary(program, db)
    if program.settings.influxdb_url:
        flush = outcome.flush
        if flush is not None and flush.error is not None:
            note(f"InfluxDB: {flush.error}; {flush.pending:,} points wait in the ledger")
            note(f"  {flush.error.hint}")
            return EXIT_TARGET
        if flush is not None:
            out(
                f"InfluxDB: {flush.sent:,} points sent, {flush.refused:,} refused,"
                f" {flush.pending:,} waiting"
            )
    else:
        out(_no_influxdb())
    return EXIT_COLLECTOR if failed else 0


async def _collect_once(program: Program) -> Outcome:
    progress = _Progress(program) if sys.stderr.isatty() else None
    on_stored = progress.note if progress else None
    async with opened(program, on_stored) as exporter:
        exporter.connect()
        try:
            return await exporter.once()
        finally:
            if progress is not None:
                progress.close()


class _Progress:
    """A bar over the files to be read, with the records found in them; on a terminal only."""

    def __init__(self, program: Program) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._collectors = {collector.name: collector for collector in program.registry.collectors}
        self._line = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[records]:,} records"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._records: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}
        self._line.start()

    def note(self, name: str, stored: Stored) -> None:
        """Count one stored batch of a collector."""
        if name not in self._tasks:
            total = self._collectors[name].expected or None
            self._tasks[name] = self._line.add_task(visible(name), total=total, records=0)
        self._records[name] = self._records.get(name, 0) + stored.points
        self._line.update(self._tasks[name], advance=stored.files, records=self._records[name])

    def close(self) -> None:
        """Take the bar away."""
        self._line.stop()


def print_summary(program: Program, db: sqlite3.Connection) -> None:
    """Today, the last seven days, the month and all time, in the money meanings that occur."""
    start = program.calendar.day_start
    today = program.calendar.day_of(int(program.clock().timestamp()))
    end = start(today + timedelta(days=1))
    periods = {
        "today": glance.sums_of(db, start(today), end),
        "last_7_days": glance.sums_of(db, start(today - timedelta(days=6)), end),
        "this_month": glance.sums_of(db, start(today.replace(day=1)), end),
        "all_time": glance.sums_of(db, 0, end),
    }
    everything = periods["all_time"]
    if not everything["requests"] and not glance.total_tokens(everything):
        return
    out()
    for line in tables.plain_lines(periods_table(periods), is_tall=True):
        out(line)
    out()
    if everything["unpriced_tokens"]:
        out(f"{everything['unpriced_tokens']:,} tokens have no price and are in no amount.")
    if everything["plan_unknown_nano"]:
        out("How is Claude Code paid? Set CLAUDE_CODE_PLAN to api, pro, max5, max20 or team.")


# -- dry run --------------------------------------------------------------------------------------


def _dry_run(program: Program) -> int:
    """Collect into a copy of the ledger that is thrown away, and print what it would send."""
    with tempfile.TemporaryDirectory(prefix="tokendash-dry-") as folder:
        copy = Path(folder) / "ledger.db"
        if program.places.ledger.exists():
            with closing(open_reader(program.places.ledger)) as db:
                db.execute("VACUUM INTO ?", (str(copy),))
        trial = Program(program.environ, home=program.home, clock=program.clock,
                        overrides={"DB_PATH": str(copy), "INFLUXDB_URL": ""})  # fmt: skip
        health = asyncio.run(_print_lines(trial))
        shutil.rmtree(folder, ignore_errors=True)
    return EXIT_COLLECTOR if any(item.error for item in health) else 0


async def _print_lines(program: Program) -> list[Any]:
    from collectors.outputs.lines import LineBuilder

    builder = LineBuilder()
    async with opened(program) as exporter:
        outbox = GuardedOutbox(exporter.ledger)
        target = outbox.target("dry-run:", "", "")
        now = program.clock().timestamp()
        while rows := outbox.due(target, 5_000, now):
            outbox.acknowledge(target, rows, now)
        outcome = await exporter.once()
        while rows := outbox.due(target, 5_000, now):
            outbox.acknowledge(target, rows, now)
            for row in rows:
                out(builder.line(row))
    return outcome.health


# -- before a report ------------------------------------------------------------------------------


def collect_quietly(program: Program) -> str | None:
    """Take in what is new before a report; a note for the user when that was not possible."""
    lock = WriterLock(program.places.ledger)
    if lock.is_held():
        return None  # the daemon takes it in by itself; its age is shown by the caller
    prepare_logs(program, quiet=True)
    try:
        health = asyncio.run(_collect_only(program))
    except LedgerLockedError:
        return None
    failed = [f"{item.name}: {item.error}" for item in health if item.error]
    return "; ".join(failed) or None


async def _collect_only(program: Program) -> list[Any]:
    async with opened(program) as exporter:
        return await _run_collectors(exporter)


async def _run_collectors(exporter: Exporter) -> list[Any]:
    return await exporter.orchestrator.run_all_once()
