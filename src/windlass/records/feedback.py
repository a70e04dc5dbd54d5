"""Feedback on record: how good an answer turned out to be, told afterwards by the request's id or by its sticky key.

Written for the API by `desired/`, joined to arms by the controller. Must never change a score that has counted, nor
the order in which scores counted: evidence that may be looked at after each score holds for one order only. So the
first score that is joined counts, a later revision of it is kept beside it and told in `standing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.storage import tables

MOST = 10_000
# How long after it came a label is tried again: the log of who was sent where may lie behind, or be out of reach.
WAITS_S = 24 * 3600.0
_PAGE = 500
# Two joins never get the same time, so that time alone is their order.
_TICK_S = 1e-5


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One score in [0, 1] (1 is best), of a request or of a sticky key; `at`: when it was known (epoch seconds)."""

    score: float
    request: str = ""
    key: str = ""
    label: str = ""
    at: float = 0.0


class Added(msgspec.Struct, frozen=True):
    """What came of a batch: scores that are new, that revise an earlier one, that were there already."""

    received: int
    new: int
    revised: int
    duplicate: int


class Waiting(NamedTuple):
    """A row that no arm is known for. `counted`: an earlier revision of it has counted."""

    id: int
    request: str
    key: str
    counted: bool


class Join(NamedTuple):
    """The arm of a row, and whether its score counts as evidence."""

    id: int
    arm: str
    counts: bool


class Arm(msgspec.Struct, frozen=True):
    """The newest scores of one arm's requests: how many, and their mean."""

    scores: int
    mean: float


class Standing(msgspec.Struct, frozen=True):
    """What is known of a deployment's feedback. `labels` are distinct requests and keys, each with its newest score.

    `joined` of them belong to an arm, `unjoined` to none (their request is not in the log). `late` are joined and did
    not count: their rollout was over, or their key had counted. `revised` rows replace earlier ones.
    """

    deployment: str
    labels: int
    joined: int
    unjoined: int
    late: int
    revised: int
    arms: dict[str, Arm] = {}


def check(given: Sequence[Given]) -> None:
    """`UsageError` names the first item that is wrong."""
    if not given or len(given) > MOST:
        raise errors.UsageError(f"{len(given)} scores at once: 1 to {MOST} are taken.", hint="Send several batches.")
    for row, one in enumerate(given):
        if bool(one.request) == bool(one.key):
            raise errors.UsageError(f"item {row} names {'both' if one.key else 'neither'} a request and a key.")
        if not 0 <= one.score <= 1:
            raise errors.UsageError(f"item {row} has the score {one.score}: scores are from 0 to 1, and 1 is best.")
        if len(one.request) > 128 or len(one.key) > 256 or len(one.label) > 1024:
            raise errors.UsageError(f"item {row} is too long.", hint="Requests have 128 characters, keys 256.")
        if not math.isfinite(one.at) or one.at < 0:
            raise errors.UsageError(f"item {row} has no time that could be: {one.at}.")


def add(connection: sa.Connection, deployment: str, given: Sequence[Given], *, now: float) -> Added:
    """Put a batch on record. What is there already, with the same score and label, is passed over."""
    check(given)
    newest = _newest(connection, deployment, given)
    rows, new = [], 0
    for one in given:
        place = (one.request, one.key)
        before = newest.get(place)
        if before is not None and before[1:] == (one.score, one.label):
            continue
        new += before is None
        revision = 1 if before is None else before[0] + 1
        newest[place] = (revision, one.score, one.label)
        rows.append(
            {
                "deployment": deployment,
                "request": one.request,
                "key": one.key,
                "revision": revision,
                "score": one.score,
                "weight": 0.0,
                "label": one.label,
                "arm": "",
                "received_at": now,
                "labelled_at": one.at or now,
                "joined_at": None,
            }
        )
    if rows:
        connection.execute(sa.insert(tables.feedback), rows)
    return Added(len(given), new, len(rows) - new, len(given) - len(rows))


def waiting(connection: sa.Connection, deployment: str, *, after: int = 0, now: float) -> tuple[Waiting, ...]:
    """Rows that may still be joined, by id, above the id `after`; a page of them."""
    f = tables.feedback
    other = f.alias()
    counted = sa.exists().where(
        other.c.deployment == f.c.deployment,
        other.c.request == f.c.request,
        other.c.key == f.c.key,
        other.c.weight > 0,
    )
    query = (
        sa.select(f.c.id, f.c.request, f.c.key, counted.label("counted"))
        .where(f.c.deployment == deployment, f.c.joined_at.is_(None), f.c.received_at > now - WAITS_S, f.c.id > after)
        .order_by(f.c.id)
        .limit(_PAGE)
    )
    return tuple(Waiting(row.id, row.request, row.key, bool(row.counted)) for row in connection.execute(query))


