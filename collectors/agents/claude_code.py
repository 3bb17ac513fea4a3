"""Claude Code: transcripts under `projects/`, one record per API response.

A response is written once per content block while it streams; all its lines repeat message id,
request id and prompt counts, and only the last has the final output count. Copies of lines turn up
in other files (resumed, forked and backgrounded sessions, sub-agents, the parent's progress lines),
so a response is known by its ids alone, wherever it is found. Seen with 1.0.128 to 2.1.201.

Traps, each with a fixture of its name: `streamed_message` (growing output), `side_conversation` (a
replay under a new request id), `gateway_without_request_id` (prompt first, remainder later),
`advisor_iteration` (calls the top-level counts leave out), `unknown_iteration` (a type nobody
knows: not counted, but said), `progress_copy` (a sub-agent's message in the parent's file),
`usage_look_alikes` (tool inputs and results that hold the word), `split_over_sum` (cache writes
larger than their parts, and smaller), `synthetic_notice` (local notices with zeros).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field

from collectors.agents.jsonl import MOST, JsonlCollector, count, lenient, timestamp_ms
from collectors.agents.models import provider_of
from collectors.agents.projects import ProjectFinder
from collectors.agents.tail import LogFile, printable
from collectors.base import Billing, Context, Options, TokenUsagePoint
from collectors.clock import latest_event_ms
from collectors.errors import FormatError

Plan = Literal["", "api", "pro", "max5", "max20", "team"]

DEFAULT_CLEANUP_DAYS = 30

_SYNTHETIC = "<synthetic>"
_GLOBAL_ID = "msg_"  # what Anthropic's own ids start with; others may be reused
_LONG_ID = 20
_MOST_CONTEXTS = 1_000
_IN_TOP_LEVEL = (None, "message")
_EXTRA_CALLS = ("advisor_message", "compaction")
UNKNOWN_ITERATION = "unknown iteration type"
_DEAREST_USD = 1_000_000  # a call that claims to have cost more claims nothing


class ClaudeCodeOptions(Options):
    """Settings of the Claude Code collector."""

    config_dir: str = Field(
        "",
        validation_alias="CLAUDE_CONFIG_DIR",
        description=(
            "Claude Code's folders, comma-separated; default: `~/.config/claude`, `~/.claude`"
        ),
    )
    plan: Plan = Field(
        "",
        validation_alias="CLAUDE_CODE_PLAN",
        description="How its use is paid: `api`, `pro`, `max5`, `max20` or `team`",
    )


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_5m_input_tokens: int | None = 0
    ephemeral_1h_input_tokens: int | None = 0


class _OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: int | None = 0


class _ServerTools(msgspec.Struct, gc=False):
    web_search_requests: int | None = 0


class _Iteration(msgspec.Struct, gc=False):
    type: str | None = None
    model: str | None = None
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cache_read_input_tokens: int | None = 0
    cache_creation_input_tokens: int | None = 0
    cache_creation: _CacheCreation | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cache_read_input_tokens: int | UnsetType | None = UNSET
    cache_creation_input_tokens: int | UnsetType | None = UNSET
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: _ServerTools | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    iterations: list[_Iteration] | None = None


class _Message(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None


class _Inner(msgspec.Struct, gc=False):
    """A sub-agent's line inside the parent's progress line."""

    type: str | None = None
    timestamp: str | None = None
    requestId: str | None = None  # noqa: N815 - as written
    uuid: str | None = None
    message: _Message | None = None


class _Data(msgspec.Struct, gc=False):
    message: _Inner | None = None


class _Entry(msgspec.Struct, gc=False):
    type: str | None = None
    timestamp: str | None = None
    requestId: str | None = None  # noqa: N815 - as written
    uuid: str | None = None
    sessionId: str | None = None  # noqa: N815 - as written
    cwd: str | None = None
    gitBranch: str | None = None  # noqa: N815 - as written
    isSidechain: bool | None = False  # noqa: N815 - as written
    isApiErrorMessage: bool | None = False  # noqa: N815 - as written
    costUSD: Decimal | None = None  # noqa: N815 - as written
    message: _Message | None = None
    data: _Data | None = None


class _AnyMessage(msgspec.Struct, gc=False):
    """An entry of another type may have anything under `message` and `data`."""

    type: str | None = None


_decode = msgspec.json.Decoder(_Entry).decode
_decode_type = msgspec.json.Decoder(_AnyMessage).decode


class ClaudeCodeCollector(JsonlCollector[ClaudeCodeOptions]):
    """Claude Code's transcripts on this machine, sub-agents and workflows included."""

    name: ClassVar[str] = "claude-code"
    options_type = ClaudeCodeOptions
    markers: ClassVar[tuple[bytes, ...]] = (b'"usage"',)
    witness = b'"stop_reason"'

    def __init__(
        self, options: ClaudeCodeOptions | None = None, context: Context | None = None
    ) -> None:
        super().__init__(options, context)
        self._projects = ProjectFinder()
        self._contexts: dict[tuple[str | None, ...], TokenUsagePoint] = {}
        self._latest_ms = latest_event_ms(self.context.now())

    def config_dirs(self) -> list[Path]:
        """Configuration folders, whether or not they exist."""
        return claude_config_dirs(self.options.config_dir, self.context)

    def roots(self) -> list[Path]:
        return [
            folder if folder.name == "projects" else folder / "projects"
            for folder in self.config_dirs()
        ]

    def is_log(self, name: str) -> bool:
        return name.endswith(".jsonl") and name != "journal.jsonl"

    def billing_now(self) -> Billing:
        return billing_of(self.options.plan)

    async def read(self, cursor: Any) -> Any:
        self._latest_ms = latest_event_ms(self.context.now())
        async for batch in super().read(cursor):
            yield batch

    def cleanup_days(self) -> int:
        """Days after which Claude Code deletes a transcript (`cleanupPeriodDays`)."""
        for folder in self.config_dirs():
            try:
                found = json.loads((folder / "settings.json").read_bytes())
            except (OSError, ValueError):
                continue
            days = found.get("cleanupPeriodDays") if isinstance(found, dict) else None
            if isinstance(days, int) and not isinstance(days, bool):
                return days
        return DEFAULT_CLEANUP_DAYS

    def parse(self, line: bytes, log: LogFile) -> Sequence[TokenUsagePoint]:
        entry: _Entry | None
        try:
            entry = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            entry = self._recover(line)
        if entry is None:
            return ()
        if entry.type == "assistant" and entry.message is not None:
            if entry.message.usage is None or entry.isApiErrorMessage:
                return ()
            return self._points(entry, entry, bool(entry.isSidechain), log)
        if entry.type == "progress" and entry.data is not None and entry.data.message is not None:
            inner = entry.data.message
            if inner.type != "assistant" or inner.message is None or inner.message.usage is None:
                return ()
            return self._points(entry, inner, True, log)
        return ()

    def _points(
        self, entry: _Entry, answer: _Entry | _Inner, replayed: bool, log: LogFile
    ) -> Sequence[TokenUsagePoint]:
        message = answer.message
        assert message is not None and message.usage is not None  # noqa: PT018 - parse looked
        usage = message.usage
        if message.model == _SYNTHETIC:
            return ()
        point = self._context_of(message.model, usage, entry, log)
        point.key, point.variant = _identity(message.id, answer, entry)
        point.timestamp = timestamp_ms(answer.timestamp or "", self._latest_ms)
        read, total = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
        point.input_tokens = usage.input_tokens or 0
        if read is UNSET:
            point.has_cache_counts = total is not UNSET
        elif read:
            point.cache_read_tokens = read
        point.cache_write_tokens, point.cache_write_1h_tokens = _cache_writes(
            total, usage.cache_creation
        )
        output = point.output_tokens = usage.output_tokens or 0
        details, tools = usage.output_tokens_details, usage.server_tool_use
        if details is not None and details.thinking_tokens:
            point.reasoning_tokens = min(details.thinking_tokens, output)
        if tools is not None and tools.web_search_requests:
            point.web_search_requests = tools.web_search_requests
        point.replayed = replayed
        if entry.costUSD is not None:
            point.stated_cost_usd = _stated(entry.costUSD)
        _check(point)
        calls = usage.iterations
        if not calls or (len(calls) == 1 and calls[0].type == "message"):
            return (point,)
        extra = [
            _iteration(point, index, call)
            for index, call in enumerate(calls)
            if call.type in _EXTRA_CALLS
        ]
        # Whether another type is in the top-level counts nobody can say: not counted, but said.
        if any(call.type not in _IN_TOP_LEVEL and call.type not in _EXTRA_CALLS for call in calls):
            self.noticed.add(UNKNOWN_ITERATION)
        return (point, *extra)

    def _context_of(
        self, model: str | None, usage: _Usage, entry: _Entry, log: LogFile
    ) -> TokenUsagePoint:
        """A new point with all that neighbouring lines have in common, worked out once."""
        tier, speed, place = usage.service_tier, usage.speed, usage.inference_geo
        folder = "" if entry.cwd else _folder(log)
        key = (model, tier, speed, place, entry.sessionId, entry.cwd, entry.gitBranch, folder)
        found = self._contexts.get(key)
        if found is None:
            if not model:
                raise FormatError("model missing")
            if len(self._contexts) >= _MOST_CONTEXTS:
                self._contexts.clear()
            found = self._contexts[key] = TokenUsagePoint(
                provider=provider_of(model),
                model=model,
                timestamp=0,
                service_tier=tier or "",
                speed=speed or "",
                inference_geo=place or "",
                batch=tier == "batch",
                session=entry.sessionId or "",
                project=self._projects.project_of(entry.cwd or "") or folder,
                branch=entry.gitBranch or "",
            )
        return msgspec.structs.replace(found)

    def _recover(self, line: bytes) -> _Entry | None:
        """What the strict decoder refused: another type of line, or odd values in ours."""
        try:
            if _decode_type(line).type not in ("assistant", "progress"):
                return None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        found = lenient(line)
        if found.get("type") not in ("assistant", "progress"):
            return None
        try:
            return msgspec.convert(_tidied(found), _Entry, strict=False)
        except (msgspec.ValidationError, RecursionError) as error:
            # The message names a path and types, but may quote a value: keep the path only.
            where = str(error).rpartition("`")[0].rpartition("`")[2]
            raise FormatError(f"unexpected type at {where}") from None


