"""A ledger that outlives its disk's bad moments: what each kind of SQLite error is answered with.

- Input/output error: drop the connection, open and verify again, repeat the call. Every call is
  safe to repeat: records have keys, acknowledgements name revisions.
- Disk full: nothing of the call is stored, reading goes on, the spare file makes room for a
  checkpoint, and calls are refused without trying until there is room again.
- Damage, or a file that is no longer where it was: open again; if it is really so, the ledger is
  rebuilt and the caller told, because a batch read from the old cursor must not be stored into the
  new ledger.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from collectors.base import Batch
from collectors.errors import LedgerError
from collectors.ledger.backup import backup_folder, write_copy
from collectors.ledger.checks import is_damage, is_full, is_io_error
from collectors.ledger.files import SPARE_BYTES, WriterLock
from collectors.ledger.recovery import Opened, Rebuilt, open_checked
from collectors.ledger.store import Ledger, Source, Stored, refusal_of
from collectors.measurements import Row
from collectors.points import Point

T = TypeVar("T")

ATTEMPTS = 3
ROOM_BYTES = SPARE_BYTES + (4 << 20)  # below this a full disk is still full
TOO_LARGE = "sum too large to store"


_UNFIT = (OverflowError, struct.error, sqlite3.IntegrityError, sqlite3.OperationalError)


class LedgerFullError(LedgerError):
    """The disk has no room; nothing was stored, and reading still works."""


class LedgerRebuiltError(LedgerError):
    """The ledger was damaged or gone and is rebuilt: read every source from its cursor again."""

    def __init__(self, rebuilt: Rebuilt) -> None:
        super().__init__(rebuilt.describe(), "nothing to do; the damaged files were kept")
        self.rebuilt = rebuilt


class GuardedLedger:
    """The open ledger of a running program; used on the ledger's thread only."""

    def __init__(
        self,
        path: Path,
        open_ledger: Callable[[WriterLock], Ledger],
        *,
        now: Callable[[], datetime],
        backups: Path | None = None,
    ) -> None:
        self.path = path
        self.is_full = False
        self.reopened = 0  # how often a connection was dropped
        self.notes: list[str] = []
        self.rebuilt: Rebuilt | None = None  # what the last opening had to do
        self._open_ledger = open_ledger
        self._now = now
        self._backups = backups
        self._is_suspect = False
        self._ledger: Ledger | None = self._open().ledger

    @property
    def ledger(self) -> Ledger:
        """The ledger as it is open now; after an error it may be another object than before.

        Raises:
            LedgerError: it could not be opened again yet.
        """
        if self._ledger is None:
            opened = self._open()
            self._ledger = opened.ledger
            if opened.rebuilt is not None:
                raise LedgerRebuiltError(opened.rebuilt)
        return self._ledger

    def close(self) -> None:
        """Close the ledger and give its lock back."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def commit(self, collector: str, source: Source, batch: Batch) -> Stored:
        """Store a batch and its cursor; a point whose sums do not fit is refused, not its batch.

        Raises:
            LedgerFullError: no room; try again later.
            LedgerRebuiltError: read the source again from its cursor.
            LedgerError: two points of one window share a key, or the disk keeps failing.
        """
        try:
            return self.run(lambda ledger: ledger.commit(collector, source, batch))
        except _UNFIT as error:
            if not _does_not_fit(error):
                raise
            return self._commit_rest(collector, source, batch)

    def run(self, call: Callable[[Ledger], T]) -> T:
        """Do something with the ledger that is safe to repeat.

        Raises:
            LedgerFullError: no room; try again later.
            LedgerRebuiltError: what the caller read from the ledger before no longer holds.
            LedgerError: the disk keeps failing.
        """
        self._check_room()
        for attempt in range(1, ATTEMPTS + 1):
            ledger = self.ledger
            if not ledger.is_in_place():
                self._rescue(ledger)
                self._drop(is_suspect=False)
                continue
            try:
                result = call(ledger)
            except (sqlite3.Error, UnicodeDecodeError) as error:
                if is_full(error):
                    self._note_full(ledger)
                    raise LedgerFullError(
                        f"no room is left for the ledger in {self.path.parent}",
                        "make room there; collecting goes on by itself, nothing is lost",
                    ) from error
                if not (is_io_error(error) or is_damage(error)):
                    raise
                self._drop(is_suspect=is_damage(error))
                if attempt == ATTEMPTS:
                    raise LedgerError(
                        f"the ledger {self.path} cannot be read or written ({error})",
                        "check the disk; collecting goes on when it works again",
                    ) from error
            else:
                self._note_room(ledger)
                return result
        raise LedgerError(
            f"the ledger {self.path} keeps being replaced by something else",
            "let only tokendash write there",
        )

    # -- opening ---------------------------------------------------------------------------------

    def _open(self) -> Opened:
        opened = open_checked(
            self.path,
            self._open_ledger,
            now=self._now,
            backups=self._backups,
            is_suspect=self._is_suspect,
        )
        self._is_suspect = False
        self.notes, self.rebuilt = opened.notes, opened.rebuilt
        opened.ledger.spare.reserve()
        return opened

    def _drop(self, *, is_suspect: bool) -> None:
        """Give up the connection: the next use opens, verifies and if need be rebuilds."""
        ledger, self._ledger = self._ledger, None
        self._is_suspect = is_suspect
        self.reopened += 1
        if ledger is not None:
            try:
                ledger.close()
            except sqlite3.Error:
                ledger.lock.release()

    def _rescue(self, ledger: Ledger) -> None:
        """Copy what the open connection still sees of a file whose name is gone, as a backup."""
        folder = self._backups if self._backups is not None else backup_folder(self.path)
        try:
            write_copy(ledger.db, self.path, folder, now=self._now())
        except LedgerError:
            self.notes.append("what was still open of the removed ledger could not be copied")

    # -- room ------------------------------------------------------------------------------------

    def _check_room(self) -> None:
        if self.is_full and shutil.disk_usage(self.path.parent).free < ROOM_BYTES:
            raise LedgerFullError(
                f"no room is left for the ledger in {self.path.parent}",
                "make room there; collecting goes on by itself, nothing is lost",
            )

    def _note_full(self, ledger: Ledger) -> None:
        self.is_full = True
        ledger.spare.release()
        try:
            ledger.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            return  # even the spare file was not enough; what is committed is safe in the -wal
        if shutil.disk_usage(self.path.parent).free >= SPARE_BYTES:
            ledger.spare.reserve()

    def _note_room(self, ledger: Ledger) -> None:
        if self.is_full:
            self.is_full = not ledger.spare.reserve()

    # -- values that do not fit --------------------------------------------------------------------

    def _commit_rest(self, collector: str, source: Source, batch: Batch) -> Stored:
        """Store what fits, in halves, then the cursor with a refusal for each point that does not.

        Killed in between, the cursor has not moved: all is read again, keys make it harmless.
        """
        stored = Stored(points=len(batch.points), skipped=batch.skipped, files=len(batch.cursor))
        refusals = list(batch.refusals)
        todo: list[Sequence[Point]] = [batch.points]
        while todo:
            points = todo.pop()
            part = Batch(points=points, is_checked=batch.is_checked)
            try:
                done = self.run(lambda ledger, part=part: ledger.commit(collector, source, part))  # type: ignore[misc]  # bound now
                stored.changed += done.changed
                stored.skipped += done.skipped
            except _UNFIT as error:
                if not _does_not_fit(error):
                    raise
                if len(points) > 1:
                    middle = len(points) // 2
                    todo += [points[middle:], points[:middle]]
                else:
                    refusals.append(refusal_of(source, points[0], len(refusals), TOO_LARGE))
                    stored.skipped += 1
        rest = Batch(cursor=batch.cursor, refusals=refusals, is_checked=True)
        self.run(lambda ledger: ledger.commit(collector, source, rest))
        return stored


def _does_not_fit(error: BaseException) -> bool:
    """Whether a value, not the disk, was the trouble: SQLite's integers end at 2^63."""
    return not isinstance(error, sqlite3.OperationalError) or "integer overflow" in str(error)


