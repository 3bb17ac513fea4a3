"""Faults A1, A2, A3, A6, A8: the writer dies, at any moment and at every system call."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from collectors.errors import LedgerLockedError, LedgerTooNewError, TokendashError
from collectors.ledger import checks, files, schema
from collectors.ledger.checks import verify
from collectors.ledger.files import open_reader
from collectors.ledger.recovery import open_checked
from collectors.ledger.store import Ledger, Source, Stored
from collectors.points import Batch, TokenUsagePoint
from tests.engines import need
from tests.support.killing import (
    WRITING,
    PowerLoss,
    finish,
    kill,
    kill_at,
    list_calls,
    put_state,
    report,
    spread,
    start,
    trace,
)
from tests.support.ledgers import NOW, ClaudeHome, ingest, open_ledger, opener, prices, records


@pytest.fixture
def is_soak(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--soak", default=False))


@pytest.fixture(autouse=True)
def _warm() -> None:
    prices()


class CursorFirst(Ledger):
    """Mutant: the cursor in a transaction of its own, before the points."""

    pause = 0.0

    def commit(self, collector: str, source: Source, batch: Batch) -> Stored:
        super().commit(collector, source, Batch(cursor=batch.cursor))
        time.sleep(self.pause)
        return super().commit(
            collector, source, Batch(points=batch.points, is_checked=batch.is_checked)
        )


class SlowCursorFirst(CursorFirst):
    """The same, easy to hit at random."""

    pause = 0.002


class NoKeys(Ledger):
    """Mutant: a call seen again is counted again."""

    def _count(self, source: Source, points: list[TokenUsagePoint]) -> int:
        for one in points:
            one.key_hash ^= time.monotonic_ns() & 0xFFFF_FFFF
        return super()._count(source, points)


# -- A1 -------------------------------------------------------------------------------------------

PHASES = ("start", "open", "begin", "writes", "commit", "reading", "idle")


def _follow(home: ClaudeHome, path: Path, kind: type[Ledger], phase: mmap.mmap) -> None:
    """Read the logs again and again until killed."""
    phase[0] = 1
    ledger = open_ledger(path, kind=kind)

    def note(statement: str) -> None:
        first = statement.lstrip()[:6]
        phase[0] = {"BEGIN ": 2, "COMMIT": 4, "SELECT": 5}.get(first, 3)

    ledger.db.set_trace_callback(note)
    collector = home.collector()
    while True:
        if not ingest(ledger, collector):
            phase[0] = 6
            time.sleep(0.0005)


def _kill_loop(
    tmp_path: Path, kills: int, kind: type[Ledger] = Ledger, seed: int = 7
) -> tuple[int, int, dict[str, int], int]:
    home = ClaudeHome(tmp_path / "home", seed)
    path = tmp_path / "data/ledger.db"
    chance = random.Random(seed)
    phase = mmap.mmap(-1, 1)
    landed: dict[str, int] = {}
    home.append(60, cuts=True)
    for number in range(kills):
        phase[0] = 0
        pid, _ = start(lambda: _follow(home, path, kind, phase))
        for _ in range(chance.randrange(1, 4)):
            home.append(chance.randrange(1, 12), chance.choice("abc"), cuts=True)
            time.sleep(chance.random() ** 2 * 0.03)
        kill(pid)
        finish(pid)
        name = PHASES[phase[0]]
        landed[name] = landed.get(name, 0) + 1
        if number % 25 == 24:
            opened = open_checked(path, opener(path), now=lambda: NOW)
            assert opened.rebuilt is None
            opened.ledger.close()
    home.finish()
    ledger = open_ledger(path, kind=kind)
    ingest(ledger, home.collector())
    lost, double = home.differences(ledger.db)
    problems = verify(ledger.db, is_full_check=True)
    ledger.close()
    assert problems == []
    return lost, double, landed, len(home.truth)


@pytest.mark.timeout(1200)
def test_a1_no_call_is_lost_or_doubled_by_kills_at_random_moments(
    tmp_path: Path, is_soak: bool
) -> None:
    kills = 5_000 if is_soak else 150

    began = time.monotonic()
    lost, double, landed, calls = _kill_loop(tmp_path, kills)

    report(
        "A1", kills=kills, calls=calls, lost=lost, double=double, landed=landed, seed=7,
        seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
    assert (lost, double) == (0, 0)


def test_a1_the_kill_loop_catches_a_cursor_stored_before_its_points(tmp_path: Path) -> None:
    lost = 0
    for attempt in range(5):
        lost, _, _, _ = _kill_loop(tmp_path / str(attempt), 40, SlowCursorFirst, seed=attempt)
        if lost:
            break

    report("A1", mutant="cursor_first", caught=lost > 0)
    assert lost > 0


def test_a1_the_comparison_catches_calls_counted_again(tmp_path: Path) -> None:
    home = ClaudeHome(tmp_path / "home")
    home.append(20)
    ledger = open_ledger(tmp_path / "ledger.db", kind=NoKeys)
    ingest(ledger, home.collector())
    ledger.forget_cursor("claude-code")

    ingest(ledger, home.collector())

    assert home.differences(ledger.db)[1] > 0
    ledger.close()


# -- A2 -------------------------------------------------------------------------------------------


def _one_run(home: ClaudeHome, path: Path, kind: type[Ledger] = Ledger) -> None:
    ledger = open_ledger(path, kind=kind)
    ledger.db.execute("PRAGMA wal_autocheckpoint=12")  # checkpoints inside a short run
    ingest(ledger, home.collector())
    ledger.close()


def _kill_everywhere(
    strace: str, tmp_path: Path, most: int, kind: type[Ledger] = Ledger
) -> dict[str, int]:
    home = ClaudeHome(tmp_path / "home")
    for name in "abcd":
        home.append(6, name)
    probe = tmp_path / "probe/ledger.db"
    calls = list_calls(strace, lambda: _one_run(home, probe, kind), WRITING, tmp_path / "calls")
    figures = {"points": 0, "wrong": 0, "corrupt": 0}
    for index, (name, number) in enumerate(spread(calls, most)):
        path = tmp_path / f"{index}/ledger.db"
        code = trace(strace, lambda path=path: _one_run(home, path, kind), *kill_at(name, number))  # type: ignore[misc]  # bound now
        if code == 0:
            continue  # this run made one call less
        figures["points"] += 1
        opened = open_checked(path, opener(path), now=lambda: NOW)
        figures["corrupt"] += opened.rebuilt is not None
        ingest(opened.ledger, home.collector())
        figures["wrong"] += home.differences(opened.ledger.db) != (0, 0)
        figures["corrupt"] += bool(verify(opened.ledger.db))
        opened.ledger.close()
        shutil.rmtree(path.parent)
    return figures


@pytest.mark.timeout(1200)
def test_a2_a_kill_at_any_system_call_costs_nothing(tmp_path: Path, is_soak: bool) -> None:
    figures = _kill_everywhere(need("strace"), tmp_path, 10_000 if is_soak else 48)

    report("A2", **figures)
    assert figures["points"] > 35
    assert (figures["wrong"], figures["corrupt"]) == (0, 0)


@pytest.mark.timeout(300)
def test_a2_kills_at_system_calls_catch_a_cursor_stored_before_its_points(tmp_path: Path) -> None:
    figures = _kill_everywhere(need("strace"), tmp_path, 40, CursorFirst)

    report("A2", mutant="cursor_first", caught=figures["wrong"] > 0, **figures)
    assert figures["wrong"] > 0


# -- A3 -------------------------------------------------------------------------------------------


class Unsynced(Ledger):
    """Mutant: commits are not flushed to the disk."""

    def remember(self) -> None:
        super().remember()
        if not self.db.in_transaction:
            self.db.execute("PRAGMA synchronous=NORMAL")


def _lose_power(
    strace: str, tmp_path: Path, most: int, variants: int, kind: type[Ledger] = Ledger
) -> dict[str, int]:
    home = ClaudeHome(tmp_path / "home")
    for name in "abcdef":
        home.append(5, name)
    folder = tmp_path / "run"
    folder.mkdir()

    def work(acknowledge: object) -> None:
        ledger = open_ledger(folder / "ledger.db", kind=kind)
        ledger.db.execute("PRAGMA wal_autocheckpoint=20")
        count = "SELECT count(*) FROM record"
        ingest(
            ledger,
            home.collector(),
            lambda: acknowledge(ledger.db.execute(count).fetchone()[0]),  # type: ignore[operator]
        )

    power = PowerLoss.record(strace, work, folder, tmp_path / "trace")
    figures = {"ops": len(power.ops), "states": 0, "acked_lost": 0, "corrupt": 0, "wrong": 0}
    every = max(1, len(power.ops) * variants // most)
    state = tmp_path / "state"
    path = state / "ledger.db"
    for index, (acked, content) in enumerate(power.states(variants, seed=3)):
        if index % every:
            continue
        put_state(content, state)
        figures["states"] += 1
        opened = open_checked(path, opener(path), now=lambda: NOW)
        figures["corrupt"] += opened.rebuilt is not None
        ledger = opened.ledger
        if ledger.db.execute("SELECT count(*) FROM record").fetchone()[0] < acked:
            figures["acked_lost"] += 1
        ingest(ledger, home.collector())
        figures["wrong"] += home.differences(ledger.db) != (0, 0)
        ledger.close()
    return figures


@pytest.mark.timeout(1800)
def test_a3_a_power_loss_takes_no_acknowledged_commit(tmp_path: Path, is_soak: bool) -> None:
    most, variants = (11_000, 46) if is_soak else (220, 6)

    figures = _lose_power(need("strace"), tmp_path, most, variants)

    report("A3", synchronous="FULL", seed=3, **figures)
    assert figures["states"] >= (10_000 if is_soak else 180)
    assert (figures["acked_lost"], figures["corrupt"], figures["wrong"]) == (0, 0, 0)


@pytest.mark.timeout(300)
def test_a3_the_replay_catches_commits_that_are_not_flushed(tmp_path: Path) -> None:
    figures = _lose_power(need("strace"), tmp_path, 250, 6, Unsynced)

    report("A3", mutant="synchronous=NORMAL", caught=figures["acked_lost"] > 0, **figures)
    assert figures["acked_lost"] > 0


# -- A6 -------------------------------------------------------------------------------------------


def test_a6_a_second_writer_is_refused_at_once_and_by_name(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    first = open_ledger(path)

    began = time.monotonic()
    with pytest.raises(LedgerLockedError, match=f"process {os.getpid()}"):
        open_ledger(path)

    assert time.monotonic() - began < 1
    first.close()


def test_a6_the_lock_is_free_as_soon_as_its_holder_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ready, told = os.pipe()

    def hold() -> None:
        open_ledger(path)
        os.write(told, b"x")
        time.sleep(60)

    pid, _ = start(hold)
    os.read(ready, 1)
    kill(pid)
    finish(pid)

    open_ledger(path).close()


class _FreeLock(files.WriterLock):
    """No lock at all."""

    def acquire(self) -> None:
        return


class ReadsOutside(Ledger):
    """Mutant: what is known is read before the transaction, and trusted inside it."""

    def commit(self, collector: str, source: Source, batch: Batch) -> Stored:
        points = [one for one in batch.points if isinstance(one, TokenUsagePoint)]
        for one in points:
            one.identify(source.name)
        self._before = self._known({one.key_hash: 0 for one in points})
        time.sleep(0.01)
        return super().commit(collector, source, batch)

    def _known(self, families: Mapping[int, Any]) -> dict[int, list[tuple[int, ...]]]:
        if self.db.in_transaction:
            return self._before
        return super()._known(families)


def _race(tmp_path: Path, processes: int, kind: type[Ledger] = Ledger) -> tuple[int, int, int]:
    """Several writers without a lock on one ledger; calls lost, doubled, and writers failed."""
    home = ClaudeHome(tmp_path / "home")
    for name in "abcdefgh":
        home.append(60, name)
    path = tmp_path / "ledger.db"
    open_ledger(path, lock=_FreeLock(path)).close()

    def work() -> None:
        ledger = open_ledger(path, lock=_FreeLock(path), kind=kind)
        ingest(ledger, home.collector())
        ledger.close()

    children = [start(work, waits=True) for _ in range(processes)]
    for _, release in children:
        os.write(release, b"x")
        os.close(release)
    failed = sum(finish(pid) != 0 for pid, _ in children)
    ledger = open_ledger(path)
    ingest(ledger, home.collector())
    lost, double = home.differences(ledger.db)
    assert verify(ledger.db) == []
    ledger.close()
    return lost, double, failed


@pytest.mark.parametrize("processes", [2, 4])
def test_a6_writers_that_got_past_the_lock_still_count_once(tmp_path: Path, processes: int) -> None:
    lost, double, failed = _race(tmp_path, processes)

    report("A6", processes=processes, lost=lost, double=double, failed=failed)
    assert (lost, double, failed) == (0, 0, 0)


def test_a6_the_race_catches_reading_before_the_transaction(tmp_path: Path) -> None:
    lost, double, failed = _race(tmp_path, 4, ReadsOutside)

    report("A6", mutant="reads_outside", caught=bool(lost or double or failed))
    assert lost or double or failed


# -- A8 -------------------------------------------------------------------------------------------

SECOND = """
ALTER TABLE run ADD COLUMN note TEXT NOT NULL DEFAULT '';
CREATE TABLE extra(id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
INSERT INTO extra(text) SELECT source FROM book;
CREATE INDEX extra_text ON extra(text);
"""


def _migrate_in_pieces(db: sqlite3.Connection, version: int) -> None:
    """Mutant: every statement of a migration commits on its own."""
    for script in schema.MIGRATIONS[version:]:
        for statement in script.split(";\n"):
            if statement.strip():
                db.execute(statement)
    db.execute("INSERT OR REPLACE INTO meta VALUES('schema', ?)", (schema.fingerprint(db),))
    db.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={len(schema.MIGRATIONS)}")


def _kill_migrations(
    strace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> dict[str, int]:
    home = ClaudeHome(tmp_path / "home")
    home.append(10)
    old = tmp_path / "old/ledger.db"
    _one_run(home, old)
    before = (*schema.MIGRATIONS, SECOND)
    for module in (schema, checks):
        monkeypatch.setattr(module, "MIGRATIONS", before)

    def work(path: Path) -> None:
        open_ledger(path).close()

    def fresh(index: int | str) -> Path:
        path = tmp_path / f"m{index}/ledger.db"
        path.parent.mkdir()
        path.write_bytes(old.read_bytes())
        return path

    probe = fresh("probe")
    calls = list_calls(strace, lambda: work(probe), WRITING, tmp_path / "calls")
    figures = {"points": 0, "unusable": 0}
    for index, (name, number) in enumerate(spread(calls, most)):
        path = fresh(index)
        if trace(strace, lambda path=path: work(path), *kill_at(name, number)) == 0:  # type: ignore[misc]
            continue
        figures["points"] += 1
        try:
            ledger = open_ledger(path)
        except (sqlite3.Error, TokendashError):
            figures["unusable"] += 1
            continue
        extra = ledger.db.execute("SELECT text FROM extra").fetchall()
        is_right = extra == [("claude-code",)] and home.differences(ledger.db) == (0, 0)
        figures["unusable"] += not is_right
        ledger.close()
    return figures


@pytest.mark.timeout(300)
def test_a8_a_migration_killed_anywhere_leaves_a_usable_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_soak: bool
) -> None:
    most = 10_000 if is_soak else 30

    figures = _kill_migrations(need("strace"), tmp_path, monkeypatch, most)

    report("A8", **figures)
    assert figures["points"] > 15
    assert figures["unusable"] == 0


@pytest.mark.timeout(300)
def test_a8_the_kills_catch_a_migration_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "migrate", _migrate_in_pieces)

    figures = _kill_migrations(need("strace"), tmp_path, monkeypatch, 30)

    report("A8", mutant="migrate_in_pieces", caught=figures["unusable"] > 0, **figures)
    assert figures["unusable"] > 0


def test_a8_an_older_tokendash_leaves_a_newer_ledger_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    with monkeypatch.context() as newer:
        newer.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, SECOND))
        open_ledger(path).close()
    content = path.read_bytes()

    with pytest.raises(LedgerTooNewError) as caught:
        open_ledger(path)

    assert "upgrade tokendash" in caught.value.hint
    assert path.read_bytes() == content
    with pytest.raises(LedgerTooNewError):
        open_reader(path)


def test_records_of_two_ledgers_fed_alike_are_equal(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        home = ClaudeHome(tmp_path / name)
        home.append(30)
        ledger = open_ledger(tmp_path / f"{name}.db")
        ingest(ledger, home.collector())
        found.append(records(ledger.db))
        ledger.close()

    assert found[0] == found[1]
    assert sum(found[0].values()) == 30
