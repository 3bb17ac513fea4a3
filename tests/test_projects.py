"""Which project a folder belongs to; a remote's secret never leaves its file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from collectors.agents.projects import ProjectFinder, remote_name


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "shop"
    (root / "src" / "deep").mkdir(parents=True)
    git(root, "init", "-q")
    git(root, "commit", "-q", "--allow-empty", "-m", "first")
    return root


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("git@github.com:acme/shop.git", "github.com/acme/shop"),
        ("ssh://git@github.com/acme/shop.git", "github.com/acme/shop"),
        ("ssh://git@GitHub.com:22/acme/shop", "github.com/acme/shop"),
        ("https://github.com/acme/shop.git", "github.com/acme/shop"),
        ("https://github.com/acme/shop/", "github.com/acme/shop"),
        ("https://me:s3cret@github.com/acme/shop.git", "github.com/acme/shop"),
        ("https://me:s3@cret@github.com/acme/shop.git", "github.com/acme/shop"),
        ("https://s3cret@dev.azure.com/acme/shop/_git/shop", "dev.azure.com/acme/shop/_git/shop"),
        ("https://github.com/acme/shop?token=s3cret", "github.com/acme/shop"),
        ("https://github.com/acme/shop#s3cret", "github.com/acme/shop"),
        ("https://me:s3/cret@github.com/acme/shop.git", ""),
        ("https://me:22/s3cret@github.com/acme/shop.git", ""),
        ("me:s3cret@github.com:acme/shop.git", "github.com/acme/shop"),
        ("github.com:acme/shop", "github.com/acme/shop"),
        ("git://git.example.org/shop.git", "git.example.org/shop"),
        ("/srv/git/shop.git", ""),
        ("../shop", ""),
        ("file:///srv/git/shop.git", ""),
        ("", ""),
    ],
)
def test_a_remote_has_one_name_for_every_protocol_and_no_secret(url: str, name: str) -> None:
    assert remote_name(url) == name
    assert "s3" not in remote_name(url)
    assert "cret" not in remote_name(url)


def test_a_repository_is_its_remote(repository: Path) -> None:
    git(repository, "remote", "add", "upstream", "https://github.com/other/shop.git")
    git(repository, "remote", "add", "origin", "https://me:s3cret@github.com/acme/shop.git")

    assert ProjectFinder().project_of(str(repository / "src" / "deep")) == "github.com/acme/shop"


def test_without_an_origin_the_first_remote_with_a_name_counts(repository: Path) -> None:
    git(repository, "remote", "add", "backup", "/srv/git/shop.git")
    git(repository, "remote", "add", "upstream", "git@github.com:other/shop.git")

    assert ProjectFinder().project_of(str(repository)) == "github.com/other/shop"


def test_without_a_remote_a_repository_is_its_root(repository: Path) -> None:
    assert ProjectFinder().project_of(str(repository / "src" / "deep")) == str(repository)


def test_a_worktree_belongs_to_its_repository(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "elsewhere"))
    without_remote = ProjectFinder().project_of(str(tmp_path / "elsewhere"))
    git(repository, "remote", "add", "origin", "git@github.com:acme/shop.git")

    assert without_remote == str(repository)
    assert ProjectFinder().project_of(str(tmp_path / "elsewhere")) == "github.com/acme/shop"


def test_a_worktree_of_a_bare_repository_belongs_to_that(repository: Path, tmp_path: Path) -> None:
    bare = tmp_path / "shop.git"
    git(tmp_path, "clone", "-q", "--bare", str(repository), str(bare))
    git(bare, "worktree", "add", "-q", str(tmp_path / "tree"))

    assert ProjectFinder().project_of(str(tmp_path / "tree")) == str(bare)


def test_a_folder_that_is_gone_is_its_own_project(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone" / "deep")

    assert ProjectFinder().project_of(gone) == gone


def test_a_folder_is_looked_at_once(repository: Path) -> None:
    finder = ProjectFinder()
    before = finder.project_of(str(repository))
    git(repository, "remote", "add", "origin", "git@github.com:acme/shop.git")

    assert finder.project_of(str(repository)) == before


@pytest.mark.parametrize(
    "folder",
    ["", "relative/path", "C:\\Users\\me\\app", "/a\0b", "/" + "a/" * 500_000, "/" + "a" * 300],
    ids=["empty", "relative", "windows", "nul", "very long", "long name"],
)
def test_whatever_stands_there_as_a_folder_costs_no_crash_and_no_time(folder: str) -> None:
    assert ProjectFinder().project_of(folder) == folder


def test_a_broken_git_folder_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: /nowhere/at/all\n")

    assert ProjectFinder().project_of(str(tmp_path)) == str(tmp_path)
