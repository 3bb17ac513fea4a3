"""Whether a ledger contradicts itself, and what an SQLite error says about it.

SQLite pages carry no checksums: a flipped bit in a number is invisible to its own checks. So every
row has a check of its own, every source has books kept beside its records, and every bucket must
be the sum of its records.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Generator, Iterator
from pathlib import Path

from collectors.ledger import records as r
from collectors.ledger.dimensions import writer_offset
from collectors.ledger.files import is_ours
from collectors.ledger.identity import Identity, read_identity, seed_of, state_of, text_check
from collectors.ledger.schema import BUCKET_COLUMNS, MIGRATIONS, RECORD_COLUMNS, fingerprint

SLICE_ROWS = 20_000
START_ROWS = 100_000  # a ledger up to this size is checked whole before it is used
SHOWN = 20  # problems of one kind that are named; the rest is a number

# Small tables whose every column is in a unique index: comparing both finds any changed byte.
_NAMES = ("series", "tagset", "writer", "context", "tariff", "price", "target")
# Tables with a check over all other columns.
_CHECKED = ("cursor", "snapshot", "variant")

_RECORDS = (
    f"SELECT {','.join(RECORD_COLUMNS)}, id, row_check FROM record WHERE id>? ORDER BY id LIMIT ?"
)
_TERMS = re.split(r",\s*(?=sum\()", r.SUMS_SQL.strip())
_UNEQUAL = (
    f"SELECT start, series FROM (SELECT start, series, {','.join(BUCKET_COLUMNS)} FROM bucket"
    f" UNION ALL SELECT bucket, series, {','.join(f'-{term}' for term in _TERMS)} FROM record"
    " GROUP BY 1, 2) GROUP BY 1, 2 HAVING "
    + " OR ".join(f"sum({name})<>0" for name in BUCKET_COLUMNS)
    + f" LIMIT {SHOWN}"
)


# -- what an error means -------------------------------------------------------------------------


def is_io_error(error: BaseException) -> bool:
    """The disk failed at this moment; a new connection may see a healthy ledger."""
    name = _error_name(error)
    return name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_PROTOCOL"))


def is_full(error: BaseException) -> bool:
    """The disk has no room."""
    return _error_name(error) == "SQLITE_FULL"


def is_damage(error: BaseException) -> bool:
    """What was read cannot be a ledger; one transient read error looks the same."""
    if isinstance(error, UnicodeDecodeError):
        return True  # names in a ledger are text, and so is its schema
    return _error_name(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def is_nonsense(error: BaseException) -> bool:
    """A statement that is always right was not understood: the file's own schema is wrong."""
    return _error_name(error) == "SQLITE_ERROR"


def is_busy(error: BaseException) -> bool:
    """Another connection is in the way; nothing is wrong with the file."""
    return _error_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_INTERRUPT"))


def _error_name(error: BaseException) -> str:
    return getattr(error, "sqlite_errorname", "") if isinstance(error, sqlite3.Error) else ""


# -- verifying -----------------------------------------------------------------------------------


def verify(
    db: sqlite3.Connection, *, is_full_check: bool = False, beside: Identity | None = None
) -> list[str]:
    """Everything that is wrong with a ledger; empty when it can be trusted.

    Raises:
        sqlite3.Error: it could not be read now (busy, input/output error).
    """
    steps = passes(db, is_full_check=is_full_check, beside=beside)
    return [problem for step in steps for problem in step]


def verify_start(db: sqlite3.Connection, beside: Identity | None = None) -> list[str]:
    """What can be verified before the start without a user noticing the wait.

    A large ledger's older rows are left to `passes`, driven while the program runs.

    Raises:
        sqlite3.Error: it could not be read now (busy, input/output error).
    """
    try:
        last = db.execute("SELECT coalesce(max(id), 0) FROM record").fetchone()[0]
    except sqlite3.Error as error:
        return [_explain(error)]
    if last <= START_ROWS:
        return verify(db, is_full_check=True, beside=beside)
    steps = _guarded(db, (_identity(db, beside), _schema(db), _names(db), _newest(db, last)))
    return [problem for step in steps for problem in step]


