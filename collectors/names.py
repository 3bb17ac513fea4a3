"""One spelling for every name that becomes a tag, settled before anything is keyed by it."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from hashlib import sha256

LONGEST = 200
_KEPT = 180
_UNKNOWN = "unknown"
# Control characters, lone surrogates, and the two separators that other programs end lines at.
_REPLACED = frozenset({"Cc", "Cs", "Zl", "Zp"})


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """The form of a name in ledger keys, tags and reports; applying it again changes nothing.

    Two names that would end up as one InfluxDB series are one name after this, and no name can
    break out of the tag it is written into. A long name keeps its start and gets a checksum.
    """
    name = unicodedata.normalize("NFC", text)
    if not (name.isascii() and name.isprintable()):
        name = "".join("_" if unicodedata.category(c) in _REPLACED else c for c in name)
    name = name.strip().replace("\\", "/")
    if len(name) > LONGEST:
        digest = sha256(name.encode()).hexdigest()[:8]
        name = f"{name[:_KEPT]}~{digest}"
    return name or _UNKNOWN
