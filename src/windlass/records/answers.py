"""Answers kept under a caller's key, so that a retry after a lost reply is answered as the first try was.

Called by the registry inside its transactions. Must never answer another request than the one the key was used for.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.storage import database, tables
from windlass.types import strict_json

T = TypeVar("T")
KEPT_S = 7 * 24 * 3600.0


def recall(connection: sa.Connection, key: str, request: tuple[object, ...], kind: type[T]) -> T | None:
    """What was answered under this key, None if nothing was; `Conflict` if the key was used for something else."""
    if not key:
        return None
    row = connection.execute(sa.select(tables.answer).where(tables.answer.c.key == _key(key))).one_or_none()
    if row is None:
        return None
    if row.request != _text(request):
        raise errors.Conflict(
            "this idempotency key was used for another request.", hint="Use a fresh key for each new request."
        )
    return msgspec.json.decode(row.answer, type=kind)


def keep(connection: sa.Connection, key: str, request: tuple[object, ...], answer: object, *, now: float) -> None:
    """Keep an answer; of two tries at once the later one ends in `Conflict`, with its transaction."""
    if not key:
        return
    values = {"key": _key(key), "request": _text(request), "answer": msgspec.json.encode(answer).decode(), "at": now}
    if not database.insert_absent(connection, tables.answer, values):
        raise errors.Conflict("this idempotency key is being used by another request.", hint="Try again.")


def forget(connection: sa.Connection, *, now: float) -> None:
    """Drop what is too old for any retry."""
    connection.execute(sa.delete(tables.answer).where(tables.answer.c.at < now - KEPT_S))


def _key(key: str) -> str:
    if len(key) > 256:
        raise errors.UsageError("an idempotency key has at most 256 characters.")
    return key


def _text(request: tuple[object, ...]) -> str:
    return strict_json.canonical(request).decode()
