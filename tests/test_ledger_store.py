"""The ledger's writing side: every rule by which points become sums."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from collectors.base import Billing, Quality, Role, Width
from collectors.errors import LedgerError
from collectors.ledger.checks import verify
from collectors.ledger.dimensions import TagPolicy, writer_offset
from collectors.ledger.schema import BUCKET_COLUMNS
from collectors.ledger.store import Ledger, Source, Stored
from collectors.merging import Merge
from collectors.points import BalancePoint, Batch, LimitPoint, Refusal, TokenUsagePoint
from collectors.pricing import PriceBook
from tests.support.ledgers import (
    BERLIN,
    LARGEST,
    LATEST,
    NOW,
    buckets,
    open_ledger,
    point,
    records,
    store,
    sums,
)

STATS = Source("claude-code", Merge.FILL)
UTC_TEN = 1772445600  # 2026-03-02T10:00Z


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    opened = open_ledger(path)
    yield opened
    assert verify(opened.db, is_full_check=True) == []
    opened.close()


def one_target(ledger: Ledger, url: str = "http://127.0.0.1:8086") -> int:
    return ledger.outbox.target(url, "tokendash", "tokens")


def send_all(ledger: Ledger, target: int) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Acknowledge everything that is due; what was sent, by measurement, tags and time."""
    now = NOW.timestamp()
    rows = ledger.outbox.due(target, 10_000, now)
    ledger.outbox.acknowledge(target, rows, now)
    return {(row.measurement, row.tags, row.timestamp_ns): row.values for row in rows}


def is_zero(values: tuple[Any, ...]) -> bool:
    return not any(values)


# -- keys and differences -------------------------------------------------------------------------


def test_a_call_seen_again_counts_once(ledger: Ledger) -> None:
    store(ledger, point())

    changed = store(ledger, point())

    assert changed == 0
    assert sums(ledger.db, "requests") == 1


def test_a_growing_call_adds_only_what_it_grew_by(ledger: Ledger) -> None:
    store(ledger, point(output_tokens=3))
    store(ledger, point(output_tokens=250))

    store(ledger, point(output_tokens=80))

    assert sums(ledger.db, "output_tokens") == 250
    assert sums(ledger.db, "input_tokens") == 100


def test_an_earlier_sighting_moves_the_call_to_its_bucket_and_empties_the_other(
    ledger: Ledger,
) -> None:
    store(ledger, point(when="2026-03-02T10:07"))

    store(ledger, point(when="2026-03-02T10:02"))

    rows = ledger.db.execute("SELECT start, requests, input_tokens FROM bucket ORDER BY start")
    assert rows.fetchall() == [(UTC_TEN, 1, 100)]


def test_a_difference_between_buckets_makes_both_dirty_and_the_old_one_zero(
    ledger: Ledger,
) -> None:
    target = one_target(ledger)
    store(ledger, point(when="2026-03-02T10:07"))
    send_all(ledger, target)

    store(ledger, point(when="2026-03-02T10:02"))
    sent = {key[2] // 10**9 // 300 * 300: values for key, values in send_all(ledger, target).items()
            if key[0] == "token_usage"}  # fmt: skip

    assert is_zero(sent[UTC_TEN + 300])
    assert not is_zero(sent[UTC_TEN])


def test_a_newer_parser_replaces_a_record_down_as_well_as_up(ledger: Ledger) -> None:
    store(ledger, point("msg_a", output_tokens=500), point("msg_b", output_tokens=5))
    newer = Source("claude-code", Merge.LARGEST, parser=2)

    changed = store(
        ledger, point("msg_a", output_tokens=400), point("msg_b", output_tokens=9), source=newer
    )

    assert changed == 2
    assert sums(ledger.db, "output_tokens") == 409


def test_records_a_newer_parser_does_not_see_again_stay(ledger: Ledger) -> None:
    store(ledger, point("msg_a"), point("msg_b"))

    store(ledger, point("msg_b", output_tokens=1), source=Source("claude-code", Merge.LARGEST, 2))

    assert sums(ledger.db, "requests") == 2
    assert sums(ledger.db, "output_tokens") == 11


