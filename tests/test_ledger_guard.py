"""What each kind of SQLite error is answered with, and values that do not fit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors.errors import LedgerError
from collectors.ledger.checks import passes, verify
from collectors.ledger.files import open_reader
from collectors.ledger.guard import TOO_LARGE, GuardedLedger, LedgerFullError, LedgerRebuiltError
from collectors.ledger.store import Ledger
from collectors.points import Batch
from tests.support.ledgers import LARGEST, LATEST, NOW, opener, point, records, store, sums


def failure(name: str) -> sqlite3.OperationalError:
    """An error as SQLite raises it."""
    error = sqlite3.OperationalError("made up")
    error.sqlite_errorname = name
    return error


class Failing:
    """A call that fails so often, then does its work."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.ledgers: list[Ledger] = []

    def __call__(self, ledger: Ledger) -> int:
        self.ledgers.append(ledger)
        if self.names:
            raise failure(self.names.pop(0))
        return store(ledger, point())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data/ledger.db"


@pytest.fixture
def guard(path: Path) -> Iterator[GuardedLedger]:
    opened = GuardedLedger(path, opener(path), now=lambda: NOW)
    yield opened
    opened.close()


def test_an_io_error_is_answered_with_a_new_connection_and_the_same_call(
    guard: GuardedLedger,
) -> None:
    call = Failing("SQLITE_IOERR_FSYNC", "SQLITE_IOERR_READ")

    changed = guard.run(call)

    assert changed == 1
    assert len({id(ledger) for ledger in call.ledgers}) == 3
    assert guard.reopened == 2
    assert sums(guard.ledger.db, "requests") == 1


def test_a_disk_that_keeps_failing_is_named_and_the_ledger_opens_again_later(
    guard: GuardedLedger, path: Path
) -> None:
    with pytest.raises(LedgerError, match=f"{path} cannot be read or written"):
        guard.run(Failing(*["SQLITE_IOERR_WRITE"] * 3))

    assert guard.run(Failing()) == 1


def test_what_looks_like_damage_once_costs_a_second_look_and_nothing_else(
    guard: GuardedLedger,
) -> None:
    guard.run(Failing())

    guard.run(Failing("SQLITE_CORRUPT"))

    assert guard.rebuilt is None
    assert sums(guard.ledger.db, "requests") == 1


def test_real_damage_is_rebuilt_and_the_batch_is_not_stored_under_its_old_cursor(
    guard: GuardedLedger, path: Path
) -> None:
    guard.run(Failing())
    guard.ledger.db.execute("UPDATE record SET output_tokens=output_tokens+1")

    with pytest.raises(LedgerRebuiltError) as caught:
        guard.run(Failing("SQLITE_CORRUPT_INDEX"))

    assert caught.value.rebuilt.aside is not None
    assert caught.value.rebuilt.aside.exists()
    assert guard.ledger.cursor("claude-code") == {}
    assert sums(guard.ledger.db, "requests") == 0


def test_a_full_disk_refuses_the_call_keeps_the_connection_and_releases_the_spare(
    guard: GuardedLedger,
) -> None:
    call = Failing("SQLITE_FULL")

    with pytest.raises(LedgerFullError, match="no room is left"):
        guard.run(call)

    was_full = guard.is_full
    assert guard.ledger is call.ledgers[0]
    assert guard.run(Failing()) == 1
    assert (was_full, guard.is_full) == (True, False)
    assert guard.ledger.spare.path.exists()


@pytest.mark.parametrize("name", ["SQLITE_BUSY", "SQLITE_ERROR", "SQLITE_CONSTRAINT_CHECK"])
def test_other_errors_are_somebody_elses_to_handle(guard: GuardedLedger, name: str) -> None:
    with pytest.raises(sqlite3.OperationalError):
        guard.run(Failing(name))

    assert guard.reopened == 0


def test_one_point_that_does_not_fit_takes_no_other_down(guard: GuardedLedger) -> None:
    most = (1 << 53) - 20
    huge = [point(f"huge_{i}", model="no-such", input_tokens=most) for i in range(1_025)]
    batch = Batch(points=[*huge, point("small")], cursor={"f": [9]})

    done = guard.commit("claude-code", LARGEST, batch)

    # 1,024 times 2^53 is 2^63, one more than an integer of SQLite: a few of them stay out.
    assert done.changed + done.skipped == 1_026
    assert 1 <= done.skipped <= 3
    assert records(guard.ledger.db).total() == done.changed
    assert guard.ledger.cursor("claude-code") == {"f": [9]}
    assert guard.ledger.db.execute("SELECT reason FROM refused").fetchall() == [(TOO_LARGE,)]
    assert verify(guard.ledger.db) == []


def test_a_refused_window_stays_refused_and_is_not_halved(guard: GuardedLedger) -> None:
    batch = Batch(points=[point("a"), point("a")])

    with pytest.raises(LedgerError, match="two points with the same key"):
        guard.commit("x", LATEST, batch)

    assert sums(guard.ledger.db, "requests") == 0


def test_a_verification_in_steps_sees_one_moment_while_writing_goes_on(
    guard: GuardedLedger, path: Path
) -> None:
    store(guard.ledger, *(point(f"msg_{i}") for i in range(3)))
    reader = open_reader(path)

    problems: list[Any] = []
    for number, step in enumerate(passes(reader, is_full_check=True)):
        problems += step
        store(guard.ledger, point(f"new_{number}"))

    assert problems == []
    assert not reader.in_transaction
    reader.close()


def test_a_verification_given_up_early_lets_go_of_its_moment(
    guard: GuardedLedger, path: Path
) -> None:
    reader = open_reader(path)
    steps = passes(reader)
    next(steps)

    steps.close()

    assert not reader.in_transaction
    reader.close()
