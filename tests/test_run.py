"""The test command's own steps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.run import from_root

ROOT = Path(__file__).resolve().parent.parent


def test_paths_are_those_the_caller_sees(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").touch()

    arguments = ["test_a.py::test_x", "test_a.py", "-k", "word", "--soak", "no_such.py", ""]

    assert list(from_root(arguments, tmp_path)) == [
        f"{tmp_path}/test_a.py::test_x",
        f"{tmp_path}/test_a.py",
        "-k",
        "word",
        "--soak",
        "no_such.py",
        "",
    ]


def test_every_step_runs_and_the_last_line_is_pytests(tmp_path: Path) -> None:
    done = run_steps(tmp_path, "x=1\n")

    lines = [line for line in done.stdout.splitlines() if line]
    assert done.returncode == 1
    assert "ruff format: FAILED" in done.stdout
    assert "ruff check: ok" in done.stdout
    assert "mypy: ok" in done.stdout
    assert "lint-imports: ok" in done.stdout
    assert "1 passed" in lines[-1]
    assert "ruff format" in lines[-2]
    assert "steps that failed before pytest" in lines[-3]


def test_all_steps_passed_is_success(tmp_path: Path) -> None:
    done = run_steps(tmp_path, "x = 1\n")

    assert (done.returncode, "FAILED" in done.stdout) == (0, False), done.stdout + done.stderr


def run_steps(root: Path, module: str) -> subprocess.CompletedProcess[str]:
    """Run the test command in a small repository of its own, from another folder."""
    (root / "tests").mkdir()
    (root / "room").mkdir()
    (root / "room/__init__.py").write_text(module)
    (root / "tests/__init__.py").touch()
    (root / "tests/test_one.py").write_text("def test_one() -> None:\n    pass\n")
    for name in ("run.py", "engines.py"):
        shutil.copy2(ROOT / "tests" / name, root / "tests")
    (root / "pyproject.toml").write_text(
        '[tool.ruff]\nline-length = 100\n[tool.mypy]\nfiles = ["room"]\n'
        '[tool.importlinter]\nroot_packages = ["room"]\n'
        '[[tool.importlinter.contracts]]\nname = "x"\ntype = "independence"\nmodules = ["room"]\n'
    )
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    return subprocess.run(
        [sys.executable, "-P", root / "tests/run.py", "-p", "no:cacheprovider"],
        cwd="/",
        check=False,
        env=environment | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
