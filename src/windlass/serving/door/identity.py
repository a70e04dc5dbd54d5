"""Who asks: what the door found out about a caller.

Made by the door, carried by permits and heads. Must never hold a secret.
"""

from __future__ import annotations

import msgspec

from windlass.serving.door import limits


class Identity(msgspec.Struct, frozen=True):
    """The key's id, or `local`; what it may do, and to which models (globs; None: to all), and how often."""

    id: str
    scopes: frozenset[str]
    models: tuple[str, ...] | None = None
    expires_at: float | None = None
    allowance: limits.Allowance | None = None


LOCAL = Identity("local", frozenset(("model:read", "model:predict")))
OPERATOR = Identity("operator", frozenset(("model:read", "model:predict", "model:load", "admin")))
