"""Every setting there is, where its value comes from, and the documents made of that.

Nothing here shows a secret: of one that is long enough its last four characters, else that it is
set.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from collectors.base import AnyCollector
from collectors.errors import SettingsError
from collectors.layers import PREFIX, Layers
from collectors.registry import collector_types, env_prefix
from collectors.settings import HOUR_ALIASES, Settings, StackSettings, fields_of, is_secret

SHOWN_OF_SECRET = 4
LONG_ENOUGH = 20
PROGRAM = "tokendash"
STACK = "docker compose"
_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/@\s]+@")  # of an address, such as a proxy's


@dataclass(frozen=True)
class Option:
    """One setting as it is defined."""

    owner: str  # `tokendash`, or the names of the collectors that read it
    name: str
    key: str
    info: FieldInfo

    @property
    def is_secret(self) -> bool:
        """Whether its value must never be shown."""
        return is_secret(self.info)

    @property
    def description(self) -> str:
        """What it does, in one sentence."""
        return self.info.description or ""

    @property
    def default(self) -> str:
        """Its default as it would be written; empty when there is none."""
        return written(self.info.get_default(call_default_factory=True))

    @property
    def choices(self) -> tuple[str, ...]:
        """The values it may have, where they are few."""
        return tuple(str(x) for x in _literals(self.info.annotation) if x != "")


@dataclass(frozen=True)
class Present:
    """One setting as it is now."""

    option: Option
    value: str
    origin: str


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _literals(part)


def written(value: Any) -> str:
    """A value as it is written into `.env`."""
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return masked(value.get_secret_value())
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(written(item) for item in value)
    return _PASSWORD.sub(r"\1set@", str(value))


def masked(secret: str) -> str:
    """That a secret is set, and enough of a long one to tell two apart."""
    if not secret:
        return ""
    return f"set (…{secret[-SHOWN_OF_SECRET:]})" if len(secret) >= LONG_ENOUGH else "set"


def program_options() -> list[Option]:
    """Settings of the program itself."""
    return [Option(PROGRAM, name, key, info) for key, name, info in fields_of(Settings, "")]


def collector_options(kinds: Sequence[type[AnyCollector]]) -> list[Option]:
    """Settings of collectors; one that several read is listed once, with all their names."""
    found: dict[str, Option] = {}
    for kind in kinds:
        for key, name, info in fields_of(kind.options_type, env_prefix(kind)):
            owner = f"{found[name].owner}, {kind.name}" if name in found else kind.name
            found[name] = Option(owner, name, key, info)
    return list(found.values())


def stack_options() -> list[Option]:
    """Settings that only the compose stack reads."""
    return [Option(STACK, name, key, info) for key, name, info in fields_of(StackSettings, "")]


def documented_options() -> list[Option]:
    """Every setting of the program, its own collectors and the stack."""
    return program_options() + collector_options(own_kinds()) + stack_options()


def unknown_names(layers: Layers, kinds: Sequence[type[AnyCollector]]) -> dict[str, list[str]]:
    """Names in settings files that nothing reads, by file: a typing error would pass in silence."""
    options = program_options() + collector_options(kinds) + stack_options()
    known = {option.name for option in options} | set(HOUR_ALIASES)
    known |= {f"{option.name}_FILE" for option in options if option.is_secret}
    found = {}
    for origin, values in layers.files:
        names = [name for name in values if name.removeprefix(PREFIX) not in known]
        if names:
            found[origin] = sorted(names)
    return found


def own_kinds() -> list[type[AnyCollector]]:
    """The collectors that come with the program, whatever else is installed."""
    return [
        kind for kind in collector_types()[0] if kind.__module__.partition(".")[0] == "collectors"
    ]


def present(
    layers: Layers, settings: Settings, collectors: Sequence[AnyCollector]
) -> list[Present]:
    """Every setting with its value and where that came from."""
    values: dict[str, BaseModel] = {option.name: settings for option in program_options()}
    options = program_options() + collector_options([type(c) for c in collectors])
    for collector in collectors:
        kind = type(collector)
        for _, name, _ in fields_of(kind.options_type, env_prefix(kind)):
            values.setdefault(name, collector.options)
    return [
        Present(
            option,
            written(getattr(values[option.name], option.key)),
            layers.used.get(option.name, "default"),
        )
        for option in options
    ]


# -- documents ------------------------------------------------------------------------------------

_ENV_HEAD = """\
# Settings of tokendash. Copy this file to .env beside it, or into the configuration folder that
# `tokendash paths` names, and set what you need; everything has a default. Names are also read with
# TOKENDASH_ in front, secrets also from a file named by <NAME>_FILE. `tokendash config` shows what
# holds. Made from the option classes by: python -m collectors.cli.generate
"""


def env_example() -> str:
    """The content of `.env.example`."""
    lines = [_ENV_HEAD]
    lines += [_env_entry(option) for option in documented_options()]
    return "\n".join(lines).rstrip("\n") + "\n"


def _env_entry(option: Option) -> str:
    text = f"# {option.description}"
    if option.owner != PROGRAM:
        text += f" ({option.owner})"
    text += "."
    if option.choices and not all(choice in option.description for choice in option.choices):
        text += f" One of: {', '.join(option.choices)}."
    aliases = [alias for alias, name in HOUR_ALIASES.items() if name == option.name]
    if aliases:
        text += f" Also in hours: {', '.join(aliases)}."
    default = "" if option.is_secret else option.default
    return f"{text}\n#{option.name}={default}\n"


def settings_table() -> str:
    """The table of settings in the README."""
    rows = ["| Setting | Default | What it does |", "|---|---|---|"]
    for option in documented_options():
        default = f"`{option.default}`" if option.default and not option.is_secret else ""
        text = _cell(option.description)
        if option.owner != PROGRAM:
            text += f" ({option.owner})"
        rows.append(f"| `{option.name}` | {default} | {text} |")
    return "\n".join(rows)


def collectors_table() -> str:
    """The table of collectors in the README."""
    rows = ["| Collector | What it reads | Settings |", "|---|---|---|"]
    for kind in own_kinds():
        first = (kind.__doc__ or "").strip().split("\n")[0]
        names = ", ".join(f"`{option.name}`" for option in collector_options([kind]))
        rows.append(f"| `{kind.name}` | {_cell(first)} | {names} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def between(text: str, name: str, content: str, path: Path) -> str:
    """A document with what lies between two markers replaced.

    Raises:
        SettingsError: a marker is missing.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, has_begin, rest = text.partition(begin)
    _, has_end, tail = rest.partition(end)
    if not has_begin or not has_end:
        raise SettingsError(
            f"{path} has no {begin} … {end}", "put both markers where the table belongs"
        )
    return f"{head}{begin}\n{content}\n{end}{tail}"


def documents(repository: Path) -> Mapping[Path, str]:
    """Every generated document and what it should hold.

    Raises:
        SettingsError: the README is missing, or has no place for a table.
    """
    readme = repository / "README.md"
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{readme} cannot be read: {error.strerror}", "restore it") from None
    text = between(text, "settings", settings_table(), readme)
    text = between(text, "collectors", collectors_table(), readme)
    return {repository / ".env.example": env_example(), readme: text}
