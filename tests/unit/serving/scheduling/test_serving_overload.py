"""A batcher in simulated time, with random arrivals: what is promised under overload, and what a target keeps."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from windlass.serving.metrics import counters
from windlass.serving.scheduling import batcher, measure
from windlass.types import inference, signature, tensor

X = signature.TensorSpec("x", "FP32", ("batch",))
SIGNATURE = signature.Signature((X,), (signature.TensorSpec("y", "FP32", ("batch",)),))
ROW = np.zeros(1, np.float32)


class Loop:
    """What was to happen happens at its time; the clock jumps from one event to the next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()

    def clock(self) -> float:
        return self.now

    def at(self, when: float, callback: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), callback, arguments))

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now, callback, *arguments)

    def run(self) -> None:
        while self._events:
            self.now, _, callback, arguments = heapq.heappop(self._events)
            callback(*arguments)


class Instance:
    """Takes a base time and a time a row, give or take a few percent."""

    def __init__(self, loop: Loop, cost: Callable[[int], float], chance: random.Random) -> None:
        self.busy = False
        self._loop, self._cost, self._chance = loop, cost, chance

    def run(self, inputs: tensor.Tensors, done: batcher.OnRun) -> None:
        self.busy = True
        seconds = self._cost(len(inputs["x"])) * self._chance.lognormvariate(0.0, 0.03)
        self._loop.at(self._loop.now + seconds, self._finish, inputs, done, seconds)

    def _finish(self, inputs: tensor.Tensors, done: batcher.OnRun, seconds: float) -> None:
        self.busy = False
        done({"y": inputs["x"]}, seconds)


class Served:
    """A batcher for a model whose runs take `row_s * rows + base_s`."""

    def __init__(self, row_s: float, base_s: float = 0.0, best: int = 1, **plan: Any) -> None:
        self.loop = Loop()
        self.chance = random.Random(7)

        def cost(rows: int) -> float:
            return row_s * rows + base_s

        self.capacity = best / cost(best)
        timing = measure.Timing({1 << i: cost(1 << i) for i in range(7)}, best, {"x": ()})
        self.batch = batcher.Batcher(
            self.loop,  # type: ignore[arg-type]
            Instance(self.loop, cost, self.chance),
            batcher.Plan(max_rows=best, max_queue=1_024, timing=timing, **plan),
            SIGNATURE,
            counters.Counters().runs_of("m", "1"),
            "1",
            clock=self.loop.clock,
        )
        # By caller: when it asked and how long its answer took, and how many were refused.
        self.answers: dict[str, list[tuple[float, float]]] = {}
        self.refused: dict[str, int] = {}

    def offer(self, load: float, start: float, end: float, caller: str = "a", retries: int = 0) -> None:
        """Random arrivals at a part of the capacity; who is refused tries again at once, and again later."""
        self.answers.setdefault(caller, [])
        self.refused.setdefault(caller, 0)
        now = start
        while (now := now + self.chance.expovariate(load * self.capacity)) < end:
            self.loop.at(now, self._ask, caller, retries)

    def _ask(self, caller: str, retries: int, then: Callable[[], None] = lambda: None) -> None:
        began = self.loop.now

        def answered(*_: Any) -> None:
            self.answers[caller].append((began, self.loop.now - began))
            self.loop.at(self.loop.now + 1e-4, then)

        def failed(*_: Any) -> None:
            self.refused[caller] += 1
            self.loop.at(self.loop.now + 1e-4, then)
            for number in range(retries):
                self.loop.at(self.loop.now + number + self.chance.random(), self._ask, caller, 0)

        if self.batch.refuses(caller) is not None:
            failed()
            return
        self.batch.submit(
            inference.Call(
                request=inference.InferRequest("m", {"x": ROW}),
                on_reply=answered,
                on_fail=failed,
                arrived=began,
                identity=caller,
            )
        )

    def ask_in_turns(self, connections: int, requests: int, caller: str = "a") -> None:
        """So many callers from the start on, each of which asks again as soon as it is answered or refused."""
        self.answers.setdefault(caller, [])
        self.refused.setdefault(caller, 0)
        left = iter(range(requests))

        def ask() -> None:
            if next(left, None) is not None:
                self._ask(caller, 0, ask)

        for _ in range(connections):
            self.loop.at(0.0, ask)

    def p99(self, caller: str = "a", start: float = 0.0, end: float = 1e9) -> float:
        """The 99th percentile of those who asked in a span; never of fewer than 1,000."""
        found = sorted(seconds for began, seconds in self.answers[caller] if start <= began < end)
        assert len(found) >= 1_000
        return found[int(0.99 * len(found))]


def _steady(load: float, requests: int, *model: Any, **plan: Any) -> Served:
    served = Served(*model, **plan)
    served.offer(load, 0.0, requests / (load * served.capacity))
    served.loop.run()
    return served


