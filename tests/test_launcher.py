"""The `tokendash` script: real trees, real pip, tiny wheels, no network."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.engines import need

ROOT = Path(__file__).resolve().parent.parent
PYTHON = os.path.realpath(sys._base_executable)  # type: ignore[attr-defined]  # not in typeshed
DEADLINE = 60
SHELLS = ("sh", "dash", "bash --posix", "busybox sh", "ksh", "mksh", "zsh --emulate sh")
SHELLS_HERE = [shell for shell in SHELLS if shutil.which(shell.split()[0])]

MAIN = """
import json, os, sys
import alpha
print(json.dumps({
    "arguments": sys.argv[1:],
    "folder": os.getcwd(),
    "collectors": os.path.dirname(os.path.realpath(__file__)),
    "alpha": alpha.VERSION,
    "path": sys.path,
}))
raise SystemExit(int(os.environ.get("STAND_IN_EXIT", "0")))
"""
RUN = 'import json, sys, alpha, beta\nprint(json.dumps({"tests": sys.argv[1:]}))\n'


class Wheels(NamedTuple):
    """A folder of wheels and the locked line of each."""

    folder: Path
    lines: dict[str, str]


class Started(NamedTuple):
    """What one start left behind."""

    code: int
    out: str
    err: str

    @property
    def seen(self) -> Any:
        """What the stand-in program saw."""
        return json.loads(self.out)


class Tree:
    """A checkout with a stand-in for the program, and the environment it is started in."""

    def __init__(self, root: Path, wheels: Wheels, bin_folder: Path) -> None:
        self.root = root
        self.wheels = wheels
        self.script = root / "tokendash"
        self.environment = {
            "PATH": f"{bin_folder}:/usr/bin:/bin",
            "HOME": str(root),
            "LANG": "C.UTF-8",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels.folder),
            "PIP_CONFIG_FILE": os.devnull,
        }

    def require(self, *names: str, file: str = "requirements.txt") -> None:
        lines = [self.wheels.lines[name] for name in names]
        (self.root / file).write_text("".join(f"{line}\n" for line in lines))

    def open(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.script, *arguments],
            cwd=self.root.parent,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(
        self,
        *arguments: str,
        folder: Path | None = None,
        command: Sequence[str | Path] = (),
        **environment: str,
    ) -> Started:
        done = subprocess.run(
            [*(command or (self.script,)), *arguments],
            cwd=folder or self.root.parent,
            env=self.environment | environment,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        return Started(done.returncode, done.stdout, done.stderr)


class SilentIndex:
    """A package index that takes a connection and never answers: pip stands still, visibly."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(DEADLINE)
        self.settings = {
            "PIP_NO_INDEX": "0",
            "PIP_FIND_LINKS": "",
            "PIP_RETRIES": "0",
            "PIP_TIMEOUT": str(DEADLINE),
            "PIP_INDEX_URL": f"http://127.0.0.1:{self.server.getsockname()[1]}/simple",
        }

    def wait_for_pip(self) -> socket.socket:
        connection, _ = self.server.accept()
        return connection


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    folder = tmp_path_factory.mktemp("wheels")
    made = [("alpha", "1.0"), ("alpha", "2.0"), ("beta", "1.0")]
    return Wheels(folder, {f"{n}-{v}": make_wheel(folder, n, v) for n, v in made})


@pytest.fixture(scope="session")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    (folder / "python3.14").symlink_to(PYTHON)  # the name that is tried first
    return folder


@pytest.fixture(scope="session")
def first_start(
    tmp_path_factory: pytest.TempPathFactory, wheels: Wheels, bin_folder: Path
) -> tuple[Tree, Started]:
    """A tree in a folder with spaces, and its first start; others take copies."""
    tree = make_tree(tmp_path_factory.mktemp("a tree") / "with spaces", wheels, bin_folder)
    return tree, tree.start("first")


@pytest.fixture
def ready(first_start: tuple[Tree, Started]) -> Tree:
    """The tree that was started before, for tests that change nothing in it."""
    return first_start[0]


@pytest.fixture
def tree(
    tmp_path: Path, first_start: tuple[Tree, Started], wheels: Wheels, bin_folder: Path
) -> Tree:
    """A tree of this test alone that was started before."""
    shutil.copytree(first_start[0].root, tmp_path / "moved here", symlinks=True)
    return Tree(tmp_path / "moved here", wheels, bin_folder)


@pytest.fixture
def fresh(tmp_path: Path, wheels: Wheels, bin_folder: Path) -> Tree:
    """A tree of this test alone that was never started."""
    return make_tree(tmp_path / "fresh tree", wheels, bin_folder)


