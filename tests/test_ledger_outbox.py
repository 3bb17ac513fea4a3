"""What an InfluxDB is owed: dead letters come and go with what the server says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors.ledger.store import Ledger
from tests.support.ledgers import NOW, open_ledger, point, store


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = open_ledger(tmp_path / "ledger.db")
    yield found
    found.close()


def test_a_dead_letter_is_not_sent_again_until_it_changes(ledger: Ledger) -> None:
    target = ledger.outbox.target("http://x", "o", "b")
    store(ledger, point())
    rows = ledger.outbox.due(target, 100, NOW.timestamp())

    ledger.outbox.refuse(target, rows, 400, "bad", "refused")

    assert ledger.outbox.due(target, 100, NOW.timestamp()) == []
    assert {letter.message for letter in ledger.outbox.dead_letters(target)} == {"bad"}
    store(ledger, point(output_tokens=11))
    assert len(ledger.outbox.due(target, 100, NOW.timestamp())) == len(rows)


def test_a_dead_letter_that_is_taken_later_is_dead_no_more(ledger: Ledger) -> None:
    target = ledger.outbox.target("http://x", "o", "b")
    store(ledger, point())
    rows = ledger.outbox.due(target, 100, NOW.timestamp())
    ledger.outbox.refuse(target, rows[:1], 400, "bad", "refused")
    store(ledger, point(output_tokens=11))
    again = ledger.outbox.due(target, 100, NOW.timestamp())

    ledger.outbox.acknowledge(target, again, NOW.timestamp())

    assert ledger.outbox.dead_count(target) == 0


def test_refusals_for_one_target_are_not_another_targets(ledger: Ledger) -> None:
    first = ledger.outbox.target("http://x", "o", "b")
    second = ledger.outbox.target("http://y", "o", "b")
    store(ledger, point())
    rows = ledger.outbox.due(first, 100, NOW.timestamp())

    ledger.outbox.refuse(first, rows, 400, "bad", "refused")

    assert len(ledger.outbox.due(second, 100, NOW.timestamp())) == len(rows)
    assert ledger.outbox.dead_count(second) == 0


def test_a_target_is_found_by_its_own_address_after_others_came(ledger: Ledger) -> None:
    first = ledger.outbox.target("http://x", "o", "b")
    second = ledger.outbox.target("http://y", "o", "b")

    assert ledger.outbox.find_target("http://x", "o", "b") == first
    assert ledger.outbox.find_target("http://y", "o", "b") == second
    assert ledger.outbox.find_target("http://z", "o", "b") == 0
