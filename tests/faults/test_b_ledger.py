"""Faults B5 to B10: damaged, deleted and exchanged ledgers, backups under load, growth."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from collectors.errors import LedgerDamagedError, NotALedgerError
from collectors.ledger import checks, recovery
from collectors.ledger.backup import (
    backup,
    backup_folder,
    check_backup,
    is_due,
    list_backups,
    restore,
)
from collectors.ledger.checks import verify
from collectors.ledger.files import open_reader
from collectors.ledger.guard import GuardedLedger, LedgerRebuiltError
from collectors.ledger.identity import IdentityFile
from collectors.ledger.prune import prune
from collectors.ledger.recovery import OLDER_COPY, examine, find_gaps, open_checked, open_restored
from collectors.ledger.store import Ledger, Source
from collectors.points import BalancePoint, Batch
from tests.support.killing import finish, kill, report, start
from tests.support.ledgers import (
    NOW,
    ClaudeHome,
    buckets,
    ingest,
    open_ledger,
    opener,
    point,
    prices,
    records,
    store,
    sums,
)

PAGE = 4_096


@pytest.fixture
def is_soak(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--soak", default=False))


@dataclass
class Sound:
    """A sound ledger with a backup of its older part, and everything it counts."""

    home: ClaudeHome
    path: Path
    records: Counter[tuple[object, ...]]
    buckets: dict[tuple[object, ...], tuple[int, ...]]

    def copy(self, folder: Path) -> Path:
        """The ledger with its backups and the note beside it, in another place."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.path.parent, folder)
        return folder / "ledger.db"

    def is_equal(self, ledger: Ledger) -> bool:
        return records(ledger.db) == self.records and buckets(ledger.db) == self.buckets


def _balance(ledger: Ledger, amount: str) -> None:
    reading = BalancePoint(
        provider="openrouter", account="default", timestamp=NOW, balance=Decimal(amount)
    )
    source = Source("openrouter")
    ledger.commit("openrouter", source, Batch(points=[reading], cursor={"page": "7"}))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    prices()
    folder = tmp_path_factory.mktemp("sound")
    home = ClaudeHome(folder / "home")
    path = folder / "data/ledger.db"
    ledger = open_ledger(path)
    for name in "abc":
        home.append(150, name)
    _balance(ledger, "12.30")
    ingest(ledger, home.collector())
    backup(path, backup_folder(path), keep=2, now=NOW)
    home.append(80, "b")
    home.append(60, "d")
    ingest(ledger, home.collector())
    found = Sound(home, path, records(ledger.db), buckets(ledger.db))
    ledger.close()
    return found


# -- B5, B6 ---------------------------------------------------------------------------------------