class GuardedOutbox:
    """The outbox of whatever ledger is open now, for a writer that outlives a reopening.

    An answer to rows of a ledger that was rebuilt meanwhile is dropped: its revisions and numbers
    mean something else in the new one, which owes everything anyway.
    """

    def __init__(self, guard: GuardedLedger) -> None:
        self._guard = guard
        self._asked: Ledger | None = None

    def target(self, url: str, org: str, bucket: str) -> int:
        """See `Outbox.target`."""
        return self._guard.run(lambda ledger: ledger.outbox.target(url, org, bucket))

    def due(self, target: int, limit: int, now: float) -> list[Row]:
        """See `Outbox.due`."""

        def ask(ledger: Ledger) -> list[Row]:
            self._asked = ledger
            return ledger.outbox.due(target, limit, now)

        return self._guard.run(ask)

    def acknowledge(self, target: int, rows: Sequence[Row], now: float) -> None:
        """See `Outbox.acknowledge`."""
        self._answer(lambda ledger: ledger.outbox.acknowledge(target, rows, now))

    def refuse(
        self, target: int, rows: Sequence[Row], status: int, message: str, kind: str
    ) -> None:
        """See `Outbox.refuse`."""
        self._answer(lambda ledger: ledger.outbox.refuse(target, rows, status, message, kind))

    def _answer(self, note: Callable[[Ledger], None]) -> None:
        def answer(ledger: Ledger) -> None:
            if ledger is self._asked:
                note(ledger)

        self._guard.run(answer)

    def pending(self, target: int) -> int:
        """See `Outbox.pending`."""
        return self._guard.run(lambda ledger: ledger.outbox.pending(target))
