"""Backups of the ledger: whole, private, and counted only after they were opened and verified."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from collectors.errors import LedgerDamagedError, LedgerError
from collectors.ledger.checks import verify
from collectors.ledger.files import SIDE_FILES, WriterLock, move_aside, open_reader
from collectors.ledger.identity import IdentityFile, read_identity

DAY_SECONDS = 86_400
_NAME = re.compile(r"ledger-(\d{8}T\d{6}Z)\.db")
_STAMP = "%Y%m%dT%H%M%SZ"


def backup_folder(ledger: Path) -> Path:
    """Where a ledger's backups are kept."""
    return ledger.parent / "backups"


def list_backups(folder: Path) -> list[Path]:
    """Finished backups, newest first."""
    try:
        names = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    return sorted(names, key=lambda path: path.name, reverse=True)


def taken_at(backup_file: Path) -> datetime:
    """When a backup was taken, by its name.

    Raises:
        LedgerError: the name is not one of a backup.
    """
    match = _NAME.fullmatch(backup_file.name)
    if match is None:
        raise LedgerError(
            f"{backup_file.name} is not named like a backup",
            "backups are named ledger-YYYYMMDDTHHMMSSZ.db",
        )
    return datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)


def is_due(folder: Path, now: datetime) -> bool:
    """Whether the newest backup is a day old; one from the future counts as none."""
    newest = list_backups(folder)
    if not newest:
        return True
    age = (now - taken_at(newest[0])).total_seconds()
    return not 0 <= age < DAY_SECONDS


def backup(ledger: Path, folder: Path, *, keep: int, now: datetime) -> Path:
    """Write one backup, verify it, then let go of all but the newest `keep`.

    Reads through a connection of its own, so a running writer neither waits nor is seen half-way;
    call it outside the ledger's thread.

    Raises:
        LedgerDamagedError: what was written does not verify; older backups stay as they are.
        LedgerError: there is no room, or the ledger cannot be read.
    """
    _check_room(ledger, folder)
    source = open_reader(ledger)
    try:
        target = write_copy(source, ledger, folder, now=now)
    finally:
        source.close()
    for old in list_backups(folder)[max(keep, 1) :]:
        old.unlink(missing_ok=True)
    return target


def write_copy(source: sqlite3.Connection, ledger: Path, folder: Path, *, now: datetime) -> Path:
    """Write what a connection sees as a verified backup; also of a file that was unlinked.

    Raises:
        LedgerDamagedError: what was written does not verify.
        LedgerError: it could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for rest in folder.glob(".ledger-*.part*"):
        rest.unlink(missing_ok=True)  # of a backup that was interrupted
    target = folder / f"ledger-{now.astimezone(UTC).strftime(_STAMP)}.db"
    partial = folder / f".{target.name}.part"
    try:
        # SQLite fills an empty file that is there, and keeps its mode whatever the umask.
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        source.execute("VACUUM INTO ?", (str(partial),))
        _sync(partial)
        problems = check_backup(partial)
        if problems:
            raise LedgerDamagedError(
                f"the backup of {ledger} does not verify: {problems[0]}",
                "run `tokendash check`; the ledger itself may be damaged",
            )
        partial.replace(target)
        _sync(folder)
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(
            f"no backup of {ledger} was made ({error})", f"check room and rights in {folder}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def check_backup(backup_file: Path) -> list[str]:
    """The restore test: what is wrong with a backup; empty when it can be restored."""
    try:
        db = open_reader(backup_file)
    except LedgerError as error:
        return [str(error)]
    try:
        return verify(db, is_full_check=True)
    except sqlite3.Error as error:
        return [f"it cannot be read ({error})"]
    finally:
        db.close()


def restore(
    ledger: Path, backup_file: Path, *, now: datetime, lock: WriterLock | None = None
) -> Path | None:
    """Put a backup in the ledger's place; return where the present ledger went, if there was one.

    Ledger, -wal and -shm move together: a -wal that stays behind would be replayed into the
    backup. Nothing is deleted. Killed half-way, the next start finds no ledger, sees by the note
    beside it that there was one, and restores again.

    Raises:
        LedgerDamagedError: the backup does not verify; nothing was touched.
        LedgerLockedError: a running tokendash writes the ledger.
        LedgerError: there is no room for the copy.
    """
    problems = check_backup(backup_file)
    if problems:
        raise LedgerDamagedError(
            f"{backup_file} cannot be restored: {problems[0]}", "choose an older backup"
        )
    held = lock if lock is not None else WriterLock(ledger)
    held.acquire()
    copy = ledger.with_name(ledger.name + ".restoring")
    try:
        _check_room(backup_file, ledger.parent)
        fd = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as target, backup_file.open("rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
        _sync(copy)
        aside = put_aside(ledger, "replaced", now)
        copy.replace(ledger)
        _sync(ledger.parent)
        note_identity(ledger)
    except OSError as error:
        raise LedgerError(
            f"{backup_file} could not be restored ({error.strerror})",
            f"check room and rights in {ledger.parent}; what was moved aside is still there",
        ) from error
    finally:
        copy.unlink(missing_ok=True)
        if lock is None:
            held.release()
    return aside


def put_aside(ledger: Path, why: str, now: datetime) -> Path | None:
    """Move a ledger's three files away together under a name nothing else has."""
    if not any(Path(f"{ledger}{suffix}").exists() for suffix in SIDE_FILES):
        return None
    label = f"{why}-{now.astimezone(UTC).strftime(_STAMP)}"
    number = 1
    while any(ledger.parent.glob(f"{ledger.name}.{label}*")):
        number += 1
        label = f"{label.partition('_')[0]}_{number}"
    return move_aside(ledger, label)


def note_identity(ledger: Path) -> None:
    """Note beside a ledger which one is there now, after it was replaced on purpose."""
    db = open_reader(ledger)
    try:
        identity = read_identity(db)
    finally:
        db.close()
    if identity is not None:
        IdentityFile(ledger).write(identity)


def _check_room(source: Path, folder: Path) -> None:
    needed = sum(
        Path(f"{source}{suffix}").stat().st_size
        for suffix in ("", "-wal")
        if Path(f"{source}{suffix}").exists()
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(folder).free
    if free < needed + (1 << 20):
        raise LedgerError(
            f"a copy of {source.name} needs {needed >> 20} MiB, {folder} has {free >> 20} MiB free",
            "make room there",
        )


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(fd)
    finally:
        os.close(fd)
