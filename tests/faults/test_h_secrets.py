"""H: no secret and no text of a conversation is stored, logged, exported or shown.

Canaries are planted as every secret and in every text of the logs; afterwards everything that was
written anywhere is searched for them.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from collectors.cli.options import masked, written
from collectors.ledger.files import open_reader
from tests.support.collecting import environment
from tests.support.daemons import ROOT, started, until
from tests.support.fault_server import BUCKET, ORG, FaultServer

# Unlike each other, and with characters that encodings change.
TOKEN = "tok-CANARYa1/+=x9"
API_KEY = "sk-CANARYb2/+= y8"
FILE_KEY = "file-CANARYc3-z7"
PASSWORD = "pass-CANARYd4-w6"
SECRETS = (TOKEN, API_KEY, FILE_KEY, PASSWORD)
TEXT = "CANARYe5 secret recipe of grandmother"
MARK = b"CANARY"

# A collector for each way in which a secret has been seen to get out.
LEAKY = """
import asyncio, logging
from urllib.parse import quote
import aiohttp, structlog
from multidict import CIMultiDict, CIMultiDictProxy
from pydantic import BaseModel, SecretStr
from yarl import URL
from collectors.base import BaseCollector, Options
from collectors.errors import AuthError, CollectError

class LeakyOptions(Options):
    api_key: SecretStr = SecretStr("")
    file_key: SecretStr = SecretStr("")
    proxy: str = ""

class Reply(BaseModel):
    balance: float

class _Leaky(BaseCollector[LeakyOptions]):
    options_type = LeakyOptions
    is_local = True

    def is_configured(self):
        return True

    def secrets(self):
        return [
            self.options.api_key.get_secret_value(),
            self.options.file_key.get_secret_value(),
            self.options.proxy.split(":")[2].split("@")[0],
        ]

class InTextCollector(_Leaky):
    async def collect(self):
        local = {"headers": {"Authorization": "Bearer " + self.secrets()[0]}, "all": self.secrets()}
        raise ValueError(f"bad key {local['all']}")

class InLocalsCollector(_Leaky):
    async def collect(self):
        session = "".join(["ses-", "CANA", "RYf6"])  # fetched while running: nobody was told of it
        local = {"session": session, "all": self.secrets()}
        try:
            [][len(local)]
        except IndexError as error:
            raise KeyError("x") from error

class InUrlCollector(_Leaky):
    async def collect(self):
        for key in self.secrets():
            url = f"https://api.example/v1?key={quote(key, safe='')}"
            structlog.get_logger().info("request.failed", url=url, nested=[{"url": url}])
        raise CollectError(f"GET {url} failed", f"replace the key {self.secrets()[0]}")

class InResponseCollector(_Leaky):
    async def collect(self):
        url = URL("https://api.example/v1").with_query(key=self.secrets()[0])
        headers = CIMultiDictProxy(CIMultiDict({"Authorization": self.secrets()[1]}))
        raise aiohttp.ClientResponseError(
            aiohttp.RequestInfo(url, "GET", headers, url), (), status=401, message=str(url)
        )

class InInvalidUrlCollector(_Leaky):
    async def collect(self):
        async with aiohttp.ClientSession() as session:
            await session.get(f"https://:bad:{self.secrets()[1]}@@host:x/?k={self.secrets()[0]}")

class InReplyCollector(_Leaky):
    async def collect(self):
        Reply.model_validate({"balance": self.secrets()[0]})

class InLibraryCollector(_Leaky):
    async def collect(self):
        for key in self.secrets():
            logging.getLogger("some.library").error("token %s refused", key)
            try:
                raise RuntimeError(key)
            except RuntimeError:
                logging.getLogger("some.library").exception("again")
        raise AuthError(f"{self.secrets()} refused")

class InTaskCollector(_Leaky):
    async def collect(self):
        async def fail():
            raise RuntimeError(self.secrets()[0])
        task = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        del task
        return []

class AtEachLevelCollector(_Leaky):
    async def collect(self):
        log = structlog.get_logger().bind(api_key=self.secrets()[0])
        for name in ("debug", "info", "warning", "error", "critical"):
            for key in self.secrets():
                getattr(log, name)(f"seen {key}", value=key, **{f"k {key}": [key, {"a": (key,)}]})
                getattr(log, name)("seen", raw=key.encode(), error=ValueError(key), ok=3)
        return []
