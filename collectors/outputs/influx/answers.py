"""What InfluxDB's answers to a write mean, for every generation and for what stands in between."""

from __future__ import annotations

import enum
import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from collectors.errors import TargetError

LONGEST_TEXT: Final = 300
LONGEST_PAUSE: Final = 900.0

_RETENTION: Final = re.compile(r"retention", re.IGNORECASE)
# Words by which a server says that a line's content is at fault, not the request as a whole.
_CONTENT: Final = re.compile(
    r"partial write|unable to parse|parsing|parse error|field type|line protocol|retention"
    r"|max key length|max-values-per-tag|max-series",
    re.IGNORECASE,
)


class Answer(NamedTuple):
    """One reply; status 0 means that none came."""

    status: int
    text: str = ""
    retry_after: str = ""
    is_slow: bool = False  # the time limit ran out, so asking again at once would be unkind


class Verdict(enum.Enum):
    """What to do after an answer."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # some line of it: split
    TOO_LARGE = "too large"  # split, and send less from now on
    LATER = "later"  # out of reach, overloaded or broken: the same again later
    SETUP = "setup"  # token, organisation or bucket: nothing helps but a change
    STRANGE = "strange"  # whoever answered is not an InfluxDB


def judge(answer: Answer) -> Verdict:
    """The verdict on one answer. Only 204 means stored, whatever else looks like success."""
    status = answer.status
    if status == 204:
        return Verdict.ACCEPTED
    # 3.x reports refused lines as a 500, which only the text tells from a breakdown.
    if status in (400, 422) or "partial write" in answer.text:
        return Verdict.REFUSED
    if status == 413:
        return Verdict.TOO_LARGE
    if status in (401, 403, 404):
        return Verdict.SETUP
    if status in (0, 408, 425, 429) or status >= 500:
        return Verdict.LATER
    return Verdict.STRANGE


def blames_content(answer: Answer) -> bool:
    """Whether the text itself says that a line is at fault."""
    return bool(_CONTENT.search(answer.text))


def blames_age(answer: Answer) -> bool:
    """Whether the text says that a point is older than the bucket keeps."""
    return judge(answer) is Verdict.REFUSED and bool(_RETENTION.search(answer.text))


def is_breakdown(answer: Answer) -> bool:
    """Whether the server failed without asking for a pause; a poisonous line looks like that."""
    return judge(answer) is Verdict.LATER and answer.status >= 500 and not answer.retry_after


def pause_asked_for(answer: Answer, now: datetime) -> float:
    """Seconds the answer asks to wait, between 0 and `LONGEST_PAUSE`; garbage is 0."""
    text = answer.retry_after.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        # A number of any length: float() makes a huge one infinite, which the cap takes care of.
        return min(float(text), LONGEST_PAUSE)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), LONGEST_PAUSE)


def server_text(body: bytes) -> str:
    """The message of an error body: `message` on 2.x and 3.x, `error` on 1.x, else all of it."""
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except ValueError:
        return text
    if isinstance(content, dict):
        for name in ("message", "error"):
            if isinstance(content.get(name), str):
                return str(content[name])
    return text


def presentable(text: str, secret: str) -> str:
    """A server's text fit for logs and the ledger: short, one line, without the token."""
    if secret:
        text = text.replace(secret, "***")
    printable = "".join(c if c.isprintable() else " " for c in text[: LONGEST_TEXT * 10])
    words = " ".join(printable.split())
    return words if len(words) <= LONGEST_TEXT else words[: LONGEST_TEXT - 1] + "…"


def safe_url(url: str) -> str:
    """A URL without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def explain(answer: Answer, url: str, org: str, bucket: str) -> TargetError:
    """The error that names what is wrong and the setting that mends it."""
    server = f"InfluxDB at {url}"
    kept = "nothing is lost: the ledger keeps what could not be sent"
    verdict = judge(answer)
    if answer.status == 401:
        return TargetError(
            f"{server} does not accept INFLUXDB_TOKEN",
            f"set INFLUXDB_TOKEN or INFLUXDB_TOKEN_FILE to one that may write bucket {bucket!r}",
        )
    if answer.status == 403:
        return TargetError(
            f"INFLUXDB_TOKEN may not write bucket {bucket!r} of {server}",
            f"give the token write permission on {bucket!r}, or correct INFLUXDB_BUCKET",
        )
    if answer.status == 404:
        return _not_found(answer, server, org, bucket)
    if verdict is Verdict.STRANGE:
        return TargetError(
            f"{url} answered a write with status {answer.status}, which InfluxDB never does",
            "check INFLUXDB_URL: it must lead to InfluxDB itself, not to a login page or redirect",
        )
    if verdict in (Verdict.REFUSED, Verdict.TOO_LARGE):
        return TargetError(
            f"{server} refuses everything: {answer.status} {answer.text}".rstrip(),
            f"check INFLUXDB_URL, INFLUXDB_ORG and INFLUXDB_BUCKET; {kept}",
        )
    if answer.status == 0:
        return TargetError(
            f"{server} is out of reach: {answer.text}", f"start it or correct INFLUXDB_URL; {kept}"
        )
    return TargetError(f"{server} answered {answer.status} {answer.text}".rstrip(), kept)


def _not_found(answer: Answer, server: str, org: str, bucket: str) -> TargetError:
    text = answer.text.lower()
    if "organization" in text or "organisation" in text:
        return TargetError(
            f"{server} has no organisation {org!r}", "set INFLUXDB_ORG to the organisation's name"
        )
    if "bucket" in text or "database" in text:
        return TargetError(
            f"{server} has no bucket {bucket!r}",
            f"create bucket {bucket!r}, or set INFLUXDB_BUCKET to one that exists",
        )
    return TargetError(
        f"{server} has no path for writes (404)",
        "check INFLUXDB_URL: InfluxDB 1.8 or newer, without a path behind the port",
    )
