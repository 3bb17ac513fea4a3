"""What `./tokendash test` does once the packages are there: every check, then pytest.

All steps run even if one fails. The last lines are pytest's own, because a CI counts from them;
what failed before is repeated just above them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.engines import install, is_obliged, missing_engines

ROOT = Path(__file__).resolve().parent.parent
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"

# Started through the interpreter: scripts in bin/ hold the path .venv was made at.
CHECKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ruff format", ("-m", "ruff", "format", "--check", ".")),
    ("ruff check", ("-m", "ruff", "check", ".")),
    ("mypy", ("-m", "mypy")),
    ("lint-imports", ("-c", LINT_IMPORTS, "--no-logo")),
)


class FailedSteps:
    """A pytest plugin: the steps that failed before, in the last lines and in the exit code."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say it where everybody looks."""
        if self.names:
            terminalreporter.section("steps that failed before pytest", red=True, bold=True)
            for name in self.names:
                terminalreporter.line(name, red=True)


def main(arguments: Sequence[str]) -> int:
    """Run everything; 0 only if all of it passed."""
    arguments = list(from_root(arguments, Path.cwd()))
    os.chdir(ROOT)
    failed = []
    if not provide_engines():
        failed.append("engines")
    for name, command in CHECKS:
        if not step(name, command):
            failed.append(name)
    announce("pytest")
    workers = [] if set(arguments) - {"--soak"} else ["-n", "2"]  # a chosen few are faster in one
    code = int(pytest.main([*workers, *arguments], plugins=[FailedSteps(failed)]))
    return code or bool(failed)


def from_root(arguments: Sequence[str], folder: Path) -> Iterator[str]:
    """Arguments for a pytest that runs in the repository: paths the caller sees stay right."""
    for argument in arguments:
        path, colons, test = argument.partition("::")
        seen = folder / path
        is_path = path and not path.startswith("-") and seen.exists()
        yield f"{seen}{colons}{test}" if is_path else argument


def provide_engines() -> bool:
    """Install what is missing where that is allowed; elsewhere the tests say what they skip."""
    if not (is_obliged() and missing_engines()):
        return True
    announce("engines")
    return install(missing_engines()) and not missing_engines()


def step(name: str, command: Sequence[str]) -> bool:
    """Run one check in the repository and say how it went."""
    announce(name)
    started = time.monotonic()
    done = subprocess.run([sys.executable, *command], check=False, stdin=subprocess.DEVNULL)
    verdict = "FAILED" if done.returncode else "ok"
    print(f"{name}: {verdict} ({time.monotonic() - started:.1f} s)", flush=True)
    return done.returncode == 0


def announce(name: str) -> None:
    """Print the step's name; flushed, because the steps write to the same place."""
    print(f"\n== {name}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
