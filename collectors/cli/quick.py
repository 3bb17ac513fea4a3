"""Commands that answer at once: dispatched before parser, pydantic, msgspec and rich are imported.

`status` never needs them. `report` is understood here when it is plainly written, because the full
parser takes longer to start than most reports take; anything else is left to the parser.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from collectors import __version__
from collectors.cli import tables
from collectors.cli.console import guarded, has_colour, out, out_json, visible
from collectors.cli.light import Light, ago, iso
from collectors.cli.tables import Cell, Column, Table
from collectors.clock import Clock, system_clock
from collectors.ledger import glance
from collectors.ledger.files import WriterLock

COMMANDS: Final = ("status", "report")

TOP_MODELS = 5
SOURCE_OF_TRANSCRIPTS = "claude-code"
# What was collected a day ago cannot be near the end of a month: no look at the files is needed.
_RECENT = 86_400
_MONEY: Final = (
    ("cost_nano", "paid"),
    ("api_equivalent_nano", "subscription,\nat list price"),
    ("plan_unknown_nano", "plan unknown,\nat list price"),
)


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a quick command, or hand it to the full parser; return its exit code."""
    if arguments[0] == "status" and set(arguments[1:]) <= {"--json"}:
        as_json = len(arguments) > 1
        return guarded(lambda: show_status(environ, as_json=as_json))
    if arguments[0] == "report":
        from collectors.cli import reports

        request = reports.parse(arguments)
        if request is not None:
            return guarded(lambda: reports.run(request, environ))
    from collectors.cli import app

    return app.run(arguments, environ)


@dataclass
class Status:
    """Everything `status` shows."""

    ledger: Path
    zone: str
    now: datetime
    holder: int | None = None  # process that writes the ledger; 0: one that is not known
    db_bytes: int | None = None  # None: there is no ledger yet
    periods: dict[str, dict[str, int]] = field(default_factory=dict)
    models: list[glance.ModelSums] = field(default_factory=list)
    data: dict[str, int] = field(default_factory=dict)
    runs: dict[str, glance.LastRun] = field(default_factory=dict)
    targets: list[glance.Target] = field(default_factory=list)
    refused: int = 0
    unpriced: int = 0
    hints: list[str] = field(default_factory=list)

    def age(self, epoch_seconds: float) -> float:
        """Seconds since a moment; a clock that was set back makes it 0."""
        return max(0.0, self.now.timestamp() - epoch_seconds)


def show_status(environ: Mapping[str, str], *, as_json: bool, clock: Clock = system_clock) -> int:
    """Print the status of this installation."""
    status = read_status(Light(environ, clock))
    if as_json:
        out_json(_as_json(status))
    else:
        _print(status, is_coloured=has_colour(sys.stdout, environ))
    return 0


def read_status(light: Light) -> Status:
    """Read what `status` shows; writes nothing."""
    lock = WriterLock(light.ledger)
    status = Status(light.ledger, str(light.calendar.zone), light.now)
    if lock.is_held():
        status.holder = lock.holder()
    if light.ledger.exists():
        status.db_bytes = light.ledger.stat().st_size
        db = light.open()
        try:
            _read_ledger(db, light, status)
        finally:
            db.close()
    status.hints = _hints(light, status)
    return status


def _read_ledger(db: sqlite3.Connection, light: Light, status: Status) -> None:
    start, today = light.calendar.day_start, light.today
    tomorrow = start(today + timedelta(days=1))
    ranges = {
        "today": (start(today), tomorrow),
        "yesterday": (start(today - timedelta(days=1)), start(today)),
        "last_7_days": (start(today - timedelta(days=6)), tomorrow),
        "this_month": (start(today.replace(day=1)), tomorrow),
        "last_30_days": (start(today - timedelta(days=29)), tomorrow),
    }
    sums = {name: glance.sums_of(db, *span) for name, span in ranges.items()}
    status.unpriced = sums.pop("last_30_days")["unpriced_tokens"]
    status.periods = sums
    models = glance.models_of(db, *ranges["today"])
    status.models = sorted(models, key=_weight, reverse=True)[:TOP_MODELS]
    status.data = glance.last_data(db)
    status.runs = glance.last_runs(db)
    status.targets = glance.targets(db)
    status.refused = glance.refused(db)