"""
NAMES = (
    "InText",
    "InLocals",
    "InUrl",
    "InResponse",
    "InInvalidUrl",
    "InReply",
    "InLibrary",
    "InTask",
    "AtEachLevel",
)


def report(fault: str, **figures: Any) -> None:
    """One line of evidence."""
    print(json.dumps({"fault": fault, **figures}))


def write_logs(home: Path) -> None:
    """Conversations with a canary in every text, well-formed and broken."""
    folder = home / ".claude/projects/-home-ada-app"
    folder.mkdir(parents=True)
    good: dict[str, Any] = {
        "type": "assistant",
        "timestamp": "2026-03-02T10:00:00.000Z",
        "requestId": "req_1",
        "sessionId": "session-1",
        "cwd": "/home/ada/app",
        "gitBranch": "main",
        TEXT: TEXT,
        "toolUseResult": {"stdout": TEXT, TEXT: [TEXT]},
        "message": {
            "id": "msg_1",
            "model": "claude-sonnet-4-5-20250929",
            "stop_reason": TEXT,
            "content": [
                {"type": "text", "text": TEXT},
                {"type": "thinking", "thinking": TEXT, "signature": TEXT},
                {
                    "type": "tool_use",
                    "name": TEXT,
                    "input": {TEXT: TEXT, "usage": {"input_tokens": 9}},
                },
            ],
            "usage": {
                "input_tokens": 100,
                "output_tokens": 10,
                "service_tier": "standard",
                TEXT: TEXT,
            },
        },
    }
    lines = [
        json.dumps({"type": "summary", "summary": TEXT}),
        json.dumps({"type": "user", "message": {"content": TEXT}}),
    ]
    lines.append(json.dumps(good))
    for number, (where, value) in enumerate(
        [
            ("usage", {"input_tokens": TEXT, "output_tokens": 3}),
            ("usage", {"input_tokens": -1, "output_tokens": TEXT}),
            ("usage", {"input_tokens": {TEXT: TEXT}, "output_tokens": 1}),
            ("usage", [TEXT]),
            ("content", TEXT),
            ("model", {"name": TEXT}),
            ("id", [TEXT]),
        ]
    ):
        bad = json.loads(json.dumps(good))
        bad["message"]["id"] = f"bad_{number}"
        bad["message"][where] = value
        lines.append(json.dumps(bad))
    bad = json.loads(json.dumps(good))
    bad["timestamp"] = TEXT
    lines += [json.dumps(bad), json.dumps(good)[:-40] + TEXT, '{"usage":{"' + TEXT]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "b.jsonl").write_bytes(b'"usage":{ \xff\xfe ' + TEXT.encode() + b"\n")


def settings(home: Path, server: FaultServer, form: str) -> dict[str, str]:
    plug_ins = home / "plug-ins"
    plug_ins.mkdir()
    (plug_ins / "leaky.py").write_text(LEAKY)
    (home / "keys").mkdir()
    (home / "keys" / "file").write_text(FILE_KEY + "\n")
    extra = {}
    for name in ("IN_TEXT", "IN_LOCALS", "IN_URL", "IN_RESPONSE", "IN_INVALID_URL", "IN_REPLY",
                 "IN_LIBRARY", "IN_TASK", "AT_EACH_LEVEL"):  # fmt: skip
        extra[f"{name}_API_KEY"] = API_KEY
        extra[f"{name}_FILE_KEY_FILE"] = str(home / "keys" / "file")
        extra[f"{name}_PROXY"] = f"http://ada:{PASSWORD}@proxy:3128"
    found = environment(
        home,
        COLLECTORS_EXTRA=",".join(f"leaky:{name}Collector" for name in NAMES),
        LOCAL_INTERVAL="0.05",
        LOG_LEVEL="debug",
        LOG_FORMAT=form,
        INFLUXDB_URL=server.url,
        INFLUXDB_TOKEN=TOKEN,
        INFLUXDB_ORG=ORG,
        INFLUXDB_BUCKET=BUCKET,
        INFLUXDB_INTERVAL="0.05",
        **extra,
    )
    found["PYTHONPATH"] = f"{plug_ins}:{ROOT}"
    return found


@dataclass
class Written:
    """Everything a run left behind, by where it is."""

    places: dict[str, bytes]

    def hits(self) -> dict[str, int]:
        """Where canaries are, in any form they could have."""
        forms = {MARK}
        for secret in (*SECRETS, TEXT):
            forms |= {quote(secret, safe="").encode(), base64.b64encode(secret.encode())}
        found = {
            place: sum(content.count(form) for form in forms)
            for place, content in self.places.items()
        }
        return {place: count for place, count in found.items() if count}


async def run_everything(
    home: Path, form: str, *, mutant: str = "", is_refusing: bool = False
) -> Written:
    """A daemon among secrets, then every command that shows something."""
    write_logs(home)
    places: dict[str, bytes] = {}
    async with FaultServer() as server:
        server.token = "another" if is_refusing else TOKEN
        server.echoes_authorization = True
        environ = settings(home, server, form)
        async with started(environ, mutant=mutant) as daemon:
            await daemon.ready()
            await daemon.ask("collect")  # each source at least once
            await until(lambda: server.request_sizes)
            health = await daemon.ask("health")
            places["health"] = json.dumps(health).encode()
            places["cmdline"] = Path(f"/proc/{daemon.pid}/cmdline").read_bytes()
            ended = await daemon.stop()
        assert ended.code == 0
        places["log"] = ended.error.encode()
        places["influxdb"] = repr(server.store).encode()
    for path in sorted((home / "data").rglob("*")):
        if path.is_file():
            places[f"file {path.name}"] = path.read_bytes()
    for command in COMMANDS if form == "json" and not mutant else ():
        done = run(environ, *command)
        places[" ".join(command)] = done.stdout + done.stderr
    return Written(places)


COMMANDS = (
    ("config",),
    ("config", "--json"),
    ("providers",),
    ("status",),
    ("check",),
    ("report", "daily", "--json", "--no-collect"),
    ("report", "sessions", "--json", "--no-collect"),
    ("dead",),
    ("--once", "--log-level", "debug"),
)


def run(environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "collectors", *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        check=False,
        timeout=60,
    )


# -- the whole program -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "console"])
async def test_h1_to_h7_no_canary_is_found_in_anything_that_was_written(
    tmp_path: Path, form: str
) -> None:
    found = await run_everything(tmp_path, form, is_refusing=form == "console")

    log = found.places["log"].decode()
    report("H", form=form, places=len(found.places), hits=sum(found.hits().values()))
    assert found.hits() == {}
    assert log.count("[redacted]") > 50  # there was something to find
    assert {"file ledger.db", "health", "cmdline", "influxdb"} <= found.places.keys()
    if form == "json":
        assert {" ".join(command) for command in COMMANDS} <= found.places.keys()
        assert all(json.loads(line) for line in log.splitlines() if line.startswith("{"))
        assert '"exc_value": "bad key [' in log
    db = open_reader(tmp_path / "data" / "ledger.db")
    counted = db.execute("SELECT sum(input_tokens), sum(requests) FROM bucket").fetchone()
    refused = {reason for (reason,) in db.execute("SELECT DISTINCT reason FROM refused")}
    errors = {error for (error,) in db.execute("SELECT error FROM run WHERE error<>''")}
    db.close()
    assert counted[0] >= 100
    assert {"not JSON", "timestamp missing or unreadable"} <= refused
    assert "GET https://api.example/v1?key=[redacted] failed" in errors


@pytest.mark.parametrize(
    ("mutant", "places"),
    [
        ("no_redaction", {"log", "health", "file ledger.db"}),
        ("shows_locals", {"log"}),
        ("quotes_lines", {"file ledger.db"}),
    ],
)
async def test_h_the_canaries_catch_a_program_that_tells(
    tmp_path: Path, mutant: str, places: set[str]
) -> None:
    found = await run_everything(tmp_path, "json", mutant=mutant)

    hits = {place.removesuffix("-wal") for place in found.hits()}
    assert places <= hits


# -- H2: a crash -----------------------------------------------------------------------------------

CRASH = """
import os
from collectors.cli.running import prepare_logs
from collectors.composition import Program

