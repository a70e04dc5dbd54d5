"""API keys: `wl_<id>_<43 characters>`, of which a server stores only an HMAC.

Made by an operator's script, checked at the server's door on every request. 256 random bits need no slow hash:
HMAC-SHA256 under a pepper that is kept apart from the stored values. Must never be given a store, nor put a key into a
message.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

# The id is public: it is shown in lists and logs, and found before the secret is checked.
_KEY = re.compile(r"wl_([0-9a-z]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
_SECRET_BYTES = 32
_LENGTH = len("wl__") + _ID_LENGTH + 43


def generate() -> tuple[str, str]:
    """A new key: its id, and the whole text, which is shown once and never stored."""
    identity = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
    return identity, renew(identity)


def renew(identity: str) -> str:
    """Another text for the key of this id, with a secret of its own."""
    return f"wl_{identity}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def parse(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key's text; None if it is no key."""
    if len(text) != _LENGTH:
        return None
    found = _KEY.fullmatch(text)
    return None if found is None else (found[1], found[2])


def hmac_of(text: str, pepper: bytes) -> str:
    """What is stored of a key: HMAC-SHA256 of its whole text, so that a secret is bound to its id. 64 hex digits."""
    return hmac.digest(pepper, text.encode(), hashlib.sha256).hex()
