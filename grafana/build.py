"""Write the generated files of this folder, or with `--check` say which ones are not current.

`python grafana/build.py [--check]`; ends with 1 when a check finds a difference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
if __package__ in (None, ""):  # called as a script: make `grafana` importable
    sys.path[0] = str(FOLDER.parent)

from grafana import alerting, claude_code, overview  # noqa: E402 - needs the path above
from grafana.board import dumps  # noqa: E402


def render() -> dict[str, str]:
    """Every generated file: path inside this folder -> text."""
    return {
        "dashboards/token_usage.json": dumps(overview.build()),
        "dashboards/claude_code.json": dumps(claude_code.build()),
        "provisioning/alerting/rules.yaml": alerting.dumps(alerting.build()),
    }


def differences(folder: Path = FOLDER) -> list[str]:
    """Files that are missing, out of date, or dashboards that nobody generates."""
    wanted = render()
    found = [
        path
        for path, text in wanted.items()
        if not (folder / path).is_file() or (folder / path).read_bytes() != text.encode()
    ]
    strays = {f"dashboards/{path.name}" for path in (folder / "dashboards").glob("*.json")}
    return sorted({*found, *(strays - wanted.keys())})


def write(folder: Path = FOLDER) -> list[str]:
    """Write what differs; return its paths."""
    changed = [path for path in differences(folder) if path in render()]
    for path in changed:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(render()[path].encode())
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the generator."""
    parser = argparse.ArgumentParser(prog="grafana/build.py", description="Grafana's files.")
    parser.add_argument("--check", action="store_true", help="change nothing, report differences")
    if parser.parse_args(arguments).check:
        found = differences()
        for path in found:
            print(f"grafana/{path} is not what the generator writes: run python grafana/build.py")
        return 1 if found else 0
    for path in write():
        print(f"wrote grafana/{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
