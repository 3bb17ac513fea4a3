"""Whole trees of logs with known totals: read every way there is, exact to the token."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from collectors.agents.claude_code import ClaudeCodeCollector, ClaudeCodeOptions
from collectors.base import Context
from collectors.ledger.store import Ledger
from tests.bench import make_corpus
from tests.support import reading, reference_scan

# Edge cases of Claude Code's logs, and what a corpus that has one must contain.
EDGES: dict[str, Callable[[Path], bool]] = {
    "stream": lambda root: _has(root, b'"stop_reason":null'),
    "sidechain": lambda root: any(root.rglob("agent-a[0-9a-f]*[0-9a-f].jsonl")),
    "aside": lambda root: any(root.rglob("agent-aside_*.jsonl")),
    "resume": lambda root: _has(root, b'"type":"summary"'),
    "traps": lambda root: _has(root, b'"usage":{"input_tokens":123456'),
    "synthetic": lambda root: _has(root, b'"<synthetic>"'),
    "malformed": lambda root: (
        not all(path.read_bytes().endswith(b"\n") for path in root.rglob("*.jsonl"))
    ),
}
CODEX_EDGES = set(make_corpus.FEATURES) - EDGES.keys()


@dataclass(frozen=True)
class Corpus:
    """A tree of logs, and its totals as its generator knows them."""

    home: Path
    truth: dict[tuple[str, str], tuple[int, ...]]

    @property
    def projects(self) -> Path:
        return self.home / ".claude" / "projects"


def _has(root: Path, text: bytes) -> bool:
    return any(text in path.read_bytes() for path in root.rglob("*.jsonl"))


def _make(folder: Path, *options: str) -> Corpus:
    home = folder / "home"
    arguments = ["--out", str(home), "--agents", "claude", "--jobs", "1", *options]
    assert make_corpus.main(arguments) == 0
    truth = json.loads((home / "truth.json").read_bytes())["agents"]["claude"]
    return Corpus(
        home,
        {
            (day, model): tuple(row[field] for field in make_corpus.FIELDS)
            for day, models in truth["by_day_model"].items()
            for model, row in models.items()
        },
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """50 MB with every edge case."""
    return _make(tmp_path_factory.mktemp("corpus"), "--size-mb", "50")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A few MB with every edge case, for tests that change or copy it."""
    options = ("--size-mb", "6", "--sessions", "45", "--seed", "7")
    return _make(tmp_path_factory.mktemp("corpus"), *options)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = reading.open_ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def test_the_corpus_the_reference_reader_and_the_collector_agree(
    corpus: Corpus, ledger: Ledger
) -> None:
    reading.scan_in(ledger, reading.claude(corpus.home))

    assert sum(row[0] for row in corpus.truth.values()) > 3_000
    assert reading.day_sums(ledger) == corpus.truth
    assert reference_scan.day_sums(corpus.projects) == corpus.truth
    reading.assert_books_balance(ledger)


def test_read_again_cold_or_warm_it_stays_exact(corpus: Corpus, ledger: Ledger) -> None:
    collector = reading.claude(corpus.home)
    reading.scan_in(ledger, collector)

    warm = reading.scan_in(ledger, collector)
    ledger.forget_cursor(collector.name)
    cold = reading.scan_in(ledger, collector)

    assert (warm.points, warm.changed, cold.changed) == (0, 0, 0)
    assert cold.points > 3_000
    assert reading.day_sums(ledger) == corpus.truth


async def test_two_worker_processes_read_it_exactly(corpus: Corpus, ledger: Ledger) -> None:
    collector = reading.claude(corpus.home)

    await reading.pool_in(ledger, collector)

    assert reading.day_sums(ledger) == corpus.truth
    assert collector.changed(collector.listing(), ledger.cursor(collector.name)) == []


