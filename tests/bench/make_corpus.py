# ruff: noqa: E501 - lines of other tools' logs are long, and are easier to compare in one piece
"""Write a deterministic, realistic tree of coding-agent logs plus the exact expected totals.

Usage
-----
    python3 make_corpus.py --out DIR --size-mb 50 [--agents claude,codex] [--days 60]
                           [--sessions N] [--seed 1] [--end 2026-06-30] [--jobs 2]
                           [--claude-share 0.6] [--without fork,spawn,...] [--only-plain]
                           [--big-file-mb 700]

Standard library only.  The same options always give byte-identical files and truth, whatever
--jobs is: every session is generated from its own seed.

What is written
---------------
DIR/.claude/projects/<encoded-cwd>/<session-uuid>.jsonl           main Claude Code transcripts
DIR/.claude/projects/<encoded-cwd>/<session-uuid>/subagents/agent-*.jsonl   sub-agent transcripts
DIR/.codex/sessions/YYYY/MM/DD/rollout-<time>-<uuid>.jsonl        Codex rollouts
DIR/.codex/archived_sessions/rollout-<time>-<uuid>.jsonl          a few archived rollouts
DIR/truth.json                                                    exact expected totals
So HOME=DIR, or CLAUDE_CONFIG_DIR=DIR/.claude together with CODEX_HOME=DIR/.codex, points a tool at it.

Shape and proportions
---------------------
* File sizes follow the percentiles of a published profile of one real log tree (3,142 files,
  1,239 MiB: p50 105 kB, p75 234 kB, p90 654 kB, p95 1.5 MB, p99 5.4 MB, max 87 MB), scaled so that
  the sum is --size-mb.  --sessions sets the number of main sessions instead (sizes scale).
* Most bytes are tool results (kilobytes to tens of kilobytes, present twice in a Claude line, as in
  real logs), thinking blocks with signatures, file snapshots and progress lines.  Usage-bearing
  lines are 55-60 % of Claude lines and a quarter to a third of Claude bytes (about 2.4 lines per
  request, 15 kB of log per request); Codex token_count lines are 10-15 % of Codex bytes (1.8 events
  per request, 10 kB of log per request).  `shape` in truth.json has the measured figures.
* Text is code-like (many escapes) and has non-ASCII: accents, CJK, emoji, U+2028 and U+0085 inside
  strings (so splitting decoded text on Unicode line breaks is wrong; split bytes on \\n).

Edge cases (all on by default; switch off with --without a,b or all with --only-plain)
-------------------------------------------------------------------------------------
stream     One API response is several lines (one per content block) with the same message.id and
           requestId; output_tokens is a small partial figure first and final on the last line.
sidechain  Sub-agent transcripts in <session>/subagents/, and in older versions the same messages
           again inside the parent's "progress" lines (data.message.message, same ids; some of the
           streamed lines only; the inner isSidechain is there in one version and missing in another).
aside      Side-question transcripts that replay parent messages: same message.id, other requestId,
           isSidechain true.  They must not count; the session's own new side answers do.
resume     A new file with another session id whose beginning is a copy of an earlier session's lines
           (same message ids, request ids and timestamps), then new turns.
traps      Usage-like data that must not count: toolUseResult.usage of a Task result, an unescaped
           "usage" object inside a tool input, pasted log lines inside a tool result (escaped), and
           assistant lines whose tool input has null fields (these DO count).
synthetic  "<synthetic>" error messages with all-zero usage (not a request).
malformed  Truncated copies of lines, an unfinished last line, blank lines, NUL runs, non-object JSON.
repeats    Codex re-emits token_count with an unchanged cumulative total and a new timestamp.
null_info  Codex token_count with info null (rate limits only).
total_only Codex sessions of older versions: total_token_usage without last_token_usage.
reset      Codex sessions whose cumulative total starts again from zero in the middle.
fork       A Codex file that begins with a copy of the parent's lines, original timestamps.
spawn      A Codex sub-agent file: two session_meta lines, then the parent's history replayed with all
           timestamps inside the second of the spawn; cumulative totals continue from the parent's.
archived   A few Codex rollouts live under archived_sessions/.
--big-file-mb N adds one Claude file whose only content is a file-history-snapshot line of N MiB
(files of 700 MB and more of that kind have been reported); it has no usage and must not cost memory.

Rules behind truth.json
-----------------------
Claude: one request per (message.id, requestId); when lines disagree, the one with the largest token
sum wins, which is the last streamed line; a line with isSidechain true whose message.id was already
produced by a non-sidechain line is a replay and does not count; "<synthetic>" does not count; a line
that is not complete JSON does not count.  All lines of one response are on one UTC day.
  input        = input_tokens            (never includes cache)
  output       = output_tokens           (includes thinking)
  cache_read   = cache_read_input_tokens
  cache_write_5m / cache_write_1h = cache_creation.ephemeral_*; without that object the whole of
                 cache_creation_input_tokens is 5m
  reasoning    = output_tokens_details.thinking_tokens when given, else 0
Codex: per event, the growth of info.total_token_usage; an event whose total did not move is a repeat;
a total that went down is a new baseline (growth = the new total); history copied from a parent file
(fork, spawn) counts once, in the parent.
  input        = input_tokens - cached_input_tokens   (Codex's input_tokens includes cached)
  cache_read   = cached_input_tokens
  output       = output_tokens           (includes reasoning)
  reasoning    = reasoning_output_tokens
  requests     = events whose total moved
Days are UTC days of the counted line.  truth["agents"][agent]["by_day_model"][day][model] has the
fields above plus requests; "by_model" and "total" are sums of it.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import multiprocessing
import os
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

Spec = dict[str, Any]  # one session to write, or what the command line asks for
Shape = dict[str, int]
Rows = dict[tuple[str, str], list[int]]

FEATURES = (
    "stream",
    "sidechain",
    "aside",
    "resume",
    "traps",
    "synthetic",
    "malformed",
    "repeats",
    "null_info",
    "total_only",
    "reset",
    "fork",
    "spawn",
    "archived",
)
FIELDS = (
    "requests",
    "input",
    "output",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "reasoning",
)

# (cumulative share of files, bytes): percentiles of a real tree, see the docstring.
SIZE_PROFILE = (
    (0.0, 2_000),
    (0.5, 105_267),
    (0.75, 233_572),
    (0.9, 653_972),
    (0.95, 1_504_757),
    (0.99, 5_383_751),
    (1.0, 87_033_471),
)

CLAUDE_MAIN = (
    ("claude-opus-4-5-20251101", 30),
    ("claude-sonnet-4-5-20250929", 35),
    ("claude-opus-4-6", 20),
    ("claude-sonnet-4-20250514", 10),
    ("claude-opus-4-1-20250805", 5),
)
CLAUDE_SUB = (("claude-haiku-4-5-20251001", 55), ("claude-sonnet-4-5-20250929", 45))
CODEX_MODELS = (("gpt-5.2-codex", 40), ("gpt-5.3-codex", 35), ("gpt-5-codex", 15), ("gpt-5.2", 10))
PROJECTS = (
    "/home/dev/src/shop-api",
    "/home/dev/src/shop-web",
    "/home/dev/work/data.pipeline",
    "/home/dev/work/infra_tools",
    "/home/dev/src/mobile app",
    "/home/dev/notes",
    "/home/dev/src/compiler",
    "/home/dev/src/étude",
    "/srv/repos/billing",
    "/srv/repos/ml-lab",
    "/home/dev/src/game-engine",
    "/home/dev/src/website",
)
B62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
B64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
WORDS = [
    "request",
    "buffer",
    "parse",
    "token",
    "stream",
    "config",
    "handler",
    "result",
    "index",
    "cache",
    "session",
    "value",
    "error",
    "update",
    "user",
    "model",
    "query",
    "update_state",
    "render",
    "commit",
    "branch",
    "merge",
    "worker",
    "queue",
    "retry",
    "timeout",
    "schema",
    "column",
    "table",
    "insert",
    "select",
    "panel",
    "series",
    "metric",
    "alert",
    "window",
    "delta",
    "total",
    "usage",
    "cost",
    "provider",
    "account",
    "balance",
    "limit",
    "reset",
    "point",
    "bucket",
    "write",
    "read",
    "flush",
    "batch",
    "offset",
    "ledger",
]
EXOTIC = (
    "naïve café",
    "日本語のテキスト",
    "Привет",
    "emoji 🚀✅",
    "zero\u2028width",
    "nel\u0085mark",
    "Größe",
    "数据库",
)


def esc(text: str) -> str:
    """JSON-escape without the surrounding quotes; non-ASCII stays raw, as both agents write it."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class Pool:
    """Pre-escaped text blocks shared by all sessions; built once per process from a fixed seed."""

    def __init__(self, seed: str) -> None:
        rng = random.Random(f"pool-{seed}")
        self.results = [
            esc(self._code(rng, self._lognormal(rng, 1500, 1.25, 60_000))) for _ in range(700)
        ]
        self.results.sort(key=len)
        self.small = [esc(self._prose(rng, rng.randint(30, 400))) for _ in range(400)]
        self.prose = [
            esc(self._prose(rng, self._lognormal(rng, 500, 0.8, 4000))) for _ in range(300)
        ]
        self.think = [
            esc(self._prose(rng, self._lognormal(rng, 900, 0.8, 6000))) for _ in range(300)
        ]
        self.edits = [
            esc(self._code(rng, self._lognormal(rng, 700, 1.1, 20_000))) for _ in range(300)
        ]
        self.sigs = [
            "".join(rng.choices(B64, k=self._lognormal(rng, 700, 0.6, 4000))) for _ in range(80)
        ]
        self.crypt = [
            "".join(rng.choices(B64, k=self._lognormal(rng, 1800, 0.6, 9000))) for _ in range(80)
        ]
        self.images = ["".join(rng.choices(B64, k=rng.randint(60_000, 240_000))) for _ in range(3)]
        self.base_instructions = esc(self._prose(rng, 9000))
        pasted = "\n".join(
            json.dumps(
                {
                    "type": "assistant",
                    "requestId": "req_pasted",
                    "timestamp": "2026-01-01T00:00:00.000Z",
                    "message": {
                        "id": "msg_pasted",
                        "model": "claude-opus-4-6",
                        "usage": {"input_tokens": 999_999, "output_tokens": 999_999},
                    },
                },
                separators=(",", ":"),
            )
            for _ in range(5)
        )
        pasted += '\n{"type":"event_msg","payload":{"type":"token_count","info":{"total_token_usage":{"input_tokens":9}}}}'
        self.pasted = esc(pasted)

    @staticmethod
    def _lognormal(rng: random.Random, median: float, sigma: float, cap: int) -> int:
        return int(min(cap, max(20, median * math.exp(rng.gauss(0, sigma)))))

    @staticmethod
    def _prose(rng: random.Random, size: int) -> str:
        out: list[str] = []
        n = 0
        while n < size:
            w = rng.choice(EXOTIC) if rng.random() < 0.01 else rng.choice(WORDS)
            if rng.random() < 0.04:
                w += ".\n\n"
            elif rng.random() < 0.03:
                w = f'"{w}"'
            out.append(w)
            n += len(w) + 1
        return " ".join(out)

    @staticmethod
    def _code(rng: random.Random, size: int) -> str:
        out: list[str] = []
        n = line = 0
        while n < size:
            line += 1
            a, b, c = rng.choice(WORDS), rng.choice(WORDS), rng.choice(WORDS)
            kind = rng.randrange(7)
            if kind == 0:
                s = f'{line:6d}\u2192    def {a}_{b}(self, {c}: str = "{b}") -> None:'
            elif kind == 1:
                s = f'        {a} = self.{b}["{c}"] if {b} else {rng.randint(0, 9999)}'
            elif kind == 2:
                s = f'        logger.info("{a} {b}: %s\\n", {c})'
            elif kind == 3:
                s = f"src/{a}/{b}_{c}.py:{rng.randint(1, 900)}:    return {{'{a}': {b}, \"{c}\": {rng.random():.4f}}}"
            elif kind == 4:
                s = f"        # {a} {b} {rng.choice(EXOTIC) if rng.random() < 0.1 else c}"
            elif kind == 5:
                s = f"\t{a}.{b}({c}, \"{a}/{b}\", '\\\\{c}')"
            else:
                s = ""
            out.append(s)
            n += len(s) + 1
        return "\n".join(out)

    def result(self, rng: random.Random) -> str:
        return self.results[rng.randrange(len(self.results))]