def passes(
    db: sqlite3.Connection, *, is_full_check: bool = False, beside: Identity | None = None
) -> Generator[list[str], None, None]:
    """The whole verification in steps; each yields its problems.

    Steps over rows take some tens of milliseconds; SQLite's own check and the sums of buckets are
    one long statement each (about 2 s per million records) that lets other threads run.

    Meant for a read-only connection of its own: it sees one moment of the ledger from the first
    step to the last, whatever is written meanwhile. Close the iterator to give that up early.
    `is_full_check` also compares every index with its table; a daily task.

    Raises:
        sqlite3.Error: the ledger could not be read now (busy, input/output error).
    """
    yield from _guarded(
        db,
        (
            _structure(db, "integrity_check" if is_full_check else "quick_check"),
            _identity(db, beside),
            _schema(db),
            _names(db),
            _checked_rows(db),
            _record_rows(db),
            _bucket_sums(db),
        ),
    )


def _guarded(db: sqlite3.Connection, parts: tuple[Iterator[list[str]], ...]) -> Iterator[list[str]]:
    """Run parts over one snapshot; an error that means damage is a problem like any other."""
    own = not db.in_transaction
    try:
        if own:
            db.execute("BEGIN")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != len(MIGRATIONS):
            parts = parts[:1]  # before its migration only the file's structure can be judged
        for part in parts:
            yield from part
    except (sqlite3.Error, UnicodeDecodeError) as error:
        yield [_explain(error)]
    except (TypeError, ValueError, AttributeError) as error:
        # A damaged page gives text or nothing where the table's definition says a number.
        yield [f"a value is of another type than its column ({type(error).__name__})"]
    finally:
        if own and db.in_transaction:
            db.execute("ROLLBACK")


def _explain(error: sqlite3.Error | UnicodeDecodeError) -> str:
    if not (is_damage(error) or is_nonsense(error)):
        raise error
    return f"reading failed: {_error_name(error) or type(error).__name__}"


def _structure(db: sqlite3.Connection, pragma: str) -> Iterator[list[str]]:
    rows = db.execute(f"PRAGMA {pragma}({SHOWN})").fetchall()
    yield [f"{pragma}: {text}" for (text,) in rows if text != "ok"]


def _identity(db: sqlite3.Connection, beside: Identity | None) -> Iterator[list[str]]:
    found = read_identity(db)
    if found is None:
        yield [] if beside is None else ["the ledger has no id, but one was here before"]
    elif beside is not None and found.ledger != beside.ledger:
        yield ["this is not the ledger that was here before (a file or -wal of another one)"]


def _schema(db: sqlite3.Connection) -> Iterator[list[str]]:
    noted = db.execute("SELECT value FROM meta WHERE name='schema'").fetchone()
    is_same = noted is not None and noted[0] == fingerprint(db)
    yield [] if is_same else ["the definitions of the tables are not what they were made as"]


def is_older_copy(db: sqlite3.Connection, beside: Identity | None) -> bool:
    """Whether a ledger is what it was some openings ago: a copy by hand, or its -wal is gone.

    It is sound in itself; logs are read again from where it stood.
    """
    found = read_identity(db)
    if found is None or beside is None or found.ledger != beside.ledger:
        return False
    if found.opens != beside.opens:
        return found.opens < beside.opens
    return bool(beside.closed) and beside.closed != state_of(db)


def _names(db: sqlite3.Connection) -> Iterator[list[str]]:
    problems = []
    for table in _NAMES:
        rows = db.execute(f"PRAGMA integrity_check({table})").fetchall()
        problems += [f"{table}: {text}" for (text,) in rows if text != "ok"]
    problems += [
        f"writer {number} has another offset than its name"
        for number, name, offset in db.execute("SELECT id, uuid, offset_ns FROM writer")
        if offset != writer_offset(name)
    ]
    yield problems


def _checked_rows(db: sqlite3.Connection) -> Iterator[list[str]]:
    seed = _seed(db)
    for table in _CHECKED:
        wrong = 0
        cursor = db.execute(f"SELECT * FROM {table}")
        while rows := cursor.fetchmany(SLICE_ROWS):
            wrong += sum(text_check(seed, *row[:-1]) != row[-1] for row in rows)
            yield []
        yield [f"{table}: {wrong} rows do not match their check"] if wrong else []


