"""The list of collectors: built in, of installed packages, and the user's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from collectors.base import Context
from collectors.errors import SettingsError
from collectors.layers import Layers
from collectors.registry import BUILT_IN, Registry, collector_types, load_type, make_registry

OURS = ["claude-code", "claude-stats", "spool"]
Install = Callable[..., None]

TOOL = """
from collectors.base import BaseCollector, Options, TokenUsagePoint
from pydantic import SecretStr

class ToolOptions(Options):
    api_key: SecretStr = SecretStr("")
    limit: int = 1

class ToolCollector(BaseCollector[ToolOptions]):
    name = "my-tool"
    options_type = ToolOptions

    def is_configured(self):
        return bool(self.options.api_key)

    async def collect(self):
        return []
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution on the path, as pip would: a module and its entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def put(module: str, code: str, *entries: str) -> None:
        (tmp_path / f"{module}.py").write_text(dedent(code))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = ["[tokendash.collectors]", *(f"e{n} = {e}" for n, e in enumerate(entries))]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    yield put
    for name in set(sys.modules) - before:
        del sys.modules[name]


def made(environ: dict[str, str] | None = None, **options: Any) -> Registry:
    return make_registry(Layers(environ or {}), Context(home=Path("/nowhere")), **options)


def names(registry: Registry) -> list[str]:
    return [collector.name for collector in registry.collectors]


def test_our_own_collectors_are_all_there_without_a_problem() -> None:
    registry = made()

    assert names(registry) == OURS
    assert registry.problems == []
    assert len(BUILT_IN) == len(OURS)


def test_a_collector_of_an_installed_package_is_found_by_its_entry_point(install: Install) -> None:
    install("acme_tokens", TOOL, "acme_tokens:ToolCollector")

    registry = made({"MY_TOOL_API_KEY": "k", "MY_TOOL_LIMIT": "7"})

    assert names(registry) == [*OURS, "my-tool"]
    assert registry.collectors[-1].options.limit == 7
    assert registry.collectors[-1] in registry.configured()


def test_an_entry_point_may_name_an_extra_or_a_nested_class(install: Install) -> None:
    install(
        "acme_nested",
        TOOL + "\nclass Home:\n    Tool = ToolCollector\n",
        "acme_nested:Home.Tool [fast]",
    )

    assert names(made()) == [*OURS, "my-tool"]


def test_ones_own_collector_is_named_by_a_setting(install: Install) -> None:
    install("mine", TOOL)

    assert names(made(extra=["mine:ToolCollector"])) == [*OURS, "my-tool"]


def test_one_collector_named_twice_is_there_once(install: Install) -> None:
    install("mine", TOOL, "mine:ToolCollector")

    registry = made(extra=["mine:ToolCollector"])

    assert names(registry) == [*OURS, "my-tool"]
    assert registry.problems == []


@pytest.mark.parametrize(
    ("code", "entry", "said"),
    [
        ("raise RuntimeError('no licence')", "bad:Tool", "RuntimeError: no licence"),
        ("import sys; sys.exit(4)", "bad:Tool", "SystemExit: 4"),
        ("import no_such_module_x", "bad:Tool", "ModuleNotFoundError"),
        ("def f(:", "bad:Tool", "SyntaxError"),
        ("Other = 1", "bad:Tool", "AttributeError"),
        ("", "bad", "cannot be loaded"),
        ("", "not a reference!", "cannot be loaded"),
        ("Tool = 3", "bad:Tool", "is not a collector"),
        ("class Tool: name = 'tool'", "bad:Tool", "is not a collector"),
        ("from collectors.base import BaseCollector as Tool", "bad:Tool", "is not a collector"),
        (TOOL.replace('"my-tool"', '"My Tool, 2"'), "bad:ToolCollector", "`name`"),
        (TOOL.replace('"my-tool"', "None"), "bad:ToolCollector", "`name`"),
    ],
)
def test_a_broken_plug_in_is_named_and_the_others_are_there(
    install: Install, code: str, entry: str, said: str
) -> None:
    install("bad", code, entry)
    install("good", TOOL, "good:ToolCollector")

    registry = made()

    assert names(registry) == [*OURS, "my-tool"]
    [problem] = registry.problems
    assert entry.partition(":")[0] in str(problem)
    assert said in str(problem)
    assert problem.hint


@pytest.mark.parametrize(
    "fault",
    [
        "    def __init__(self, options, context):\n        raise KeyError(options.api_key)\n",
        "    def __init__(self):\n        pass\n",
    ],
)
def test_a_plug_in_that_cannot_be_made_is_named_without_what_its_options_hold(
    install: Install, fault: str
) -> None:
    install("bad", TOOL + fault, "bad:ToolCollector")

    registry = made({"MY_TOOL_API_KEY": "sk-canary-0004"})

    assert names(registry) == OURS
    [problem] = registry.problems
    assert str(problem).startswith("collector my-tool cannot be made: ")
    assert "canary" not in f"{problem} {problem.hint}"


def test_a_wrong_option_stops_its_own_collector_only(install: Install) -> None:
    install("good", TOOL, "good:ToolCollector")

    registry = made({"MY_TOOL_LIMIT": "sk-canary-0005"})

    assert names(registry) == OURS
    [problem] = registry.problems
    assert "MY_TOOL_LIMIT from environment (MY_TOOL_LIMIT)" in str(problem)
    assert "canary" not in str(problem)


def test_of_two_collectors_with_one_name_the_second_is_left_out_and_named(
    install: Install,
) -> None:
    install("first", TOOL, "first:ToolCollector")
    install("second", TOOL)

    registry = made(extra=["second:ToolCollector"])

    assert names(registry) == [*OURS, "my-tool"]
    assert type(registry.collectors[-1]).__module__ == "first"
    [problem] = registry.problems
    assert str(problem) == ("two collectors are named 'my-tool'; second:ToolCollector is left out")


def test_a_plug_in_cannot_take_the_place_of_one_of_ours(install: Install) -> None:
    install("thief", TOOL.replace("my-tool", "claude-code"), "thief:ToolCollector")

    registry = made()

    assert names(registry) == OURS
    assert type(registry.collectors[0]).__module__.startswith("collectors.")
    assert len(registry.problems) == 1


def test_sources_can_be_switched_on_and_off_by_name() -> None:
    assert names(made(only=["claude-code"])) == ["claude-code"]
    assert names(made(without=["claude-code"])) == ["claude-stats", "spool"]
    assert names(made(only=["claude-code", "spool"], without=["spool"])) == ["claude-code"]


@pytest.mark.parametrize("switch", ["only", "without"])
def test_an_unknown_name_is_refused_with_those_there_are(switch: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_registry(Layers({}), Context(), **{switch: ["claude-cod", "spool"]})

    assert str(caught.value) == "there is no collector named claude-cod"
    assert caught.value.hint == "there are: claude-code, claude-stats, spool"
    assert caught.value.exit_code == 2


def test_a_collector_that_cannot_say_whether_it_is_there_counts_as_configured(
    install: Install,
) -> None:
    code = TOOL.replace("return bool(self.options.api_key)", "raise OSError('gone')")
    install("odd", code, "odd:ToolCollector")

    assert [collector.name for collector in made().configured()] == ["my-tool"]


def test_a_class_is_loaded_by_its_path() -> None:
    assert load_type("collectors.agents.claude_code:ClaudeCodeCollector").name == "claude-code"
    assert [kind.name for kind in collector_types()[0]] == OURS