def claude_config_dirs(setting: str, context: Context) -> list[Path]:
    """The folders of the setting, else both places Claude Code is known to use."""
    if setting:
        parts = re.split(f"[,{re.escape(os.pathsep)}]", setting)
        return [_expand(part.strip(), context.home) for part in parts if part.strip()]
    config_home = context.config_home or context.home / ".config"
    return [config_home / "claude", context.home / ".claude"]


def billing_of(plan: str) -> Billing:
    """How a plan is paid: by use, by subscription, or not known."""
    if not plan:
        return Billing.UNKNOWN
    return Billing.METERED if plan == "api" else Billing.SUBSCRIPTION


def _expand(text: str, home: Path) -> Path:
    if text == "~" or text.startswith("~/"):
        return home / text[2:]
    return Path(text)


def _folder(log: LogFile) -> str:
    """The folder below `projects/`: all that is known of a line without `cwd`."""
    return printable(os.path.relpath(log.path, log.root).partition(os.sep)[0])


def _identity(message_id: str | None, answer: _Entry | _Inner, entry: _Entry) -> tuple[str, str]:
    """Key and variant of a response: message id and request id, or the best there is."""
    request = answer.requestId or ""
    if not message_id:
        if not answer.uuid:
            raise FormatError("message id missing")
        return f"uuid:{answer.uuid}", ""
    if not request and not message_id.startswith(_GLOBAL_ID) and len(message_id) < _LONG_ID:
        return f"{message_id}\0{entry.sessionId or ''}", ""  # small gateways reuse ids
    return message_id, request


