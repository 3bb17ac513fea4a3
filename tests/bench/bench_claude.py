"""The main job beside `ccusage claude`, as ratios of whole processes in one run.

    npm install ccusage@20.0.24                # its native binary is measured, offline
    python -m tests.bench.bench_claude --corpus DIR [--ccusage PATH] [--rounds 5]

Without a corpus one of 2 GB is made first. Every round runs each command in turn; a ratio is the
median over the rounds of ours by theirs. Totals are compared with the corpus's truth each time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "tokendash"


@dataclass
class Run:
    """One finished process: wall and CPU seconds, and the peak of its largest process in MiB."""

    wall: float
    cpu: float
    peak_mib: float


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Run a command to its end; its children that were waited for are in its figures."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def find_ccusage(named: str) -> str:
    """The native binary: the wrapper would add the start of Node to their time."""
    if named:
        return named
    for base in (Path.cwd(), ROOT):
        for path in base.glob("node_modules/@ccusage/ccusage-*/bin/ccusage"):
            path.chmod(0o755)  # it arrives without the run bit
            return str(path)
    found = shutil.which("ccusage")
    if not found:
        raise SystemExit("ccusage not found: npm install ccusage@20.0.24, or --ccusage PATH")
    return found


def environment(corpus: Path, ledger: Path) -> dict[str, str]:
    """Only what both programs need."""
    return {
        "HOME": str(corpus),
        "PATH": os.environ["PATH"],
        "CLAUDE_CONFIG_DIR": str(corpus / ".claude"),
        "DB_PATH": str(ledger),
        "TZ": "UTC",
        "TOKENDASH_CONFIG_DIR": str(ledger.parent / "config"),
    }


def is_exact(corpus: Path, ledger: Path) -> bool:
    """Whether requests and every token class equal the corpus's truth."""
    truth = json.loads((corpus / "truth.json").read_text())["agents"]["claude"]["total"]
    db = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
    row = db.execute(
        "SELECT sum(requests), sum(input_tokens), sum(output_tokens), sum(cache_read_tokens),"
        " sum(cache_write_tokens - cache_write_1h_tokens), sum(cache_write_1h_tokens),"
        " sum(reasoning_tokens) FROM bucket"
    ).fetchone()
    db.close()
    names = ("requests", "input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
    return bool(row == tuple(truth[name] for name in (*names, "reasoning")))


def scan_and_commit(corpus: Path, ledger: Path) -> float:
    """Seconds of the first backfill inside the process: reading, counting and committing."""
    code = (
        "import asyncio, os, time\n"
        "from collectors.composition import Program\n"
        "from collectors.daemon import opened\n"
        "async def main():\n"
        "    async with opened(Program(os.environ)) as exporter:\n"
        "        started = time.perf_counter()\n"
        "        await exporter.orchestrator.run_all_once()\n"
        "        print(time.perf_counter() - started)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(corpus, ledger), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def line(title: str, ratios: Sequence[float], goal: float) -> None:
    """One row of the table."""
    middle = statistics.median(ratios)
    print(f"{title:<44} {middle:6.3f}  ({min(ratios):.3f} to {max(ratios):.3f})   goal {goal}")


def compare(corpus: Path, ccusage: str, rounds: int) -> None:
    """The table of ratios."""
    ours: dict[str, list[float]] = {"once": [], "scan": [], "report": [], "status": []}
    cpu: list[float] = []
    peak = 0.0
    theirs_peak = 0.0
    theirs_wall: list[float] = []
    with tempfile.TemporaryDirectory(prefix="tokendash-bench-") as folder:
        base = Path(folder)
        warm = environment(corpus, base / "0" / "ledger.db")
        measure([str(LAUNCHER), "--version"], warm)  # the virtual environment is made here
        for number in range(rounds):
            ledger = base / str(number) / "ledger.db"
            env = environment(corpus, ledger)
            peer = measure([ccusage, "claude", "--offline", "--json"], env)
            once = measure([str(LAUNCHER), "--once"], env)
            if not is_exact(corpus, ledger):
                raise SystemExit("the ledger differs from the truth")
            report = measure([str(LAUNCHER), "report", "daily", "--no-collect", "--json"], env)
            status = measure([str(LAUNCHER), "status"], env)
            scan = scan_and_commit(corpus, base / f"{number}s" / "ledger.db")
            ours["once"].append(once.wall / peer.wall)
            ours["scan"].append(scan / peer.wall)
            ours["report"].append(report.wall / peer.wall)
            ours["status"].append(status.wall / peer.wall)
            cpu.append(once.cpu / peer.cpu)
            peak = max(peak, once.peak_mib)
            theirs_peak = max(theirs_peak, peer.peak_mib)
            theirs_wall.append(peer.wall)
    print(f"ccusage claude: {statistics.median(theirs_wall):.2f} s, {theirs_peak:.0f} MiB")
    print(f"{'ours by theirs, wall':<44} median  (range)")
    line("tokendash --once, first backfill", ours["once"], 2.0)
    line("  of which scanning and committing", ours["scan"], 1.2)
    line("tokendash report daily --no-collect --json", ours["report"], 0.15)
    line("tokendash status", ours["status"], 0.06)
    print(f"{'CPU of --once by theirs':<44} {statistics.median(cpu):6.3f}")
    print(f"{'largest process of --once':<44} {peak:6.0f} MiB                 goal 120")


def daemon_figures(corpus: Path, seconds: float) -> None:
    """Memory and CPU of an idle daemon at a 10 s poll, once everything is read."""
    with tempfile.TemporaryDirectory(prefix="tokendash-bench-") as folder:
        env = {**environment(corpus, Path(folder) / "ledger.db"), "LOG_LEVEL": "warning"}
        subprocess.run([LAUNCHER, "--once"], env=env, check=True, capture_output=True)
        process = subprocess.Popen([str(LAUNCHER), "run"], env=env, stderr=subprocess.DEVNULL)
        time.sleep(15)
        before = _cpu_seconds(process.pid)
        time.sleep(seconds)
        used = _cpu_seconds(process.pid) - before
        resident = _resident_mib(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    print(f"{'idle daemon, part of a core':<44} {used / seconds:6.2%}                   goal 0.2 %")
    print(f"{'idle daemon, resident':<44} {resident:6.0f} MiB                 goal 95")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith("VmRSS:"):
            return int(text.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--ccusage", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle-seconds", type=float, default=60)
    options = parser.parse_args()
    if options.corpus is None:
        from tests.bench import make_corpus

        options.corpus = Path(tempfile.gettempdir()) / "tokendash-corpus-2000"
        if not options.corpus.exists():
            size = ["--size-mb", "2048", "--days", "365", "--agents", "claude"]
            make_corpus.main(["--out", str(options.corpus), *size])
    if options.rounds:
        compare(options.corpus, find_ccusage(options.ccusage), options.rounds)
    if options.idle_seconds:
        daemon_figures(options.corpus, options.idle_seconds)


if __name__ == "__main__":
    main()
