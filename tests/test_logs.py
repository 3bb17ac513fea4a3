"""Log lines: events for people and machines, and never a secret."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import structlog

from collectors.logs import REDACTED, Redaction, configure_logs, text_of

SECRET = "sk-canary/+= 0100"  # with everything that encodings change
Lines = Callable[..., str]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def logging(
    form: str = "json", level: str = "debug", stream: io.StringIO | None = None
) -> io.StringIO:
    """Configured logs; what they wrote is in the stream that is returned."""
    stream = stream or io.StringIO()
    configure_logs(level, form, Redaction([SECRET]), stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# -- form ------------------------------------------------------------------------------------------


def test_away_from_a_terminal_each_line_is_one_json_object() -> None:
    stream = logging("auto")

    structlog.get_logger().info("collector.completed", collector="claude-code", points=3)
    structlog.get_logger().warning("sink.failed", error="two\nlines")

    first, second = lines(stream)
    assert (first["event"], first["level"], first["points"]) == ("collector.completed", "info", 3)
    assert first["timestamp"].endswith("Z")
    assert second["error"] == "two\nlines"


def test_on_a_terminal_lines_are_for_people_and_coloured_unless_asked_not_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = logging("auto", stream=Terminal())
    structlog.get_logger().info("collector.completed", points=3)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = logging("auto", stream=Terminal())
    structlog.get_logger().info("collector.completed", points=3)

    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in plain.getvalue()
    assert "collector.completed" in plain.getvalue()
    assert "points=3" in plain.getvalue()


def test_a_format_that_is_asked_for_wins_over_the_terminal() -> None:
    stream = logging("json", stream=Terminal())

    structlog.get_logger().info("x.done")

    assert lines(stream)[0]["event"] == "x.done"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lines_below_the_level_are_not_written(level: str, expected: list[str]) -> None:
    stream = logging(level=level)

    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger(), name)("x.done")

    assert [line["level"] for line in lines(stream)] == expected


def test_a_logger_made_before_the_logs_were_configured_follows_them() -> None:
    log = structlog.get_logger()
    stream = logging()

    log.info("x.done", collector="x")

    assert lines(stream)[0]["collector"] == "x"


def test_bound_context_is_part_of_every_line() -> None:
    stream = logging()

    with structlog.contextvars.bound_contextvars(run="r1"):
        structlog.get_logger().info("x.done")

    assert lines(stream)[0]["run"] == "r1"


# -- secrets ---------------------------------------------------------------------------------------

FORMS = {
    "itself": SECRET,
    "url_encoded_partly": "sk-canary/%2b%3D+0100",
    "url_encoded_as_a_path": quote(SECRET),
    "in_json_escaped": SECRET.replace("/", "\\/"),
    "base64_for_urls": base64.urlsafe_b64encode(SECRET.encode()).decode(),
    "url_encoded": quote(SECRET, safe=""),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64_unpadded": base64.b64encode(SECRET.encode()).decode().rstrip("="),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_known_secret_is_taken_out_in_each_form_it_appears_in(name: str) -> None:
    redaction = Redaction([SECRET])

    assert redaction.clean(f"a {FORMS[name]} b") == f"a {REDACTED} b"


@pytest.mark.parametrize("user", ["", "a", "ab", "abc", "ada:", "grace"])
@pytest.mark.parametrize("rest", ["", "x", "xy", "xyz"])
@pytest.mark.parametrize(
    "secret", ["sk-canary-1", "sk-canary-12", "sk-canary-123", "ключ-канарейка"]
)
def test_a_secret_inside_something_in_base64_is_taken_out(
    user: str, rest: str, secret: str
) -> None:
    header = base64.b64encode(f"{user}{secret}{rest}".encode()).decode()

    cleaned = Redaction([secret]).clean(f"Basic {header}")

    kept = cleaned.removeprefix("Basic ").replace(REDACTED, "")
    assert REDACTED in cleaned
    assert len(kept) <= 4 * (len(user) + len(rest)) // 3 + 4


def test_a_secret_that_holds_another_is_taken_out_as_a_whole() -> None:
    redaction = Redaction(["abcdef", "abcdef-and-more"])

    assert redaction.clean("abcdef-and-more abcdef") == f"{REDACTED} {REDACTED}"


def test_secrets_are_learned_while_running_and_short_ones_do_not_spoil_ordinary_words() -> None:
    redaction = Redaction()
    redaction.learn(["new-secret-1", "user", ""])

    assert redaction.clean("the user has new-secret-1") == f"the user has {REDACTED}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("api_key", "x", REDACTED),
        ("INFLUXDB_TOKEN", "x", REDACTED),
        ("Authorization", "Bearer x", REDACTED),
        ("client_secret", "x", REDACTED),
        ("password", "x", REDACTED),
        ("Cookie", "a=b", REDACTED),
        ("token", b"bytes", REDACTED),
        ("tokens", 12, 12),
        ("total_tokens", 12, 12),
        ("input_tokens", None, None),
        ("unpriced_tokens", {"gpt": 3}, {"gpt": 3}),
        ("tokens", "sk-unknown", REDACTED),
        ("tokens", [3, f"x {SECRET}"], [3, f"x {REDACTED}"]),
        ("points", 12, 12),
        ("ratio", 0.5, 0.5),
        ("ok", True, True),
        ("nothing", None, None),
        (
            "headers",
            {"Authorization": "Bearer x", "Accept": "*"},
            {"Authorization": REDACTED, "Accept": "*"},
        ),
        ("deep", {"a": [{"b": (f"x{SECRET}",)}]}, {"a": [{"b": [f"x{REDACTED}"]}]}),
        ("keys", {f"k {SECRET}": 1}, {f"k {REDACTED}": 1}),
        ("some", {f"{SECRET}"}, [REDACTED]),
        ("raw", f"{SECRET}".encode(), f"b'{REDACTED}'"),
        ("error", ValueError(SECRET), REDACTED),
    ],
)
def test_what_is_in_a_key_is_redacted_by_name_and_by_value_and_counts_are_not(
    key: str, value: Any, expected: Any
) -> None:
    assert Redaction([SECRET])(None, "info", {key: value}) == {key: expected}


def test_a_text_that_cannot_be_made_is_replaced_by_its_type() -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise RuntimeError

    assert text_of(Unspeakable()) == "Unspeakable"
    assert Redaction()(None, "info", {"x": Unspeakable()}) == {"x": "Unspeakable"}
