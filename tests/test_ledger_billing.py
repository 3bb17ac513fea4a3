"""A plan that is stated later: use of an unknown plan is counted under it, once and exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors.ledger import reports
from collectors.ledger.billing import settle_unknown
from collectors.ledger.checks import verify
from collectors.ledger.store import Ledger, Source
from collectors.merging import Merge
from collectors.points import Batch, Billing, TokenUsagePoint
from tests.support.ledgers import open_ledger

UNKNOWN = Source("agent", Merge.LARGEST, 1, Billing.UNKNOWN)
START_MS = 1_772_000_100_000
OPUS_INPUT_NANO = 5_000  # claude-opus-4-5: $5 per million input tokens


def call(name: str, tokens: int) -> TokenUsagePoint:
    return TokenUsagePoint(
        provider="anthropic",
        model="claude-opus-4-5",
        timestamp=START_MS,
        key=name,
        input_tokens=tokens,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = open_ledger(tmp_path / "ledger.db")
    found.commit("agent", UNKNOWN, Batch(points=[call("a", 1_000), call("b", 2_000)]))
    yield found
    found.close()


def money(ledger: Ledger) -> tuple[int, int, int]:
    total = reports.total_of(reports.report(ledger.db, ledger.calendar))
    return total.cost_nano, total.api_equivalent_nano, total.plan_unknown_nano


def test_use_of_an_unknown_plan_is_neither_paid_nor_subscribed(ledger: Ledger) -> None:
    assert money(ledger) == (0, 0, 3_000 * OPUS_INPUT_NANO)


@pytest.mark.parametrize(
    ("billing", "expected"),
    [
        (Billing.METERED, (3_000 * OPUS_INPUT_NANO, 0, 0)),
        (Billing.SUBSCRIPTION, (0, 3_000 * OPUS_INPUT_NANO, 0)),
        (Billing.UNKNOWN, (0, 0, 3_000 * OPUS_INPUT_NANO)),
    ],
)
def test_use_of_an_unknown_plan_moves_to_the_plan_that_is_known_now(
    ledger: Ledger, billing: Billing, expected: tuple[int, int, int]
) -> None:
    settle_unknown(ledger, "agent", billing)

    assert money(ledger) == expected
    assert verify(ledger.db, is_full_check=True) == []


def test_use_of_a_known_plan_stays_when_the_plan_changes(ledger: Ledger) -> None:
    settle_unknown(ledger, "agent", Billing.SUBSCRIPTION)

    assert settle_unknown(ledger, "agent", Billing.METERED) == 0
    assert money(ledger) == (0, 3_000 * OPUS_INPUT_NANO, 0)


def test_other_sources_keep_their_unknown_plan(ledger: Ledger) -> None:
    assert settle_unknown(ledger, "another", Billing.METERED) == 0
    assert money(ledger) == (0, 0, 3_000 * OPUS_INPUT_NANO)


def test_the_move_is_sent_to_influxdb(ledger: Ledger) -> None:
    target = ledger.outbox.target("http://x", "o", "b")
    while rows := ledger.outbox.due(target, 100, 0):
        ledger.outbox.acknowledge(target, rows, 0)

    settle_unknown(ledger, "agent", Billing.METERED)

    assert {row.measurement for row in ledger.outbox.due(target, 100, 0)} == {
        "token_usage",
        "token_usage_daily",
    }
