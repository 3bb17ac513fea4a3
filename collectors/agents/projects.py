"""Which project a working folder belongs to: its git remote, else its repository, else its path."""

from __future__ import annotations

import re
from pathlib import Path

_SCP = re.compile(r"^(?:[^@/]+@)?([\w.-]+):(?!//)(.+)$")
_URL = re.compile(r"^[a-z+]+://(?:[^/]*@)?([^/:@]+)(?::\d+)?/(.+)$")
_LONGEST = 4096  # PATH_MAX: a longer one names no folder


def remote_name(url: str) -> str:
    """A git remote as `host/path`: the same for every protocol, without user, password or port."""
    url = url.strip()
    match = _URL.match(url) or _SCP.match(url)
    if not match:
        return ""
    host, path = match.groups()
    path = re.split(r"[?#]", path, maxsplit=1)[0]
    if "@" in path:  # a password with a slash in it: better no name than half a secret
        return ""
    return f"{host.lower()}/{path.strip('/').removesuffix('.git')}"


class ProjectFinder:
    """Answers per folder once; reads `.git` files only, runs nothing."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def project_of(self, folder: str) -> str:
        """The project of a working folder; a folder that is gone is its own project."""
        found = self._known.get(folder)
        if found is None:
            found = self._known[folder] = self._find(folder) if folder else ""
        return found

    def _find(self, folder: str) -> str:
        path = Path(folder)
        if not path.is_absolute() or len(folder) > _LONGEST:
            return folder
        for candidate in (path, *path.parents):
            git = candidate / ".git"
            try:
                if git.is_dir():
                    return self._identify(candidate, git)
                if git.is_file():
                    return self._of_worktree(candidate, git)
            except OSError:
                continue
        return folder

    def _of_worktree(self, root: Path, git: Path) -> str:
        """A worktree or submodule: `.git` is a file that names the real folder."""
        text = git.read_text(encoding="utf-8", errors="replace").strip()
        target = (root / text.removeprefix("gitdir:").strip()).resolve()
        common = target / "commondir"
        if common.is_file():  # a worktree belongs to the repository it was made from
            target = (target / common.read_text(encoding="utf-8").strip()).resolve()
            return self._identify(target.parent if target.name == ".git" else target, target)
        return self._identify(root, target)

    @staticmethod
    def _identify(root: Path, git: Path) -> str:
        """Remote `origin`, else the first remote, else the folder."""
        try:
            text = (git / "config").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return str(root)
        remotes: dict[str, str] = {}
        section = ""
        for line in map(str.strip, text.splitlines()):
            if line.startswith("["):
                match = re.match(r'\[remote "(.+)"\]', line)
                section = match[1] if match else ""
            elif section and re.match(r"url\s*=", line):
                remotes.setdefault(section, remote_name(line.partition("=")[2]))
        named = remotes.get("origin") or next((name for name in remotes.values() if name), "")
        return named or str(root)
