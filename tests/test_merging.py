"""Sightings of one call in any order, split and number: the same answer, and the right one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from collectors.ledger.store import Ledger, Source
from collectors.merging import Merge, absorb, resolve
from collectors.points import Batch, TokenUsagePoint, hash64
from tests.support import reading, reference_scan

NOON_MS = int(datetime(2026, 9, 1, 12, tzinfo=UTC).timestamp() * 1000)
SOURCE = Source("claude-code", Merge.LARGEST)

Variants = dict[int, TokenUsagePoint]


def sighting(variant: str = "req_1", **values: Any) -> TokenUsagePoint:
    point = TokenUsagePoint(
        **{"provider": "anthropic", "model": "claude-opus-4-8", "timestamp": NOON_MS, **values},
        key="msg_1",
        variant=variant,
    )
    point.identify("claude-code")
    return point


def fold(points: Sequence[TokenUsagePoint], variants: Variants | None = None) -> Variants:
    """Sightings gathered by variant; adds to what was gathered before."""
    gathered: Variants = {} if variants is None else variants
    for point in points:
        held = gathered.get(point.variant_hash)
        if held is None:
            gathered[point.variant_hash] = replace(point)
        else:
            absorb(held, point)
    return gathered


def plain(variants: Variants) -> dict[int, dict[str, Any]]:
    """Variants as values that can be compared; a point without `latest` was seen once."""
    return {
        variant: {**asdict(point), "latest": point.latest or point.timestamp_ms}
        for variant, point in variants.items()
    }


numbers = st.integers(0, 5) | st.integers(0, 1 << 50)


@st.composite
def sightings(draw: st.DrawFn) -> TokenUsagePoint:
    output, write = draw(numbers), draw(numbers)
    return sighting(
        draw(st.sampled_from(["", "", "req_1", "req_2", "req_3"])),
        timestamp=NOON_MS + draw(st.integers(0, 4)) * 1000,
        input_tokens=draw(numbers),
        cache_read_tokens=draw(numbers),
        cache_write_tokens=write,
        cache_write_1h_tokens=draw(st.integers(0, write)),
        output_tokens=output,
        reasoning_tokens=draw(st.integers(0, output)),
        web_search_requests=draw(st.integers(0, 3)),
        has_cache_counts=draw(st.booleans()),
        replayed=draw(st.booleans()),
        model=draw(st.sampled_from(["claude-opus-4-8", "claude-haiku-4-5"])),
        session=draw(st.sampled_from(["S1", "S2"])),
        project=draw(st.sampled_from(["/nowhere/app", "github.com/a/b"])),
        branch=draw(st.sampled_from(["", "main"])),
    )


some = st.lists(sightings(), min_size=1, max_size=8)


@st.composite
def shuffled_and_repeated(draw: st.DrawFn) -> tuple[list[TokenUsagePoint], list[TokenUsagePoint]]:
    points = draw(some)
    again = draw(st.permutations([*points, *draw(st.lists(st.sampled_from(points), max_size=4))]))
    return points, again


@given(shuffled_and_repeated())
@settings(max_examples=300, deadline=None)
def test_order_and_repetition_do_not_matter(
    both: tuple[list[TokenUsagePoint], list[TokenUsagePoint]],
) -> None:
    points, again = both

    assert plain(fold(points)) == plain(fold(again))
    assert plain(resolve(fold(points))) == plain(resolve(fold(again)))


@given(some, some, some)
@settings(max_examples=200, deadline=None)
def test_absorbing_is_associative(
    a: list[TokenUsagePoint], b: list[TokenUsagePoint], c: list[TokenUsagePoint]
) -> None:
    left = fold([*fold([*fold(a).values(), *b]).values(), *c])
    right = fold([*a, *fold([*b, *fold(c).values()]).values()])

    assert plain(left) == plain(right)


@given(some)
@settings(max_examples=200, deadline=None)
def test_resolving_leaves_its_input_alone_and_repeats_itself(points: list[TokenUsagePoint]) -> None:
    variants = fold(points)
    before = plain(variants)

    first = plain(resolve(variants))

    assert plain(variants) == before
    assert plain(resolve(variants)) == first


@given(some)
@settings(max_examples=300, deadline=None)
def test_the_independent_reading_of_the_rules_agrees(points: list[TokenUsagePoint]) -> None:
    for index, point in enumerate(points):  # of two calls at one instant either may come first
        point.timestamp = NOON_MS + index * 1000
        point.model = "claude-opus-4-8"
    seen = {
        reference_scan.Sighting(
            call=("msg_1",),
            request=point.variant,
            is_replay=point.replayed,
            time=datetime.fromtimestamp(point.timestamp_ms / 1000, UTC).isoformat(),
            model=point.model,
            knows_cache=point.has_cache_counts,
            input=point.input_tokens,
            output=point.output_tokens,
            read=point.cache_read_tokens,
            write=point.cache_write_tokens,
            hour=point.cache_write_1h_tokens,
            thinking=point.reasoning_tokens,
        )
        for point in points
    }
    expected = sorted(numbers[1:] for _, _, numbers in reference_scan.counted(seen))

    found = sorted(
        (
            point.input_tokens,
            point.output_tokens,
            point.cache_read_tokens,
            point.cache_write_tokens - point.cache_write_1h_tokens,
            point.cache_write_1h_tokens,
            point.reasoning_tokens,
        )
        for point in resolve(fold(points)).values()
    )

    assert found == expected


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One ledger for all examples: each has a key of its own."""
    ledger = reading.open_ledger(tmp_path_factory.mktemp("merging") / "ledger.db")
    yield ledger
    ledger.close()


