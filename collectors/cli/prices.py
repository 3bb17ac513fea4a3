"""`tokendash prices`: what a million tokens of each class cost, since when, and who says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import typer

from collectors.agents.models import provider_of
from collectors.cli import tables
from collectors.cli.console import UsageError, out, out_json, visible
from collectors.cli.light import Light
from collectors.cli.tables import LOUD, NAME, TEXT, Cell, Column, Table
from collectors.composition import Program
from collectors.ledger import glance
from collectors.pricing import PriceAttributes, PriceBook, PriceRow

_CLASSES: Final = {
    "input": "Input",
    "cache_read": "Cache\nread",
    "cache_write": "Cache\nwrite",
    "cache_write_1h": "Write\n1 h",
    "output": "Output",
}
NOT_SPLIT = "the source gives one sum, not split into input and output"
KNOWN_NOW = "has a price now; a record keeps the price of the time it was stored"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("prices")(prices)


def prices(
    context: typer.Context,
    model: Annotated[
        list[str] | None, typer.Argument(help="Models; default: all that the ledger holds")
    ] = None,
    unpriced: Annotated[
        bool, typer.Option("--unpriced", help="What has no price, and why")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object")] = False,
) -> int:
    """Show list prices in dollars per million tokens, with their source and date."""
    light = Light(context.obj)
    program = Program(context.obj, clock=light.clock)
    if unpriced:
        if model:
            raise UsageError("--unpriced lists all of them", "leave the names out")
        _show_unpriced(light, program.prices, as_json=as_json)
        return 0
    rows = program.prices.list_prices(_wanted(light, model or ()))
    if as_json:
        out_json(
            {
                "book": program.prices.book_version,
                "rows": [_as_json(row) for row in rows],
                "problems": [str(problem) for problem in program.prices.problems],
            }
        )
        return 0
    if not rows:
        out("The ledger holds no models yet. Name one: tokendash prices claude-sonnet-4-5")
        return 0
    table = _table(rows)
    table.notes += [Cell(visible(str(problem)), style=LOUD) for problem in program.prices.problems]
    table.notes.append(
        Cell(f"Dollars per million tokens. Book: {program.prices.book_version}", style="dim")
    )
    tables.show(table, context.obj)
    return 0


def _wanted(light: Light, words: Sequence[str]) -> list[tuple[str, str]]:
    """Provider and model pairs: of the ledger, by a part of their name, else as they are named."""
    held: list[tuple[str, str]] = []
    if light.ledger.exists():
        with contextlib.closing(light.open()) as db:
            held = glance.models(db)
    if not words:
        return held
    wanted: list[tuple[str, str]] = []
    for word in words:
        found = [pair for pair in held if word.lower() in pair[1].lower()]
        wanted += found or [(provider_of(word), word)]
    return list(dict.fromkeys(wanted))


def _as_json(row: PriceRow) -> dict[str, Any]:
    found = {key: None if row.prices[key] is None else str(row.prices[key]) for key in row.prices}
    return {
        "provider": row.provider,
        "model": row.model,
        "from": row.start,
        "hours_utc": row.hours,
        "above_prompt_tokens": row.above,
        **{f"{key}_usd_per_million": value for key, value in found.items()},
        "web_search_usd": None if row.web_search is None else str(row.web_search),
        "price_id": row.price_id,
        "reason": row.reason,
    }


def _table(rows: Iterable[PriceRow]) -> Table:
    columns = [
        Column("Model", is_number=False, least=26),
        Column("Provider", is_number=False, rank=3),
        Column("From", is_number=False, rank=1),
        *(Column(title) for title in _CLASSES.values()),
        Column("Source", is_number=False, least=26, rank=2),
    ]
    table = Table(columns)
    previous: tuple[str, str] | None = None
    for row in rows:
        pair = (row.provider, row.model)
        is_first, previous = pair != previous, pair
        since = row.start + (f" {row.hours}" if row.hours else "")
        if row.above:
            since = f"{since} >{tables.compact(row.above)}".strip()
        cells = [
            tables.name(row.model if is_first else ""),
            tables.name(row.provider if is_first else ""),
            tables.name(since),
        ]
        if row.reason:
            cells += [Cell("unpriced", style=LOUD)] + [Cell("") for _ in range(len(_CLASSES) - 1)]
            cells.append(tables.name(row.reason, style=LOUD))
        else:
            cells += [Cell(_price(row.prices.get(name))) for name in _CLASSES]
            cells.append(tables.name(row.price_id, style="dim", keeps_end=True))
        table.rows.append(cells)
    return table


def _price(price: Decimal | None) -> str:
    """A price with the digits it has, at least two behind the point."""
    if price is None:
        return "-"
    digits = max(2, -int(price.normalize().as_tuple().exponent))
    return f"{price:,.{digits}f}"


# -- what has none --------------------------------------------------------------------------------


def unpriced_rows(light: Light, book: PriceBook) -> list[dict[str, Any]]:
    """Everything without a price and why; empty while there is no ledger."""
    if not light.ledger.exists():
        return []
    with contextlib.closing(light.open()) as db:
        found = glance.unpriced(db)
    return [
        {
            "provider": row.provider,
            "model": row.model,
            "service_tier": row.service_tier,
            "speed": row.speed,
            "inference_geo": row.inference_geo,
            "batch": row.is_batch,
            "tokens": tokens,
            "last_timestamp": datetime.fromtimestamp(
                row.latest_ms // 1000, light.calendar.zone
            ).isoformat(),
            "reason": reason,
        }
        for row in found
        for tokens, reason in ((row.tokens, _reason(row, book)), (row.unsplit_tokens, NOT_SPLIT))
        if tokens
    ]


def _reason(row: glance.Unpriced, book: PriceBook) -> str:
    attributes = PriceAttributes(
        row.provider, row.model, row.service_tier, row.speed, row.inference_geo, row.is_batch
    )
    return book.why_unpriced(attributes, row.latest_ms) or KNOWN_NOW


def _show_unpriced(light: Light, book: PriceBook, *, as_json: bool) -> None:
    rows = unpriced_rows(light, book)
    if as_json:
        out_json({"rows": rows})
        return
    if not rows:
        out("Everything has a price.")
        return
    columns = [
        Column("Model", is_number=False, least=NAME),
        Column("Provider", is_number=False, rank=1),
        Column("Tokens"),
        Column("Why", is_number=False, least=TEXT, can_wrap=True),
    ]
    table = Table(columns)
    for row in rows:
        cells = [tables.name(row["model"]), tables.name(row["provider"])]
        table.rows.append(
            [*cells, tables.count(row["tokens"], style=LOUD), tables.name(row["reason"])]
        )
    table.notes = [
        Cell("Give prices of your own in the file that PRICES_FILE names; they hold from then on.")
    ]
    tables.show(table, light.environ)
