"""The audit log: who changed what, when and why; every entry's hash is over the one before it.

Called by whoever changes rows, inside the same transaction. Must never change or drop an entry, nor make one for a
change that was not committed.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.storage import tables
from windlass.types import strict_json

FIRST = "0" * 64
_PAGE = 1000


class Entry(msgspec.Struct, frozen=True):
    """One change. `subject` is what was changed: `model/NAME@2`, `model/NAME:production`, `deployment/NAME`, `key/ID`.

    `hash` is the SHA-256 (hex) of the canonical JSON of all the other fields; `previous` is the hash of entry
    `number` - 1, for the first one 64 zeros.
    """

    number: int
    at: float
    actor: str
    action: str
    subject: str
    reason: str
    detail: dict[str, Any]
    previous: str
    hash: str


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the chain ended at some moment. Kept elsewhere, it shows later whether entries are gone or others."""

    number: int
    hash: str


class Verified(msgspec.Struct, frozen=True):
    """What a check of the chain found: how many entries are good, up to which head, and the first bad entry.

    `bad` is its number (0: there is none) and `why` says what is wrong with it.
    """

    entries: int
    head: Head
    bad: int = 0
    why: str = ""


def append(
    connection: sa.Connection,
    *,
    actor: str,
    action: str,
    subject: str,
    reason: str = "",
    detail: dict[str, Any] | None = None,
    now: float,
) -> None:
    """Note a change made in this transaction. Written when it commits, after all else.

    So the end of the chain, for which all writers queue, is held for the shortest time, and always locked last:
    no order in which a transaction makes its changes can end in a deadlock.
    """
    text = strict_json.canonical(detail or {}).decode()
    fields = {"at": now, "actor": actor, "action": action, "subject": subject, "reason": reason, "detail": text}
    sa.event.listen(connection, "commit", functools.partial(_write, fields), once=True)


def hold(connection: sa.Connection) -> Head:
    """The end of the chain, locked until the transaction ends: what is written under it is in the order of commits."""
    h = tables.audit_head
    row = connection.execute(sa.select(h).where(h.c.id == 1).with_for_update()).one()
    return Head(row.number, row.hash)


def head(connection: sa.Connection) -> Head:
    """Where the chain ends now."""
    row = connection.execute(sa.select(tables.audit_head)).one()
    return Head(row.number, row.hash)


def entries(
    connection: sa.Connection,
    *,
    subject: str = "",
    actor: str = "",
    action: str = "",
    since: float | None = None,
    until: float | None = None,
    after: int = 0,
    limit: int = 100,
) -> tuple[Entry, ...]:
    """Entries above the number `after`, the oldest first. A subject or action that ends in `*` means all beginning so.

    `since` and `until` are seconds since the epoch, both included.
    """
    a = tables.audit
    query = sa.select(a).where(a.c.number > after).order_by(a.c.number).limit(limit)
    for column, wanted in ((a.c.subject, subject), (a.c.action, action)):
        if wanted.endswith("*"):
            query = query.where(column.startswith(wanted[:-1], autoescape=True))
        elif wanted:
            query = query.where(column == wanted)
    if actor:
        query = query.where(a.c.actor == actor)
    if since is not None:
        query = query.where(a.c.at >= since)
    if until is not None:
        query = query.where(a.c.at <= until)
    return tuple(_entry(row) for row in connection.execute(query))


def verify(connection: sa.Connection, heads: Sequence[Head] = ()) -> Verified:
    """Check every hash, and that the chain holds each of these heads, which were kept elsewhere."""
    wanted = {kept.number: kept for kept in sorted(heads, key=lambda kept: kept.number)}
    for one in heads:
        if wanted[one.number] != one:
            return Verified(0, Head(0, FIRST), one.number, "two heads kept for this number differ: the chain forked")
    last = Head(0, FIRST)
    for row in _rows(connection):
        why = _fault(row, last)
        if not why and row.number in wanted and wanted.pop(row.number).hash != row.hash:
            why = "it is not the entry whose hash was kept: this is another log, or it was written anew"
        if why:
            return Verified(last.number, last, last.number + 1, why)
        last = Head(row.number, row.hash)
    gone = [kept for number, kept in wanted.items() if number > 0]
    end = head(connection)
    if gone or end.number > last.number:
        number = max(end.number, *(kept.number for kept in gone), 0)
        return Verified(last.number, last, last.number + 1, f"it is gone: the log had {number} entries")
    if end != last or any(kept.hash != FIRST for number, kept in wanted.items() if number == 0):
        return Verified(last.number, last, last.number, "the end on record is another entry's")
    return Verified(last.number, last)


def _write(fields: dict[str, Any], connection: sa.Connection) -> None:
    end = hold(connection)
    values = {**fields, "number": end.number + 1, "previous": end.hash}
    values["hash"] = _hash(values)
    connection.execute(sa.insert(tables.audit).values(**values))
    connection.execute(
        sa.update(tables.audit_head)
        .where(tables.audit_head.c.id == 1)
        .values(number=values["number"], hash=values["hash"])
    )


def _hash(values: dict[str, Any]) -> str:
    said = {name: values[name] for name in Entry.__struct_fields__ if name != "hash"}
    return hashlib.sha256(strict_json.canonical({**said, "detail": json.loads(said["detail"])})).hexdigest()


def _rows(connection: sa.Connection) -> Iterator[sa.Row[Any]]:
    """Every entry by its number, read a page at a time: a log may be larger than memory."""
    a = tables.audit
    query = sa.select(a).order_by(a.c.number).limit(_PAGE)
    rows = connection.execute(query).all()
    while rows:
        yield from rows
        rows = connection.execute(query.where(a.c.number > rows[-1].number)).all()


def _fault(row: sa.Row[Any], last: Head) -> str:
    """What is wrong with an entry, given the one before; empty if nothing is."""
    if row.number != last.number + 1:
        return f"it is not there: entry {last.number} is followed by {row.number}"
    if row.previous != last.hash:
        return "it does not follow the entry before it"
    try:
        plain = strict_json.canonical(json.loads(row.detail)).decode() == row.detail
        whole = plain and _hash(_values(row)) == row.hash
    except (ValueError, TypeError, RecursionError, errors.InvalidInput):
        whole = False
    return "" if whole else "its hash is not that of what it says"


def _entry(row: sa.Row[Any]) -> Entry:
    return Entry(**{**_values(row), "detail": json.loads(row.detail)})


def _values(row: sa.Row[Any]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Entry.__struct_fields__}
