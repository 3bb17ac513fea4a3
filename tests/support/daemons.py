"""The exporter as a real process: start it, wait until it answers, stop it, read what it said.

`python -m tests.support.daemons MUTANT ARGUMENTS…` is the same program with one thing broken.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collectors.web.control import ask

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Ended:
    """How a process ended."""

    code: int
    seconds: float  # since it was told to, or since it was started
    error: str  # what it wrote to stderr


async def until(holds: Callable[[], Any], limit: float = 15) -> None:
    """Wait for something that another process does.

    Raises:
        TimeoutError: it did not.
    """
    async with asyncio.timeout(limit):
        while not holds():  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(0.01)


class Daemon:
    """One process; `started()` makes it."""

    def __init__(self, process: asyncio.subprocess.Process, socket: Path, log: Path) -> None:
        self.process = process
        self.socket = socket
        self.log = log
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self.log.read_text()

    async def ready(self, limit: float = 20) -> float:
        """Wait until it answers commands; the seconds since it was started."""
        async with asyncio.timeout(limit):
            while True:
                with suppress(Exception):
                    if await ask(self.socket, "health", {}, limit=5):
                        return time.monotonic() - self.started_at
                assert self.process.returncode is None, self.said
                await asyncio.sleep(0.01)

    async def ask(self, command: str, **arguments: Any) -> Any:
        """What it answers."""
        return await ask(self.socket, command, arguments)

    async def ended(self, limit: float = 20) -> Ended:
        """Wait for its end."""
        return await self._end(self.started_at, limit)

    async def stop(self, number: int = signal.SIGTERM, limit: float = 20) -> Ended:
        """Send a signal and wait for the end."""
        told = time.monotonic()
        self.process.send_signal(number)
        return await self._end(told, limit)

    async def _end(self, since: float, limit: float) -> Ended:
        async with asyncio.timeout(limit):
            code = await self.process.wait()
        return Ended(code, time.monotonic() - since, self.said)


@asynccontextmanager
async def started(
    environ: Mapping[str, str], *arguments: str, mutant: str = ""
) -> AsyncIterator[Daemon]:
    """`tokendash run` in a process of its own; killed at the end if it still runs."""
    ledger = Path(environ["DB_PATH"])
    log = Path(environ["HOME"]) / f"daemon-{time.monotonic_ns()}.log"
    module = ["tests.support.daemons", mutant] if mutant else ["collectors"]
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            *module,
            *(arguments or ("run",)),
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        yield Daemon(process, ledger.with_suffix(".sock"), log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# -- the program, broken on purpose ----------------------------------------------------------------


def _ignores_signals() -> None:
    """No signal is handled."""
    from collectors.cli import running

    setattr(running, "stop_on_signals", lambda _stop: [])  # noqa: B010 - not one of its own names


def _waits_for_ever() -> None:
    """Nothing ends a process whose threads cannot be interrupted."""
    from collectors import daemon

    daemon.STOP_SECONDS = 3_600.0


def _one_for_all() -> None:
    """A failure of one collector is everybody's."""
    from collectors.orchestrator import Health, Orchestrator

    def settle(self: Orchestrator, health: Health, wall: float, failure: Any) -> float:
        if failure is not None:
            raise failure
        health.last_success = wall
        return 0.0

    Orchestrator._settle = settle  # type: ignore[method-assign]


def _no_redaction() -> None:
    """Logs and the ledger are told what was said, as it was said."""
    from collectors.logs import Redaction

    def wrong(self: Redaction, text: str) -> str:
        return text

    Redaction.clean = wrong  # type: ignore[method-assign]


def _shows_locals() -> None:
    """Tracebacks are structlog's own, with what local variables held."""
    import structlog

    from collectors import logs

    wrong = structlog.tracebacks.ExceptionDictTransformer(show_locals=True)
    setattr(logs, "ExceptionDictTransformer", lambda **_: wrong)  # noqa: B010 - likewise


def _quotes_lines() -> None:
    """A line that cannot be understood is quoted where it is counted."""
    from collectors.agents import jsonl
    from collectors.errors import FormatError

    def wrong(line: Any) -> Any:
        raise FormatError(f"not JSON: {bytes(line)!r}")

    from collectors.agents import claude_code

    jsonl.lenient = claude_code.lenient = wrong  # type: ignore[attr-defined]


def _by_wall_clock() -> None:
    """Intervals are counted by the wall clock."""

    def wrong(self: asyncio.BaseEventLoop) -> float:
        return time.time()

    asyncio.BaseEventLoop.time = wrong  # type: ignore[method-assign]


MUTANTS = {
    "no_redaction": _no_redaction,
    "shows_locals": _shows_locals,
    "quotes_lines": _quotes_lines,
    "by_wall_clock": _by_wall_clock,
    "ignores_signals": _ignores_signals,
    "waits_for_ever": _waits_for_ever,
    "one_for_all": _one_for_all,
}

if __name__ == "__main__":
    MUTANTS[sys.argv[1]]()
    from collectors.main import main

    sys.exit(main(sys.argv[2:]))