def _cache_writes(total: int | UnsetType | None, split: _CacheCreation | None) -> tuple[int, int]:
    """All cache writes and the 1-hour part; the larger of sum and parts is what was billed."""
    written = 0 if total is UNSET else total or 0
    if split is None:
        return written, 0
    minutes, hour = split.ephemeral_5m_input_tokens or 0, split.ephemeral_1h_input_tokens or 0
    if minutes < 0:
        raise FormatError("token count out of range")
    return max(written, minutes + hour), hour


def _stated(cost: Decimal | None) -> Decimal | None:
    """What a line of an old version says the call cost, where that can be true."""
    if cost is None or not cost.is_finite() or not 0 < cost < _DEAREST_USD:
        return None
    return cost


def _iteration(point: TokenUsagePoint, index: int, extra: _Iteration) -> TokenUsagePoint:
    """A call of its own that the response's counts leave out: an advisor, a compaction."""
    written, written_1h = _cache_writes(extra.cache_creation_input_tokens, extra.cache_creation)
    model = extra.model or point.model
    call = msgspec.structs.replace(
        point,
        key=f"{point.key}\0{extra.type}\0{index}",
        provider=provider_of(model),
        model=model,
        input_tokens=extra.input_tokens or 0,
        cache_read_tokens=extra.cache_read_input_tokens or 0,
        cache_write_tokens=written,
        cache_write_1h_tokens=written_1h,
        output_tokens=extra.output_tokens or 0,
        reasoning_tokens=0,
        web_search_requests=0,
        has_cache_counts=True,
        stated_cost_usd=None,
    )
    _check(call)
    return call


