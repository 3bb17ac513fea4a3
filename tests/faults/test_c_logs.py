"""Faults C1 to C8, C17 and C18: what writers, people and time do to log files."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors.agents import jsonl, tail
from collectors.agents.claude_code import ClaudeCodeCollector
from collectors.agents.tail import LineReader, Progress
from collectors.base import Context
from tests.support import reading

Mutant = Callable[[pytest.MonkeyPatch], None]


def response(number: int, output: int = 10, **changes: Any) -> bytes:
    """One line of one response; its output tells it from all others."""
    entry = {
        "type": "assistant",
        "sessionId": "S1",
        "cwd": "/nowhere/app",
        "timestamp": "2026-09-01T10:00:00.000Z",
        "requestId": f"req_{number}",
        "message": {
            "id": f"msg_{number:06}",
            "model": "claude-opus-4-8",
            "usage": {"input_tokens": 1, "output_tokens": output},
        },
        **changes,
    }
    return json.dumps(entry).encode() + b"\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / ".claude" / "projects" / "p" / "s.jsonl"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counter]:
    counter = Counter(tmp_path)
    yield counter
    counter.ledger.close()


class Counter:
    """The collector of one home and the ledger it fills."""

    def __init__(self, home: Path) -> None:
        self.collector = reading.claude(home)
        self.ledger = reading.open_ledger(home / "ledger.db")

    def scan(self) -> int:
        """Take in what is new; how many records there are then."""
        reading.scan_in(self.ledger, self.collector)
        reading.assert_books_balance(self.ledger)
        return len(self.outputs())

    def outputs(self) -> list[int]:
        rows = self.ledger.db.execute("SELECT output_tokens FROM record ORDER BY 1")
        return [row[0] for row in rows]


def report(fault: str, n: int, **figures: object) -> None:
    """One JSON line of evidence."""
    print(json.dumps({"fault": fault, "n": n, "lost": 0, "double": 0, **figures}))


def trust_the_offset(patch: pytest.MonkeyPatch) -> None:
    """Mutant: inode and size alone say where to go on, as many log shippers do it."""

    def resume(fd: int, info: os.stat_result, position: Sequence[int] | None, parser: int) -> int:
        del fd, parser
        if position is None or position[0] != info.st_ino or position[1] > info.st_size:
            return 0
        return position[1]

    patch.setattr(LineReader, "_resume", staticmethod(resume))


def pass_the_half_line(patch: pytest.MonkeyPatch) -> None:
    """Mutant: a last line without its newline counts as read."""
    right = Progress.position

    def position(self: Progress, *, is_final: bool = True) -> list[int]:
        found = right(self, is_final=is_final)
        content = Path(self.log.path).read_bytes()[: self.size]
        return [found[0], len(content), found[2], found[3], crc32(content[-64:]), *found[5:]]

    patch.setattr(Progress, "position", position)


def keep_the_first(patch: pytest.MonkeyPatch) -> None:
    """Mutant: the first line of a response is all there is to it."""
    patch.setattr(jsonl, "absorb", lambda *_: None)


def caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Switch a mutant on, and expect the assertion that catches it."""
    mutant(monkeypatch)
    return pytest.raises(AssertionError)


# -- C1: half lines -------------------------------------------------------------------------------


def grow_in_pieces(log: Path, counted: Counter) -> None:
    content = b"".join(response(n, 100 + n) for n in range(30))
    random_ = random.Random(1)
    while content:
        size = random_.randrange(1, 300)
        with log.open("ab") as file:
            file.write(content[:size])
        content = content[size:]
        if random_.random() < 0.3:  # read, and died before the commit
            work = counted.collector.changed(counted.collector.listing(), {})
            assert len(list(counted.collector.scan(work))) == 1
        counted.scan()
        # Exactly the complete lines are counted, after every single piece.
        complete = log.read_bytes().count(b"\n")
        assert counted.outputs() == [100 + n for n in range(complete)]


def test_c1_a_half_written_line_waits_for_its_newline(log: Path, counted: Counter) -> None:
    grow_in_pieces(log, counted)

    assert counted.outputs() == [100 + n for n in range(30)]
    report("C1", 30)