_examples = iter(range(1 << 30))


@given(st.lists(some, min_size=1, max_size=5))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_ledger_counts_what_the_rules_say_however_it_is_fed(
    shared: Ledger, batches: list[list[TokenUsagePoint]]
) -> None:
    family = hash64(f"example {next(_examples)}")
    everything = [replace(point, key_hash=family) for batch in batches for point in batch]
    for batch in batches:
        points = [replace(point, key_hash=family) for point in batch]
        shared.commit("claude-code", SOURCE, Batch(points=[*points], is_checked=True))

    columns = (
        "variant, timestamp_ms, input_tokens, cache_read_tokens, cache_write_tokens,"
        " cache_write_1h_tokens, output_tokens, reasoning_tokens, web_search_requests"
    )
    rows = shared.db.execute(f"SELECT {columns} FROM record WHERE family=?", (family,)).fetchall()
    assert sorted(rows) == sorted(
        (
            variant,
            point.timestamp_ms,
            point.input_tokens,
            point.cache_read_tokens,
            point.cache_write_tokens,
            point.cache_write_1h_tokens,
            point.output_tokens,
            point.reasoning_tokens,
            point.web_search_requests,
        )
        for variant, point in resolve(fold(everything)).items()
    )
    reading.assert_books_balance(shared)


def test_the_line_with_cache_counts_has_the_right_input() -> None:
    whole_prompt = sighting(input_tokens=9000, has_cache_counts=False)
    remainder = sighting(input_tokens=1000, cache_read_tokens=8000)

    [point] = resolve(fold([whole_prompt, remainder])).values()

    assert (point.input_tokens, point.cache_read_tokens) == (1000, 8000)


def test_an_original_is_kept_whole_beside_a_larger_replay() -> None:
    original = sighting("req_1", cache_read_tokens=20, output_tokens=40)
    replay = sighting("req_2", cache_read_tokens=50_000, output_tokens=40, replayed=True)

    [point] = resolve(fold([replay, original])).values()

    assert point.cache_read_tokens == 20


def test_two_originals_are_two_calls() -> None:
    assert len(resolve(fold([sighting("req_1"), sighting("req_2")]))) == 2


def test_a_repository_that_was_recognised_stays_when_its_folder_is_gone() -> None:
    known = sighting(project="github.com/a/b", output_tokens=1)
    gone = sighting(project="/home/me/b", output_tokens=1)

    [point] = fold([known, gone]).values()

    assert point.project == "github.com/a/b"


def test_a_call_is_counted_at_its_first_line() -> None:
    late = sighting(timestamp=NOON_MS + 5_000, output_tokens=159)
    early = sighting(timestamp=NOON_MS, output_tokens=1)

    [point] = fold([late, early]).values()

    assert (point.timestamp, point.latest, point.output_tokens) == (
        NOON_MS,
        NOON_MS + 5_000,
        159,
    )


def test_a_newer_parser_replaces_what_an_older_one_counted_down_as_well(shared: Ledger) -> None:
    family = hash64("parser version")
    old, new = sighting(output_tokens=500), sighting(output_tokens=100)
    old.key_hash = new.key_hash = family
    shared.commit("claude-code", SOURCE, Batch(points=[old], is_checked=True))
    newer = Source("claude-code", Merge.LARGEST, parser=2)

    shared.commit("claude-code", newer, Batch(points=[new], is_checked=True))

    [(output,)] = shared.db.execute(
        "SELECT output_tokens FROM record WHERE family=?", (family,)
    ).fetchall()
    assert output == 100
    reading.assert_books_balance(shared)


def test_a_smaller_late_sighting_beside_a_replay_takes_nothing_away(shared: Ledger) -> None:
    family = hash64("late partial line")
    partial = sighting("req_1", output_tokens=5)
    replay = sighting("req_2", output_tokens=5, replayed=True)
    final = sighting("req_1", output_tokens=100)
    for point in (partial, replay, final):
        point.key_hash = family
    for points in ([partial, replay], [final], [replay]):
        batch = Batch(points=[replace(point) for point in points], is_checked=True)
        shared.commit("claude-code", SOURCE, batch)

    rows = shared.db.execute(
        "SELECT output_tokens FROM record WHERE family=?", (family,)
    ).fetchall()
    assert rows == [(100,)]
