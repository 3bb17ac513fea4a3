"""An installation of its own for a test of the command line: home, ledger, environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from collectors.ledger.store import Ledger, Source
from collectors.points import TokenUsagePoint
from tests.support.ledgers import LARGEST, open_ledger, store

ROOT = Path(__file__).resolve().parents[2]


class Installation:
    """Commands run in it as real processes, or in this one with a clock of the test's choice."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ledger = home / "data/ledger.db"
        self.config = home / "config"
        self.config.mkdir(parents=True)
        self.environ = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "DB_PATH": str(self.ledger),
            "TOKENDASH_CONFIG_DIR": str(self.config),
            "TZ": "Europe/Berlin",
        }

    def fill(self, *points: TokenUsagePoint, source: Source = LARGEST) -> None:
        """Count points in the ledger."""
        ledger = self.open()
        try:
            store(ledger, *points, source=source)
        finally:
            ledger.close()

    def open(self) -> Ledger:
        """The ledger, for writing."""
        return open_ledger(self.ledger)

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """`tokendash …` as a process; its output is a pipe."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "collectors", *arguments],
            env={**self.environ, **environ},
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def json(self, *arguments: str, **environ: str) -> Any:
        """What a command prints with `--json`."""
        done = self.run(*arguments, "--json", **environ)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