def test_an_older_parser_does_not_take_anything_down(ledger: Ledger) -> None:
    store(ledger, point(output_tokens=400), source=Source("claude-code", Merge.LARGEST, parser=2))

    store(ledger, point(output_tokens=100))

    assert sums(ledger.db, "output_tokens") == 400


@pytest.mark.parametrize("width", [Width.EVENT, Width.DAY])
def test_a_newer_price_book_changes_no_history(path: Path, tmp_path: Path, width: int) -> None:
    first = open_ledger(path)
    store(first, point(width=width), source=LATEST)
    before = records(first.db)
    first.close()
    file = tmp_path / "prices.yaml"
    file.write_text("prices: [{model: claude-sonnet-4-5-20250929, input: 6, output: 30}]")
    ledger = open_ledger(path, book=PriceBook(file))

    changed = store(ledger, point(width=width), point("msg_2", width=width), source=LATEST)

    # $3 and $15 per million: 100 in, 10 out = 450,000 nano-dollars; the new call costs twice that.
    assert changed == 1
    assert before <= records(ledger.db)
    assert sums(ledger.db, "cost_nano") == 450_000 + 900_000
    ledger.close()


def test_unknown_prices_are_counted_as_unpriced_tokens_and_not_as_free(ledger: Ledger) -> None:
    store(ledger, point(model="no-such-model-1", unsplit_tokens=7))

    assert sums(ledger.db, "cost_nano + api_equivalent_nano + plan_unknown_nano") == 0
    assert sums(ledger.db, "unpriced_tokens") == 117


@pytest.mark.parametrize(
    ("billing", "column"),
    [
        (Billing.METERED, "cost_nano"),
        (Billing.SUBSCRIPTION, "api_equivalent_nano"),
        (Billing.UNKNOWN, "plan_unknown_nano"),
    ],
)
def test_the_list_price_goes_to_the_column_of_its_meaning(
    ledger: Ledger, billing: Billing, column: str
) -> None:
    store(ledger, point(), source=Source("claude-code", Merge.LARGEST, billing=billing))

    for name in ("cost_nano", "api_equivalent_nano", "plan_unknown_nano"):
        assert sums(ledger.db, name) == (450_000 if name == column else 0)


def test_two_points_of_one_window_with_the_same_key_are_refused_whole(ledger: Ledger) -> None:
    batch = Batch(points=[point("day_1"), point("day_2"), point("day_1")], cursor={"page": 3})

    with pytest.raises(LedgerError, match="anthropic-usage returned two points with the same key"):
        ledger.commit("anthropic-usage", LATEST, batch)

    assert sums(ledger.db, "requests") == 0
    assert ledger.cursor("anthropic-usage") == {}


def test_a_window_restated_lower_is_believed(ledger: Ledger) -> None:
    store(ledger, point("day_1", output_tokens=900), source=LATEST)

    store(ledger, point("day_1", output_tokens=700), source=LATEST)

    assert sums(ledger.db, "output_tokens") == 700


def test_one_key_under_two_sources_is_two_calls(ledger: Ledger) -> None:
    store(ledger, point())

    store(ledger, point(), source=LATEST)

    assert sums(ledger.db, "requests") == 2


def test_a_variant_that_grew_after_its_family_was_resolved_never_falls_again(
    ledger: Ledger,
) -> None:
    replay: dict[str, Any] = {"variant": "req_1", "replayed": True, "output_tokens": 5}
    store(ledger, point(**replay), point(variant="req_2", output_tokens=50))
    store(ledger, point(variant="req_2", output_tokens=300))

    store(ledger, point(**replay))

    assert sums(ledger.db, "output_tokens") == 300
    assert sums(ledger.db, "requests") == 1