def _check(point: TokenUsagePoint) -> None:
    given, read, written = point.input_tokens, point.cache_read_tokens, point.cache_write_tokens
    written_1h, output = point.cache_write_1h_tokens, point.output_tokens
    searches = point.web_search_requests
    # A sum of bits is negative when any of the numbers is.
    if (
        (given | read | written | written_1h | output | point.reasoning_tokens | searches) < 0
        or given + read + written + output > MOST
        or searches > MOST
        or written_1h > written
    ):
        raise FormatError("token count out of range")


_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "ephemeral_5m_input_tokens",
    "ephemeral_1h_input_tokens",
    "thinking_tokens",
    "web_search_requests",
)


def _tidied(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with its usage numbers read leniently; what is not ours is left out.

    Raises:
        FormatError: a count is not one, or an object is something else.
    """
    kept: dict[str, Any] = {"type": entry["type"], "timestamp": entry.get("timestamp")}
    kept |= {name: _id(entry, name) for name in ("requestId", "uuid", "sessionId")}
    kept |= {name: _text(entry.get(name)) for name in ("cwd", "gitBranch")}
    kept |= {name: entry.get(name) for name in ("isSidechain", "isApiErrorMessage")}
    if entry["type"] == "assistant":
        kept["message"] = _tidied_message(_object(entry, "message"))
        return kept
    # Progress has other contents too; only a sub-agent's answer is ours.
    data = entry.get("data")
    inner = data.get("message") if isinstance(data, dict) else None
    if isinstance(inner, dict) and inner.get("type") == "assistant":
        inside: dict[str, Any] = {"type": "assistant", "timestamp": inner.get("timestamp")}
        inside |= {name: _id(inner, name) for name in ("requestId", "uuid")}
        inside["message"] = _tidied_message(_object(inner, "message"))
        kept["data"] = {"message": inside}
    return kept


def _tidied_message(message: dict[str, Any] | None) -> dict[str, Any] | None:
    if message is None:
        return None
    usage = _object(message, "usage")
    return {
        "id": _id(message, "id"),
        "model": _id(message, "model"),
        "usage": None if usage is None else _tidied_usage(usage),
    }


def _tidied_usage(usage: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: count(usage[name], name) for name in _COUNTS if name in usage}
    for name in ("cache_creation", "output_tokens_details", "server_tool_use"):
        inner = _object(usage, name)
        if inner is not None:
            kept[name] = _tidied_usage(inner)
    for name in ("service_tier", "speed", "inference_geo", "model"):
        kept[name] = _text(usage.get(name))
    if usage.get("type") is not None:
        kept["type"] = _text(str(usage["type"]))  # of whatever kind, it is not `message`
    extra = usage.get("iterations")
    if extra is not None:
        if not isinstance(extra, list) or not all(isinstance(x, dict) for x in extra):
            raise FormatError("iterations is not a list of objects")
        kept["iterations"] = [_tidied_usage(x) for x in extra]
    return kept


def _object(parent: dict[str, Any], name: str) -> dict[str, Any] | None:
    found = parent.get(name)
    if found is not None and not isinstance(found, dict):
        raise FormatError(f"{name} is not an object")
    return found


def _id(parent: dict[str, Any], name: str) -> str | None:
    found = parent.get(name)
    if found is not None and not isinstance(found, str):
        raise FormatError(f"{name} is not text")
    return _text(found)


def _text(value: object) -> str | None:
    """A string that can be stored: half a character (a lone surrogate) becomes a question mark."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
