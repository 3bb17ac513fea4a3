"""The committed stack: valid, complete, hardened, and without a secret anybody could know."""

from __future__ import annotations

import configparser
import copy
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from collectors.settings import Settings
from influxdb import grafana_config
from influxdb.secret_files import Vault

REPOSITORY = Path(__file__).resolve().parent.parent
COMPOSE = REPOSITORY / "docker-compose.yml"
DOCKERFILE = REPOSITORY / "collectors/Dockerfile"
SERVICES = ("collector", "grafana", "influxdb", "setup")
OURS = ("collector", "setup")
WALLS = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}
LIMITS = ("tmpfs", "pids_limit", "mem_limit", "logging")

Stack = dict[str, Any]


def load() -> Stack:
    """The compose file as compose reads it."""
    stack: Stack = yaml.safe_load(COMPOSE.read_text())
    return stack


def environment(stack: Stack, service: str) -> dict[str, str]:
    """A service's variables."""
    return {key: str(value) for key, value in stack["services"][service]["environment"].items()}


def mounts(stack: Stack, service: str) -> dict[str, str]:
    """Where a service's volumes are mounted, with `:ro` where they are read-only."""
    found = {}
    for entry in stack["services"][service].get("volumes", ()):
        name, target, *options = entry.split(":")
        found[name] = ":".join([target, *options])
    return found


def weaknesses(stack: Stack) -> list[str]:
    """What keeps a stack from being as closed as it should be."""
    return [
        f"{name}: {what}"
        for name, service in stack["services"].items()
        for what in (
            *_missing_walls(name, service),
            *_missing_limits(name, service),
            *_open_doors(service, set(stack["volumes"])),
        )
    ]


def _missing_walls(name: str, service: Stack) -> Iterator[str]:
    for key, wanted in WALLS.items():
        if service.get(key) != wanted:
            yield f"{key} is {service.get(key)}"
    for key in ("cap_add", "privileged", "network_mode", "pid", "devices", "userns_mode"):
        if key in service:
            yield f"{key} is set"
    # `setup` is root without capabilities, so that its files are nobody else's, and it ends.
    if name != "setup" and (service.get("user") or "0").split(":")[0] in ("0", "root"):
        yield "it runs as root"


def _missing_limits(name: str, service: Stack) -> Iterator[str]:
    if not any(entry.startswith("/tmp") for entry in service.get("tmpfs", ())):
        yield "no tmpfs on /tmp"
    for key in ("pids_limit", "mem_limit"):
        if not service.get(key):
            yield f"no {key}"
    if set(service.get("logging", {}).get("options", {})) != {"max-size", "max-file"}:
        yield "its logs are not rotated"
    if name != "setup" and not service.get("healthcheck", {}).get("test"):
        yield "no healthcheck"


def _open_doors(service: Stack, volumes: set[str]) -> Iterator[str]:
    for port in service.get("ports", ()):
        if not str(port).startswith("127.0.0.1:"):
            yield f"port {port} is published on every interface"
    for entry in service.get("volumes", ()):
        if not isinstance(entry, str) or entry.split(":")[0] not in volumes:
            yield f"it mounts {entry}, which is no named volume"
    if "latest" in service["image"] or ":" not in service["image"]:
        yield f"image {service['image']} is not pinned"
    for key, value in service.get("environment", {}).items():
        is_secret = re.search("TOKEN|PASSWORD|SECRET|KEY", key)
        if is_secret and not re.fullmatch(r"|/run/tokendash/\w+|\$\{\w+:-\}", str(value)):
            yield f"{key} has a value everybody can read"


def test_the_compose_file_follows_the_compose_specification() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    checked = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_stack_is_closed() -> None:
    found = weaknesses(load())

    print(json.dumps({"fault": "J1-J3", "services": len(SERVICES), "weaknesses": len(found)}))
    assert found == []


def _opened_port(stack: Stack) -> None:
    stack["services"]["influxdb"]["ports"] = ["8086:8086"]


def _default_password(stack: Stack) -> None:
    stack["services"]["setup"]["environment"]["GRAFANA_PASSWORD"] = "${GRAFANA_PASSWORD:-admin}"


def _host_folder(stack: Stack) -> None:
    stack["services"]["collector"]["volumes"].append("~/.claude:/logs/claude-code-1:ro")


def _root(stack: Stack) -> None:
    stack["services"]["collector"]["user"] = "0:0"