def _weight(model: glance.ModelSums) -> tuple[int, int]:
    named = model.named
    return sum(named[name] for name, _ in _MONEY), glance.total_tokens(named)


def _hints(light: Light, status: Status) -> list[str]:
    hints = []
    if status.db_bytes is None:
        hints.append("There is no ledger yet: `tokendash --once` makes it and takes in your logs.")
    warning = _cleanup_warning(light, status)
    if warning:
        hints.append(warning)
    hints += [
        f"{run.collector} failed {ago(status.age(run.started_at))}: {run.error}"
        + (f" ({run.hint})" if run.hint else "")
        for run in status.runs.values()
        if run.error
    ]
    if status.unpriced:
        hints.append(
            f"{status.unpriced:,} tokens of the last 30 days have no price and are in no amount:"
            " `tokendash prices --unpriced` says why."
        )
    if status.periods and status.periods["last_7_days"]["plan_unknown_nano"]:
        hints.append(
            "How is Claude Code paid? Set CLAUDE_CODE_PLAN to api, pro, max5, max20 or team."
        )
    if status.refused:
        words = ("record", "the reason") if status.refused == 1 else ("records", "the reasons")
        hints.append(
            f"{status.refused:,} {words[0]} could not be read: `tokendash check` names {words[1]}."
        )
    if any(target.dead_letters for target in status.targets):
        hints.append("InfluxDB refused points: `tokendash dead` lists them.")
    if status.db_bytes is not None and not light.layers.find("INFLUXDB_URL"):
        hints.append("INFLUXDB_URL is not set: the ledger keeps everything until it is.")
    return hints + list(light.layers.notes)


def _cleanup_warning(light: Light, status: Status) -> str:
    """What the agent is about to delete that was never collected; empty when all is well."""
    run = status.runs.get(SOURCE_OF_TRANSCRIPTS)
    is_fresh = run is not None and status.age(run.started_at) < _RECENT
    if not (run is not None and run.error) and (status.holder is not None or is_fresh):
        return ""
    usual = (Path.home() / ".claude/projects", Path.home() / ".config/claude/projects")
    elsewhere = light.environ.get("XDG_CONFIG_HOME") or light.layers.find("CLAUDE_CONFIG_DIR")
    if not elsewhere and not any(folder.is_dir() for folder in usual):
        return ""
    from collectors.cli.cleanup import warn_of_cleanup  # a look at every file: half a second

    return warn_of_cleanup(light)


# -- as JSON --------------------------------------------------------------------------------------


def _as_json(status: Status) -> dict[str, Any]:
    return {
        "version": __version__,
        "running": status.holder is not None,
        "pid": status.holder or None,
        "ledger": str(status.ledger),
        "db_bytes": status.db_bytes,
        "tz": status.zone,
        "timestamp": iso(status.now.timestamp()),
        "periods": {name: glance.fields(sums) for name, sums in status.periods.items()},
        "top_models_today": [
            {
                "source": model.source,
                "provider": model.provider,
                "model": model.model,
                **glance.fields(model.named),
            }
            for model in status.models
        ],
        "sources": [
            {"source": source, "last_data": iso(start), "age_s": round(status.age(start))}
            for source, start in status.data.items()
        ],
        "collectors": [
            {
                "collector": run.collector,
                "last_run": iso(run.started_at),
                "error": run.error,
                "hint": run.hint,
            }
            for run in status.runs.values()
        ],
        "targets": [target._asdict() for target in status.targets],
        "refused": status.refused,
        "unpriced_tokens": status.unpriced,
        "hints": status.hints,
    }


# -- for people -----------------------------------------------------------------------------------


