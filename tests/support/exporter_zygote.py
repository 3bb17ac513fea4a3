"""Exporters by the hundred: a process that has everything imported and forks one per command.

    with Zygote(environment) as zygote:
        pid = zygote.spawn()             # the daemon of a new process, running
        os.kill(pid, signal.SIGKILL)
        zygote.reap(pid)
        assert zygote.once() == 0        # one whole `--once`

`mutant` breaks the program on purpose in every process forked afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
# How long a mutant stays where a kill does harm: the real moment is too short to be hit each time.
MOMENT = 0.1


class Zygote:
    """The test's side: starts the process and tells it what to fork."""

    def __init__(self, environment: Mapping[str, str], mutant: str = "") -> None:
        self._environment = {**environment, "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
        self._mutant = mutant

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.exporter_zygote", self._mutant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            cwd=ROOT,
        )
        assert self._ask("ready") == "ready"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().decode().strip()

    def spawn(self) -> int:
        """Start a daemon and return its process id."""
        return int(self._ask("daemon"))

    def reap(self, pid: int) -> int:
        """Wait for a killed or ended process; its wait status."""
        return int(self._ask(f"reap {pid}"))

    def once(self) -> int:
        """Run one collection and sending to its end; the exit code."""
        return os.waitstatus_to_exitcode(self.reap(int(self._ask("once"))))


def _serve(mutant: str) -> None:
    import collectors.agents.claude_code
    import collectors.agents.claude_stats
    import collectors.agents.spool
    import collectors.cli.running
    import collectors.outputs.influx.client
    import collectors.web.control  # noqa: F401 - imported before any fork

    if mutant:
        MUTANTS[mutant]()
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        answer = command
        if command in ("daemon", "once"):
            pid = os.fork()
            if pid == 0:
                _child(command)
            answer = str(pid)
        elif command == "reap":
            answer = str(os.waitpid(int(argument), 0)[1])
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _child(command: str) -> None:
    from collectors.cli import running
    from collectors.composition import Program

    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(
        os.open(
            os.environ.get("ZYGOTE_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        ),
        2,
    )
    os.dup2(2, 1)
    code = 1
    with contextlib.suppress(BaseException):
        program = Program(os.environ)
        running.prepare_logs(program)
        if command == "daemon":
            asyncio.run(running.run_daemon(program))
            code = 0
        else:
            code = running.run_once(program)
    os._exit(code)


# -- the program, broken on purpose ----------------------------------------------------------------


def _two_transactions() -> None:
    """The cursor is stored before the records, in a transaction of its own."""
    from collectors.ledger.store import Ledger
    from collectors.points import Batch

    right = Ledger.commit

    def wrong(self: Ledger, collector: str, source: Any, batch: Batch) -> Any:
        right(self, collector, source, Batch(cursor=batch.cursor))
        time.sleep(MOMENT)
        return right(self, collector, source, Batch(points=batch.points, is_checked=True))

    Ledger.commit = wrong  # type: ignore[method-assign]


def _clear_first() -> None:
    """Rows are marked sent when they are fetched, before the request."""
    from collectors.ledger.outbox import Outbox

    right = Outbox.due

    def wrong(self: Outbox, target: int, limit: int, now: float) -> Any:
        rows = right(self, target, limit, now)
        if rows:
            self.acknowledge(target, rows, now)
            time.sleep(MOMENT)
        return rows

    Outbox.due = wrong  # type: ignore[method-assign]


def _no_confirm() -> None:
    """What was acknowledged is never sent a second time."""
    from collectors.ledger.outbox import Outbox

    right = Outbox.__init__

    def wrong(self: Outbox, *arguments: Any, **named: Any) -> None:
        right(self, *arguments, **named)
        self.settle = float("inf")

    Outbox.__init__ = wrong  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "two_transactions": _two_transactions,
    "clear_first": _clear_first,
    "no_confirm": _no_confirm,
}

if __name__ == "__main__":
    _serve(sys.argv[1])