@pytest.fixture
def silent_index() -> Iterator[SilentIndex]:
    index = SilentIndex()
    with index.server:
        yield index


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with what the script needs and no Python at all."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("uname", "readlink", "cmp"):
        found = shutil.which(name)
        if found:
            (folder / name).symlink_to(found)
    return folder


def test_first_start_says_in_one_line_what_it_does_and_starts(
    first_start: tuple[Tree, Started],
) -> None:
    tree, started = first_start

    assert started.code == 0
    assert started.err == (
        f"tokendash: making {tree.root}/.venv with {PYTHON} and installing requirements.txt …\n"
    )
    assert started.seen["arguments"] == ["first"]
    assert started.seen["alpha"] == "1.0"


def test_second_start_installs_nothing_even_after_the_folder_moved(tree: Tree) -> None:
    started = tree.start(PIP_FIND_LINKS="", PATH="/usr/bin:/bin")

    assert (started.code, started.err) == (0, "")
    assert started.seen["collectors"] == str(tree.root / "collectors")


def test_arguments_arrive_verbatim(ready: Tree) -> None:
    arguments = [
        "a b",
        "it's",
        '"quoted"',
        "$HOME `id` \\n",
        "two\nlines\n",
        "",
        "*",
        "-c",
        "--",
        "é",
    ]

    assert ready.start(*arguments).seen["arguments"] == arguments


def test_exit_code_is_the_programs(ready: Tree) -> None:
    assert ready.start(STAND_IN_EXIT="5").code == 5


def test_signal_reaches_the_program_itself(tree: Tree) -> None:
    (tree.root / "collectors/__main__.py").write_text(
        "import signal\nprint('ready', flush=True)\nsignal.pause()\n"
    )
    with tree.open() as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)

        assert process.wait(DEADLINE) == -signal.SIGTERM


