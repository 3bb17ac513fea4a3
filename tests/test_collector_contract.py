"""What every collector promises, over every fixture of every registered collector."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel

from collectors.agents.claude_code import ClaudeCodeCollector
from collectors.agents.jsonl import JsonlCollector
from collectors.base import AnyCollector, Context
from collectors.ledger.store import Ledger
from collectors.registry import collector_types
from tests.support import reading

FIXTURES = Path(__file__).parent / "fixtures"
KINDS, PROBLEMS = collector_types()


@dataclass(frozen=True)
class Case:
    """One fixture of one collector: a home to read and what it holds."""

    kind: type[AnyCollector]
    folder: Path

    @property
    def expected(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "expected.json").read_bytes())
        return found

    def copy_home(self, to: Path) -> Path:
        return Path(shutil.copytree(self.folder / "home", to / "home"))

    def collector(self, home: Path) -> AnyCollector:
        expected = self.expected
        now = datetime.fromisoformat(expected.get("now", reading.NOW.isoformat()))
        context = Context(
            home=home,
            spool=home / "spool",
            now=lambda: now,
            zone=ZoneInfo(expected.get("zone", "UTC")),
        )
        return self.kind(self.kind.options_type(**expected.get("options", {})), context)

    def ledger(self, path: Path) -> Ledger:
        return reading.open_ledger(path, zone=self.expected.get("zone", "UTC"))


CASES = [
    Case(kind, folder)
    for kind in KINDS
    for folder in sorted((FIXTURES / kind.name).glob("*/"))
    if (folder / "home").is_dir()
]
LOG_CASES = [case for case in CASES if issubclass(case.kind, JsonlCollector)]


def _id(value: object) -> str:
    if isinstance(value, Case):
        return f"{value.kind.name}-{value.folder.name}"
    return value.name if isinstance(value, type) and hasattr(value, "name") else str(value)


over_cases = pytest.mark.parametrize("case", CASES, ids=_id)
over_log_cases = pytest.mark.parametrize("case", LOG_CASES, ids=_id)
over_kinds = pytest.mark.parametrize("kind", KINDS, ids=_id)


@pytest.fixture
def ledger(case: Case, tmp_path: Path) -> Iterator[Ledger]:
    opened = case.ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def test_every_registered_collector_can_be_loaded() -> None:
    assert PROBLEMS == []


@over_kinds
def test_a_collector_its_module_and_its_fixtures_have_one_name(kind: type[AnyCollector]) -> None:
    parts = kind.__module__.split(".")

    assert kind.name.replace("-", "_") in parts
    assert any(FIXTURES.joinpath(kind.name).glob("*/expected.json"))


@over_kinds
def test_every_option_is_described(kind: type[AnyCollector]) -> None:
    options: type[BaseModel] = kind.options_type

    for name, field in options.model_fields.items():
        assert field.description, f"{kind.name}: option {name} has no description"
    assert kind.__doc__


@over_cases
async def test_a_fixture_counts_as_worked_out_by_hand(
    case: Case, ledger: Ledger, tmp_path: Path
) -> None:
    expected = case.expected

    await reading.take_in(ledger, case.collector(case.copy_home(tmp_path)))

    found = reading.records(ledger)
    assert found == expected["records"]
    assert (
        expected["total_tokens"]
        == ledger.db.execute(
            "SELECT coalesce(sum(input_tokens + cache_read_tokens + cache_write_tokens"
            " + output_tokens + unsplit_tokens), 0) FROM bucket"
        ).fetchone()[0]
    )
    assert reading.refusals(ledger) == expected.get("refused", {})
    assert reading.limits(ledger) == expected.get("limits", [])
    reading.assert_books_balance(ledger)


@over_cases
async def test_reading_again_changes_nothing(case: Case, ledger: Ledger, tmp_path: Path) -> None:
    collector = case.collector(case.copy_home(tmp_path))
    await reading.take_in(ledger, collector)
    before = reading.fingerprint(ledger), reading.limits(ledger)

    resumed = await reading.take_in(ledger, collector)
    ledger.forget_cursor(collector.name)
    repeated = await reading.take_in(ledger, collector)

    assert resumed.changed == repeated.changed == 0
    assert (reading.fingerprint(ledger), reading.limits(ledger)) == before


def move(home: Path, to: Path) -> Path:
    """Another home, and another name for every log in it."""
    home.rename(to)
    for number, log in enumerate(sorted(to.rglob("*.jsonl"))):
        if log.name != "journal.jsonl":
            log.rename(log.with_name(f"renamed-{number}.jsonl"))
    return to


@over_cases
async def test_keys_name_no_path(case: Case, ledger: Ledger, tmp_path: Path) -> None:
    home = case.copy_home(tmp_path)
    await reading.take_in(ledger, case.collector(home))
    before = reading.fingerprint(ledger)
    moved = move(home, tmp_path / "moved")

    stored = await reading.take_in(ledger, case.collector(moved))

    assert stored.changed == 0
    assert reading.fingerprint(ledger) == before


@over_cases
async def test_what_is_gone_stays_counted(case: Case, ledger: Ledger, tmp_path: Path) -> None:
    home = case.copy_home(tmp_path)
    collector = case.collector(home)
    await reading.take_in(ledger, collector)
    before = reading.fingerprint(ledger)
    await asyncio.to_thread(shutil.rmtree, home)

    await reading.take_in(ledger, collector)

    assert reading.fingerprint(ledger) == before


def cuts(content: bytes, random_: random.Random) -> list[int]:
    """Places to cut a file at: around every line end, and some anywhere."""
    ends = [at for at, byte in enumerate(content) if byte == ord("\n")]
    around = {at + step for at in ends for step in (-1, 0, 1, 2)}
    anywhere = {random_.randrange(len(content)) for _ in range(40)}
    return sorted(cut for cut in around | anywhere if cut < len(content))


@over_log_cases
def test_a_file_cut_at_any_byte_and_read_in_two_steps_counts_the_same(
    case: Case, tmp_path: Path
) -> None:
    home = case.copy_home(tmp_path)
    collector = case.collector(home)
    assert isinstance(collector, JsonlCollector)
    whole = reading.Counted()
    whole.scan(collector)
    random_ = random.Random(case.folder.name)
    wrong = []
    for log in collector.listing().files:
        path = Path(log.path)
        content = path.read_bytes()
        for cut in cuts(content, random_):
            path.write_bytes(content[:cut])
            halves = reading.Counted()
            halves.scan(collector)
            with path.open("ab") as file:
                file.write(content[cut:])
            halves.scan(collector)
            if halves.result() != whole.result():
                wrong.append((path.name, cut))

    assert wrong == []


@over_log_cases
def test_a_ledger_fed_byte_by_byte_counts_the_same(
    case: Case, ledger: Ledger, tmp_path: Path
) -> None:
    home = case.copy_home(tmp_path)
    collector = case.collector(home)
    assert isinstance(collector, JsonlCollector)
    random_ = random.Random(case.folder.name)
    rest = {Path(log.path): Path(log.path).read_bytes() for log in collector.listing().files}
    for path in rest:
        path.write_bytes(b"")
    while any(rest.values()):
        for path, content in rest.items():
            size = random_.randrange(1, 400)
            with path.open("ab") as file:
                file.write(content[:size])
            rest[path] = content[size:]
        reading.scan_in(ledger, collector)

    assert reading.records(ledger) == case.expected["records"]
    reading.assert_books_balance(ledger)


@over_log_cases
@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_files_does_not_matter(
    case: Case, seed: int, ledger: Ledger, tmp_path: Path
) -> None:
    collector = case.collector(case.copy_home(tmp_path))
    assert isinstance(collector, JsonlCollector)
    work = collector.changed(collector.listing(), {})
    random.Random(seed).shuffle(work)

    for item in work:
        reading.scan_in(ledger, collector, [item])

    assert reading.records(ledger) == case.expected["records"]
    reading.assert_books_balance(ledger)


@over_log_cases
def test_stopped_after_any_batch_it_goes_on_where_it_stopped(case: Case, tmp_path: Path) -> None:
    home = case.copy_home(tmp_path)
    expected = case.expected["records"]
    kind = type("OnePointABatch", (case.kind,), {"points_per_batch": 1, "files_per_batch": 1})
    small = Case(kind, case.folder).collector(home)
    assert isinstance(small, JsonlCollector)
    batches = len(list(small.scan(small.changed(small.listing(), {}))))
    for stop in range(batches + 1):
        ledger = case.ledger(tmp_path / f"{stop}.db")
        for number, batch in enumerate(small.scan(small.changed(small.listing(), {}))):
            if number == stop:
                break  # the process died: this batch and its cursor were never stored
            reading.commit(ledger, small, batch)
        ledger.close()
        ledger = case.ledger(tmp_path / f"{stop}.db")

        reading.scan_in(ledger, small)

        assert reading.records(ledger) == expected, f"after {stop} of {batches} batches"
        reading.assert_books_balance(ledger)
        ledger.close()


async def test_worker_processes_read_as_one_process_does(tmp_path: Path) -> None:
    cases = [case for case in LOG_CASES if case.kind is ClaudeCodeCollector]
    folders = []
    for case in cases:
        home = case.copy_home(tmp_path / case.folder.name)
        folders += [str(home / ".claude"), str(home / ".config" / "claude")]
    collector = reading.claude(tmp_path, config_dir=",".join(folders))
    alone = reading.open_ledger(tmp_path / "alone.db")
    pooled = reading.open_ledger(tmp_path / "pooled.db")

    reading.scan_in(alone, collector)
    await reading.pool_in(pooled, collector)

    assert len(reading.fingerprint(alone)) > 30
    assert reading.fingerprint(pooled) == reading.fingerprint(alone)
    assert reading.refusals(pooled) == reading.refusals(alone)
    assert pooled.cursor(collector.name) == alone.cursor(collector.name)
    assert collector.changed(collector.listing(), pooled.cursor(collector.name)) == []
    alone.close()
    pooled.close()