def join(connection: sa.Connection, deployment: str, joins: Iterable[Join], *, now: float) -> None:
    """Say to which arms rows belong; in this order, after all that was joined before."""
    f = tables.feedback
    last = connection.execute(sa.select(sa.func.max(f.c.joined_at)).where(f.c.deployment == deployment)).scalar()
    # A clock that was set back must not put a score before those that have counted.
    at = max(now, (last or 0.0) + _TICK_S)
    for one in joins:
        values = {"arm": one.arm, "weight": 1.0 if one.counts else 0.0, "joined_at": at}
        connection.execute(sa.update(f).where(f.c.id == one.id, f.c.joined_at.is_(None)).values(**values))
        at += _TICK_S


def scores(connection: sa.Connection, deployment: str, *, since: float) -> dict[str, tuple[float, ...]]:
    """The scores that count, by arm, in the order in which they were joined, from a time on."""
    f = tables.feedback
    query = (
        sa.select(f.c.arm, f.c.score)
        .where(f.c.deployment == deployment, f.c.joined_at >= since, f.c.weight > 0)
        .order_by(f.c.joined_at)
    )
    found: dict[str, list[float]] = {}
    for arm, score in connection.execute(query):
        found.setdefault(arm, []).append(score)
    return {arm: tuple(values) for arm, values in found.items()}


def counted(connection: sa.Connection, deployment: str, *, since: float) -> tuple[str, ...]:
    """The requests whose scores have counted from a time on."""
    f = tables.feedback
    query = sa.select(f.c.request).where(f.c.deployment == deployment, f.c.joined_at >= since, f.c.weight > 0)
    return tuple(connection.execute(query.where(f.c.request != "")).scalars())


def labels(connection: sa.Connection, deployment: str, requests: Sequence[str]) -> dict[str, str]:
    """The first label (a text that is not empty) of each of these requests that has one; it never changes."""
    f = tables.feedback
    found: dict[str, str] = {}
    for start in range(0, len(requests), _PAGE):
        query = (
            sa.select(f.c.request, f.c.label)
            .where(f.c.deployment == deployment, f.c.request.in_(requests[start : start + _PAGE]), f.c.label != "")
            .order_by(f.c.revision)
        )
        for request, label in connection.execute(query):
            found.setdefault(request, label)
    return found


def standing(connection: sa.Connection, deployment: str) -> Standing:
    """What is known of a deployment's feedback; each label by its newest revision."""
    f = tables.feedback
    place = (f.c.request, f.c.key)
    last = (
        sa.select(*place, sa.func.max(f.c.revision).label("revision"), sa.func.max(f.c.weight).label("counts"))
        .where(f.c.deployment == deployment)
        .group_by(*place)
        .subquery()
    )
    query = (
        sa.select(
            f.c.arm,
            sa.func.count().label("labels"),
            sa.func.avg(f.c.score).label("mean"),
            sa.func.sum(last.c.counts).label("counted"),
        )
        .join(last, sa.and_(*(mine == last.c[mine.name] for mine in place), f.c.revision == last.c.revision))
        .where(f.c.deployment == deployment)
        .group_by(f.c.arm)
        .order_by(f.c.arm)
    )
    rows = connection.execute(query).all()
    revised = connection.execute(
        sa.select(sa.func.count()).select_from(f).where(f.c.deployment == deployment, f.c.revision > 1)
    ).scalar()
    joined = [row for row in rows if row.arm]
    labels, known = sum(row.labels for row in rows), sum(row.labels for row in joined)
    return Standing(
        deployment=deployment,
        labels=labels,
        joined=known,
        unjoined=labels - known,
        late=known - round(sum(row.counted for row in joined)),
        revised=revised or 0,
        arms={row.arm: Arm(row.labels, float(row.mean)) for row in joined},
    )


def _newest(
    connection: sa.Connection, deployment: str, given: Sequence[Given]
) -> dict[tuple[str, str], tuple[int, float, str]]:
    """Revision, score and label of the newest row of each request and key."""
    f = tables.feedback
    found: dict[tuple[str, str], tuple[int, float, str]] = {}
    for column, values in ((f.c.request, [g.request for g in given if g.request]), (f.c.key, _keys(given))):
        for start in range(0, len(values), _PAGE):
            # A row of the other kind has an empty text here, which is never asked for.
            query: sa.Select[Any] = sa.select(f).where(
                f.c.deployment == deployment, column.in_(values[start : start + _PAGE])
            )
            for row in connection.execute(query.order_by(f.c.revision)):
                found[row.request, row.key] = (row.revision, row.score, row.label)
    return found


def _keys(given: Sequence[Given]) -> list[str]:
    return [one.key for one in given if one.key]
