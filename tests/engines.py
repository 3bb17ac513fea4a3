"""The programs from Debian that tests run: one list, and what happens where one is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

POLICY = Path("/usr/sbin/policy-rc.d")


class Engine(NamedTuple):
    """A program that tests start, and the Debian package that brings it."""

    command: str
    package: str


# Add the one line here when the first test needs another.
ENGINES = (
    Engine("influxd", "influxdb"),
    Engine("strace", "strace"),
    Engine("faketime", "faketime"),
)


def is_obliged() -> bool:
    """Must every engine be there? On a CI that may install it, yes: a skip there hides a hole."""
    return os.environ.get("CI", "").lower() in ("1", "true") and os.geteuid() == 0


def missing_engines() -> list[Engine]:
    """Engines this machine does not have."""
    return [engine for engine in ENGINES if shutil.which(engine.command) is None]


def need(command: str) -> str:
    """Path of an engine; without it the test is skipped by name, or fails where it is obliged."""
    [engine] = (engine for engine in ENGINES if engine.command == command)
    found = shutil.which(command)
    if found is None:
        message = f"{command} is missing: apt-get install {engine.package}"
        if is_obliged():
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return found


def install(engines: Sequence[Engine], policy: Path = POLICY) -> bool:
    """Install engines from Debian, as root; the services of their packages are not started."""
    packages = [engine.package for engine in engines]
    apt = ("apt-get", "-o", "DPkg::Lock::Timeout=300", "-q", "-y")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services(policy):
        for command in (["update"], ["install", "--no-install-recommends", *packages]):
            try:
                done = subprocess.run(
                    [*apt, *command], check=False, env=env, stdin=subprocess.DEVNULL
                )
            except FileNotFoundError:
                print("apt-get is missing: install by hand:", *packages, file=sys.stderr)
                return False
            if done.returncode:
                return False
    return True


@contextmanager
def _no_services(policy: Path) -> Iterator[None]:
    """Debian's own way to say that no package may start its service: tests start their own."""
    if policy.exists() or not policy.parent.is_dir():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)
