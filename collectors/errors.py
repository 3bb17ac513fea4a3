"""Errors a caller can act on. Each carries a hint: what the user does next."""

from __future__ import annotations


class TokendashError(Exception):
    """An expected failure; `hint` says how to mend it, `exit_code` what a command ends with."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SettingsError(TokendashError):
    """A setting is missing or wrong; the message names the setting, never a secret's value."""

    exit_code = 2


class CollectError(TokendashError):
    """One collector failed; the others go on."""

    exit_code = 3


class SourceUnavailableError(CollectError):
    """The source could not be read now; it is tried again at the next interval."""


class RateLimitedError(CollectError):
    """The source asked for a pause of `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float, hint: str = "") -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class AuthError(CollectError):
    """The credentials were refused; the collector pauses and the user is told once."""


class FormatError(CollectError):
    """One record could not be understood; it is skipped and counted under `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LedgerError(TokendashError):
    """The ledger could not be opened or written."""


class LedgerLockedError(LedgerError):
    """Another process writes this ledger."""

    exit_code = 5


class NotALedgerError(LedgerError):
    """The file at the ledger's path is something else; it is never touched."""

    exit_code = 2


class LedgerTooNewError(LedgerError):
    """The ledger was written by a newer version of tokendash."""

    exit_code = 2


class LedgerDamagedError(LedgerError):
    """The ledger's content contradicts itself; see `tokendash restore`."""


class TargetError(TokendashError):
    """InfluxDB did not take what was sent; everything unsent stays in the ledger."""

    exit_code = 4
