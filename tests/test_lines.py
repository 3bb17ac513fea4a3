"""Names made canonical, and rows as line protocol."""

from __future__ import annotations

import hashlib
import math
import random
import unicodedata
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collectors.measurements import FIELDS, Row, Value
from collectors.names import LONGEST, canonical
from collectors.outputs.lines import MAX_CACHED_SERIES, LineBuilder, LineError, status_line
from tests.bench.bench_lines import point_line
from tests.support.fault_server import parse_line

ANY_TEXT = st.text(alphabet=st.characters(), max_size=300)  # lone surrogates included
AWKWARD = [
    "a\nb",
    "a\rb",
    "a\tb",
    "a\x00b",
    "a\x85b",
    "a\u2028b",
    "a\ud800b",
    " a b ",
    "a,b=c d",
    "a=b",
    'say "hi"',
    "back\\slash",
    "end\\",
    "\\",
    "\\,",
    "",
    "   ",
    "\u202egnp.exe",
    "e\u0301",
    "\u0301",
    "👩‍👩‍👧",
    "x" * 201,
    "é" * 70_000,
    "# not a comment",
]


def row(
    values: Mapping[str, Value] | None = None,
    *,
    measurement: str = "token_usage",
    tags: tuple[tuple[str, str], ...] = (("model", "m"),),
    series: int = 1,
    timestamp_ns: int = 1_750_000_000_000_000_007,
) -> Row:
    """A row with zeros where no value is given."""
    zeros: dict[str, Value] = {"int": 0, "float": 0.0, "str": ""}
    given_values = values or {}
    filled = tuple(given_values.get(name, zeros[kind]) for name, kind in FIELDS[measurement])
    return Row(measurement, tags, series, timestamp_ns, filled)


def test_a_row_becomes_one_line_with_its_fields_by_name() -> None:
    line = LineBuilder().line(
        row(
            {
                "input_tokens": 12,
                "output_tokens": 3,
                "total_tokens": 15,
                "requests": 1,
                "cost_usd": 0.25,
            },
            tags=(("host", "my box"), ("model", "a,b=c")),
        )
    )

    assert line == (
        r"token_usage,host=my\ box,model=a\,b\=c api_equivalent_usd=0,cache_read_tokens=0i,"
        "cache_savings_usd=0,cache_write_1h_tokens=0i,cache_write_tokens=0i,cost_usd=0.25,"
        "input_tokens=12i,output_tokens=3i,plan_unknown_usd=0,reasoning_tokens=0i,requests=1i,"
        "total_tokens=15i,unpriced_tokens=0i,unsplit_tokens=0i 1750000000000000007"
    )


def test_lines_are_those_of_influxdb_client_on_twenty_thousand_rows() -> None:
    rng = random.Random(20_261_124)
    builder = LineBuilder()
    rows = [_any_row(rng, number) for number in range(20_000)]

    differing = [line for each in rows if (line := builder.line(each)) != point_line(each)]

    assert differing == []


def _any_row(rng: random.Random, number: int) -> Row:
    measurement = rng.choice(sorted(FIELDS))
    tags = tuple(
        sorted(
            (
                name,
                canonical("".join(rng.choices(" ,=\"'\\/.-_aé漢👩\u202e#", k=rng.randrange(1, 9)))),
            )
            for name in rng.sample(["host", "model", "project", "provider", "source"], 3)
        )
    )
    values = [_any_value(rng, kind) for _, kind in FIELDS[measurement]]
    if rng.random() < 0.2:
        values[rng.randrange(len(values))] = None
    if all(value is None for value in values):
        values[0] = 1 if FIELDS[measurement][0].kind == "int" else 1.0
    timestamp = rng.randrange(10**18, 2 * 10**18)
    return Row(measurement, tags, number, timestamp, tuple(values))


