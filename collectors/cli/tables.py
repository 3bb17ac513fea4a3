"""Tables: what is in them, how they fit a width, and how they look on a terminal and in a pipe.

On a terminal they are drawn by rich and made to fit: numbers get short forms, then the least
important columns go, and long names are cut; a number is never cut. In a pipe nothing is left out
and nothing is styled.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from collectors.cli.console import (
    has_colour,
    is_terminal,
    note,
    out,
    terminal_width,
    visible,
)

if TYPE_CHECKING:
    from rich.table import Table as RichTable

GAP = 2
NAME = 14  # the least a column of names is given
TEXT = 24  # and one of sentences
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))
_CENT = 10_000_000  # nano-dollars
LOUD = "bold red"


@dataclass(frozen=True)
class Column:
    """One column; those with the highest rank go first when there is no room, 0 never goes."""

    title: str  # may have two lines
    is_number: bool = True
    rank: int = 0
    least: int = 0  # how narrow it may become; 0: not narrower than what is in it
    can_wrap: bool = False  # sentences in it go on in the next line instead of being cut


@dataclass(frozen=True)
class Cell:
    """One value: in full, in a short form, or as names of which as many as fit are shown."""

    text: str
    short: str = ""
    names: tuple[str, ...] = ()
    style: str = ""
    keeps_end: bool = False  # a path: its end says more than its beginning


@dataclass
class Table:
    """Columns, rows, a row of totals, and remarks below."""

    columns: list[Column]
    rows: list[list[Cell]] = field(default_factory=list)
    totals: list[Cell] | None = None
    notes: list[Cell] = field(default_factory=list)


def name(text: str, *, style: str = "", keeps_end: bool = False) -> Cell:
    """A name from outside, safe to show."""
    return Cell(visible(text), style=style, keeps_end=keeps_end)


def count(number: int, *, style: str = "") -> Cell:
    """A count in full and, for narrow terminals, with three digits and a unit."""
    return Cell(f"{number:,}", compact(number), style=style if number else "dim")


def compact(number: int) -> str:
    """`8660000000` as `8.66B`; up to 9,999 exactly."""
    size = abs(number)
    if size < 10_000:
        return f"{number:,}"
    for unit, letter in _UNITS:
        # 999,500 is 1.00M, not 1000k: the next unit starts where three digits round up to it.
        if size * 2000 >= unit * 1999:
            value = number / unit
            digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
            return f"{value:.{digits}f}{letter}"
    return f"{number:,}"


def signed(number: int) -> Cell:
    """A difference of counts."""
    sign = "+" if number > 0 else ""
    return Cell(f"{sign}{number:,}", sign + compact(number))


def dollars(nano: int, *, is_change: bool = False) -> str:
    """Nano-dollars to the cent, rounded half up; what is less than a cent says so."""
    plus = "+" if is_change and nano > 0 else ""
    if 0 < abs(nano) < _CENT:
        return f"{plus}<$0.01" if nano > 0 else ">-$0.01"
    cents = (abs(nano) + _CENT // 2) // _CENT
    return f"{'-' if nano < 0 else plus}${cents // 100:,}.{cents % 100:02d}"


def cell_width(text: str) -> int:
    """Terminal cells a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def shorten(text: str, width: int, *, keeps_end: bool = False) -> str:
    """A text in at most `width` cells, with `…` for what is left out."""
    if cell_width(text) <= width:
        return text
    kept = ""
    for character in reversed(text) if keeps_end else text:
        if cell_width(kept) + cell_width(character) > width - 1:
            break
        kept += character
    return "…" + kept[::-1] if keeps_end else kept + "…"


def some_names(names: Sequence[str], width: int) -> str:
    """As many names as fit, and how many more there are."""
    for shown in range(len(names), 0, -1):
        more = len(names) - shown
        text = ", ".join(names[:shown]) + (f" +{more}" if more else "")
        if cell_width(text) <= width:
            return text
    rest = f" +{len(names) - 1}" if len(names) > 1 else ""
    return shorten(names[0], width - len(rest)) + rest if names else ""


@dataclass(frozen=True)
class _Fit:
    columns: tuple[int, ...]
    is_short: bool
    widths: Mapping[int, int]


def _text(cell: Cell, *, is_short: bool) -> str:
    return cell.short if is_short and cell.short else cell.text


def _natural(table: Table, index: int, *, is_short: bool) -> int:
    rows = [*table.rows, *_totals(table)]
    texts = [table.columns[index].title]
    texts += [_text(row[index], is_short=is_short) for row in rows]
    return max(cell_width(line) for text in texts for line in text.split("\n"))


def _fit(table: Table, width: int) -> _Fit:
    """The most that can be shown in a width."""
    ranks = sorted({column.rank for column in table.columns if column.rank}, reverse=True)
    last: _Fit | None = None
    for is_short, dropped in ((False, 0), *((True, n) for n in range(len(ranks) + 1))):
        gone = set(ranks[:dropped])
        indexes = tuple(i for i, c in enumerate(table.columns) if c.rank not in gone or not c.rank)
        natural = {i: _natural(table, i, is_short=is_short) for i in indexes}
        least = {i: min(n, table.columns[i].least or n) for i, n in natural.items()}
        room = width - sum(least.values()) - GAP * (len(indexes) - 1)
        widths = _widened(least, natural, room)
        last = _Fit(indexes, is_short, widths)
        if room >= 0:
            return last
    assert last is not None
    return last


