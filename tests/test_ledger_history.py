"""What was counted once stays as it was counted: its plan, its price, its day, its place."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from collectors.ledger import reports
from collectors.ledger.checks import verify
from collectors.ledger.dimensions import TagPolicy
from collectors.ledger.guard import GuardedLedger, GuardedOutbox
from collectors.ledger.store import Ledger, Source
from collectors.merging import Merge
from collectors.points import BalancePoint, Batch, Billing, LimitPoint, Refusal, TokenUsagePoint
from collectors.pricing import PriceBook
from tests.support.ledgers import NOW, at, open_ledger, opener, point, store

PRO = Source("claude-code", Merge.LARGEST, 1, Billing.SUBSCRIPTION)
API = Source("claude-code", Merge.LARGEST, 1, Billing.METERED)
NEWER = Source("claude-code", Merge.LARGEST, 2, Billing.METERED)


def money(ledger: Ledger) -> tuple[int, int]:
    """Paid, and subscription at list price, in nano-dollars."""
    total = reports.total_of(reports.report(ledger.db, ledger.calendar))
    return total.cost_nano, total.api_equivalent_nano


@pytest.mark.parametrize(
    ("source", "again"),
    [
        (API, point(session="b")),
        (API, point(output_tokens=11)),
        (API, point(project="github.com/a/b")),
        (NEWER, point()),
    ],
    ids=["another session", "grown", "another project", "newer parser"],
)
def test_use_under_a_plan_stays_under_it_when_it_is_seen_again_under_another(
    tmp_path: Path, source: Source, again: TokenUsagePoint
) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    store(ledger, point(session="c"), source=PRO)

    store(ledger, again, source=source)

    paid, subscribed = money(ledger)
    assert paid == 0
    assert subscribed > 0
    ledger.close()


def test_a_billing_the_source_states_survives_growth(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    store(ledger, point(billing="subscription"), source=API)

    store(ledger, point(billing="subscription", output_tokens=20), source=API)

    assert money(ledger)[0] == 0
    ledger.close()


def test_a_variant_that_takes_over_keeps_the_plan_of_the_one_before(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    store(ledger, point(variant="replay", replayed=True), source=PRO)

    store(ledger, point(variant="original"), source=API)

    paid, subscribed = money(ledger)
    assert (paid, subscribed > 0) == (0, True)
    assert verify(ledger.db, is_full_check=True) == []
    ledger.close()


def test_a_call_found_under_another_project_is_not_priced_anew(tmp_path: Path) -> None:
    dear = tmp_path / "dear.yaml"
    dear.write_text(
        "prices:\n  - pattern: claude.*\n    input: 1000\n    output: 1000\n    cache_read: 1000\n"
    )
    ledger = open_ledger(tmp_path / "ledger.db")
    store(ledger, point(session="c"), source=API)
    before = money(ledger)
    ledger.close()

    ledger = open_ledger(tmp_path / "ledger.db", book=PriceBook(dear))
    store(ledger, point(session="a", project="github.com/a/b"), source=API)

    assert money(ledger) == before
    ledger.close()


def test_a_day_a_collector_estimates_itself_is_not_withdrawn_by_its_other_rows(
    tmp_path: Path,
) -> None:
    source = Source("own", Merge.LATEST)
    day: dict[str, Any] = {"width": 86_400, "quality": "estimated", "output_tokens": 0}
    ledger = open_ledger(tmp_path / "ledger.db")
    store(
        ledger,
        point("a", input_tokens=10, **day),
        point("b", input_tokens=10, **day),
        source=source,
    )
    ledger.close()

    ledger = open_ledger(tmp_path / "ledger.db")
    store(ledger, point("c", input_tokens=1, **day), source=source)
    store(ledger, point("a", input_tokens=12, **day), source=source)

    total = reports.total_of(reports.report(ledger.db, ledger.calendar))
    assert total.input_tokens == 12 + 10 + 1
    assert verify(ledger.db, is_full_check=True) == []
    ledger.close()


def test_an_answer_to_a_ledger_that_was_replaced_meanwhile_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    guard = GuardedLedger(path, opener(path), now=lambda: NOW)
    outbox = GuardedOutbox(guard)
    target = outbox.target("http://x", "o", "b")
    store(guard.ledger, point())
    rows = outbox.due(target, 100, NOW.timestamp())

    guard._drop(is_suspect=False)  # as after an input/output error: another object is opened next
    outbox.acknowledge(target, rows, NOW.timestamp())

    assert outbox.pending(target) == len(rows)
    guard.close()


def test_a_revision_newer_than_any_there_is_acknowledges_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    target = ledger.outbox.target("http://x", "o", "b")
    for output in (10, 11, 12):
        store(ledger, point(output_tokens=output))
    [row, *_] = ledger.outbox.due(target, 100, NOW.timestamp())
    ledger.db.execute("UPDATE sent SET revision=1, sent_revision=0")

    ledger.outbox.acknowledge(target, [row], NOW.timestamp())

    assert ledger.outbox.pending(target) == 2  # the bucket and its day
    ledger.close()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kathmandu"])
def test_a_day_of_an_account_begins_at_midnight_utc_wherever_it_is_read(
    tmp_path: Path, zone: str
) -> None:
    ledger = open_ledger(tmp_path / "ledger.db", zone=zone)
    target = ledger.outbox.target("http://x", "o", "b")
    store(ledger, point(when="2026-03-02T23:30", account="org-1"), source=API)
    store(ledger, point("late", when="2026-03-03T00:30", account="org-1"), source=API)

    days = {
        row.timestamp_ns // 10**9
        for row in ledger.outbox.due(target, 100, NOW.timestamp())
        if row.measurement == "token_usage_daily"
    }

    assert days == {
        int(at("2026-03-02T00:00").timestamp()),
        int(at("2026-03-03T00:00").timestamp()),
    }
    ledger.close()


def test_every_refused_point_counts(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    bad = [point(str(number), input_tokens=-1) for number in range(5)]

    ledger.commit("c", API, Batch(points=bad))
    ledger.commit("c", API, Batch(points=bad))

    [(_, reason, count, _)] = reports.refusals(ledger.db)
    assert (reason, count) == ("token count out of range", 5)
    ledger.close()


def test_a_file_that_is_read_again_is_no_longer_called_unreadable(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    refusals = [
        Refusal(reason="file unreadable: Permission denied", location="/a"),
        Refusal(reason="file unreadable: Permission denied", location="/b"),
        Refusal(reason="not JSON", location="/a", offset=7),
    ]
    ledger.commit("c", API, Batch(refusals=refusals))

    ledger.commit("c", API, Batch(cursor={"/a": [1]}))

    left = ledger.db.execute("SELECT location, reason FROM refused ORDER BY 1, 2").fetchall()
    assert left == [("/a", "not JSON"), ("/b", "file unreadable: Permission denied")]
    ledger.close()


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        (
            BalancePoint(
                provider="openai",
                account="a",
                timestamp=datetime.fromisoformat("2026-03-01"),
                balance=Decimal(1),
            ),
            "timestamp without a zone",
        ),
        (
            BalancePoint(
                provider="openai", account="a", timestamp=at("1999-01-01T00:00"), balance=Decimal(1)
            ),
            "timestamp that cannot be",
        ),
        (
            BalancePoint(
                provider="openai",
                account="a",
                timestamp=at("2026-03-01T00:00"),
                balance=Decimal("NaN"),
            ),
            "reading that is no number",
        ),
        (
            LimitPoint(
                provider="openai",
                account="a",
                window="5h",
                timestamp=at("2026-03-01T00:00"),
                used_ratio=float("nan"),
            ),
            "reading that is no number",
        ),
    ],
    ids=["no zone", "1999", "balance", "limit"],
)
def test_a_reading_that_cannot_be_is_refused_and_counted(
    tmp_path: Path, reading: BalancePoint | LimitPoint, reason: str
) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")

    stored = ledger.commit("c", API, Batch(points=[reading]))

    assert (stored.changed, stored.skipped) == (0, 1)
    assert [row[1] for row in reports.refusals(ledger.db)] == [reason]
    ledger.close()


def test_the_series_budget_is_whole_after_the_tags_changed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = open_ledger(path, policy=TagPolicy(host="laptop", budget=2))
    store(ledger, point("a", project="/p/one"), point("b", project="/p/two"))
    ledger.close()

    ledger = open_ledger(path, policy=TagPolicy(host="laptop", budget=2, project="hash"))

    tags = [
        row[0]
        for row in ledger.db.execute(
            "SELECT tags FROM tagset JOIN series ON series.tagset=tagset.id"
        )
    ]
    assert not any("(other)" in text for text in tags)
    ledger.close()
