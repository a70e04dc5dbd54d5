"""Joins feedback to arms: reads on in a target's log of who was sent where, and hands the scores to what is observed.

Called by the controller, one deployment at a time. Must never count a score twice, nor one of a request whose arm it
does not know.

Of requests that stick to a key, the first that is scored counts for its key: keys were drawn, not requests.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import msgspec

from windlass.controller import labelled
from windlass.records import feedback, rollouts
from windlass.storage import database
from windlass.targets import base
from windlass.types import deployment

# What is kept in mind of one deployment; a label for a request before these stays unjoined.
MOST_REQUESTS = 200_000
# Processes write their logs apart: what one wrote later may have happened earlier.
_OVERLAP_S = 5.0


class _Log:
    """Who was sent where since a rollout began, as far as it was read. The first time that something occurs holds."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.read_until = since
        self.requests: dict[str, tuple[str, str]] = {}
        self.keys: dict[str, str] = {}
        # The sticky keys one of whose requests has counted.
        self.counted: set[str] = set()

    def read(self, exposures: Iterator[base.Exposed]) -> None:
        for one in exposures:
            if one.time < self.since:
                continue
            self.requests.setdefault(one.request, (one.arm, one.key))
            if one.key:
                self.keys.setdefault(one.key, one.arm)
            self.read_until = max(self.read_until, one.time)
        for known in (self.requests, self.keys):
            for old in list(itertools.islice(known, max(0, len(known) - MOST_REQUESTS))):
                del known[old]


class Feedback:
    """The feedback of all deployments of one controller. Different deployments may be asked from different threads."""

    def __init__(self, rows: database.Database, clock: Callable[[], float] = time.time) -> None:
        self._rows = rows
        self._clock = clock
        self._logs: dict[str, _Log] = {}
        self._pairs: dict[str, labelled.Pairs] = {}

    def labelled(
        self, target: base.Target, under_way: rollouts.Rollout, observed: deployment.Observed
    ) -> deployment.Observed:
        """What was observed with who was right about the mirrored requests of a rollout that have a label."""
        name = under_way.deployment
        pairs = self._pairs.get(name)
        if pairs is None or pairs.rollout != under_way.id:
            pairs = self._pairs[name] = labelled.Pairs(under_way)
        return msgspec.structs.replace(observed, labelled=pairs.join(self._rows, target, name))

    def scores(
        self, target: base.Target, name: str, observed: deployment.Observed, since: float
    ) -> deployment.Observed:
        """What was observed with the scores since a rollout began (seconds since the epoch), after joining new ones."""
        self._join(target, name, since, counts=True)
        with self._rows.read() as connection:
            found = feedback.scores(connection, name, since=since)
        return msgspec.structs.replace(observed, scores=found) if found else observed

    def late(self, target: base.Target, name: str) -> None:
        """Join what came after the last rollout ended: it is told by arm, and counts for no verdict."""
        if not self._waiting(name):
            return
        with self._rows.read() as connection:
            last = rollouts.of(connection, name, limit=1)
        if last and last[0].ended_at is not None:
            self._join(target, name, last[0].started_at, counts=False)

    def forget(self, name: str) -> None:
        """Drop what is in mind of a deployment."""
        self._logs.pop(name, None)
        self._pairs.pop(name, None)

    def _join(self, target: base.Target, name: str, since: float, *, counts: bool) -> None:
        rows = self._waiting(name)
        if not rows:
            return
        log = self._logs.get(name)
        fresh = log is None or log.since != since
        if log is None or fresh:
            log = self._logs[name] = _Log(since)
        log.read(target.exposures(name, max(since, log.read_until - _OVERLAP_S)))
        if fresh:
            with self._rows.read() as connection:
                told = feedback.counted(connection, name, since=since)
            log.counted.update(log.requests[one][1] for one in told if one in log.requests)
        joins = _joins(rows, log, counts=counts)
        if joins:
            with self._rows.write() as connection:
                feedback.join(connection, name, joins, now=self._clock())

    def _waiting(self, name: str) -> list[feedback.Waiting]:
        now, found = self._clock(), list[feedback.Waiting]()
        with self._rows.read() as connection:
            while page := feedback.waiting(connection, name, after=found[-1].id if found else 0, now=now):
                found.extend(page)
        return found


def _joins(rows: list[feedback.Waiting], log: _Log, *, counts: bool) -> list[feedback.Join]:
    """The arms of the rows that are known, in the order in which they came."""
    # Of revisions that wait together the newest counts: none of them was looked at.
    newest = {(row.request, row.key): row.id for row in rows}
    joins = []
    for row in rows:
        arm, key = log.requests.get(row.request, ("", "")) if row.request else (log.keys.get(row.key, ""), row.key)
        if not arm:
            continue
        first = newest[row.request, row.key] == row.id and not row.counted and key not in log.counted
        if counts and first and key:
            log.counted.add(key)
        joins.append(feedback.Join(row.id, arm, counts=counts and first))
    return joins
