"""`tokendash check`: everything that can be wrong with an installation, and what leaves it.

Reads only; nothing is collected, sent or changed. Ends with the exit code of the gravest finding: 2
for settings, 3 for a collector, 4 for InfluxDB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

import typer

from collectors import __version__
from collectors.cli.console import has_colour, out, out_json, terminal_width, visible
from collectors.cli.light import Light, ago
from collectors.cli.options import own_kinds, unknown_names
from collectors.cli.prices import unpriced_rows
from collectors.cli.views import provider_rows, reading
from collectors.composition import Program
from collectors.errors import LedgerError, SettingsError, TargetError, TokendashError
from collectors.ledger import glance, reports
from collectors.ledger.backup import list_backups, taken_at
from collectors.ledger.checks import (
    filesystem_warning,
    is_cut_off,
    is_damage,
    is_nonsense,
    verify,
)
from collectors.ledger.files import WriterLock
from collectors.ledger.identity import IdentityFile

if TYPE_CHECKING:
    from collectors.outputs.influx import InfluxTarget, Outbox

State = Literal["ok", "note", "warning", "error"]

SETTINGS, COLLECTOR, TARGET = 2, 3, 4
_GRAVEST_FIRST: Final = (SETTINGS, COLLECTOR, TARGET)
_REACH_SECONDS = 10.0
_FULL_BYTES = 200 << 20
_BACKUP_DAYS = 3
_SHOWN_PROBLEMS = 3
_MOUNTS: Final = Path("/proc/self/mounts")
_REPAIR: Final = (
    "the next start moves it aside and restores the newest backup that verifies;"
    " `tokendash restore` does it now"
)
_LOCAL: Final = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    section: str
    state: State
    text: str
    hint: str = ""
    exit_code: int = 0


@dataclass
class Report:
    """All findings, in the order they are shown."""

    findings: list[Finding] = field(default_factory=list)

    def add(self, section: str, state: State, text: str, hint: str = "", code: int = 0) -> None:
        """Note one thing."""
        self.findings.append(Finding(section, state, text, hint, code))

    def blame(self, section: str, error: TokendashError) -> None:
        """Note a failure with the exit code it stands for."""
        self.add(section, "error", str(error), error.hint, error.exit_code)

    @property
    def exit_code(self) -> int:
        """The code of the gravest finding; 0 when nothing failed."""
        codes = {finding.exit_code for finding in self.findings}
        return next((code for code in _GRAVEST_FIRST if code in codes), max(codes, default=0))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object")] = False,
) -> int:
    """Look for everything that can be wrong, and say what leaves this machine and where to."""
    light = Light(context.obj)
    report = Report()
    try:
        program = Program(context.obj, clock=light.clock)
        _settings(report, program)
    except SettingsError as error:
        report.blame("Settings", error)
    else:
        _collectors(report, program, light)
        _prices(report, program, light)
        _ledger(report, program, light)
        _target(report, program, light)
        _leaving(report, program)
    if as_json:
        out_json(
            {
                "version": __version__,
                "exit_code": report.exit_code,
                "findings": [vars(finding) for finding in report.findings],
            }
        )
    else:
        _print(report, light)
    return report.exit_code


def _print(report: Report, light: Light) -> None:
    is_coloured = has_colour(sys.stdout, light.environ)
    colours = {"ok": "32", "note": "2", "warning": "33", "error": "1;31"}
    signs = {"ok": "ok", "note": "  ", "warning": "! ", "error": "✗ "}
    width = terminal_width(sys.stdout, light.environ) if sys.stdout.isatty() else 10_000
    section = ""
    for finding in report.findings:
        if finding.section != section:
            if section:
                out()
            section = finding.section
            out(f"\x1b[1m{section}\x1b[0m" if is_coloured else section)
        sign = signs[finding.state]
        if is_coloured:
            sign = f"\x1b[{colours[finding.state]}m{sign}\x1b[0m"
        for index, line in enumerate(_wrapped(finding.text, width - 5)):
            out(f"  {'  ' if index else sign} {line}")
        for line in _wrapped(finding.hint, width - 7):
            out(f"       {line}")
    wrong = sum(finding.state == "error" for finding in report.findings)
    warned = sum(finding.state == "warning" for finding in report.findings)
    out()
    if wrong:
        out(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong.")
    elif warned:
        out(f"It works; {warned} {'thing deserves' if warned == 1 else 'things deserve'} a look.")
    else:
        out("All is well.")


def _wrapped(text: str, width: int) -> Iterator[str]:
    import textwrap

    for line in text.split("\n") if text else ():
        yield from textwrap.wrap(visible(line), max(20, width), break_on_hyphens=False) or [""]


# -- settings -------------------------------------------------------------------------------------


def _settings(report: Report, program: Program) -> None:
    settings = program.settings  # a wrong one ends the check: nothing else could be trusted
    section = "Settings"
    origins = [origin for origin, _ in program.layers.files]
    found = f"read from the environment{''.join(f', {origin}' for origin in origins)}"
    report.add(section, "ok", found)
    if not origins:
        report.add(section, "note", f"no .env or tokendash.yaml in {program.config_dir}")
    for text in program.layers.notes:
        report.add(section, "warning", text)
    kinds = [type(collector) for collector in program.registry.collectors]
    for origin, names in unknown_names(program.layers, [*own_kinds(), *kinds]).items():
        report.add(
            section,
            "warning",
            f"{origin} sets {', '.join(names)}, which nothing reads",
            "`tokendash config` lists the names there are",
        )
    report.add(section, "ok", f"days are cut in {program.calendar.zone}")
    for problem in program.registry.problems:
        report.blame(section, problem)
    if settings.influxdb_url:
        with contextlib.suppress(SettingsError):
            _plain_http(report, settings.influxdb_url)


def _plain_http(report: Report, url: str) -> None:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname and not _is_near(parts.hostname):
        report.add(
            "Settings",
            "warning",
            "INFLUXDB_URL is plain http to another network: its token can be read on the way",
            "use https",
        )


def _is_near(host: str) -> bool:
    """Loopback, a private address, or a name without a dot, as compose services have."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or "." not in host


