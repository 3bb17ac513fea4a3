"""The ledger's files: made private, locked by one writer, opened so that nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from collectors.errors import LedgerError, LedgerLockedError, NotALedgerError
from collectors.ledger.schema import APPLICATION_ID, identify, migrate

try:
    import fcntl
except ImportError:  # native Windows; the command line refuses it before it comes here
    fcntl = None  # type: ignore[assignment]

SIDE_FILES = ("", "-wal", "-shm", "-journal")
SPARE_BYTES = 8 << 20  # room for a checkpoint on a full disk: twice the WAL at its usual limit
_MAGIC = b"SQLite format 3\0"


class WriterLock:
    """Exclusive right to write one ledger; the kernel gives it back when the process dies."""

    def __init__(self, ledger: Path) -> None:
        self.path = ledger.with_name(ledger.name + ".lock")
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LedgerLockedError: another process holds it.
            LedgerError: the folder cannot be written.
        """
        if self._fd >= 0:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(
                f"the ledger's folder {self.path.parent} cannot be written: {error.strerror}",
                "make it writable, or name another place by DB_PATH",
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = self.holder()
            os.close(fd)
            raise LedgerLockedError(
                f"another tokendash{f' (process {holder})' if holder else ''} writes this ledger",
                "stop it first, or use the commands that ask it: they find it by themselves",
            ) from None
        self._fd = fd
        with contextlib.suppress(OSError):  # a courtesy to whoever asks: the lock is held anyway
            os.ftruncate(fd, 0)
            os.write(fd, json.dumps({"pid": os.getpid()}).encode())

    def holder(self) -> int:
        """The process that took the lock last; 0 when not known."""
        try:
            return int(json.loads(self.path.read_bytes())["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def is_held(self) -> bool:
        """Whether some process, this one included, holds the lock now."""
        if self._fd >= 0:
            return True
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def release(self) -> None:
        """Give the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> WriterLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def is_ours(head: bytes) -> bool:
    """Whether the first 100 bytes of a file are a ledger's."""
    return (
        len(head) >= 100
        and head.startswith(_MAGIC)
        and int.from_bytes(head[68:72], "big") == APPLICATION_ID
    )


def check_header(path: Path) -> None:
    """Refuse what is plainly not a ledger, by reading bytes only.

    Raises:
        NotALedgerError: the file is something else.
        LedgerError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}", "check DB_PATH") from None
    application = int.from_bytes(head[68:72], "big")
    is_ledger = head.startswith(_MAGIC) and application in (0, APPLICATION_ID)
    if head and not is_ledger:
        raise NotALedgerError(
            f"{path} is not a tokendash ledger",
            "name another file by DB_PATH; this one was not touched",
        )


def open_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection; it sees what is committed, also while a daemon writes.

    Raises:
        NotALedgerError: the file is something else.
        LedgerError: there is no ledger, or its folder does not let SQLite read it.
    """
    check_header(path)
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path} yet", "run `tokendash --once` to make it")
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
    try:
        db.execute("PRAGMA busy_timeout=5000")
        db.execute("PRAGMA trusted_schema=OFF")
        if identify(db, str(path)) == 0:
            raise LedgerError(f"the ledger at {path} is still empty", "run `tokendash --once`")
    except sqlite3.Error as error:
        db.close()
        raise LedgerError(
            f"the ledger {path} cannot be read ({error})",
            "SQLite needs to write a -shm file beside it; make the folder writable",
        ) from None
    except BaseException:
        db.close()
        raise
    return db


def open_writer(path: Path) -> sqlite3.Connection:
    """The one read-write connection; the caller holds the lock.

    Raises:
        NotALedgerError, LedgerTooNewError: the file was not touched.
        LedgerError: it cannot be opened.
    """
    check_header(path)
    _create_private(path)
    if path.stat().st_size:
        reader = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            identify(reader, str(path))
        except sqlite3.DatabaseError:
            pass  # what a reader cannot open, the writer's own recovery may; verified after
        finally:
            reader.close()
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        prepare(db)
        migrate(db, identify(db, str(path)))
    except sqlite3.OperationalError as error:
        db.close()
        raise LedgerError(
            f"the ledger {path} cannot be opened ({error})", "check the folder's rights and space"
        ) from error
    except BaseException:
        db.close()
        raise
    return db


def prepare(db: sqlite3.Connection) -> None:
    """Set the pragmas without which a power loss or a second reader can cost data."""
    for pragma in (
        "busy_timeout=5000",
        "journal_mode=WAL",
        "synchronous=FULL",
        "mmap_size=0",
        "trusted_schema=OFF",
        "fullfsync=1",
        "cache_size=-16384",
        "journal_size_limit=16777216",  # what a long reader let the WAL grow to is given back
    ):
        db.execute(f"PRAGMA {pragma}")


def _create_private(path: Path) -> None:
    """Make an empty file of mode 0600 first: -wal and -shm inherit its mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise LedgerError(
            f"the ledger {path} cannot be written: {error.strerror}",
            "make it writable, or name another place by DB_PATH",
        ) from None


def move_aside(path: Path, label: str) -> Path:
    """Rename a ledger and its side files together, never deleting them; return the new name."""
    aside = path.with_name(f"{path.name}.{label}")
    for suffix in SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").replace(f"{aside}{suffix}")
    return aside


class SpareFile:
    """Disk space held back, so that a checkpoint still works when the disk is full."""

    def __init__(self, ledger: Path) -> None:
        self.path = ledger.with_name(ledger.name + ".spare")

    def reserve(self) -> bool:
        """Take the space if it is there; false when it is not."""
        try:
            if self.path.exists() and self.path.stat().st_size >= SPARE_BYTES:
                return True
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, SPARE_BYTES)
            else:
                os.pwrite(fd, b"\0" * SPARE_BYTES, 0)
        except OSError:
            self.release()
            return False
        finally:
            os.close(fd)
        return True

    def release(self) -> None:
        """Give the space back to the disk."""
        with contextlib.suppress(OSError):
            self.path.unlink()
