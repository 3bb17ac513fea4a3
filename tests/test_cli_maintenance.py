"""`backup` and `prune` as real processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from collectors.ledger.checks import verify
from collectors.ledger.files import WriterLock, open_reader
from tests.support.commands import Installation
from tests.support.ledgers import point


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    found = Installation(tmp_path / "home of ada")
    found.fill(
        point("a", "2026-02-10T08:00"),
        point("b", "2026-02-10T09:00"),
        point("c", "2026-02-10T23:30"),  # the 11th in Berlin
    )
    return found


# -- backup ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "place"),
    [
        ("--to=~/copy.db", "copy.db"),
        ("--to=copy.db", "copy.db"),
        ("--to=new/folder/../copy.db", "new/copy.db"),
    ],
)
def test_a_backup_is_where_its_name_says_and_nothing_else_is(
    installation: Installation, to: str, place: str
) -> None:
    before = {path for path in installation.home.rglob("*") if path.is_file()}

    done = installation.run("backup", to)

    target = installation.home / place
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{target}, {target.stat().st_size:,} bytes, verified\n"
    with contextlib.closing(open_reader(target)) as db:
        assert verify(db, is_full_check=True) == []
    after = {path for path in installation.home.rglob("*") if path.is_file()}
    assert {path for path in after - before if path.suffix != ".db-shm"} - {
        Path(f"{target}-wal"),
        Path(f"{installation.ledger}-wal"),
    } == {target}
    assert not list(target.parent.glob(".tokendash-*"))


@pytest.mark.parametrize("to", ["--to=~/mine.db", "--to=mine.db"])
def test_a_backup_replaces_no_file(installation: Installation, to: str) -> None:
    mine = installation.home / "mine.db"
    mine.write_text("my thesis")

    done = installation.run("backup", to)

    assert (done.returncode, mine.read_text()) == (2, "my thesis")
    assert done.stderr == f"tokendash: {mine} exists already\n  name a new file\n"


def test_a_backup_into_a_file_instead_of_a_folder_is_a_mistake(installation: Installation) -> None:
    (installation.home / "mine").write_text("my thesis")

    done = installation.run("backup", "--to=mine/copy.db")

    assert done.returncode == 2
    assert f"the folder {installation.home}/mine cannot be made" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_backup_into_a_folder_of_somebody_else_is_a_mistake(installation: Installation) -> None:
    folder = installation.home / "theirs"
    folder.mkdir(mode=0o500)

    done = installation.run("backup", "--to=theirs/copy.db")

    assert done.returncode == 2
    assert f"{folder} cannot be written by this user" in done.stderr


# -- prune ----------------------------------------------------------------------------------------


def send_nothing_to(installation: Installation) -> None:
    """Make a target known that was never sent anything."""
    ledger = installation.open()
    ledger.outbox.target("http://127.0.0.1:9", "tokens", "tokendash")
    ledger.close()


def test_a_plan_is_shown_while_another_process_writes(installation: Installation) -> None:
    with WriterLock(installation.ledger):
        done = installation.run("prune", "--dry-run", "--older-than=1")

    assert done.returncode == 0, done.stderr
    assert done.stdout == ("3 records of 2 days become 2; 0 points of them were never sent\n")


def test_what_was_never_sent_is_folded_only_when_that_is_said(installation: Installation) -> None:
    send_nothing_to(installation)

    refused = installation.run("prune", "--older-than=1")
    done = installation.run("prune", "--older-than=1", "--fold-unsent")
    again = installation.run("prune", "--older-than=1", "--dry-run")

    assert refused.returncode == 1
    assert "have not reached InfluxDB yet" in refused.stderr
    assert "tokendash prune --fold-unsent" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("folded 3 records into 2\n")
    assert again.stdout.startswith("0 records of 0 days become 0;")


def test_nothing_is_folded_while_another_process_writes(installation: Installation) -> None:
    with WriterLock(installation.ledger):
        done = installation.run("prune", "--older-than=1")

    assert done.returncode == 5
