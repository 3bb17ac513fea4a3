"""Opening a ledger that may be damaged: verify, move aside, restore, say what could not be had.

Nothing is ever deleted. A rebuilt ledger has no cursors, so that every log is read again; what a
backup and the logs hold between them is then counted exactly once. It keeps the name its writer
had: the points it sends again fall on the ones InfluxDB has.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from collectors.errors import LedgerDamagedError, LedgerError, NotALedgerError
from collectors.ledger.backup import (
    backup_folder,
    check_backup,
    list_backups,
    note_identity,
    put_aside,
    restore,
    taken_at,
)
from collectors.ledger.checks import (
    is_cut_off,
    is_damage,
    is_nonsense,
    is_older_copy,
    verify,
    verify_start,
)
from collectors.ledger.dimensions import writer_offset
from collectors.ledger.files import WriterLock, is_ours, open_reader, open_writer
from collectors.ledger.identity import Identity, IdentityFile
from collectors.ledger.records import TOKENS_SQL
from collectors.ledger.store import Ledger

OLDER_COPY = (
    "the ledger is an older copy of itself, or its -wal file was removed: logs are read again from"
    " where it stood; readings of balances and limits since then are gone"
)


class Gap(NamedTuple):
    """Tokens of one source and UTC day that were in a damaged ledger and are not in this one."""

    source: str
    day: str
    before: int
    now: int


@dataclass
class Rebuilt:
    """What was done about a damaged ledger."""

    problems: list[str]
    aside: Path | None  # where the damaged files are now
    backup: Path | None  # what was restored; None: begun anew
    unusable: list[Path] = field(default_factory=list)  # backups that did not verify
    since: datetime | None = None  # from here on only what logs and providers still have is known
    until: datetime | None = None

    def describe(self) -> str:
        """What happened and which interval depends on the logs, in one sentence each."""
        first = self.problems[0] if self.problems else "unknown"
        moved = f"moved to {self.aside}" if self.aside else "gone"
        text = f"the ledger was damaged ({first}) and is {moved}. "
        if self.backup is None:
            text += "There was no usable backup: everything is read again from logs and providers. "
        else:
            text += f"{self.backup.name} was restored. "
        since = self.since.isoformat(timespec="seconds") if self.since else "the beginning"
        until = self.until.isoformat(timespec="seconds") if self.until else "now"
        return text + (
            f"Between {since} and {until} only what logs and providers still hold can be counted;"
            " balances and limits read in that time are lost."
        )


@dataclass
class Opened:
    """An open ledger that was verified, and what had to be done for it."""

    ledger: Ledger
    rebuilt: Rebuilt | None = None
    notes: list[str] = field(default_factory=list)


def open_checked(
    path: Path,
    open_ledger: Callable[[WriterLock], Ledger],
    *,
    now: Callable[[], datetime],
    backups: Path | None = None,
    is_suspect: bool = False,
) -> Opened:
    """Verify the ledger at a path, rebuild it if it is damaged, open it.

    `open_ledger` makes the `Ledger` with the lock it is given; the lock is held from before the
    first look until the ledger is closed. A suspect ledger is verified whole, whatever its size.

    Raises:
        LedgerLockedError: another process writes this ledger.
        NotALedgerError, LedgerTooNewError: the file is not ours to touch.
        LedgerError: the folder or file cannot be read or written now.
    """
    lock = WriterLock(path)
    lock.acquire()
    rebuilt = None
    try:
        problems, notes = examine(path, is_suspect=is_suspect)
        if problems:
            rebuilt = rebuild(path, problems, now=now(), backups=backups, lock=lock)
        try:
            ledger = open_ledger(lock)
        except sqlite3.DatabaseError as error:
            if rebuilt is not None or not is_damage(error):
                raise
            # A writer reads more of a file than a reader does.
            found = [f"opening for writing failed: {error}"]
            rebuilt = rebuild(path, found, now=now(), backups=backups, lock=lock)
            ledger = open_ledger(lock)
        try:
            if rebuilt is not None:
                # The backup's memory of what was sent is older than what was sent.
                ledger.outbox.replay()
        except BaseException:
            ledger.close()
            raise
    except BaseException:
        lock.release()
        raise
    return Opened(ledger, rebuilt, notes)


def open_restored(
    path: Path,
    backup_file: Path,
    open_ledger: Callable[[WriterLock], Ledger],
    *,
    now: Callable[[], datetime],
) -> tuple[Ledger, Path | None]:
    """Restore a backup the user chose and open it; also return where the ledger of before went.

    Every log is read again from its start and every point sent again.

    Raises:
        LedgerDamagedError: the backup does not verify; nothing was touched.
        LedgerLockedError: a running tokendash writes the ledger.
        LedgerError: there is no room for the copy.
    """
    lock = WriterLock(path)
    lock.acquire()
    try:
        beside = IdentityFile(path).read()
        aside = restore(path, backup_file, now=now(), lock=lock)
        db = open_writer(path)
        try:
            _begin_again(db, beside)
        finally:
            db.close()
        ledger = open_ledger(lock)
        try:
            ledger.outbox.replay()
        except BaseException:
            ledger.close()
            raise
    except BaseException:
        lock.release()
        raise
    return ledger, aside


def examine(path: Path, *, is_suspect: bool = False) -> tuple[list[str], list[str]]:
    """What is wrong with the ledger at a path, and what is merely worth knowing.

    Damage is looked at twice, the second time whole and over a new connection: one failed read
    looks the same.

    Raises:
        NotALedgerError, LedgerTooNewError: the file is not ours to touch.
        LedgerError: it cannot be read now.
    """
    beside = IdentityFile(path).read()
    if not path.exists() or path.stat().st_size == 0:
        wal = path.with_name(path.name + "-wal")
        if beside is not None or (wal.exists() and wal.stat().st_size):
            return ["the ledger's file is gone or empty, but one was here before"], []
        return [], []
    _roll_back(path)
    problems, notes = _look(path, beside, is_whole=is_suspect)
    if problems:
        problems, notes = _look(path, beside, is_whole=True)
    return problems, notes


def _roll_back(path: Path) -> None:
    """Finish what a ledger was killed in before it had a -wal; a reader may not do that."""
    if not path.with_name(path.name + "-journal").exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA schema_version")
    except sqlite3.Error:
        return  # what is wrong is seen, and named, by the look that follows


def _says_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return is_ours(file.read(100))


def _look(path: Path, beside: Identity | None, *, is_whole: bool) -> tuple[list[str], list[str]]:
    if is_cut_off(path):
        return ["the file is shorter than it says it is"], []
    try:
        db = open_reader(path)
    except NotALedgerError:
        if beside is None:
            raise  # nothing says that a ledger was ever here: somebody else's file
        return ["the file's first page is not a ledger's any more"], []
    except UnicodeDecodeError:
        return ["opening failed: the schema is not text"], []
    except LedgerError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, sqlite3.Error) and (is_damage(cause) or is_nonsense(cause)):
            if beside is None and not _says_ours(path):
                raise NotALedgerError(
                    f"{path} is not a tokendash ledger, and damaged",
                    "name another file by DB_PATH; this one was not touched",
                ) from None
            return [f"opening failed: {cause}"], []
        if "still empty" in str(error):
            return [], []
        raise
    try:
        if is_whole:
            found = verify(db, is_full_check=True, beside=beside)
        else:
            found = verify_start(db, beside)
        if found:
            return found, []
        return [], [OLDER_COPY] if is_older_copy(db, beside) else []
    except sqlite3.Error as error:
        raise LedgerError(
            f"the ledger {path} cannot be read now ({error})", "check the disk it is on"
        ) from error
    finally:
        db.close()


def rebuild(
    path: Path,
    problems: list[str],
    *,
    now: datetime,
    backups: Path | None = None,
    lock: WriterLock | None = None,
) -> Rebuilt:
    """Move a damaged ledger aside, restore the newest good backup, forget all cursors.

    Raises:
        LedgerLockedError: a running tokendash writes the ledger.
        LedgerError: there is no room, or the folder cannot be written.
    """
    held = lock if lock is not None else WriterLock(path)
    held.acquire()
    try:
        beside = IdentityFile(path).read()
        found = Rebuilt(problems, None, None, until=now)
        found.aside = put_aside(path, "damaged", now)
        for candidate in list_backups(backups if backups is not None else backup_folder(path)):
            if check_backup(candidate):
                found.unusable.append(candidate)
                continue
            restore(path, candidate, now=now, lock=held)
            found.backup, found.since = candidate, taken_at(candidate)
            break
        db = open_writer(path)
        try:
            _begin_again(db, beside)
        finally:
            db.close()
        if found.backup is None:
            # A ledger begun anew is another one; the next opening notes which.
            IdentityFile(path).remove()
        else:
            note_identity(path)
    finally:
        if lock is None:
            held.release()
    return found


def _begin_again(db: sqlite3.Connection, beside: Identity | None) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("DELETE FROM cursor")
        if beside is not None:
            # A new writer would send every point once more beside the ones that are there.
            db.executemany(
                "INSERT OR IGNORE INTO writer(uuid, machine, offset_ns) VALUES(?,?,?)",
                [(name, machine, writer_offset(name)) for machine, name in beside.writers],
            )
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def find_gaps(damaged: Path, db: sqlite3.Connection) -> list[Gap]:
    """What can still be read in a damaged ledger and is not in the rebuilt one, by day.

    Meaningful once the collectors have read their logs again. Rows the damage made unreadable
    cannot be named; a ledger that cannot be opened at all gives no gaps, only its interval is
    known.

    Raises:
        LedgerDamagedError: nothing in the damaged ledger can be read.
    """
    try:
        old = open_reader(damaged)
        try:
            before = _daily(old)
        finally:
            old.close()
    except (sqlite3.Error, LedgerError, UnicodeDecodeError) as error:
        raise LedgerDamagedError(
            f"{damaged} cannot be read ({error})", "what it held is known by its interval only"
        ) from error
    present = _daily(db)
    return [
        Gap(source, day, tokens, present.get((source, day), 0))
        for (source, day), tokens in sorted(before.items())
        if present.get((source, day), 0) < tokens
    ]


def _daily(db: sqlite3.Connection) -> dict[tuple[str, str], int]:
    rows = db.execute(
        f"SELECT series.source, bucket.start / 86400, sum({TOKENS_SQL}) FROM bucket"
        " JOIN series ON series.id=bucket.series GROUP BY 1, 2"
    )
    return {
        (source, datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()): tokens
        for source, day, tokens in rows
    }