# -- collectors -----------------------------------------------------------------------------------


def _collectors(report: Report, program: Program, light: Light) -> None:
    section = "Collectors"
    try:
        with reading(light) as db:
            rows = provider_rows(program, db)
    except (LedgerError, sqlite3.Error):
        rows = provider_rows(program, None)  # what is wrong with it is said below
    for row in rows:
        if row["collector"] == "spool":
            continue  # our own hand-over, not something the user sets up
        where = ", ".join(row["looked_for"])
        if row["error"]:
            report.add(
                section, "error", f"{row['collector']}: {row['error']}", row["hint"], COLLECTOR
            )
        elif row["configured"]:
            report.add(section, "ok", f"{row['collector']} reads {where or row['description']}")
        else:
            report.add(section, "note", f"{row['collector']}: nothing at {where}")
    if not any(row["configured"] for row in rows):
        report.add(
            section,
            "note",
            "nothing to read yet: what appears at these places is found by itself",
        )
    _overlaps(report, program)


def _overlaps(report: Report, program: Program) -> None:
    """Collectors whose use is another's as well, and how it is counted once."""
    configured = {collector.name: collector for collector in program.registry.configured()}
    for name, collector in configured.items():
        other = collector.counts_as()
        if other != name and other in configured:
            report.add(
                "Collectors",
                "note",
                f"{name} and {other} tell of the same use: {name} fills only days on which"
                f" {other} has nothing",
            )


# -- prices ---------------------------------------------------------------------------------------


def _prices(report: Report, program: Program, light: Light) -> None:
    section = "Prices"
    book = program.prices
    report.add(section, "ok", f"book {book.book_version}")
    for problem in book.problems:
        report.add(section, "error", str(problem), problem.hint, SETTINGS)
    try:
        rows = unpriced_rows(light, book)
    except (LedgerError, sqlite3.Error):
        return
    for row in rows:
        name = f"{row['provider']} {row['model']}"
        extras = [row["service_tier"], row["speed"], "batch" if row["batch"] else ""]
        if any(extras):
            name += f" ({', '.join(filter(None, extras))})"
        report.add(
            section,
            "warning",
            f"{row['tokens']:,} tokens of {name} have no price: {row['reason']}",
        )


# -- ledger ---------------------------------------------------------------------------------------


