"""The batcher under a fake loop: whatever is asked, cancelled, poisoned or late, each call gets one outcome."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.serving.metrics import counters
from windlass.types import inference, signature, tensor

Make = Callable[..., Any]
POISON = 666.0
MAX_ROWS = 8

FLAT = signature.Signature(
    (signature.TensorSpec("x", "FP32", ("batch", "n")),), (signature.TensorSpec("y", "FP32", ("batch", "n")),)
)
UNBATCHED = signature.Signature((signature.TensorSpec("x", "FP32", (3,)),), (signature.TensorSpec("y", "FP32", (3,)),))


def twice(inputs: tensor.Tensors) -> tensor.Tensors:
    if (inputs["x"] == POISON).any():
        raise errors.InternalError("poison")
    return {"y": inputs["x"] * 2}


@pytest.fixture(scope="session")
def new_bench(make_bench: Make) -> Make:
    return functools.partial(make_bench, FLAT, twice, max_rows=MAX_ROWS)


def rows_of(n: int, width: int, start: float = 0.0) -> tensor.Tensors:
    return {"x": np.arange(start, start + n * width, dtype=np.float32).reshape(n, width)}


_step = st.one_of(
    st.tuples(
        st.just("ask"),
        st.integers(1, MAX_ROWS),
        st.sampled_from((1, 2, 3)),
        st.booleans(),
        st.sampled_from((None, 0.0005, 0.002, 10.0)),
        st.sampled_from((inference.PROBE, inference.INTERACTIVE, inference.BATCH)),
        st.sampled_from("ab"),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 40)),
    st.just(("turn",)),
    st.just(("finish",)),
    st.tuples(st.just("wait"), st.sampled_from((0.0004, 0.003))),
)


@pytest.mark.promise("P-36e")
@settings(max_examples=150, deadline=None)
@given(steps=st.lists(_step, max_size=40), inline=st.booleans(), delay_s=st.sampled_from((0.0, 0.001)))
def test_every_call_gets_exactly_one_outcome_and_its_own_rows(
    new_bench: Make, steps: list[tuple[Any, ...]], inline: bool, delay_s: float
) -> None:
    bench = new_bench(inline=inline, max_queue=40, delay_s=delay_s)
    poisoned: set[int] = set()
    for number, step in enumerate(steps):
        match step:
            case ("ask", rows, width, poison, timeout_s, priority, identity):
                inputs = rows_of(rows, width, 1000.0 * number)
                if poison:
                    inputs["x"][-1, 0] = POISON
                    poisoned.add(len(bench.asked))
                bench.ask(inputs, timeout_s=timeout_s, priority=priority, identity=identity)
            case ("cancel", which):
                if bench.asked:
                    bench.asked[which % len(bench.asked)].call.cancel("left")
            case ("turn",):
                bench.loop.turn()
            case ("finish",):
                bench.instance.finish()
            case ("wait", seconds):
                bench.loop.now += seconds
    bench.settle()
    answered = 0
    for index, asked in enumerate(bench.asked):
        outcome = asked.outcome
        if isinstance(outcome, inference.InferResponse):
            assert index not in poisoned
            np.testing.assert_array_equal(outcome.outputs["y"], asked.call.request.inputs["x"] * 2)
            assert asked.call.request.rows <= outcome.batch_rows <= MAX_ROWS
            answered += asked.call.request.rows
        elif isinstance(outcome, errors.InternalError):
            assert index in poisoned
        else:
            assert isinstance(outcome, (errors.Cancelled, errors.DeadlineExceeded, errors.Overloaded))
    assert bench.batch.queued_rows == 0
    assert all(len(inputs["x"]) <= MAX_ROWS for inputs in bench.instance.batches)
    # Nobody was counted whose answer went nowhere but for those cancelled while they ran.
    assert bench.series.rows[0] >= answered
    assert sum(rows * runs for rows, (runs, _) in bench.series.batches.items()) == bench.series.rows[0]


def test_what_arrives_in_one_turn_runs_together(new_bench: Make) -> None:
    bench = new_bench()
    asked = [bench.ask(rows_of(1, 3, i)) for i in range(5)]
    assert not bench.instance.batches
    bench.loop.turn()
    assert [len(b["x"]) for b in bench.instance.batches] == [5]
    assert all(isinstance(a.outcome, inference.InferResponse) and a.outcome.batch_rows == 5 for a in asked)


def test_a_busy_instance_finds_all_that_queued_meanwhile(new_bench: Make) -> None:
    bench = new_bench(inline=False)
    bench.ask(rows_of(1, 3))
    bench.loop.turn()
    for i in range(MAX_ROWS + 2):
        bench.ask(rows_of(1, 3, i))
    bench.instance.finish()
    assert [len(b["x"]) for b in bench.instance.batches] == [1, MAX_ROWS]
    bench.settle()
    assert [len(b["x"]) for b in bench.instance.batches] == [1, MAX_ROWS, 2]


def test_mixed_shapes_never_close_a_batch_early(new_bench: Make) -> None:
    bench = new_bench()
    for i in range(6):
        bench.ask(rows_of(1, 2 + i % 2, i))
    bench.loop.turn()
    assert sorted(len(b["x"]) for b in bench.instance.batches) == [3, 3]


def test_the_shape_whose_first_call_came_first_runs_first(new_bench: Make) -> None:
    bench = new_bench(inline=False)
    bench.ask(rows_of(1, 1))
    bench.loop.turn()
    for width in (3, 2, 3):
        bench.loop.now += 0.001
        bench.ask(rows_of(1, width))
    bench.settle()
    assert [b["x"].shape for b in bench.instance.batches] == [(1, 1), (2, 3), (1, 2)]


def test_a_probe_goes_before_what_came_earlier(new_bench: Make) -> None:
    bench = new_bench(inline=False)
    bench.ask(rows_of(1, 1))
    bench.loop.turn()
    bench.ask(rows_of(1, 2))
    bench.loop.now += 0.001
    bench.ask(rows_of(1, 3), priority=inference.PROBE)
    bench.settle()
    assert [b["x"].shape[1] for b in bench.instance.batches] == [1, 3, 2]


@pytest.mark.promise("P-36e")
@pytest.mark.parametrize("where", range(MAX_ROWS))
def test_a_poisoned_row_fails_alone(new_bench: Make, where: int) -> None:
    bench = new_bench()
    for i in range(MAX_ROWS):
        inputs = rows_of(1, 3, i)
        if i == where:
            inputs["x"][0, 1] = POISON
        bench.ask(inputs)
    bench.loop.turn()
    for i, asked in enumerate(bench.asked):
        if i == where:
            assert isinstance(asked.outcome, errors.InternalError)
        else:
            assert isinstance(asked.outcome, inference.InferResponse)
            np.testing.assert_array_equal(asked.outcome.outputs["y"], asked.call.request.inputs["x"] * 2)
    # Halving: two runs a level and the first.
    assert len(bench.instance.batches) <= 2 * 3 + 1


@pytest.mark.promise("P-36e")
def test_who_poisons_again_and_again_runs_alone_and_its_mates_do_not_notice(new_bench: Make) -> None:
    bench = new_bench(inline=False, max_queue=100_000)
    for second in range(4):
        bench.loop.now = 100.0 + second
        for number in range(200):
            bench.ask(rows_of(1, 1, POISON), identity="bad")
            bench.ask(rows_of(1, 1, float(number)), identity="good")
        bench.settle()
    for asked in bench.asked:
        expected = errors.InternalError if asked.call.identity == "bad" else inference.InferResponse
        assert isinstance(asked.outcome, expected)
    # A row of its own is one run, whoever sends it; what it cost others besides is what its budget allows.
    failed = [batch for batch in bench.instance.batches if len(batch["x"]) > 1 and (batch["x"] == POISON).any()]
    assert 4 < len(failed) < 4 * 64
    assert sum(len(b["x"]) == MAX_ROWS and not (b["x"] == POISON).any() for b in bench.instance.batches) > 50


@pytest.mark.promise("P-34")
def test_no_more_than_one_run_goes_on_whatever_times_out(new_bench: Make) -> None:
    bench = new_bench(inline=False, timeout_s=0.002)
    for _ in range(200):
        # The fake instance does not take a second run; each of its runs outlasts the calls in it.
        bench.ask(rows_of(1, 1))
        bench.loop.now += 0.001
        bench.loop.turn()
        if len(bench.asked) % 7 == 0:
            bench.instance.finish()
    bench.settle()
    ended = [type(asked.outcome) for asked in bench.asked]
    assert ended.count(errors.DeadlineExceeded) + ended.count(errors.Overloaded) > 100
    saved = dict(zip(counters.SAVED, bench.series.saved, strict=True))
    assert saved["expired"] > 0
    assert saved["cancelled"] == 0
    ran = sum(len(batch["x"]) for batch in bench.instance.batches)
    assert ran + saved["expired"] + sum(bench.batch.refused.values()) == 200


@pytest.mark.promise("P-36")
def test_a_full_queue_still_takes_whoever_has_less_than_its_part(new_bench: Make) -> None:
    bench = new_bench(inline=False, max_queue=8)
    bench.ask(rows_of(1, 1))
    bench.loop.turn()
    heavy = [bench.ask(rows_of(1, 1), identity="heavy") for _ in range(12)]
    light = [bench.ask(rows_of(1, 1), identity="light") for _ in range(5)]
    assert [a.call.done for a in heavy] == [False] * 8 + [True] * 4
    assert [a.call.done for a in light] == [False] * 4 + [True]
    assert bench.batch.refused["queue_full"] == 5
    assert isinstance(heavy[-1].outcome, errors.Overloaded)
    assert bench.batch.refuses("heavy") is not None
    assert bench.batch.refuses("third") is None
    bench.settle()
    assert bench.batch.refuses("heavy") is None


def test_a_call_that_cannot_be_answered_in_time_is_refused_at_once_and_never_while_all_is_idle(new_bench: Make) -> None:
    bench = new_bench(inline=False)
    for _ in range(40):
        bench.ask(rows_of(1, 1))
        bench.loop.turn()
        bench.loop.now += 0.1
        bench.instance.finish()
    first = bench.ask(rows_of(1, 1), timeout_s=0.01)
    bench.loop.turn()
    assert not first.call.done
    hopeless, possible = bench.ask(rows_of(1, 1), timeout_s=1e-5), bench.ask(rows_of(1, 1), timeout_s=5.0)
    assert isinstance(hopeless.outcome, errors.Overloaded)
    assert hopeless.outcome.retry_after_s >= 1
    assert not possible.call.done
    assert bench.batch.refused["deadline"] == 1


def test_who_leaves_while_a_failed_batch_is_halved_is_not_run_again(new_bench: Make) -> None:
    bench = new_bench(inline=False)
    asked = [bench.ask(rows_of(1, 1, POISON if i == 0 else i)) for i in range(4)]
    bench.loop.turn()
    for leaving in asked[2:]:
        leaving.call.cancel("left")
    bench.settle()
    assert [len(b["x"]) for b in bench.instance.batches] == [4, 2, 1, 1]


def test_a_full_queue_refuses_at_once_and_takes_again_when_it_is_not(new_bench: Make) -> None:
    bench = new_bench(inline=False, max_queue=4)
    bench.ask(rows_of(1, 1))
    bench.loop.turn()
    kept = [bench.ask(rows_of(2, 1)) for _ in range(2)]
    refused = bench.ask(rows_of(1, 1))
    assert isinstance(refused.outcome, errors.Overloaded)
    kept[0].call.cancel("left")
    assert bench.batch.queued_rows == 2
    bench.ask(rows_of(2, 1))
    bench.settle()
    assert bench.batch.queued_rows == 0


def test_one_request_larger_than_the_queue_is_taken_when_nothing_waits(new_bench: Make) -> None:
    bench = new_bench(max_queue=2)
    asked = bench.ask(rows_of(5, 1))
    bench.settle()
    assert isinstance(asked.outcome, inference.InferResponse)


@pytest.mark.promise("P-33")
@pytest.mark.parametrize("inline", [True, False])
def test_an_expired_call_never_reaches_the_model(new_bench: Make, inline: bool) -> None:
    bench = new_bench(inline=inline)
    late = bench.ask(rows_of(1, 1, 5), timeout_s=0.001)
    good = bench.ask(rows_of(1, 1, 7), timeout_s=10.0)
    bench.loop.now += 0.002
    bench.settle()
    assert isinstance(late.outcome, errors.DeadlineExceeded)
    assert isinstance(good.outcome, inference.InferResponse)
    assert [b["x"].tolist() for b in bench.instance.batches] == [[[7.0]]]


def test_a_call_that_expires_while_it_runs_is_answered_then_and_once(new_bench: Make) -> None:
    bench = new_bench(inline=False, timeout_s=0.005)
    asked = bench.ask(rows_of(1, 1))
    bench.loop.turn()
    bench.loop.now += 0.006
    bench.loop.turn()
    assert isinstance(asked.outcome, errors.DeadlineExceeded)
    bench.settle()
    assert len(asked.outcomes) == 1


def test_a_delay_waits_for_more_and_a_full_batch_does_not_wait(new_bench: Make) -> None:
    bench = new_bench(delay_s=0.01)
    bench.ask(rows_of(1, 1))
    bench.loop.turn()
    assert not bench.instance.batches
    bench.ask(rows_of(1, 1))
    bench.loop.now += 0.011
    bench.loop.turn()
    assert [len(b["x"]) for b in bench.instance.batches] == [2]
    bench.ask(rows_of(MAX_ROWS, 1))
    bench.loop.turn()
    assert len(bench.instance.batches) == 2


def test_a_model_without_a_batch_dimension_runs_one_call_at_a_time(make_bench: Make) -> None:
    bench = make_bench(UNBATCHED, twice, max_rows=MAX_ROWS)
    for i in range(3):
        bench.ask({"x": np.full(3, i, np.float32)})
    bench.settle()
    assert [b["x"].tolist() for b in bench.instance.batches] == [[i] * 3 for i in map(float, range(3))]
    assert [a.outcome.outputs["y"].tolist() for a in bench.asked] == [[2.0 * i] * 3 for i in range(3)]


def test_a_model_that_gives_too_few_rows_fails_everybody_explicitly(make_bench: Make) -> None:
    bench = make_bench(FLAT, lambda inputs: {"y": inputs["x"][:1]}, max_rows=MAX_ROWS)
    bench.ask(rows_of(1, 1))
    bench.ask(rows_of(1, 1))
    bench.settle()
    assert all(isinstance(a.outcome, errors.InternalError) for a in bench.asked)


def test_a_fault_while_one_is_answered_does_not_silence_the_others(new_bench: Make) -> None:
    bench = new_bench()
    first = bench.ask(rows_of(1, 1))

    def broken(*_: object) -> None:
        raise ValueError("a fault in an encoder")

    first.call.on_reply = broken
    second = bench.ask(rows_of(1, 1))
    bench.loop.turn()
    assert isinstance(second.outcome, errors.InternalError)
    assert bench.batch.queued_rows == 0


def test_the_more_urgent_runs_first_and_by_itself(new_bench: Make) -> None:
    bench = new_bench(inline=False)
    bench.ask(rows_of(1, 2))
    bench.loop.turn()
    late = bench.ask(rows_of(1, 2), priority=inference.BATCH)
    soon = bench.ask(rows_of(1, 2), priority=inference.INTERACTIVE)
    bench.instance.finish()
    bench.loop.turn()
    bench.instance.finish()
    bench.loop.turn()
    assert (soon.call.done, late.call.done) == (True, False)
    bench.settle()
    assert late.outcome.batch_rows == 1


def test_behind_a_run_that_hangs_few_wait_and_one_that_is_a_little_late_keeps_nobody_out(new_bench: Make) -> None:
    bench = new_bench(inline=False)
    for _ in range(40):
        bench.ask(rows_of(1, 1))
        bench.loop.turn()
        bench.loop.now += 0.1
        bench.instance.finish()
    bench.ask(rows_of(1, 1))
    bench.loop.turn()
    bench.loop.now += 0.5
    for _ in range(64):
        assert bench.batch.refuses("local") is None
        bench.ask(rows_of(1, 1))
    bench.loop.now += 5.0
    refused = bench.batch.refuses("local")
    assert isinstance(refused, errors.Overloaded)
    assert 5 <= refused.retry_after_s <= 5.5 + 6.4 + 1
    bench.settle()