def _without(service: str, key: str) -> Callable[[Stack], None]:
    def change(stack: Stack) -> None:
        del stack["services"][service][key]

    return change


def _latest(stack: Stack) -> None:
    stack["services"]["grafana"]["image"] = "grafana/grafana:latest"


@pytest.mark.parametrize(
    "mutant",
    [
        _opened_port,
        _default_password,
        _host_folder,
        _root,
        _latest,
        *(_without(service, key) for service in SERVICES for key in (*WALLS, *LIMITS)),
        *(_without(service, "healthcheck") for service in SERVICES if service != "setup"),
    ],
)
def test_a_stack_that_is_not_closed_is_noticed(mutant: Callable[[Stack], None]) -> None:
    stack = copy.deepcopy(load())
    mutant(stack)

    assert len(weaknesses(stack)) == 1


def test_services_start_in_the_order_that_makes_secrets_first() -> None:
    stack = load()

    assert sorted(stack["services"]) == sorted(SERVICES)
    conditions = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in stack["services"].items()
    }
    assert conditions == {
        "influxdb": {},
        "setup": {"influxdb": "service_healthy"},
        "grafana": {"setup": "service_completed_successfully"},
        "collector": {"setup": "service_completed_successfully"},
    }
    assert stack["services"]["setup"]["restart"] == "no"
    assert {stack["services"][name]["restart"] for name in SERVICES if name != "setup"} == {
        "unless-stopped"
    }


def test_only_grafana_is_published_and_only_on_this_machine() -> None:
    services = load()["services"]

    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"grafana": ["127.0.0.1:${GRAFANA_PORT:-3456}:3000"]}


def test_no_reader_can_reach_anothers_secrets() -> None:
    stack = load()

    assert mounts(stack, "grafana") == {
        "grafana-secrets": "/run/tokendash:ro",
        "grafana-config": "/etc/grafana:ro",
        "grafana-data": "/var/lib/grafana",
    }
    assert mounts(stack, "collector") == {
        "exporter-secrets": "/run/tokendash:ro",
        "ledger": "/data",
    }
    holders = [name for name in SERVICES if "admin" in mounts(stack, name)]
    assert holders == ["setup"]
    assert set(stack["volumes"]) == {
        name for service in SERVICES for name in mounts(stack, service)
    }


def test_every_secret_file_is_where_its_reader_looks() -> None:
    stack = load()
    vault = Vault(Path("/secrets"))
    written = [
        vault.operator_token,
        vault.influxdb_password,
        vault.admin_password,
        vault.secret_key,
        vault.read_token,
        vault.write_token,
    ]
    setup = mounts(stack, "setup")
    reachable = {
        service: {
            f"{target.removesuffix(':ro')}/{path.name}"
            for volume, target in mounts(stack, service).items()
            for path in written
            if str(path.parent) == setup.get(volume)
        }
        for service in ("grafana", "collector")
    }

    asked = set()
    for name in ("grafana.ini", "provisioning/datasources/tokendash.yaml"):
        asked |= set(
            re.findall(r"\$__file\{([^}]+)\}", (REPOSITORY / "grafana" / name).read_text())
        )
    assert asked == reachable["grafana"]
    assert {environment(stack, "collector")["INFLUXDB_TOKEN_FILE"]} == reachable["collector"]
    assert all(str(path.parent) in setup.values() for path in written)


def test_what_grafana_needs_renders_from_this_clone() -> None:
    files = grafana_config.render(
        REPOSITORY / "grafana", url="http://influxdb:8086", database="tokens"
    )

    names = {str(name) for name in files}
    assert {"grafana.ini", "dashboards/token_usage.json"} <= names
    for name, content in files.items():
        assert content == (REPOSITORY / "grafana" / name).read_bytes(), name


def test_grafana_lets_nobody_in_without_a_password_and_fetches_nothing() -> None:
    parser = configparser.RawConfigParser()
    parser.read(REPOSITORY / "grafana/grafana.ini")

    assert parser["security"]["admin_password"].startswith("$__file{")
    assert parser["security"]["secret_key"].startswith("$__file{")
    assert parser.getboolean("users", "allow_sign_up") is False
    assert parser.getboolean("auth.anonymous", "enabled") is False
    assert parser.getboolean("plugins", "preinstall_disabled") is True
    assert parser.getboolean("analytics", "reporting_enabled") is False
    assert parser.getboolean("analytics", "check_for_updates") is False
    assert not [
        key for key in environment(load(), "grafana") if re.search("PASSWORD|SECRET|PLUGINS", key)
    ]


