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
        """`max_wait_s` 0: as long as waiting is worth it, which `costs` knows."""
        self.refused = dict.fromkeys(("queue_full", "queue_time", "slo", "deadline"), 0)
        self._waiting = waiting
        self._costs = costs
        self._max_rows = max_rows
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._began = self._expected_s = 0.0

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
            return self._refuse("queue_full", "this model's queue is full", wait_s)
        if wait_s > (self._max_wait_s or costs.patience_s):
            return self._refuse("queue_time", "this model's queue is too long", wait_s)
        # It is answered with all that share its run, and those are as many as may.
        run_s = costs.full_s(key)
        if left_s + (1 + ahead_s // run_s if run_s else 0) * run_s > costs.answer_within_s:
            return self._refuse("slo", "this model would not answer in the time that it is to answer in", wait_s)
        if deadline is not None and key is not None:
            answered_s = _CAUTION * (wait_s + costs.run_s(key, rows))
            if answered_s > deadline - self._clock():
                return self._refuse("deadline", "this model would not answer in the time that it was given", wait_s)
        return None

    def _refuse(self, reason: str, message: str, wait_s: float) -> errors.Overloaded:
        self.refused[reason] += 1
        return errors.Overloaded(message, retry_after_s=max(1, math.ceil(min(wait_s, _LONGEST_RETRY_S))))