@pytest.mark.promise("P-30")
@pytest.mark.parametrize(("model", "max_queue_s"), [((0.005, 0.0, 1), 0.06), ((0.005, 0.005, 16), 0.14)])
def test_goodput_and_the_tail_hold_under_overload(model: tuple[float, float, int], max_queue_s: float) -> None:
    calm = _steady(0.8, 6_000, *model, max_queue_s=max_queue_s)
    assert calm.refused["a"] < 0.01 * 6_000
    for load in (2.0, 4.0, 10.0):
        flooded = _steady(load, int(load * 2_500), *model, max_queue_s=max_queue_s)
        answered = len(flooded.answers["a"])
        assert answered / flooded.loop.now > 0.95 * flooded.capacity
        assert flooded.p99() < 2.0 * calm.p99()
        assert answered + flooded.refused["a"] == pytest.approx(load * 2_500, rel=0.1)


def test_without_a_bound_goodput_holds_and_nobody_waits_for_much_more_than_a_second() -> None:
    for load in (2.0, 10.0):
        flooded = _steady(load, int(load * 2_500), 0.005)
        assert len(flooded.answers["a"]) / flooded.loop.now > 0.95 * flooded.capacity
        assert flooded.p99() < 1.05
        assert flooded.refused["a"] == flooded.batch.refused["queue_time"]


@pytest.mark.parametrize("model", [(0.002, 0.0, 1), (0.01, 0.0, 1), (0.005, 0.005, 16), (0.5, 0.0, 1)])
@pytest.mark.parametrize("connections", [8, 64])
def test_callers_who_wait_for_their_answers_are_not_refused(model: tuple[float, float, int], connections: int) -> None:
    served = Served(*model)
    served.ask_in_turns(connections, 2_000)
    served.loop.run()
    assert served.refused["a"] == 0
    assert len(served.answers["a"]) / served.loop.now > 0.9 * served.capacity
    # Each waits for the others, and for nothing else.
    assert served.p99() < 1.3 * (connections / served.capacity + 2 * model[1] + 0.001)


@pytest.mark.promise("P-32")
def test_after_a_flood_with_clients_that_retry_all_is_as_before() -> None:
    served = Served(0.005)
    served.offer(0.5, 0.0, 60.0)
    served.offer(10.0, 20.0, 24.0, caller="flood", retries=3)
    served.loop.run()
    # Each refused one came back up to three times in three seconds; five seconds after the flood nothing is left of it.
    assert served.refused["flood"] > 5_000
    assert served.p99(start=29.0) < 1.3 * served.p99(end=20.0)
    assert sum(began > 29.0 for began, _ in served.answers["a"]) > 0.9 * 0.5 * served.capacity * 31


@pytest.mark.promise("P-36")
@pytest.mark.parametrize("share", [0.1, 0.2])
def test_one_tenant_does_not_starve_another(share: float) -> None:
    alone, beside = Served(0.005), Served(0.005)
    for served in (alone, beside):
        served.offer(share, 0.0, 1_100 / (share * served.capacity), caller="b")
    beside.offer(20 * 0.25, 0.0, 1_100 / (share * beside.capacity))
    alone.loop.run()
    beside.loop.run()
    assert beside.refused["b"] == 0
    # One run of the other's may have just begun; nothing else comes between.
    assert beside.p99("b") < alone.p99("b") + 0.0052
    assert beside.p99("b") < 1.4 * alone.p99("b")
    assert len(beside.answers["a"]) / beside.loop.now > 0.95 * (1 - share) * beside.capacity


@pytest.mark.parametrize(
    ("model", "target_s"),
    [((0.005, 0.0, 1), 0.15), ((0.005, 0.005, 16), 0.3), ((0.001, 0.005, 64), 0.18)],
)
def test_a_target_is_kept_and_nothing_shed_below_capacity(model: tuple[float, float, int], target_s: float) -> None:
    for load in (0.5, 0.8, 0.95):
        served = _steady(load, 4_000, *model, slo_p99_s=target_s, max_queue_s=1e9)
        assert served.p99() <= target_s
        assert served.refused["a"] <= 0.01 * 4_000
    flooded = _steady(4.0, 10_000, *model, slo_p99_s=target_s, max_queue_s=1e9)
    assert flooded.p99() <= 1.1 * target_s
    assert len(flooded.answers["a"]) / flooded.loop.now > 0.9 * flooded.capacity


def test_a_target_too_short_for_full_batches_makes_smaller_ones() -> None:
    for load in (0.5, 4.0):
        served = _steady(load, 8_000, 0.005, 0.005, 16, slo_p99_s=0.1)
        assert served.p99() <= 0.11
        assert served.batch.preferred_rows < 16


def test_a_configured_wait_is_the_longest() -> None:
    served = _steady(4.0, 8_000, 0.005, max_queue_s=0.02)
    assert served.batch.longest_wait_s == 0.02
    assert served.p99() < 0.02 + 0.005 + 0.005
    assert served.batch.refused["queue_time"] == served.refused["a"]
