"""S12: twenty version switches while requests arrive: what callers notice of them.

Called by `bench.py`. The versions have other weights each; a new spec goes to the server over its control socket.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time

import load
import models
import msgspec
import ours
from bars import Bar, Run, number, rounds, spread, table

from windlass.client import control, histogram, plan, processes
from windlass.client import load as asking

SWAPS = 20
EVERY_S = 0.4
_WARM_S, _STEADY_S = 1.0, 5.0
_CORES = (load.LOAD_CORE,)

METHOD = (
    f"**S12**: {SWAPS} switches between two versions of the model, one each {EVERY_S:g} s, both known to the server's "
    "probation, under Poisson arrivals at 50 % of the capacity that a closed loop of 64 connections finds; p99 of "
    "the seconds with switches over p99 of those before. A rejected or lost request counts as failed. "
    "The loader shares the server's one core."
)


class Scenario:
    """The server and its other version."""

    def __init__(self) -> None:
        self._subject = ours.subject("mlp")
        second = dataclasses.replace(self._subject.model, name="mlp-second", seed=models.SEED + 1)
        paths = (self._subject.onnx, models.export(second, ours.FOLDER / "models"))
        self._versions = tuple(
            ours.endpoint("mlp", *ours.package(model, path), version)
            for model, path, version in zip((self._subject.model, second), paths, "12", strict=True)
        )

    def measure(self, seconds: float) -> Run:
        """One round."""
        with self._subject.running() as alive:
            target = self._subject.target(alive)
            reached = ours.control_of(alive)
            try:
                # Each version once, so that the server knows both.
                for at in (1, 0):
                    self._apply(reached, at)
                peak = asking.closed_loop(target, connections=64, seconds=seconds / 2, warm_s=1, cores=_CORES)
                found = self._under_load(reached, target, peak.throughput / 2)
            finally:
                reached.close()
        return {"capacity": peak.throughput, **found}

    def _under_load(self, reached: control.Control, target: plan.Target, rate: float) -> Run:
        first_s = _WARM_S + _STEADY_S
        planned = asking.opened(target, rate=rate, seconds=_STEADY_S + SWAPS * EVERY_S + 1, warm_s=_WARM_S)
        with processes.Generators(1, _CORES) as generator, concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(generator.run, planned)
            start = time.monotonic()
            taken = []
            for turn in range(SWAPS):
                time.sleep(max(0.0, start + first_s + turn * EVERY_S - time.monotonic()))
                begun = time.monotonic()
                self._apply(reached, (turn + 1) % 2)
                taken.append(time.monotonic() - begun)
            last = time.monotonic() - start - _WARM_S
            found = running.result()
        # The second in which the first switch begins may hold a part of a steady one: it is left to the switches.
        steady, during = (
            histogram.Histogram.merged(second.latency for second in found.seconds[a:b])
            for a, b in ((0, int(_STEADY_S)), (int(_STEADY_S), int(last) + 1))
        )
        return {
            **load.account(found),
            "steady_p99_us": steady.quantile(0.99) * 1e6 if steady.enough(0.99) else None,
            "during_p99_us": during.quantile(0.99) * 1e6 if during.enough(0.99) else None,
            "seconds_p99_us": [second.latency.quantile(0.99) * 1e6 for second in found.seconds if second.latency.count],
            "swaps": len(taken),
            "swap_s": taken,
        }

    def _apply(self, reached: control.Control, at: int) -> None:
        now = reached.current()
        reached.apply(msgspec.structs.replace(now, generation=now.generation + 1, endpoints=(self._versions[at],)))


def _over(run: Run) -> list[float]:
    found = rounds(run, "S12")
    return [
        one["during_p99_us"] / one["steady_p99_us"] for one in found if one["during_p99_us"] and one["steady_p99_us"]
    ]


def _failed(run: Run) -> list[float]:
    """Of all rounds together: no median may hide one."""
    found = rounds(run, "S12")
    return [float(sum(one["failed"] for one in found))] if found else []


BARS = (
    Bar("S12", f"p99 during {SWAPS} version switches over steady p99", 1.5, "x", "<=", _over),
    Bar("S12", "failed requests, all rounds", 0, "", "<=", _failed),
)


def section(run: Run) -> list[str]:
    """Latencies, and how long a switch takes."""
    found = rounds(run, "S12")
    names = ("offered", "steady_p99_us", "during_p99_us")
    cells = [spread((one[name] for one in found), number) for name in names]
    swaps = spread((1e3 * seconds for one in found for seconds in one["swap_s"]), number)
    doubts = sorted({one["doubt"] for one in found if one["doubt"]})
    heads = ["requests/s", "p99 steady, us", "p99 during switches, us", "a switch takes, ms", "doubt"]
    return ["", "### Version switches, small MLP", "", *table(heads, [[*cells, swaps, "; ".join(doubts)]])]
