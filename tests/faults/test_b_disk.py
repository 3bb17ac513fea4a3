"""Faults B1, B2, B3, B4, B11, B12 and H9: full, failing, read-only and shared disks, file modes."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from collectors.errors import LedgerError
from collectors.ledger import files
from collectors.ledger.backup import backup, backup_folder
from collectors.ledger.checks import filesystem_warning, verify
from collectors.ledger.files import open_reader
from collectors.ledger.guard import GuardedLedger
from collectors.ledger.store import Source, Stored
from collectors.points import Batch
from tests.engines import need
from tests.support.killing import fail_at, finish, list_calls, report, spread, start, trace
from tests.support.ledgers import NOW, ClaudeHome, ingest, open_ledger, opener, point, prices, store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def is_soak(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--soak", default=False))


@pytest.fixture(autouse=True)
def _warm() -> None:
    prices()


def _scenario(name: str, tmp_path: Path) -> dict[str, Any]:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run(
        [unshare, "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)],
        check=False, capture_output=True,
    ).returncode:  # fmt: skip
        pytest.skip("no mount namespaces here: unshare -rm needs unprivileged user namespaces")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    module = "tests.support.disk_scenarios"
    done = subprocess.run(
        [unshare, "-rm", sys.executable, "-m", module, name, str(scratch), str(tmp_path / "mount")],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


# -- B1, B2, B3 -----------------------------------------------------------------------------------


def test_b1_a_full_disk_stops_writing_only_and_heals_by_itself(tmp_path: Path) -> None:
    seen = _scenario("full", tmp_path)

    report("B1", **seen)
    assert seen == {
        "full": True,
        "hint": "make room there; collecting goes on by itself, nothing is lost",
        "readable": True,
        "refused_at_once": True,
        "false_alarm": False,
        "lost": 0,
        "double": 0,
        "problems": [],
        "still_full": False,
        "spare": files.SPARE_BYTES,
    }


def test_b1_the_full_disk_catches_a_cursor_ahead_of_its_data(tmp_path: Path) -> None:
    seen = _scenario("full_mutant", tmp_path)

    report("B1", mutant="cursor_first", caught=seen["lost"] > 0)
    assert seen["lost"] > 0


def test_b2_the_spare_file_lets_a_checkpoint_through_and_a_smaller_one_would_not(
    tmp_path: Path,
) -> None:
    seen = _scenario("spare", tmp_path)

    report("B2", mutant="spare of 1 MiB", caught=seen["1 MiB after"] != "ok", **seen)
    assert seen["8 MiB error"] == "SQLITE_FULL"
    assert seen["8 MiB before"] == "SQLITE_FULL"
    assert seen["8 MiB after"] == "ok"
    assert seen["8 MiB rows"] == 6_000
    assert seen["1 MiB after"] == "SQLITE_FULL"


def test_b3_a_read_only_place_is_named_with_its_reason(tmp_path: Path) -> None:
    seen = _scenario("read_only", tmp_path)

    report("B3", **seen)
    assert "Read-only file system" in seen["writer"]
    assert str(tmp_path / "mount/data") in seen["writer"]
    assert "DB_PATH" in seen["writer"]
    assert "-shm" in seen["reader"]


def test_b3_a_folder_of_another_user_is_named_and_the_lock_stays_free(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o500)
    path = folder / "ledger.db"

    def try_it() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            open_ledger(path)
        except LedgerError as error:
            assert f"{folder} cannot be written: Permission denied" in str(error)  # noqa: PT017
            return
        raise AssertionError("it opened")

    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    pid, _ = start(try_it)

    assert finish(pid) == 0
    folder.chmod(0o700)
    open_ledger(path).close()


def test_an_opening_that_fails_half_way_gives_the_lock_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"

    def fail(db: sqlite3.Connection, version: int) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(files, "migrate", fail)
        with pytest.raises(LedgerError):
            open_ledger(path)

    open_ledger(path).close()


# -- B4 -------------------------------------------------------------------------------------------

FAILING = (
    ("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("fdatasync", "EIO"), ("ftruncate", "EIO"),
    ("pread64", "EIO"), ("unlink", "EIO"),
)  # fmt: skip


class Stubborn(GuardedLedger):
    """Mutant: carries on with the connection on which a call failed, as if it had worked."""

    def commit(self, collector: str, source: Source, batch: Batch) -> Stored:
        try:
            return self.ledger.commit(collector, source, batch)
        except sqlite3.Error:
            ledger = self.ledger
            with ledger.transaction():
                ledger._save_cursor(collector, batch.cursor)
            return Stored()


def _read_all(home: ClaudeHome, path: Path, kind: type[GuardedLedger] = GuardedLedger) -> None:
    """A daemon's cycles: what fails is tried again in the next one."""
    collector = home.collector()
    source = Source.of(collector)
    guard: GuardedLedger | None = None
    for _ in range(20):
        try:
            if guard is None:
                guard = kind(path, opener(path), now=lambda: NOW)
                guard.ledger.db.execute("PRAGMA wal_autocheckpoint=8")
            cursor = guard.run(lambda ledger: ledger.cursor(collector.name))
            for item in collector.changed(collector.listing(), cursor):
                for batch in collector.scan([item]):
                    guard.commit(collector.name, source, batch)
            guard.close()
            return
        except (LedgerError, sqlite3.Error, OSError):
            continue
    raise AssertionError("it never recovered")