def _any_value(rng: random.Random, kind: str) -> Value:
    if kind == "int":
        return rng.choice([0, 1, rng.randrange(10**6), rng.randrange(10**15), 2**63 - 1])
    if kind == "float":
        return rng.choice(
            [
                0.0,
                -0.0,
                1.0,
                rng.randrange(10**12) / 1e9,
                rng.randrange(10**5) / 1e9,
                -rng.random(),
                rng.random() * 10.0 ** rng.randrange(-300, 300),
                1e16,
                1e22,
                5e-324,
                math.nextafter(1e15, 0),
            ]
        )
    return "".join(rng.choices(' ,="\\ab=né', k=rng.randrange(20)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_never_written(value: float) -> None:
    with pytest.raises(LineError, match=r"token_usage\.cost_usd is not a finite number"):
        LineBuilder().line(row({"cost_usd": value}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_tokens": True}, "input_tokens is int, the row has bool"),
        ({"input_tokens": "5"}, "input_tokens is int, the row has str"),
        ({"cost_usd": "1"}, "cost_usd is float, the row has str"),
        ({"cost_usd": False}, "cost_usd is float, the row has bool"),
    ],
)
def test_a_value_of_another_type_is_an_error(values: dict[str, Value], message: str) -> None:
    with pytest.raises(LineError, match=message):
        LineBuilder().line(row(values))


def test_a_fraction_where_a_count_belongs_cannot_pass_for_a_count() -> None:
    line = LineBuilder().line(row({"input_tokens": 1.5}))

    with pytest.raises(ValueError, match="invalid literal"):
        parse_line(line)


def test_a_row_without_any_field_is_an_error() -> None:
    empty = Row("rate_window", (("window", "5h"),), 1, 1, (None, None))

    with pytest.raises(LineError, match="a row of rate_window has no field"):
        LineBuilder().line(empty)


def test_a_field_without_a_value_is_left_out() -> None:
    line = LineBuilder().line(
        row({"used_ratio": 0.5, "resets_at_ms": None}, measurement="rate_window")
    )

    assert line == "rate_window,model=m used_ratio=0.5 1750000000000000007"


def test_a_row_with_too_few_values_is_an_error() -> None:
    with pytest.raises(LineError, match="rate_window has 2 fields, the row has 1"):
        LineBuilder().line(Row("rate_window", (), 1, 1, (1,)))


def test_an_unknown_measurement_is_an_error() -> None:
    with pytest.raises(LineError, match="'usage' is not in FIELDS"):
        LineBuilder().line(Row("usage", (), 1, 1, (1,)))


def test_a_tag_that_was_not_made_canonical_is_an_error_not_an_injection() -> None:
    with pytest.raises(LineError, match="tag model of token_usage is not canonical"):
        LineBuilder().line(row(tags=(("model", "a 1\nother,x=y z=1i 2"),)))


def test_no_field_has_the_name_of_a_tag_or_of_the_time_and_fields_are_sorted() -> None:
    tags = {"provider", "source", "model", "project", "host", "account", "scope", "collector"}
    tags |= {"tz", "version", "window", "currency", "time"}

    for fields in FIELDS.values():
        names = [name for name, _ in fields]
        assert names == sorted(set(names))
        assert not tags & set(names)


def test_the_cache_of_series_does_not_grow_without_end() -> None:
    builder = LineBuilder()
    for number in range(MAX_CACHED_SERIES + 50):
        builder.line(row(measurement="rate_window", series=number, tags=(("model", str(number)),)))

    assert len(builder._prefixes) <= MAX_CACHED_SERIES
    assert builder.line(
        row(measurement="rate_window", series=7, tags=(("model", "7"),))
    ).startswith("rate_window,model=7 ")


def test_a_status_line_makes_its_tags_canonical_and_its_text_harmless() -> None:
    line = status_line(
        "collector_status",
        {"host": "box", "collector": "a\nb"},
        {"ok": 0, "last_error": 'said "no"\nand \\ left', "records": None},
        9,
    )

    assert line == (
        'collector_status,collector=a_b,host=box last_error="said \\"no\\" and \\\\ left",ok=0i 9'
    )


def test_a_status_line_refuses_a_field_that_is_not_in_the_schema() -> None:
    with pytest.raises(LineError, match="exporter_status has no field hartbeat"):
        status_line("exporter_status", {}, {"hartbeat": 1}, 9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("claude-opus-4-1", "claude-opus-4-1"),
        ("a\nb", "a_b"),
        ("a\n", "a_"),
        ("a\x00\x1f\x7f\x85b", "a____b"),
        ("a\ud800b", "a_b"),
        ("a\u2028b\u2029c", "a_b_c"),
        ("  a b\u00a0", "a b"),
        ("C:\\work\\", "C:/work/"),
        ("", "unknown"),
        (" ", "unknown"),
        ("e\u0301", "\u00e9"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 180 + "~" + hashlib.sha256(b"x" * 201).hexdigest()[:8]),
    ],
)
def test_a_name_has_one_spelling(text: str, expected: str) -> None:
    assert canonical(text) == expected


def test_two_long_names_with_one_beginning_stay_two() -> None:
    assert canonical("x" * 300 + "a") != canonical("x" * 300 + "b")


@given(ANY_TEXT)
@example("\n\u0301")
@example("x" * 179 + "e\u0301" * 40)
def test_a_canonical_name_is_clean_short_and_stays_as_it_is(text: str) -> None:
    name = canonical(text)

    assert canonical(name) == name
    assert 0 < len(name) <= LONGEST
    assert name == name.strip()
    assert unicodedata.is_normalized("NFC", name)
    assert not {unicodedata.category(c) for c in name} & {"Cc", "Cs", "Zl", "Zp"}
    assert "\\" not in name


@given(ANY_TEXT, ANY_TEXT)
def test_a_tag_comes_back_from_its_line_as_it_went_in(model: str, project: str) -> None:
    tags = (("model", canonical(model)), ("project", canonical(project)))

    line = LineBuilder().line(row({"input_tokens": 5}, tags=tags))

    assert "\n" not in line
    assert parse_line(line).tags == tags
    assert parse_line(line).fields["input_tokens"] == 5


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_name_comes_back_from_its_line(name: str) -> None:
    tags = (("model", canonical(name)),)

    assert parse_line(LineBuilder().line(row(tags=tags))).tags == tags
