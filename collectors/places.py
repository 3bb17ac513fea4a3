"""Where configuration and ledger lie, worked out from a few raw settings; no pydantic needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from collectors.errors import SettingsError
from collectors.layers import Layers

NAME = "tokendash"


def config_dir(environ: Mapping[str, str]) -> Path:
    """The folder of `.env` and `tokendash.yaml`."""
    named = environ.get("TOKENDASH_CONFIG_DIR")
    return Path(named).expanduser() if named else _user_dir("XDG_CONFIG_HOME", "config")


def ledger_path(layers: Layers) -> Path:
    """The ledger's place: DB_PATH, else the user's data folder."""
    named = layers.find("DB_PATH")
    if named is not None:
        try:
            path = Path(str(named.text)).expanduser()
        except RuntimeError:  # the home of a user that is not there
            raise SettingsError(
                f"DB_PATH from {named.origin} names the home of a user there is none of",
                "write the whole path",
            ) from None
    else:
        path = _user_dir("XDG_DATA_HOME", "data") / "ledger.db"
    # The folder a command is called in may be gone, and matters to a relative path only.
    return path if path.is_absolute() else Path.cwd() / path


def _user_dir(variable: str, kind: str) -> Path:
    # platformdirs costs a quick command a third of its time; what it says of the plain case on
    # Linux is known, and a test holds both together.
    if sys.platform == "linux" and not os.environ.get(variable):
        usual = {"config": ".config", "data": ".local/share"}[kind]
        return Path.home() / usual / NAME
    from platformdirs import PlatformDirs

    dirs = PlatformDirs(NAME, appauthor=False)
    return Path(dirs.user_config_dir if kind == "config" else dirs.user_data_dir)
