"""Faults C9 to C16, H6 and H7: files that are none, poisonous lines, values that are no counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors.agents import claude_code, jsonl
from collectors.agents.claude_code import ClaudeCodeCollector
from collectors.agents.claude_stats import ClaudeStatsCollector
from collectors.agents.tail import LogFile
from collectors.base import Context
from collectors.errors import CollectError, FormatError
from collectors.points import Refusal
from tests.faults.test_c_logs import caught, report, response
from tests.support import reading

OUTPUT = 6 + reading.COUNTS.index("output_tokens")
INPUT = 6 + reading.COUNTS.index("input_tokens")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / ".claude" / "projects" / "p" / "s.jsonl"
    path.parent.mkdir(parents=True)
    return path


def read(home: Path) -> tuple[list[tuple[Any, ...]], list[Refusal]]:
    """What counts and what was refused after one scan."""
    collector = reading.claude(home)
    counted = reading.Counted()
    refusals = []
    for batch in collector.scan(collector.changed(collector.listing(), {})):
        counted.add(batch)
        refusals += batch.refusals
    return counted.result(), refusals


def home_of(log: Path) -> Path:
    return log.parents[3]


def outputs(home: Path) -> list[int]:
    return sorted(row[OUTPUT] for row in read(home)[0])


# -- C9: files that are none ----------------------------------------------------------------------


def test_c9_what_is_no_regular_file_is_passed_by_without_waiting(log: Path, tmp_path: Path) -> None:
    folder = log.parent
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.jsonl").write_bytes(response(9, 999))
    log.write_bytes(response(1, 1))
    os.mkfifo(folder / "fifo.jsonl")
    (folder / "folder.jsonl").mkdir()
    (folder / "folder.jsonl" / "inside.jsonl").write_bytes(response(2, 2))
    (folder / "loop").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    (folder / "dangling.jsonl").symlink_to(tmp_path / "nothing")
    (folder / "file.jsonl").symlink_to(outside / "x.jsonl")
    (folder / "away").symlink_to(outside)
    (folder / "device.jsonl").symlink_to("/dev/zero")
    if os.geteuid() == 0:
        os.mknod(folder / "zero.jsonl", 0o20666, os.makedev(1, 5))
    started = time.monotonic()

    found = outputs(home_of(log))

    assert found == [1, 2]
    assert time.monotonic() - started < 1
    report("C9", 9)


@pytest.mark.parametrize("kind", ["gone", "fifo", "folder", "link", "device"])
def test_c9_a_file_that_was_replaced_since_it_was_listed_costs_one_refusal(
    log: Path, tmp_path: Path, kind: str
) -> None:
    other = log.with_name("t.jsonl")
    log.write_bytes(response(1, 1))
    other.write_bytes(response(2, 2))
    collector = reading.claude(home_of(log))
    work = sorted(collector.changed(collector.listing(), {}))
    log.unlink()
    if kind == "fifo":
        os.mkfifo(log)
    elif kind == "folder":
        log.mkdir()
    elif kind == "link":
        log.symlink_to(other)
    elif kind == "device":
        log.symlink_to("/dev/zero")
    started = time.monotonic()

    [batch] = collector.scan(work)

    assert time.monotonic() - started < 1
    assert list(batch.cursor) == [str(other)]
    assert len(batch.points) == 1
    assert len(batch.refusals) == (0 if kind == "gone" else 1)
    assert all(refusal.location == str(log) for refusal in batch.refusals)


def test_c9_a_root_that_is_a_link_is_followed(log: Path, tmp_path: Path) -> None:
    log.write_bytes(response(1, 1))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".claude").symlink_to(home_of(log) / ".claude")

    assert outputs(elsewhere) == [1]


# -- C10: files of others -------------------------------------------------------------------------


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A home that another user can reach, which pytest's own folders are not."""
    home = Path(tempfile.mkdtemp(prefix="tokendash-c10-"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home)


def as_another_user(home: Path) -> tuple[list[str], list[str], list[str]]:
    """Unreadable folders, reasons, and counted names as a user without rights sees them."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            collector = reading.claude(home)
            listing = collector.listing()
            batches = list(collector.scan(collector.changed(listing, {})))
            answer = [
                sorted(Path(path).name for path in listing.unreadable),
                sorted(x.reason for batch in batches for x in batch.refusals),
                sorted(Path(name).name for batch in batches for name in batch.cursor),
            ]
            os.write(sender, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        found = json.loads(pipe.read())
    os.waitpid(child, 0)
    return found[0], found[1], found[2]


def test_c10_unreadable_files_and_folders_are_told_of_and_the_others_go_on(open_home: Path) -> None:
    projects = open_home / ".claude" / "projects"
    for name, mode in (("a", 0o755), ("closed", 0o000), ("listed", 0o744), ("b", 0o755)):
        folder = projects / name
        folder.mkdir(parents=True)
        (folder / f"{name}.jsonl").write_bytes(response(1, 1))
        folder.chmod(mode)
    secret = projects / "a" / "secret.jsonl"
    secret.write_bytes(response(2, 2))
    secret.chmod(0)

    unreadable, reasons, counted = as_another_user(open_home)

    assert unreadable == ["closed", "listed"]
    assert reasons == ["file unreadable: Permission denied"]
    assert counted == ["a.jsonl", "b.jsonl"]
    report("C10", 5)


async def test_c10_a_root_that_cannot_be_read_is_an_error_not_a_zero(open_home: Path) -> None:
    projects = open_home / ".claude" / "projects"
    projects.mkdir(parents=True)
    projects.chmod(0)

    unreadable, reasons, counted = as_another_user(open_home)

    assert (unreadable, reasons, counted) == (["projects"], [], [])


# -- C11: lines without end -----------------------------------------------------------------------

_MEASURE = """
import json, sys
from pathlib import Path
from collectors.agents import tail
tail.LONGEST_LINE = int(sys.argv[2])
from tests.support import reading
collector = reading.claude(Path(sys.argv[1]))
points, refused = 0, []
for batch in collector.scan(collector.changed(collector.listing(), {})):
    points += len(batch.points)
    refused += [(x.reason, x.offset, x.length) for x in batch.refusals]
# Not ru_maxrss: a child inherits that from the process it was forked from.
[peak] = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:")]
print(json.dumps([points, refused, int(peak.split()[1]) // 1024]))
"""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc"
)


def measure(home: Path, longest_line: int = 16 << 20) -> tuple[int, list[Any], int]:
    """Points, refusals and the largest memory in MiB of a process that reads a home."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(home), str(longest_line)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    points, refused, rss = json.loads(done.stdout)
    return points, refused, rss


@pytest.fixture
def long_lines(log: Path) -> Path:
    block = b'"usage":' + b"x" * ((1 << 20) - 8)
    with log.open("wb") as file:
        file.write(response(1, 1))
        for _ in range(100):
            file.write(block)
        file.write(b"\n" + response(2, 2))
        for _ in range(60):
            file.write(block)  # and one that is never finished
    return log


@needs_proc
def test_c11_a_line_of_100_mb_costs_itself_and_little_memory(long_lines: Path) -> None:
    points, refused, rss = measure(home_of(long_lines))

    assert points == 2
    assert refused == [["line longer than 16 MiB", len(response(1, 1)), (100 << 20) + 1]]
    assert rss <= 128
    report("C11", 2, rss_mib=rss)


@needs_proc
def test_c11_catches_a_reader_without_a_limit(long_lines: Path) -> None:
    _, _, rss = measure(home_of(long_lines), 1 << 40)

    assert rss > 128


# -- C12: deep nesting ----------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [100, 900, 5_000, 100_000, 5_000_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_c12_deep_json_costs_one_line(log: Path, depth: int, opening: bytes) -> None:
    closing = (b"]" if opening == b"[" else b"}") * depth
    deep = opening * depth + (b"1" if opening != b"[" else b"") + closing
    line = response(2, 2).replace(b'"S1"', b'"S1","x":' + deep)
    log.write_bytes(response(1, 1) + line + response(3, 3))

    found, refusals = read(home_of(log))

    counted = sorted(row[OUTPUT] for row in found)
    assert counted in ([1, 3], [1, 2, 3])
    assert len(refusals) == 3 - len(counted)
    assert all(x.offset == len(response(1, 1)) for x in refusals)


# -- C13: bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "line", "is_counted"),
    [
        ("nul line", b"\x00" * 100 + b"\n", False),
        ("nul line with the marker", b"\x00" * 100 + b'"usage"\x00\n', False),
        ("nul in a text", response(2, 2).replace(b'"S1"', b'"S\x001"'), False),
        ("nul as an escape", response(2, 2).replace(b'"S1"', b'"S\\u00001"'), True),
        ("no utf-8 in a text we keep", response(2, 2).replace(b'"S1"', b'"S\xff"'), True),
        ("no utf-8 in a text we skip", response(2, 2, x="~").replace(b"~", b"\xc3("), True),
        ("no utf-8 in a model", response(2, 2).replace(b"opus", b"op\xe9s"), True),
        ("surrogate half in a text we keep", response(2, 2, sessionId="\ud800"), True),
        ("surrogate half in a branch", response(2, 2, gitBranch="a\udfff"), True),
        ("surrogate half in a text we skip", response(2, 2, x="\udc00"), True),
        ("surrogate halves in a folder", response(2, 2, cwd="/nowhere/\ud83d"), True),
        ("byte order mark", b"\xef\xbb\xbf" + response(2, 2), True),
        ("crlf", response(2, 2)[:-1] + b"\r\n", True),
        ("lone cr inside", response(2, 2, x="~").replace(b"~", b"a\\rb"), True),
        ("line ends", response(2, 2, x="~").replace(b"~", "\u2028\u0085".encode()), True),
        ("utf-16", response(2, 2)[:-1].decode().encode("utf-16") + b"\n", False),
        ("two on one line", response(2, 2)[:-1] + response(4, 4), False),
        ("cut in the middle", response(2, 2)[:-20] + b"\n", False),
    ],
)  # fmt: skip
async def test_c13_odd_bytes_cost_at_most_their_line(
    log: Path, tmp_path: Path, name: str, line: bytes, is_counted: bool
) -> None:
    log.write_bytes(response(1, 1) + line + response(3, 3))
    ledger = reading.open_ledger(tmp_path / "ledger.db")
    collector = reading.claude(home_of(log))
    pooled = reading.open_ledger(tmp_path / "pooled.db")

    await reading.take_in(ledger, collector)

    rows = ledger.db.execute("SELECT output_tokens FROM record ORDER BY 1").fetchall()
    assert [row[0] for row in rows] == ([1, 2, 3] if is_counted else [1, 3])
    has_marker = b'"usage"' in line
    assert sum(reading.refusals(ledger).values()) == int(has_marker and not is_counted)
    if "surrogate" in name:  # what is stored must also survive the way out of a worker
        await reading.pool_in(pooled, collector)
        assert reading.fingerprint(pooled) == reading.fingerprint(ledger)
    pooled.close()
    ledger.close()


def test_c13_half_characters_in_every_text_can_be_stored(log: Path, tmp_path: Path) -> None:
    half = "\ud800"
    usage = {
        "output_tokens": 2,
        "service_tier": half,
        "speed": half,
        "inference_geo": half,
        "iterations": [
            {"type": half, "output_tokens": 7},
            {"type": "compaction", "model": half, "output_tokens": 3},
        ],
    }
    message = {"id": half, "model": half, "usage": usage}
    log.write_bytes(
        response(1, 1, message=message, requestId=half, uuid=half, cwd=half, gitBranch=half)
    )
    ledger = reading.open_ledger(tmp_path / "ledger.db")

    reading.scan_in(ledger, reading.claude(home_of(log)))

    assert [record["output_tokens"] for record in reading.records(ledger)] == [2, 3]
    ledger.close()


# -- C14: values ----------------------------------------------------------------------------------

_GOOD: list[tuple[str, int]] = [
    ("0", 0),
    ("-0", 0),
    ("12", 12),
    ("12.0", 12),
    ("1.2e1", 12),
    ("-0.0", 0),
    ("null", 0),
    ('"12"', 12),
    ('"0012"', 12),
    ("9007199254740000", 9007199254740000),
]
_BAD = [
    "12.5", "-1", "-1.0", "true", "false", "NaN", "Infinity", "-Infinity", "1e400", "9" * 60,
    "9007199254740993", "9007199254740992.0", "1e16", '"x"', '""', '"-1"', '"1.0"', '" 1"',
    '"1e3"', '"１２"', "[]", "[1]", "{}", '{"a":1}', '"12345678901234567"',
]  # fmt: skip

tokens = st.one_of(
    st.sampled_from([(text, value) for text, value in _GOOD]),
    st.integers(0, 1 << 40).map(lambda n: (str(n), n)),
    st.integers(0, 1 << 40).map(lambda n: (f"{n}.0", n)),
    st.sampled_from([(text, None) for text in _BAD]),
    st.integers(max_value=-1).map(lambda n: (str(n), None)),
    st.integers(min_value=(1 << 53) + 1).map(lambda n: (str(n), None)),
    st.floats(0.001, 1e6).filter(lambda x: not x.is_integer()).map(lambda x: (repr(x), None)),
)


def count_values(home: Path, values: list[tuple[str, int | None]]) -> None:
    log = home / ".claude" / "projects" / "p" / "s.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(
        b"".join(
            response(n, 7).replace(b'"input_tokens": 1', b'"input_tokens": ' + text.encode())
            for n, (text, _) in enumerate(values)
        )
    )

    found, refusals = read(home)

    good = [value for _, value in values if value is not None]
    assert sum(row[INPUT] for row in found) == sum(good)
    assert sum(row[OUTPUT] for row in found) == 7 * len(good)
    assert len(refusals) == len(values) - len(good)
    assert {x.reason for x in refusals} <= {
        "input_tokens is not a count",
        "token count out of range",
    }


@given(values=st.lists(tokens, min_size=1, max_size=30))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_c14_sums_are_exact_and_what_is_no_count_is_refused_by_name(
    tmp_path: Path, values: list[tuple[str, int | None]]
) -> None:
    count_values(tmp_path, values)


def test_c14_every_value_of_the_table_is_what_it_says(tmp_path: Path) -> None:
    for text, value in [*_GOOD, *((text, None) for text in _BAD)]:
        count_values(tmp_path, [("5", 5), (text, value), ("6", 6)])
    report("C14", len(_GOOD) + len(_BAD))


def test_c14_catches_a_reader_that_takes_nonsense_for_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zero(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(claude_code, "count", lambda value, _: value if type(value) is int else 0)

    with caught(zero, monkeypatch):
        count_values(tmp_path, [("5", 5), ("12.5", None)])


# -- C15: times -----------------------------------------------------------------------------------

_LAST = (reading.NOW + timedelta(days=1)).isoformat()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"2026-09-01T10:00:00.000Z"', "2026-09-01T10:00:00+00:00"),
        ('"2026-09-01T12:00:00+02:00"', "2026-09-01T10:00:00+00:00"),
        ('"2026-09-01T10:00:00"', "2026-09-01T10:00:00+00:00"),
        ('"2020-01-01T00:00:00.000Z"', "2020-01-01T00:00:00+00:00"),
        (f'"{_LAST}"', _LAST),
        ('"2019-12-31T23:59:59.999Z"', None),
        ('"2026-09-04T00:00:00.001Z"', None),
        ('"0001-01-01T00:00:00.000Z"', None),
        ('"0001-01-01T00:00:00+14:00"', None),
        ('"9999-12-31T23:59:59.999Z"', None),
        ('"9999-12-31T23:59:59-14:00"', None),
        ('"1970-01-01T00:00:00.000Z"', None),
        ('"2026-02-30T10:00:00.000Z"', None),
        ('"2026-09-01T10:00:60.000Z"', None),
        ('"2026-09-01T25:00:00.000Z"', None),
        ('"2026-09-01T10:00:0x.000Z"', None),
        ('"2026-09-01T10:00:٠٠.000Z"', None),
        ('"yesterday"', None),
        ('""', None),
        ("null", None),
        ("1788264000", None),
        ("1788264000000", None),
        ("true", None),
        ("[]", None),
        ("{}", None),
        ("NaN", None),
    ],
)
def test_c15_a_time_is_taken_as_written_or_the_line_is_refused(
    log: Path, text: str, expected: str | None
) -> None:
    count_time(log, text, expected)


def count_time(log: Path, text: str, expected: str | None) -> None:
    usual = b'"2026-09-01T10:00:00.000Z"'
    log.write_bytes(response(1, 1) + response(2, 2).replace(usual, text.encode()))

    found, refusals = read(home_of(log))

    times = [
        datetime.fromtimestamp(row[2] / 1000, UTC).isoformat() for row in found if row[OUTPUT] == 2
    ]
    assert times == ([] if expected is None else [expected])
    assert len(found) == 1 + len(times)
    assert len(refusals) == 1 - len(times)
    assert all("timestamp" in refusal.reason for refusal in refusals)


def test_c15_a_line_without_a_time_is_refused(log: Path) -> None:
    log.write_bytes(response(1, 1) + response(2, 2).replace(b'"timestamp"', b'"time"'))

    found, [refusal] = read(home_of(log))

    assert [row[OUTPUT] for row in found] == [1]
    assert refusal.reason == "timestamp missing or unreadable"
    report("C15", 27)


def test_c15_catches_a_reader_that_stamps_now(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = jsonl.timestamp_ms

    def lax(text: str, latest_ms: int) -> int:
        try:
            return right(text, latest_ms)
        except FormatError:
            return latest_ms - 86_400_000

    def stamp_now(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(claude_code, "timestamp_ms", lax)

    with caught(stamp_now, monkeypatch):
        count_time(log, '"yesterday"', None)


# -- C16: another format --------------------------------------------------------------------------


def test_c16_the_last_of_two_keys_wins_and_unknown_ones_are_left_alone(log: Path) -> None:
    twice = response(1, 5).replace(b'"output_tokens": 5', b'"output_tokens": 5, "output_tokens": 6')
    log.write_bytes(twice + response(2, 7, new={"usage": {"output_tokens": 9}}, x=[1, None]))

    found, refusals = read(home_of(log))

    assert sorted(row[OUTPUT] for row in found) == [6, 7]
    assert refusals == []


_RENAMED: dict[str, tuple[bytes, bytes]] = {
    "the type of the line": (b'"assistant"', b'"answer"'),
    "the object of the counts": (b'"usage"', b'"token_usage"'),
    "every count": (b"put_tokens", b"put"),
    "the message": (b'"message"', b'"response"'),
    "the time": (b'"timestamp"', b'"at"'),
    "the model": (b'"model"', b'"llm"'),
}


def renamed(change: str, count: int, start: int = 0) -> bytes:
    old, new = _RENAMED[change]
    lines = b"".join(
        response(start + n, 5, stop="~").replace(b'"stop": "~"', b'"stop_reason": null')
        for n in range(count)
    )
    return lines.replace(old, new)


def alarms(refusals: list[Refusal]) -> int:
    return sum(refusal.reason == jsonl.FORMAT_CHANGED for refusal in refusals)


def expect_alarm(log: Path, change: str) -> None:
    log.write_bytes(renamed(change, 60))

    found, refusals = read(home_of(log))

    assert sum(row[OUTPUT] for row in found) == 0
    assert alarms(refusals) == 1


@pytest.mark.parametrize("change", _RENAMED)
def test_c16_a_format_of_which_nothing_is_recognised_raises_the_alarm(
    log: Path, change: str
) -> None:
    expect_alarm(log, change)

    report("C16", 60)


@pytest.mark.parametrize("change", ["the type of the line", "the object of the counts"])
def test_c16_the_alarm_comes_also_when_lines_arrive_one_by_one(log: Path, change: str) -> None:
    log.write_bytes(response(999, 5))
    collector = reading.claude(home_of(log))
    cursor: dict[str, Any] = {}
    seen = []
    for number in range(60):
        for batch in collector.scan(collector.changed(collector.listing(), cursor)):
            cursor |= batch.cursor
            seen += [number] * alarms(batch.refusals)
        with log.open("ab") as file:
            file.write(renamed(change, 1, number))

    assert seen == [50]


def test_c16_what_is_normal_raises_no_alarm(log: Path) -> None:
    log.write_bytes(response(0, 5) + renamed("the type of the line", 200))
    log.with_name("few.jsonl").write_bytes(renamed("the type of the line", 49))
    log.with_name("user.jsonl").write_bytes(b'{"type":"user","message":"text"}\n' * 500)

    _, refusals = read(home_of(log))

    assert alarms(refusals) == 0


def test_c16_catches_a_reader_that_is_never_alarmed(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(jsonl, "UNREAD_LINES", 1 << 40)

    with caught(deaf, monkeypatch):
        expect_alarm(log, "the type of the line")


# -- H6, H7: nothing of what was said is kept -----------------------------------------------------

CANARY = "kanarienvogel"


def canary(number: int) -> str:
    return f"{CANARY}-{number}"


def talkative_home(home: Path) -> None:
    """Logs in which every text that is not named as kept is a canary; keys too."""
    c = canary
    rich = {
        c(1): c(2),
        "parentUuid": c(3),
        "uuid": c(4),
        "agentId": c(5),
        "slug": c(6),
        "version": c(7),
        "requestId": c(8),
        "summary": c(9),
        "toolUseResult": {c(10): c(11), "usage": {c(12): 1, "input_tokens": c(13)}},
        "stated": {"costUSD": c(14)},
        "message": {
            "id": "msg_" + c(15),
            "model": "claude-opus-4-8",
            "role": c(16),
            "stop_reason": c(17),
            "content": [
                {"type": "text", "text": c(18)},
                {"type": "thinking", "thinking": c(19), "signature": c(20)},
                {"type": "tool_use", "name": c(21), "input": {c(22): {"usage": {c(23): c(24)}}}},
            ],
            "usage": {
                "input_tokens": 3,
                "output_tokens": 5,
                c(25): c(26),
                "cache_creation": {"ephemeral_1h_input_tokens": 1, c(27): c(28)},
                "iterations": [{"type": c(29), "output_tokens": 1, c(30): c(31)}],
            },
        },
    }
    bad: list[dict[str, Any]] = []
    number = 40
    for path in (
        ("timestamp",), ("isSidechain",), ("isApiErrorMessage",), ("message",), ("costUSD",),
        ("message", "usage"), ("message", "usage", "input_tokens"),
        ("message", "usage", "output_tokens"), ("message", "usage", "cache_creation"),
        ("message", "usage", "cache_creation", "ephemeral_5m_input_tokens"),
        ("message", "usage", "iterations"), ("message", "usage", "server_tool_use"),
        ("message", "id"), ("message", "model"), ("requestId",), ("uuid",),
    ):  # fmt: skip
        for value in (canary(number), [canary(number)], {canary(number): canary(number)}):
            number += 1
            entry = json.loads(response(number, 5, pad={"usage": 1}))
            place = entry
            for step in path[:-1]:
                place = place.setdefault(step, {})
            place[path[-1]] = value
            if path == ("message", "model") and isinstance(value, str):
                continue  # a model's name is kept
            bad.append(entry)
    lines = [json.loads(response(1, 1)), json.loads(response(2, 2)) | rich, *bad]
    encoded = [json.dumps(line).encode() for line in lines]
    encoded += [
        b'{"type":"assistant","usage":"' + CANARY.encode() + b"-900",
        b'"usage" ' + CANARY.encode() + b"-901",
        b'{"type":"assistant","usage":' + b"[" * 100_000 + CANARY.encode(),
        b'{"type":"assistant","sessionId":"\xff","usage":{},"x":"' + CANARY.encode() + b'-902"}',
        json.dumps({"type": "user", "message": canary(903), "usage": canary(904)}).encode(),
        json.dumps({"type": "progress", "data": {"message": {"type": "assistant",
            "message": {"usage": {"input_tokens": canary(905)}}}}}).encode(),
        json.dumps({"type": canary(906), "usage": {}}).encode(),
    ]  # fmt: skip
    log = home / ".claude" / "projects" / "p" / "s.jsonl"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"\n".join([*encoded, b""]))
    (home / ".claude" / "settings.json").write_text(json.dumps({"cleanupPeriodDays": canary(907)}))
    days: list[Any] = [
        {"date": canary(908), "tokensByModel": {"claude-opus-4-8": 1}},
        {"date": "2026-08-30", "tokensByModel": {"claude-opus-4-8": canary(909)}},
        {"date": "2026-08-29", "tokensByModel": canary(910), canary(911): canary(912)},
        {"date": "2026-08-28", "tokensByModel": {"claude-opus-4-8": 5}},
    ]
    (home / ".claude" / "stats-cache.json").write_text(
        json.dumps(
            {"dailyModelTokens": days, canary(913): canary(914), "longestSession": canary(915)}
        )
    )


def hits(*texts: bytes | str) -> Counter[str]:
    """How often a canary is found, by what it was found in."""
    return Counter(
        text[max(0, at - 40) : at + 40].decode(errors="replace")
        for raw in texts
        for text in [raw if isinstance(raw, bytes) else raw.encode("utf-8", "replace")]
        for at in [text.find(CANARY.encode())]
        if at >= 0
    )


async def stored_texts(home: Path, data: Path) -> tuple[list[bytes], int]:
    """Every byte the ledger wrote while it took in a home, and how many lines were refused."""
    ledger = reading.open_ledger(data / "ledger.db")
    context = Context(home=home, now=lambda: reading.NOW)
    await reading.take_in(ledger, reading.claude(home))
    await reading.take_in(ledger, ClaudeStatsCollector(context=context))
    refused = sum(reading.refusals(ledger).values())
    found = [path.read_bytes() for path in data.iterdir() if path.is_file()]  # -wal is still there
    ledger.close()
    found += [path.read_bytes() for path in data.iterdir() if path.is_file()]
    return found, refused


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


async def expect_silence(home: Path, data: Path) -> None:
    found, refused = await stored_texts(home, data)

    assert refused > 20
    assert sum(map(len, found)) > 10_000
    assert hits(*found) == {}


async def test_h6_no_text_of_a_log_is_stored(tmp_path: Path, data: Path) -> None:
    talkative_home(tmp_path / "home")

    await expect_silence(tmp_path / "home", data)

    report("H6", 100, hits=0)


async def test_h6_catches_a_reader_that_quotes_what_it_refuses(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quote(value: object, name: str) -> int:
        raise FormatError(f"{name} is {value}")

    monkeypatch.setattr(claude_code, "count", quote)
    talkative_home(tmp_path / "home")

    with pytest.raises(AssertionError):
        await expect_silence(tmp_path / "home", data)


async def test_h6_worker_processes_say_nothing_either(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    talkative_home(tmp_path / "home")
    ledger = reading.open_ledger(tmp_path / "ledger.db")

    await reading.pool_in(ledger, reading.claude(tmp_path / "home"))

    printed = capfd.readouterr()
    assert hits(printed.out, printed.err) == {}
    assert sum(reading.refusals(ledger).values()) > 20
    ledger.close()


def test_h7_errors_and_their_tracebacks_name_places_not_contents(tmp_path: Path) -> None:
    talkative_home(tmp_path / "home")
    log = tmp_path / "home" / ".claude" / "projects" / "p" / "s.jsonl"
    collector = ClaudeCodeCollector(context=Context(home=tmp_path, now=lambda: reading.NOW))
    place = LogFile(str(log), 0, 0, 0, str(log.parents[1]))
    said = []
    for line in log.read_bytes().split(b"\n"):
        try:
            collector.parse(line, place)
        except CollectError as error:
            said += [str(error), repr(error), error.hint, *traceback.format_exception(error)]

    assert len(said) > 100
    assert hits(*said) == {}


async def test_h7_a_statistics_file_that_cannot_be_read_is_not_quoted(tmp_path: Path) -> None:
    folder = tmp_path / ".claude"
    folder.mkdir()
    collector = ClaudeStatsCollector(context=Context(home=tmp_path, now=lambda: reading.NOW))
    said = []
    for content in (f"{CANARY}", f'{{"dailyModelTokens":"{CANARY}"}}', f'["{CANARY}"]'):
        (folder / "stats-cache.json").write_text(content)
        try:
            async for _ in collector.read({}):
                pass
        except CollectError as error:
            said += [str(error), repr(error), error.hint, *traceback.format_exception(error)]

    assert said
    assert hits(*said) == {}
