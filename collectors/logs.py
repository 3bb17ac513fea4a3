"""Log lines: events with data in keys, on stderr, and never a secret."""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer

REDACTED = "[redacted]"
_SECRET_NAMES = (
    "token",
    "secret",
    "password",
    "passwd",
    "api_key",
    "apikey",
    "authorization",
    "cookie",
)
_COUNTS = ("tokens",)  # names of numbers that sound like secrets
_SHORTEST = 6  # a shorter secret would redact ordinary words


class Redaction:
    """Last step before rendering: takes out values of loaded secrets and of keys named like one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Know more secrets, in the forms they are likely to appear in."""
        new = {secret for secret in secrets if len(secret) >= _SHORTEST} - self._secrets
        if new:
            self._secrets |= new
            forms = {form for secret in self._secrets for form in _forms(secret)}
            self._pattern = re.compile("|".join(sorted(forms, key=len, reverse=True)))

    def clean(self, text: str) -> str:
        """Text without any known secret."""
        return text if self._pattern is None else self._pattern.sub(REDACTED, text)

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> Mapping[str, Any]:
        return {self.clean(key): self._value(key, value) for key, value in event.items()}

    def _value(self, key: str, value: Any) -> Any:
        name = key.lower()
        if any(part in name for part in _SECRET_NAMES):
            is_count = name.endswith(_COUNTS) and not isinstance(value, str | bytes)
            if not is_count:
                return REDACTED
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, Mapping):
            return {self.clean(str(k)): self._value(str(k), v) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value("", item) for item in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.clean(text_of(value))


def _forms(secret: str) -> Iterator[str]:
    """Patterns of a secret: itself, in an address or in JSON, and inside something in base64."""
    yield "".join(_character(character) for character in secret)
    data = secret.encode("utf-8", "surrogatepass")
    for before in range(3):  # bytes in front of it, such as a user name, shift what it becomes
        encoded = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        ends_apart = (before + len(data)) % 3 == 0
        core = encoded[(0, 2, 3)[before] : len(encoded) if ends_apart else -1]
        pattern = core.replace("+", "[+-]").replace("/", "[/_]")
        yield pattern + ("" if ends_apart else "[A-Za-z0-9+/_-]?") + "={0,2}"


def _character(character: str) -> str:
    data = character.encode("utf-8", "surrogatepass")
    encoded = "".join(f"%(?:{byte:02x}|{byte:02X})" for byte in data)
    if character == " ":
        return rf"(?: |\+|{encoded})"
    if character.isascii() and character.isalnum():
        return character
    return rf"(?:\\*{re.escape(character)}|{encoded})"


def text_of(value: object) -> str:
    """`str(value)`, or the type's name where a foreign `__str__` is broken."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an error's text must not become an error
        return type(value).__name__


def configure_logs(
    level: str, form: str, redaction: Redaction, stream: TextIO | None = None
) -> None:
    """Send log lines to `stream` (stderr): for people on a terminal, as JSON elsewhere."""
    stream = stream or sys.stderr
    is_console = form == "console" or (form == "auto" and stream.isatty())
    renderer: Any
    if is_console:
        # The default traceback of the console prints local variables, and with them keys.
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty() and not _no_color(),
            exception_formatter=structlog.dev.plain_traceback,
        )
        steps: list[Any] = [structlog.processors.format_exc_info, redaction, renderer]
    else:
        tracebacks = structlog.processors.ExceptionRenderer(
            ExceptionDictTransformer(show_locals=False)
        )
        steps = [tracebacks, redaction, structlog.processors.JSONRenderer(sort_keys=True)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *steps,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [x for x in root.handlers if not isinstance(x, _Bridge)]
    root.addHandler(_Bridge(logging.WARNING))


class _Bridge(logging.Handler):
    """What libraries log goes the same way, redacted like everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno,
            "library.logged",
            library=record.name,
            text=record.getMessage(),
            exc_info=record.exc_info,
        )


def guard_process(redaction: Redaction) -> None:
    """Let the process end without telling a secret: no core file, no unredacted traceback."""
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def show(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
        lines = traceback.format_exception(kind, error, place)
        sys.stderr.write(redaction.clean("".join(lines)))

    sys.excepthook = show


def _no_color() -> bool:
    import os

    return bool(os.environ.get("NO_COLOR"))