def test_points_that_cannot_be_are_refused_with_a_reason_and_the_rest_counts(
    ledger: Ledger,
) -> None:
    later = (NOW + timedelta(days=2)).replace(tzinfo=None).isoformat()
    points = [
        point("msg_1"),
        point("msg_2", input_tokens=-1),
        point("msg_3", reasoning_tokens=11),
        point("msg_4", when="2019-12-31T23:59"),
        point("msg_5", when=later),
        point("msg_6", model=""),
        point("msg_7", input_tokens=1 << 54),
    ]

    done = ledger.commit("x", LARGEST, Batch(points=list(points)))

    assert (done.changed, done.skipped) == (1, 6)
    reasons = {row[0] for row in ledger.db.execute("SELECT reason FROM refused")}
    assert reasons == {
        "token count out of range",
        "timestamp outside 2020 to tomorrow",
        "provider or model missing",
    }


def test_a_sum_past_what_a_bucket_can_hold_is_an_error_and_not_a_float(ledger: Ledger) -> None:
    most = (1 << 53) - 20
    points = [point(f"msg_{i}", model="no-such", input_tokens=most) for i in range(1_025)]

    with pytest.raises((sqlite3.Error, OverflowError)):
        store(ledger, *points)

    assert sums(ledger.db, "requests") == 0


def test_a_call_no_price_can_be_meant_for_is_unpriced(ledger: Ledger) -> None:
    store(ledger, point(input_tokens=1 << 52))

    assert sums(ledger.db, "plan_unknown_nano + cost_nano + savings_nano") == 0
    assert sums(ledger.db, "unpriced_tokens") == (1 << 52) + 10


# -- cursors and transactions ---------------------------------------------------------------------


def test_points_cursor_and_refusals_are_stored_together_or_not_at_all(ledger: Ledger) -> None:
    bad = point("msg_2")
    bad.session = 7  # type: ignore[assignment]  # makes the commit fail after other rows
    refusal = Refusal(reason="not JSON", location="/l.jsonl", offset=3, length=9)
    batch = Batch(points=[point(), bad], cursor={"f": [1]}, refusals=[refusal], is_checked=True)

    with pytest.raises((TypeError, AttributeError)):
        ledger.commit("claude-code", LARGEST, batch)

    assert not ledger.db.in_transaction
    assert sums(ledger.db, "requests") == 0
    assert ledger.cursor("claude-code") == {}
    assert ledger.db.execute("SELECT count(*) FROM refused").fetchone() == (0,)


def test_a_commit_after_one_that_failed_finds_names_that_exist(ledger: Ledger) -> None:
    bad = point("msg_2", model="a-new-model")
    bad.session = 7  # type: ignore[assignment]
    with pytest.raises((TypeError, AttributeError)):
        store(ledger, point(model="another-new-model", session="s"), bad)

    store(ledger, point(model="another-new-model", session="s"))

    assert ledger.db.execute(
        "SELECT model, session FROM record JOIN series ON series.id=record.series"
        " JOIN context ON context.id=record.context"
    ).fetchall() == [("another-new-model", "s")]


def test_a_cursor_keeps_what_it_is_not_told_and_forgets_what_is_none(ledger: Ledger) -> None:
    ledger.commit("x", LATEST, Batch(cursor={"a": [1, 2], "b": "text", "c": {"n": 1}}))

    ledger.commit("x", LATEST, Batch(cursor={"b": None, "c": 5}))

    assert ledger.cursor("x") == {"a": [1, 2], "c": 5}
    assert ledger.cursor("y") == {}


def test_the_last_thousand_runs_of_each_collector_stay(ledger: Ledger) -> None:
    for number in range(1_005):
        ledger.note_run("a", number, 0.1, Stored(), "", "")
    ledger.note_run("b", 1, 0.1, Stored(1, 1, 0), "", "")

    rows = ledger.db.execute("SELECT collector, count(*), min(started_at) FROM run GROUP BY 1")
    assert rows.fetchall() == [("a", 1_000, 5.0), ("b", 1, 1.0)]


