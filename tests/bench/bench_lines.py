"""Lines per second of `LineBuilder` and of influxdb-client's `Point`, in one run on the same rows.

Run it as `python -m tests.bench.bench_lines`. The rows look like the ledger's: whole counts, money
with at most nine decimals, most fields of a bucket zero; built in batches as the writer does.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from influxdb_client.client.write.point import Point

from collectors.measurements import FIELDS, Row, Value
from collectors.outputs.lines import LineBuilder

BATCH = 2_000
ROWS = 20_000
ROUNDS = 7


def make_rows(count: int, seed: int) -> list[Row]:
    """Rows of `token_usage` in forty series."""
    rng = random.Random(seed)
    return [_row(rng, number) for number in range(count)]


def _row(rng: random.Random, number: int) -> Row:
    series = rng.randrange(40)
    tags = (
        ("host", "workstation"),
        ("model", f"claude-opus-4-{series % 5}"),
        ("project", f"github.com/someone/project {series}"),
        ("provider", "anthropic"),
        ("source", "claude_code"),
    )
    present = {
        "input_tokens": rng.randrange(5_000),
        "cache_read_tokens": rng.randrange(4_000_000),
        "cache_write_tokens": rng.randrange(90_000),
        "output_tokens": rng.randrange(20_000),
        "requests": rng.randrange(1, 60),
        "total_tokens": rng.randrange(4_000_000),
        "cost_usd": rng.randrange(9_000_000_000) / 1e9,
        "cache_savings_usd": rng.randrange(9_000_000_000) / 1e9,
    }
    values: tuple[Value, ...] = tuple(
        present.get(name, 0.0 if kind == "float" else 0) for name, kind in FIELDS["token_usage"]
    )
    bucket = 1_750_000_000 + 300 * number
    return Row("token_usage", tags, series, bucket * 10**9 + 12_345_678_901, values, bucket, 1)


def point_line(row: Row) -> str:
    """The line influxdb-client makes of a row."""
    point: Any = Point(row.measurement)  # type: ignore[no-untyped-call]
    for name, text in row.tags:
        point.tag(name, text)
    for field, value in zip(FIELDS[row.measurement], row.values, strict=True):
        point.field(field.name, value)
    return str(point.time(row.timestamp_ns).to_line_protocol())


def _batches(rows: list[Row]) -> Iterator[list[Row]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


def _seconds(build: Callable[[Row], str], rows: list[Row]) -> float:
    started = time.process_time()  # of this process alone: others do not count
    for batch in _batches(rows):
        "\n".join([build(row) for row in batch])
    return time.process_time() - started


def measure(rows: list[Row]) -> dict[str, float]:
    """Best rates of both and the ratio of their medians, measured in turn."""
    builder = LineBuilder()
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(_seconds(builder.line, rows))
        theirs.append(_seconds(point_line, rows))
    return {
        "rows": len(rows),
        "ours_per_s": round(len(rows) / min(ours)),
        "point_per_s": round(len(rows) / min(theirs)),
        "ratio": round(statistics.median(theirs) / statistics.median(ours), 1),
    }


def main() -> None:
    """Print one JSON line."""
    print(json.dumps({"bench": "lines", **measure(make_rows(ROWS, seed=1))}))


if __name__ == "__main__":
    main()
