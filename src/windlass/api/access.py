"""Access: what a route may ask of a caller, who a caller is, and which models it may see.

Used by the door, which decides before a route runs, and by the routes for what they list. Must never answer
differently for what is hidden and what is not there, nor let a key give what it does not have.
"""

from __future__ import annotations

import fnmatch
from typing import Literal, TypeAlias, get_args

import msgspec

from windlass import errors
from windlass.records import keys

Permission: TypeAlias = Literal[
    "health",
    "known",
    "model:read",
    "model:push",
    "model:promote",
    "model:delete",
    "deploy:read",
    "deploy:write",
    "deploy:order",
    "job:read",
    "job:write",
    "feedback:write",
    "audit:read",
    "key:read",
    "key:write",
    "event:read",
]
PERMISSIONS: tuple[str, ...] = get_args(Permission)
# `health` asks for nothing, `known` for any live key; the others are scopes of keys.
OPEN: Permission = "health"
ANY_KEY: Permission = "known"
_WILD = "*?["
_LIMITS = ("rate", "concurrency", "quota")


class Caller(msgspec.Struct, frozen=True):
    """The key that a request came with: what it may, and to which models (globs)."""

    id: str
    name: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    expires_at: float | None = None
    rate: float = 0.0
    concurrency: int = 0
    quota: int = 0

    @property
    def actor(self) -> str:
        """Who it is in records that stay: a name may be given again, an id is not."""
        return f"{self.name} (key {self.id})"

    @property
    def restricted(self) -> bool:
        """Whether there are models that it may not see."""
        return "*" not in self.models

    def may(self, permission: Permission) -> bool:
        """Whether it has a permission."""
        return permission in (OPEN, ANY_KEY) or permission in self.scopes

    def sees(self, *names: str) -> bool:
        """Whether it may know of all of these models or deployments."""
        return all(any(fnmatch.fnmatchcase(name, glob) for glob in self.models) for name in names)

    def check(self, *names: str) -> None:
        """`NotFound` unless it sees all of them."""
        if not self.sees(*names):
            raise errors.NotFound("there is no such thing.")


def caller_of(found: keys.Listed) -> Caller:
    """The caller that a live key stands for."""
    return Caller(**{name: getattr(found, name) for name in Caller.__struct_fields__})


def check_gift(caller: Caller, gift: keys.Wish | keys.Listed) -> None:
    """`NotAllowed` if a key would get more from this caller than it has: a scope, a model, time, a wider limit."""
    missing = sorted(set(gift.scopes) - set(caller.scopes))
    if missing:
        raise errors.NotAllowed(f"this key lacks {', '.join(missing)}, and so cannot give it.")
    wide = sorted(glob for glob in gift.models if not covers(caller.models, glob))
    if wide:
        raise errors.NotAllowed(f"this key may not see all of {', '.join(wide)}, and so cannot give it.")
    if caller.expires_at is not None and (gift.expires_at is None or gift.expires_at > caller.expires_at):
        raise errors.NotAllowed("a key does not outlive the one that makes it.", hint="Give it an earlier expiry.")
    for limit in _LIMITS:
        own, given = getattr(caller, limit), getattr(gift, limit)
        # 0 is no limit.
        if own and not 0 < given <= own:
            raise errors.NotAllowed(f"this key's {limit} is {own:g}, and so it cannot give more.")


def covers(own: tuple[str, ...], asked: str) -> bool:
    """Whether every name that the glob `asked` stands for is one that `own` stands for; in doubt, no.

    A glob whose only wildcards are `*` stands for all that another one does whose text it matches: what a `*` in that
    text may become, the `*` that matched it may become too.
    """
    if not any(character in asked for character in _WILD):
        return any(fnmatch.fnmatchcase(asked, glob) for glob in own)
    return any(
        glob == asked or ("?" not in glob and "[" not in glob and fnmatch.fnmatchcase(asked, glob)) for glob in own
    )


def names_in(value: object) -> set[str]:
    """Every name of a model or deployment in an event's payload or an audit entry's detail, however deep."""
    if isinstance(value, dict):
        models = value.get("models")
        listed = models if isinstance(models, list | tuple) else ()
        own = {name for name in (value.get("name"), *listed) if isinstance(name, str)}
        return own.union(*map(names_in, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(names_in, value))
    return set()