# -- estimates for empty days ---------------------------------------------------------------------


def estimate(day: str, tokens: int = 5_000) -> TokenUsagePoint:
    """What Claude Code's own statistics say of a local day."""
    return TokenUsagePoint(
        provider="anthropic",
        model="claude-sonnet-4-5-20250929",
        timestamp=datetime.combine(date.fromisoformat(day), time(), BERLIN),
        key=f"stats\0{day}",
        unsplit_tokens=tokens,
        requests=0,
        width=Width.DAY,
        quality=Quality.ESTIMATED,
    )


def test_an_estimate_fills_only_a_day_without_records(ledger: Ledger) -> None:
    store(ledger, point(when="2026-03-02T10:00"))

    changed = store(ledger, estimate("2026-03-01"), estimate("2026-03-02"), source=STATS)

    assert changed == 1
    assert sums(ledger.db, "unsplit_tokens") == 5_000
    assert sums(ledger.db, "requests") == 1


def test_a_day_is_a_local_day(ledger: Ledger) -> None:
    store(ledger, point(when="2026-03-01T23:30"))  # 00:30 on the 2nd in Berlin

    store(ledger, estimate("2026-03-01"), estimate("2026-03-02"), source=STATS)

    assert sums(ledger.db, "unsplit_tokens") == 5_000


@pytest.mark.parametrize("variants", [("",), ("req_1", "req_2")])
def test_a_later_record_withdraws_the_estimate_of_its_day(
    ledger: Ledger, variants: tuple[str, ...]
) -> None:
    store(ledger, estimate("2026-03-02"), estimate("2026-03-03"), source=STATS)

    store(ledger, *(point(variant=variant) for variant in variants))

    assert sums(ledger.db, "unsplit_tokens") == 5_000
    assert store(ledger, estimate("2026-03-02"), source=STATS) == 0


def _count_and_fail(ledger: Ledger) -> None:
    with ledger.transaction():
        ledger._count(LARGEST, [point()])
        raise ZeroDivisionError


def test_an_estimate_is_withdrawn_also_after_the_first_try_was_rolled_back(
    ledger: Ledger,
) -> None:
    store(ledger, estimate("2026-03-02"), source=STATS)
    with pytest.raises(ZeroDivisionError):
        _count_and_fail(ledger)

    store(ledger, point())

    assert sums(ledger.db, "unsplit_tokens") == 0


def test_an_estimate_is_withdrawn_after_a_restart_too(path: Path) -> None:
    first = open_ledger(path)
    store(first, estimate("2026-03-02"), source=STATS)
    first.close()
    ledger = open_ledger(path)

    store(ledger, point())

    assert sums(ledger.db, "unsplit_tokens") == 0
    ledger.close()


def test_a_restated_estimate_replaces_the_one_before(ledger: Ledger) -> None:
    store(ledger, estimate("2026-03-02", 4_000), source=STATS)

    store(ledger, estimate("2026-03-02", 6_000), source=STATS)

    assert sums(ledger.db, "unsplit_tokens") == 6_000


# -- where things are sent ------------------------------------------------------------------------


def test_views_go_to_their_own_measurement_and_to_no_daily_sum(ledger: Ledger) -> None:
    target = one_target(ledger)
    store(ledger, point(), source=Source("litellm", Merge.LATEST, role=Role.VIEW))

    sent = send_all(ledger, target)

    assert {measurement for measurement, _, _ in sent} == {"token_usage_view"}


def test_a_change_of_role_is_sent_with_zeros_at_the_old_place(ledger: Ledger) -> None:
    target = one_target(ledger)
    store(ledger, point(), source=LATEST)
    send_all(ledger, target)

    store(ledger, point(), source=Source("anthropic-usage", Merge.LATEST, role=Role.VIEW))
    sent = {key[0]: values for key, values in send_all(ledger, target).items()}

    assert is_zero(sent["token_usage"])
    assert is_zero(sent["token_usage_daily"])
    assert not is_zero(sent["token_usage_view"])