def _widened(least: Mapping[int, int], natural: Mapping[int, int], room: int) -> dict[int, int]:
    """Widths with the spare room given, cell by cell, to the column that lacks most."""
    widths = dict(least)
    for _ in range(max(0, room)):
        i = max(widths, key=lambda i: natural[i] / max(1, widths[i]))
        if widths[i] >= natural[i]:
            break
        widths[i] += 1
    return widths


def _shown(table: Table, row: Sequence[Cell], fit: _Fit) -> list[str]:
    shown = []
    for i in fit.columns:
        cell, width = row[i], fit.widths[i]
        text = _text(cell, is_short=fit.is_short)
        if table.columns[i].least and not table.columns[i].can_wrap and cell_width(text) > width:
            text = (
                some_names(cell.names, width)
                if cell.names
                else shorten(text, width, keeps_end=cell.keeps_end)
            )
        shown.append(text)
    return shown


def show(table: Table, environ: Mapping[str, str]) -> None:
    """Write a table to stdout, in the form that suits where stdout goes."""
    if is_terminal(sys.stdout, environ):
        _draw(table, environ)
        return
    for line in plain_lines(table):
        out(line)
    for remark in table.notes:
        out(remark.text)


def plain_lines(table: Table, *, is_tall: bool = False) -> list[str]:
    """A table as plain text: everything, in columns; `is_tall` keeps titles of two lines."""
    indexes = range(len(table.columns))
    titles = [column.title.split("\n") for column in table.columns]
    height = max(len(lines) for lines in titles) if is_tall else 1
    heads = [
        ["" for _ in range(height - len(lines))] + lines if is_tall else [" ".join(lines)]
        for lines in titles
    ]
    widths = {
        i: max(
            *(cell_width(line) for line in heads[i]),
            *(cell_width(_one_line(row[i])) for row in [*table.rows, *_totals(table)]),
        )
        for i in indexes
    }
    rule = ["-" * widths[i] for i in indexes]
    rows = [[heads[i][line] for i in indexes] for line in range(height)]
    rows += [rule, *([_one_line(cell) for cell in row] for row in table.rows)]
    rows += [line for row in _totals(table) for line in (rule, [cell.text for cell in row])]
    return [
        (" " * GAP)
        .join(
            _padded(text, widths[i], is_number=table.columns[i].is_number)
            for i, text in enumerate(row)
        )
        .rstrip()
        for row in rows
    ]


def _one_line(cell: Cell) -> str:
    return cell.text.replace("\n", ", ")


def _totals(table: Table) -> list[list[Cell]]:
    return [table.totals] if table.totals else []


def _padded(text: str, width: int, *, is_number: bool) -> str:
    space = " " * (width - cell_width(text))
    return space + text if is_number else text + space


def _draw(table: Table, environ: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.text import Text

    width = terminal_width(sys.stdout, environ)
    fit = _fit(table, width)
    needed = sum(fit.widths.values()) + GAP * (len(fit.columns) - 1)
    console = Console(
        file=sys.stdout,
        width=max(width, needed),  # a table that cannot fit is left to the terminal to break
        force_terminal=True,
        color_system="standard" if has_colour(sys.stdout, environ) else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(_rich(table, fit), crop=False)
    console.width = width
    for remark in table.notes:
        console.print(Text(remark.text, style=remark.style))
    hidden = len(table.columns) - len(fit.columns)
    if hidden:
        words = "1 column needs" if hidden == 1 else f"{hidden} columns need"
        note(f"{words} a wider terminal.")


def _rich(table: Table, fit: _Fit) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
        footer_style="bold",
        border_style="dim",
        show_footer=False,
    )
    height = max((table.columns[i].title.count("\n") for i in fit.columns), default=0)
    for i in fit.columns:
        column = table.columns[i]
        above = "\n" * (height - column.title.count("\n"))
        drawn.add_column(
            Text(above + column.title, justify="right" if column.is_number else "left"),
            justify="right" if column.is_number else "left",
            no_wrap=not column.can_wrap,
            overflow="fold",
            width=fit.widths[i],
        )
    for index, row in enumerate(table.rows):
        is_last = index == len(table.rows) - 1
        drawn.add_row(
            *(
                Text(text, style=row[i].style)
                for text, i in zip(_shown(table, row, fit), fit.columns, strict=True)
            ),
            end_section=is_last and table.totals is not None,
        )
    if table.totals:
        totals = table.totals
        drawn.add_row(
            *(
                Text(text, style=f"bold {totals[i].style}".replace("dim", "").strip())
                for text, i in zip(_shown(table, totals, fit), fit.columns, strict=True)
            )
        )
    return drawn
