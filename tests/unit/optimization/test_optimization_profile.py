"""Profiles: traces read run by run, what tracing takes left out, bounds by the law of Amdahl, the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from windlass import errors, plugins
from windlass.optimization import findings, profile, runnable, trace
from windlass.optimization import form as forms
from windlass.packaging import session

FREE = trace.Cost(0.0, 0.0)


class Quick:
    name: ClassVar[str] = "quick"
    trains: ClassVar[bool] = False
    gains: ClassVar[Mapping[str, float]] = {"MatMul": 4.0, "Conv": 2.0}


class Taught(Quick):
    name: ClassVar[str] = "taught"
    trains: ClassVar[bool] = True


class Unknown(Quick):
    name: ClassVar[str] = "unknown"
    gains: ClassVar[Mapping[str, float]] = {}


def event(name: str, ts: int, dur: int, kind: str = "") -> trace.Event:
    return trace.Event(f"{name}_kernel_time" if kind else name, "", ts, dur, {"op_name": kind} if kind else {})


def told(us: float, *ran: trace.Ran, techniques=(Quick,), cost: trace.Cost = FREE, rows: int = 1) -> findings.Profile:
    return profile.told("onnx", us, ran, cost, rows=rows, threads=1, techniques=techniques)


def test_a_trace_is_averaged_over_runs_without_the_first() -> None:
    events = [event("model_run", 0, 1000), event("a", 10, 900, "Conv")]
    for start, took in ((2000, 10), (3000, 12), (4000, 14), (5000, 500)):
        events += [event("model_run", start, 600), event("a", start + 1, took, "Conv")]
        events += [event("b", start + 1 + took, 3, "Relu"), event("session", start, 1)]
    assert trace.averaged(events, skip=1) == (trace.Ran("a", "Conv", 1.0, 13.0), trace.Ran("b", "Relu", 1.0, 3.0))


def test_what_an_operator_runs_inside_is_not_counted_twice() -> None:
    events = [event("model_run", 0, 100), event("loop", 5, 60, "Loop")]
    events += [event("body", 10, 20, "MatMul"), event("body", 35, 20, "MatMul"), event("after", 66, 10, "Relu")]
    assert trace.averaged(events) == (
        trace.Ran("loop", "Loop", 1.0, 20.0),
        trace.Ran("body", "MatMul", 2.0, 40.0),
        trace.Ran("after", "Relu", 1.0, 10.0),
    )


def test_a_trace_without_a_run_is_an_error() -> None:
    with pytest.raises(errors.InternalError, match="no run"):
        trace.averaged([event("a", 0, 3, "Relu")])


@given(
    st.lists(st.tuples(st.integers(1, 5), st.floats(0, 1e6)), min_size=1, max_size=20),
    st.floats(1e-3, 1e6),
    st.floats(0, 10),
)
def test_operators_never_take_more_than_the_run(given: list[tuple[int, float]], us: float, traced: float) -> None:
    ran = [trace.Ran(str(n), "Relu", calls, took) for n, (calls, took) in enumerate(given)]
    found = trace.fitted(ran, us, traced)
    assert all(0 <= node.us <= before.us for node, before in zip(found, ran, strict=True))
    assert sum(node.us for node in found) <= us * (1 + 1e-9)


def test_what_tracing_takes_is_left_out() -> None:
    found = trace.fitted(
        [trace.Ran("a", "Loop", 1, 20), trace.Ran("b", "Neg", 4, 10), trace.Ran("c", "Neg", 1, 1)], 100, 2
    )
    assert [node.us for node in found] == [18.0, 2.0, 0.0]


def test_bounds_are_amdahls_and_know_fused_operators() -> None:
    ran = [trace.Ran("a", "FusedMatMul", 1, 60), trace.Ran("b", "FusedConv", 1, 20), trace.Ran("c", "Softmax", 1, 10)]
    found = told(100, *ran, techniques=(Taught, Unknown, Quick))
    assert [bound.technique for bound in found.bounds] == ["quick", "taught"]
    bound = found.bounds[0]
    assert bound.share == pytest.approx(0.8)
    assert bound.gain == pytest.approx(80 / (60 / 4 + 20 / 2))
    assert bound.speedup == pytest.approx(100 / (20 + 15 + 10))
    assert found.worth
    assert found.outside_us == pytest.approx(10)
    assert [(one.kind, one.share) for one in found.operators] == [
        ("FusedMatMul", pytest.approx(6 / 9)),
        ("FusedConv", pytest.approx(2 / 9)),
        ("Softmax", pytest.approx(1 / 9)),
    ]
    assert [node.name for node in found.slowest] == ["a", "b", "c"]
    assert "67% of its operators' time in FusedMatMul" in found.words
    assert "2.2x (quick, taught)" in found.words


@given(st.floats(0.01, 1), st.floats(1, 100))
def test_a_bound_lies_between_one_and_the_gain(share: float, gain: float) -> None:
    class Given(Quick):
        gains: ClassVar[Mapping[str, float]] = {"MatMul": gain}

    (bound,) = told(1e3, trace.Ran("a", "MatMul", 1, 1e3 * share), techniques=(Given,)).bounds
    assert 1.0 <= bound.speedup <= gain * (1 + 1e-9)


@pytest.mark.parametrize(
    ("us", "kind", "techniques", "words"),
    [
        (15, "MatMul", (Quick,), "asking for it takes longer"),
        (1000, "TreeEnsembleClassifier", (Quick,), "the most that a technique could gain is 1.00x"),
    ],
)
def test_what_is_not_worth_it_is_said(us: float, kind: str, techniques, words: str) -> None:
    found = told(us, trace.Ran("a", kind, 1, us), techniques=techniques)
    assert not found.worth
    assert words in found.words


def test_a_technique_of_which_nothing_is_known_rules_nothing_out() -> None:
    assert told(1000, trace.Ran("a", "TreeEnsembleClassifier", 1, 900), techniques=(Unknown,)).worth


def test_many_calls_of_little_are_bound_by_calling() -> None:
    small = [trace.Ran(str(n), "Add", 1, 0.6) for n in range(100)]
    found = told(100, *small, trace.Ran("m", "MatMul", 1, 40), cost=trace.Cost(0.5, 2.0))
    assert found.dispatch_bound
    assert "Calling its 101 operators takes 50% of that" in found.words
    assert not told(100, *small, trace.Ran("m", "MatMul", 1, 40), cost=trace.Cost(0.2, 2.0)).dispatch_bound


def test_another_runtime_is_measured_as_a_whole() -> None:
    found = profile.told("aoti", 500, (), FREE, rows=8, threads=2, techniques=(Quick,))
    assert (found.operators, found.slowest, found.bounds) == ((), (), ())
    assert found.worth
    assert found.words == "A run of 8 rows takes 0.5 ms on 2 threads; its runtime does not tell what of it."


def test_techniques_without_their_library_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(kind: str, name: str):
        if name == "b":
            raise errors.Unsupported("it needs a library")
        return Quick

    monkeypatch.setattr(plugins, "catalog", lambda: {"techniques": {"a": None, "b": None}})
    monkeypatch.setattr(plugins, "load", load)
    assert profile.installed() == (Quick,)


def net() -> forms.Form:
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return forms.Form({"model.onnx": model.SerializeToString()})


@pytest.mark.parametrize("level", [None, "none", "basic", "extended", "all"])
def test_a_form_answers_the_same_at_every_level(level) -> None:
    opened = runnable.open(net(), level=level)
    again = opened.again()
    opened.close()
    answer = again.run({"x": np.array([[-1, 0, 1, 2]], np.float32)})
    again.close()
    assert answer["y"].tolist() == [[0, 0, 1, 2]]


def test_all_of_a_run_is_in_this_thread_only_with_one_thread() -> None:
    for threads, inside in ((1, True), (2, False)):
        opened = runnable.open(net(), threads=threads)
        assert opened.inside is inside
        opened.close()


def test_what_carries_code_runs_elsewhere_unless_this_process_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def run(self, inputs: object) -> str:
            return "apart"

        def unload(self) -> None: ...

    class Carrier:
        carries_code = True

        @staticmethod
        def load(files: object, options: object) -> Model:
            model = Model()
            model.run = lambda inputs: "here"  # type: ignore[method-assign]
            return model

    monkeypatch.setattr(plugins, "load", lambda kind, name: Carrier)
    monkeypatch.setattr(session, "load_model", lambda runtime, files, options: Model())
    form = forms.Form({"model.pt2": b""}, runtime="aoti")
    apart, here = runnable.open(form), runnable.open(form, made_here=True)
    assert (apart.run({}), apart.inside) == ("apart", False)
    assert (here.run({}), here.inside) == ("here", True)


def test_a_damaged_form_is_an_error() -> None:
    with pytest.raises(errors.CorruptPackage):
        runnable.open(forms.Form({"model.onnx": b"\x08nothing"}))
