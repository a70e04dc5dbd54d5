"""Where a sticky key falls, and what stands for it in logs.

Asked by routers for each request, and by whoever joins feedback to what the logs hold. Must never keep a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from windlass.types import spec

CALLER = "caller"
HEADER = "header:"
# The caller of a server without keys: everybody, hence no key to stick to.
_ANYBODY = "local"
# A key is remembered by 64 bits of its hash.
_KEY_DIGITS = 16


class Sticky:
    """A key's place in [0, 1) and its name in the log: both from one keyed hash, both the same for ever."""

    def __init__(self, salt: str) -> None:
        self._state = hashlib.blake2b(key=hashlib.blake2b(salt.encode()).digest(), digest_size=24)

    def place(self, key: bytes) -> tuple[float, str]:
        """Where the key falls, and the hash that stands for it."""
        state = self._state.copy()
        state.update(key)
        digest = state.digest()
        # As many bits as a float has, so that the place is never rounded up to 1.
        return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53, digest[8:].hex()


class Sticks:
    """Where an endpoint's requests stick: by a header's value or by the caller."""

    def __init__(self, endpoint: spec.Endpoint) -> None:
        self._header = endpoint.sticky.removeprefix(HEADER).lower().encode() if endpoint.sticky != CALLER else b""
        self._sticky = Sticky(endpoint.salt)

    def place(self, headers: Mapping[bytes, bytes], caller: str) -> tuple[float, str] | None:
        """The place and the hash of a request's key; None if it has none."""
        found = headers.get(self._header, b"") if self._header else _key_of(caller)
        return self._sticky.place(found) if found else None

    def went_wrong(self, tell: Callable[[int], None]) -> Callable[[Mapping[bytes, bytes], str], None]:
        """What tells of the keys of requests that ended badly."""

        def bad(headers: Mapping[bytes, bytes], caller: str) -> None:
            found = self.place(headers, caller)
            if found is not None:
                tell(int(found[1][:_KEY_DIGITS], 16))

        return bad


def _key_of(caller: str) -> bytes:
    return b"" if caller == _ANYBODY else caller.encode()