def test_callers_folder_stays_and_nothing_in_it_is_imported(ready: Tree, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for trap in ("collectors/__main__.py", "json.py", "alpha.py"):
        (elsewhere / trap).parent.mkdir(exist_ok=True, parents=True)
        (elsewhere / trap).write_text("raise SystemExit('imported from the wrong folder')")

    started = ready.start(folder=elsewhere, PYTHONPATH=str(elsewhere), PYTHONHOME=str(elsewhere))

    assert started.code == 0, started.err
    assert started.seen["folder"] == str(elsewhere)
    assert str(elsewhere) not in started.seen["path"]


@pytest.mark.parametrize(
    "command", ["./tokendash", "../with spaces/tokendash", "tests/../tokendash"]
)
def test_relative_call_finds_its_own_folder(ready: Tree, command: str) -> None:
    started = ready.start(folder=ready.root, command=[command])

    assert started.seen["collectors"] == str(ready.root / "collectors")


def test_call_through_symlinks_finds_the_folder_behind_them(ready: Tree, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/absolute").symlink_to(ready.script)
    (tmp_path / "bin/relative").symlink_to(os.path.relpath(ready.script, tmp_path / "bin"))
    (tmp_path / "chain").symlink_to("bin/relative")

    for link in ("bin/absolute", "bin/relative", "chain"):
        started = ready.start("x", folder=tmp_path, command=[tmp_path / link])
        assert started.seen["collectors"] == str(ready.root / "collectors")
    by_name = ready.start(command=["absolute"], PATH=f"{tmp_path}/bin:/usr/bin:/bin")
    assert by_name.seen["collectors"] == str(ready.root / "collectors")


@pytest.mark.parametrize("shell", SHELLS_HERE)
def test_every_shell_starts_it(ready: Tree, shell: str) -> None:
    started = ready.start("a b", command=[*shell.split(), ready.script])

    assert (started.code, started.err) == (0, "")
    assert started.seen["arguments"] == ["a b"]


def test_warm_start_runs_cmp_and_python_and_nothing_else(ready: Tree, tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    started = ready.start(
        command=[need("strace"), "-f", "-qq", "-e", "trace=execve", "-o", trace, ready.script]
    )

    assert started.code == 0
    programs = [
        Path(line.split('"')[1]).name for line in trace.read_text().splitlines() if " = 0" in line
    ]
    assert programs == ["tokendash", "cmp", "python"]


def test_changed_requirements_are_installed_once(tree: Tree) -> None:
    tree.require("alpha-2.0")

    changed, again = tree.start(), tree.start()

    assert changed.err == "tokendash: installing requirements.txt …\n"
    assert changed.seen["alpha"] == "2.0"
    assert again.err == ""


def test_wrong_hash_is_refused_by_name_and_the_old_set_still_starts(tree: Tree) -> None:
    before = (tree.root / "requirements.txt").read_bytes()
    (tree.root / "requirements.txt").write_text(f"alpha==2.0 --hash=sha256:{'0' * 64}\n")

    refused = tree.start()
    (tree.root / "requirements.txt").write_bytes(before)
    old = tree.start(PIP_FIND_LINKS="")

    assert refused.code == 1
    assert refused.out == ""
    assert "alpha==2.0" in refused.err
    assert "DO NOT MATCH THE HASHES" in refused.err
    assert "could not install requirements.txt" in refused.err
    assert (old.code, old.err) == (0, "")
    assert old.seen["alpha"] == "1.0"


def test_requirement_without_hash_is_refused(tree: Tree) -> None:
    (tree.root / "requirements.txt").write_text("alpha==2.0\n")

    refused = tree.start()

    assert refused.code == 1
    assert "alpha==2.0" in refused.err


def test_two_first_starts_at_once_both_succeed_with_one_installation(fresh: Tree) -> None:
    with fresh.open("1") as one, fresh.open("2") as two:
        results = [
            (*process.communicate(timeout=DEADLINE), process.returncode) for process in (one, two)
        ]

    assert [code for _, _, code in results] == [0, 0]
    assert [json.loads(out)["arguments"] for out, _, _ in results] == [["1"], ["2"]]
    assert sum("making" in err for _, err, _ in results) == 1


def test_start_waits_while_another_holds_the_lock(tree: Tree) -> None:
    tree.require("alpha-2.0")
    with (tree.root / ".venv/.tokendash/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with tree.open() as process:
            assert process.stderr is not None
            told = process.stderr.readline()
            running = process.poll() is None
            fcntl.flock(lock, fcntl.LOCK_UN)
            out, _ = process.communicate(timeout=DEADLINE)

    assert told == "tokendash: waiting for another start that is installing …\n"
    assert running
    assert json.loads(out)["alpha"] == "2.0"


def test_killed_while_making_the_environment_the_next_start_makes_it_anew(fresh: Tree) -> None:
    with fresh.open() as process:
        wait_until((fresh.root / ".venv/pyvenv.cfg").exists)
        os.killpg(process.pid, signal.SIGKILL)

    started = fresh.start()

    assert started.code == 0, started.err
    assert started.seen["alpha"] == "1.0"


def test_killed_during_pip_a_half_changed_environment_is_never_trusted(
    tree: Tree, silent_index: SilentIndex
) -> None:
    before = (tree.root / "requirements.txt").read_bytes()
    tree.require("alpha-2.0")
    with tree.open(**silent_index.settings) as process, silent_index.wait_for_pip():
        os.killpg(process.pid, signal.SIGKILL)
    # What a kill inside pip can leave: pip's own records say installed, the files are gone. And
    # the requirements are again those of the last complete installation.
    [module] = (tree.root / ".venv").glob("lib/python*/site-packages/alpha.py")
    module.unlink()
    (tree.root / "requirements.txt").write_bytes(before)

    started = tree.start()

    assert started.code == 0, started.err
    assert started.seen["alpha"] == "1.0"


@pytest.mark.skipif(sys.platform != "linux", reason="finds child processes through /proc")
def test_pip_that_lost_its_starter_is_waited_for(tree: Tree, silent_index: SilentIndex) -> None:
    tree.require("alpha-2.0")
    with tree.open(**silent_index.settings) as process, silent_index.wait_for_pip():
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        with tree.open() as second:
            assert second.stderr is not None
            told = second.stderr.readline()
            os.killpg(process.pid, signal.SIGKILL)  # now pip itself
            out, _ = second.communicate(timeout=DEADLINE)

    assert told == "tokendash: waiting for another start that is installing …\n"
    assert json.loads(out)["alpha"] == "2.0"


def test_interrupt_during_pip_ends_with_130_and_keeps_the_old_set(
    tree: Tree, silent_index: SilentIndex
) -> None:
    tree.require("alpha-2.0")
    with tree.open(**silent_index.settings) as process, silent_index.wait_for_pip():
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE)

    tree.require("alpha-1.0")
    old = tree.start(PIP_FIND_LINKS="")

    assert process.returncode in (130, -signal.SIGINT)  # the shell's choice
    assert "Traceback" not in err
    assert (old.err, old.seen["alpha"]) == ("", "1.0")


def test_vanished_interpreter_makes_the_environment_anew(tree: Tree) -> None:
    [link] = (tree.root / ".venv/bin").glob(f"{Path(PYTHON).name}")
    link.unlink()
    link.symlink_to(tree.root / "gone")
    python = tree.root / ".venv/bin/python"
    python.unlink()
    python.symlink_to(link.name)

    started = tree.start()

    assert started.code == 0, started.err
    assert "making" in started.err
    assert tree.start().err == ""


def test_environment_of_another_interpreter_is_not_started(tree: Tree, tools: Path) -> None:
    record = tree.root / ".venv/.tokendash/python"
    record.write_text("/usr/bin/python3.99\n\n")  # bin/python leads elsewhere since an upgrade

    refused = tree.start(PATH=str(tools))

    assert refused.code == 2  # it looks for a Python to make .venv with, and finds none
    assert "was not found" in refused.err


def test_python_can_be_chosen(tree: Tree) -> None:
    chosen = tree.start(TOKENDASH_PYTHON=PYTHON)
    again = tree.start(TOKENDASH_PYTHON=PYTHON, PIP_FIND_LINKS="")

    assert chosen.code == 0, chosen.err
    assert "making" not in chosen.err  # it is the one that made this environment
    assert (again.code, again.err) == (0, "")


def test_environment_can_lie_elsewhere(tree: Tree, tmp_path: Path) -> None:
    (tree.root / ".venv").rename(tmp_path / "outside")

    absolute = tree.start(TOKENDASH_VENV=str(tmp_path / "outside"))
    relative = tree.start(TOKENDASH_VENV="outside", folder=tmp_path)

    assert (absolute.code, absolute.err, relative.code, relative.err) == (0, "", 0, "")
    assert not (tree.root / ".venv").exists()


def test_folder_with_other_things_is_refused_and_untouched(fresh: Tree, tmp_path: Path) -> None:
    precious = tmp_path / "home" / "bin" / "precious"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")

    refused = fresh.start(TOKENDASH_VENV=str(tmp_path / "home"))

    assert refused.code == 2
    assert "holds other things than a Python environment" in refused.err
    assert list(tmp_path.glob("home/**/*")) == [precious.parent, precious]


def test_broken_environment_of_someone_else_is_refused_and_untouched(
    fresh: Tree, tmp_path: Path
) -> None:
    (tmp_path / "theirs/lib").mkdir(parents=True)
    (tmp_path / "theirs/pyvenv.cfg").write_text("home = /nowhere\n")

    refused = fresh.start(TOKENDASH_VENV=str(tmp_path / "theirs"))

    assert refused.code == 2
    assert "does not start or has no pip" in refused.err
    assert (tmp_path / "theirs/lib").is_dir()


def test_folder_that_cannot_be_written_is_named_with_the_way_out(
    fresh: Tree, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()

    refused = fresh.start(TOKENDASH_VENV=str(tmp_path / "a file" / "venv"))

    assert refused.code == 2
    assert "Not a directory" in refused.err
    assert "Set TOKENDASH_VENV to a folder that can be written." in refused.err


@pytest.mark.parametrize(
    ("system", "line"),
    [
        ("ID=debian\nVERSION_ID=12\n", "apt-get install python3 python3-venv"),
        (
            'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\n',
            "apt-get install python3.11 python3.11-venv",
        ),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "apt-get install python3 python3-venv"),
        ("ID=fedora\nVERSION_ID=41\n", "dnf install python3"),
        (
            'ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="9.4"\n',
            "dnf install python3.11",
        ),
        ('ID="amzn"\nID_LIKE="fedora"\nVERSION_ID="2023"\n', "dnf install python3.11"),
        ("ID=alpine\nVERSION_ID=3.20.0\n", "apk add python3"),
        ("ID=arch\n", "pacman -S python"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "zypper install python311"),
        ("ID=unheard-of\n", "Install Python 3.11 or newer."),
    ],
)
@pytest.mark.skipif(sys.platform == "darwin", reason="there it is brew whatever os-release says")
def test_missing_python_is_named_with_the_line_that_brings_it(
    fresh: Tree, tools: Path, system: str, line: str
) -> None:
    (tools / "release").write_text(system)

    refused = fresh.start(PATH=str(tools), TOKENDASH_OS_RELEASE=str(tools / "release"))

    assert refused.code == 2
    assert refused.err.splitlines() == [
        "tokendash: Python 3.11 or newer was not found.",
        f"    {line}",
        "    If you have one elsewhere, set TOKENDASH_PYTHON to its path.",
    ]


def test_old_python_is_named_with_its_version(fresh: Tree, tools: Path) -> None:
    fake(tools / "python3", "3.9")
    fake(tools / "python", "2.7")

    refused = fresh.start(PATH=str(tools))

    assert refused.code == 2
    assert "(python3 is 3.9, python is 2.7)" in refused.err


@pytest.mark.parametrize(
    ("modules", "system", "line"),
    [
        ("ensurepip", "ID=debian\nVERSION_ID=12\n", "apt-get install python3.12-venv"),
        ("venv ensurepip", "ID=ubuntu\nVERSION_ID=24.04\n", "apt-get install python3.12-venv"),
        (
            "_sqlite3",
            "ID=debian\n",
            "Install a complete Python 3.12: the module(s) _sqlite3",
        ),
    ],
)
@pytest.mark.skipif(sys.platform == "darwin", reason="there it is brew whatever os-release says")
def test_python_without_a_module_is_named_with_the_package(
    fresh: Tree, tools: Path, modules: str, system: str, line: str
) -> None:
    (tools / "release").write_text(system)
    fake(tools / "python3.12", f"3.12\\n{modules}")

    refused = fresh.start(PATH=str(tools), TOKENDASH_OS_RELEASE=str(tools / "release"))

    assert refused.code == 2
    assert f"python3.12 (Python 3.12) lacks: {modules}" in refused.err
    assert line in refused.err
    assert not (fresh.root / ".venv").exists()


def test_complete_python_is_preferred_to_a_newer_one_without_venv(tree: Tree, tools: Path) -> None:
    fake(tools / "python3.14", "3.14\\nensurepip")
    fake(tools / "python3.13", "")  # a shim for a version that is not there
    (tools / "python3.12").symlink_to(PYTHON)
    (tree.root / ".venv/.tokendash/python").unlink()

    started = tree.start(PATH=f"{tools}:/usr/bin:/bin")

    assert started.code == 0, started.err


def test_chosen_python_that_is_none_is_named(fresh: Tree) -> None:
    refused = fresh.start(TOKENDASH_PYTHON="/usr/bin/env")

    assert refused.code == 2
    assert "TOKENDASH_PYTHON=/usr/bin/env is not a Python 3.11 or newer." in refused.err


def test_windows_shells_are_sent_to_py(fresh: Tree, tools: Path) -> None:
    (tools / "uname").unlink()
    (tools / "uname").write_text("#!/bin/sh\necho MINGW64_NT-10.0\n")
    (tools / "uname").chmod(0o755)

    refused = fresh.start(PATH=str(tools))

    assert refused.code == 2
    assert "py -m collectors" in refused.err


def test_incomplete_checkout_is_named(fresh: Tree) -> None:
    (fresh.root / "requirements.txt").unlink()

    refused = fresh.start()

    assert refused.code == 2
    assert f"{fresh.root}/requirements.txt is missing." in refused.err


def test_test_command_adds_the_dev_set_and_passes_arguments(tree: Tree) -> None:
    tree.require("alpha-1.0", "beta-1.0", file="requirements-dev.txt")

    first = tree.start("test", "-k", "a b", "--soak")
    again = tree.start("test", PIP_FIND_LINKS="")
    normal = tree.start(PIP_FIND_LINKS="")

    assert first.err == "tokendash: installing requirements.txt and requirements-dev.txt …\n"
    assert first.seen == {"tests": ["-k", "a b", "--soak"]}
    assert (again.err, again.seen) == ("", {"tests": []})
    assert normal.err == ""


def test_dev_set_that_contradicts_the_runtime_set_is_refused(tree: Tree) -> None:
    tree.require("alpha-2.0", file="requirements-dev.txt")

    refused = tree.start("test")

    assert refused.code == 1
    assert "alpha" in refused.err
    assert tree.start().seen["alpha"] == "1.0"


def make_tree(root: Path, wheels: Wheels, bin_folder: Path) -> Tree:
    """A checkout that was never started."""
    (root / "collectors").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "collectors/__init__.py").touch()
    (root / "collectors/__main__.py").write_text(MAIN)
    (root / "tests/run.py").write_text(RUN)
    shutil.copy2(ROOT / "tokendash", root)
    tree = Tree(root, wheels, bin_folder)
    tree.require("alpha-1.0")
    return tree


def make_wheel(folder: Path, name: str, version: str) -> str:
    """Write a wheel of one module; return its locked line."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={checksum(text)},{len(text)}\n" for path, text in files.items()
    )
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(inside, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def checksum(text: str) -> str:
    """The checksum a wheel's RECORD wants."""
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def fake(path: Path, answer: str) -> None:
    """A program that answers every question like a Python of some version."""
    path.write_text(f"#!/bin/sh\nprintf '{answer}\\n'\n")
    path.chmod(0o755)


def wait_until(condition: Any) -> None:
    """Return as soon as the condition holds; the test fails if it never does."""
    ends = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)
