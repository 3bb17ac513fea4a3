"""`tokendash report …`: what was used, by day, week, month, session, model or project."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, cast

from collectors.cli import tables
from collectors.cli.console import UsageError, out, out_json, visible
from collectors.cli.light import Light, iso
from collectors.cli.tables import NAME, Cell, Column, Table
from collectors.clock import Clock, system_clock
from collectors.ledger import reports
from collectors.ledger.reports import ReportRow, Usage

Form = Literal["table", "json", "csv"]

KINDS: Final = {
    "daily": "Use per day.",
    "weekly": "Use per week; weeks begin on Monday.",
    "monthly": "Use per month.",
    "models": "Use per source, provider and model.",
    "projects": "Use per project.",
    "sessions": "Use per session of an agent.",
}
_MODEL = 26  # claude-sonnet-4-5-20250929
_FIRST_YEAR, _LAST_YEAR = 2000, 2199
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Request:
    """What a report is asked for."""

    kind: str = "daily"
    since: str = ""
    until: str = ""
    form: Form = "table"
    collect: bool = True
    sources: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    all_columns: bool = False


@dataclass
class Answer:
    """A report, before it takes a form."""

    request: Request
    rows: list[dict[str, Any]]
    totals: Usage
    table: Callable[[], Table]
    covered: tuple[date, date] | None = None


def run(request: Request, environ: Mapping[str, str], clock: Clock = system_clock) -> int:
    """Answer one request on stdout."""
    light = Light(environ, clock)
    since, until = day_range(request, light.today)
    if request.collect:
        light.refresh()
    answer = answer_to(request, light, since, until)
    if request.form == "json":
        out_json({"rows": answer.rows, "totals": answer.totals.fields()})
    elif request.form == "csv":
        write_csv(answer.rows)
    elif answer.rows:
        tables.show(answer.table(), environ)
    else:
        out("Nothing was counted" + (" in this range." if answer.covered else " yet."))
        if answer.covered:
            out(f"The ledger covers {answer.covered[0]} to {answer.covered[1]}.")
    return 0


# -- days -----------------------------------------------------------------------------------------


def parse_day(text: str, today: date, option: str) -> date:
    """A day as people write it: 2026-03-14, `today`, `yesterday`, or `7d` for the last seven days.

    Raises:
        UsageError: it is none of these.
    """
    word = text.strip().lower()
    if word == "today":
        return today
    if word == "yesterday":
        return today - timedelta(days=1)
    if re.fullmatch(r"[1-9][0-9]{0,4}d", word):
        return today - timedelta(days=int(word[:-1]) - 1)
    try:
        day = date.fromisoformat(word)
    except ValueError:
        day = date.min
    if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
        raise UsageError(
            f"{option} is {visible(text)!r}, which is not a day",
            "write it as 2026-03-14, today, yesterday, 7d or 30d",
        )
    return day


def day_range(request: Request, today: date) -> tuple[date | None, date | None]:
    """First and last day asked for.

    Raises:
        UsageError: one is not a day, or they are the wrong way round.
    """
    since = parse_day(request.since, today, "--since") if request.since else None
    until = parse_day(request.until, today, "--until") if request.until else None
    if since and until and since > until:
        raise UsageError(
            f"--since {since} is after --until {until}", "exchange them, or leave one out"
        )
    return since, until


# -- answers --------------------------------------------------------------------------------------


def answer_to(request: Request, light: Light, since: date | None, until: date | None) -> Answer:
    """Read the ledger for one request."""
    db = light.open()
    try:
        covered = reports.covered_days(db, light.calendar)
        if request.kind == "sessions":
            if request.providers:
                raise UsageError(
                    "a session may use several providers and cannot be cut by one",
                    "use `report models --provider …`, or leave --provider out",
                )
            found = [
                session
                for session in reports.sessions(db, light.calendar, since=since, until=until)
                if not request.sources or session.source in request.sources
            ]
            answer = _sessions(request, found[::-1], light)
        else:
            period = request.kind if request.kind in ("daily", "weekly", "monthly") else "total"
            by: list[reports.Dimension] = ["source", "provider", "model"]
            if request.kind == "projects":
                by = ["source", "provider", "project"]
            rows = [
                row
                for row in reports.report(
                    db,
                    light.calendar,
                    period=cast("reports.Period", period),
                    by=by,
                    since=since,
                    until=until,
                )
                if (not request.sources or row.keys["source"] in request.sources)
                and (not request.providers or row.keys["provider"] in request.providers)
            ]
            answer = _usage(request, rows)
    finally:
        db.close()
    answer.covered = covered
    return answer


def _usage(request: Request, rows: list[ReportRow]) -> Answer:
    totals = reports.total_of(rows)
    if request.kind == "models":
        return Answer(
            request,
            [row.as_json() for row in rows],
            totals,
            lambda: _models_table(rows, totals, request),
        )
    if request.kind == "projects":
        projects = _folded(rows, "project")
        return Answer(
            request,
            [row.as_json() for row in projects],
            totals,
            lambda: _projects_table(projects, totals, request),
        )
    return Answer(
        request,
        [row.as_json() for row in rows],
        totals,
        lambda: _periods_table(rows, totals, request),
    )


def _folded(rows: Iterable[ReportRow], key: str) -> list[ReportRow]:
    """Rows that differ in other keys only, added up."""
    folded: dict[str, ReportRow] = {}
    for row in rows:
        value = row.keys[key]
        if value not in folded:
            folded[value] = ReportRow(row.period, {key: value}, Usage())
        folded[value].usage.add(row.usage)
    return list(folded.values())


def _sessions(request: Request, found: list[reports.Session], light: Light) -> Answer:
    totals = Usage()
    for session in found:
        totals.add(session.usage)
    rows = [
        {
            "source": session.source,
            "session": session.session,
            "project": session.project,
            "branch": session.branch,
            "first_timestamp": iso(session.first_ms / 1000, "milliseconds"),
            "last_timestamp": iso(session.last_ms / 1000, "milliseconds"),
            **session.usage.fields(),
        }
        for session in found
    ]
    return Answer(request, rows, totals, lambda: _sessions_table(found, totals, request, light))


def write_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows for a spreadsheet; no name in them can act as a formula or on the terminal."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if rows:
        writer.writerow(rows[0].keys())
    for row in rows:
        writer.writerow(
            _csv_text(value) if isinstance(value, str) else value for value in row.values()
        )


def _csv_text(text: str) -> str:
    return visible(f"'{text}" if text.startswith(_FORMULA) else text)


# -- tables ---------------------------------------------------------------------------------------


class Meaning:
    """One of the three meanings of money; they are never added up."""

    def __init__(self, field_name: str, title: str, explanation: str) -> None:
        self.field = field_name
        self.title = title
        self.explanation = explanation

    def of(self, usage: Usage) -> int:
        """Nano-dollars of this meaning."""
        return int(getattr(usage, self.field))


MEANINGS: Final = (
    Meaning("cost_nano", "Paid", ""),
    Meaning(
        "api_equivalent_nano",
        "Subscription,\nat list price",
        "Subscription at list price: what this use would cost per token; it is not spent.",
    ),
    Meaning(
        "plan_unknown_nano",
        "Plan unknown,\nat list price",
        "Plan unknown: set CLAUDE_CODE_PLAN to api, pro, max5, max20 or team to say whether"
        " this is spent.",
    ),
)


def meanings_in(usages: Iterable[Usage]) -> list[Meaning]:
    """The meanings that occur; the first one when there is no money at all."""
    found = list(usages)
    return [m for m in MEANINGS if any(m.of(usage) for usage in found)] or [MEANINGS[0]]


def money_cells(usage: Usage, meanings: Sequence[Meaning]) -> list[Cell]:
    """Money of a row; what has no price is `unpriced` or makes the rest a lower bound, never $0."""
    has_money = any(m.of(usage) for m in meanings)
    cells = []
    for index, meaning in enumerate(meanings):
        nano = meaning.of(usage)
        if nano:
            sign = "≥" if usage.unpriced_tokens else ""
            cells.append(Cell(sign + tables.dollars(nano)))
        elif usage.unpriced_tokens and not has_money:
            cells.append(Cell("" if index else "unpriced", style=tables.LOUD))
        else:
            cells.append(Cell("$0.00" if len(meanings) == 1 else "-", style="dim"))
    return cells


@dataclass(frozen=True)
class _Measure:
    column: Column
    of: Callable[[Usage], int]
    is_usual: bool = True


_MEASURES: Final = (
    _Measure(Column("Requests", rank=6), lambda u: u.requests),
    _Measure(Column("Input", rank=4), lambda u: u.input_tokens),
    _Measure(Column("Output", rank=4), lambda u: u.output_tokens),
    _Measure(Column("Reasoning", rank=7), lambda u: u.reasoning_tokens, is_usual=False),
    _Measure(Column("Cache\nread", rank=5), lambda u: u.cache_read_tokens),
    _Measure(Column("Cache\nwrite", rank=5), lambda u: u.cache_write_tokens),
    _Measure(Column("Write\n1 h", rank=7), lambda u: u.cache_write_1h_tokens, is_usual=False),
    _Measure(Column("Not\nsplit", rank=4), lambda u: u.unsplit_tokens, is_usual=False),
    _Measure(Column("Tokens"), lambda u: u.total_tokens),
    _Measure(Column("Web\nsearches", rank=7), lambda u: u.web_search_requests, is_usual=False),
)


def _usage_table(
    keys: Sequence[Column],
    rows: Sequence[tuple[list[Cell], Usage]],
    totals: Usage,
    label: str,
    request: Request,
) -> Table:
    """Key columns, token columns, money: the part all reports share."""
    measures = [
        m
        for m in _MEASURES
        if m.is_usual or request.all_columns or (m.column.title == "Not\nsplit" and m.of(totals))
    ]
    meanings = meanings_in([totals])
    has_unpriced = bool(totals.unpriced_tokens)
    columns = [*keys, *(m.column for m in measures)]
    if request.all_columns:
        columns += [Column("Cache\nhit", rank=7), Column("Cache\nsavings", rank=7)]
    if has_unpriced:
        columns.append(Column("Unpriced\ntokens", rank=1))
    columns += [Column(m.title) for m in meanings]

    def cells(usage: Usage) -> list[Cell]:
        found = [tables.count(m.of(usage)) for m in measures]
        if request.all_columns:
            ratio = usage.cache_hit_ratio
            found.append(Cell("-" if ratio is None else f"{ratio:.1%}"))
            found.append(Cell(tables.dollars(usage.savings_nano)))
        if has_unpriced:
            unpriced = usage.unpriced_tokens
            found.append(tables.count(unpriced, style=tables.LOUD))
        return found + money_cells(usage, meanings)

    first = [Cell(label)] + [Cell("") for _ in keys[1:]]
    notes = [Cell(m.explanation, style="dim") for m in meanings if m.explanation and m.of(totals)]
    if has_unpriced:
        notes.insert(
            0,
            Cell(
                f"{totals.unpriced_tokens:,} tokens have no price and are in no amount:"
                " `tokendash prices --unpriced` says why.",
                style=tables.LOUD,
            ),
        )
    return Table(
        columns,
        [key_cells + cells(usage) for key_cells, usage in rows],
        first + cells(totals),
        notes,
    )


def _periods_table(rows: Sequence[ReportRow], totals: Usage, request: Request) -> Table:
    periods: dict[str, list[ReportRow]] = {}
    for row in rows:
        periods.setdefault(row.period, []).append(row)
    lines = []
    for period, parts in periods.items():
        parts.sort(key=lambda row: _weight(row.usage), reverse=True)
        names = tuple(dict.fromkeys(_short_model(row.keys["model"]) for row in parts))
        models = Cell(", ".join(names), names=names)
        lines.append(([Cell(period), models], reports.total_of(parts)))
    word = {"daily": "day", "weekly": "week", "monthly": "month"}[request.kind]
    title = "Week of" if request.kind == "weekly" else word.capitalize()
    keys = [
        Column(title, is_number=False),
        Column("Models", is_number=False, rank=2, least=NAME),
    ]
    label = f"{len(periods)} {word}{'' if len(periods) == 1 else 's'}"
    return _usage_table(keys, lines, totals, label, request)


def _weight(usage: Usage) -> tuple[int, int]:
    return (sum(m.of(usage) for m in MEANINGS), usage.total_tokens)


def _short_model(model: str) -> str:
    """A model in a list of models: without the maker's name and the day of its snapshot."""
    return visible(re.sub(r"^claude-|-20\d{6}$", "", model)) or visible(model)


