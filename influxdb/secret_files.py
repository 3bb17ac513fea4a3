"""Secrets and rendered files on the set-up's volumes: whole or absent, whenever it is killed."""

from __future__ import annotations

import fcntl
import os
import secrets
import string
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from collectors.errors import SettingsError

# Letters and digits only: Grafana expands `$` inside the files it reads.
ALPHABET = string.ascii_letters + string.digits
UNFINISHED = ".new"

# Readers are kept apart by what is mounted where, not by mode, so that no user id has to match.
READABLE, PRIVATE = 0o444, 0o600
OPEN_FOLDER, PRIVATE_FOLDER = 0o755, 0o700

SAMPLES = frozenset(
    {
        "admin", "administrator", "password", "passw0rd", "changeme", "change-me", "change_me",
        "grafana", "influxdb", "tokendash", "secret", "example", "test", "token", "adminadmin",
        "password123", "admin123", "12345678", "123456789", "1234567890",
        "my-super-secret-auth-token", "my-super-secret-token", "my-token", "mytoken",
        "your-token", "your_token", "your-token-here", "your_token_here", "<token>", "xxxxxxxx",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Vault:
    """The secrets' folders, one per volume: `admin` for the set-up alone, one for each reader."""

    root: Path

    @property
    def operator_token(self) -> Path:
        """May do everything in InfluxDB."""
        return self.root / "admin" / "operator_token"

    @property
    def influxdb_password(self) -> Path:
        """Of the InfluxDB user; for its own web page."""
        return self.root / "admin" / "influxdb_password"

    @property
    def admin_password(self) -> Path:
        """Of Grafana's user `admin`."""
        return self.root / "grafana" / "admin_password"

    @property
    def secret_key(self) -> Path:
        """What Grafana encrypts its own secrets with."""
        return self.root / "grafana" / "secret_key"

    @property
    def read_token(self) -> Path:
        """May read the bucket; for Grafana."""
        return self.root / "grafana" / "influx_read_token"

    @property
    def write_token(self) -> Path:
        """May write the bucket; for the exporter."""
        return self.root / "exporter" / "influx_write_token"

    def prepare(self) -> None:
        """Create the folders with their modes; remove what a killed run left unfinished."""
        for name, mode in (
            ("admin", PRIVATE_FOLDER),
            ("grafana", OPEN_FOLDER),
            ("exporter", OPEN_FOLDER),
        ):
            folder = self.root / name
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
            for leftover in folder.glob(f".*{UNFINISHED}"):
                leftover.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one set-up at a time work on these secrets; the lock ends with the process."""
        (self.root / "admin").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            self.root / "admin" / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def generate(length: int = 48) -> str:
    """A new random secret; 48 letters and digits hold 285 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def read(path: Path) -> str:
    """The secret in a file, or nothing when there is none yet."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Put a file in place so that neither a reader nor a crash ever meets half of it."""
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    # Without capabilities even root cannot open its own 0444 file for writing, so it goes first.
    with suppress(FileNotFoundError):
        unfinished.unlink()
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    unfinished.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_or_create(path: Path, mode: int, *, length: int = 48, given: str = "") -> str:
    """The secret in a file; if there is none yet, the given or a generated one is stored first."""
    present = read(path)
    if present:
        return present
    made = given or generate(length)
    write_whole(path, made.encode(), mode)
    return made


def refuse_sample(name: str, value: str) -> None:
    """Refuse what everybody knows or what would not survive the way into Grafana.

    Raises:
        SettingsError: the value is a well-known sample, too short or holds unusable characters.
    """
    if not value:
        return
    if value.lower() in SAMPLES or len(value) < 8:
        raise SettingsError(
            f"{name} is a well-known sample or shorter than 8 characters",
            f"choose another one, or leave {name} out: a random one is generated",
        )
    if value != value.strip() or "$" in value or "%(" in value or not value.isprintable():
        raise SettingsError(
            f"{name} holds `$`, `%(`, a control character or blanks at an end",
            "choose one without them: Grafana would change it when reading",
        )
