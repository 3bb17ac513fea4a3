"""The ledger's tables, as migrations; each runs in one transaction with the version it makes."""

from __future__ import annotations

import sqlite3
from zlib import crc32

from collectors.errors import LedgerTooNewError, NotALedgerError

APPLICATION_ID = 0x7464_6C31  # "tdl1": tells a ledger from any other SQLite file

# Columns of `record` in the order of its row check; all integers, so a row packs into a checksum.
RECORD_COLUMNS = (
    "family",  # hash of source and key
    "variant",  # hash of what tells calls with one key apart; 0: not known
    "series",
    "bucket",  # start in epoch seconds of the interval it is counted in
    "context",  # session, branch, user
    "tariff",  # attributes that price it
    "timestamp_ms",
    "latest_ms",
    "width",  # seconds; 0: one call
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "unsplit_tokens",
    "requests",
    "web_search_requests",
    "billing",
    "price",  # id in `price`; 0: unpriced
    "cost_nano",
    "savings_nano",
    "stated_nano",  # what the source itself said; -1: nothing
    "flags",
    "parser",
)

# What a bucket sums; money in nano-dollars.
BUCKET_COLUMNS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "unsplit_tokens",
    "unpriced_tokens",
    "requests",
    "web_search_requests",
    "cost_nano",
    "api_equivalent_nano",
    "plan_unknown_nano",
    "savings_nano",
)

# An estimate for a day without records: estimated (4), and not what `prune` made (8).
IS_FILL = "flags & 32"

_SIGNED = {"family", "variant", "savings_nano", "stated_nano"}


def _integers(columns: tuple[str, ...]) -> str:
    return ",\n".join(
        f"  {name} INTEGER NOT NULL" + ("" if name in _SIGNED else f" CHECK({name} >= 0)")
        for name in columns
    )


