"""What every command shares: results on stdout, words on stderr, errors in one form, safe names.

Nothing heavy is imported here: quick commands use it too.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from collectors.errors import TokendashError

INTERRUPTED = 130
# Control and format characters move the cursor, ring, hide or turn text around; separators and
# lone surrogates break lines or the output itself.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str) -> str:
    r"""A name as it can be shown on a terminal: what would act on it is written as `\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def _escape(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def out(text: str = "") -> None:
    """One line of the result."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line beside the result."""
    sys.stderr.write(text + "\n")


def fail(error: TokendashError) -> None:
    """Say what went wrong and, below it, what to do."""
    note(f"tokendash: {_lines(str(error))}")
    if error.hint:
        note(f"  {_lines(error.hint)}")


def _lines(text: str) -> str:
    return "\n  ".join(visible(line) for line in text.split("\n"))


def is_terminal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether to draw for people: a terminal, or one that is asked for by FORCE_COLOR."""
    return bool(environ.get("FORCE_COLOR")) or (stream.isatty() and environ.get("TERM") != "dumb")


def has_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether colours are wanted where the output goes."""
    return is_terminal(stream, environ) and not environ.get("NO_COLOR")


def terminal_width(stream: TextIO, environ: Mapping[str, str]) -> int:
    """Columns of the terminal; COLUMNS goes first, as everywhere."""
    named = environ.get("COLUMNS", "")
    if named.isdecimal() and int(named) > 0:
        return int(named)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def guarded(command: Callable[[], int | None]) -> int:
    """Run a command; expected failures become words and an exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a name the locale cannot spell
    try:
        code = command() or 0
        sys.stdout.flush()
    except TokendashError as error:
        _flush()
        fail(error)
        return error.exit_code
    except KeyboardInterrupt:
        _flush()
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has what it wanted. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class UsageError(TokendashError):
    """A command was called in a way that means nothing."""

    exit_code = 2


def out_json(value: Any) -> None:
    """One JSON value; names in it are ASCII-escaped, so nothing in them acts on a terminal."""
    import json

    out(json.dumps(value, indent=2 if sys.stdout.isatty() else None))
