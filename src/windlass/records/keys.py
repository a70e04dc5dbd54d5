"""API keys of a home: made, listed, rotated, revoked. Kept as HMACs beside the registry's rows.

Opened by the CLI and the API; what servers are told of them is `live`. Must never keep, log or return a secret but
once: to whoever made or rotated the key.
"""

from __future__ import annotations

import difflib
import hmac
import time
from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.records import audit
from windlass.security import keys
from windlass.storage import database, tables
from windlass.types import spec, strict_json

_LONGEST_NAME = 128
_LARGEST = 1_000_000_000
# Seconds since the epoch that every clock and calendar can tell: the year 5138.
_LAST_MOMENT = 1e11
# All that a key can be made for: a server's routes ask the first three, the control plane's any.
SCOPES = (
    "model:read",
    "model:predict",
    "model:load",
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
)
# Compared with where there is no such key, so that the answer takes as long.
_NOBODY = "0" * 64


class Wish(msgspec.Struct, frozen=True):
    """What a new key may: as in `spec.Key`; `expires_at` in seconds since the epoch."""

    name: str
    scopes: tuple[str, ...] = ("model:read", "model:predict")
    models: tuple[str, ...] = ("*",)
    expires_at: float | None = None
    rate: float = 0.0
    burst: int = 0
    concurrency: int = 0
    quota: int = 0


class Made(msgspec.Struct, frozen=True):
    """A key with its secret, which nobody can tell again."""

    id: str
    name: str
    key: str


class Listed(msgspec.Struct, frozen=True):
    """A key as it is listed. `rotating`: it has two live secrets."""

    id: str
    name: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    rate: float
    burst: int
    concurrency: int
    quota: int
    actor: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    rotating: bool


class Keys:
    """The keys in one database. `pepper` is hexadecimal, of the home that the keys are for."""

    def __init__(self, rows: database.Database, pepper: str, clock: Callable[[], float] = time.time) -> None:
        self._rows = rows
        self._pepper = bytes.fromhex(pepper)
        self._clock = clock

    @classmethod
    def open_at(cls, database_url: str, pepper: str) -> Keys:
        """The keys in the registry's database at an SQLAlchemy URL."""
        return cls(database.open_database(database_url), pepper)

    def close(self) -> None:
        """Give the database's connections back."""
        self._rows.close()

    def create(self, wish: Wish, *, actor: str) -> Made:
        """A new key; `Conflict` if a live one has its name."""
        _check(wish)
        identity, text = keys.generate()
        values = {
            **msgspec.structs.asdict(wish),
            "scopes": _packed(wish.scopes),
            "models": _packed(wish.models),
            "id": identity,
            "hmac": keys.hmac_of(text, self._pepper),
            "second_hmac": "",
            "actor": actor,
            "created_at": self._clock(),
        }
        with self._rows.write() as connection:
            if not database.insert_absent(connection, tables.api_key, values):
                raise errors.Conflict(
                    f"There is a key named '{wish.name}' already.", hint="Rotate it, revoke it, or take another name."
                )
            self._note(connection, "key.created", identity, actor, strict_json.plain(wish))
        return Made(identity, wish.name, text)

    def every(self) -> tuple[Listed, ...]:
        """All keys, revoked ones too, the oldest first."""
        table = tables.api_key
        with self._rows.read() as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.created_at, table.c.id)).all()
        return tuple(_listed(row) for row in rows)

    def get(self, identity: str) -> Listed:
        """One key, revoked or not; `NotFound` if there is none."""
        with self._rows.read() as connection:
            return _listed(_find(connection, identity, revoked=True))

    def authenticate(self, text: str) -> Listed | None:
        """The key that has this text, if it is live; None for any other text. Asks the database each time."""
        parsed = keys.parse(text)
        identity = "" if parsed is None else parsed[0]
        with self._rows.read() as connection:
            row = connection.execute(sa.select(tables.api_key).where(tables.api_key.c.id == identity)).one_or_none()
        said = keys.hmac_of(text, self._pepper)
        kept = (_NOBODY, _NOBODY) if row is None else (row.hmac, row.second_hmac or _NOBODY)
        good = [hmac.compare_digest(said, one) for one in kept]
        if row is None or not any(good) or row.revoked_at is not None:
            return None
        return _listed(row) if row.expires_at is None or row.expires_at > self._clock() else None

    def live(self) -> tuple[spec.Key, ...]:
        """What servers are told: keys that are neither revoked nor expired, by id."""
        table = tables.api_key
        with self._rows.read() as connection:
            rows = connection.execute(sa.select(table).where(table.c.revoked_at.is_(None)).order_by(table.c.id)).all()
        now = self._clock()
        return tuple(_key(row) for row in rows if row.expires_at is None or row.expires_at > now)

    def rotate(self, identity: str, *, actor: str) -> Made:
        """A new secret for a key; the one it had stays good beside it, until `end_old` or the next rotation."""
        text = keys.renew(identity)
        with self._rows.write() as connection:
            row = _find(connection, identity)
            _change(connection, identity, hmac=keys.hmac_of(text, self._pepper), second_hmac=row.hmac)
            self._note(connection, "key.rotated", identity, actor, {"name": row.name})
        return Made(identity, row.name, text)

    def end_old(self, identity: str, *, actor: str) -> None:
        """Only the newest secret of a key is good from now on."""
        with self._rows.write() as connection:
            row = _find(connection, identity)
            _change(connection, identity, second_hmac="")
            self._note(connection, "key.old_ended", identity, actor, {"name": row.name})

    def revoke(self, identity: str, *, actor: str, reason: str = "") -> None:
        """A key is no longer good. Revoking it again changes nothing."""
        with self._rows.write() as connection:
            row = _find(connection, identity, revoked=True)
            if row.revoked_at is None:
                _change(connection, identity, revoked_at=self._clock())
                self._note(connection, "key.revoked", identity, actor, {"name": row.name}, reason)

    def _note(
        self,
        connection: sa.Connection,
        action: str,
        identity: str,
        actor: str,
        detail: dict[str, Any],
        reason: str = "",
    ) -> None:
        subject = f"key/{identity}"
        now = self._clock()
        audit.append(connection, actor=actor, action=action, subject=subject, reason=reason, detail=detail, now=now)