@pytest.mark.parametrize(
    "policy",
    [
        TagPolicy(host="laptop", project="hash"),
        TagPolicy(host="laptop", project="off"),
        TagPolicy(host="laptop", names=("provider", "source", "model")),
    ],
)
def test_another_tag_policy_sends_zeros_at_the_old_place_and_all_at_the_new(
    path: Path, policy: TagPolicy
) -> None:
    first = open_ledger(path)
    target = one_target(first)
    store(first, point(project="/home/ada/app"))
    old = send_all(first, target)
    first.close()
    ledger = open_ledger(path, policy=policy)

    sent = send_all(ledger, target)

    assert all(is_zero(sent[key]) for key in old)
    new = {key: values for key, values in sent.items() if key not in old}
    assert sorted(new.values()) == sorted(old.values())
    assert len(new) == 2
    ledger.close()


def test_another_zone_moves_daily_sums_and_leaves_nothing_behind(path: Path) -> None:
    first = open_ledger(path, zone="Europe/Berlin")
    target = one_target(first)
    store(first, point(when="2026-03-01T23:30"))
    old = send_all(first, target)
    first.close()
    ledger = open_ledger(path, zone="UTC")

    sent = send_all(ledger, target)

    offset = writer_offset(ledger.db.execute("SELECT uuid FROM writer").fetchone()[0])
    days = {key[2]: is_zero(values) for key, values in sent.items()}
    assert {key[0] for key in sent} == {"token_usage_daily"}
    assert days == {
        1772406000 * 10**9 + offset: True,  # midnight of the 2nd in Berlin
        1772323200 * 10**9 + offset: False,  # midnight of the 1st in UTC
    }
    assert all(key in old or not is_zero(values) for key, values in sent.items())
    ledger.close()


def test_series_past_the_budget_are_summed_as_other_and_lose_nothing(path: Path) -> None:
    ledger = open_ledger(path, policy=TagPolicy(host="laptop", budget=3))
    target = one_target(ledger)
    for number in range(6):
        store(ledger, point(f"msg_{number}", project=f"/home/ada/app{number}"))

    tags = [dict(key[1]) for key in send_all(ledger, target) if key[0] == "token_usage"]

    assert sorted(tag["project"] for tag in tags) == ["(other)", "app0", "app1", "app2"]
    other = ledger.db.execute(
        "SELECT count(DISTINCT series.id) FROM series JOIN tagset ON tagset.id=series.tagset"
        " WHERE tags LIKE '%(other)%'"
    )
    assert other.fetchone() == (3,)
    assert sums(ledger.db, "requests") == 6
    ledger.close()


def test_another_machine_writes_new_buckets_under_its_own_offset_and_moves_no_old_ones(
    path: Path,
) -> None:
    first = open_ledger(path, machine="machine-a")
    target = one_target(first)
    store(first, point("msg_old"))
    old = set(send_all(first, target))
    first.close()
    ledger = open_ledger(path, machine="machine-b", policy=TagPolicy(host="desktop"))

    store(ledger, point("msg_old", output_tokens=20), point("msg_new"))
    sent = send_all(ledger, target)

    offsets = dict(ledger.db.execute("SELECT id, offset_ns FROM writer").fetchall())
    assert len(offsets) == 2
    usage = {key: values for key, values in sent.items() if key[0] == "token_usage"}
    assert {(dict(tags)["host"], stamp) for _, tags, stamp in usage} == {
        ("laptop", UTC_TEN * 10**9 + offsets[1]),
        ("desktop", UTC_TEN * 10**9 + offsets[2]),
    }
    assert old < set(sent)
    assert not any(is_zero(values) for values in sent.values())
    ledger.close()


