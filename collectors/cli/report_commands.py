"""`report` for the full parser: its options, help and completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from collectors.cli import compare, reports
from collectors.cli.console import UsageError

Since = Annotated[
    str, typer.Option(metavar="DAY", help="First day: 2026-03-14, today, yesterday, 7d, 30d")
]
Until = Annotated[str, typer.Option(metavar="DAY", help="Last day, itself included")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object with `rows` and `totals`")]
Csv = Annotated[bool, typer.Option("--csv", help="Comma-separated values, one line a row")]
NoCollect = Annotated[
    bool, typer.Option("--no-collect", help="Only read the ledger; take in nothing new first")
]
Sources = Annotated[
    list[str] | None, typer.Option("--source", help="Only this source; may be repeated")
]
Providers = Annotated[
    list[str] | None, typer.Option("--provider", help="Only this provider; may be repeated")
]
AllColumns = Annotated[bool, typer.Option("--all-columns", help="Every column there is")]


def register(app: typer.Typer) -> None:
    """Add the group `report`."""
    group = typer.Typer(help="What was used and what it costs.")
    for kind, text in reports.KINDS.items():
        group.command(kind, help=text)(_command(kind))
    group.command("compare")(_compare)
    app.add_typer(group, name="report")


def _command(kind: str) -> Callable[..., int]:
    def command(
        context: typer.Context,
        since: Since = "",
        until: Until = "",
        as_json: Json = False,
        as_csv: Csv = False,
        no_collect: NoCollect = False,
        source: Sources = None,
        provider: Providers = None,
        all_columns: AllColumns = False,
    ) -> int:
        if as_json and as_csv:
            raise UsageError("--json and --csv exclude each other", "leave one of them out")
        form: reports.Form = "json" if as_json else "csv" if as_csv else "table"
        request = reports.Request(
            kind,
            since,
            until,
            form,
            not no_collect,
            tuple(source or ()),
            tuple(provider or ()),
            all_columns,
        )
        return reports.run(request, context.obj)

    return command


def _compare(
    context: typer.Context,
    a: Annotated[
        str, typer.Option(metavar="PERIOD", help="A day, 7d, week, last-month, 2026-03, A..B")
    ] = "today",
    b: Annotated[str, typer.Option(metavar="PERIOD", help="What to compare it with")] = "yesterday",
    same_time: Annotated[
        bool, typer.Option("--same-time", help="Both only up to the present time of day")
    ] = False,
    as_json: Json = False,
    no_collect: NoCollect = False,
) -> int:
    """Compare two periods, model by model."""
    return compare.run(
        compare.Comparison(a, b, same_time=same_time, as_json=as_json, collect=not no_collect),
        context.obj,
    )