def _check(wish: Wish) -> None:
    if not wish.name or len(wish.name) > _LONGEST_NAME or not wish.name.isprintable():
        raise errors.UsageError("a key's name has 1 to 128 printable characters.", hint="Name whom it is for.")
    if not wish.scopes:
        raise errors.UsageError("a key without a scope may nothing.", hint=f"Known: {', '.join(SCOPES)}.")
    for scope in wish.scopes:
        if scope not in SCOPES:
            close = difflib.get_close_matches(scope, SCOPES, n=1, cutoff=0.5)
            hint = f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(SCOPES)}."
            raise errors.UsageError(f"'{scope[:64]}' is no scope.", hint=hint)
    if not all(0 <= limit <= _LARGEST for limit in (wish.rate, wish.burst, wish.concurrency, wish.quota)):
        raise errors.UsageError(f"a key's limits are not below 0, nor above {_LARGEST}.", hint="0 is no limit.")
    if not all(0 < len(glob) <= _LONGEST_NAME and glob.isprintable() for glob in wish.models):
        raise errors.UsageError("a glob of models has 1 to 128 printable characters.", hint="Such as: fraud-*")
    if wish.expires_at is not None and not 0 <= wish.expires_at <= _LAST_MOMENT:
        raise errors.UsageError("a key's expiry is no moment.", hint="Give seconds since the epoch.")
    if wish.burst and not wish.rate:
        raise errors.UsageError("a burst limits nothing without a rate.", hint="Give --rate too.")


def _find(connection: sa.Connection, identity: str, *, revoked: bool = False) -> sa.Row[Any]:
    """A key's row, locked; `NotFound` if there is none, or if it is revoked and that is not asked for."""
    table = tables.api_key
    row = connection.execute(sa.select(table).where(table.c.id == identity).with_for_update()).one_or_none()
    if row is None:
        raise errors.NotFound(f"There is no key '{identity[:64]}'.", hint="See: windlass keys list")
    if row.revoked_at is not None and not revoked:
        raise errors.NotFound(f"The key '{identity}' is revoked.", hint="Make another: windlass keys create NAME")
    return row


def _change(connection: sa.Connection, identity: str, **values: Any) -> None:
    connection.execute(sa.update(tables.api_key).where(tables.api_key.c.id == identity).values(**values))


def _packed(texts: tuple[str, ...]) -> str:
    return strict_json.canonical(texts).decode()


def _unpacked(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])


def _key(row: sa.Row[Any]) -> spec.Key:
    return spec.Key(
        id=row.id,
        hmac=row.hmac,
        scopes=_unpacked(row.scopes),
        models=_unpacked(row.models),
        expires_at=row.expires_at,
        rate=row.rate,
        burst=row.burst,
        concurrency=row.concurrency,
        quota=row.quota,
        second_hmac=row.second_hmac,
    )


def _listed(row: sa.Row[Any]) -> Listed:
    fields = {name: getattr(row, name) for name in Listed.__struct_fields__ if name != "rotating"}
    return Listed(
        **{**fields, "scopes": _unpacked(row.scopes), "models": _unpacked(row.models)}, rotating=bool(row.second_hmac)
    )
