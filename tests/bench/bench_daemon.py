"""The running exporter: one appended line, the event loop, a million buckets to send.

python -m tests.bench.bench_daemon [--files 2000] [--buckets 1000000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from collectors.composition import Program
from collectors.daemon import Exporter, opened
from collectors.ledger.store import Source
from collectors.merging import Merge
from collectors.points import Batch, TokenUsagePoint

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = 300


def answer(number: int) -> bytes:
    """One line of a transcript."""
    entry = {
        "type": "assistant",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "requestId": f"req_{number}",
        "sessionId": "S",
        "cwd": "/gone/project",
        "message": {
            "id": f"msg_{number}",
            "model": "claude-sonnet-4-5-20250929",
            "usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 9},
        },
    }
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def make_tree(home: Path, files: int) -> list[Path]:
    """Transcripts of some size in as many folders as a year of work has."""
    paths = []
    filler = json.dumps({"type": "user", "message": {"content": "x" * 20_000}}).encode() + b"\n"
    for number in range(files):
        folder = home / ".claude" / "projects" / f"project-{number % FOLDERS}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number}.jsonl"
        path.write_bytes(filler + answer(number))
        paths.append(path)
    return paths


def environment(home: Path) -> dict[str, str]:
    """Nothing but a home."""
    return {
        "HOME": str(home),
        "DB_PATH": str(home / "ledger.db"),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "TOKENDASH_CONFIG_DIR": str(home / "config"),
        "TZ": "UTC",
        "LOG_LEVEL": "error",
    }


class Lag:
    """How late a callback that asks to be called every 5 ms is called at worst."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def watch(self) -> None:
        """Note the longest time the loop was held up, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            await asyncio.sleep(0.005)
            self.worst = max(self.worst, loop.time() - asked - 0.005)


@asynccontextmanager
async def watched() -> AsyncIterator[Lag]:
    """A loop that is watched for the length of a block."""
    lag = Lag()
    task = asyncio.create_task(lag.watch())
    try:
        yield lag
    finally:
        task.cancel()


async def appended_line(home: Path, files: int) -> None:
    """Time from the poll to the commit for one line among many files, and the loop meanwhile."""
    paths = make_tree(home, files)
    program = Program(environment(home), home=home)
    async with opened(program) as exporter:
        [collector] = [c for c in program.registry.collectors if c.name == "claude-code"]
        await exporter.orchestrator.run_once(collector)
        await asyncio.sleep(2.5)  # folders that changed just now are listed at each look
        await exporter.orchestrator.run_once(collector)
        idle, busy = [], []
        async with watched() as lag:
            for number in range(30):
                started = time.perf_counter()
                await exporter.orchestrator.run_once(collector)
                idle.append(time.perf_counter() - started)
                with paths[number * 7 % files].open("ab") as file:
                    file.write(answer(1_000_000 + number))
                started = time.perf_counter()
                await exporter.orchestrator.run_once(collector)
                busy.append(time.perf_counter() - started)
                assert exporter.orchestrator.health["claude-code"].records == 1
                await asyncio.sleep(0.02)
    print(f"{files} files: a poll without news {statistics.median(idle) * 1000:.1f} ms")
    print(f"{files} files: an appended line is committed {statistics.median(busy) * 1000:.1f} ms")
    print(f"longest the loop was held up meanwhile: {lag.worst * 1000:.1f} ms")


async def million_buckets(home: Path, buckets: int, url: str, token: str) -> None:
    """Send many buckets to a server that takes them all; memory before and after."""
    settings = {**environment(home), "INFLUXDB_URL": url, "INFLUXDB_TOKEN": token}
    program = Program(settings, home=home)
    async with opened(program) as exporter:
        await _fill(exporter, buckets)
        exporter.connect()
        writer = exporter.writer
        assert writer is not None
        before = _peak_mib()
        started = time.perf_counter()
        async with watched() as lag:
            result = await writer.flush(time.time())
        seconds = time.perf_counter() - started
        await writer.close()
    print(
        f"{result.sent:,} points sent in {seconds:.0f} s, {result.pending} left;"
        f" peak {before:.0f} MiB before, {_peak_mib():.0f} MiB after;"
        f" loop held up at most {lag.worst * 1000:.1f} ms"
    )


async def _fill(exporter: Exporter, buckets: int) -> None:
    source = Source("bench", Merge.LATEST)
    start = int(datetime(2021, 1, 1, tzinfo=UTC).timestamp()) * 1000
    for first in range(0, buckets, 20_000):
        points = [
            TokenUsagePoint(
                provider="anthropic",
                model=f"claude-sonnet-4-5-2025092{number % 10}",
                timestamp=start + number // 10 * 300_000,
                key=str(number),
                input_tokens=number % 1000 + 1,
            )
            for number in range(first, min(first + 20_000, buckets))
        ]
        batch = Batch(points=list(points))
        await exporter.thread.run(exporter.ledger.commit, "bench", source, batch)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--buckets", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokendash-bench-") as folder:
        asyncio.run(appended_line(Path(folder) / "a", options.files))
        port_file = Path(folder) / "port"
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.fault_server",
                "--port-file",
                str(port_file),
                "--rate",
                "0",
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            while not (port_file.exists() and port_file.read_text().strip()):
                time.sleep(0.05)
            url = f"http://127.0.0.1:{port_file.read_text().strip()}"
            asyncio.run(million_buckets(Path(folder) / "b", options.buckets, url, "fault-token"))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