def _fail_everywhere(
    strace: str, tmp_path: Path, most: int, kind: type[GuardedLedger] = GuardedLedger
) -> dict[str, Any]:
    home = ClaudeHome(tmp_path / "home")
    for name in "abcd":
        home.append(6, name)
    probe = tmp_path / "probe/ledger.db"
    names = tuple(dict.fromkeys(name for name, _ in FAILING))
    calls = list_calls(strace, lambda: _read_all(home, probe, kind), names, tmp_path / "calls")
    figures: Counter[str] = Counter(runs=0, gave_up=0, wrong=0, corrupt=0)
    for name, error in FAILING:
        for index, number in spread({name: calls[name]}, max(1, most // len(FAILING))):
            path = tmp_path / f"{name}{error}{number}/ledger.db"
            code = trace(
                strace,
                lambda path=path: _read_all(home, path, kind),  # type: ignore[misc]  # bound now
                *fail_at(index, number, error),
            )
            figures["runs"] += 1
            figures["gave_up"] += code != 0
            ledger = open_ledger(path)
            ingest(ledger, home.collector())
            figures["wrong"] += home.differences(ledger.db) != (0, 0)
            figures["corrupt"] += bool(verify(ledger.db))
            ledger.close()
            shutil.rmtree(path.parent)  # each holds a spare file
    return dict(figures)


@pytest.mark.timeout(1200)
def test_b4_one_failing_call_anywhere_costs_nothing(tmp_path: Path, is_soak: bool) -> None:
    figures = _fail_everywhere(need("strace"), tmp_path, 10_000 if is_soak else 45)

    report("B4", **figures)
    assert figures["runs"] > 30
    assert (figures["gave_up"], figures["wrong"], figures["corrupt"]) == (0, 0, 0)


@pytest.mark.timeout(300)
def test_b4_failing_calls_catch_carrying_on_as_if_it_had_worked(tmp_path: Path) -> None:
    figures = _fail_everywhere(need("strace"), tmp_path, 45, Stubborn)

    report("B4", mutant="carries_on", caught=figures["wrong"] > 0, **figures)
    assert figures["wrong"] > 0


# -- B11 ------------------------------------------------------------------------------------------


def _grow_wal(path: Path, limit: str) -> tuple[int, int]:
    """Size of the -wal while a reader holds its snapshot, and after it went and writing went on."""
    ledger = open_ledger(path)
    ledger.db.execute(f"PRAGMA journal_size_limit={limit}")
    store(ledger, point())
    reader = open_reader(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM record").fetchone()
    wal = path.with_name("ledger.db-wal")
    number = 0
    while wal.stat().st_size < 20 << 20:
        number += 1
        store(ledger, *(point(f"msg_{number}_{i}", output_tokens=i) for i in range(2_000)))
    grown = wal.stat().st_size
    reader.close()
    ledger.db.execute("PRAGMA wal_checkpoint(RESTART)")
    store(ledger, point("msg_last"))
    after = wal.stat().st_size
    ledger.close()
    return grown, after


def test_b11_what_a_long_reader_let_the_wal_grow_to_is_given_back(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "probe.db")
    limit = ledger.db.execute("PRAGMA journal_size_limit").fetchone()[0]
    ledger.close()

    grown, after = _grow_wal(tmp_path / "ledger.db", str(limit))
    _, without = _grow_wal(tmp_path / "mutant/ledger.db", "-1")

    report(
        "B11", grown_mb=grown >> 20, after_mb=after >> 20, mutant="no limit",
        caught=without > limit,
    )  # fmt: skip
    assert after <= limit == 16 << 20
    assert without > limit


# -- B12 ------------------------------------------------------------------------------------------

MOUNTS = r"""
/dev/vda1 / ext4 rw,relatime 0 0
tmpfs /dev/shm tmpfs rw 0 0
grpcfuse /host fuse.grpcfuse rw 0 0
mac /Users virtiofs rw 0 0
C:\134 /mnt/c 9p rw 0 0
nas:/home /home/ada/net\040drive nfs4 rw 0 0
/dev/vdb /host/volume ext4 rw 0 0
/dev/sdb1 /media/usb fuseblk rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ada/.local/share/tokendash/ledger.db", ""),
        ("/dev/shm/ledger.db", ""),
        ("/media/usb/ledger.db", ""),
        ("/host/volume/ledger.db", ""),
        ("/host/ledger.db", "fuse.grpcfuse"),
        ("/Users/ada/ledger.db", "virtiofs"),
        ("/mnt/c/ledger.db", "9p"),
        ("/home/ada/net drive/ledger.db", "nfs4"),
        ("/home/ada/net drives/ledger.db", ""),
    ],
)
def test_b12_shared_file_systems_are_warned_of_by_type(path: str, kind: str) -> None:
    warning = filesystem_warning(path, MOUNTS)

    assert bool(warning) == bool(kind)
    assert kind in warning


# -- H9 -------------------------------------------------------------------------------------------


def _open_bits(folder: Path) -> dict[str, str]:
    """Files and folders that others may do something with."""
    found = {folder.name: folder.stat().st_mode}
    found |= {str(path.relative_to(folder)): path.stat().st_mode for path in folder.rglob("*")}
    return {name: oct(stat.S_IMODE(mode)) for name, mode in found.items() if mode & 0o077}


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_h9_no_other_user_can_read_any_file_of_the_ledger(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "data"
    path = folder / "ledger.db"
    old = os.umask(umask)
    try:
        guard = GuardedLedger(path, opener(path), now=lambda: NOW)
        store(guard.ledger, point())
        backup(path, backup_folder(path), keep=2, now=NOW)
        names = {entry.name for entry in folder.iterdir()}
        found = _open_bits(folder)
        guard.close()
    finally:
        os.umask(old)

    report("H9", umask=oct(umask), files=len(names), open_to_others=len(found))
    assert found == {}
    assert {"ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.lock"} <= names
    assert {"ledger.db.id", "ledger.db.spare", "backups"} <= names


def test_h9_the_check_of_modes_catches_a_ledger_made_by_sqlite_itself(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    old = os.umask(0)
    try:
        sqlite3.connect(folder / "ledger.db").execute("CREATE TABLE t(a)").connection.close()
    finally:
        os.umask(old)

    found = _open_bits(folder)

    report("H9", mutant="created by SQLite", caught=bool(found))
    assert found == {"ledger.db": "0o644"}
