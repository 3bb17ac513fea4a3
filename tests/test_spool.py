"""The spool folder: what quick commands leave is taken in exactly once."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collectors.agents import spool
from collectors.agents.spool import SpoolCollector, drop_limits
from collectors.base import Batch, Context, LimitPoint
from collectors.ledger.store import Ledger, Source
from tests.support.ledgers import NOW, open_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = open_ledger(tmp_path / "ledger.db")
    yield found
    found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def collector(folder: Path) -> SpoolCollector:
    return SpoolCollector(context=Context(spool=folder))


def limit(ratio: float = 0.25, **values: Any) -> LimitPoint:
    given = {"provider": "anthropic", "account": "me", "window": "5h", "timestamp": NOW, **values}
    return LimitPoint(used_ratio=ratio, **given)


def store(ledger: Ledger, collector: SpoolCollector, batch: Batch) -> None:
    ledger.commit("spool", Source.of(collector), batch)


async def take_in(ledger: Ledger, collector: SpoolCollector, *, stop_after: int = 99) -> int:
    """Read and store, as the orchestrator does; the batches that were stored before a stop."""
    stored = 0
    async with aclosing(_agen(collector, ledger)) as batches:
        async for batch in batches:
            store(ledger, collector, batch)
            stored += 1
            if stored == stop_after:
                break
    return stored


def _agen(collector: SpoolCollector, ledger: Ledger) -> Any:
    return collector.read(ledger.cursor("spool"))


def limits(ledger: Ledger) -> list[float]:
    return [float(row[0]) for row in ledger.db.execute("SELECT value FROM snapshot ORDER BY 1")]


def refused(ledger: Ledger) -> list[tuple[str, str]]:
    return ledger.db.execute("SELECT reason, location FROM refused ORDER BY 2").fetchall()


def put(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


# -- leaving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_what_is_left_is_private_whatever_the_umask(folder: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        drop_limits(folder, [limit()])
    finally:
        os.umask(before)

    [path] = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_files_are_taken_in_the_order_they_were_left_in(folder: Path) -> None:
    for number in range(5):
        drop_limits(folder, [limit(number / 10)])

    ratios = [json.loads(path.read_bytes())[0]["used_ratio"] for path in sorted(folder.iterdir())]
    assert ratios == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_a_file_that_cannot_be_finished_leaves_nothing_behind(folder: Path) -> None:
    with pytest.raises(TypeError):
        drop_limits(folder, [object()])  # type: ignore[list-item]

    assert list(folder.iterdir()) == []


# -- taking in -------------------------------------------------------------------------------------


async def test_what_was_left_is_stored_and_gone_and_leaves_no_trace_in_the_cursor(
    ledger: Ledger, collector: SpoolCollector, folder: Path
) -> None:
    resets = datetime(2026, 3, 10, 15, tzinfo=UTC)
    drop_limits(folder, [limit(0.25, resets_at=resets, plan="max5"), limit(0.5, window="7d")])

    await take_in(ledger, collector)

    assert limits(ledger) == [0.25, 0.5]
    assert list(folder.iterdir()) == []
    assert ledger.cursor("spool") == {}
    details = ledger.db.execute("SELECT details FROM snapshot WHERE name='5h'").fetchone()[0]
    assert json.loads(details) == {"plan": "max5", "resets_at_ms": int(resets.timestamp() * 1000)}


async def test_without_a_folder_or_files_there_is_nothing_to_do(
    ledger: Ledger, collector: SpoolCollector, folder: Path
) -> None:
    absent = collector.is_configured()
    folder.mkdir()

    assert (absent, collector.is_configured()) == (False, False)
    assert await take_in(ledger, collector) == 0
    assert SpoolCollector(context=Context()).is_configured() is False


async def test_a_file_that_is_being_written_is_not_taken(
    ledger: Ledger, collector: SpoolCollector, folder: Path
) -> None:
    whole = msgspec.json.encode([limit()])
    part = put(folder, ".1-abc.part", whole[: len(whole) // 2])
    put(folder, "note.txt", whole)

    is_configured = collector.is_configured()
    await take_in(ledger, collector)

    assert not is_configured
    assert limits(ledger) == []
    assert part.exists()


class UnlinksFirst(SpoolCollector):
    """The mutant: the file is removed before its points are stored."""

    async def read(self, cursor: Any) -> AsyncIterator[Batch]:
        for path in self._files():
            batch = spool._take(path)
            path.unlink()
            yield batch


async def crash_everywhere(ledger: Ledger, make: Any, folder: Path) -> tuple[int, int]:
    """Points lost and doubled when a run ends after each of its steps."""
    lost = doubled = 0
    for step in range(8):
        for number in range(3):
            drop_limits(folder, [limit(0.5, account=f"a{step}-{number}")])
        collector = make(context=Context(spool=folder))
        batches = collector.read(ledger.cursor("spool"))
        for _ in range(step // 2):  # a batch and its cursor are stored
            batch = await anext(batches, None)
            if batch is not None:
                store(ledger, collector, batch)
        if step % 2:  # the next one is made, but the process ends before it is stored
            await anext(batches, None)
        await batches.aclose()
        await take_in(ledger, collector)
        found = ledger.db.execute(
            "SELECT count(*) FROM snapshot WHERE account LIKE ?", (f"a{step}-%",)
        ).fetchone()[0]
        lost += max(0, 3 - found)
        doubled += max(0, found - 3)
    return lost, doubled


async def test_a_run_that_ends_anywhere_takes_each_file_in_exactly_once(
    ledger: Ledger, folder: Path
) -> None:
    taken: list[str] = []

    class Watched(SpoolCollector):
        async def read(self, cursor: Any) -> AsyncIterator[Batch]:
            async with aclosing(super().read(cursor)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    taken.extend(p.account for p in batch.points if isinstance(p, LimitPoint))
                    yield batch

    assert await crash_everywhere(ledger, Watched, folder) == (0, 0)
    assert ledger.cursor("spool") == {}
    assert list(folder.iterdir()) == []
    # What was stored once is never offered again; what was only made is.
    assert len(set(taken)) == 24
    assert len(taken) == 24 + 2


async def test_the_crashes_catch_a_file_removed_before_it_is_stored(
    ledger: Ledger, folder: Path
) -> None:
    lost, _ = await crash_everywhere(ledger, UnlinksFirst, folder)

    assert lost > 0


async def test_a_name_that_outlived_its_file_is_forgotten(
    ledger: Ledger, collector: SpoolCollector, folder: Path
) -> None:
    store(ledger, collector, Batch(cursor={f"1-gone{spool.SUFFIX}": True}))
    drop_limits(folder, [limit()])

    await take_in(ledger, collector)

    assert ledger.cursor("spool") == {}


# -- what is not a spool file ----------------------------------------------------------------------

GARBAGE = {
    "not_json": b"{",
    "empty": b"",
    "another_shape": b'{"a": 1}',
    "no_number": b'[{"provider":"p","account":"a","window":"w",'
    b'"timestamp":"2026-03-10T12:00:00Z","used_ratio":"x"}]',
    "not_text": b"\xff\xfe\x00",
    "too_large": b"[" + b" " * (70 << 10) + b"]",
    "deep": b"[" * 60_000,
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_refused_by_name_counted_and_hides_nothing_behind_it(
    ledger: Ledger, collector: SpoolCollector, folder: Path, kind: str
) -> None:
    put(folder, f"0-bad{spool.SUFFIX}", GARBAGE[kind])
    drop_limits(folder, [limit(0.5)])

    await take_in(ledger, collector)

    assert refused(ledger) == [("spool file unreadable", f"0-bad{spool.SUFFIX}")]
    assert limits(ledger) == [0.5]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "values",
    [
        {"used_ratio": -0.1},
        {"used_ratio": 5_000.0},
        {"timestamp": "2026-03-10T12:00:00"},
        {"timestamp": "1970-01-01T00:00:00Z"},
        {"timestamp": "9999-01-01T00:00:00Z"},
        {"resets_at": "9999-01-01T00:00:00Z"},
        {"resets_at": "2026-03-10T12:00:00"},
        {"provider": ""},
        {"window": ""},
    ],
)
async def test_a_limit_that_cannot_be_true_is_refused_and_its_neighbours_are_stored(
    ledger: Ledger, collector: SpoolCollector, folder: Path, values: dict[str, Any]
) -> None:
    good = msgspec.to_builtins(limit(0.75))
    put(folder, f"1{spool.SUFFIX}", json.dumps([{**good, **values}, good]).encode())

    await take_in(ledger, collector)

    assert limits(ledger) == [0.75]
    assert refused(ledger) == [("limit out of range", f"1{spool.SUFFIX}")]


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "socket_name"])
async def test_what_is_not_a_regular_file_neither_hangs_nor_leads_elsewhere(
    ledger: Ledger, collector: SpoolCollector, folder: Path, kind: str
) -> None:
    folder.mkdir()
    path = folder / f"0{spool.SUFFIX}"
    outside = folder.parent / "outside.json"
    outside.write_bytes(msgspec.json.encode([limit(0.9)]))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(outside)
    drop_limits(folder, [limit(0.5)])

    await take_in(ledger, collector)
    await take_in(ledger, collector)

    assert limits(ledger) == [0.5]
    assert refused(ledger) == [("spool file unreadable", path.name)]
    assert outside.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove files from any folder")
async def test_a_file_that_cannot_be_removed_is_still_counted_once(
    ledger: Ledger, collector: SpoolCollector, folder: Path
) -> None:
    drop_limits(folder, [limit(0.5)])
    folder.chmod(0o500)
    try:
        await take_in(ledger, collector)
        await take_in(ledger, collector)
    finally:
        folder.chmod(0o700)

    assert limits(ledger) == [0.5]