def crash(program, secret):
    raise RuntimeError(f"{secret} was refused")

program = Program(os.environ)
{guard}
crash(program, program.settings.influxdb_token.get_secret_value())
"""


@pytest.mark.parametrize(("guard", "is_safe"), [("prepare_logs(program)", True), ("", False)])
def test_h2_the_traceback_of_a_crash_is_redacted_too(
    tmp_path: Path, guard: str, is_safe: bool
) -> None:
    environ = environment(tmp_path, INFLUXDB_TOKEN=TOKEN)

    done = subprocess.run(
        [sys.executable, "-c", CRASH.replace("{guard}", guard)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        check=False,
    )

    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    assert (MARK not in done.stderr) is is_safe


# -- H4: what is shown of a secret -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("", ""),
        ("short", "set"),
        ("x" * 15 + "abcd", "set"),
        ("x" * 16 + "abcd", "set (…abcd)"),
    ],
)
def test_h4_of_a_long_secret_the_last_four_characters_are_shown_and_of_others_none(
    secret: str, shown: str
) -> None:
    assert masked(secret) == shown


def test_h4_a_password_in_an_address_is_not_shown() -> None:
    assert written("http://ada:s3cret@proxy:3128/x") == "http://ada:set@proxy:3128/x"
    assert written("https://host/a@b:c") == "https://host/a@b:c"


# -- H8: what a project is called outside ----------------------------------------------------------


@pytest.mark.parametrize(("mode", "tag"), [("name", "app"), ("hash", None), ("off", "")])
async def test_h8_no_path_and_no_user_name_becomes_a_tag(
    tmp_path: Path, mode: str, tag: str | None
) -> None:
    write_logs(tmp_path)
    async with FaultServer() as server:
        environ = environment(
            tmp_path,
            PROJECT_TAG=mode,
            INFLUXDB_URL=server.url,
            INFLUXDB_TOKEN=server.token,
            INFLUXDB_ORG=ORG,
            INFLUXDB_BUCKET=BUCKET,
        )
        async with started(environ, "run", "--once") as process:
            ended = await process.ended()
        tags = [dict(tags) for name, tags, _ in server.store if name == "token_usage"]

    assert ended.code == 0, ended.error
    assert tags
    projects = {found.get("project", "") for found in tags}
    assert "ada" not in repr(tags)
    if tag is None:
        [project] = projects
        assert len(project) == 12
        assert int(project, 16) >= 0
    else:
        assert projects == {tag}
