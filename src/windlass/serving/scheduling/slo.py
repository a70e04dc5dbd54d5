"""What a run will cost, learned from runs; and from it the rows of a batch and how long calls will wait.

Seconds are modelled as `a * rows + b` for each bucket of shapes. Pure: no clock, no loop. Asked by the batcher.
Must never let one odd run move a prediction far, or keep a prediction that runs no longer bear out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from windlass.types import contract

# How many runs the fit remembers, about; and how far beyond the usual error one run may pull it.
_MEMORY = 32
_CLIP = 3.0
_FIRST = 4
# A bucket's rows change at most once in so many runs, and only when the knee left the present size by a quarter. Each
# time that they go back where they came from they stay for twice as long.
_PATIENCE = 32
_LONGEST_PATIENCE = 4_096
_SLACK = 1.25
# Doubling a batch pays while it brings a twentieth more throughput: 2(an+b)/(2an+b) >= 1.05 while n <= 9.5 b/a.
_KNEE = 9.5
_BUCKETS = 64
# The first run of a shape may take a hundred times as long as the next: no call is refused or ended by one alone.
_KNOWN = 2
# Full runs of a caller with less than its share that go first when they come close together.
_CREDIT_RUNS = 8.0
_SMOOTHING = 1 / 64
_UNKNOWN_ROW_S = 1e-3


class Line:
    """Seconds of a run as a line in its rows: least squares with forgetting, its errors clipped (Huber 1964).

    `prior` is (a, b) of a line whose proportions hold as long as all runs had the same rows; its scale is learned.
    """

    __slots__ = ("_error", "_nn", "_nt", "_prior", "_rows", "_seconds", "a", "b", "runs")

    def __init__(self, prior: tuple[float, float] = (1.0, 0.0)) -> None:
        self._prior = prior
        self.a, self.b = prior
        self.runs = 0
        self._rows = self._seconds = self._nn = self._nt = self._error = 0.0

    @property
    def spread(self) -> float:
        """How much the rows of the runs differed: their variance over their mean squared."""
        return self._nn / (self._rows * self._rows) if self._rows else 0.0

    def predict(self, rows: int) -> float:
        """Seconds of a run of so many rows; never negative."""
        return self.a * rows + self.b

    def observe(self, rows: int, seconds: float) -> None:
        """One run."""
        if self.runs < _FIRST and rows >= self._rows and 2 * seconds < self._seconds:
            # No more rows take half as long: what ran before was slow for being the first.
            self.runs = 0
            self._rows = self._seconds = self._nn = self._nt = 0.0
        self.runs += 1
        gain = max(1.0 / self.runs, 1.0 / _MEMORY)
        if self.runs == 1:
            self._error = seconds / 4
        else:
            expected = self.predict(rows)
            error = seconds - expected
            far = _CLIP * self._error
            seconds = expected + min(max(error, -far), far)
            self._error += gain * (min(abs(error), 4.0 * self._error) - self._error)
            # An error of nothing could never grow again.
            self._error = max(self._error, 0.01 * expected)
        aside, above = rows - self._rows, seconds - self._seconds
        self._rows += gain * aside
        self._seconds += gain * above
        self._nn = (1.0 - gain) * (self._nn + gain * aside * aside)
        self._nt = (1.0 - gain) * (self._nt + gain * aside * above)
        self._fit()

    def _fit(self) -> None:
        """The best line that neither starts below zero nor falls; where rows did not differ, as the prior slopes."""
        rows, seconds = self._rows, self._seconds
        a, b = self._prior
        weight = 1e-3 * rows * rows
        slope = (self._nt + weight * a * seconds / (a * rows + b)) / (self._nn + weight)
        self.a = min(max(slope, 0.0), seconds / rows)
        self.b = seconds - self.a * rows


def line_through(measured: Mapping[int, float]) -> Line:
    """The line of warm-up measurements, seconds by rows."""
    line = Line()
    # Twice, so that the order in which they were measured does not matter much.
    for rows, seconds in (*measured.items(), *measured.items()):
        line.observe(rows, seconds)
    return line


class Bucket:
    """One bucket of shapes: its line, and the rows that a run of it takes at most."""

    __slots__ = ("_before", "_changed", "_least", "_most", "_patience", "line", "rows")

    def __init__(self, line: Line, rows: int, least: int, most: int) -> None:
        self.line = line
        self.rows = rows
        self._least, self._most = least, most
        self._changed = 0
        self._before = 0
        self._patience = _PATIENCE

    def observe(self, rows: int, seconds: float) -> None:
        """One run; follow the knee of throughput where runs of different sizes show where it is."""
        line = self.line
        line.observe(rows, seconds)
        if line.runs - self._changed < self._patience or line.spread < 0.01:
            return
        knee = _KNEE * line.b / line.a if line.a > 0.0 else math.inf
        if knee > _SLACK * self.rows:
            wanted = 2 * self.rows
        elif knee * _SLACK < self.rows / 2:
            wanted = self.rows // 2
        else:
            return
        wanted = min(max(wanted, self._least), self._most)
        if wanted == self.rows:
            return
        if wanted == self._before:
            self._patience = min(2 * self._patience, _LONGEST_PATIENCE)
        self._before, self.rows = self.rows, wanted
        self._changed = line.runs


class Costs:
    """The buckets of one model, as many as were used last, and what their runs say about waiting.

    `max_rows` is where a bucket starts, `most_rows` the most that it may come to; `measured` are seconds by rows of
    the bucket `key`, from warm-up. With `target_s` batches are so small that two of them in a row fit in it.
    """

    def __init__(
        self,
        max_rows: int,
        most_rows: int,
        *,
        key: contract.ShapeKey = contract.NO_KEY,
        measured: Mapping[int, float] | None = None,
        target_s: float = 0.0,
    ) -> None:
        self._max_rows, self._most_rows = max_rows, max(max_rows, most_rows)
        self.key = key
        self._target_s = target_s
        # How much of the target predictions may fill.
        self._margin = 0.9
        self._buckets: dict[contract.ShapeKey, Bucket] = {}
        # Of full runs, smoothed: seconds, and seconds a row.
        self._mean = self._row_s = 0.0
        if measured:
            measured_line = line_through(measured)
            line = Line((measured_line.a, measured_line.b))
            bucket = self._buckets[key] = Bucket(line, max_rows, 1, self._most_rows)
            # Placed where the measurements say, and from then on wherever runs say.
            for _ in range(_KNOWN):
                line.observe(max_rows, measured.get(max_rows, measured_line.predict(max_rows)))
            self._smooth(bucket, 1.0)

    def observe(self, key: contract.ShapeKey, rows: int, seconds: float) -> None:
        """One run of a bucket."""
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            if len(self._buckets) >= _BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            bucket = Bucket(Line(), self._first_rows(key), min(2, self._most_rows), self._most_rows)
        # Last used, last forgotten.
        self._buckets[key] = bucket
        bucket.observe(rows, seconds)
        self._smooth(bucket, _SMOOTHING if self._mean else 1.0)

    def _smooth(self, bucket: Bucket, gain: float) -> None:
        rows = self._within_target(bucket)
        full = bucket.line.predict(rows)
        self._mean += gain * (full - self._mean)
        self._row_s += gain * (full / rows - self._row_s)

    def _first_rows(self, key: contract.ShapeKey) -> int:
        """The rows with about as many elements as the measured bucket's best batch has."""
        ratio = _elements(self.key) / _elements(key) if self.key else 1.0
        return min(max(1, 1 << round(math.log2(max(self._max_rows * ratio, 1.0)))), self._most_rows)

    def rows(self, key: contract.ShapeKey) -> int:
        """The rows that a run of this bucket takes at most, unless one request alone has more."""
        bucket = self._buckets.get(key)
        return self._first_rows(key) if bucket is None else self._within_target(bucket)

    def _within_target(self, bucket: Bucket) -> int:
        line = bucket.line
        if not self._target_s or bucket.rows == 1:
            return bucket.rows
        # Behind a run that has just begun, in a run of its own.
        room = 0.5 * self._margin * self._target_s - line.b
        return max(1, min(bucket.rows, int(room / line.a) if line.a > 0.0 else bucket.rows))

    def run_s(self, key: contract.ShapeKey, rows: int) -> float:
        """Seconds of a run of this bucket; 0 while too few of it ran to judge a call by."""
        bucket = self._buckets.get(key)
        return 0.0 if bucket is None or bucket.line.runs < _KNOWN else bucket.line.predict(rows)

    def work_s(self, key: contract.ShapeKey, rows: int) -> float:
        """What these rows add to the work that waits, in seconds, as a part of a full run; more than 0."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return rows * (self._row_s or _UNKNOWN_ROW_S)
        full = self._within_target(bucket)
        return max(rows * bucket.line.predict(full) / full, 1e-9)

    def full_s(self, key: contract.ShapeKey | None) -> float:
        """Seconds of a full run of this bucket; of any where it is not known, 0 while nothing ran."""
        bucket = self._buckets.get(key) if key is not None else None
        return self._mean if bucket is None else bucket.line.predict(self._within_target(bucket))

    @property
    def credit_s(self) -> float:
        """How much work of a caller that seldom comes goes before others' at once."""
        return _CREDIT_RUNS * self._mean

    # The target

    @property
    def answer_within_s(self) -> float:
        """The longest predicted time to an answer that keeps the target; without end where there is none."""
        return self._margin * self._target_s if self._target_s else math.inf

    def answered(self, seconds: float) -> None:
        """Learn the margin that lets one answer in 200 be late (stochastic approximation: Robbins, Monro 1951)."""
        step = -0.02 if seconds > self._target_s else 0.0001
        self._margin = min(max(self._margin + step, 0.3), 0.95)


def _elements(key: contract.ShapeKey) -> int:
    return max(1, sum(math.prod(shape) for shape in key))
