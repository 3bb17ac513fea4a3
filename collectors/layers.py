"""Settings as written: environment, then `.env`, then `tokendash.yaml`, with their origins.

Nothing here needs pydantic, and what reads a kind of file is imported when there is such a file, so
that quick commands can find the few values they need. `settings.py` checks and completes them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from collectors.errors import SettingsError

if TYPE_CHECKING:
    from pydantic import BaseModel

PREFIX = "TOKENDASH_"
REPOSITORY = Path(__file__).resolve().parent.parent

M = TypeVar("M", bound="BaseModel")

# Lines of `.env` that mean the same to everybody; a file with any other line is left to dotenv.
_PLAIN_LINE = re.compile(
    r"(?:export +)?((?!export\b)[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*"
    r"""((?:(?!["'#\\`])[!-~])*)[ \t]*"""
)


@dataclass(frozen=True)
class Value:
    """One raw setting and where it was found."""

    text: Any
    origin: str


@dataclass(frozen=True)
class Layers:
    """All settings as they were written, nearest first; validated by `load`."""

    environ: Mapping[str, str]
    files: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    notes: tuple[str, ...] = ()
    used: dict[str, str] = field(default_factory=dict)

    def find(self, name: str, *, is_secret: bool = False) -> Value | None:
        """The nearest non-empty value of a setting, its `TOKENDASH_` form or its `_FILE` form."""
        for origin, values in (("environment", self.environ), *self.files):
            for key in (PREFIX + name, name):
                value = values.get(key)
                if value is not None and value != "":
                    return Value(_expand(value, self.environ), f"{origin} ({key})")
            if is_secret:
                for key in (PREFIX + name + "_FILE", name + "_FILE"):
                    path = values.get(key)
                    if path:
                        return Value(read_secret(name, Path(str(path))), f"file named by {key}")
        return None

    def load(self, model: type[M], prefix: str = "") -> M:
        """Validate the settings of one model.

        Raises:
            SettingsError: names every wrong setting and its origin, never a value.
        """
        from collectors.settings import load  # quick commands never come here

        return load(self, model, prefix)


def read_secret(name: str, path: Path) -> str:
    """The content of a secret's file, trimmed.

    Raises:
        SettingsError: the file cannot be read or is empty.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(
            f"{name}_FILE names {path}, which cannot be read: {reason}",
            f"make the file readable, or set {name} directly",
        ) from None
    if not text:
        raise SettingsError(f"{name}_FILE names {path}, which is empty", "write the secret into it")
    return text


def _expand(value: Any, environ: Mapping[str, str]) -> Any:
    """`${NAME}` inside a value, from the environment; an unset name stays as written."""
    if isinstance(value, str) and "${" in value:
        return re.sub(r"\$\{(\w+)\}", lambda m: environ.get(m[1], m[0]), value)
    return value


def read_layers(
    environ: Mapping[str, str], *, config_dir: Path, repository: Path = REPOSITORY
) -> Layers:
    """Collect the settings of environment, `.env` and `tokendash.yaml`.

    Only the configuration folder and the repository are looked at, never the folder a command is
    called in.

    Raises:
        SettingsError: a file cannot be read or is not what its name says.
    """
    files: list[tuple[str, Mapping[str, Any]]] = []
    notes: list[str] = []
    folders = [config_dir]
    if (repository / "requirements.txt").exists():
        folders.append(repository)
    for folder in folders:
        path = folder / ".env"
        if path.is_file():
            mode = path.stat().st_mode
            if mode & (stat.S_IRGRP | stat.S_IROTH) and os.name == "posix":
                notes.append(f"{path} can be read by other users: chmod 600 {path}")
            files.append((str(path), read_env_file(path)))
    for folder in folders:
        path = folder / "tokendash.yaml"
        if path.is_file():
            files.append((str(path), _read_yaml(path)))
    return Layers(environ, tuple(files), tuple(notes))


def read_env_file(path: Path) -> Mapping[str, Any]:
    """The settings of a `.env` file; a name without `=` has the value None.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be read ({type(error).__name__})", "make it a readable UTF-8 file"
        ) from None
    values: dict[str, Any] = {}
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        found = _PLAIN_LINE.fullmatch(line)
        if found is None:
            import io

            from dotenv import dotenv_values

            return dotenv_values(stream=io.StringIO(text), interpolate=False)
        values[found[1]] = found[2]
    return values


def _read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{path} cannot be read{where}", "correct the file's YAML") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} is not a mapping of settings", "write `NAME: value` lines")
    settings = content.get("settings", {})
    if not isinstance(settings, dict):
        raise SettingsError(f"{path}: `settings` is not a mapping", "write `NAME: value` lines")
    return {str(key).upper(): value for key, value in settings.items()}
