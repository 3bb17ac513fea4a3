"""`tokendash report compare`: two periods side by side, with the difference and its percentage."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from collectors.cli import tables
from collectors.cli.console import UsageError, out, out_json, visible
from collectors.cli.light import Light
from collectors.cli.reports import MEANINGS, meanings_in, money_cells, parse_day
from collectors.cli.tables import Cell, Column, Table
from collectors.clock import BUCKET_SECONDS, Clock, system_clock
from collectors.ledger import glance
from collectors.ledger.reports import NANO, Usage

_COUNTS: Final = ("requests", "total_tokens", "unpriced_tokens")
_MONEY: Final = {
    "cost_usd": "cost_nano",
    "api_equivalent_usd": "api_equivalent_nano",
    "plan_unknown_usd": "plan_unknown_nano",
}


@dataclass(frozen=True)
class Comparison:
    """What is compared with what; the change is from `b` to `a`."""

    a: str
    b: str
    same_time: bool = False
    as_json: bool = False
    collect: bool = True


@dataclass
class _Pair:
    a: Usage
    b: Usage


Key = tuple[str, str, str]


def run(wanted: Comparison, environ: Mapping[str, str], clock: Clock = system_clock) -> int:
    """Answer one comparison on stdout."""
    light = Light(environ, clock)
    a, b = (
        parse_period(text, light.today, o) for text, o in ((wanted.a, "--a"), (wanted.b, "--b"))
    )
    if wanted.collect:
        light.refresh()
    db = light.open()
    try:
        pairs = _pairs(db, light, a, b, same_time=wanted.same_time)
    finally:
        db.close()
    total = _Pair(Usage(), Usage())
    for pair in pairs.values():
        total.a.add(pair.a)
        total.b.add(pair.b)
    if wanted.as_json:
        out_json(
            {
                "a": {"since": str(a[0]), "until": str(a[1])},
                "b": {"since": str(b[0]), "until": str(b[1])},
                "same_time": wanted.same_time,
                "rows": [
                    {
                        "source": key[0],
                        "provider": key[1],
                        "model": key[2],
                        **changes(pair.a, pair.b),
                    }
                    for key, pair in pairs.items()
                ],
                "totals": changes(total.a, total.b),
            }
        )
        return 0
    if not pairs:
        out("Nothing was counted in either period.")
        return 0
    tables.show(_table(pairs, total, _label(a), _label(b)), environ)
    return 0


def parse_period(text: str, today: date, option: str) -> tuple[date, date]:
    """First and last day of a period: a day, `7d`, `week`, `last-month`, `2026-03`, `A..B`.

    Raises:
        UsageError: it is none of these.
    """
    word = text.strip().lower()
    monday = today - timedelta(days=today.weekday())
    first = today.replace(day=1)
    named = {
        "week": (monday, today),
        "last-week": (monday - timedelta(days=7), monday - timedelta(days=1)),
        "month": (first, today),
        "last-month": ((first - timedelta(days=1)).replace(day=1), first - timedelta(days=1)),
    }
    if word in named:
        return named[word]
    if re.fullmatch(r"[1-9][0-9]{0,4}d", word):
        return parse_day(word, today, option), today
    if re.fullmatch(r"\d{4}-\d{2}", word):
        start = parse_day(f"{word}-01", today, option)
        return start, (start + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    start_text, is_range, end_text = word.partition("..")
    start = parse_day(start_text, today, option)
    end = parse_day(end_text, today, option) if is_range else start
    if start > end:
        raise UsageError(f"{option} ends before it starts", "write the earlier day first")
    return start, end


def _pairs(
    db: sqlite3.Connection,
    light: Light,
    a: tuple[date, date],
    b: tuple[date, date],
    *,
    same_time: bool,
) -> dict[Key, _Pair]:
    pairs: dict[Key, _Pair] = {}
    for name, (first, last) in (("a", a), ("b", b)):
        end = light.calendar.day_start(last + timedelta(days=1))
        if same_time:
            # Up to the end of the bucket that holds this time of day.
            local = light.now.astimezone(light.calendar.zone)
            there = datetime.combine(last, local.time(), light.calendar.zone)
            end = int(there.timestamp()) // BUCKET_SECONDS * BUCKET_SECONDS + BUCKET_SECONDS
        for row in glance.models_of(db, light.calendar.day_start(first), end):
            pair = pairs.setdefault((row.source, row.provider, row.model), _Pair(Usage(), Usage()))
            getattr(pair, name).add(Usage(*row.sums))
    return dict(sorted(pairs.items()))


def changes(a: Usage, b: Usage) -> dict[str, Any]:
    """Both values, their difference and its percentage of `b`; null where `b` is 0."""
    found: dict[str, Any] = {}
    for name in _COUNTS:
        x, y = getattr(a, name), getattr(b, name)
        found |= {f"{name}_a": x, f"{name}_b": y, f"{name}_change": x - y}
        found[f"{name}_change_percent"] = _percent(x, y)
    for name, column in _MONEY.items():
        x, y = getattr(a, column), getattr(b, column)
        found |= {f"{name}_a": x / NANO, f"{name}_b": y / NANO, f"{name}_change": (x - y) / NANO}
        found[f"{name}_change_percent"] = _percent(x, y)
    return found


def _percent(a: int, b: int) -> float | None:
    return round((a - b) * 100 / b, 4) if b else None


def _label(period: tuple[date, date]) -> str:
    return visible(str(period[0]) if period[0] == period[1] else f"{period[0]}\nto {period[1]}")


def _table(pairs: Mapping[Key, _Pair], total: _Pair, a: str, b: str) -> Table:
    meanings = meanings_in([total.a, total.b])
    columns = [
        Column("Model", is_number=False, least=20),
        Column("Provider", is_number=False, rank=8),
        Column("Source", is_number=False, rank=9),
        Column(f"Tokens\n{a}"),
        Column(f"Tokens\n{b}", rank=6),
        Column("Change"),
        Column("%", rank=7),
    ]
    for meaning in meanings:
        columns += [
            Column(f"{meaning.title}\n{a}"),
            Column(f"{meaning.title}\n{b}", rank=5),
            Column("Change"),
            Column("%"),
        ]

    def cells(pair: _Pair) -> list[Cell]:
        x, y = pair.a.total_tokens, pair.b.total_tokens
        found = [tables.count(x), tables.count(y), *_change(x, y, tables.signed)]
        money_a, money_b = money_cells(pair.a, meanings), money_cells(pair.b, meanings)
        for index, meaning in enumerate(meanings):
            found += [money_a[index], money_b[index]]
            x, y = meaning.of(pair.a), meaning.of(pair.b)
            found += _change(x, y, lambda nano: Cell(tables.dollars(nano, is_change=True)))
        return found

    ordered = sorted(
        pairs.items(),
        key=lambda item: (
            sum(m.of(item[1].a) + m.of(item[1].b) for m in MEANINGS),
            item[1].a.total_tokens + item[1].b.total_tokens,
        ),
        reverse=True,
    )
    rows = [
        [tables.name(key[2]), tables.name(key[1]), tables.name(key[0]), *cells(pair)]
        for key, pair in ordered
    ]
    return Table(columns, rows, [Cell("Total"), Cell(""), Cell(""), *cells(total)])


def _change(a: int, b: int, show: Any) -> list[Cell]:
    percent = _percent(a, b)
    text = ("new" if a else "-") if percent is None else f"{percent:+,.1f}%"
    return [show(a - b), Cell(text)]
