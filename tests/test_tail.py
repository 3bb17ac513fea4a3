"""Reading growing files: nothing lost, nothing twice, whatever happens to a log."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from collectors.agents import tail
from collectors.agents.claude_code import ClaudeCodeCollector
from collectors.agents.tail import LineReader, LogFile, Progress
from collectors.agents.tree import LogTree, list_logs
from collectors.base import Context
from collectors.ledger.store import Ledger
from tests.support import reading

MARKER = b'"usage"'


def log_of(path: Path) -> LogFile:
    info = path.stat()
    return LogFile(str(path), info.st_size, info.st_mtime_ns, info.st_ino, str(path.parent))


def read_all(
    path: Path, position: list[int] | None = None, reader: LineReader | None = None
) -> tuple[list[bytes], Progress]:
    """Lines with the marker after a position, and how far that got."""
    progress = Progress(log_of(path), 1)
    lines = [
        line
        for some in (reader or LineReader([MARKER])).read(log_of(path), position, 1, progress)
        for line, _ in some
    ]
    return lines, progress


def marked(number: int, size: int = 0) -> bytes:
    return b'{"usage":%d,"pad":"%s"}' % (number, b"x" * size)


def test_only_complete_lines_that_hold_the_marker_are_handed_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([b"{}", marked(1), b"", b"text", marked(2), marked(3)]))

    lines, progress = read_all(path)

    assert lines == [marked(1), marked(2)]
    assert progress.offset == path.stat().st_size - len(marked(3))


def test_a_resumed_read_hands_out_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(marked(1) + b"\n" + marked(2)[:5])
    _, first = read_all(path)
    with path.open("ab") as file:
        file.write(marked(2)[5:] + b"\n")

    lines, _ = read_all(path, first.position())

    assert lines == [marked(2)]


@pytest.mark.parametrize("size", [(1 << 20) - 30, 1 << 20, (1 << 20) + 1, 3 << 20, (16 << 20) - 40])
def test_lines_longer_than_the_buffer_are_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([marked(1), marked(2, size), marked(3), marked(4, 70), b""]))
    reader = LineReader([MARKER])

    lines, progress = read_all(path, reader=reader)
    again, _ = read_all(path, reader=reader)

    assert lines == again == [marked(1), marked(2, size), marked(3), marked(4, 70)]
    assert progress.too_long == []


def test_a_line_past_the_limit_is_skipped_and_told_of(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = marked(2, tail.LONGEST_LINE)
    path.write_bytes(b"\n".join([marked(1), long, marked(3), b""]))

    lines, progress = read_all(path)

    assert lines == [marked(1), marked(3)]
    assert progress.too_long == [(len(marked(1)) + 1, len(long) + 1)]
    assert progress.offset == path.stat().st_size


@pytest.mark.parametrize("markers", [[MARKER], [MARKER, b'"pad"'], [b'"none"', MARKER]])
@pytest.mark.parametrize("find", [None, LineReader([])._find], ids=["bytes", "stringzilla"])
def test_every_way_of_finding_finds_the_same_lines(
    tmp_path: Path, markers: list[bytes], find: Any
) -> None:
    path = tmp_path / "a.jsonl"
    wanted = [marked(number, number * 37 % 5000) for number in range(2000)]
    path.write_bytes(b"\n".join(x for line in wanted for x in (b"{}", line, b"")))

    lines, _ = read_all(path, reader=LineReader(markers, find=find))

    assert lines == wanted


def test_without_stringzilla_the_same_is_counted(tmp_path: Path) -> None:
    source = Path(__file__).parent / "fixtures" / "claude-code" / "streamed_message" / "home"
    script = (
        "import sys; sys.modules['stringzilla'] = None\n"
        "from pathlib import Path\n"
        "from collectors.agents import tail\n"
        "from tests.support import reading\n"
        "assert tail._fast_find is None\n"
        "counted = reading.Counted()\n"
        f"counted.scan(reading.claude(Path({str(source)!r})))\n"
        "print(counted.result())\n"
    )
    with_it = reading.Counted()
    with_it.scan(reading.claude(source))

    without = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )

    assert without.stdout.strip() == str(with_it.result())


def test_roots_that_overlap_or_repeat_list_each_file_once(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "x.jsonl").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    roots = [tmp_path / "a", inner, tmp_path / "link", tmp_path / "a" / "."]

    for order in itertools.permutations(map(str, roots)):
        assert [log.path for log in list_logs(order, lambda _: True).files] == [
            str(inner / "x.jsonl")
        ]


def test_a_tree_that_is_looked_at_again_and_again_shows_what_is_there_now(tmp_path: Path) -> None:
    tree = LogTree(lambda name: name.endswith(".jsonl"))
    random_ = random.Random(5)
    root = tmp_path / "root"
    folders = [root, root / "a", root / "a" / "b", root / "c"]
    for _ in range(300):
        folder = random_.choice(folders)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{random_.randrange(4)}.jsonl"
        step = random_.randrange(6)
        if step == 0 and folder != root:
            shutil.rmtree(folder)
        elif step == 1:
            path.unlink(missing_ok=True)
        elif step == 2 and path.exists():
            path.rename(path.with_name("moved.jsonl"))
        else:
            with path.open("ab") as file:
                file.write(b"x")
        if random_.random() < 0.5:  # old enough for the folder to be remembered
            for each in folders:
                if each.exists():
                    os.utime(each, ns=(0, each.stat().st_mtime_ns - 3_000_000_000))

        remembered = tree.look([str(root)])

        assert sorted(remembered.files) == sorted(
            list_logs([str(root)], lambda name: name.endswith(".jsonl")).files
        )
        assert sorted(log.path for log in remembered.files) == sorted(
            str(path) for path in root.rglob("*.jsonl")
        )


def test_an_unchanged_file_is_not_opened_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    log = home / ".claude" / "projects" / "p" / "s.jsonl"
    log.parent.mkdir(parents=True)
    log.write_bytes(record_line("msg_1", 1) + b"half")
    collector = reading.claude(home)
    counted = reading.Counted()
    counted.scan(collector)

    unchanged = collector.changed(collector.listing(), counted.cursor)
    log.touch()
    touched = collector.changed(collector.listing(), counted.cursor)

    assert unchanged == []
    assert [item.path for item, _ in touched] == [str(log)]


def test_a_name_that_is_not_text_is_read_and_remembered(tmp_path: Path) -> None:
    folder = tmp_path / ".claude" / "projects" / "p"
    folder.mkdir(parents=True)
    odd = os.fsencode(folder) + b"/\xff\xfe.jsonl"
    with open(odd, "wb") as file:  # noqa: PTH123 - Path takes no bytes
        file.write(record_line("msg_1", 5) + b'{"usage":\n')
    ledger = reading.open_ledger(tmp_path / "ledger.db")
    collector = reading.claude(tmp_path)

    reading.scan_in(ledger, collector)

    assert [record["output_tokens"] for record in reading.records(ledger)] == [5]
    assert collector.changed(collector.listing(), ledger.cursor(collector.name)) == []
    [(location,)] = ledger.db.execute("SELECT location FROM refused").fetchall()
    assert location.endswith("/\\xff\\xfe.jsonl")
    ledger.close()


async def test_names_that_are_not_text_reach_worker_processes_too(tmp_path: Path) -> None:
    folder = tmp_path / ".claude" / "projects" / "p"
    folder.mkdir(parents=True)
    with open(os.fsencode(folder) + b"/\xff.jsonl", "wb") as file:  # noqa: ASYNC230, PTH123 - Path takes no bytes
        file.write(record_line("msg_1", 5))
    ledger = reading.open_ledger(tmp_path / "ledger.db")
    collector = reading.claude(tmp_path)

    await reading.pool_in(ledger, collector)

    assert [record["output_tokens"] for record in reading.records(ledger)] == [5]
    assert collector.changed(collector.listing(), ledger.cursor(collector.name)) == []
    ledger.close()


def test_a_long_file_that_grew_a_little_needs_no_workers(tmp_path: Path) -> None:
    from collectors.agents.scan import share, unread_bytes

    log = LogFile("/nowhere/a.jsonl", 500 << 20, 0, 1, "/nowhere")
    small = LogFile("/nowhere/b.jsonl", 1000, 0, 2, "/nowhere")

    assert unread_bytes(log, [1, (500 << 20) - 300, 0, 0, 0, 0, 0, 1]) == 300
    assert unread_bytes(log, [1, 600 << 20, 0, 0, 0, 0, 0, 1]) == 500 << 20
    assert unread_bytes(log, None) == 500 << 20
    assert share([(log, None), (small, None)], 2) == [[(log, None)], [(small, None)]]


# -- everything that can happen to a log ----------------------------------------------------------


def record_line(message: str, output: int, pad: int = 0) -> bytes:
    entry = {
        "type": "assistant",
        "sessionId": "S1",
        "cwd": "/nowhere/app",
        "timestamp": "2026-09-01T10:00:00.000Z",
        "requestId": f"req_{message}",
        "message": {
            "id": message,
            "model": "claude-opus-4-8",
            "usage": {"input_tokens": 0, "output_tokens": output},
        },
        "pad": "x" * pad,
    }
    return json.dumps(entry).encode() + b"\n"


class InMemory:
    """What was counted, without a database: fast enough for thousands of histories."""

    def __init__(self, folder: Path) -> None:
        self._counted = reading.Counted()

    def scan(self, collector: ClaudeCodeCollector, *, is_stored: bool) -> None:
        work = collector.changed(collector.listing(), self._counted.cursor)
        for batch in collector.scan(work):
            if is_stored:
                self._counted.add(batch)

    def outputs(self) -> list[int]:
        return sorted(row[6 + reading.COUNTS.index("output_tokens")] for row in self.rows())

    def rows(self) -> list[tuple[Any, ...]]:
        return self._counted.result()

    def close(self) -> None:
        pass


class InLedger(InMemory):
    """The same in a real ledger."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.db"
        self._ledger: Ledger = reading.open_ledger(self._path)

    def scan(self, collector: ClaudeCodeCollector, *, is_stored: bool) -> None:
        work = collector.changed(collector.listing(), self._ledger.cursor(collector.name))
        for batch in collector.scan(work):
            if is_stored:
                reading.commit(self._ledger, collector, batch)
        if not is_stored:  # the process died before its commit and starts again
            self._ledger.close()
            self._ledger = reading.open_ledger(self._path)

    def outputs(self) -> list[int]:
        reading.assert_books_balance(self._ledger)
        return [
            row[0]
            for row in self._ledger.db.execute(
                "SELECT output_tokens FROM record ORDER BY output_tokens"
            )
        ]

    def close(self) -> None:
        self._ledger.close()


