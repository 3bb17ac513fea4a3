"""A second reader of Claude Code's logs: slow and plain, to hold the fast one against.

It shares no code with `collectors`: whole files, `json.loads`, and the rules as operations on the
set of everything that was ever seen. It answers for well-formed numbers only.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# requests, input, output, cache read, 5-minute writes, 1-hour writes, reasoning
Sums = tuple[int, ...]


@dataclass(frozen=True)
class Sighting:
    """One place where one call was written down."""

    call: tuple[str, ...]  # message id, or what stands for it
    request: str
    is_replay: bool
    time: str
    model: str
    knows_cache: bool
    input: int
    output: int
    read: int
    write: int
    hour: int
    thinking: int


def day_sums(*roots: Path) -> dict[tuple[str, str], Sums]:
    """Sums by UTC day and model of every transcript below some folders."""
    calls: dict[tuple[str, ...], set[Sighting]] = defaultdict(set)
    for root in roots:
        for path in root.rglob("*.jsonl"):
            if path.name != "journal.jsonl" and path.is_file():
                for sighting in sightings(path.read_bytes()):
                    calls[sighting.call].add(sighting)
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * 7)
    for seen in calls.values():
        for day, model, counts in counted(seen):
            for index, count in enumerate(counts):
                sums[day, model][index] += count
    return {place: tuple(row) for place, row in sums.items() if any(row)}


def sightings(content: bytes) -> Iterator[Sighting]:
    """Every call that the complete lines of a file tell of."""
    for line in content.split(b"\n")[:-1]:
        try:
            entry = json.loads(line.decode("utf-8", "replace").lstrip("\ufeff"))
        except ValueError:
            continue
        if not isinstance(entry, dict):
            continue
        inner: Any = entry
        if entry.get("type") == "progress":
            data = entry.get("data")
            inner = data.get("message") if isinstance(data, dict) else None
        if isinstance(inner, dict) and inner.get("type") == "assistant":
            yield from _of_answer(entry, inner)


def _of_answer(entry: dict[str, Any], inner: dict[str, Any]) -> Iterator[Sighting]:
    message = inner.get("message") or {}
    usage, model = message.get("usage"), message.get("model")
    if not usage or model == "<synthetic>" or inner.get("isApiErrorMessage"):
        return
    name, request = message.get("id"), inner.get("requestId") or ""
    call: tuple[str, ...]
    if not name:
        call, request = ("uuid", inner["uuid"]), ""
    elif not request and len(name) < 20 and not name.startswith("msg_"):
        call = (name, entry.get("sessionId") or "")
    else:
        call = (name,)
    is_replay = inner is not entry or bool(entry.get("isSidechain"))
    parts: list[tuple[tuple[str, ...], Any, dict[str, Any]]] = [(call, model, usage)]
    for index, extra in enumerate(usage.get("iterations") or []):
        if extra.get("type") not in (None, "message"):
            parts.append(((*call, extra["type"], str(index)), extra.get("model") or model, extra))
    for place, who, numbers in parts:
        split = numbers.get("cache_creation") or {}
        hour = split.get("ephemeral_1h_input_tokens") or 0
        five = split.get("ephemeral_5m_input_tokens") or 0
        thinking = (numbers.get("output_tokens_details") or {}).get("thinking_tokens") or 0
        output = numbers.get("output_tokens") or 0
        yield Sighting(
            call=place,
            request=request,
            is_replay=is_replay,
            time=inner["timestamp"],
            model=who,
            knows_cache=place != call
            or bool({"cache_read_input_tokens", "cache_creation_input_tokens"} & numbers.keys()),
            input=numbers.get("input_tokens") or 0,
            output=output,
            read=numbers.get("cache_read_input_tokens") or 0,
            write=max(numbers.get("cache_creation_input_tokens") or 0, five + hour),
            hour=hour,
            thinking=min(thinking, output) if place == call else 0,
        )


def counted(seen: set[Sighting]) -> Iterator[tuple[str, str, Sums]]:
    """Day, model and numbers of every call that counts, given all that was seen of one id."""
    by_request: dict[str, set[Sighting]] = defaultdict(set)
    for sighting in seen:
        by_request[sighting.request].add(sighting)
    nameless = by_request.pop("", set())
    originals = {name for name, those in by_request.items() if not _is_replay(those)}
    if originals:
        groups = [by_request[name] for name in originals]
        if _is_replay(nameless):
            nameless = set()
    elif nameless and not _is_replay(nameless):
        groups = []
    elif by_request:
        groups = [min(by_request.values(), key=lambda those: (_first(those).time, -_total(those)))]
    else:
        groups = []
    groups.sort(key=lambda those: _first(those).time)
    if nameless and groups:
        groups[0] = groups[0] | nameless
    elif nameless:
        groups = [nameless]
    for those in groups:
        first = _first(those)
        knowing = {x for x in those if x.knows_cache} or those
        write, hour = max(x.write for x in those), max(x.hour for x in those)
        numbers = (
            max(x.input for x in knowing),
            max(x.output for x in those),
            max(x.read for x in those),
            write - hour,
            hour,
            max(x.thinking for x in those),
        )
        yield first.time[:10], first.model, (int(any(numbers)), *numbers)


def _is_replay(those: Iterable[Sighting]) -> bool:
    return all(sighting.is_replay for sighting in those)


def _first(those: Iterable[Sighting]) -> Sighting:
    return min(those, key=lambda sighting: sighting.time)


def _total(those: Iterable[Sighting]) -> int:
    return max(x.input + x.output + x.read + x.write for x in those)
