"""Commands that change or copy what is kept: by themselves, or through the process that writes."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from collectors.cli.console import note, out
from collectors.composition import Program
from collectors.errors import LedgerError, LedgerLockedError, SettingsError, TokendashError
from collectors.layers import REPOSITORY
from collectors.ledger.backup import list_backups, write_copy
from collectors.ledger.files import WriterLock, open_reader
from collectors.ledger.prune import plan, prune
from collectors.ledger.recovery import open_restored
from collectors.ledger.store import Ledger

GRAFANA_PARTS = ("dashboards", "provisioning")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(replay)
    app.command()(backup)
    app.command()(restore)
    app.command("prune")(prune_command)
    app.command()(stack)
    app.command()(health)
    app.command()(export)


def through_writer(
    program: Program, name: str, arguments: Mapping[str, Any], direct: Callable[[Ledger], Any]
) -> Any:
    """Have the running daemon do it; without one, open the ledger and do it here.

    Raises:
        LedgerLockedError: another process writes the ledger and does not answer.
    """
    from collectors.web.control import ask

    answer = asyncio.run(ask(program.places.socket, name, arguments))
    if answer is not None:
        return answer
    ledger = program.open_ledger()
    try:
        return direct(ledger)
    finally:
        ledger.close()


def replay() -> None:
    """Send everything to InfluxDB again; nothing is counted twice."""
    program = Program(os.environ)
    answer = through_writer(
        program, "replay", {}, lambda ledger: {"pending": ledger.outbox.replay()}
    )
    out(f"{answer['pending']:,} points wait to be sent")
    if not program.settings.influxdb_url:
        note("INFLUXDB_URL is not set: nothing is sent until it is")


def backup(
    to: Annotated[Path, typer.Option(help="The file to write; it must not exist yet")],
) -> None:
    """Copy the ledger while it is in use; the copy counts only once it was verified."""
    program = Program(os.environ)
    # One name for every step: a shell leaves the ~ of `--to=~/copy.db` alone.
    target = Path(os.path.abspath(to.expanduser()))  # noqa: PTH100 - links stay what they are
    if os.path.lexists(target):
        raise SettingsError(f"{target} exists already", "name a new file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(target.parent, os.W_OK | os.X_OK)
    except OSError as error:
        raise SettingsError(
            f"the folder {target.parent} cannot be made: {error.strerror}", "name another place"
        ) from None
    if not is_writable:
        raise SettingsError(f"{target.parent} cannot be written by this user", "name another place")
    with (
        closing(open_reader(program.places.ledger)) as db,
        # In a folder of its own, a copy that fails leaves nothing, and none is taken for another.
        TemporaryDirectory(prefix=".tokendash-", dir=target.parent) as folder,
    ):
        copy = write_copy(db, program.places.ledger, Path(folder), now=program.clock())
        copy.rename(target)
    out(f"{target}, {target.stat().st_size:,} bytes, verified")


def restore(
    file: Annotated[Path | None, typer.Argument(help="A backup; default: the newest one")] = None,
) -> None:
    """Put a backup in the ledger's place; the present ledger is moved aside, never deleted."""
    program = Program(os.environ)
    if file is None:
        found = list_backups(program.places.backups)
        if not found:
            raise SettingsError(
                f"there is no backup in {program.places.backups}", "name a file to restore"
            )
        file = found[0]
    ledger, aside = open_restored(
        program.places.ledger, file, program.open_ledger, now=program.clock
    )
    ledger.close()
    out(f"restored {file}")
    if aside is not None:
        out(f"the ledger of before is {aside}")
    out("Logs are read again from their start: what is missing in the backup is counted once.")


def prune_command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do")] = False,
    older_than: Annotated[
        int, typer.Option(help="Days of detail to keep; default: HISTORY_RETENTION_DAYS")
    ] = 0,
    fold_unsent: Annotated[
        bool,
        typer.Option(
            "--fold-unsent",
            help="Fold also what InfluxDB was never sent; its days go out as daily sums only",
        ),
    ] = False,
) -> None:
    """Fold old detail into daily sums; no total changes."""
    program = Program(os.environ)
    days = older_than or program.settings.history_retention_days
    if days <= 0:
        raise SettingsError(
            "everything is kept: HISTORY_RETENTION_DAYS is 0",
            "set it, or say how much detail to keep: tokendash prune --older-than 400",
        )
    before = int((program.clock() - timedelta(days=days)).timestamp() * 1000)
    with closing(open_reader(program.places.ledger)) as db:
        figures = plan(db, program.calendar, before)
    out(
        f"{figures.records:,} records of {figures.days:,} days become {figures.becomes:,};"
        f" {figures.unsent:,} points of them were never sent"
    )
    if dry_run or not figures.records:
        return
    if figures.unsent and not fold_unsent:
        raise LedgerError(
            f"{figures.unsent:,} points older than that have not reached InfluxDB yet",
            "let `tokendash run` send them first; or fold them as well: tokendash prune"
            " --fold-unsent (their days are sent in token_usage_daily)",
        )
    lock = WriterLock(program.places.ledger)
    if lock.is_held():
        raise LedgerLockedError(
            f"process {lock.holder()} writes this ledger", "stop it for the time of pruning"
        )
    ledger = program.open_ledger()
    try:
        done = prune(ledger, before, drops_unsent=fold_unsent)
    finally:
        ledger.close()
    out(f"folded {done.records:,} records into {done.became:,}")


def stack() -> None:
    """Connect this machine's logs to the compose stack: writes docker-compose.override.yml."""
    from collectors.cli.stack import describe, write_stack

    program = Program(os.environ)
    report = write_stack(
        REPOSITORY,
        os.environ,
        program.home,
        zone=str(program.calendar.zone),
        host_name=program.host,
    )
    for line in describe(report):
        out(line)


def health() -> None:
    """Exit 0 while the exporter of this ledger answers; for a container's health check."""
    from collectors.web.control import ask

    program = Program(os.environ)
    answer = asyncio.run(ask(program.places.socket, "health", {}, limit=5))
    if answer is None:
        raise TokendashError("no exporter answers", "start it: tokendash run")
    out(f"version {answer['version']}, up {answer['uptime_s']} s, process {answer['pid']}")


def export(
    what: Annotated[str, typer.Argument(help="dashboards")],
    to: Annotated[Path, typer.Option("--out", help="The folder to write to")],
) -> None:
    """Write dashboards and provisioning files for a Grafana of your own."""
    if what != "dashboards":
        raise SettingsError(f"there is nothing named {what!r} to export", "export dashboards")
    source = grafana_files()
    written = 0
    for part in GRAFANA_PARTS:
        shutil.copytree(source / part, to / part, dirs_exist_ok=True)
        written += sum(path.is_file() for path in (source / part).rglob("*"))
    out(f"{written} files in {to}")
    out("In Grafana: Dashboards, New, Import; choose your InfluxDB data source (InfluxQL).")


def grafana_files() -> Path:
    """The Grafana folder: of the repository, or as packaged in the wheel."""
    packaged = Path(__file__).resolve().parents[1] / "data" / "grafana"
    return packaged if packaged.is_dir() else REPOSITORY / "grafana"
