"""Locks, the wheel and the CI's door."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import collectors

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = ("requirements", "requirements-dev")
# What a lock may consist of. A local path, an index or the name of a host fits none of these.
LOCK_LINE = re.compile(
    r"""[a-z0-9.-]+(\[[a-z0-9,-]+\])?==[a-z0-9.]+(\ ;\ [a-zA-Z0-9_.<>='!()\ ]+)?\ \\
    |\ \ \ \ --hash=sha256:[0-9a-f]{64}(\ \\)?
    |\ \ \ \ \#\ (via(\ .*)?|\ \ .+)""",
    re.VERBOSE,
)
ORIGIN = re.compile(r"(-[cr] )?[a-z0-9.-]+")


def asked(name: str) -> list[Requirement]:
    """Requirements a person wrote into an .in file."""
    lines = (line.partition("#")[0].strip() for line in read(f"{name}.in"))
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def locked(name: str) -> dict[str, str]:
    """Package to its block of lines in a lock, with hashes and without origins."""
    blocks: dict[str, str] = {}
    package = ""
    for line in read(f"{name}.txt"):
        if not line.startswith(" "):
            package = canonicalize_name(re.split(r"[\[=]", line)[0])
            assert package not in blocks
            blocks[package] = ""
        if not line.startswith("    #"):
            blocks[package] += line.removesuffix(" \\") + "\n"
    return blocks


def read(name: str) -> list[str]:
    """Lines of a file at the top of the repository."""
    return (ROOT / name).read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_and_says_what_it_is_for(name: str) -> None:
    for line in read(f"{name}.in"):
        if line and not line.startswith(("#", "-")):
            assert re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?==[0-9.]+ +# \S.*", line), line


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_what_is_asked_for_at_that_version_with_hashes(name: str) -> None:
    blocks = locked(name)

    for requirement in asked(name):
        block = blocks[canonicalize_name(requirement.name)]
        assert str(requirement.specifier) in block.splitlines()[0]
    for package, block in blocks.items():
        assert "--hash=sha256:" in block, package


@pytest.mark.parametrize("name", LOCKS)
def test_lock_names_no_place_packages_come_from(name: str) -> None:
    for line in read(f"{name}.txt"):
        assert LOCK_LINE.fullmatch(line), line
        if line.startswith("    #"):
            origin = line.removeprefix("    #").strip().removeprefix("via").strip()
            assert not origin or ORIGIN.fullmatch(origin), line


def test_dev_set_holds_the_runtime_set_unchanged() -> None:
    runtime, dev = locked("requirements"), locked("requirements-dev")

    assert {package: dev.get(package) for package in runtime} == runtime


def test_package_asks_for_what_is_pinned_with_room() -> None:
    ranges = {
        canonicalize_name(requirement.name): requirement
        for requirement in map(Requirement, PYPROJECT["project"]["dependencies"])
    }

    pins = {
        canonicalize_name(requirement.name): requirement for requirement in asked("requirements")
    }
    assert ranges.keys() == pins.keys()
    for name, pin in pins.items():
        [exact] = pin.specifier
        assert exact.version in ranges[name].specifier
        assert pin.extras == ranges[name].extras


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """The wheel, built from this tree without the network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [path] = folder.iterdir()
    return zipfile.Path(path)


def metadata(wheel: zipfile.Path, name: str) -> str:
    """One file of the wheel's own records."""
    version = collectors.__version__
    return (wheel / f"tokendash-{version}.dist-info" / name).read_text("utf-8")


def test_wheel_holds_the_one_package_and_nothing_else(wheel: zipfile.Path) -> None:
    info = f"tokendash-{collectors.__version__}.dist-info"

    assert {part.name for part in wheel.iterdir()} == {"collectors", info}


def test_wheel_holds_every_file_of_the_package(wheel: zipfile.Path) -> None:
    names = {
        name for name in wheel.root.namelist() if not name.endswith("/")
    }  # folders are implied
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "collectors").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "Dockerfile"
    }

    assert package <= names
    grafana = {f"collectors/data/{name}" for name in provisioned()}
    assert names - package - {name for name in names if ".dist-info/" in name} == grafana


def test_wheel_hands_out_the_dashboards_of_this_tree(wheel: zipfile.Path) -> None:
    assert any(name.endswith("dashboards/token_usage.json") for name in provisioned())
    for name in provisioned():
        assert (wheel / "collectors/data" / name).read_bytes() == (ROOT / name).read_bytes()


def test_wheel_says_what_it_is(wheel: zipfile.Path) -> None:
    about: Message = Parser().parsestr(metadata(wheel, "METADATA"))
    entries = configparser.ConfigParser()
    entries.read_string(metadata(wheel, "entry_points.txt"))

    assert about["Version"] == collectors.__version__
    assert about["Requires-Python"] == ">=3.11"
    assert about["License-Expression"] == "MIT"
    assert dict(entries["console_scripts"]) == {"tokendash": "collectors.main:main"}


def provisioned() -> list[str]:
    """Files of Grafana that travel with the package."""
    return [
        path.relative_to(ROOT).as_posix()
        for folder in ("dashboards", "provisioning")
        for path in (ROOT / "grafana" / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


def test_ci_runs_exactly_the_test_command_wherever_it_is_called(tmp_path: Path) -> None:
    repository = tmp_path / "a clone"
    (repository / ".ci").mkdir(parents=True)
    shutil.copy2(ROOT / ".ci/run", repository / ".ci")
    (repository / "tokendash").write_text('#!/bin/sh\necho "$# $* CI=$CI"\nexit 3\n')
    (repository / "tokendash").chmod(0o755)

    done = subprocess.run(
        ["bash", repository / ".ci/run"],
        cwd=tmp_path,
        check=False,
        env=os.environ | {"CI": "true"},
        stdout=subprocess.PIPE,
        text=True,
    )

    assert (done.returncode, done.stdout) == (3, "1 test CI=true\n")
