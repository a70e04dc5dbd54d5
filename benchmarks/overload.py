"""S8: more requests than a server can answer: what it still answers, how fast, and what its refusals cost.

Called by `bench.py`. A model of some milliseconds a row has the bars; the small MLP, of which no generator on one core
can ask ten times too much, has its curve published.
"""

from __future__ import annotations

import load
import ours
import servers
from bars import Bar, Run, number, rounds, spread, table

from windlass.client import histogram, plan
from windlass.client import load as asking

# What a production server would be told (docs/decisions/0015): by default nobody is refused before a second.
_PATIENCE_ROWS = 12
LOADS = (0.8, 2.0, 4.0, 10.0)
CURVE = (0.5, 0.8, 1.0, 2.0, 4.0, 10.0)
_CORES = (load.LOAD_CORE,)
# A little more than a 99th percentile needs: arrivals are random.
_ENOUGH = 1.1 * histogram.needed(0.99)

METHOD = (
    "**S8**: capacity by a closed loop of 4 connections, then Poisson arrivals at 80, 200, 400 and 1000 % of it, each "
    "until at least 1,000 answers; latency from the intended start. Goodput is good answers a second, the peak is the "
    "most of all these loads; worst of the three overloads. The heavy model lets nobody wait for "
    "longer than twelve of its rows take (`max_queue_ms`); all other limits are the defaults. What a rejection costs "
    "is processor time of the servers' event loops, less what the accepted ones take at 80 %. What would have been "
    "more than 1,024 under way is not sent: the small MLP's server refuses nobody, it reads more slowly."
)


class Scenario:
    """The two servers, made ready."""

    def __init__(self) -> None:
        heavy = ours.subject("convolutions")
        with heavy.running() as alive:
            target = heavy.target(alive)
            rows_per_s = asking.closed_loop(target, connections=4, seconds=2, warm_s=1, cores=_CORES).throughput
        self._heavy = ours.subject("convolutions", max_queue_s=_PATIENCE_ROWS / rows_per_s)
        self._light = ours.subject("mlp")

    def measure(self, seconds: float) -> Run:
        """One round."""
        return {"heavy": self._overloaded(seconds), "light": self._curve(seconds)}

    def _overloaded(self, seconds: float) -> Run:
        with self._heavy.running() as alive:
            target = self._heavy.target(alive)
            peak = asking.closed_loop(target, connections=4, seconds=seconds, warm_s=1, cores=_CORES)
            capacity = peak.throughput
            loads = {
                times: _under(alive, target, times * capacity, max(seconds, _ENOUGH / (min(times, 0.9) * capacity)))
                for times in LOADS
            }
        for one in loads.values():
            one["rejection_us"] = _cost_of_rejection(one, loads[LOADS[0]])
        return {"capacity": capacity, "closed": load.account(peak), "loads": {str(k): v for k, v in loads.items()}}

    def _curve(self, seconds: float) -> Run:
        with self._light.running() as alive:
            target = self._light.target(alive)
            peak = asking.closed_loop(target, connections=64, seconds=seconds / 2, warm_s=1, cores=_CORES)
            capacity = peak.throughput
            loads = {str(times): _under(alive, target, times * capacity, seconds / 3) for times in CURVE}
        return {"capacity": capacity, "closed": load.account(peak), "loads": loads}


def _under(alive: servers.Running, target: plan.Target, rate: float, seconds: float) -> Run:
    """One open loop, and the event loops' processor time for all of it, the warm-up too."""
    before = alive.loops_cpu_s()
    found = asking.open_loop(target, rate=rate, seconds=seconds, warm_s=0.5, cores=_CORES)
    cpu_s = alive.loops_cpu_s() - before
    account = load.account(found, refusing=True)
    account["failed"] += found.warm_up.failed + found.warm_up.broken + found.warm_up.expired
    every = found.outcomes + found.warm_up
    return {**account, "loops_cpu_s": cpu_s, "all_answered": every.ok, "all_rejected": every.rejected}


def _cost_of_rejection(one: Run, calm: Run) -> float | None:
    """Microseconds of the event loops' time for a rejection, beyond what answers take when nothing is refused."""
    if one["all_rejected"] < histogram.needed(0.9) or not calm["all_answered"]:
        return None
    for_answers = one["all_answered"] * calm["loops_cpu_s"] / calm["all_answered"]
    return float((one["loops_cpu_s"] - for_answers) / one["all_rejected"] * 1e6)


def _goodput(run: Run) -> list[float]:
    """The worst goodput of the overloads over the best of all loads, round by round."""
    found = []
    for one in (each["heavy"] for each in rounds(run, "S8")):
        rates = [load["rate"] for load in one["loads"].values()]
        found.append(min(rates[1:]) / max(one["capacity"], *rates))
    return found


def _patience(run: Run) -> list[float]:
    """The worst p99 of the accepted in the overloads over that at 80 %, round by round."""
    found = []
    for each in rounds(run, "S8"):
        calm, *crowded = (load["p99_us"] for load in each["heavy"]["loads"].values())
        if calm and all(crowded):
            found.append(max(crowded) / calm)
    return found


BARS = (
    Bar("S8", "goodput at 2x, 4x, 10x capacity over the peak", 0.9, "", ">=", _goodput),
    Bar("S8", "p99 of the accepted at 2x, 4x, 10x capacity over p99 at 80 % load", 2, "x", "<=", _patience),
)

_HEADS = ["offered, % of capacity", "offered/s", "answered/s", "rejected, %", "p50, us", "p99, us"]


def section(run: Run) -> list[str]:
    """The curves."""
    found = rounds(run, "S8")
    lines: list[str] = []
    for kind, title in (("heavy", "Overload, a model of some milliseconds a row"), ("light", "Overload, small MLP")):
        capacity = spread((one[kind]["capacity"] for one in found), number)
        rows = [_row(kind, times, found) for times in found[0][kind]["loads"]]
        heads = [*_HEADS, "p99 of a rejection, us", "CPU of a rejection, us", "not sent, %", "doubt"]
        lines += ["", f"### {title}", "", f"Capacity, closed loop: {capacity}/s.", "", *table(heads, rows)]
    return lines


def _row(kind: str, times: str, found: list[Run]) -> list[str]:
    loads = [one[kind]["loads"][times] for one in found]
    for one in loads:
        one["rejected_percent"] = 100 * one["rejected"] / max(1, one["sent"])
        one["not_sent_percent"] = 100 * one["not_sent"] / max(1, one["sent"] + one["not_sent"])
    names = (
        "offered",
        "rate",
        "rejected_percent",
        "p50_us",
        "p99_us",
        "refusal_p99_us",
        "rejection_us",
        "not_sent_percent",
    )
    cells = [spread((one.get(name) for one in loads), number) for name in names]
    doubts = sorted({one["doubt"] for one in loads if one["doubt"]})
    return [f"{100 * float(times):.0f}", *cells, doubts[0] if doubts else ""]