class LogHistory(RuleBasedStateMachine):
    """Agents append, resume, rewind and compact; people move, restore and delete."""

    store: ClassVar[type[InMemory]] = InMemory

    def __init__(self) -> None:
        super().__init__()
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(dir=base))
        self.projects = self.folder / ".claude" / "projects" / "p"
        self.projects.mkdir(parents=True)
        self.counted = self.store(self.folder)
        self.collector = reading.claude(self.folder)
        self.number = 0
        self.clock = 1_700_000_000_000_000_000
        self.must: dict[str, int] = {}
        self.may: dict[str, set[int]] = {}
        self.half: dict[int, bytes] = {}

    files = st.integers(0, 2)

    def path(self, index: int) -> Path:
        return self.projects / f"s{index}.jsonl"

    def write(self, index: int, content: bytes, *, append: bool = False) -> None:
        """Write under the same inode, at a later time: the file system's clock may stand still."""
        path = self.path(index)
        with path.open("ab" if append else "wb") as file:
            file.write(content)
        self.clock += 1_000_000
        os.utime(path, ns=(self.clock, self.clock))

    def new_line(self, pad: int = 0) -> bytes:
        """One response; every third is streamed in two lines."""
        self.number += 1
        name = f"msg_{self.number:06}"
        final = 1_000_000 + self.number
        self.may[name] = {final}
        if self.number % 3 == 0:
            self.may[name].add(1)
            return record_line(name, 1, pad) + record_line(name, final, pad)
        return record_line(name, final, pad)

    def lines(self, index: int) -> list[bytes]:
        path = self.path(index)
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    @rule(index=files, count=st.integers(1, 4), pad=st.integers(0, 80), cut=st.integers(0, 60))
    def append(self, index: int, count: int, pad: int, cut: int) -> None:
        new = b"".join(self.new_line(pad) for _ in range(count))
        content = self.half.pop(index, b"") + new
        if cut:
            content, self.half[index] = content[:-cut], content[-cut:]
        self.write(index, content, append=True)

    @rule()
    def scan(self) -> None:
        self.counted.scan(self.collector, is_stored=True)
        for index in range(3):
            for line in self.lines(index):
                try:
                    entry = json.loads(line)
                    name, usage = entry["message"]["id"], entry["message"]["usage"]
                except ValueError:
                    continue
                self.must[name] = max(self.must.get(name, 0), usage["output_tokens"])

    @rule()
    def crash_before_commit(self) -> None:
        self.counted.scan(self.collector, is_stored=False)

    @rule(index=files)
    def rewrite_in_place(self, index: int) -> None:
        size = len(self.lines(index))
        if size:
            self.half.pop(index, None)
            self.write(index, b"".join(self.new_line() for _ in range(size + 2)))

    @rule(index=files)
    def compact_in_place(self, index: int) -> None:
        kept = self.lines(index)[1:]
        if kept:
            self.half.pop(index, None)
            self.write(index, b"\n".join([*kept, b""]))

    @rule(index=files)
    def rewind_in_place(self, index: int) -> None:
        """The beginning stays, the end goes another way, and further than before."""
        lines = self.lines(index)
        if lines:
            self.half.pop(index, None)
            kept = lines[: len(lines) * 2 // 3]
            new = b"".join(self.new_line(5) for _ in range(len(lines) - len(kept) + 3))
            self.write(index, b"".join(line + b"\n" for line in kept) + new)

    @rule(index=files)
    def replace_the_first_line(self, index: int) -> None:
        """Another response of the same length takes the place of the first one."""
        lines = self.lines(index)
        if len(lines) > 2 and index not in self.half:
            pad = len(lines[0]) - len(record_line("msg_000000", 1_000_000)) + 1
            if pad >= 0:
                self.number += 1
                name, output = f"msg_{self.number:06}", 1_000_000 + self.number
                self.may[name] = {output}
                first = record_line(name, output, pad)
                self.write(index, first + b"".join(line + b"\n" for line in lines[1:]))

    @rule(index=files)
    def delete_and_recreate(self, index: int) -> None:
        if self.path(index).exists():
            self.path(index).unlink()
        self.half.pop(index, None)
        self.write(index, b"".join(self.new_line(10) for _ in range(3)))

    @rule(index=files)
    def recreate_on_the_same_inode(self, index: int) -> None:
        if self.path(index).exists():
            self.half.pop(index, None)
            self.write(index, b"".join(self.new_line(10) for _ in range(3)))

    @rule(index=files, other=files)
    def resume_copies_history(self, index: int, other: int) -> None:
        if index != other and not {index, other} & self.half.keys():
            self.write(other, b"".join(x + b"\n" for x in self.lines(index)), append=True)

    @rule(index=files, other=files)
    def rename(self, index: int, other: int) -> None:
        if index != other and self.path(index).exists():
            self.path(index).rename(self.path(other))
            self.half.pop(other, None)
            if index in self.half:
                self.half[other] = self.half.pop(index)

    @invariant()
    def everything_is_counted_once(self) -> None:
        outputs = self.counted.outputs()
        finals = [output for output in outputs if output != 1]
        wanted = {output for output in self.must.values() if output != 1}
        assert len(finals) == len(set(finals)), "counted twice"
        assert wanted <= set(finals), "lost"
        assert set(finals) <= set().union(*self.may.values()), "made up"
        assert len(outputs) >= len(self.must), "lost a call that has only begun"

    def teardown(self) -> None:
        self.counted.close()
        shutil.rmtree(self.folder)


class LogHistoryInLedger(LogHistory):
    """The same with every batch committed to a real ledger."""

    store = InLedger


def run_histories(
    machine: type[LogHistory], examples: int, phases: tuple[Phase, ...] = tuple(Phase)
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(1200)
def test_any_history_of_logs_is_counted_exactly_once(pytestconfig: pytest.Config) -> None:
    examples = 5_000 if pytestconfig.getoption("--soak", default=False) else 200

    run_histories(LogHistory, examples)

    print(json.dumps({"fault": "C1-C6", "n": examples, "lost": 0, "double": 0}))


@pytest.mark.timeout(1200)
def test_any_history_of_logs_is_exact_in_a_real_ledger(pytestconfig: pytest.Config) -> None:
    examples = 500 if pytestconfig.getoption("--soak", default=False) else 15

    run_histories(LogHistoryInLedger, examples)


def _no_head_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tail, "_HEAD_BYTES", 0)


def _no_tail_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tail, "_TAIL_BYTES", 0)