def _print(status: Status, *, is_coloured: bool) -> None:
    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if is_coloured else text

    if status.holder is None:
        state = paint("not running", "33")
    else:
        who = f", process {status.holder}" if status.holder else ""
        state = paint("running", "32") + who
    out(f"{paint('tokendash', '1')} {__version__}: {state}")
    size = "" if status.db_bytes is None else f" ({status.db_bytes / 1e6:,.1f} MB)"
    out(f"ledger {visible(str(status.ledger))}{size}, days in {status.zone}")
    if status.periods:
        out()
        head, *rest = _table_lines(periods_table(status.periods))
        out("\n".join([*(paint(line, "1") for line in head), *rest]))
    if status.models:
        out()
        out(paint("Top models today", "1"))
        for line in _bare_lines(_models_rows(status)):
            out(f"  {line}")
    if status.data:
        out()
        out(paint("Sources", "1"))
        for line in _bare_lines(_source_rows(status)):
            out(f"  {line}")
    for target in status.targets:
        out()
        waiting = f"{target.pending:,} points wait to be sent" if target.pending else "all is sent"
        dead = f", {target.dead_letters:,} were refused" if target.dead_letters else ""
        place = f"{visible(target.url)} {visible(target.bucket)}"
        out(f"{paint('InfluxDB', '1')} {place}: {waiting}{dead}")
    if status.hints:
        out()
        for hint in status.hints:
            out(f"{paint('!', '1;33')} {visible(hint)}")


def _table_lines(table: Table) -> tuple[list[str], *tuple[str, ...]]:
    lines = tables.plain_lines(table, is_tall=True)
    head = max(column.title.count("\n") + 1 for column in table.columns)
    return lines[:head], *lines[head:]


def _bare_lines(rows: list[list[Cell]]) -> list[str]:
    if not rows:
        return []
    columns = [Column("", is_number=cell.style == "number") for cell in rows[0]]
    return tables.plain_lines(Table(columns, rows), is_tall=True)[2:]


def _money(sums: Mapping[str, int], fields: Sequence[str]) -> list[Cell]:
    has_money = any(sums[name] for name in fields)
    cells = []
    for index, name in enumerate(fields):
        if sums[name]:
            cells.append(
                Cell(("≥" if sums["unpriced_tokens"] else "") + tables.dollars(sums[name]))
            )
        elif sums["unpriced_tokens"] and not has_money:
            cells.append(Cell("" if index else "unpriced"))
        else:
            cells.append(Cell("$0.00" if len(fields) == 1 else "-"))
    return cells


def _meanings(sums: Sequence[Mapping[str, int]]) -> list[tuple[str, str]]:
    found = [pair for pair in _MONEY if any(each[pair[0]] for each in sums)]
    return found or [_MONEY[0]]


def periods_table(periods: Mapping[str, Mapping[str, int]]) -> Table:
    """Requests, tokens and the meanings of money that occur, a row per period."""
    meanings = _meanings(list(periods.values()))
    rows = []
    for name, sums in periods.items():
        cells = [Cell(name.replace("_", " ")), tables.count(sums["requests"])]
        cells.append(tables.count(glance.total_tokens(sums)))
        rows.append(cells + _money(sums, [column for column, _ in meanings]))
    columns = [Column("", is_number=False), Column("requests"), Column("tokens")]
    return Table(columns + [Column(title) for _, title in meanings], rows)


def _models_rows(status: Status) -> list[list[Cell]]:
    meanings = _meanings([model.named for model in status.models])
    rows = []
    for model in status.models:
        tokens = f"{tables.compact(glance.total_tokens(model.named))} tokens"
        cells = [tables.name(model.model), Cell(tokens, style="number")]
        money = _money(model.named, [column for column, _ in meanings])
        rows.append(cells + [Cell(cell.text, style="number") for cell in money])
    return rows


def _source_rows(status: Status) -> list[list[Cell]]:
    rows = []
    for source, start in sorted(status.data.items()):
        run = status.runs.get(source)
        if run is None:
            state = ""
        else:
            age = ago(status.age(run.started_at), exact=True)
            state = f"failed {age}" if run.error else f"last read {age}"
        rows.append(
            [tables.name(source), Cell(f"newest data {ago(status.age(start))}"), Cell(state)]
        )
    return rows
