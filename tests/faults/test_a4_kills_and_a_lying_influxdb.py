"""A1 and A4 together: exporters killed at random while a log grows and InfluxDB misbehaves.

The test keeps the truth: every complete line it wrote, by the numbers it wrote. At the end the
ledger holds each call once, and the model behind the server equals the ledger bucket by bucket.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.support.exporter_zygote import ROOT, Zygote
from tests.support.fault_server import BUCKET, ORG, TOKEN

SETTLE = 0.3
QUICK, FULL_PROCESSES, SOAK = 500, 10, 5_000


@dataclass
class GrowingLog:
    """A transcript that an agent writes, with streamed responses and a half-written last line."""

    path: Path
    rng: random.Random
    truth: dict[str, tuple[int, int]] = field(default_factory=dict)  # id -> input, output
    pending: bytes = b""
    moment: datetime = datetime(2026, 3, 1, tzinfo=UTC)

    def append(self, calls: int) -> None:
        """Write whole calls, then perhaps the beginning of a line; finish an earlier beginning."""
        text = self.pending
        for _ in range(calls):
            # Time moves on: a bucket that goes cold is never sent again by luck.
            self.moment += timedelta(seconds=self.rng.randrange(900))
            name, given = f"msg_{len(self.truth):08d}", self.rng.randrange(1, 5_000)
            outputs = sorted(self.rng.randrange(1, 900) for _ in range(self.rng.randrange(1, 4)))
            text += b"".join(self._line(name, given, output) for output in outputs)
            self.truth[name] = (given, outputs[-1])
        cut = self.rng.randrange(1, 60) if self.rng.random() < 0.5 else 0
        self.pending = text[len(text) - cut :] if cut else b""
        with self.path.open("ab") as file:
            file.write(text[: len(text) - cut])

    def finish(self) -> None:
        """Complete the last line."""
        with self.path.open("ab") as file:
            file.write(self.pending)
        self.pending = b""

    def _line(self, name: str, given: int, output: int) -> bytes:
        entry = {
            "type": "assistant",
            "timestamp": self.moment.isoformat().replace("+00:00", "Z"),
            "requestId": f"req_{name}",
            "sessionId": "S",
            "cwd": "/gone/shop",
            "message": {
                "id": name,
                "model": f"claude-sonnet-4-5-2025{1000 + int(name[4:]) % 3}",
                "usage": {"input_tokens": given, "output_tokens": output},
            },
        }
        return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


class FaultProcess:
    """The fault-injecting server in a process of its own."""

    def __init__(self, folder: Path, seed: int, rate: float) -> None:
        port_file = folder / "port"
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.fault_server",
                "--port-file",
                str(port_file),
                "--seed",
                str(seed),
                "--rate",
                str(rate),
            ],
            cwd=ROOT,
        )
        deadline = time.monotonic() + 20
        while not (port_file.exists() and port_file.read_text().strip()):
            assert time.monotonic() < deadline
            assert self._process.poll() is None
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{port_file.read_text().strip()}"

    def behave(self) -> None:
        """No more faults."""
        request = Request(
            f"{self.url}/_control", data=json.dumps({"rate": 0}).encode(), method="POST"
        )
        urlopen(request, timeout=10).close()

    def get(self, path: str) -> Any:
        """What the server says about itself."""
        with urlopen(f"{self.url}{path}", timeout=10) as reply:
            return json.load(reply)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return SOAK if request.config.getoption("--soak") else QUICK


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultProcess]:
    server = FaultProcess(tmp_path, seed=11, rate=0.35)
    yield server
    server.stop()


@dataclass
class Result:
    """What is left when everything has calmed down."""

    lost: int
    doubled: int
    wrong: int
    buckets_differing: int
    landed: Counter[str]


def _environment(home: Path, url: str) -> dict[str, str]:
    return {
        "HOME": str(home),
        "DB_PATH": str(home / "ledger.db"),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "INFLUXDB_URL": url,
        "INFLUXDB_TOKEN": TOKEN,
        "INFLUXDB_ORG": ORG,
        "INFLUXDB_BUCKET": BUCKET,
        "INFLUXDB_INTERVAL": "0.05",
        "INFLUXDB_SETTLE": str(SETTLE),
        "LOCAL_INTERVAL": "0.05",
        "LOG_LEVEL": "error",
        "HOST_NAME": "h",
        "TZ": "UTC",
        "SOURCES": "claude-code",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENDASH_CONFIG_DIR": str(home / "config"),
    }


def _run(home: Path, faulty: FaultProcess, kills: int, processes: int, mutant: str = "") -> Result:
    folder = home / ".claude" / "projects" / "shop"
    folder.mkdir(parents=True)
    rng = random.Random(7)
    log = GrowingLog(folder / "S.jsonl", rng)
    environment = _environment(home, faulty.url)
    landed: Counter[str] = Counter()
    with Zygote(environment, mutant) as zygote:
        for number in range(kills):
            log.append(rng.randrange(1, 12))
            if number < processes:
                _kill_a_whole_process(environment, rng)
                landed["whole process"] += 1
                continue
            pid = zygote.spawn()
            time.sleep(rng.random() ** 2 * 0.5)
            log.append(rng.randrange(0, 6))
            os.kill(pid, signal.SIGKILL)
            landed[_phase(home)] += 1
            zygote.reap(pid)
        log.finish()
        faulty.behave()
        deadline = time.monotonic() + 60
        while zygote.once() != 0:  # a pause the server asked for may have to pass first
            assert time.monotonic() < deadline
        time.sleep(SETTLE + 0.2)  # the settle time itself is what is waited for
        assert zygote.once() == 0
    return _compare(home, faulty, log, landed)


def _kill_a_whole_process(environment: dict[str, str], rng: random.Random) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "collectors", "run"],
        env={**environment, "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.3 + rng.random())
    process.kill()
    process.wait()


def _phase(home: Path) -> str:
    """Roughly where the kill landed: before the ledger was open, or after."""
    return "running" if (home / "ledger.sock").exists() else "starting"


def _compare(home: Path, faulty: FaultProcess, log: GrowingLog, landed: Counter[str]) -> Result:
    db = sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True)
    assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    counted = Counter(
        (row[0], row[1]) for row in db.execute("SELECT input_tokens, output_tokens FROM record")
    )
    truth = Counter(log.truth.values())
    records = db.execute("SELECT count(*) FROM record").fetchone()[0]
    ledger = {
        (start, model): (inputs, outputs, requests)
        for start, model, inputs, outputs, requests in db.execute(
            "SELECT start, model, sum(input_tokens), sum(output_tokens), sum(requests) FROM bucket"
            " JOIN series ON series.id=bucket.series GROUP BY 1, 2"
        )
    }
    db.close()
    store = {}
    for point in faulty.get("/_store"):
        if point["measurement"] == "token_usage":
            tags, fields = dict(point["tags"]), point["fields"]
            start = point["timestamp"] // 1_000_000_000 // 300 * 300
            store[start, tags["model"]] = (
                fields["input_tokens"],
                fields["output_tokens"],
                fields["requests"],
            )
    return Result(
        lost=max(0, len(log.truth) - records),
        doubled=max(0, records - len(log.truth)),
        wrong=sum(((truth - counted) + (counted - truth)).values()),
        buckets_differing=sum(
            ledger.get(key) != store.get(key) for key in ledger.keys() | store.keys()
        ),
        landed=landed,
    )


@pytest.mark.timeout(1800)
def test_killed_exporters_and_a_lying_influxdb_lose_and_double_nothing(
    tmp_path: Path, faulty: FaultProcess, kills: int
) -> None:
    result = _run(tmp_path / "home", faulty, kills, FULL_PROCESSES)

    figures = {
        "fault": "A4",
        "n": kills,
        "seed": 7,
        "lost": result.lost,
        "double": result.doubled,
        "wrong": result.wrong,
        "buckets_differing": result.buckets_differing,
        "landed": dict(result.landed),
    }
    print(json.dumps(figures))
    assert (result.lost, result.doubled, result.wrong, result.buckets_differing) == (0, 0, 0, 0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", ["two_transactions", "clear_first"])
def test_the_kills_catch(tmp_path: Path, faulty: FaultProcess, mutant: str) -> None:
    result = _run(tmp_path / "home", faulty, 60, 0, mutant)

    assert result.lost or result.wrong or result.buckets_differing