def _models_table(rows: Sequence[ReportRow], totals: Usage, request: Request) -> Table:
    ordered = sorted(rows, key=lambda row: _weight(row.usage), reverse=True)
    # Where all rows say the same, a narrow terminal loses nothing without it.
    ranks = [3 if len({row.keys[key] for row in rows}) > 1 else 8 for key in ("provider", "source")]
    keys = [
        Column("Model", is_number=False, least=_MODEL),
        Column("Provider", is_number=False, rank=ranks[0]),
        Column("Source", is_number=False, rank=ranks[1]),
    ]
    lines = [
        ([tables.name(row.keys[key]) for key in ("model", "provider", "source")], row.usage)
        for row in ordered
    ]
    return _usage_table(keys, lines, totals, "Total", request)


def _projects_table(rows: Sequence[ReportRow], totals: Usage, request: Request) -> Table:
    ordered = sorted(rows, key=lambda row: _weight(row.usage), reverse=True)
    lines = [([_project_cell(row.keys["project"])], row.usage) for row in ordered]
    keys = [Column("Project", is_number=False, least=NAME)]
    return _usage_table(keys, lines, totals, "Total", request)


def _project_cell(project: str) -> Cell:
    if not project:
        return Cell("none", style="dim")
    home = str(Path.home())
    if project.startswith(home + "/"):
        project = "~" + project[len(home) :]
    return tables.name(project, keeps_end=True)


