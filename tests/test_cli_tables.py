from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.cli import tables
from collectors.cli.console import visible
from collectors.cli.tables import Cell, Column, Table


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (-9_999, "-9,999"),
        (10_000, "10.0k"),
        (99_940, "99.9k"),
        (99_960, "100k"),
        (999_499, "999k"),
        (999_500, "1.00M"),
        (8_656_095_365, "8.66B"),
        (999_600_000_000, "1.00T"),
        (123_456_789_012_345_678, "123457T"),
        (-20_000_000, "-20.0M"),
    ],
)
def test_a_large_number_has_three_digits_and_a_unit(number: int, shown: str) -> None:
    assert tables.compact(number) == shown


@given(st.integers(10_000, 10**14))
def test_the_short_form_is_off_by_half_a_percent_at_most(number: int) -> None:
    text = tables.compact(number)

    value = float(text[:-1]) * {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[text[-1]]
    assert value == pytest.approx(number, rel=0.005)
    assert len(text) <= 5


@pytest.mark.parametrize(
    ("nano", "shown"),
    [
        (0, "$0.00"),
        (1, "<$0.01"),
        (9_999_999, "<$0.01"),
        (10_000_000, "$0.01"),
        (14_999_999, "$0.01"),
        (15_000_000, "$0.02"),
        (1_234_567_895_000_000, "$1,234,567.90"),
        (-1, ">-$0.01"),
        (-2_500_000_000, "-$2.50"),
    ],
)
def test_money_is_shown_to_the_cent_and_never_as_nothing(nano: int, shown: str) -> None:
    assert tables.dollars(nano) == shown


def test_a_change_has_its_sign() -> None:
    assert tables.dollars(10**9, is_change=True) == "+$1.00"
    assert tables.dollars(-(10**9), is_change=True) == "-$1.00"
    assert tables.dollars(0, is_change=True) == "$0.00"
    assert tables.dollars(5, is_change=True) == "+<$0.01"
    assert tables.signed(12_345) == Cell("+12,345", "+12.3k")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("claude-opus-4-6", "claude-opus-4-6"),
        ("étude 日本", "étude 日本"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("bell\a\r\n\t", "bell\\x07\\x0d\\x0a\\x09"),
        ("c1 \x9b31m", "c1 \\x9b31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("zero\u200bwidth\u2028line", "zero\\u200bwidth\\u2028line"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("half \ud83d", "half \\ud83d"),
    ],
)
def test_what_would_act_on_a_terminal_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_whatever_a_name_is_it_stays_on_its_line(text: str) -> None:
    shown = visible(text)

    assert len(shown.splitlines()) <= 1
    assert visible(shown) == shown
    shown.encode()


@given(st.text(st.sampled_from("aé日\u0301")), st.integers(1, 12), st.booleans())
def test_a_shortened_name_is_never_wider_than_asked(text: str, width: int, end: bool) -> None:
    assert tables.cell_width(tables.shorten(text, width, keeps_end=end)) <= width


def test_a_path_keeps_its_end_and_a_name_its_beginning() -> None:
    assert tables.shorten("/home/ada/src/compiler", 10, keeps_end=True) == "…/compiler"
    assert tables.shorten("claude-opus", 7) == "claude…"


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "opus-4-6, sonnet-4-5, haiku-4-5"),
        (30, "opus-4-6, sonnet-4-5 +1"),
        (20, "opus-4-6 +2"),
        (8, "opus… +2"),
    ],
)
def test_as_many_names_as_fit_are_listed(width: int, shown: str) -> None:
    assert tables.some_names(("opus-4-6", "sonnet-4-5", "haiku-4-5"), width) == shown


def wide_table() -> Table:
    columns = [
        Column("Day", is_number=False),
        Column("Models", is_number=False, least=14, rank=1),
        Column("Rare", rank=3),
        Column("Cache\nread", rank=2),
        Column("Paid"),
    ]
    row = [
        Cell("2026-03-01"),
        Cell("one-model, another-model", names=("one-model", "another-model")),
        tables.count(1_234_567),
        tables.count(8_656_095_365),
        Cell("$1,234.56"),
    ]
    return Table(columns, [row], list(row))


FULL = 10 + 24 + 9 + 13 + 9 + 4 * 2


def test_everything_is_shown_in_full_where_there_is_room() -> None:
    fit = tables._fit(wide_table(), FULL)

    assert fit == tables._Fit((0, 1, 2, 3, 4), False, {0: 10, 1: 24, 2: 9, 3: 13, 4: 9})


def test_names_shrink_first_then_numbers_then_columns_go() -> None:
    table = wide_table()
    fits = [tables._fit(table, width) for width in range(FULL, 20, -1)]

    assert [fit.is_short for fit in fits] == sorted(fit.is_short for fit in fits)
    assert fits[10].columns == (0, 1, 2, 3, 4)
    assert fits[10].is_short is False
    assert fits[10].widths[1] == 14
    assert fits[11].is_short is True
    assert [fit.columns for fit, after in pairwise(fits) if fit.columns != after.columns] == [
        (0, 1, 2, 3, 4),
        (0, 1, 3, 4),
        (0, 1, 4),
    ]
    assert fits[-1].columns == (0, 4)


def test_a_fit_is_never_wider_than_the_terminal_while_it_can_help_it() -> None:
    table = wide_table()

    for width in range(21, FULL + 5):
        fit = tables._fit(table, width)
        assert sum(fit.widths.values()) + 2 * (len(fit.columns) - 1) <= width


def test_in_a_pipe_nothing_is_left_out() -> None:
    assert tables.plain_lines(wide_table()) == [
        "Day         Models                         Rare     Cache read       Paid",
        "----------  ------------------------  ---------  -------------  ---------",
        "2026-03-01  one-model, another-model  1,234,567  8,656,095,365  $1,234.56",
        "----------  ------------------------  ---------  -------------  ---------",
        "2026-03-01  one-model, another-model  1,234,567  8,656,095,365  $1,234.56",
    ]


def test_wide_characters_keep_the_columns_straight() -> None:
    table = Table([Column("Name", is_number=False), Column("N")])
    table.rows = [[tables.name("日本語"), Cell("1")], [tables.name("e\u0301tude"), Cell("22")]]

    lines = tables.plain_lines(table)

    assert lines[2:] == ["日本語   1", "e\u0301tude   22"]
