"""Folding old detail: no total changes, whatever the history, the cut and the zone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from collectors.base import Billing, Quality, Width
from collectors.errors import LedgerError
from collectors.ledger import prune as pruning
from collectors.ledger.checks import verify
from collectors.ledger.prune import Plan, compact, plan, prune
from collectors.ledger.store import Ledger, Source
from collectors.measurements import FIELDS
from collectors.merging import Merge
from collectors.points import TokenUsagePoint
from tests.support.ledgers import (
    LATEST,
    MODELS,
    NOW,
    at,
    days,
    open_ledger,
    point,
    store,
    sums,
)

MARCH = int(at("2026-03-01T12:00").timestamp() * 1000)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path / "ledger.db")
    yield opened
    assert verify(opened.db, is_full_check=True) == []
    opened.close()


def february(ledger: Ledger) -> None:
    """Three calls on one local day, one on the next, one in March."""
    store(
        ledger,
        point("a", "2026-02-10T08:00", session="s1"),
        point("b", "2026-02-10T09:00", session="s2", output_tokens=20),
        point("c", "2026-02-10T09:00", model=MODELS[1]),
        point("d", "2026-02-10T23:30"),  # the 11th in Berlin
        point("e", "2026-03-05T10:00", session="s3"),
    )


def test_a_plan_says_what_pruning_then_does(ledger: Ledger) -> None:
    february(ledger)

    planned = plan(ledger.db, ledger.calendar, MARCH)
    done = prune(ledger, MARCH)

    start_of_march = int(at("2026-02-28T23:00").timestamp() * 1000)  # midnight in Berlin
    assert planned == Plan(start_of_march, days=2, records=4, becomes=3, unsent=0)
    assert done == (2, 4, 3)


def test_a_days_calls_become_one_record_at_its_midnight(ledger: Ledger) -> None:
    february(ledger)

    prune(ledger, MARCH)

    midnight = int(at("2026-02-09T23:00").timestamp())
    rows = ledger.db.execute(
        "SELECT bucket, timestamp_ms, latest_ms, width, input_tokens, output_tokens, requests,"
        " context FROM record JOIN series ON series.id=record.series WHERE model=? ORDER BY 1",
        (MODELS[0],),
    ).fetchall()
    nine = int(at("2026-02-10T09:00").timestamp() * 1000)
    assert rows[0] == (midnight, midnight * 1000, nine, 86_400, 200, 30, 2, 0)
    assert [row[6] for row in rows] == [2, 1, 1]


def test_sessions_of_folded_calls_are_forgotten_and_others_stay(ledger: Ledger) -> None:
    february(ledger)

    prune(ledger, MARCH)

    assert ledger.db.execute("SELECT session FROM context").fetchall() == [("s3",)]


def test_calls_are_counted_on_after_pruning(ledger: Ledger) -> None:
    february(ledger)
    prune(ledger, MARCH)

    store(
        ledger,
        point("e", "2026-03-05T10:00", session="s3", output_tokens=99),
        point("f", "2026-03-06T10:00", session="s1"),
    )

    assert sums(ledger.db, "requests") == 6
    assert sums(ledger.db, "output_tokens") == 10 + 20 + 10 + 10 + 99 + 10


def test_a_call_whose_other_variant_is_newer_stays_whole(ledger: Ledger) -> None:
    store(
        ledger,
        point("a", "2026-02-28T10:00", variant="req_1"),
        point("a", "2026-03-04T10:00", variant="req_2"),
        point("b", "2026-02-28T11:00"),
    )

    assert prune(ledger, MARCH).records == 1
    assert store(ledger, point("a", "2026-02-28T10:00", variant="req_1", output_tokens=50)) == 1
    assert sums(ledger.db, "output_tokens") == 70


def test_another_sighting_of_a_folded_call_adds_nothing(ledger: Ledger) -> None:
    february(ledger)
    prune(ledger, MARCH)

    changed = store(
        ledger,
        point("a", "2026-02-10T08:00", variant="req_9", output_tokens=500),
        point("b", "2026-02-10T09:00", output_tokens=20),
        point("b", "2026-02-10T09:00", variant="req_9", replayed=True),
    )

    assert changed == 0


def test_a_late_call_of_a_folded_day_is_counted_and_folded_next_time(ledger: Ledger) -> None:
    february(ledger)
    prune(ledger, MARCH)
    store(ledger, point("late", "2026-02-10T12:00"))

    done = prune(ledger, MARCH)

    assert done == (1, 3, 2)  # the day's two sums and the late call become two sums
    assert sums(ledger.db, "requests") == 6
    assert store(ledger, point("late", "2026-02-10T12:00")) == 0
    assert prune(ledger, MARCH) == (0, 0, 0)


def test_an_estimate_is_not_folded_and_gives_way_to_a_record_later(ledger: Ledger) -> None:
    guess = point(
        "stats", "2026-02-14T23:00", input_tokens=0, output_tokens=0, unsplit_tokens=900,
        requests=0, width=Width.DAY, quality=Quality.ESTIMATED,
    )  # fmt: skip
    fill = Source("claude-code", Merge.FILL)
    store(ledger, replace(guess), source=fill)
    february(ledger)

    prune(ledger, MARCH)
    again = store(ledger, replace(guess), source=fill)
    store(ledger, point("real", "2026-02-15T10:00"))

    assert again == 0
    assert sums(ledger.db, "unsplit_tokens") == 0


def test_an_estimated_call_that_was_folded_is_no_estimate_of_a_day(ledger: Ledger) -> None:
    store(ledger, point("a", "2026-02-10T08:00", quality=Quality.ESTIMATED))
    prune(ledger, MARCH)

    store(ledger, point("b", "2026-02-10T09:00"))

    assert sums(ledger.db, "requests") == 2


def test_days_of_an_account_are_also_whole_in_utc(ledger: Ledger) -> None:
    for hour in ("2026-02-09T23:00", "2026-02-10T00:00", "2026-02-10T22:00", "2026-02-10T23:00"):
        store(ledger, point(hour, hour, account="org", width=Width.HOUR), source=LATEST)

    prune(ledger, MARCH)

    rows = ledger.db.execute("SELECT start / 86400, sum(requests) FROM bucket GROUP BY 1")
    tenth = int(at("2026-02-10T00:00").timestamp()) // 86_400
    assert rows.fetchall() == [(tenth - 1, 1), (tenth, 3)]


def test_influxdb_keeps_its_fine_points_and_is_told_nothing_but_days(ledger: Ledger) -> None:
    target = ledger.outbox.target("http://127.0.0.1:8086", "o", "b")
    february(ledger)
    now = NOW.timestamp()
    ledger.outbox.acknowledge(target, ledger.outbox.due(target, 1_000, now), now)
    ledger.outbox.acknowledge(target, ledger.outbox.due(target, 1_000, now + 700), now + 700)

    prune(ledger, MARCH)
    store(ledger, point("late", "2026-02-10T08:00"))

    rows = ledger.outbox.due(target, 1_000, now + 5_000)
    assert [row.measurement for row in rows] == ["token_usage_daily"]
    ledger.outbox.replay()
    fine = [r for r in ledger.outbox.due(target, 1_000, now) if r.measurement == "token_usage"]
    assert [row.start for row in fine] == [int(at("2026-03-05T10:00").timestamp())]


def test_a_database_that_is_new_after_pruning_gets_the_days_sums(ledger: Ledger) -> None:
    february(ledger)
    prune(ledger, MARCH)

    target = ledger.outbox.target("http://127.0.0.1:8087", "o", "b")
    rows = ledger.outbox.due(target, 1_000, NOW.timestamp())

    place = [field.name for field in FIELDS["token_usage"]].index("requests")
    requests = {"token_usage": 0, "token_usage_daily": 0}
    for row in rows:
        requests[row.measurement] += int(row.values[place] or 0)
    assert requests == {"token_usage": 5, "token_usage_daily": 5}


def test_what_influxdb_was_never_told_is_not_folded_unasked(ledger: Ledger) -> None:
    ledger.outbox.target("http://127.0.0.1:8086", "o", "b")
    february(ledger)

    with pytest.raises(LedgerError, match="4 points older than the cut have not reached InfluxDB"):
        prune(ledger, MARCH)

    assert prune(ledger, MARCH, drops_unsent=True).records == 4


def test_pruning_stopped_between_two_days_goes_on_where_it_was(ledger: Ledger) -> None:
    february(ledger)
    before = days(ledger.db, ledger.calendar)
    answers = iter([True, False])

    first = prune(ledger, MARCH, is_wanted=lambda: next(answers))
    second = prune(ledger, MARCH)

    assert (first.days, second.days) == (1, 1)
    assert days(ledger.db, ledger.calendar) == before


def test_the_room_of_folded_detail_goes_back_to_the_disk(ledger: Ledger) -> None:
    store(ledger, *(point(f"msg_{i}", "2026-02-10T08:00") for i in range(5_000)))
    prune(ledger, MARCH)
    before = ledger.path.stat().st_size

    after = compact(ledger)

    assert after < before / 2 or after < 300_000


# -- any history, any cut -------------------------------------------------------------------------

_histories = st.lists(
    st.builds(
        lambda key, hour, model, billing, project, account, variant, tier, output: point(
            f"msg_{key}",
            f"2026-03-{26 + hour // 24:02d}T{hour % 24:02d}:{key * 7 % 60:02d}",
            model=MODELS[model],
            billing=billing,
            project=project,
            account=account,
            variant=variant,
            service_tier=tier,
            output_tokens=output,
            cache_read_tokens=key * 100,
            session=f"s{key}",
        ),
        st.integers(0, 9),
        st.integers(0, 6 * 24 - 1),
        st.integers(0, 2),
        st.sampled_from(list(Billing)),
        st.sampled_from(["", "/app"]),
        st.sampled_from(["", "org"]),
        st.sampled_from(["", "req_1", "req_2"]),
        st.sampled_from(["", "batch"]),
        st.integers(0, 5),
    ),
    max_size=14,
)


def _fold_it(
    path: Path, zone: str, points: list[TokenUsagePoint], cut: int
) -> tuple[Ledger, Any, Any]:
    ledger = open_ledger(path, zone=zone, clock=at("2026-04-20T00:00").timestamp)
    for one in points:
        store(ledger, replace(one))
    before = days(ledger.db, ledger.calendar)
    prune(ledger, cut)
    return ledger, before, days(ledger.db, ledger.calendar)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    points=_histories,
    hours=st.integers(0, 9 * 24),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]),
)
def test_no_daily_sum_changes_and_reading_all_again_adds_nothing(
    tmp_path_factory: pytest.TempPathFactory, points: list[TokenUsagePoint], hours: int, zone: str
) -> None:
    """26 to 31 March: over the change to summer time in Berlin."""
    path = tmp_path_factory.mktemp("prune") / "ledger.db"
    cut = int(at("2026-03-25T00:00").timestamp() + hours * 3_600) * 1_000

    ledger, before, after = _fold_it(path, zone, points, cut)
    for one in points:
        store(ledger, replace(one))
    again = days(ledger.db, ledger.calendar)
    problems = verify(ledger.db, is_full_check=True)
    second = prune(ledger, cut)
    ledger.close()

    assert before == after == again
    assert problems == []
    assert second == (0, 0, 0)


def test_the_property_catches_folding_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    february(ledger)
    monkeypatch.setattr(Ledger, "_is_folded", lambda *_: False)
    before = days(ledger.db, ledger.calendar)

    prune(ledger, MARCH)
    february(ledger)

    assert days(ledger.db, ledger.calendar) != before
    ledger.close()


def test_the_property_catches_folding_two_billings_into_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = pruning._group
    monkeypatch.setattr(
        pruning, "_group", lambda row, *rest: (*right(row, *rest)[:3], 0, *right(row, *rest)[4:])
    )
    points = [
        point("a", "2026-03-26T08:00", billing=Billing.METERED),
        point("b", "2026-03-26T09:00", billing=Billing.SUBSCRIPTION),
    ]

    ledger, before, after = _fold_it(
        tmp_path / "ledger.db", "UTC", points, int(at("2026-04-01T00:00").timestamp() * 1000)
    )

    assert before != after
    ledger.close()


def test_pruning_killed_between_its_steps_changes_no_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    february(ledger)
    before = days(ledger.db, ledger.calendar)
    for step in ("_move_buckets", "_sum_up"):
        with monkeypatch.context() as broken:
            broken.setattr(pruning, step, _fail)
            with pytest.raises(ZeroDivisionError):
                prune(ledger, MARCH)

        assert days(ledger.db, ledger.calendar) == before
        assert verify(ledger.db) == []
    ledger.close()


def _fail(*_: object) -> None:
    raise ZeroDivisionError