def _sessions_table(
    found: Sequence[reports.Session], totals: Usage, request: Request, light: Light
) -> Table:
    keys = [
        Column("Last used", is_number=False),
        Column("Project", is_number=False, least=10),
        Column("Branch", is_number=False, rank=7, least=NAME),
        Column("Session", is_number=False, rank=2),
        Column("Source", is_number=False, rank=8),
    ]
    lines = []
    for session in found:
        last = datetime.fromtimestamp(session.last_ms / 1000, light.calendar.zone)
        lines.append(
            (
                [
                    Cell(f"{last:%Y-%m-%d %H:%M}"),
                    _project_cell(session.project),
                    tables.name(session.branch),
                    Cell(visible(session.session), visible(session.session[:8])),
                    tables.name(session.source),
                ],
                session.usage,
            )
        )
    label = f"{len(found):,} session{'' if len(found) == 1 else 's'}"
    return _usage_table(keys, lines, totals, label, request)


# -- how it is asked for --------------------------------------------------------------------------

_FLAGS: Final = {"--json", "--csv", "--no-collect", "--all-columns"}
_VALUES: Final = {"--since", "--until", "--source", "--provider"}


def parse(arguments: Sequence[str]) -> Request | None:
    """The request in `report …`, when it is plainly one; None leaves it to the full parser.

    The full parser, its help and its completion cost more time than the report itself.
    """
    words = list(arguments[1:])
    kind = words.pop(0) if words and words[0] in KINDS else "daily"
    flags: set[str] = set()
    values: dict[str, list[str]] = {option: [] for option in _VALUES}
    while words:
        option, has_value, value = words.pop(0).partition("=")
        if option in _FLAGS and not has_value:
            flags.add(option)
        elif option in _VALUES and (has_value or words):
            values[option].append(value if has_value else words.pop(0))
        else:
            return None
    if {"--json", "--csv"} <= flags:
        return None
    form: Form = "json" if "--json" in flags else "csv" if "--csv" in flags else "table"
    return Request(
        kind=kind,
        since=(values["--since"] or [""])[-1],
        until=(values["--until"] or [""])[-1],
        form=form,
        collect="--no-collect" not in flags,
        sources=tuple(values["--source"]),
        providers=tuple(values["--provider"]),
        all_columns="--all-columns" in flags,
    )
