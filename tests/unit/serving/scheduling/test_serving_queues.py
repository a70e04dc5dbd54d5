"""Who is next: classes, tenants, deadlines and shapes, against what each of them is promised."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.serving.scheduling import queues
from windlass.types import inference

ROW = {"x": np.zeros(1, np.float32)}


class Line:
    """Queues with a clock; what is taken is at most `limit` rows."""

    def __init__(self, limit: int = 4, credit_s: float = 0.0) -> None:
        self.queues = queues.Queues()
        self.now = 100.0
        self.limit = limit
        self.credit_s = credit_s
        self.alone: set[str] = set()

    def push(self, identity: str = "a", key: int = 0, rows: int = 1, **options: Any) -> inference.Call:
        run_s = options.pop("run_s", 0.01 * rows)
        request = inference.InferRequest("m", ROW, rows=rows)
        call = inference.Call(
            request=request, on_reply=_no, on_fail=_no, arrived=self.now, identity=identity, **options
        )
        self.queues.push(call, ((key,),), cost_s=0.01 * rows, run_s=run_s, credit_s=self.credit_s, now=self.now)
        return call

    def take(self) -> tuple[list[inference.Call], list[inference.Call]]:
        _, calls, expired = self.queues.take(
            self.now, lambda _key: self.limit, lambda _key, _rows: 0.0, lambda identity, _now: identity in self.alone
        )
        return calls, expired


def _no(*_: Any) -> None:
    raise AssertionError("a queue answers nobody")


_push = st.tuples(
    st.just("push"),
    st.sampled_from("abc"),
    st.integers(0, 2),
    st.integers(1, 5),
    st.sampled_from((0, 1, 2)),
    st.sampled_from((None, 0.5, 3.0, 30.0)),
)
_step = st.one_of(_push, _push, st.just(("take",)), st.tuples(st.just("drop"), st.integers(0, 99)), st.just(("wait",)))


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(_step, max_size=60), credit_s=st.sampled_from((0.0, 0.05)))
def test_every_call_leaves_once_in_a_batch_of_its_own_kind(steps: list[tuple[Any, ...]], credit_s: float) -> None:
    line = Line(limit=6, credit_s=credit_s)
    waiting: dict[int, tuple[inference.Call, int]] = {}
    # When each class had its last batch, or began to wait.
    since: dict[int, float] = {}

    def take() -> None:
        best = min(call.priority for call, _ in waiting.values())
        starved = {priority for priority, began in since.items() if line.now - began > queues.STARVED_S}
        calls, expired = line.take()
        for call in (*calls, *expired):
            left = float("inf") if call.deadline is None else call.deadline - line.now
            assert left > 0.0 or call in expired
            assert left < 0.01 * call.request.rows or call in calls
        assert calls or expired
        assert len({waiting[id(call)][1] for call in (*calls, *expired)}) == 1
        (priority,) = {call.priority for call in (*calls, *expired)}
        assert priority == best or priority in starved
        since[priority] = line.now
        rows = sum(call.request.rows for call in calls)
        assert rows <= 6 or len(calls) == 1
        key = next(waiting[id(call)][1] for call in (*calls, *expired))
        for call in (*calls, *expired):
            del waiting[id(call)]
        # Nobody who would have fitted was left behind because of what others sent.
        for call, other in waiting.values():
            alike = other == key and call.priority == priority
            first = all(
                c is call or (c.identity, k, c.priority) != (call.identity, key, priority) for c, k in waiting.values()
            )
            assert not (alike and first) or rows + call.request.rows > 6

    for step in steps:
        match step:
            case ("push", identity, key, rows, priority, timeout_s):
                deadline = None if timeout_s is None else line.now + timeout_s
                if all(call.priority != priority for call, _ in waiting.values()):
                    since[priority] = line.now
                call = line.push(identity, key, rows, priority=priority, deadline=deadline)
                waiting[id(call)] = (call, key)
            case ("take",) if waiting:
                take()
            case ("drop", which) if waiting:
                call, _ = waiting.pop(list(waiting)[which % len(waiting)])
                line.queues.discard(call)
            case ("wait",):
                line.now += 0.4
        assert line.queues.rows == sum(call.request.rows for call, _ in waiting.values())
    while waiting:
        take()
    assert line.queues.rows == 0
    assert line.queues.ahead_s("a", 2) == 0.0


@settings(max_examples=50, deadline=None)
@given(shares=st.lists(st.integers(1, 40), min_size=2, max_size=5), limit=st.integers(1, 8))
@pytest.mark.promise("P-36")
def test_who_always_waits_gets_an_even_share(shares: list[int], limit: int) -> None:
    line, given_rows = Line(limit=limit), collections.Counter[str]()
    for number, backlog in enumerate(shares):
        for _ in range(200 + backlog):
            line.push(str(number))
    for _ in range(100 * len(shares) // limit):
        calls, _ = line.take()
        given_rows.update(call.identity for call in calls)
    counts = [given_rows[str(number)] for number in range(len(shares))]
    assert max(counts) - min(counts) <= 1


@pytest.mark.promise("P-36")
def test_who_seldom_comes_is_next_and_so_are_the_few_that_follow() -> None:
    line = Line(limit=1, credit_s=0.04)
    for _ in range(200):
        line.push("heavy")
    for _ in range(50):
        line.take()
    light = [line.push("light") for _ in range(6)]
    taken = [line.take()[0][0] for _ in range(10)]
    # What its credit holds at once, then in turns.
    assert taken[:4] == light[:4]
    assert taken.index(light[5]) - taken.index(light[4]) == 2
    assert taken.index(light[5]) <= 7
    # Coming and going earns no more than that.
    for _ in range(2):
        line.take()
    again = line.push("light")
    assert line.take()[0][0] is not again or line.take()[0][0] is not again


def test_within_a_caller_the_earliest_deadline_is_first_whatever_the_shape() -> None:
    line = Line(limit=1)
    deadlines = [0.3, 0.1, 0.4, 0.2]
    for number, timeout_s in enumerate(deadlines):
        line.push(key=number % 3, deadline=line.now + timeout_s)
    line.push(key=1)
    due = [line.take()[0][0].deadline for _ in range(5)]
    assert due == [line.now + t for t in sorted(deadlines)] + [None]


def test_the_short_go_before_the_long_that_came_a_little_earlier_and_not_forever() -> None:
    line = Line(limit=1)
    long = line.push(key=512, run_s=0.1)
    line.now += 0.2
    short = line.push(key=16, run_s=0.005)
    assert line.take()[0] == [short]
    line.now += 0.3
    line.push(key=16, run_s=0.005)
    assert line.take()[0] == [long]


@pytest.mark.parametrize("pressing", [inference.PROBE, inference.INTERACTIVE])
def test_no_class_waits_forever(pressing: int) -> None:
    line = Line(limit=1)
    behind = line.push(priority=inference.BATCH)
    waited = 0
    while True:
        line.push(priority=pressing)
        line.now += 0.01
        (call,), _ = line.take()
        if call is behind:
            break
        waited += 1
        assert call.priority == pressing
    assert waited == pytest.approx(queues.STARVED_S / 0.01, abs=2)
    # And then not before that long again.
    line.push(priority=inference.BATCH)
    line.push(priority=pressing)
    assert line.take()[0][0].priority == pressing


def test_who_is_alone_shares_no_run() -> None:
    line = Line(limit=8)
    line.alone = {"b"}
    for _ in range(3):
        line.push("a")
        line.push("b")
    batches = [[call.identity for call in line.take()[0]] for _ in range(4)]
    assert sorted(batches) == [["a", "a", "a"], ["b"], ["b"], ["b"]]


@pytest.mark.promise("P-35")
def test_what_calls_that_left_hold_is_let_go() -> None:
    line = Line()
    stays = line.push()
    for _ in range(1_000):
        line.queues.discard(line.push("a"))
        line.queues.discard(line.push("b"))
    (level,) = [level for level in line.queues._levels if level.tenants]
    assert sum(len(bucket.heap) for bucket in level.tenants["a"].buckets.values()) < 40
    assert set(level.tenants) == {"a"}
    assert line.take()[0] == [stays]


def test_an_even_part_of_the_queue_is_everybodys() -> None:
    line = Line()
    for _ in range(10):
        line.push("heavy")
    assert line.queues.has_share("light", 5, 10)
    assert not line.queues.has_share("light", 6, 10)
    assert not line.queues.has_share("heavy", 1, 10)
    assert line.queues.ahead_s("light", inference.INTERACTIVE) == 0.0
    assert line.queues.ahead_s("heavy", inference.INTERACTIVE) == pytest.approx(0.1)
    line.push("light")
    assert line.queues.ahead_s("light", inference.INTERACTIVE) == pytest.approx(0.02)
    assert line.queues.ahead_s("light", inference.BATCH) == pytest.approx(0.11)
    assert line.queues.ahead_s("light", inference.PROBE) == 0.0