def _damage(body: bytearray, kind: str, chance: random.Random) -> None:
    if kind == "bit flip":
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    elif kind == "zero page":
        start = chance.randrange(len(body) // PAGE) * PAGE
        body[start : start + PAGE] = bytes(PAGE)
    elif kind == "cut off":
        del body[chance.randrange(1, len(body)) :]
    else:
        start = chance.randrange(len(body) // 512) * 512
        body[start : start + 512] = chance.randbytes(512)


def _try_damage(
    sound: Sound, folder: Path, kind: str, trials: int, rebuilds: int, seed: int
) -> dict[str, int]:
    figures: Counter[str] = Counter(
        n=trials, noticed=0, harmless=0, silent_wrong=0, rebuilt_wrong=0
    )
    chance = random.Random(seed)
    clean = sound.path.read_bytes()
    for _ in range(trials):
        path = sound.copy(folder)
        body = bytearray(clean)
        _damage(body, kind, chance)
        path.write_bytes(body)
        problems, _ = examine(path)
        if problems:
            figures["noticed"] += 1
            if rebuilds == 0:
                continue
            rebuilds -= 1
        opened = open_checked(path, opener(path), now=lambda: NOW)
        if problems:
            assert opened.rebuilt is not None
            assert opened.rebuilt.backup is not None
            assert opened.rebuilt.aside is not None
            assert opened.rebuilt.aside.exists()
        else:
            # Found sound: then it must also go on counting right when everything is read again.
            opened.ledger.forget_cursor("claude-code")
        ingest(opened.ledger, sound.home.collector())
        is_right = sound.is_equal(opened.ledger)
        if problems:
            figures["rebuilt_wrong"] += not is_right
        else:
            figures["harmless" if is_right else "silent_wrong"] += 1
        opened.ledger.close()
    return dict(figures)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["bit flip", "zero page", "cut off", "garbage sector"])
def test_b5_no_damage_stays_silent_and_a_rebuilt_ledger_holds_all_it_held(
    sound: Sound, tmp_path: Path, kind: str, is_soak: bool
) -> None:
    trials, rebuilds = (400, 400) if is_soak else (10, 3)

    figures = _try_damage(sound, tmp_path / "data", kind, trials, rebuilds, seed=5)

    report("B5", kind=kind, seed=5, **figures)
    assert (figures["silent_wrong"], figures["rebuilt_wrong"]) == (0, 0)


# A single changed value, made by SQL so that every page stays well-formed: what notices it, and
# with which part of the verification left out it would have passed.
CHANGES = {
    "a token count": (
        (
            "UPDATE record SET output_tokens=output_tokens+1 WHERE id=7;"
            "UPDATE bucket SET output_tokens=output_tokens+1 WHERE (start, series)="
            "(SELECT bucket, series FROM record WHERE id=7);"
            "UPDATE book SET tokens=tokens+1"
        ),
        "record: 1 rows do not match",
        "_wrong_rows",
    ),
    "a record that vanished": (
        (
            "UPDATE bucket SET (input_tokens, cache_read_tokens, output_tokens, requests,"
            " cost_nano, plan_unknown_nano, savings_nano, unpriced_tokens)="
            "(SELECT bucket.input_tokens-record.input_tokens,"
            " bucket.cache_read_tokens-record.cache_read_tokens,"
            " bucket.output_tokens-record.output_tokens, bucket.requests-1, bucket.cost_nano,"
            " bucket.plan_unknown_nano-record.cost_nano, bucket.savings_nano-record.savings_nano,"
            " bucket.unpriced_tokens FROM record WHERE id=6) WHERE (start, series)="
            "(SELECT bucket, series FROM record WHERE id=6); DELETE FROM record WHERE id=6"
        ),
        "claude-code: the books say",
        "_record_rows",
    ),
    "a bucket": (
        "UPDATE bucket SET requests=requests+1 WHERE start=(SELECT max(start) FROM bucket)",
        "bucket: 1 are not the sum",
        "_bucket_sums",
    ),
    "a log position": (
        "UPDATE cursor SET value=replace(value, ',', ' ,') WHERE source='claude-code'",
        "cursor: 4 rows do not match",
        "_checked_rows",
    ),
    "a balance": (
        "UPDATE snapshot SET value='99.30'",
        "snapshot: 1 rows do not match",
        "_checked_rows",
    ),
    "a writer's offset": (
        "UPDATE writer SET offset_ns=offset_ns+1",
        "writer 1 has another offset",
        "_names",
    ),
    "another ledger's id": (
        "UPDATE meta SET value='x' WHERE name='ledger_id'",
        "not the ledger that was here before",
        "_identity",
    ),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_b5_each_kind_of_value_is_guarded_by_a_check_of_its_own(
    sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    script, problem, guard = CHANGES[name]
    path = sound.copy(tmp_path / "data")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(script)

    problems, _ = examine(path)
    silent: list[Any] = [] if guard == "_wrong_rows" else [[]]
    monkeypatch.setattr(checks, guard, lambda *_: silent)
    without, _ = examine(path)

    missed = not any(problem in text for text in without)
    report("B5", change=name, noticed=problems[:1], mutant=f"without {guard}", caught=missed)
    assert any(problem in text for text in problems), problems
    assert missed


def test_b5_a_changed_name_is_found_in_its_index(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path / "data")
    body = path.read_bytes()
    where = body.index(b"claude-sonnet-4-5-20250929")
    path.write_bytes(body[:where] + b"claude-Sonnet-4-5-20250929" + body[where + 26 :])

    problems, _ = examine(path)

    assert any("missing from index" in text for text in problems), problems


@pytest.mark.parametrize("new", [b"cache_wryte_1h_tokens >= 0", b"cache_write_1h_tokens >= 8"])
def test_b5_a_changed_definition_that_readers_do_not_mind_is_found(
    sound: Sound, tmp_path: Path, new: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sound.copy(tmp_path / "data")
    path.write_bytes(path.read_bytes().replace(b"cache_write_1h_tokens >= 0", new))

    problems, _ = examine(path)
    monkeypatch.setattr(checks, "_schema", lambda *_: [[]])
    without, _ = examine(path)

    report("B5", change="a definition", mutant="without _schema", caught=without == [])
    assert problems == ["the definitions of the tables are not what they were made as"]
    assert without == []


def test_b5_damage_that_only_a_writer_sees_is_rebuilt_too(
    sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sound.copy(tmp_path / "data")
    broken = b"cache_wryte_1h_tokens >= 0"
    path.write_bytes(path.read_bytes().replace(b"cache_write_1h_tokens >= 0", broken))
    monkeypatch.setattr(checks, "_schema", lambda *_: [[]])

    opened = open_checked(path, opener(path), now=lambda: NOW)
    ingest(opened.ledger, sound.home.collector())

    assert opened.rebuilt is not None
    assert "opening for writing failed" in opened.rebuilt.problems[0]
    assert sound.is_equal(opened.ledger)
    opened.ledger.close()


def test_b5_a_failed_read_is_not_damage(
    sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sound.copy(tmp_path / "data")
    seen = []

    def fail_once(db: sqlite3.Connection, beside: object) -> list[str]:
        seen.append(db)
        return ["reading failed: SQLITE_CORRUPT"]

    monkeypatch.setattr(recovery, "verify_start", fail_once)

    problems, _ = examine(path)

    assert problems == []
    assert len(seen) == 1


def test_b5_a_ledger_is_rebuilt_in_words_the_user_can_act_on(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path / "data")
    path.write_bytes(path.read_bytes()[:10_000])

    opened = open_checked(path, opener(path), now=lambda: NOW + timedelta(hours=3))
    opened.ledger.close()

    assert opened.rebuilt is not None
    text = opened.rebuilt.describe()
    assert "ledger.db.damaged-20260310T150000Z" in text
    assert "ledger-20260310T120000Z.db was restored" in text
    assert "Between 2026-03-10T12:00:00+00:00 and 2026-03-10T15:00:00+00:00" in text
    assert "balances and limits read in that time are lost" in text


def test_b5_a_damaged_backup_is_passed_over_for_an_older_one(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path / "data")
    folder = backup_folder(path)
    newer = folder / "ledger-20260310T130000Z.db"
    newer.write_bytes(list_backups(folder)[0].read_bytes()[:-5_000])
    path.unlink()

    opened = open_checked(path, opener(path), now=lambda: NOW)
    opened.ledger.close()

    assert opened.rebuilt is not None
    assert opened.rebuilt.unusable == [newer]
    assert opened.rebuilt.backup == folder / "ledger-20260310T120000Z.db"


def test_b6_without_a_backup_the_logs_alone_bring_everything_back_under_the_old_writer(
    sound: Sound, tmp_path: Path
) -> None:
    path = sound.copy(tmp_path / "data")
    shutil.rmtree(backup_folder(path))
    with closing(open_reader(path)) as db:
        writer = db.execute("SELECT machine, uuid, offset_ns FROM writer").fetchall()
    path.write_bytes(b"\0" * 70_000)

    opened = open_checked(path, opener(path), now=lambda: NOW)
    ledger = opened.ledger
    ingest(ledger, sound.home.collector())

    assert opened.rebuilt is not None
    assert opened.rebuilt.backup is None
    assert sound.is_equal(ledger)
    # Another offset would put a second point beside every one that InfluxDB has.
    assert ledger.db.execute("SELECT machine, uuid, offset_ns FROM writer").fetchall() == writer
    ledger.close()


def test_b6_what_neither_backup_nor_logs_hold_is_named_by_source_and_day(
    sound: Sound, tmp_path: Path
) -> None:
    path = sound.copy(tmp_path / "data")
    ledger = open_ledger(path)
    gone = point("msg_gone", "2026-02-20T08:00", input_tokens=1_000, output_tokens=234)
    store(ledger, gone)
    ledger.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE record SET output_tokens=output_tokens+1 WHERE id=1")

    opened = open_checked(path, opener(path), now=lambda: NOW)
    ingest(opened.ledger, sound.home.collector())
    assert opened.rebuilt is not None
    assert opened.rebuilt.aside is not None
    gaps = find_gaps(opened.rebuilt.aside, opened.ledger.db)
    opened.ledger.close()

    assert gaps == [("claude-code", "2026-02-20", 1_234, 0)]


def test_b6_a_rebuilt_ledger_owes_influxdb_everything_again(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path / "data")
    ledger = open_ledger(path)
    target = ledger.outbox.target("http://127.0.0.1:8086", "o", "b")
    rows = ledger.outbox.due(target, 100_000, NOW.timestamp())
    ledger.outbox.acknowledge(target, rows, NOW.timestamp())
    backup(path, backup_folder(path), keep=2, now=NOW + timedelta(minutes=1))
    assert ledger.outbox.pending(target) == 0
    ledger.close()
    path.unlink()

    opened = open_checked(path, opener(path), now=lambda: NOW)

    assert opened.ledger.outbox.pending(target) == len(rows)
    opened.ledger.close()


def test_somebody_elses_file_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"my novel")

    with pytest.raises(NotALedgerError, match="not a tokendash ledger"):
        open_checked(path, opener(path), now=lambda: NOW)

    assert path.read_bytes() == b"my novel"


# -- B7 -------------------------------------------------------------------------------------------


class Trusting(Ledger):
    """Mutant: never looks whether its file is still there."""

    def is_in_place(self) -> bool:
        return True


def _delete_while_running(tmp_path: Path, kind: type[Ledger] = Ledger) -> tuple[bool, int, int]:
    """Whether it was noticed; calls lost and doubled after a restart, a log being gone too."""
    home = ClaudeHome(tmp_path / "home")
    path = tmp_path / "data/ledger.db"
    home.append(30, "a")
    home.append(30, "b")
    guard = GuardedLedger(path, opener(path, kind), now=lambda: NOW)
    ingest(guard.ledger, home.collector())
    home.path("a").unlink()
    home.append(10, "b")
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        path.with_name(name).unlink()
    collector = home.collector()
    noticed = False
    for _ in range(2):
        try:
            cursor = guard.run(lambda ledger: ledger.cursor(collector.name))
            for item in collector.changed(collector.listing(), cursor):
                for batch in collector.scan([item]):
                    guard.commit(collector.name, Source.of(collector), batch)
        except LedgerRebuiltError as error:
            noticed = "gone or empty" in str(error)
        except sqlite3.Error:
            break
    guard.close()
    restarted = GuardedLedger(path, opener(path), now=lambda: NOW)
    ingest(restarted.ledger, collector)
    lost, double = home.differences(restarted.ledger.db)
    restarted.close()
    return noticed, lost, double


def test_b7_a_ledger_deleted_while_it_is_open_is_saved_from_its_open_file(tmp_path: Path) -> None:
    noticed, lost, double = _delete_while_running(tmp_path)

    report("B7", noticed=noticed, lost=lost, double=double)
    assert (noticed, lost, double) == (True, 0, 0)


def test_b7_the_deletion_catches_a_writer_that_never_looks(tmp_path: Path) -> None:
    noticed, lost, _ = _delete_while_running(tmp_path, Trusting)

    report("B7", mutant="no inode check", caught=not noticed and lost > 0)
    assert not noticed
    assert lost > 0


def test_b7_a_ledger_deleted_while_nothing_ran_does_not_begin_silently_anew(
    sound: Sound, tmp_path: Path
) -> None:
    path = sound.copy(tmp_path / "data")
    path.unlink()

    problems, _ = examine(path)

    assert problems == ["the ledger's file is gone or empty, but one was here before"]


# -- B8 -------------------------------------------------------------------------------------------


def _crashed(folder: Path, home: ClaudeHome, first: int, rest: int) -> Path:
    """A ledger whose process was killed with part of its content in the -wal."""
    path = folder / "ledger.db"

    def work() -> None:
        ledger = open_ledger(path)
        ledger.db.execute("PRAGMA wal_autocheckpoint=0")
        home.append(first, "a")
        ingest(ledger, home.collector())
        ledger.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        home.append(rest, "b")
        ingest(ledger, home.collector())
        kill(os.getpid())

    pid, _ = start(work)
    finish(pid)
    assert path.with_name("ledger.db-wal").stat().st_size > 0
    return path


def _exchange_wals(tmp_path: Path) -> list[list[str]]:
    """Problems found where a -wal of another ledger, or an older one, was left behind."""
    prices()
    mine = _crashed(tmp_path / "mine", ClaudeHome(tmp_path / "home1", 1), 200, 200)
    other = _crashed(tmp_path / "other", ClaudeHome(tmp_path / "home2", 2), 220, 180)
    found: list[list[str]] = []
    for wal in (other, None):
        folder = tmp_path / f"mixed{len(found)}"
        folder.mkdir()
        path = folder / "ledger.db"
        for name in ("ledger.db", "ledger.db.id"):
            shutil.copy(mine.with_name(name), folder)
        if wal is not None:
            shutil.copy(wal.with_name("ledger.db-wal"), folder)
        else:
            # An older -wal of the same ledger: checkpoint and go on, then bring the old one back.
            shutil.copy(mine.with_name("ledger.db-wal"), folder)
            old = path.with_name("ledger.db-wal").read_bytes()
            ledger = open_ledger(path)
            for number in range(40):
                store(ledger, *(point(f"new_{number}_{i}") for i in range(20)))
            ledger.close()
            path.with_name("ledger.db-wal").write_bytes(old)
        problems, notes = examine(path)
        found.append(problems + notes)
    return found


def test_b8_a_wal_of_another_ledger_or_an_older_copy_is_noticed(tmp_path: Path) -> None:
    foreign, older = _exchange_wals(tmp_path)

    report("B8", foreign=foreign[:2], older=older[:2])
    assert foreign != [] != [OLDER_COPY]
    assert older != []


def test_b8_sqlite_itself_takes_a_foreign_wal_for_its_own(tmp_path: Path) -> None:
    prices()
    home = ClaudeHome(tmp_path / "home1", 1)
    mine = _crashed(tmp_path / "mine", home, 200, 200)
    other = _crashed(tmp_path / "other", ClaudeHome(tmp_path / "home2", 2), 220, 180)
    shutil.copy(other.with_name("ledger.db-wal"), mine.with_name("ledger.db-wal"))

    with closing(sqlite3.connect(mine)) as db:
        structure = db.execute("PRAGMA quick_check").fetchall()
        rows = db.execute("SELECT * FROM record").fetchall()

    # The mutant: a verification that asks SQLite alone may see nothing wrong.
    report("B8", mutant="quick_check alone", caught=structure == [("ok",)], rows=len(rows))
    assert rows


def test_b8_a_whole_ledger_of_another_machine_in_its_place_is_noticed(
    sound: Sound, tmp_path: Path
) -> None:
    path = sound.copy(tmp_path / "data")
    other = tmp_path / "other/ledger.db"
    open_ledger(other).close()
    shutil.copy(other, path)

    problems, _ = examine(path)

    assert problems == [
        "this is not the ledger that was here before (a file or -wal of another one)"
    ]


def test_b8_a_ledger_without_its_wal_is_named_an_older_copy_and_catches_up(
    tmp_path: Path,
) -> None:
    prices()
    home = ClaudeHome(tmp_path / "home")
    home.append(30, "a")
    path = tmp_path / "data/ledger.db"
    ledger = open_ledger(path)
    ingest(ledger, home.collector())
    ledger.close()
    old = path.read_bytes()
    ledger = open_ledger(path)
    home.append(30, "b")
    ingest(ledger, home.collector())
    ledger.close()
    path.write_bytes(old)

    opened = open_checked(path, opener(path), now=lambda: NOW)
    ingest(opened.ledger, home.collector())

    assert opened.rebuilt is None
    assert opened.notes == [OLDER_COPY]
    assert home.differences(opened.ledger.db) == (0, 0)
    opened.ledger.close()


def test_b8_a_restore_leaves_no_wal_of_the_ledger_it_replaces(sound: Sound, tmp_path: Path) -> None:
    path = _crashed(tmp_path / "data", ClaudeHome(tmp_path / "home"), 50, 50)
    [copy] = list_backups(backup_folder(sound.path))

    aside = restore(path, copy, now=NOW)

    assert aside is not None
    assert {entry.name for entry in path.parent.iterdir() if "replaced" in entry.name} >= {
        "ledger.db.replaced-20260310T120000Z",
        "ledger.db.replaced-20260310T120000Z-wal",
    }
    assert not path.with_name("ledger.db-wal").exists()
    assert examine(path) == ([], [])


def test_b8_the_restore_test_catches_a_wal_that_stays_behind(sound: Sound, tmp_path: Path) -> None:
    path = _crashed(tmp_path / "data", ClaudeHome(tmp_path / "home"), 50, 50)
    wal = path.with_name("ledger.db-wal").read_bytes()
    [copy] = list_backups(backup_folder(sound.path))
    restore(path, copy, now=NOW)

    path.with_name("ledger.db-wal").write_bytes(wal)  # the mutant: moved alone

    problems, _ = examine(path)
    report("B8", mutant="restores the main file alone", caught=bool(problems))
    assert problems != []


def test_a_chosen_backup_is_restored_read_again_and_sent_again(
    sound: Sound, tmp_path: Path
) -> None:
    path = sound.copy(tmp_path / "data")
    [copy] = list_backups(backup_folder(path))

    ledger, aside = open_restored(path, copy, opener(path), now=lambda: NOW)
    before = sum(records(ledger.db).values())
    ingest(ledger, sound.home.collector())

    assert before == 450
    assert aside is not None
    assert aside.exists()
    assert sound.is_equal(ledger)
    assert sums(ledger.db, "requests") == 590
    ledger.close()


def test_a_damaged_backup_is_refused_before_anything_moves(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path / "data")
    [copy] = list_backups(backup_folder(path))
    copy.write_bytes(copy.read_bytes()[:-PAGE])
    content = path.read_bytes()

    with pytest.raises(LedgerDamagedError, match="cannot be restored"):
        restore(path, copy, now=NOW)

    assert path.read_bytes() == content


# -- B9 -------------------------------------------------------------------------------------------


def _back_up_under_load(
    tmp_path: Path, make: Callable[[Ledger, Path, int], None], rounds: int
) -> tuple[float, int]:
    """Longest commit while backups are made, and how many commits there were."""
    path = tmp_path / "ledger.db"
    ledger = open_ledger(path)
    for start_at in range(0, 20_000, 5_000):
        store(ledger, *(point(f"msg_{i}") for i in range(start_at, start_at + 5_000)))
    stop = threading.Event()
    slowest, commits = 0.0, 0

    def write() -> None:
        nonlocal slowest, commits
        while not stop.is_set():
            began = time.monotonic()
            commits += 1
            store(ledger, *(point(f"new_{commits}_{i}") for i in range(20)))
            slowest = max(slowest, time.monotonic() - began)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(rounds):
            make(ledger, path, number)
    finally:
        stop.set()
        writer.join()
    ledger.close()
    return slowest, commits


@pytest.mark.timeout(900)
def test_b9_backups_under_load_restore_and_do_not_stall_the_writer(
    tmp_path: Path, is_soak: bool
) -> None:
    rounds = 8 if is_soak else 2
    folder = tmp_path / "backups"

    def make(ledger: Ledger, path: Path, number: int) -> None:
        backup(path, folder, keep=rounds, now=NOW + timedelta(days=number))

    slowest, commits = _back_up_under_load(tmp_path, make, rounds)
    copies = list_backups(folder)
    sound = sum(check_backup(copy) == [] for copy in copies)

    report("B9", backups=len(copies), sound=sound, commits=commits, slowest_s=round(slowest, 3))
    assert len(copies) == sound == rounds
    assert slowest < 1


def test_b9_a_file_copied_while_it_is_written_is_no_backup(tmp_path: Path) -> None:
    wrong = []

    def copy_main_file(ledger: Ledger, path: Path, number: int) -> None:
        copy = tmp_path / f"copy{number}.db"
        with closing(open_reader(path)) as reader:
            there = reader.execute("SELECT count(*) FROM record").fetchone()[0]
        shutil.copy(path, copy)  # the mutant: without -wal, without a snapshot
        try:
            with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as db:
                wrong.append(db.execute("SELECT count(*) FROM record").fetchone()[0] < there)
        except sqlite3.DatabaseError:
            wrong.append(True)

    _back_up_under_load(tmp_path, copy_main_file, 3)

    report("B9", mutant="copies the main file", caught=any(wrong))
    assert any(wrong)


def test_b9_a_backup_killed_half_way_is_never_taken_for_one(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path / "data")
    folder = tmp_path / "elsewhere"
    made = 0
    for number in range(25):
        moment = NOW + timedelta(days=number)

        def work(moment: datetime = moment) -> None:
            backup(path, folder, keep=100, now=moment)

        pid, _ = start(work)
        time.sleep(number * 0.006)
        kill(pid)
        finish(pid)
        for copy in list_backups(folder)[: len(list_backups(folder)) - made]:
            assert check_backup(copy) == []
        made = len(list_backups(folder))
    backup(path, folder, keep=100, now=NOW + timedelta(days=99))

    report("B9", kills=25, finished=made)
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")] == []


# -- B10 ------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_b10_the_size_of_a_ledger_is_known_and_pruning_gives_room_back(
    tmp_path: Path, is_soak: bool
) -> None:
    count = 1_000_000 if is_soak else 30_000
    path = tmp_path / "ledger.db"
    ledger = open_ledger(path)
    for first in range(0, count, 5_000):
        batch = []
        for number in range(first, first + 5_000):
            day, second = 1 + number % 28, number * 7 % 86_400
            batch.append(
                point(
                    f"msg_{number}",
                    f"2026-02-{day:02d}T{second // 3600:02d}:{second % 3600 // 60:02d}",
                    session=f"s{number // 200}",
                )
            )
        store(ledger, *batch)
    ledger.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    before = sums(ledger.db, "requests")

    done = prune(ledger, int(NOW.timestamp() * 1000))
    free = ledger.db.execute("PRAGMA freelist_count").fetchone()[0] * PAGE
    after = sums(ledger.db, "requests")
    ledger.close()

    report(
        "B10", records=count, bytes_per_record=round(size / count),
        freed_share=round(free / size, 2), became=done.became,
    )  # fmt: skip
    assert before == after == count
    assert size / count < 400
    assert free > size * 0.5


# -- backups --------------------------------------------------------------------------------------


def test_backups_are_due_once_a_day_and_the_newest_are_kept(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path / "data")
    folder = tmp_path / "elsewhere"
    assert is_due(folder, NOW)
    for number in range(4):
        backup(path, folder, keep=2, now=NOW + timedelta(days=number))

    names = [copy.name for copy in list_backups(folder)]

    assert names == ["ledger-20260313T120000Z.db", "ledger-20260312T120000Z.db"]
    assert not is_due(folder, NOW + timedelta(days=3, hours=23))
    assert is_due(folder, NOW + timedelta(days=4))
    assert is_due(folder, NOW)  # the clock went back: the newest is from the future


def test_the_note_beside_a_ledger_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_ledger(path).close()
    first = IdentityFile(path).read()
    open_ledger(path).close()
    second = IdentityFile(path).read()

    assert first is not None
    assert second is not None
    assert second.ledger == first.ledger
    assert (first.opens, second.opens) == (1, 2)
    assert verify(open_reader(path), beside=second) == []
