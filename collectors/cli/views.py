"""Commands that show one thing each: status, providers, burn, prices, config, paths, dead."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from collectors.base import AnyCollector
from collectors.cli import quick, tables
from collectors.cli.console import out, out_json, visible
from collectors.cli.light import Light, ago, iso
from collectors.cli.options import present
from collectors.cli.reports import meanings_in, money_cells
from collectors.cli.tables import LOUD, NAME, TEXT, Cell, Column, Table
from collectors.clock import BUCKET_SECONDS
from collectors.composition import Program
from collectors.ledger import glance, reports
from collectors.ledger.outbox import MEASUREMENTS
from collectors.ledger.reports import Usage
from collectors.registry import is_configured

Json = Annotated[bool, typer.Option("--json", help="One JSON object")]
NoCollect = Annotated[
    bool, typer.Option("--no-collect", help="Only read the ledger; take in nothing new first")
]
# Hours up to now; "last 7 days" elsewhere means local days, of which today is one.
WINDOWS: Final = {"last hour": 1, "last 24 hours": 24, "last 168 hours": 168}
_HOUR = 3600


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    from collectors.cli import prices

    app.command()(status)
    app.command()(providers)
    app.command()(burn)
    prices.register(app)
    app.command()(config)
    app.command()(paths)
    app.command()(dead)


def status(context: typer.Context, as_json: Json = False) -> int:
    """Show on one screen what is used, what is behind, and what needs attention."""
    return quick.show_status(context.obj, as_json=as_json)


@contextlib.contextmanager
def reading(light: Light) -> Iterator[sqlite3.Connection | None]:
    """The ledger for reading, or None while there is none."""
    if not light.ledger.exists():
        yield None
        return
    with contextlib.closing(light.open()) as db:
        yield db


# -- providers ------------------------------------------------------------------------------------


def providers(context: typer.Context, as_json: Json = False) -> int:
    """Show every collector: configured or not, where it looks, how its last run went."""
    light = Light(context.obj)
    program = Program(context.obj, clock=light.clock)
    with reading(light) as db:
        rows = provider_rows(program, db)
    problems = [
        {"error": str(problem), "hint": problem.hint} for problem in program.registry.problems
    ]
    if as_json:
        out_json({"rows": rows, "problems": problems})
        return 0
    columns = [
        Column("Collector", is_number=False),
        Column("Configured", is_number=False),
        Column("Last success", is_number=False),
        Column("Records"),
        Column("Looked for", is_number=False, least=TEXT, can_wrap=True),
    ]
    now = light.now.timestamp()
    table = Table(columns)
    for row in rows:
        success = row["last_success"]
        when = "never" if success is None else ago(now - _epoch(success), exact=True)
        found = row["configured"]
        table.rows.append(
            [
                tables.name(row["collector"]),
                Cell("yes") if found else Cell("no", style="dim"),
                Cell(when, style="" if success else "dim"),
                tables.count(row["records"]) if row["counts_as"] == row["collector"]
                # A collector that fills another's gaps has no records of its own name.
                else Cell(f"in {visible(row['counts_as'])}", style="dim"),
                Cell("\n".join(visible(place) for place in row["looked_for"])),
            ]
        )  # fmt: skip
    table.notes = [
        Cell(f"{row['collector']}: {visible(row['error'])}"
             + (f" – {visible(row['hint'])}" if row["hint"] else ""), style=LOUD)
        for row in rows
        if row["error"]
    ] + [Cell(visible(f"{p['error']} – {p['hint']}"), style=LOUD) for p in problems]  # fmt: skip
    tables.show(table, context.obj)
    return 0


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def provider_rows(program: Program, db: sqlite3.Connection | None) -> list[dict[str, Any]]:
    """One row per collector that is switched on."""
    success = reports.last_success(db) if db else {}
    runs = glance.last_runs(db) if db else {}
    records = glance.record_counts(db) if db else {}
    rows = []
    for collector in program.registry.collectors:
        run = runs.get(collector.name)
        rows.append(
            {
                "collector": collector.name,
                "counts_as": collector.counts_as(),
                "description": description_of(collector),
                "configured": is_configured(collector),
                "looked_for": [str(place) for place in collector.looked_for()],
                "last_success": iso(success.get(collector.name)),
                "last_run": iso(run.started_at if run else None),
                "records": records.get(collector.name, 0),
                "error": run.error if run else "",
                "hint": run.hint if run else "",
            }
        )
    return rows


def description_of(collector: AnyCollector) -> str:
    """What a collector reads: the first line of its class."""
    return (type(collector).__doc__ or "").strip().split("\n")[0]


# -- burn -----------------------------------------------------------------------------------------


def burn(context: typer.Context, as_json: Json = False, no_collect: NoCollect = False) -> int:
    """Show spend and tokens per hour and per day: the last hour, 24 and 168 hours."""
    light = Light(context.obj)
    if not no_collect:
        light.refresh()
    with contextlib.closing(light.open()) as db:
        found = burned(db, light.now)
    if as_json:
        out_json({"rows": [burn_row(name, usage) for name, usage in found.items()]})
        return 0
    meanings = meanings_in(found.values())
    columns = [Column("", is_number=False), Column("Tokens"), Column("Tokens\nper hour")]
    for meaning in meanings:
        title = meaning.title.replace("\n", " ")
        columns += [Column(f"{title}\nper hour"), Column("\nper day")]
    table = Table(columns)
    for name, usage in found.items():
        hours = WINDOWS[name]
        cells = [Cell(name), tables.count(usage.total_tokens)]
        cells.append(tables.count(round(usage.total_tokens / hours)))
        for meaning, cell in zip(meanings, money_cells(usage, meanings), strict=True):
            nano = meaning.of(usage)
            if not nano:
                cells += [cell, cell]
                continue
            sign = cell.text[: cell.text.startswith("≥")]
            for per in (nano / hours, nano * 24 / hours):
                cells.append(Cell(sign + tables.dollars(round(per))))
        table.rows.append(cells)
    table.notes = [
        Cell(meaning.explanation, style="dim") for meaning in meanings if meaning.explanation
    ]
    tables.show(table, context.obj)
    return 0


def burned(db: sqlite3.Connection, now: datetime) -> dict[str, Usage]:
    """What was used in each window up to now."""
    # Data lies in buckets: a window ends with the bucket that is being filled.
    end = int(now.timestamp()) // BUCKET_SECONDS * BUCKET_SECONDS + BUCKET_SECONDS
    return {
        name: Usage(*glance.sums_of(db, end - hours * _HOUR, end).values())
        for name, hours in WINDOWS.items()
    }


def burn_row(name: str, usage: Usage) -> dict[str, Any]:
    """One window: its sums, and each per hour and per day."""
    hours = WINDOWS[name]
    fields = usage.fields()
    row: dict[str, Any] = {"window": name.replace(" ", "_"), "hours": hours}
    for key in ("requests", "total_tokens", "unpriced_tokens"):
        row |= {key: fields[key], f"{key}_per_hour": fields[key] / hours}
        row[f"{key}_per_day"] = fields[key] * 24 / hours
    for key in ("cost_usd", "api_equivalent_usd", "plan_unknown_usd"):
        row |= {key: fields[key], f"{key}_per_hour": fields[key] / hours}
        row[f"{key}_per_day"] = fields[key] * 24 / hours
    return row


# -- config, paths, dead --------------------------------------------------------------------------


def config(context: typer.Context, as_json: Json = False) -> int:
    """Show every setting, its value and where that comes from; never a secret."""
    program = Program(context.obj)
    settings, registry = program.settings, program.registry
    found = present(program.layers, settings, registry.collectors)
    if as_json:
        out_json(
            {
                "rows": [
                    {
                        "name": each.option.name,
                        "owner": each.option.owner,
                        "value": each.value,
                        "default": "" if each.option.is_secret else each.option.default,
                        "origin": each.origin,
                        "secret": each.option.is_secret,
                        "description": each.option.description,
                    }
                    for each in found
                ]
            }
        )
        return 0
    columns = [
        Column("Setting", is_number=False),
        Column("Value", is_number=False, least=NAME, can_wrap=True),
        Column("From", is_number=False, least=NAME, can_wrap=True),
        Column("What it does", is_number=False, least=TEXT, can_wrap=True, rank=1),
    ]
    table = Table(columns)
    for each in found:
        style = "dim" if each.origin == "default" else ""
        table.rows.append(
            [
                Cell(each.option.name),
                tables.name(each.value, style=style),
                tables.name(each.origin, style=style),
                tables.name(each.option.description, style="dim"),
            ]
        )
    table.notes = [Cell(visible(text), style=LOUD) for text in program.layers.notes]
    table.notes += [Cell(visible(f"{p}"), style=LOUD) for p in registry.problems]
    tables.show(table, context.obj)
    return 0


def paths(context: typer.Context, as_json: Json = False) -> int:
    """Show where everything lies: ledger, backups, settings, logs."""
    program = Program(context.obj)
    places = program.places
    found: dict[str, Sequence[object]] = {
        "ledger": [places.ledger],
        "backups": [places.backups],
        "spool": [places.spool],
        "socket": [places.socket],
        "config": [places.config],
        "settings": [origin for origin, _ in program.layers.files],
        **{
            f"logs of {collector.name}": list(collector.looked_for())
            for collector in program.registry.collectors
            if collector.name != "spool" and collector.looked_for()
        },
    }
    listed = {name: [str(path) for path in where] for name, where in found.items()}
    if as_json:
        out_json(listed)
        return 0
    width = max(len(name) for name in listed)
    for name, where in listed.items():
        for index, path in enumerate(where or ["none"]):
            out(f"{visible(name) if not index else '':<{width}}  {visible(path)}")
    return 0


def dead(context: typer.Context, as_json: Json = False) -> int:
    """List points that InfluxDB refused, and what it said."""
    light = Light(context.obj)
    with reading(light) as db:
        letters = glance.dead_letters(db) if db else []
    rows = [_letter(letter) for letter in letters]
    if as_json:
        out_json({"rows": rows})
        return 0
    if not rows:
        out("InfluxDB has refused nothing.")
        return 0
    columns = [
        Column("Refused", is_number=False),
        Column("Point at", is_number=False),
        Column("Measurement", is_number=False),
        Column("Status"),
        Column("Message", is_number=False, least=TEXT, can_wrap=True),
        Column("Tags", is_number=False, least=NAME, rank=1),
        Column("Target", is_number=False, least=NAME, rank=2),
    ]
    zone = light.calendar.zone
    table = Table(columns)
    for letter, row in zip(letters, rows, strict=True):
        moments = (letter.refused_at, letter.start)
        cells = [Cell(f"{datetime.fromtimestamp(m, zone):%Y-%m-%d %H:%M}") for m in moments]
        tags = ", ".join(f"{key}={value}" for key, value in row["tags"].items())
        cells += [
            Cell(row["measurement"]),
            Cell(str(letter.status)),
            tables.name(letter.message),
            tables.name(tags),
            tables.name(f"{letter.url} {letter.bucket}"),
        ]
        table.rows.append(cells)
    table.notes = [
        Cell(
            "The ledger keeps them; they are sent again when they change, or by `tokendash replay`."
        )
    ]
    tables.show(table, context.obj)
    return 0


def _letter(letter: glance.DeadLetter) -> dict[str, Any]:
    tags: Mapping[str, str] = dict(json.loads(letter.tags))
    return {
        "url": letter.url,
        "bucket": letter.bucket,
        "measurement": MEASUREMENTS.get(letter.measurement, str(letter.measurement)),
        "tags": dict(tags),
        "timestamp": iso(letter.start),
        "kind": letter.kind,
        "status": letter.status,
        "message": letter.message,
        "refused_at": iso(letter.refused_at),
    }
