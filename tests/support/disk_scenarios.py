"""Full, tiny and read-only disks: run inside a mount namespace of its own, prints what it saw.

unshare -rm python -m tests.support.disk_scenarios full SCRATCH MOUNT
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collectors.errors import LedgerError
from collectors.ledger.checks import verify
from collectors.ledger.files import SPARE_BYTES, SpareFile, open_reader
from collectors.ledger.guard import ROOM_BYTES, GuardedLedger, LedgerFullError
from collectors.ledger.store import Ledger, Source, Stored
from collectors.points import Batch
from tests.support.ledgers import NOW, ClaudeHome, ingest, open_ledger, opener

_COUNT = "SELECT count(*) FROM record"


class CursorFirst(Ledger):
    """Mutant: the cursor is stored in a transaction of its own."""

    def commit(self, collector: str, source: Source, batch: Batch) -> Stored:
        super().commit(collector, source, Batch(cursor=batch.cursor))
        return super().commit(
            collector, source, Batch(points=batch.points, is_checked=batch.is_checked)
        )


def _mount(folder: Path, size: str) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def _read_all(guard: GuardedLedger, home: ClaudeHome) -> None:
    collector = home.collector()
    source = Source.of(collector)
    cursor = guard.run(lambda ledger: ledger.cursor(collector.name))
    for item in collector.changed(collector.listing(), cursor):
        for batch in collector.scan([item]):
            guard.commit(collector.name, source, batch)


def full(scratch: Path, mount: Path, kind: type[Ledger] = Ledger) -> dict[str, Any]:
    """B1: the disk fills up while logs are read, then space returns."""
    _mount(mount, "12m")
    home = ClaudeHome(scratch / "home")
    for number in range(40):
        home.append(300, f"log{number}")
    path = mount / "data/ledger.db"
    guard = GuardedLedger(path, opener(path, kind), now=lambda: NOW)
    seen: dict[str, Any] = {"full": False, "refused_at_once": False}
    try:
        _read_all(guard, home)
    except LedgerFullError as error:
        seen["full"], seen["hint"] = guard.is_full, error.hint
    committed = guard.ledger.db.execute(_COUNT).fetchone()[0]
    reader = open_reader(path)
    seen["readable"] = reader.execute(_COUNT).fetchone()[0] == committed > 0
    reader.close()
    _fill(mount / "hog")
    try:
        guard.run(lambda ledger: ledger.forget_cursor("nothing"))
    except LedgerFullError:
        seen["refused_at_once"] = True
    guard.close()
    if kind is Ledger:
        # A full disk is no reason to call a ledger damaged at the next start.
        (mount / "hog").unlink()
        guard = GuardedLedger(path, opener(path, kind), now=lambda: NOW)
        seen["false_alarm"] = guard.rebuilt is not None
        guard.close()
    _remount(mount, "size=64m")
    guard = GuardedLedger(path, opener(path, kind), now=lambda: NOW)
    guard.is_full = True
    _read_all(guard, home)
    seen["lost"], seen["double"] = home.differences(guard.ledger.db)
    seen["problems"] = verify(guard.ledger.db, is_full_check=True)
    seen["still_full"] = guard.is_full
    seen["spare"] = guard.ledger.spare.path.stat().st_size
    guard.close()
    return seen


def full_mutant(scratch: Path, mount: Path) -> dict[str, Any]:
    """B1 with a ledger whose cursor runs ahead of its data."""
    return full(scratch, mount, CursorFirst)


def spare(scratch: Path, mount: Path) -> dict[str, Any]:
    """B2: the -wal cannot be checkpointed on a full disk until the spare file is released."""
    _mount(mount, "40m")
    seen: dict[str, Any] = {}
    for label, size in (("1 MiB", 1 << 20), ("8 MiB", SPARE_BYTES)):
        path = mount / f"{size}/ledger.db"
        ledger = open_ledger(path)
        held = SpareFile(path)
        with held.path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        ledger.db.execute("CREATE TABLE filler(id INTEGER PRIMARY KEY, body BLOB)")
        ledger.db.execute("PRAGMA wal_autocheckpoint=0")
        with ledger.transaction():  # more than the -wal holds at its usual limit of 4 MiB
            ledger.db.executemany("INSERT INTO filler(body) VALUES(?)", [(b"x" * 1000,)] * 6000)
        _fill(mount / "hog")
        try:
            with ledger.transaction():
                ledger.db.executemany("INSERT INTO filler(body) VALUES(?)", [(b"x" * 1000,)] * 50)
        except sqlite3.OperationalError as error:
            seen[f"{label} error"] = error.sqlite_errorname
        seen[f"{label} before"] = _checkpoint(ledger)
        held.release()
        seen[f"{label} after"] = _checkpoint(ledger)
        rows = ledger.db.execute("SELECT count(*) FROM filler").fetchone()[0]
        seen[f"{label} rows"] = rows
        (mount / "hog").unlink()
        ledger.close()
        for file_path in path.parent.iterdir():
            file_path.unlink()
    return seen


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as hog:
        try:
            while hog.write(b"z" * 4096):
                pass
        except OSError:
            return


def _checkpoint(ledger: Ledger) -> str:
    try:
        busy = ledger.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error as error:
        return error.sqlite_errorname
    return "busy" if busy else "ok"


def read_only(scratch: Path, mount: Path) -> dict[str, Any]:
    """B3: a file system that is read-only at the start."""
    _mount(mount, "32m")
    home = ClaudeHome(scratch / "home")
    home.append(10)
    path = mount / "data/ledger.db"
    ledger = open_ledger(path)
    ingest(ledger, home.collector())
    ledger.close()
    _remount(mount, "ro")
    seen: dict[str, Any] = {}
    for label, action in (
        ("writer", lambda: GuardedLedger(path, opener(path), now=lambda: NOW)),
        ("reader", lambda: open_reader(path).execute(_COUNT).fetchone()[0]),
    ):
        try:
            seen[label] = str(action())
        except LedgerError as error:
            seen[label] = f"{error} | {error.hint}"
        except sqlite3.Error as error:
            seen[label] = f"unexplained {error}"
    return seen


SCENARIOS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "full": full,
    "full_mutant": full_mutant,
    "spare": spare,
    "read_only": read_only,
}

if __name__ == "__main__":
    assert SPARE_BYTES < ROOM_BYTES
    print(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))))
