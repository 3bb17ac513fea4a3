"""The full command line: every command with its help; without a command it is `run`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from collectors import __version__
from collectors.cli.console import INTERRUPTED, UsageError, guarded, out

NAME = "tokendash"
# What the group itself answers; every other option in front belongs to `run`.
_OWN = {"--help", "-h", "--version", "--install-completion", "--show-completion"}
_HELP = (
    "Knows what every LLM token costs you.\n\n"
    "Without a command the exporter runs: it collects into the ledger and feeds InfluxDB. Options"
    " in front belong to it: `tokendash --once` is `tokendash run --once`."
)


class _Commands(TyperGroup):
    """Lists what people look for first at the top; typer itself puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base's signature
        first = [name for name in ("run", "status", "report") if name in self.commands]
        return first + [name for name in self.commands if name not in first]


def modules() -> list[ModuleType]:
    """The modules that bring commands, in the order of the help; each has `register(app)`."""
    from collectors.cli import check, maintenance, report_commands, running, views

    return [running, report_commands, views, check, maintenance]


def make_app() -> typer.Typer:
    """The parser with all commands."""
    app = typer.Typer(
        name=NAME,
        help=_HELP,
        cls=_Commands,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )

    @app.callback()
    def options(
        _version: Annotated[
            bool,
            typer.Option(
                "--version", is_eager=True, callback=_show_version, help="Say the version."
            ),
        ] = False,
    ) -> None: ...

    for module in modules():
        module.register(app)
    return app


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        out(f"{NAME} {__version__}")
        raise typer.Exit


def completed(arguments: Sequence[str]) -> list[str]:
    """Arguments with the command that is meant when none is named."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _OWN):
        return ["run", *arguments]
    names_kind = len(arguments) > 1 and (
        not arguments[1].startswith("-") or arguments[1] in ("--help", "-h")
    )
    if arguments[0] == "report" and not names_kind:
        return ["report", "daily", *arguments[1:]]
    return list(arguments)


def run(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run one command and return its exit code."""
    return guarded(lambda: _run(arguments, environ))


def _run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        result = make_app()(
            args=completed(arguments), prog_name=NAME, standalone_mode=False, obj=environ
        )
    except typer.Abort:
        return INTERRUPTED
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else NAME
        raise UsageError(
            error.format_message(), f"`{command} --help` shows what there is"
        ) from None
    return result if isinstance(result, int) else 0