def test_account_level_series_have_no_host_and_no_offset(ledger: Ledger) -> None:
    target = one_target(ledger)
    store(ledger, point(account="org-1"), source=LATEST)

    sent = send_all(ledger, target)

    [usage] = [key for key in sent if key[0] == "token_usage"]
    assert usage[2] == UTC_TEN * 10**9
    assert dict(usage[1])["account"] == "org-1"
    assert "host" not in dict(usage[1])


def test_a_reading_that_did_not_change_is_not_sent_again(ledger: Ledger) -> None:
    target = one_target(ledger)
    balance = BalancePoint(
        provider="openrouter", account="default", timestamp=NOW, balance=Decimal("12.30")
    )
    limit = LimitPoint(
        provider="anthropic", account="default", window="five_hour", timestamp=NOW, used_ratio=0.25
    )
    ledger.commit("openrouter", LATEST, Batch(points=[balance, limit]))
    first = send_all(ledger, target)

    again = ledger.commit("openrouter", LATEST, Batch(points=[balance, limit]))

    assert {key[0] for key in first} == {"account_balance", "rate_window"}
    assert again.changed == 0
    assert ledger.outbox.pending(target) == 0


def test_news_during_a_request_stay_dirty(ledger: Ledger) -> None:
    target = one_target(ledger)
    store(ledger, point())
    rows = ledger.outbox.due(target, 100, NOW.timestamp())
    store(ledger, point(output_tokens=99))

    ledger.outbox.acknowledge(target, rows, NOW.timestamp())

    assert ledger.outbox.pending(target) == 2


# -- any order of reading -------------------------------------------------------------------------

_points = st.builds(
    lambda key, variant, minute, output, given, cached, replayed, counts: point(
        f"msg_{key}",
        f"2026-03-02T10:{minute:02d}",
        variant=variant,
        output_tokens=output,
        input_tokens=given,
        cache_read_tokens=cached if counts else 0,
        replayed=replayed,
        has_cache_counts=counts,
        session=f"s{minute % 2}",
    ),
    st.integers(1, 3),
    st.sampled_from(["", "req_1", "req_2"]),
    st.integers(0, 12),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.booleans(),
    st.booleans(),
)


def _feed(path: Path, points: list[TokenUsagePoint], cuts: list[int]) -> tuple[Any, Any, list[str]]:
    ledger = open_ledger(path)
    try:
        start = 0
        for end in (*sorted(cuts), len(points)):
            store(ledger, *(replace(one) for one in points[start:end]))
            start = max(start, end)
        return records(ledger.db), buckets(ledger.db), verify(ledger.db)
    finally:
        ledger.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    points=st.lists(_points, min_size=1, max_size=8),
    seed=st.integers(0, 1 << 30),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_points_cut_shuffled_and_repeated_make_the_same_ledger(
    tmp_path_factory: pytest.TempPathFactory,
    points: list[TokenUsagePoint],
    seed: int,
    cuts: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("order")
    chance = random.Random(seed)
    other = points + chance.sample(points, chance.randrange(len(points) + 1))
    chance.shuffle(other)

    straight = _feed(folder / "a.db", points, [])
    shuffled = _feed(folder / "b.db", other, cuts)

    assert straight == shuffled
    assert straight[2] == []


def test_the_columns_of_a_bucket_are_the_sums_of_its_records(ledger: Ledger) -> None:
    store(
        ledger,
        point("a", cache_write_tokens=9, cache_write_1h_tokens=4, reasoning_tokens=3),
        point("b", unsplit_tokens=5, web_search_requests=2),
    )

    [values] = buckets(ledger.db).values()
    found = dict(zip(BUCKET_COLUMNS, values, strict=True))

    assert found["input_tokens"] == 200
    assert found["cache_write_tokens"] == 9
    assert found["cache_write_1h_tokens"] == 4
    assert found["output_tokens"] == 20
    assert found["reasoning_tokens"] == 3
    assert found["unsplit_tokens"] == found["unpriced_tokens"] == 5
    assert found["requests"] == 2
    assert found["web_search_requests"] == 2
