"""The door: quick commands at once, everything else through the command line's parser."""

from __future__ import annotations

import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if os.name == "nt":
        sys.stderr.write(
            "tokendash: native Windows is not supported (the ledger needs POSIX file locks).\n"
            "Run it in WSL2, or with Docker: docker compose up -d\n"
        )
        return 2
    from collectors.cli import quick

    if arguments and arguments[0] in quick.COMMANDS:
        return quick.run(arguments, os.environ)
    from collectors.cli.app import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