def test_every_file_cut_anywhere_and_finished_later_is_exact(
    small: Corpus, ledger: Ledger, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(small.home, tmp_path / "home"))
    random_ = random.Random(11)
    rest = {}
    for path in home.rglob("*.jsonl"):
        content = path.read_bytes()
        cut = random_.randrange(len(content))
        path.write_bytes(content[:cut])
        rest[path] = content[cut:]
    collector = reading.claude(home)
    reading.scan_in(ledger, collector)
    assert reading.day_sums(ledger) == reference_scan.day_sums(home / ".claude" / "projects")
    for path, content in rest.items():
        with path.open("ab") as file:
            file.write(content)

    reading.scan_in(ledger, collector)

    assert reading.day_sums(ledger) == small.truth
    reading.assert_books_balance(ledger)


@pytest.mark.parametrize("seed", [1, 2])
def test_in_any_order_in_small_batches_it_is_exact(
    small: Corpus, seed: int, ledger: Ledger
) -> None:
    class SmallBatches(ClaudeCodeCollector):
        points_per_batch: ClassVar[int] = 50
        files_per_batch: ClassVar[int] = 3

    collector = SmallBatches(context=Context(home=small.home, now=lambda: reading.NOW))
    work = collector.changed(collector.listing(), {})
    random.Random(seed).shuffle(work)

    reading.scan_in(ledger, collector, work)

    assert reading.day_sums(ledger) == small.truth
    reading.assert_books_balance(ledger)


def test_after_the_logs_were_deleted_nothing_is_missing(
    small: Corpus, ledger: Ledger, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(small.home, tmp_path / "home"))
    collector = reading.claude(home)
    reading.scan_in(ledger, collector)
    for path in sorted(home.rglob("*.jsonl"))[::2]:
        path.unlink()

    reading.scan_in(ledger, collector)
    shutil.rmtree(home)
    reading.scan_in(ledger, collector)

    assert reading.day_sums(ledger) == small.truth


def test_a_restored_file_raises_nothing(small: Corpus, ledger: Ledger, tmp_path: Path) -> None:
    home = Path(shutil.copytree(small.home, tmp_path / "home"))
    collector = reading.claude(home)
    reading.scan_in(ledger, collector)
    shutil.rmtree(home)
    reading.scan_in(ledger, collector)
    shutil.copytree(small.home, home)
    for path in list(home.rglob("*.jsonl")):
        path.rename(path.with_name(f"restored-{path.name}"))

    stored = reading.scan_in(ledger, collector)

    assert stored.points > 0
    assert stored.changed == 0
    assert reading.day_sums(ledger) == small.truth


def test_several_markers_are_found_the_plain_way_and_exactly(small: Corpus, ledger: Ledger) -> None:
    class TwoMarkers(ClaudeCodeCollector):
        markers: ClassVar[tuple[bytes, ...]] = (b'"output_tokens"', b'"usage"')

    collector = TwoMarkers(ClaudeCodeOptions(), Context(home=small.home, now=lambda: reading.NOW))

    reading.scan_in(ledger, collector)

    assert reading.day_sums(ledger) == small.truth


@pytest.mark.parametrize("edge", [*EDGES, "plain"])
def test_each_edge_case_alone_is_exact(
    edge: str, ledger: Ledger, tmp_path_factory: pytest.TempPathFactory
) -> None:
    without = ",".join((EDGES.keys() - {edge}) | CODEX_EDGES)
    options = ["--only-plain"] if edge == "plain" else ["--without", without]
    folder = tmp_path_factory.mktemp(edge)
    made = _make(folder, "--size-mb", "10", "--sessions", "45", "--seed", "3", *options)
    found = {name for name, has in EDGES.items() if has(made.home)}
    expected = set() if edge == "plain" else {edge}
    collector = reading.claude(made.home)

    reading.scan_in(ledger, collector)
    resumed = reading.scan_in(ledger, collector)

    assert found == expected
    assert resumed.points == 0
    assert reading.day_sums(ledger) == made.truth
    assert reference_scan.day_sums(made.projects) == made.truth
    shutil.rmtree(folder)