def _offset_before_newline(patch: pytest.MonkeyPatch) -> None:
    right = Progress.position

    def wrong(self: Progress, *, is_final: bool = True) -> list[int]:
        position = right(self, is_final=is_final)
        position[1] = self.size  # past a line that is still being written
        with open(self.log.path, "rb") as file:  # noqa: PTH123 - as the reader does
            file.seek(max(0, self.size - 64))
            position[4] = crc32(file.read(min(64, self.size)))
        return position

    patch.setattr(Progress, "position", wrong)


@pytest.mark.parametrize(
    "mutant",
    [_no_head_check, _no_tail_check, _offset_before_newline],
    ids=["no_head_check", "no_tail_check", "offset_before_newline"],
)
def test_histories_catch_a_reader_that_is_broken_on_purpose(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)

    with pytest.raises(AssertionError, match="lost"):
        run_histories(LogHistory, 1_000, (Phase.generate,))  # found is enough: no shrinking


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".claude" / "projects" / "p").mkdir(parents=True)
    return tmp_path


def test_a_file_rewritten_while_it_is_read_is_read_again(home: Path) -> None:
    path = home / ".claude" / "projects" / "p" / "s.jsonl"
    old = [record_line(f"msg_{n:06}", 10, 400) for n in range(4000)]  # more than two buffers
    new = [record_line(f"new_{n:06}", 10, 500) for n in range(4000)]
    path.write_bytes(b"".join(old))

    class SmallBatches(ClaudeCodeCollector):
        points_per_batch: ClassVar[int] = 1

    collector = SmallBatches(context=Context(home=home, now=lambda: reading.NOW))
    counted = reading.Counted()
    for number, batch in enumerate(collector.scan(collector.changed(collector.listing(), {}))):
        if number == 0:  # the session is rewound to its third line and goes on, under the reader
            with path.open("r+b") as file:
                file.truncate(0)
                file.write(b"".join(old[:3] + new))
        counted.add(batch)
    is_settled = collector.changed(collector.listing(), counted.cursor) == []
    counted.scan(collector)

    assert not is_settled
    assert collector.changed(collector.listing(), counted.cursor) == []
    found = {row[0] for row in counted.result()}
    again = reading.Counted()
    again.scan(collector)
    assert {row[0] for row in again.result()} <= found
    assert len(again.result()) == 4003
