"""Joins labels to mirrored requests: of those with two classes, which version's was the label?

Used by `feedback.py`. Must never count a request twice: what is counted follows from the log and the labels alone, so
that another controller, or this one started again, counts the same.
"""

from __future__ import annotations

from windlass.records import feedback, rollouts
from windlass.storage import database
from windlass.targets import base
from windlass.types import deployment

# The first requests of a rollout with two classes; later ones are left out, whatever their labels.
MOST_REQUESTS = 50_000
# Processes write their logs apart: what one wrote later may have happened earlier.
_OVERLAP_S = 5.0


class Pairs:
    """Those of one rollout. The first line about a request holds, and its first label."""

    def __init__(self, rollout: rollouts.Rollout) -> None:
        self.rollout = rollout.id
        self._epoch = rollout.number
        self._arms = (rollout.old.arm if rollout.old else "", rollout.new.arm)
        self._read_until = rollout.started_at
        # The classes of requests that wait for a label; None: it was counted.
        self._known: dict[str, tuple[str, str] | None] = {}
        self._counted = deployment.Labelled()

    def join(self, rows: database.Database, target: base.Target, name: str) -> deployment.Labelled:
        """Who was right about how many, after joining what is new."""
        for one in target.differing(name, self._read_until - _OVERLAP_S):
            self._read_until = max(self._read_until, one.time)
            mine = one.epoch == self._epoch and (one.arm, one.shadow) == self._arms
            if mine and one.request not in self._known and len(self._known) < MOST_REQUESTS:
                self._known[one.request] = (one.answered, one.mirrored)
        waiting = {request: classes for request, classes in self._known.items() if classes is not None}
        if not waiting:
            return self._counted
        with rows.read() as connection:
            labels = feedback.labels(connection, name, tuple(waiting))
        right = [0, 0, 0]
        for request, label in labels.items():
            said = [one.strip() for one in waiting[request]]
            right[said.index(label.strip()) if label.strip() in said else 2] += 1
            self._known[request] = None
        before = (self._counted.old, self._counted.new, self._counted.neither)
        self._counted = deployment.Labelled(*(a + b for a, b in zip(before, right, strict=True)))
        return self._counted
