"""The one list of collectors: ours, those of installed packages, and the user's own."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from operator import attrgetter

from collectors.base import AnyCollector, BaseCollector, Context
from collectors.errors import SettingsError, TokendashError
from collectors.logs import text_of
from collectors.settings import Layers

BUILT_IN = (
    "collectors.agents.claude_code:ClaudeCodeCollector",
    "collectors.agents.claude_stats:ClaudeStatsCollector",
    "collectors.agents.spool:SpoolCollector",
)
ENTRY_POINTS = "tokendash.collectors"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass
class Registry:
    """Collectors ready to run, and what kept others from being made."""

    collectors: list[AnyCollector] = field(default_factory=list)
    problems: list[TokendashError] = field(default_factory=list)

    def configured(self) -> list[AnyCollector]:
        """Collectors that have something to read."""
        return [collector for collector in self.collectors if is_configured(collector)]


def is_configured(collector: AnyCollector) -> bool:
    """Whether a collector has something to read; one that cannot say fails when it is run."""
    try:
        return bool(collector.is_configured())
    except Exception:  # noqa: BLE001 - a plug-in may raise anything
        return True


def collector_types(
    extra: Iterable[str] = (),
) -> tuple[list[type[AnyCollector]], list[TokendashError]]:
    """Every collector class, and an error for each that cannot be loaded."""
    found: dict[str, type[AnyCollector]] = {}
    problems: list[TokendashError] = []
    packaged = [point.value for point in entry_points(group=ENTRY_POINTS)]
    for path in (*BUILT_IN, *packaged, *extra):
        try:
            kind = load_type(path)
        except SettingsError as error:
            problems.append(error)
            continue
        if kind.name in found and found[kind.name] is not kind:
            problems.append(
                SettingsError(
                    f"two collectors are named {kind.name!r}; {path} is left out",
                    "give your collector another `name`",
                )
            )
            continue
        found[kind.name] = kind
    return list(found.values()), problems


def load_type(path: str) -> type[AnyCollector]:
    """The class behind `module:Class`.

    Raises:
        SettingsError: there is none, or it is not a collector.
    """
    module, _, name = path.partition("[")[0].strip().partition(":")
    try:
        kind = attrgetter(name)(importlib.import_module(module))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything
        raise SettingsError(
            f"collector {path} cannot be loaded: {type(error).__name__}: {text_of(error)}",
            "write it as module:Class and install its package",
        ) from None
    if not (isinstance(kind, type) and issubclass(kind, BaseCollector) and hasattr(kind, "name")):
        raise SettingsError(
            f"{path} is not a collector",
            "derive it from collectors.base.BaseCollector and set `name`",
        )
    if not _NAME.fullmatch(str(kind.name)):
        raise SettingsError(
            f"the `name` of collector {path} cannot be used",
            "lower-case letters, digits, `-`, `_` and `.`, such as `my-tool`",
        )
    return kind


def env_prefix(kind: type[AnyCollector]) -> str:
    """The start of a collector's settings: `my-tool` reads `MY_TOOL_…`."""
    return kind.name.replace("-", "_").replace(".", "_") + "_"


def make_registry(
    layers: Layers,
    context: Context,
    *,
    only: Iterable[str] = (),
    without: Iterable[str] = (),
    extra: Iterable[str] = (),
) -> Registry:
    """Make every wanted collector with its own options; a wrong option stops that one only.

    Raises:
        SettingsError: `only` or `without` names a collector that does not exist.
    """
    kinds, problems = collector_types(extra)
    registry = Registry(problems=problems)
    wanted, unwanted = set(only), set(without)
    unknown = (wanted | unwanted) - {kind.name for kind in kinds}
    if unknown:
        names = ", ".join(sorted(kind.name for kind in kinds))
        raise SettingsError(
            f"there is no collector named {', '.join(sorted(unknown))}", f"there are: {names}"
        )
    for kind in kinds:
        if (wanted and kind.name not in wanted) or kind.name in unwanted:
            continue
        try:
            options = layers.load(kind.options_type, env_prefix(kind))
            registry.collectors.append(kind(options, context))
        except SettingsError as error:
            registry.problems.append(error)
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            # Without its text, which may hold what an option was set to.
            registry.problems.append(
                SettingsError(
                    f"collector {kind.name} cannot be made: {type(error).__name__}",
                    "this is a fault of the collector; please report it to its author",
                )
            )
    return registry