_FIRST = f"""
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE writer(id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, machine TEXT NOT NULL,
  offset_ns INTEGER NOT NULL CHECK(offset_ns >= 0)) STRICT;
CREATE TABLE tagset(id INTEGER PRIMARY KEY, tags TEXT NOT NULL, writer INTEGER NOT NULL,
  UNIQUE(tags, writer)) STRICT;
CREATE TABLE series(id INTEGER PRIMARY KEY, source TEXT NOT NULL, provider TEXT NOT NULL,
  model TEXT NOT NULL, project TEXT NOT NULL, host TEXT NOT NULL, account TEXT NOT NULL,
  role TEXT NOT NULL, writer INTEGER NOT NULL, tagset INTEGER NOT NULL,
  UNIQUE(source, provider, model, project, host, account, role, writer)) STRICT;
CREATE INDEX series_tagset ON series(tagset);
CREATE TABLE context(id INTEGER PRIMARY KEY, session TEXT NOT NULL, branch TEXT NOT NULL,
  user TEXT NOT NULL, UNIQUE(session, branch, user)) STRICT;
CREATE TABLE tariff(id INTEGER PRIMARY KEY, service_tier TEXT NOT NULL, speed TEXT NOT NULL,
  inference_geo TEXT NOT NULL, batch INTEGER NOT NULL,
  UNIQUE(service_tier, speed, inference_geo, batch)) STRICT;
CREATE TABLE price(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE record(id INTEGER PRIMARY KEY,
{_integers(RECORD_COLUMNS)},
  row_check INTEGER NOT NULL,
  CHECK(timestamp_ms >= 1577836800000), CHECK(cache_write_1h_tokens <= cache_write_tokens),
  CHECK(reasoning_tokens <= output_tokens),
  UNIQUE(family, variant)) STRICT;
CREATE INDEX record_fill ON record(bucket) WHERE {IS_FILL};
CREATE TABLE variant(family INTEGER NOT NULL, variant INTEGER NOT NULL, point BLOB NOT NULL,
  parser INTEGER NOT NULL, row_check INTEGER NOT NULL, PRIMARY KEY(family, variant))
  STRICT, WITHOUT ROWID;
CREATE TABLE folded(family INTEGER NOT NULL, variant INTEGER NOT NULL,
  PRIMARY KEY(family, variant)) STRICT, WITHOUT ROWID;
CREATE TABLE bucket(start INTEGER NOT NULL, series INTEGER NOT NULL,
{_integers(BUCKET_COLUMNS)},
  PRIMARY KEY(start, series)) STRICT, WITHOUT ROWID;
CREATE TABLE book(source TEXT PRIMARY KEY, records INTEGER NOT NULL, tokens INTEGER NOT NULL,
  nano INTEGER NOT NULL, checks INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE target(id INTEGER PRIMARY KEY, url TEXT NOT NULL, org TEXT NOT NULL,
  bucket TEXT NOT NULL, UNIQUE(url, org, bucket)) STRICT;
CREATE TABLE sent(target INTEGER NOT NULL, start INTEGER NOT NULL, measurement INTEGER NOT NULL,
  tagset INTEGER NOT NULL, revision INTEGER NOT NULL, sent_revision INTEGER NOT NULL,
  sent_at REAL, PRIMARY KEY(target, start, measurement, tagset)) STRICT, WITHOUT ROWID;
CREATE INDEX sent_dirty ON sent(target, start) WHERE revision > sent_revision;
CREATE INDEX sent_unconfirmed ON sent(target, sent_at) WHERE sent_at IS NOT NULL;
CREATE TABLE dead(target INTEGER NOT NULL, start INTEGER NOT NULL, measurement INTEGER NOT NULL,
  tagset INTEGER NOT NULL, kind TEXT NOT NULL, status INTEGER NOT NULL, message TEXT NOT NULL,
  refused_at REAL NOT NULL, PRIMARY KEY(target, start, measurement, tagset)) STRICT, WITHOUT ROWID;
CREATE TABLE snapshot(kind TEXT NOT NULL, tagset INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL,
  source TEXT NOT NULL, provider TEXT NOT NULL, account TEXT NOT NULL, name TEXT NOT NULL,
  currency TEXT NOT NULL, value TEXT NOT NULL, details TEXT NOT NULL, row_check INTEGER NOT NULL,
  PRIMARY KEY(kind, tagset, timestamp_ms)) STRICT, WITHOUT ROWID;
CREATE TABLE billed(source TEXT NOT NULL, provider TEXT NOT NULL, account TEXT NOT NULL,
  start INTEGER NOT NULL, width INTEGER NOT NULL, item TEXT NOT NULL, currency TEXT NOT NULL,
  nano INTEGER NOT NULL, PRIMARY KEY(source, provider, account, start, width, item, currency))
  STRICT, WITHOUT ROWID;
CREATE TABLE cursor(source TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
  row_check INTEGER NOT NULL, PRIMARY KEY(source, name)) STRICT, WITHOUT ROWID;
CREATE TABLE run(id INTEGER PRIMARY KEY, collector TEXT NOT NULL, started_at REAL NOT NULL,
  seconds REAL NOT NULL, points INTEGER NOT NULL, changed INTEGER NOT NULL,
  skipped INTEGER NOT NULL, error TEXT NOT NULL, hint TEXT NOT NULL) STRICT;
CREATE INDEX run_collector ON run(collector, id);
CREATE TABLE refused(source TEXT NOT NULL, location TEXT NOT NULL, offset INTEGER NOT NULL,
  length INTEGER NOT NULL, reason TEXT NOT NULL, refused_at REAL NOT NULL,
  PRIMARY KEY(source, location, offset, reason)) STRICT, WITHOUT ROWID;
CREATE TABLE price_change(changed_at REAL NOT NULL, book TEXT NOT NULL) STRICT;
CREATE TABLE setting_change(changed_at REAL NOT NULL, name TEXT NOT NULL, old TEXT NOT NULL,
  new TEXT NOT NULL) STRICT;
"""

MIGRATIONS = (_FIRST,)


def identify(db: sqlite3.Connection, path: str) -> int:
    """The schema version of an opened file; 0 for an empty one.

    Raises:
        NotALedgerError: the file is something else.
        LedgerTooNewError: a newer tokendash wrote it.
    """
    try:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        application: int = db.execute("PRAGMA application_id").fetchone()[0]
        tables: int = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB":
            raise _not_a_ledger(path) from None
        raise
    if application != APPLICATION_ID and (tables or version or application):
        raise _not_a_ledger(path)
    if version > len(MIGRATIONS):
        raise LedgerTooNewError(
            f"{path} was written by a newer tokendash"
            f" (schema {version}, this one knows {len(MIGRATIONS)})",
            "upgrade tokendash, or name another file by DB_PATH",
        )
    return version


def _not_a_ledger(path: str) -> NotALedgerError:
    return NotALedgerError(
        f"{path} is not a tokendash ledger",
        "name another file by DB_PATH; this one was not touched",
    )


def fingerprint(db: sqlite3.Connection) -> str:
    """A checksum over the text of every table and index: readers do not mind a damaged CHECK."""
    rows = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")
    return str(crc32(repr(rows.fetchall()).encode()))


def migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring an opened ledger from `version` to the newest schema; all or nothing."""
    if version == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for script in MIGRATIONS[version:]:
            for statement in script.split(";\n"):
                if statement.strip():
                    db.execute(statement)
        db.execute("INSERT OR REPLACE INTO meta VALUES('schema', ?)", (fingerprint(db),))
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