def _seed(db: sqlite3.Connection) -> int:
    found = read_identity(db)
    return seed_of(found.ledger) if found else 0


def _newest(db: sqlite3.Connection, last: int) -> Iterator[list[str]]:
    seed = _seed(db)
    rows = db.execute(_RECORDS, (last - SLICE_ROWS, SLICE_ROWS)).fetchall()
    yield _wrong_rows(rows, seed)


def _wrong_rows(rows: list[tuple[int, ...]], seed: int) -> list[str]:
    width = len(RECORD_COLUMNS)
    wrong = [row[width] for row in rows if _is_wrong(row[:width], row[-1], seed)]
    if not wrong:
        return []
    return [f"record: {len(wrong)} rows do not match their check, the first has id {wrong[0]}"]


def _is_wrong(row: tuple[int, ...], check: int, seed: int) -> bool:
    try:
        return r.row_check(row, seed) != check
    except struct.error:
        return True


def _record_rows(db: sqlite3.Connection) -> Iterator[list[str]]:
    seed = _seed(db)
    sources = dict(db.execute("SELECT id, source FROM series").fetchall())
    books: dict[str, list[int]] = {}
    last = -(1 << 62)
    strays = 0
    width = len(RECORD_COLUMNS)
    while rows := db.execute(_RECORDS, (last, SLICE_ROWS)).fetchall():
        problems = _wrong_rows(rows, seed)
        for row in rows:
            source = sources.get(row[r.SERIES])
            if source is None:
                strays += 1
                continue
            book = books.setdefault(source, [0, 0, 0, 0])
            book[0] += 1
            book[1] += r.total_tokens(row)
            book[2] += row[r.COST]
            book[3] += row[-1]
        last = rows[-1][width]
        yield problems
    kept = {
        source: sums
        for source, *sums in db.execute("SELECT source, records, tokens, nano, checks FROM book")
    }
    problems = [
        f"{source}: the books say {kept.get(source)} (records, tokens, nano-dollars, checks),"
        f" the records {books.get(source)}"
        for source in sorted(books.keys() | kept.keys())
        if books.get(source, [0, 0, 0, 0]) != kept.get(source, [0, 0, 0, 0])
    ]
    if strays:
        problems.append(f"record: {strays} rows belong to no series")
    yield problems


def _bucket_sums(db: sqlite3.Connection) -> Iterator[list[str]]:
    rows = db.execute(_UNEQUAL).fetchall()
    if not rows:
        yield []
        return
    more = "at least " if len(rows) == SHOWN else ""
    start, series = rows[0]
    count = f"{more}{len(rows)} are not the sum of their records"
    yield [f"bucket: {count}, the first starts at {start} (series {series})"]


# -- the file and where it lies ------------------------------------------------------------------


def is_cut_off(path: Path) -> bool:
    """Whether a ledger's file is shorter than its first page says; false while a -wal has more."""
    try:
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            return False
        with path.open("rb") as file:
            head = file.read(100)
        size = path.stat().st_size
    except OSError:
        return False
    if not is_ours(head):
        return False  # somebody else's file says nothing about its length in these bytes
    page = int.from_bytes(head[16:18], "big")
    pages = int.from_bytes(head[28:32], "big")
    return size < pages * (65_536 if page == 1 else page)


_SHARED = (
    "9p",
    "virtiofs",
    "nfs",
    "cifs",
    "smb",
    "fuse.",
    "vboxsf",
    "prl_fs",
    "fakeowner",
    "drvfs",
)
_DISTRIBUTED = ("afpfs", "ceph", "glusterfs", "lustre", "gfs2", "ocfs2", "osxfs", "grpcfuse")


def filesystem_warning(path: str, mounts: str) -> str:
    """Why a place is unsafe for a ledger, by a mount table such as /proc/self/mounts; else empty.

    Over a network or into a virtual machine's shared folder, locks and shared memory of two
    kernels do not meet, and SQLite loses data.
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    if kind == "fuse" or kind.startswith(_SHARED + _DISTRIBUTED):
        return (
            f"the ledger is on a shared or network file system ({kind} at {best}):"
            " SQLite can lose data there; name a local disk or a named volume by DB_PATH"
        )
    return ""