def test_what_belongs_to_the_stack_cannot_be_changed_by_a_dot_env() -> None:
    given = environment(load(), "collector")

    assert given["INFLUXDB_URL"] == "http://influxdb:8086"
    assert given["DB_PATH"] == "/data/ledger.db"
    for name in ("URL", "TOKEN", "TOKEN_FILE", "ORG", "BUCKET"):
        assert given[f"TOKENDASH_INFLUXDB_{name}"] == ""
    for name in ("INFLUXDB_TOKEN", "INFLUXDB_ADMIN_TOKEN", "GRAFANA_PASSWORD"):
        assert given[name] == ""
    assert load()["services"]["collector"]["env_file"] == [{"path": ".env", "required": False}]


def test_unset_settings_stay_unset_and_every_one_passed_is_known() -> None:
    given = environment(load(), "collector")
    passed = {key for key, value in given.items() if value == "${" + key + ":-}"}

    known = {name.upper() for name in Settings.model_fields} | {"CLAUDE_CODE_PLAN"}
    assert {"TZ", "COLLECT_INTERVAL", "CLAUDE_CODE_PLAN", "PROJECT_TAG", "HOST_NAME"} <= passed
    assert passed <= known


def test_the_ledger_is_no_part_of_the_logs() -> None:
    stack = load()
    ledger = environment(stack, "collector")["DB_PATH"]

    assert ledger.startswith(mounts(stack, "collector")["ledger"] + "/")
    assert not ledger.startswith("/logs")


def test_every_variable_of_the_compose_file_has_an_empty_or_harmless_default() -> None:
    text = COMPOSE.read_text()
    plain = re.sub(r"\$\{(\w+):-[^{}]*\}", "", text)
    plain = re.sub(r"\$\{(\w+):-\}", "", plain)

    assert "${" not in plain
    defaults = dict(re.findall(r"\$\{(\w+):-([^{}]+)\}", text))
    assert defaults == {"GRAFANA_PORT": "3456", "HOST_UID": "1000", "HOST_GID": "1000"}


# The image.


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continuation lines joined."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_both_our_services_are_built_from_the_same_file() -> None:
    stack = load()

    for name in OURS:
        build = stack["services"][name]["build"]
        assert build == {"context": ".", "dockerfile": "collectors/Dockerfile"}
        assert (REPOSITORY / build["dockerfile"]).is_file()
    assert stack["services"]["setup"]["image"] == stack["services"]["collector"]["image"]


def test_everything_the_image_copies_exists_and_reaches_the_build() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    sources = [
        source
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in shlex.split(rest)[:-1]
    ]

    assert ignored[1] == "*"
    assert len(sources) == 6
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert source.split("/")[0] in allowed, source


def test_what_the_containers_run_exists() -> None:
    stack = load()

    assert stack["services"]["setup"]["entrypoint"] == ["python", "-m", "influxdb.setup"]
    assert (REPOSITORY / "influxdb/setup.py").is_file()
    assert ("ENTRYPOINT", '["python", "-m", "collectors"]') in instructions()
    assert (REPOSITORY / "collectors/__main__.py").is_file()
    health = stack["services"]["collector"]["healthcheck"]["test"]
    assert health == ["CMD", "python", "-m", "collectors", "health"]


def test_the_image_is_pinned_hash_checked_and_not_root() -> None:
    steps = instructions()
    bases = [rest.split()[0] for name, rest in steps if name == "FROM"]
    [install] = [rest for name, rest in steps if name == "RUN" and "pip install" in rest]

    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", bases[0])
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert [rest for name, rest in steps if name == "USER"] == ["1000:1000"]
    assert not [rest for name, rest in steps if name == "ADD"]


def test_any_user_may_keep_the_ledger_in_the_image() -> None:
    [made] = [rest for name, rest in instructions() if name == "RUN" and "/data" in rest]

    assert made == "mkdir /data && chmod 1777 /data"


def test_no_text_of_the_stack_holds_a_secret() -> None:
    files = [COMPOSE, DOCKERFILE, REPOSITORY / ".dockerignore"]
    files += [path for path in (REPOSITORY / "influxdb").iterdir() if path.suffix in {".py", ".md"}]
    long_random = re.compile(r"\b(?=\w*\d)(?=\w*[a-z])(?=\w*[A-Z])\w{24,}\b")

    assert [
        (path.name, found) for path in files for found in long_random.findall(path.read_text())
    ] == []
