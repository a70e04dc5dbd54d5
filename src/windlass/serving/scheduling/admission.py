"""Whether a call may wait: by the rows that wait, by the time that it would wait, by its own deadline.

Asked by a batcher whose instance is busy, for a call or for a request whose body is not yet there. Must never refuse
what an idle instance could run at once, or let one caller's queue keep another's out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from windlass import errors
from windlass.serving.scheduling import queues, slo
from windlass.types import contract

_LONGEST_RETRY_S = 60
# Where no bound is configured: a second, and never while fewer than so many calls wait. As many callers who each wait
# for an answer before they ask again are work for later, not overload, however slow the model is (docs/decisions/0015).
_PATIENCE_S = 1.0
_CROWD = 64
# Under overload every call that is let in is at the edge of what was predicted: an edge without a margin would lose
# them all to the smallest delay, after the work was done.
_CAUTION = 1.2
_HANGS_S = 1.0


class Admission:
    """The bounds of one queue. `refused` counts calls and requests by reason. Times are seconds on `clock`."""

    def __init__(
        self,
        waiting: queues.Queues,
        costs: slo.Costs,
        *,
        max_rows: int,
        max_wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        """`max_wait_s` 0: as long as the target of `costs` allows; a second, or `_CROWD` calls, where there is none."""
        self.refused = dict.fromkeys(("queue_full", "queue_time", "slo", "deadline"), 0)
        self._waiting = waiting
        self._costs = costs
        self._max_rows = max_rows
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._began = self._expected_s = 0.0

    @property
    def longest_wait_s(self) -> float:
        """The predicted wait to refuse above; where it is not configured, once `_CROWD` calls wait."""
        if self._max_wait_s:
            return self._max_wait_s
        return _PATIENCE_S if self._costs.answer_within_s == math.inf else math.inf

    def began(self, now: float, expected_s: float) -> None:
        """A run began that keeps the instance busy."""
        self._began, self._expected_s = now, expected_s

    def wait_s(self, caller: str, priority: int) -> float:
        """Seconds until a call that came now would start to run."""
        return self._left_s() + self._waiting.ahead_s(caller, priority)

    def _left_s(self) -> float:
        """Of the run that goes on; one that hangs will go on for as long as it is late already (Lindy's law)."""
        late = self._clock() - self._began - self._expected_s
        # What is a little late may well be over: after a pause of the machine requests are seen before it is.
        return min(abs(late), self._expected_s) if late < _HANGS_S else late

    def refusal(
        self,
        caller: str,
        priority: int,
        *,
        key: contract.ShapeKey | None = None,
        rows: int = 1,
        deadline: float | None = None,
    ) -> errors.Overloaded | None:
        """The error for a call, unless it may wait behind the run that goes on; `key` None: not yet known.

        Where too many rows wait, whoever has less than an even part of them may still come.
        """
        waiting, costs = self._waiting, self._costs
        left_s, ahead_s = self._left_s(), waiting.ahead_s(caller, priority)
        wait_s = left_s + ahead_s
        full = waiting.rows and waiting.rows + rows > self._max_rows
        if full and not waiting.has_share(caller, rows, self._max_rows):
            why = f"{waiting.rows:,} rows wait for this model, and max_queue allows {self._max_rows:,}"
            return self._refuse("queue_full", why, wait_s)
        longest_s = self.longest_wait_s
        if wait_s > longest_s and (self._max_wait_s or waiting.calls >= _CROWD):
            allowed = f"max_queue_ms allows {longest_s * 1e3:,.0f}"
            why = f"a request would wait {wait_s * 1e3:,.0f} ms for this model, and {allowed}"
            return self._refuse("queue_time", why, wait_s)
        # It is answered with all that share its run, and those are as many as may.
        run_s = costs.full_s(key)
        answered_s = left_s + (1 + ahead_s // run_s if run_s else 0) * run_s
        if answered_s > costs.answer_within_s:
            why = f"an answer would take {answered_s * 1e3:,.0f} ms, too long for this model's target (slo_p99_ms)"
            return self._refuse("slo", why, wait_s)
        if deadline is not None and key is not None:
            answered_s, left_s = _CAUTION * (wait_s + costs.run_s(key, rows)), deadline - self._clock()
            if answered_s > left_s:
                why = f"an answer would take {answered_s * 1e3:,.0f} ms, longer than the request's deadline"
                return self._refuse("deadline", why, wait_s)
        return None

    def _refuse(self, reason: str, why: str, wait_s: float) -> errors.Overloaded:
        self.refused[reason] += 1
        return errors.Overloaded(why, retry_after_s=max(1, math.ceil(min(wait_s, _LONGEST_RETRY_S))))
