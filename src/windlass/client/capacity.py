"""What a server can carry: closed loops find its capacity, open loops show it below and above, bisection meets an SLO.

Used by `windlass bench`. Every point is measured in rounds, the servers in turn (A B A B), and each measurement begins
with a warm-up of a fifth of its length, at least 0.3 s, that counts apart.
Must never give a figure that is the generator's own, or a quantile without the samples for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from windlass import errors
from windlass.client import figures, histogram, plan, report

WARM_SHARE, LEAST_WARM_S = 0.2, 0.3
# A server that loses more than this share of its requests does not carry the load.
MOST_LOST = 0.001
_BISECTIONS = 6
_LONGEST_S = 60.0
# Streams of one HTTP/2 connection.
_STREAMS = 16

Run = Callable[[plan.Plan], report.Report]


class Subject(msgspec.Struct, frozen=True):
    """What is measured: a name for tables, and whom to ask what."""

    name: str
    target: plan.Target


class Method(msgspec.Struct, frozen=True):
    """How to measure. `shares` are open loops' rates as parts of the capacity; with `rate` it is the only load.

    `slo_s` is a p99 to hold (0: none), `generators` the processes that ask, on `cores` (none: any).
    """

    connections: tuple[int, ...] = (1, 4, 16, 64, 256)
    shares: tuple[float, ...] = (0.5, 0.8, 1.0, 1.2, 2.0)
    rate: float = 0.0
    slo_s: float = 0.0
    rounds: int = 3
    seconds: float = 3.0
    generators: int = 1
    cores: tuple[int, ...] = ()


class Point(msgspec.Struct, frozen=True):
    """One load on one server, in rounds. `asked` is the number of connections, or the rate of an open loop."""

    subject: str
    kind: Literal["closed", "open"]
    asked: float
    reports: tuple[report.Report, ...]

    @property
    def doubt(self) -> str:
        """Why this point says nothing of the server; one doubtful round is enough."""
        return next((each.doubt for each in self.reports if each.doubt), "")

    @property
    def throughput(self) -> figures.Figure:
        """Answers a second."""
        return figures.over([each.throughput for each in self.reports])

    @property
    def outcomes(self) -> report.Outcomes:
        """Of all rounds."""
        return sum((each.outcomes for each in self.reports), report.Outcomes())

    @property
    def latency(self) -> histogram.Histogram:
        """Of all rounds."""
        return histogram.Histogram.merged(each.latency for each in self.reports)

    @property
    def lost_share(self) -> float:
        """The part of all requests that had no good answer."""
        return 1 - self.outcomes.ok / self.outcomes.total if self.outcomes.total else 1.0

    def quantile(self, q: float) -> figures.Figure | None:
        """In seconds; None without samples enough. Over the rounds where each has enough, else of all together."""
        if all(each.latency.enough(q) for each in self.reports):
            return figures.over([each.quantile(q) for each in self.reports])
        value = self.latency.quantile(q)
        return figures.Figure(value, value, value) if self.latency.enough(q) else None

    def more_s(self, q: float) -> float:
        """How many seconds more of this load the quantile needs."""
        missing = histogram.needed(q) - self.latency.count
        rate = self.throughput.value
        return max(0.0, missing / rate) if rate else math.inf

    def goodput(self, slo_s: float) -> figures.Figure:
        """Answers a second within `slo_s`; without an SLO, all that were ok."""
        return figures.over([each.goodput(slo_s) if slo_s else each.throughput for each in self.reports])


class Held(msgspec.Struct, frozen=True):
    """The highest rate at which the p99 stays within the SLO; 0 if none does."""

    slo_s: float
    rate: float
    p99_s: float


class Measurement:
    """What is measured of several servers, kept as it comes: an interrupt leaves what is there."""

    def __init__(self, subjects: Sequence[Subject], method: Method, say: Callable[[str], None], run: Run) -> None:
        """`run` carries out one plan, as `processes.Generators` does."""
        self.subjects, self.method = tuple(subjects), method
        self.points: list[Point] = []
        self.held: dict[str, Held] = {}
        self.interrupted = False
        self._say = say
        self._run = run

    def measure(self) -> None:
        """All of it; returns early at an interrupt."""
        try:
            if self.method.rate:
                self._in_turn("open", {subject.name: self.method.rate for subject in self.subjects})
            else:
                self._curve()
            if self.method.slo_s:
                for subject in self.subjects:
                    self._bisect(subject)
        except KeyboardInterrupt:
            self.interrupted = True
        if not self.points:
            raise errors.Cancelled("Nothing was measured yet.")

    def of(self, subject: str, kind: str) -> list[Point]:
        """A server's points of one kind."""
        return [point for point in self.points if (point.subject, point.kind) == (subject, kind)]

    def best(self, subject: str) -> Point | None:
        """The closed loop with the most answers, of those that lost next to none; None where none is sure.

        Where the best one is the generator's own limit, no other says what the server can carry.
        """
        sound = [point for point in self.of(subject, "closed") if point.lost_share <= MOST_LOST]
        found = max(sound, key=lambda point: point.throughput.value, default=None)
        return None if found is None or found.doubt else found

    def capacity(self, subject: str) -> figures.Figure | None:
        """Answers a second that the server can give; None where it is not known."""
        best = self.best(subject)
        return None if best is None else best.throughput

    def ratios(self) -> dict[str, figures.Figure]:
        """By load, the first server's answers a second over the second's, with its interval."""
        found: dict[str, figures.Figure] = {}
        if len(self.subjects) != 2:
            return found
        first, second = (subject.name for subject in self.subjects)
        for point in self.points:
            other = next(
                (p for p in self.points if (p.subject, p.kind, p.asked) == (second, point.kind, point.asked)), None
            )
            if point.subject == first and other is not None and not point.doubt and not other.doubt:
                ours, theirs = ([each.throughput for each in one.reports] for one in (point, other))
                if all(theirs):
                    label = f"c={point.asked:g}" if point.kind == "closed" else f"{point.asked:,.0f}/s"
                    found[label] = figures.ratio(ours, theirs)
        return found

    def _curve(self) -> None:
        for connections in self.method.connections:
            self._in_turn("closed", {subject.name: connections for subject in self.subjects})
        known = {subject.name: self.capacity(subject.name) for subject in self.subjects}
        for share in self.method.shares:
            rates = {name: round(found.value * share, 1) for name, found in known.items() if found is not None}
            self._in_turn("open", rates)

    def _in_turn(self, kind: Literal["closed", "open"], asked: dict[str, float]) -> None:
        """One load on each server, round by round."""
        came: dict[str, list[report.Report]] = {name: [] for name in asked}
        try:
            for turn in range(self.method.rounds):
                for subject in self.subjects:
                    if subject.name in asked:
                        value = asked[subject.name]
                        done = self._run(planned(subject, kind, value, self.method.seconds, seed=turn + 1))
                        came[subject.name].append(done)
                        load = f"{value:g} under way" if kind == "closed" else f"{value:,.0f}/s offered"
                        self._say(f"{subject.name}, {load}, round {turn + 1}: {done.throughput:,.0f} answers/s")
        finally:
            self.points.extend(Point(name, kind, asked[name], tuple(done)) for name, done in came.items() if done)

    def _bisect(self, subject: Subject) -> None:
        """The rate at which the p99 still holds, between none and somewhat more than the capacity."""
        known = self.capacity(subject.name)
        if known is None:
            return
        low, high, best = 0.0, known.value * 1.05, Held(self.method.slo_s, 0.0, math.nan)
        for _ in range(_BISECTIONS):
            rate = (low + high) / 2
            seconds = min(_LONGEST_S, max(self.method.seconds, 1.2 * histogram.needed(0.99) / rate))
            done = self._run(planned(subject, "open", rate, seconds))
            p99 = done.quantile(0.99)
            lost = 1 - done.answered / max(1, done.scheduled)
            holds = done.latency.enough(0.99) and p99 <= self.method.slo_s and lost <= MOST_LOST
            self._say(f"{subject.name}, {rate:,.0f}/s: p99 {p99 * 1e3:.2f} ms, {'holds' if holds else 'does not hold'}")
            if holds and not done.doubt:
                low, best = rate, Held(self.method.slo_s, rate, p99)
            else:
                high = rate
            self.held[subject.name] = best


def planned(subject: Subject, kind: str, asked: float, seconds: float, seed: int = 1) -> plan.Plan:
    """The plan of one measurement; calls over gRPC share connections."""
    grpc = subject.target.transport == "grpc"
    if kind == "open":
        connections, streams = (16, _STREAMS) if grpc else (64, 1)
    else:
        connections = max(1, int(asked) // _STREAMS) if grpc else int(asked)
        streams = int(asked) // connections if grpc else 1
    return plan.Plan(
        subject.target,
        seconds,
        rate=asked if kind == "open" else 0.0,
        connections=connections,
        streams=streams,
        warm_s=max(LEAST_WARM_S, WARM_SHARE * seconds),
        seed=seed,
    )


def refusal(doubt: str) -> errors.GateRefused:
    """The error for figures that are the generator's and not the server's."""
    return errors.GateRefused(
        f"These figures would be the generator's, not the server's: {doubt}.",
        hint="Give it more: --generators 2, a machine of its own, or a lower --rate.",
    )


def cost_per_million(rate: float, price_per_hour: float) -> float:
    """What a million answers cost at a rate, when the machine costs so much an hour."""
    return price_per_hour / 3600 / rate * 1e6 if rate else math.inf