@cache
def pool(seed: str) -> Pool:
    return Pool(seed)


def pick(rng: random.Random, table: Sequence[tuple[str, int]]) -> str:
    return rng.choices([name for name, _ in table], [weight for _, weight in table])[0]


def uuid4(rng: random.Random) -> str:
    h = f"{rng.getrandbits(128):032x}"
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"


def uuid7(rng: random.Random, ms: int) -> str:
    h = f"{ms:012x}{rng.getrandbits(80):020x}"
    return f"{h[:8]}-{h[8:12]}-7{h[13:16]}-b{h[17:20]}-{h[20:]}"


def b62(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(B62, k=n))


def iso(ms: int) -> str:
    d = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{d:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def day_of(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%d}"


DAY_MS = 86_400_000


class Truth:
    def __init__(self) -> None:
        self.rows: Rows = {}
        self.shape = {"files": 0, "bytes": 0, "lines": 0, "usage_lines": 0, "usage_bytes": 0}

    def add(self, ms: int, model: str, **kw: int) -> None:
        row = self.rows.setdefault((day_of(ms), model), [0] * len(FIELDS))
        row[0] += 1
        for i, f in enumerate(FIELDS[1:], 1):
            row[i] += kw.get(f, 0)


class EndOfCopyError(Exception):
    """Raised when a copied history has reached its share of the parent's bytes."""


class Sink:
    """Collects one file's lines and writes them at once in blocks; counts shape."""

    limit = 0  # > 0 while a parent's history is being copied: the cut is at a line, as in real resumed files

    def __init__(self, path: Path, truth: Truth) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.truth, self.size, self.pending = path, truth, 0, 0
        self.buf: list[bytes] = []
        self.fh = path.open("wb")
        truth.shape["files"] += 1

    def put(self, line: str, usage: bool = False, end: str = "\n") -> bytes:
        if self.limit and self.size >= self.limit:
            raise EndOfCopyError
        raw = (line + end).encode("utf-8")
        self.buf.append(raw)
        self.size += len(raw)
        self.pending += len(raw)
        s = self.truth.shape
        s["lines"] += 1
        s["bytes"] += len(raw)
        if usage:
            s["usage_lines"] += 1
            s["usage_bytes"] += len(raw)
        if self.pending > 4 << 20:
            self.flush()
        return raw

    def flush(self) -> None:
        self.fh.write(b"".join(self.buf))
        self.buf.clear()
        self.pending = 0

    def close(self, mtime_ms: int) -> None:
        self.flush()
        self.fh.close()
        os.utime(self.path, (mtime_ms / 1000, mtime_ms / 1000))


class NullSink(Sink):
    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0

    def put(self, line: str, usage: bool = False, end: str = "\n") -> bytes:
        self.size += len((line + end).encode("utf-8"))
        return b""

    def close(self, mtime_ms: int) -> None:
        pass


# --------------------------------------------------------------------------- Claude Code


class ClaudeSession:
    """Generates one session; `replay_bytes` re-creates the head of the parent for resumed sessions."""

    def __init__(self, spec: Spec, cfg: Spec, truth: Truth) -> None:
        self.spec, self.cfg, self.truth = spec, cfg, truth
        self.p = pool(cfg["seed"])
        self.on = cfg["features"].__contains__

    # One transcript (main or sub-agent).  `count` false = a copy whose usage belongs elsewhere.
    def run(self) -> None:
        spec = self.spec
        path = Path(self.cfg["out"], ".claude", "projects", spec["dir"], spec["sid"] + ".jsonl")
        sink = Sink(path, self.truth)
        parent = spec.get("parent")
        resumed = 0
        if parent:
            sink.put(
                f'{{"type":"summary","summary":"{self.p.small[spec["n"] % 400][:120].split(chr(92))[0]}",'
                f'"leafUuid":"{parent["sid"]}"}}'
            )
            head = Transcript(self, sink, random.Random(parent["seed"]), parent, spec["sid"], False)
            sink.limit = int(parent["bytes"] * spec["copy_share"])
            try:
                head.main_loop(sys.maxsize)
            except EndOfCopyError:
                sink.limit = 0
            resumed = head.now + 600_000
        t = Transcript(self, sink, random.Random(spec["seed"]), spec, spec["sid"], True)
        t.now = max(t.now, resumed)
        t.main_loop(sink.size + spec["bytes"])
        if self.on("malformed") and spec["n"] % 9 == 0:
            sink.put(
                f'{{"parentUuid":"{spec["sid"]}","isSidechain":false,"cwd":"/x","message":{{"model":"claude-opus-4-6","id":"msg_cut",'
                '"usage":{"input_tokens":77,"output_tokens":77',
                end="",
            )
        sink.close(t.now)


class Transcript:
    def __init__(
        self,
        owner: ClaudeSession,
        sink: Sink,
        rng: random.Random,
        spec: Spec,
        sid: str,
        count: bool,
        sidechain: str | None = None,
        model: str | None = None,
        start: int | None = None,
    ) -> None:
        self.o, self.sink, self.rng, self.spec, self.sid, self.count = (
            owner,
            sink,
            rng,
            spec,
            sid,
            count,
        )
        self.p, self.on = owner.p, owner.on
        self.side = sidechain
        self.now = start if start is not None else spec["start"]
        style = random.Random(spec["seed"] + "-style")
        self.version = style.choice(("1.0.128", "2.0.42", "2.0.76", "2.1.19", "2.1.63", "2.1.90"))
        self.old = self.version.startswith("1.")
        self.new = self.version in ("2.1.63", "2.1.90")
        self.hour_cache = style.random() < 0.4
        self.mixed_cache = style.random() < 0.1
        self.branch = style.choice(("main", "feature/usage-panels", "fix-123", "HEAD"))
        self.cwd = spec["cwd"]
        self.model = model or spec["model"]
        self.context = rng.randint(12_000, 24_000)
        self.cached = 0
        self.parent_uuid = "null"
        self.recent: list[
            tuple[str, Spec, str]
        ] = []  # for aside replays: (message id, usage, text)
        self.prefix_tail = (
            f'"isSidechain":{"true" if sidechain else "false"},"userType":"external","cwd":"{esc(self.cwd)}",'
            f'"sessionId":"{sid}","version":"{self.version}","gitBranch":"{self.branch}"'
            + (f',"agentId":"{sidechain}"' if sidechain else "")
        )

    def head(self) -> str:
        return f'{{"parentUuid":{self.parent_uuid},{self.prefix_tail}'

    def chain(self) -> str:
        u = uuid4(self.rng)
        self.parent_uuid = f'"{u}"'
        return u

    def tick(self, lo: int, hi: int) -> None:
        self.now += self.rng.randint(lo, hi)

    def main_loop(self, until: int) -> None:
        rng, sink = self.rng, self.sink
        while sink.size < until:
            self.user_prompt()
            if rng.random() < 0.5:
                self.snapshot()
            for _ in range(min(40, 1 + int(rng.expovariate(1 / 7)))):
                self.request(last=False)
                if sink.size >= until:
                    break
            self.request(last=True)
            if rng.random() < 0.3:
                sink.put(
                    f'{self.head()},"type":"system","subtype":"turn_duration","durationMs":{rng.randint(2000, 400000)},'
                    f'"timestamp":"{iso(self.now)}","uuid":"{self.chain()}","isMeta":false}}'
                )
            if self.on("synthetic") and rng.random() < 0.02:
                self.synthetic()
            if self.on("malformed") and rng.random() < 0.02:
                sink.put(
                    rng.choice(("", "null", "[1,2]", "\x00" * 64, '{"type":"user","message":'))
                )
            if self.context > 150_000:
                self.compact()
            self.tick(20_000, 900_000)
            if rng.random() < 0.03:
                self.tick(3_600_000, 50_000_000)
        if (
            self.on("aside")
            and self.side is None
            and self.count
            and self.spec["n"] % 30 == 7
            and self.recent
        ):
            self.aside()

    def user_prompt(self) -> None:
        rng = self.rng
        text = rng.choice(self.p.prose if rng.random() < 0.3 else self.p.small)
        h = self.head()
        self.sink.put(
            f'{h},"type":"user","message":{{"role":"user","content":"{text}"}},"uuid":"{self.chain()}",'
            f'"timestamp":"{iso(self.now)}","thinkingMetadata":{{"level":"high","disabled":false,"triggers":[]}}}}'
        )
        self.context += len(text) // 4
        self.tick(800, 6000)

    def snapshot(self) -> None:
        rng = self.rng
        mid = uuid4(rng)
        files = ",".join(
            f'"src/{rng.choice(WORDS)}/{rng.choice(WORDS)}_{i}.py":{{"backupFileName":"{rng.getrandbits(64):016x}@v{rng.randint(1, 9)}",'
            f'"version":{rng.randint(1, 9)},"backupTime":"{iso(self.now)}"}}'
            for i in range(rng.randint(0, 18))
        )
        self.sink.put(
            f'{{"type":"file-history-snapshot","messageId":"{mid}","snapshot":{{"messageId":"{mid}",'
            f'"trackedFileBackups":{{{files}}},"timestamp":"{iso(self.now)}"}},"isSnapshotUpdate":false}}'
        )

    def usage_json(self, u: Spec, out: int) -> str:
        w5, w1 = u["cache_write_5m"], u["cache_write_1h"]
        s = (
            f'"input_tokens":{u["input"]},"cache_creation_input_tokens":{w5 + w1},'
            f'"cache_read_input_tokens":{u["cache_read"]},'
        )
        split = f'"cache_creation":{{"ephemeral_5m_input_tokens":{w5},"ephemeral_1h_input_tokens":{w1}}}'
        if not self.old:
            s += split + ","
        s += f'"output_tokens":{out},"service_tier":"standard"'
        if self.new:
            think = min(u["reasoning"], out)
            s += (
                f',"inference_geo":"not_available","server_tool_use":{{"web_search_requests":{u["web"]},"web_fetch_requests":0}},'
                f'"output_tokens_details":{{"thinking_tokens":{think}}},'
                f'"iterations":[{{"input_tokens":{u["input"]},"output_tokens":{out},"cache_read_input_tokens":{u["cache_read"]},'
                f'"cache_creation_input_tokens":{w5 + w1},{split},"type":"message"}}],"speed":"standard"'
            )
        return s

    def request(self, last: bool) -> None:  # noqa: C901 - one response, from prompt to last line
        rng, p, sink = self.rng, self.p, self.sink
        self.tick(1500, 25_000)
        if DAY_MS - self.now % DAY_MS < 90_000:  # one response stays on one UTC day
            self.now += 100_000
        if self.side is None and rng.random() < 0.004:
            self.model = pick(rng, CLAUDE_MAIN)
        mid, rid = "msg_01" + b62(rng, 22), "req_011" + b62(rng, 21)
        blocks: list[tuple[str, int, str | None]] = []
        thinks = 0
        if rng.random() < 0.35:
            t = rng.choice(p.think)
            thinks = len(t) // 4
            blocks.append(
                (
                    f'{{"type":"thinking","thinking":"{t}","signature":"{rng.choice(p.sigs)}"}}',
                    thinks,
                    None,
                )
            )
        if last or rng.random() < 0.4:
            t = rng.choice(p.prose)
            blocks.append((f'{{"type":"text","text":"{t}"}}', len(t) // 4, None))
        tools = []
        if not last:
            for _ in range(rng.choices((1, 2, 3), (78, 17, 5))[0]):
                tid = "toolu_01" + b62(rng, 22)
                kind = rng.choices(
                    ("Bash", "Read", "Edit", "Grep", "Task", "Mcp"),
                    (34, 28, 20, 12, 2 if self.side is None else 0, 4),
                )[0]
                body, tok = self.tool_input(kind)
                blocks.append(
                    (f'{{"type":"tool_use","id":"{tid}","name":"{kind}","input":{body}}}', tok, tid)
                )
                tools.append((tid, kind))
        write = max(0, self.context - self.cached) if self.cached else self.context
        if rng.random() < 0.02:  # cache expired
            write, self.cached = self.context, 0
        inp = rng.randint(1, 12)
        w5, w1 = (0, write) if self.hour_cache else (write, 0)
        if self.old:
            w5, w1 = write, 0
        elif self.mixed_cache and write > 10:
            w5 = write // 3
            w1 = write - w5
        u = {
            "input": inp,
            "cache_read": self.cached,
            "cache_write_5m": w5,
            "cache_write_1h": w1,
            "reasoning": thinks if self.new else 0,
            "web": 1 if rng.random() < 0.01 else 0,
        }
        out = sum(b[1] for b in blocks) + rng.randint(3, 40)
        self.cached = self.context
        self.context += out
        extra = ',"stop_details":null' if self.new else ""
        if not self.on("stream"):
            blocks = [(",".join(b[0] for b in blocks), out, None)]
        partial = rng.randint(1, 8)
        stamp = self.now
        for i, (body, tok, _) in enumerate(blocks):
            final = i == len(blocks) - 1
            n_out = out if final else partial
            if not final:
                partial = min(out - 1 if out > 1 else out, partial + rng.choice((0, 0, tok)))
            stamp = self.now
            stop = '"tool_use"' if tools else '"end_turn"'
            msg = (
                f'{{"model":"{self.model}","id":"{mid}","type":"message","role":"assistant","content":[{body}],'
                f'"stop_reason":{stop if final else "null"},"stop_sequence":null{extra},"usage":{{{self.usage_json(u, n_out)}}}'
                + (',"context_management":null' if self.new else "")
                + "}"
            )
            h = self.head()
            line = f'{h},"message":{msg},"requestId":"{rid}","type":"assistant","uuid":"{self.chain()}","timestamp":"{iso(self.now)}"}}'
            if self.on("malformed") and rng.random() < 0.0015:
                sink.put(line[: int(len(line) * 0.97)])
            sink.put(line, usage=True)
            if self.progress is not None and rng.random() < 0.7:
                self.progress.put(
                    self.progress_head()
                    + f',"data":{{"type":"agent_progress","prompt":"","agentId":"{self.side}","message":'
                    f'{{"type":"assistant",{self.progress_side}"timestamp":"{iso(self.now)}","message":{msg},"requestId":"{rid}","uuid":"{uuid4(rng)}"}}}},'
                    f'"toolUseID":"agent_{mid}","timestamp":"{iso(self.now)}","uuid":"{uuid4(rng)}"}}',
                    usage=True,
                )
            self.tick(100, 2500)
        if self.count:
            self.o.truth.add(
                stamp,
                self.model,
                input=inp,
                output=out,
                cache_read=u["cache_read"],
                cache_write_5m=w5,
                cache_write_1h=w1,
                reasoning=min(u["reasoning"], out),
            )
            if self.side is None and len(self.recent) < 12:
                self.recent.append((mid, dict(u, out=out), self.model))
        for tid, kind in tools:
            self.tool_result(tid, kind)

    progress: Sink | None = None
    progress_head_text = ""
    progress_side = ""

    def progress_head(self) -> str:
        return self.progress_head_text

    def tool_input(self, kind: str) -> tuple[str, int]:
        rng, p = self.rng, self.p
        if kind == "Bash":
            t = rng.choice(p.small)
            return f'{{"command":"{t}","description":"run it","timeout":120000}}', len(t) // 4 + 20
        if kind == "Edit":
            a, b = rng.choice(p.edits), rng.choice(p.edits)
            return (
                f'{{"file_path":"{esc(self.cwd)}/src/{rng.choice(WORDS)}.py","old_string":"{a}","new_string":"{b}"}}',
                (len(a) + len(b)) // 4,
            )
        if kind == "Task":
            t = rng.choice(p.prose)
            return (
                f'{{"description":"look into it","subagent_type":"Explore","prompt":"{t}"}}',
                len(t) // 4,
            )
        if kind == "Mcp":
            if self.on("traps"):
                r = rng.random()
                if r < 0.15:
                    return (
                        '{"query":"x","filter":{"id":null,"model":null},"usage":{"input_tokens":5,"output_tokens":5}}',
                        40,
                    )
                if r < 0.5:
                    return (
                        '{"usage":{"input_tokens":123456,"output_tokens":654321,"cache_read_input_tokens":1},"id":"abc"}',
                        40,
                    )
            return '{"query":"select 1","limit":10}', 20
        return (
            f'{{"pattern":"{rng.choice(WORDS)}","path":"{esc(self.cwd)}/src/{rng.choice(WORDS)}.py"}}',
            40,
        )

    def tool_result(self, tid: str, kind: str) -> None:
        rng, p, sink = self.rng, self.p, self.sink
        self.tick(50, 20_000)
        text = p.result(rng)
        if self.on("traps") and rng.random() < 0.004:
            text = p.pasted
        if kind == "Bash":
            extra = f'{{"stdout":"{text}","stderr":"","interrupted":false,"isImage":false}}'
        elif kind == "Read":
            if rng.random() < 0.008:
                img = rng.choice(p.images)
                h = self.head()
                sink.put(
                    f'{h},"type":"user","message":{{"role":"user","content":[{{"tool_use_id":"{tid}","type":"tool_result","content":'
                    f'[{{"type":"image","source":{{"type":"base64","data":"{img}","media_type":"image/png"}}}}]}}]}},"uuid":"{self.chain()}",'
                    f'"timestamp":"{iso(self.now)}","toolUseResult":{{"type":"image","file":{{"base64":"{img}","type":"image/png"}}}}}}'
                )
                self.context += 1500
                return
            extra = (
                f'{{"type":"text","file":{{"filePath":"{esc(self.cwd)}/src/a.py","content":"{text}","numLines":{rng.randint(5, 900)},'
                f'"startLine":1,"totalLines":{rng.randint(5, 2000)}}}}}'
            )
        elif kind == "Edit":
            a, orig = rng.choice(p.edits), p.result(rng)
            text = rng.choice(p.small)
            extra = (
                f'{{"filePath":"{esc(self.cwd)}/src/a.py","oldString":"{a}","newString":"{a}","originalFile":"{orig}",'
                f'"structuredPatch":[{{"oldStart":1,"oldLines":3,"newStart":1,"newLines":3,"lines":["{a}"]}}],"userModified":false,"replaceAll":false}}'
            )
        elif kind == "Task":
            agent = f"{rng.getrandbits(28):07x}"
            seed = f"{self.spec['seed']}-{agent}"
            tot = rng.randint(4000, 90_000)
            if self.on("sidechain") and self.sink.size < self.spec["bytes"] * 4:
                self.subagent(agent, seed)
            text = rng.choice(p.prose)
            usage = (
                (
                    f',"usage":{{"input_tokens":{rng.randint(1, 9)},"cache_creation_input_tokens":{tot // 9},"cache_read_input_tokens":{tot},'
                    f'"cache_creation":{{"ephemeral_5m_input_tokens":{tot // 9},"ephemeral_1h_input_tokens":0}},"output_tokens":{rng.randint(50, 900)},'
                    f'"service_tier":"standard"}}'
                )
                if self.on("traps")
                else ""
            )
            extra = (
                f'{{"status":"completed","prompt":"x","agentId":"{agent}","content":[{{"type":"text","text":"{text}"}}],'
                f'"totalDurationMs":{rng.randint(9000, 300000)},"totalTokens":{tot},"totalToolUseCount":{rng.randint(1, 40)}{usage}}}'
            )
        else:
            extra = f'{{"mode":"content","numFiles":0,"filenames":[],"content":"{text}","numLines":{rng.randint(1, 300)}}}'
        h = self.head()
        sink.put(
            f'{h},"type":"user","message":{{"role":"user","content":[{{"tool_use_id":"{tid}","type":"tool_result","content":"{text}","is_error":false}}]}},'
            f'"uuid":"{self.chain()}","timestamp":"{iso(self.now)}","toolUseResult":{extra}}}'
        )
        self.context += len(text) // 4
        if rng.random() < 0.08:
            sink.put(
                f'{self.head()},"type":"progress","data":{{"type":"hook_progress","hookEvent":"PostToolUse","hookName":"PostToolUse:{kind}","command":"callback"}},'
                f'"toolUseID":"{tid}","parentToolUseID":"{tid}","timestamp":"{iso(self.now)}","uuid":"{self.chain()}"}}'
            )

    def subagent(self, agent: str, seed: str) -> None:
        """A sub-agent transcript of its own; when this transcript is a copy, only advance the clock."""
        rng = random.Random(seed)
        model = pick(rng, CLAUDE_SUB)
        n = rng.randint(2, 14)
        path = self.sink.path.parent / self.sid / "subagents" / f"agent-a{agent}.jsonl"
        # A copied history copies the parent's lines (progress included) but not the sub-agent's own file.
        sub_sink = Sink(path, self.o.truth) if self.count else NullSink(path)
        t = Transcript(
            self.o,
            sub_sink,
            rng,
            self.spec,
            self.sid,
            self.count,
            sidechain=f"a{agent}",
            model=model,
            start=self.now,
        )
        if self.version in ("2.0.76", "2.1.19"):
            t.progress = self.sink
            t.progress_head_text = self.head() + ',"type":"progress"'
            t.progress_side = '"isSidechain":true,' if self.version == "2.1.19" else ""
        t.user_prompt()
        for _ in range(n):
            t.request(last=False)
        t.request(last=True)
        sub_sink.close(t.now)
        self.tick(30_000, 40_000)

    def synthetic(self) -> None:
        h = self.head()
        self.sink.put(
            f'{h},"message":{{"id":"{uuid4(self.rng)}","container":null,"model":"<synthetic>","role":"assistant","stop_reason":"stop_sequence",'
            f'"stop_sequence":"","type":"message","usage":{{"input_tokens":0,"output_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,'
            f'"server_tool_use":{{"web_search_requests":0}},"service_tier":null}},"content":[{{"type":"text","text":"API Error: 529 overloaded"}}]}},'
            f'"type":"assistant","uuid":"{self.chain()}","timestamp":"{iso(self.now)}","isApiErrorMessage":true}}',
            usage=True,
        )

    def compact(self) -> None:
        rng = self.rng
        self.sink.put(
            f'{self.head()},"type":"system","subtype":"compact_boundary","content":"Conversation compacted","isMeta":false,"timestamp":"{iso(self.now)}",'
            f'"uuid":"{self.chain()}","level":"info","compactMetadata":{{"trigger":"auto","preTokens":{self.context}}}}}'
        )
        text = "".join(rng.choice(self.p.prose) for _ in range(12))
        self.sink.put(
            f'{self.head()},"type":"user","message":{{"role":"user","content":"{text}"}},"isVisibleInTranscriptOnly":true,"isCompactSummary":true,'
            f'"uuid":"{self.chain()}","timestamp":"{iso(self.now)}"}}'
        )
        self.context = rng.randint(18_000, 30_000)
        self.cached = 0

    def aside(self) -> None:
        """Side question: replays of parent responses (must not count) plus one new answer (counts)."""
        rng = self.rng
        agent = f"aside_question-{rng.getrandbits(40):010x}"
        path = self.sink.path.parent / self.sid / "subagents" / f"agent-{agent}.jsonl"
        s = Sink(path, self.o.truth)
        t = Transcript(
            self.o,
            s,
            rng,
            self.spec,
            self.sid,
            True,
            sidechain=agent,
            model=self.model,
            start=self.now,
        )
        for mid, u, model in self.recent:
            s.put(
                f'{t.head()},"message":{{"model":"{model}","id":"{mid}","type":"message","role":"assistant","content":[{{"type":"text","text":"replayed"}}],'
                f'"stop_reason":"end_turn","stop_sequence":null,"usage":{{{t.usage_json(u, u["out"])}}}}},"requestId":"req_011{b62(rng, 21)}","type":"assistant",'
                f'"uuid":"{t.chain()}","timestamp":"{iso(t.now)}"}}',
                usage=True,
            )
            t.tick(1, 5)
        t.request(last=True)
        s.close(t.now)


# --------------------------------------------------------------------------- Codex


class CodexSession:
    def __init__(self, spec: Spec, cfg: Spec, truth: Truth) -> None:
        self.spec, self.cfg, self.truth = spec, cfg, truth
        self.p = pool(cfg["seed"])
        self.on = cfg["features"].__contains__

    def run(self) -> None:
        spec = self.spec
        parent, kind = spec.get("parent"), spec.get("kind")
        if parent:  # a fork starts after the history that it copies
            dry = Rollout(
                self, NullSink(Path()), random.Random(parent["seed"]), parent, False, None
            )
            dry.loop(int(parent["bytes"] * spec["copy_share"]))
            spec["start"] = max(spec["start"], dry.now + 600_000)
        d = datetime.fromtimestamp(spec["start"] // 1000, UTC)
        name = f"rollout-{d:%Y-%m-%dT%H-%M-%S}-{spec['sid']}.jsonl"
        base = Path(self.cfg["out"], ".codex")
        if self.on("archived") and spec["n"] % 41 == 11:
            path = base / "archived_sessions" / name
        else:
            path = base / "sessions" / f"{d:%Y}" / f"{d:%m}" / f"{d:%d}" / name
        sink = Sink(path, self.truth)
        start_total = None
        self.meta(sink, spec, parent, kind)
        if parent:
            if kind == "spawn":
                self.meta(sink, parent, None, None, at=spec["start"])
            head = Rollout(
                self,
                sink,
                random.Random(parent["seed"]),
                parent,
                False,
                spec["start"] if kind == "spawn" else None,
            )
            head.loop(sink.size + int(parent["bytes"] * spec["copy_share"]))
            start_total = head.total
        r = Rollout(self, sink, random.Random(spec["seed"]), spec, True, None, start_total)
        r.loop(sink.size + spec["bytes"])
        if self.on("malformed") and spec["n"] % 11 == 0:
            sink.put(
                f'{{"timestamp":"{iso(r.now)}","type":"event_msg","payload":{{"type":"token_count","info":{{"total_token_usage":{{"input_tokens":99999',
                end="",
            )
        sink.close(r.now)

    def meta(
        self, sink: Sink, spec: Spec, parent: Spec | None, kind: str | None, at: int | None = None
    ) -> None:
        src = '"cli"'
        extra = ""
        parent_id = parent["sid"] if parent else ""
        if kind == "spawn":
            src = (
                f'{{"subagent":{{"thread_spawn":{{"parent_thread_id":"{parent_id}","depth":1}}}}}}'
            )
            extra = f',"forked_from_id":"{parent_id}"'
        elif kind == "fork":
            extra = f',"forked_from_id":"{parent_id}"'
        sink.put(
            f'{{"timestamp":"{iso(at or spec["start"])}","type":"session_meta","payload":{{"id":"{spec["sid"]}"{extra},"timestamp":"{iso(spec["start"])}",'
            f'"cwd":"{esc(spec["cwd"])}","originator":"codex_cli_rs","cli_version":"0.98.0","source":{src},"model_provider":"openai",'
            f'"base_instructions":{{"text":"{self.p.base_instructions}"}},"git":{{"commit_hash":"{int(spec["start"]):040x}","branch":"main"}}}}}}'
        )


class Rollout:
    def __init__(
        self,
        owner: CodexSession,
        sink: Sink,
        rng: random.Random,
        spec: Spec,
        count: bool,
        frozen: int | None,
        total: list[int] | None = None,
    ) -> None:
        self.o, self.sink, self.rng, self.spec, self.count, self.frozen = (
            owner,
            sink,
            rng,
            spec,
            count,
            frozen,
        )
        self.p, self.on = owner.p, owner.on
        self.now = spec["start"] + 1000
        self.model = spec["model"]
        self.total = list(total) if total else [0, 0, 0, 0]  # input, cached, output, reasoning
        self.context = rng.randint(9_000, 16_000)
        self.cached = 0
        style = random.Random(spec["seed"] + "-style")
        self.total_only = self.on("total_only") and style.random() < 0.07
        self.reset_at = style.randint(3, 12) if self.on("reset") and style.random() < 0.03 else None
        self.requests = 0
        self.pct = rng.random() * 30
        self.last = [0, 0, 0, 0]
        self.n_frozen = 0

    def ts(self) -> str:
        if self.frozen is not None:  # replayed history: every stamp inside the spawn's second
            self.n_frozen += 1
            return iso(self.frozen // 1000 * 1000 + min(999, self.n_frozen // 50))
        return iso(self.now)

    def put(self, typ: str, payload: str, usage: bool = False) -> None:
        self.sink.put(f'{{"timestamp":"{self.ts()}","type":"{typ}","payload":{payload}}}', usage)

    def tick(self, lo: int, hi: int) -> None:
        self.now += self.rng.randint(lo, hi)

    def loop(self, until: int) -> None:
        rng, p, sink = self.rng, self.p, self.sink
        while sink.size < until:
            if rng.random() < 0.05:
                self.model = pick(rng, CODEX_MODELS)
            text = rng.choice(p.small)
            self.put("event_msg", '{"type":"task_started","model_context_window":272000}')
            self.put(
                "turn_context",
                f'{{"turn_id":"{rng.getrandbits(64):016x}","cwd":"{esc(self.spec["cwd"])}","approval_policy":"on-request","sandbox_policy":'
                f'{{"type":"workspace-write","writable_roots":[],"network_access":false}},"model":"{self.model}","effort":"high","summary":"auto"}}',
            )
            self.put(
                "response_item",
                f'{{"type":"message","role":"user","content":[{{"type":"input_text","text":"{text}"}}]}}',
            )
            self.put(
                "event_msg",
                f'{{"type":"user_message","message":"{text}","images":[],"local_images":[],"text_elements":[]}}',
            )
            if self.on("null_info") and rng.random() < 0.4:
                self.put(
                    "event_msg",
                    f'{{"type":"token_count","info":null,"rate_limits":{self.limits()}}}',
                    usage=True,
                )
            self.context += len(text) // 4
            for _ in range(min(60, 1 + int(rng.expovariate(1 / 9)))):
                self.request()
                if sink.size >= until:
                    break
            if not self.count and sink.size >= until:
                return  # a copied history ends between two requests
            t = rng.choice(p.prose)
            self.put("event_msg", f'{{"type":"agent_message","message":"{t}"}}')
            self.put(
                "response_item",
                f'{{"type":"message","role":"assistant","content":[{{"type":"output_text","text":"{t}"}}]}}',
            )
            self.put("event_msg", f'{{"type":"task_complete","last_agent_message":"{t}"}}')
            if self.on("malformed") and rng.random() < 0.02:
                sink.put(
                    rng.choice(
                        (
                            "",
                            "{}",
                            '{"timestamp":"2026-01-01T00:00:00Z","type":"event_msg","payload":{"type":"token_co',
                        )
                    )
                )
            self.tick(15_000, 900_000)
            if rng.random() < 0.03:
                self.tick(3_600_000, 50_000_000)

    def limits(self) -> str:
        self.pct = (self.pct + 0.013) % 100
        return (
            f'{{"limit_id":"codex","primary":{{"used_percent":{self.pct:.1f},"window_minutes":300,"resets_at":{self.now // 1000 + 9000}}},'
            f'"secondary":{{"used_percent":{self.pct / 7:.1f},"window_minutes":10080,"resets_at":{self.now // 1000 + 90000}}},"credits":null,"plan_type":"pro"}}'
        )

    @staticmethod
    def usage(v: list[int]) -> str:
        return (
            f'{{"input_tokens":{v[0]},"cached_input_tokens":{v[1]},"output_tokens":{v[2]},"reasoning_output_tokens":{v[3]},'
            f'"total_tokens":{v[0] + v[2]}}}'
        )

    def token_count(self) -> None:
        last = "" if self.total_only else f'"last_token_usage":{self.usage(self.last)},'
        self.put(
            "event_msg",
            f'{{"type":"token_count","info":{{"total_token_usage":{self.usage(self.total)},{last}"model_context_window":258400}},'
            f'"rate_limits":{self.limits()}}}',
            usage=True,
        )

    def request(self) -> None:
        rng, p = self.rng, self.p
        self.tick(1500, 25_000)
        self.requests += 1
        if self.requests == self.reset_at:
            self.total = [0, 0, 0, 0]
        think = 0
        if rng.random() < 0.7:
            s = rng.choice(p.small)
            think = rng.randint(20, 900)
            self.put(
                "response_item",
                f'{{"type":"reasoning","summary":[{{"type":"summary_text","text":"{s}"}}],"content":null,"encrypted_content":"{rng.choice(p.crypt)}"}}',
            )
            self.put("event_msg", f'{{"type":"agent_reasoning","text":"{s}"}}')
        out = think + rng.randint(20, 600)
        calls = []
        for _ in range(rng.choices((1, 2, 3), (80, 15, 5))[0]):
            cid = "call_" + b62(rng, 24)
            calls.append(cid)
            args = esc('{"cmd":"' + rng.choice(p.small) + '","workdir":"' + self.spec["cwd"] + '"}')
            self.put(
                "response_item",
                f'{{"type":"function_call","name":"exec_command","arguments":"{args}","call_id":"{cid}"}}',
            )
        # usage of the response just received
        inp = self.context
        cached = 0 if rng.random() < 0.03 else min(self.cached, inp) // 128 * 128
        self.last = [inp, cached, out, think]
        self.total = [a + b for a, b in zip(self.total, self.last, strict=True)]
        self.cached = inp
        self.context += out
        self.token_count()
        if self.count:
            self.o.truth.add(
                self.now,
                self.model,
                input=inp - cached,
                cache_read=cached,
                output=out,
                reasoning=think,
            )
        for cid in calls:
            self.tick(30, 9000)
            t = p.result(rng)
            if self.on("traps") and rng.random() < 0.004:
                t = p.pasted
            self.put(
                "response_item",
                f'{{"type":"function_call_output","call_id":"{cid}","output":"Chunk ID: {rng.getrandbits(24):06x}\\nWall time: 0.0512 seconds\\n'
                f'Process exited with code 0\\nOutput:\\n{t}"}}',
            )
            self.context += len(t) // 4
        if self.on("repeats"):
            for _ in range(rng.choices((0, 1, 2, 3), (52, 30, 12, 6))[0]):
                self.tick(20, 4000)
                self.token_count()
        if self.context > 200_000:
            text = rng.choice(p.prose)
            self.put("compacted", f'{{"message":"{text}","replacement_history":[]}}')
            self.context = rng.randint(15_000, 25_000)
            self.cached = 0


# --------------------------------------------------------------------------- planning


def quantile_size(q: float) -> float:
    qs = [x for x, _ in SIZE_PROFILE]
    i = min(max(bisect.bisect_left(qs, q), 1), len(qs) - 1)
    (q0, s0), (q1, s1) = SIZE_PROFILE[i - 1], SIZE_PROFILE[i]
    f = (q - q0) / (q1 - q0)
    return math.exp(math.log(s0) + f * (math.log(s1) - math.log(s0)))


def sizes(total: int, n: int) -> list[int]:
    raw = [quantile_size((i + 0.5) / n) for i in range(n)]
    # No single file above an eighth of the corpus, so small corpora keep a mix of sessions.
    raw = [min(r, total / 8) for r in raw]
    scale = total / sum(raw)
    return [max(600, int(r * scale)) for r in raw]


def encode_cwd(cwd: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in cwd)


def plan(args: argparse.Namespace, features: frozenset[str]) -> list[Spec]:
    rng = random.Random(f"plan-{args.seed}")
    end = int(datetime.fromisoformat(args.end).replace(tzinfo=UTC).timestamp() * 1000)
    total = args.size_mb * 1024 * 1024
    agents = [a for a in args.agents.split(",") if a]
    share = (
        {"claude": args.claude_share, "codex": 1 - args.claude_share}
        if len(agents) == 2
        else {agents[0]: 1.0}
    )
    specs: list[Spec] = []
    for agent in agents:
        budget = int(total * share[agent])
        n = (
            max(3, round(args.sessions * share[agent]))
            if args.sessions
            else max(3, round(budget / 1024 / 1024 * 2.54 * (0.55 if agent == "claude" else 1)))
        )
        # Copies, sub-agents and progress lines add to the budget; measured share of bytes that are "own" lines.
        own = 1.0
        if agent == "claude":
            own -= 0.13 * ("resume" in features) + 0.17 * ("sidechain" in features)
        else:
            own -= 0.10 * ("fork" in features) + 0.05 * ("spawn" in features)
        byt = sizes(int(budget * own), n)
        rng.shuffle(byt)
        mine: list[Spec] = []
        for i in range(n):
            cwd = rng.choice(PROJECTS)
            start = (
                end
                - rng.randint(0, args.days * DAY_MS - 1) // DAY_MS * DAY_MS
                + rng.randint(7, 21) * 3_600_000
                + rng.randint(0, 3_599_999)
            )
            start -= DAY_MS
            spec = {
                "agent": agent,
                "n": i,
                "seed": f"{args.seed}-{agent}-{i}",
                "cwd": cwd,
                "dir": encode_cwd(cwd),
                "bytes": byt[i],
                "start": start,
                "sid": uuid4(rng) if agent == "claude" else uuid7(rng, start),
                "model": pick(rng, CLAUDE_MAIN if agent == "claude" else CODEX_MODELS),
            }
            r = rng.random()
            older = [
                s for s in mine[-60:] if not s.get("parent") and 20_000 < s["bytes"] < budget / 20
            ]
            if older:
                p = rng.choice(older)
                kind = None
                if agent == "claude" and "resume" in features and r < 0.15:
                    kind = "resume"
                elif agent == "codex" and "fork" in features and r < 0.10:
                    kind = "fork"
                elif agent == "codex" and "spawn" in features and r < 0.16:
                    kind = "spawn"
                if kind:
                    spec.update(
                        parent=p,
                        kind=kind,
                        copy_share=rng.uniform(0.3, 0.9),
                        cwd=p["cwd"],
                        dir=p["dir"],
                        start=p["start"] + rng.randint(1, 3) * DAY_MS,
                    )
                    if agent == "codex":
                        spec["sid"] = uuid7(rng, spec["start"])
            mine.append(spec)
        specs += mine
    specs.sort(key=lambda s: -s["bytes"])
    return specs


def work(job: tuple[Spec, Spec]) -> tuple[str, Rows, Shape]:
    spec, cfg = job
    truth = Truth()
    (ClaudeSession if spec["agent"] == "claude" else CodexSession)(spec, cfg, truth).run()
    return spec["agent"], truth.rows, truth.shape


def main(argv: list[str] | None = None) -> int:
    ap = argparse.ArgumentParser(
        description="Write a deterministic coding-agent log corpus and its exact totals."
    )
    ap.add_argument("--out", required=True)
    ap.add_argument("--size-mb", type=int, default=50)
    ap.add_argument("--agents", default="claude,codex")
    ap.add_argument("--days", type=int, default=60)
    ap.add_argument(
        "--sessions", type=int, default=0, help="main sessions in all (0 = from the size profile)"
    )
    ap.add_argument("--seed", default="1")
    ap.add_argument("--end", default="2026-06-30", help="last day, UTC")
    ap.add_argument("--jobs", type=int, default=2)
    ap.add_argument("--claude-share", type=float, default=0.6)
    ap.add_argument(
        "--big-file-mb", type=int, default=0, help="add one usage-free snapshot file of this size"
    )
    ap.add_argument(
        "--without",
        default="",
        help="edge cases to leave out, comma-separated: " + ",".join(FEATURES),
    )
    ap.add_argument("--only-plain", action="store_true", help="no edge cases at all")
    args = ap.parse_args(argv)
    without = {x for x in args.without.split(",") if x}
    if unknown := without - set(FEATURES):
        ap.error(f"unknown edge cases: {sorted(unknown)}")
    features = frozenset() if args.only_plain else frozenset(FEATURES) - without
    out = Path(args.out)
    if out.exists() and any(out.iterdir()):
        ap.error(f"{args.out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    cfg = {"out": args.out, "seed": args.seed, "features": features}
    jobs = [(s, cfg) for s in plan(args, features)]
    total: dict[str, Spec] = {}
    if args.jobs > 1:
        with multiprocessing.Pool(args.jobs) as mp:
            done = list(mp.imap_unordered(work, jobs, chunksize=1))
    else:
        done = [work(j) for j in jobs]
    for agent, rows, shape in done:
        a = total.setdefault(agent, {"rows": {}, "shape": dict.fromkeys(shape, 0)})
        for k, v in shape.items():
            a["shape"][k] += v
        for key, row in rows.items():
            mine = a["rows"].setdefault(key, [0] * len(FIELDS))
            for i, v in enumerate(row):
                mine[i] += v
    if args.big_file_mb:
        name = uuid4(random.Random("big")) + ".jsonl"
        path = out / ".claude" / "projects" / encode_cwd(PROJECTS[0]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        block = pool(args.seed).results[-1].encode()
        size = 0
        with path.open("wb") as fh:
            size += fh.write(
                b'{"type":"file-history-snapshot","messageId":"x","snapshot":{"messageId":"x","trackedFileBackups":{},"blob":"'
            )
            while size < args.big_file_mb << 20:
                size += fh.write(block)
            size += fh.write(b'"},"isSnapshotUpdate":false}\n')
        shape = total.setdefault("claude", {"rows": {}, "shape": Truth().shape})["shape"]
        shape["files"] += 1
        shape["lines"] += 1
        shape["bytes"] += size
    agents = {}
    for agent in sorted(total):
        by_day: dict[str, Spec] = {}
        by_model: dict[str, Spec] = {}
        grand = dict.fromkeys(FIELDS, 0)
        for (day, model), row in sorted(total[agent]["rows"].items()):
            by_day.setdefault(day, {})[model] = dict(zip(FIELDS, row, strict=True))
            m = by_model.setdefault(model, dict.fromkeys(FIELDS, 0))
            for f, v in zip(FIELDS, row, strict=True):
                m[f] += v
                grand[f] += v
        agents[agent] = {
            "total": grand,
            "by_model": by_model,
            "by_day_model": by_day,
            "shape": total[agent]["shape"],
        }
    opts = {k: v for k, v in vars(args).items() if k not in ("out", "jobs")}
    with (out / "truth.json").open("w", encoding="utf-8") as fh:
        json.dump(
            {"options": opts, "features": sorted(features), "agents": agents},
            fh,
            indent=1,
            sort_keys=True,
        )
        fh.write("\n")
    for agent, a in agents.items():
        s = a["shape"]
        print(
            f"{agent}: {s['files']} files, {s['bytes'] / 1048576:.1f} MiB, {s['lines']} lines, usage lines {s['usage_lines']} "
            f"({s['usage_bytes'] / s['bytes']:.1%} of bytes), requests {a['total']['requests']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
