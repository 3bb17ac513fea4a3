"""Write what is made of the option classes: `.env.example` and the README's tables.

python -m collectors.cli.generate           writes them
python -m collectors.cli.generate --check   only says which are not current, exit code 1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from collectors.cli.console import UsageError, guarded, note, out
from collectors.cli.options import documents, env_example
from collectors.layers import REPOSITORY


def run(arguments: Sequence[str], repository: Path = REPOSITORY) -> int:
    """Bring the documents up to date, or with `--check` say which are not."""
    if set(arguments) - {"--check"}:
        raise UsageError(f"unknown: {' '.join(arguments)}", "there is only --check")
    if not arguments:
        # First, so that it is there also while the README has no place for its tables.
        _write(repository / ".env.example", env_example())
    stale = 0
    for path, content in documents(repository).items():
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        stale += 1
        if arguments:
            note(f"{path} is not current")
        else:
            _write(path, content)
    if arguments and stale:
        note("  run: python -m collectors.cli.generate")
        return 1
    return 0


def _write(path: Path, content: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        path.write_text(content, encoding="utf-8")
        out(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:])))