def test_c1_catches_a_reader_that_passes_half_lines(
    log: Path, counted: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caught(pass_the_half_line, monkeypatch):
        grow_in_pieces(log, counted)


# -- C2 to C6: rotated, truncated, rewritten, recreated, copied -----------------------------------


def test_c2_after_a_rotation_the_rest_and_the_new_file_are_read(
    log: Path, counted: Counter
) -> None:
    log.write_bytes(response(1, 1) + response(2, 2)[:40])
    counted.scan()
    old = log.rename(log.with_name("s.1.jsonl"))
    with old.open("ab") as file:
        file.write(response(2, 2)[40:])
    log.write_bytes(response(3, 3) + response(4, 4) + response(5, 5))

    counted.scan()

    assert counted.outputs() == [1, 2, 3, 4, 5]
    report("C2", 5)


def truncate_and_refill(log: Path, counted: Counter) -> None:
    log.write_bytes(response(1, 1) + response(2, 2))
    counted.scan()
    size = log.stat().st_size
    with log.open("r+b") as file:  # copytruncate: same inode, from nothing to beyond the old size
        file.truncate(0)
        file.write(response(3, 3) + response(4, 4) + response(5, 5))
    assert log.stat().st_size > size

    counted.scan()

    assert counted.outputs() == [1, 2, 3, 4, 5]


def test_c3_a_truncated_file_is_read_from_its_start(log: Path, counted: Counter) -> None:
    truncate_and_refill(log, counted)

    report("C3", 5)


def test_c3_catches_a_reader_that_trusts_its_offset(
    log: Path, counted: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caught(trust_the_offset, monkeypatch):
        truncate_and_refill(log, counted)


def test_c3_a_file_that_shrank_takes_nothing_away(log: Path, counted: Counter) -> None:
    log.write_bytes(response(1, 1) + response(2, 2) + response(3, 3))
    counted.scan()
    log.write_bytes(response(1, 1))

    counted.scan()

    assert counted.outputs() == [1, 2, 3]


def rewind(log: Path, counted: Counter) -> None:
    log.write_bytes(b"".join(response(n, n) for n in range(1, 7)))
    counted.scan()
    with log.open("r+b") as file:  # the beginning stays, the end goes another way
        file.truncate(0)
        file.write(b"".join(response(n, n) for n in (1, 2, 3, 7, 8, 9, 10)))

    counted.scan()

    assert counted.outputs() == list(range(1, 11))


def test_c4_a_rewritten_file_is_read_again_and_what_vanished_stays(
    log: Path, counted: Counter
) -> None:
    rewind(log, counted)

    report("C4", 10)


@pytest.mark.parametrize("check", ["_TAIL_BYTES", "both"])
def test_c4_catches_a_reader_that_does_not_check(
    log: Path, counted: Counter, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    def without(patch: pytest.MonkeyPatch) -> None:
        if check == "both":
            trust_the_offset(patch)
        else:
            patch.setattr(tail, check, 0)

    with caught(without, monkeypatch):
        rewind(log, counted)


def replace_the_first_line(log: Path, counted: Counter) -> None:
    log.write_bytes(b"".join(response(n, n) for n in range(1, 4)))
    counted.scan()
    log.write_bytes(b"".join(response(n, n) for n in (9, 2, 3)))

    counted.scan()

    assert counted.outputs() == [1, 2, 3, 9]


def test_c4_another_beginning_with_the_same_end_is_noticed(log: Path, counted: Counter) -> None:
    replace_the_first_line(log, counted)


def test_c4_catches_a_reader_without_head_check(
    log: Path, counted: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(tail, "_HEAD_BYTES", 0)

    with caught(without, monkeypatch):
        replace_the_first_line(log, counted)


def test_c5_a_recreated_file_is_read_even_under_the_same_inode(log: Path, counted: Counter) -> None:
    names = itertools.count(1)
    inodes = set()
    expected = []
    for _ in range(40):  # file systems hand freed inodes out again; some of these meet that
        numbers = [next(names) for _ in range(3)]
        expected += numbers
        log.write_bytes(b"".join(response(n, n) for n in numbers))
        inodes.add(log.stat().st_ino)
        counted.scan()
        log.unlink()

    assert counted.outputs() == expected
    report("C5", len(expected), inodes=len(inodes))


def test_c6_copied_history_is_counted_once(log: Path, counted: Counter) -> None:
    history = b"".join(response(n, n) for n in range(1, 21))
    log.write_bytes(history)
    counted.scan()
    resumed = log.with_name("resumed.jsonl")
    resumed.write_bytes(history.replace(b'"S1"', b'"S2"') + response(21, 21))
    with log.open("ab") as file:  # a second compaction appends it once more
        file.write(history)

    counted.scan()

    assert counted.outputs() == list(range(1, 22))
    report("C6", 21)


def test_c7_what_was_deleted_stays_and_nothing_is_sent_again(log: Path, counted: Counter) -> None:
    log.write_bytes(b"".join(response(n, n) for n in range(1, 31)))
    counted.scan()
    before = reading.fingerprint(counted.ledger)
    marked = counted.ledger.db.total_changes
    shutil.rmtree(log.parents[1])

    counted.scan()

    assert reading.fingerprint(counted.ledger) == before
    assert counted.ledger.db.total_changes == marked
    report("C7", 30)


# -- C8: snapshots of a streamed response ---------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[bytes, int]]:
    """Lines of several streamed responses in any order, and the final output of each."""
    lines = []
    for number in range(draw(st.integers(1, 5))):
        outputs = sorted(draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=9)))
        has_request = draw(st.sampled_from(["all", "none", "some"]))
        for output in outputs:
            changes: dict[str, Any] = {}
            if has_request == "none" or (has_request == "some" and draw(st.booleans())):
                changes["requestId"] = None
            lines.append((response(number, output, **changes), number))
    return draw(st.permutations(lines))


def count_streams(folder: Path, lines: list[tuple[bytes, int]]) -> None:
    log = folder / ".claude" / "projects" / "p" / "s.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    expected: dict[int, int] = {}
    counted = reading.Counted()
    collector = reading.claude(folder)
    for line, number in lines:
        output = json.loads(line)["message"]["usage"]["output_tokens"]
        expected[number] = max(expected.get(number, 0), output)
    middle = len(lines) // 2
    for part in (lines[:middle], lines[middle:]):
        with log.open("ab") as file:
            file.write(b"".join(line for line, _ in part))
        counted.scan(collector)

    outputs = [row[6 + reading.COUNTS.index("output_tokens")] for row in counted.result()]
    assert sorted(outputs) == sorted(expected.values())


few = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(lines=streams())
@few
def test_c8_snapshots_in_any_order_count_once_with_their_last_value(
    tmp_path: Path, lines: list[tuple[bytes, int]]
) -> None:
    count_streams(tmp_path, lines)


def test_c8_catches_a_reader_that_keeps_the_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [(response(1, 1), 1), (response(1, 159), 1), (response(2, 5), 2), (response(2, 9), 2)]
    count_streams(tmp_path, lines)

    with caught(keep_the_first, monkeypatch):
        count_streams(tmp_path, [*lines[:1], *lines[2:3], *lines[1:2], *lines[3:]] * 2)


# -- C17: many files ------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_c17_an_idle_cycle_over_many_files_opens_none(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    count = 100_000 if pytestconfig.getoption("--soak", default=False) else 5_000
    projects = tmp_path / ".claude" / "projects"
    line = response(1, 1)
    for number in range(count):
        folder = projects / f"p{number // 500}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jsonl").write_bytes(line.replace(b"000001", b"%06d" % number))
    counted = Counter(tmp_path)
    assert counted.scan() == count
    started = time.monotonic()
    cursor = counted.ledger.cursor(counted.collector.name)
    work = counted.collector.changed(counted.collector.listing(), cursor)
    idle_seconds = time.monotonic() - started
    with (projects / "p0" / "7.jsonl").open("ab") as file:
        file.write(response(count, 9))

    changed = counted.collector.changed(counted.collector.listing(), cursor)

    assert work == []
    assert [log.path for log, _ in changed] == [str(projects / "p0" / "7.jsonl")]
    assert idle_seconds < 60e-6 * count + 1
    report("C17", count, idle_seconds=round(idle_seconds, 3))
    counted.ledger.close()


# -- C18: appended while it is read ---------------------------------------------------------------


class OnePointABatch(ClaudeCodeCollector):
    """Hands over after every buffer, so that a test can act in between."""

    points_per_batch: ClassVar[int] = 1


def append_while_reading(log: Path) -> None:
    pad = "x" * 3000
    log.write_bytes(b"".join(response(n, n, pad=pad) for n in range(1, 1001)))  # three buffers
    collector = OnePointABatch(context=Context(home=log.parents[3], now=lambda: reading.NOW))
    counted = reading.Counted()
    appended = 1000
    for batch in collector.scan(collector.changed(collector.listing(), {})):
        counted.add(batch)
        if appended < 1002:  # not after the last one: nothing else says that there is more
            appended += 1
            with log.open("ab") as file:
                file.write(response(appended, appended))
    first_pass = len(counted.result())

    counted.scan(collector)

    assert first_pass == 1000, "read past the size at the start"
    assert len(counted.result()) == appended
    assert appended == 1002


def test_c18_a_pass_ends_where_the_file_ended_when_it_began(log: Path) -> None:
    append_while_reading(log)


def test_c18_catches_a_reader_that_notes_the_size_when_it_is_done(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Progress.position

    def late(self: Progress, *, is_final: bool = True) -> list[int]:
        found = right(self, is_final=is_final)
        info = Path(self.log.path).stat()
        return [*found[:5], info.st_size, info.st_mtime_ns, *found[7:]]

    def note_late(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Progress, "position", late)

    with caught(note_late, monkeypatch):
        append_while_reading(log)


def test_c18_a_writer_at_full_speed_loses_nothing(log: Path, counted: Counter) -> None:
    lines = 20_000
    template = response(123456, 7777777).decode()
    script = (
        "import sys\n"
        "with open(sys.argv[1], 'ab', 777) as file:\n"  # flushed in the middle of lines
        f"    for n in range({lines}):\n"
        f"        line = {template!r}.replace('123456', '%06d' % n)\n"
        "        file.write(line.replace('7777777', str(1000000 + n)).encode())\n"
    )
    passes = behind = 0
    with subprocess.Popen([sys.executable, "-S", "-c", script, str(log)]) as writer:
        while writer.poll() is None:
            counted.scan()
            passes += 1
            for position in counted.ledger.cursor("claude-code").values():
                assert position[1] <= position[5]
                behind = max(behind, log.stat().st_size - position[1])
    assert writer.returncode == 0

    counted.scan()

    assert counted.outputs() == [1_000_000 + n for n in range(lines)]
    assert passes > 1
    report("C18", lines, passes=passes, most_bytes_behind=behind)
