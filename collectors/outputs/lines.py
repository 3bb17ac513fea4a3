"""Line protocol: rows of the ledger turned into text, checked against `FIELDS`, at memory speed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from collectors.measurements import FIELDS, Field, Row, Value
from collectors.names import canonical

LONGEST_STRING: Final = 300
MAX_INT: Final = 2**63 - 1
# One entry is a few hundred bytes; a flood of series names must not become a flood of memory.
MAX_CACHED_SERIES: Final = 10_000

_ESCAPES = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ "})
_STRING_ESCAPES = str.maketrans({'"': r"\"", "\\": r"\\"})


class LineError(ValueError):
    """A row that cannot be written as it is: a mistake of ours, not of the server."""


class LineBuilder:
    """Builds lines; remembers the escaped start of each series."""

    def __init__(self) -> None:
        self._prefixes: dict[int, str] = {}
        self._encode = msgspec.json.Encoder().encode

    def line(self, row: Row) -> str:
        """The line of one row, without a newline.

        Raises:
            LineError: the row has no field, a value of the wrong type, a number InfluxDB cannot
                store, or a tag that is not canonical.
        """
        prefix = self._prefixes.get(row.series)
        if prefix is None:
            prefix = self._remember(row)
        template = _NUMERIC.get(row.measurement)
        if template is None:
            return prefix + _careful(row)
        # The JSON encoder writes plain numbers several times faster than formatting does, and just
        # as repr() would. Null, true, exponents and tiny fractions it writes otherwise: they show.
        # (A fraction in a count's place becomes "1.5i", which every server refuses as a whole.)
        try:
            text = self._encode((*row.values, row.timestamp_ns)).decode()
            if "e" in text or "l" in text or '"' in text or "0.0000" in text:
                return prefix + _careful(row)
            return prefix + template % tuple(text[1:-1].replace(".0,", ",").split(","))
        except (TypeError, UnicodeError):  # too few values, or what is no number at all
            return prefix + _careful(row)

    def _remember(self, row: Row) -> str:
        if len(self._prefixes) >= MAX_CACHED_SERIES:
            self._prefixes.clear()
        prefix = self._prefixes[row.series] = series_prefix(row.measurement, row.tags)
        return prefix


def series_prefix(measurement: str, tags: Iterable[tuple[str, str]]) -> str:
    """Measurement and tags, escaped, up to the space before the fields.

    Raises:
        LineError: the measurement is unknown, or a tag value was never made canonical.
    """
    if measurement not in FIELDS:
        raise LineError(f"measurement {measurement!r} is not in FIELDS")
    parts = [measurement]
    for name, value in tags:
        if canonical(value) != value:
            raise LineError(f"tag {name} of {measurement} is not canonical")
        parts.append(f"{name.translate(_ESCAPES)}={value.translate(_ESCAPES)}")
    return ",".join(parts) + " "


def status_line(
    measurement: str, tags: Mapping[str, str], values: Mapping[str, Value], timestamp_ns: int
) -> str:
    """The line of a status point that is not kept in the ledger; makes its tags canonical.

    Raises:
        LineError: as `LineBuilder.line`; also for a field the measurement does not have.
    """
    fields = FIELDS.get(measurement, ())
    unknown = values.keys() - {field.name for field in fields}
    if unknown:
        raise LineError(f"{measurement} has no field {', '.join(sorted(unknown))}")
    clean = tuple(sorted((name, canonical(value)) for name, value in tags.items()))
    ordered = tuple(values.get(field.name) for field in fields)
    prefix = series_prefix(measurement, clean)
    return prefix + _careful(Row(measurement, clean, 0, timestamp_ns, ordered))


def _careful(row: Row) -> str:
    """Fields and time of any row, value by value, each checked."""
    fields = FIELDS[row.measurement]
    if len(row.values) != len(fields):
        raise LineError(
            f"{row.measurement} has {len(fields)} fields, the row has {len(row.values)}"
        )
    parts = [
        f"{field.name}={_text(row.measurement, field, value)}"
        for field, value in zip(fields, row.values, strict=True)
        if value is not None
    ]
    if not parts:
        raise LineError(f"a row of {row.measurement} has no field")
    return f"{','.join(parts)} {row.timestamp_ns}"


def _text(measurement: str, field: Field, value: Value) -> str:
    name = f"{measurement}.{field.name}"
    # Exact types: bool is an int to Python. A float without a fraction may arrive as an int.
    if field.kind == "str" and type(value) is str:
        printable = "".join(c if c.isprintable() else " " for c in value[:LONGEST_STRING])
        return f'"{printable.translate(_STRING_ESCAPES)}"'
    if field.kind == "int" and type(value) is int:
        if not -MAX_INT <= value <= MAX_INT:
            raise LineError(f"{name} is too large for InfluxDB")
        return f"{value}i"
    if field.kind == "float" and (type(value) is float or type(value) is int):
        if not math.isfinite(value):
            raise LineError(f"{name} is not a finite number")
        return repr(value).removesuffix(".0")
    raise LineError(f"{name} is {field.kind}, the row has {type(value).__name__}")


def _numeric_template(fields: Iterable[Field]) -> str:
    return ",".join(f"{f.name}=%s{'i' if f.kind == 'int' else ''}" for f in fields) + " %s"


_NUMERIC: Final[Mapping[str, str]] = {
    measurement: _numeric_template(fields)
    for measurement, fields in FIELDS.items()
    if not any(field.kind == "str" for field in fields)
}