def _ledger(report: Report, program: Program, light: Light) -> None:
    section = "Ledger"
    path = program.places.ledger
    lock = WriterLock(path)
    if not path.exists():
        if IdentityFile(path).read() is None:
            report.add(section, "note", f"there is none at {path} yet; the first run makes it")
        else:
            report.add(
                section, "error", f"there is none at {path}, but one was here before", _REPAIR, 1
            )
        _folder(report, path.parent)
        return
    info = path.stat()
    report.add(section, "ok", f"{path}, {info.st_size / 1e6:,.1f} MB")
    if lock.is_held():
        report.add(section, "ok", f"written by process {lock.holder() or '(not known)'}")
    sides = [each for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")) if each.exists()]
    if any(stat.S_IMODE(each.stat().st_mode) & 0o077 for each in sides):
        report.add(
            section,
            "warning",
            f"{path} can be read by other users",
            f"chmod 600 {' '.join(map(str, sides))}",
        )
    _folder(report, path.parent)
    try:
        problems = _damage(light)
        if problems:
            more = len(problems) - _SHOWN_PROBLEMS
            named = "\n".join(problems[:_SHOWN_PROBLEMS])
            text = f"is damaged: {named}" + (f"\nand {more:,} more" if more > 0 else "")
            report.add(section, "error", text, _REPAIR, 1)
        else:
            with contextlib.closing(light.open()) as db:
                _contents(report, program, db)
    except LedgerError as error:
        report.blame(section, error)
    except sqlite3.Error as error:
        is_lasting = is_damage(error) or is_nonsense(error)
        hint = _REPAIR if is_lasting else "check the disk it is on, then try again"
        report.add(section, "error", f"cannot be read: {error}", hint, 1)
    _backups(report, program)


def _folder(report: Report, folder: Path) -> None:
    section = "Ledger"
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if not os.access(there, os.W_OK | os.X_OK):
        report.add(
            section,
            "error",
            f"{there} cannot be written by this user",
            "make it writable, or name another place by DB_PATH",
            SETTINGS,
        )
    with contextlib.suppress(OSError):  # a system without a mount table does not tell
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace")
        if warning := filesystem_warning(str(there.resolve()), mounts):
            report.add(section, "warning", warning)
    free = shutil.disk_usage(there).free
    if free < _FULL_BYTES:
        report.add(
            section, "warning", f"only {free / 1e6:,.0f} MB are free at {there}", "make room"
        )


def _damage(light: Light) -> list[str]:
    """What is wrong with the ledger, looked at as a whole: as a start and a backup look at it."""
    if is_cut_off(light.ledger):
        return ["the file is shorter than it says it is"]
    problems: list[str] = []
    for _ in range(2):  # one failed read looks like damage; over a new connection it is gone
        beside = IdentityFile(light.ledger).read()
        with contextlib.closing(light.open()) as db:
            problems = verify(db, is_full_check=True, beside=beside)
        if not problems:
            break
    return problems


def _contents(report: Report, program: Program, db: sqlite3.Connection) -> None:
    section = "Ledger"
    records = sum(glance.record_counts(db).values())
    days = reports.covered_days(db, program.calendar)
    covered = f", {days[0]} to {days[1]}" if days else ""
    report.add(section, "ok", f"{records:,} records{covered}")
    for source, reason, count, place in reports.refusals(db):
        report.add(
            section,
            "warning",
            f"{count:,} {'record' if count == 1 else 'records'} of {source} skipped: {reason}",
            f"such as in {place}" if place else "",
        )


def _backups(report: Report, program: Program) -> None:
    found = list_backups(program.places.backups)
    if not found:
        report.add("Ledger", "note", "no backup yet; a running exporter makes one a day")
        return
    age = (program.clock() - taken_at(found[0])).total_seconds()
    state: State = "warning" if age > _BACKUP_DAYS * 86_400 else "ok"
    word = "backup" if len(found) == 1 else "backups"
    text = f"{len(found)} {word} in {program.places.backups}, the newest {ago(age, exact=True)}"
    report.add("Ledger", state, text)


# -- InfluxDB -------------------------------------------------------------------------------------


def _target(report: Report, program: Program, light: Light) -> None:
    section = "InfluxDB"
    try:
        target = program.influx_target()
        if target is None:
            report.add(
                section, "note", "not set: the ledger keeps everything until INFLUXDB_URL is set"
            )
            return
        report.add(section, "ok", asyncio.run(_reach(target)))
    except SettingsError as error:
        report.blame(section, error)
        return
    except TargetError as error:
        report.blame(section, error)
    with contextlib.suppress(LedgerError, sqlite3.Error), reading(light) as db:
        for each in glance.targets(db) if db else ():
            if each.pending:
                report.add(section, "note", f"{each.pending:,} points wait for {each.url}")
            if each.dead_letters:
                report.add(
                    section,
                    "warning",
                    f"{each.url} refused {each.dead_letters:,} points",
                    "`tokendash dead` lists them",
                )


async def _reach(target: InfluxTarget) -> str:
    from collectors.outputs.influx import InfluxWriter

    # Whether it would take a write is asked of InfluxDB alone; no ledger is needed for that.
    writer = InfluxWriter(target, cast("Outbox", None), asyncio.to_thread, timeout=_REACH_SECONDS)
    try:
        return await writer.reachable()
    finally:
        await writer.close()


# -- what leaves this machine ---------------------------------------------------------------------


def _leaving(report: Report, program: Program) -> None:
    section = "What leaves this machine"
    settings = program.settings
    remote = [
        collector.name
        for collector in program.registry.configured()
        if not _is_file_reader(collector)
    ]
    if not settings.influxdb_url and not remote:
        report.add(section, "ok", "nothing")
        return
    for name in remote:
        report.add(section, "note", f"{name} asks its provider's API with the key you set")
    if not settings.influxdb_url:
        return
    from urllib.parse import urlsplit

    parts = urlsplit(settings.influxdb_url)
    place = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
    host = parts.hostname or ""
    here = " (this machine)" if host in _LOCAL else ""
    tags = ", ".join(settings.influxdb_tags)
    how = {"name": "by the last part of their path", "hash": "as a hash", "off": "not at all"}
    report.add(section, "note", f"to {place}{here}: token counts and amounts, tagged by {tags}")
    if "project" in settings.influxdb_tags:
        report.add(section, "note", f"projects are named {how[settings.project_tag]} (PROJECT_TAG)")
    if "host" in settings.influxdb_tags:
        report.add(section, "note", f"this machine is named {program.host} (HOST_NAME)")
    report.add(section, "ok", "no prompt, reply, path, session or key")


def _is_file_reader(collector: Any) -> bool:
    return collector.is_local or all(
        str(place).startswith(("/", "~")) for place in collector.looked_for()
    )
