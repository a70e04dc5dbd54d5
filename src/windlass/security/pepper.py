"""The pepper of a home: the secret under which its keys' HMACs are made, in a file that only its owner can read.

Made when the first key is. It lies apart from the HMACs, so that whoever copies the database has no use for it. Must
never be replaced: every key would be another's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from windlass import errors

FILE = "key-pepper"
_BYTES = 32


def of_home(home: Path) -> str:
    """The home's pepper, 64 hexadecimal digits, made if there is none; `NotAllowed` if others could read it."""
    path = home / FILE
    if not path.exists():
        _make(path)
    if path.stat().st_mode & 0o077:
        raise errors.NotAllowed(f"{path} can be read by others than its owner.", hint=f"Close it: chmod 600 {path}")
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if len(text) != 2 * _BYTES or set(text) - set("0123456789abcdef"):
        raise errors.CorruptPackage(
            f"{path} is damaged: no key of this home can be checked.", hint="Restore it from a backup of the home."
        )
    return text


def _make(path: Path) -> None:
    """Whole or not at all, and never over another: two commands may come at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{FILE}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_bytes(_BYTES).hex())
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(fresh, path)
    fresh.unlink()
