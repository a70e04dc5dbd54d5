"""Layers by how much they hurt, and the fewest left out: by made-up costs, and on a net made hard for eight bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from windlass import errors
from windlass.optimization import accuracy, data, findings, runnable, sensitivity
from windlass.optimization import form as forms
from windlass.optimization.techniques import base, quantize_static
from windlass.packaging import dataset

LIKE = findings.Likeness(10, None, 20.0, 1.0, 0.1)


def judged(drop: float) -> findings.Judged:
    return findings.Judged(True, findings.Drop("accuracy", 100, 0.9, 0.9 - drop, drop, drop, drop), LIKE)


def form_of(excluded: tuple[str, ...]) -> forms.Form:
    return forms.Form({"model.onnx": "".join(excluded).encode()}, notes=excluded)


def costs(each: dict[str, float]) -> Callable[[forms.Form], findings.Judged]:
    """A judge for whom each layer that is not left out costs so much."""
    return lambda form: judged(sum(cost for node, cost in each.items() if node not in form.notes))


def layers_of(each: dict[str, float], us: float = 1.0) -> list[findings.Layer]:
    return [findings.Layer(name, "Gemm", -10 * float(np.log10(cost)), us) for name, cost in each.items()]


def test_the_dearest_layer_is_left_out_alone() -> None:
    each = {"a": 1e-4, "b": 0.2, "c": 1e-3, "d": 1e-4}
    found = sensitivity.fall_back(
        layers_of(each), form_of, costs(each), lambda one: one.drop.high <= 0.005, go_on=lambda: True
    )
    assert found is not None
    assert (found.accepted, found.excluded) == (True, ("b",))
    assert [layer.excluded for layer in found.layers] == [False, True, False, False]


def test_cheap_layers_are_left_out_before_dear_ones_that_hurt_a_little_more() -> None:
    layers = [findings.Layer("slow", "Conv", 10.0, 900.0), findings.Layer("quick", "Conv", 11.0, 10.0)]
    layers.append(findings.Layer("harmless", "Conv", 60.0, 0.0))
    assert [layer.node for layer in sensitivity.ranked(layers)] == ["quick", "slow", "harmless"]


def test_what_nothing_mends_gives_the_nearest() -> None:
    each = dict.fromkeys("abcdefgh", 0.1)
    found = sensitivity.fall_back(layers_of(each), form_of, costs(each), lambda one: one.drop.high <= 0.05, most=0.5)
    assert found is not None
    assert not found.accepted
    assert len(found.excluded) == 4
    assert sensitivity.fall_back([], form_of, costs(each), lambda _: True) is None


def test_time_that_is_over_ends_it() -> None:
    each = dict.fromkeys("abcdefgh", 0.1)
    found = sensitivity.fall_back(layers_of(each), form_of, costs(each), lambda _: False, go_on=lambda: False)
    assert found is not None
    assert found.tried == 1
    calls = iter([True, True, False])
    answer = [{"y": np.ones((2, 1), np.float32)}]
    nodes = dict.fromkeys("abcd", "Gemm")
    some = sensitivity.layers(nodes, form_of, lambda _: answer, answer, us={"a": 3.0}, go_on=lambda: next(calls))
    assert [layer.node for layer in some] == ["a", "b"]
    assert some[0].us == 3.0


def test_a_form_that_cannot_be_made_is_passed_over() -> None:
    each = {"a": 0.3, "b": 0.2}

    def refusing(excluded: tuple[str, ...]) -> forms.Form:
        if excluded == ("a",):
            raise errors.Unsupported("no.")
        return form_of(excluded)

    found = sensitivity.fall_back(layers_of(each), refusing, costs(each), lambda one: one.drop.high < 0.01, most=1.0)
    assert found is not None
    assert found.excluded == ("a", "b")


@hypothesis.given(
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=24), st.floats(0, 2.0), st.lists(st.floats(0, 9), min_size=24)
)
def test_what_is_accepted_needs_each_layer_that_is_left_out(costly: list[float], most: float, us: list[float]) -> None:
    each = {f"n{at}": cost for at, cost in enumerate(costly)}
    layers = [
        findings.Layer(name, "Gemm", -10 * float(np.log10(cost)), time)
        for (name, cost), time in zip(each.items(), us, strict=False)
    ]
    judge = costs(each)

    def accept(one: findings.Judged) -> bool:
        return one.drop.high <= most

    found = sensitivity.fall_back(layers, form_of, judge, accept, most=1.0)
    assert found is not None
    assert found.accepted == accept(found.judged)
    assert found.accepted
    assert len(found.excluded) >= 1
    if len(found.excluded) > 1:
        for node in found.excluded:
            assert not accept(judge(form_of(tuple(other for other in found.excluded if other != node))))


def test_a_hard_net_gets_most_of_its_loss_back_for_few_layers(layered: ModuleType, tmp_path: Path) -> None:
    """At least half of what eight bits lose is won back with at most a tenth of the products left out."""
    net = layered.Net(10, hard=True)
    x = layered.rows(1500)
    parent = net.opened()
    found = data.split(parent, dataset.Dataset({"x": x, "y": net.answer(x).argmax(axis=1)}, "sha256:rows"), "y")
    judge = accuracy.Judge(parent, found.search)
    original = forms.Form({"model.onnx": net.graph()})
    materials = base.Materials(net.shape(), found.calibration.batches, tmp_path)
    technique = quantize_static.StaticQuantization

    def make(excluded: tuple[str, ...]) -> forms.Form:
        return technique.apply(original, {"exclude": list(excluded)}, materials)

    def ask(form: forms.Form) -> findings.Judged:
        loaded = runnable.open(form)
        try:
            return judge.judge(loaded.run)
        finally:
            loaded.close()

    def answers(form: forms.Form) -> list[dict[str, np.ndarray]]:
        loaded = runnable.open(form)
        try:
            return [loaded.run(batch) for batch in found.search.batches[:2]]
        finally:
            loaded.close()

    nodes = dict.fromkeys(technique.nodes(original), "Gemm")
    assert len(nodes) == 11
    lost = ask(make(())).drop.drop
    assert lost > 0.3
    layers = sensitivity.layers(nodes, make, answers, judge.answers[:2], us={})
    # The layer that divides what the one before it blew up.
    assert layers[0].node == "layer3"
    assert layers[0].sqnr_db < layers[1].sqnr_db - 20
    fallen = sensitivity.fall_back(layers, make, ask, lambda one: one.drop.high <= lost / 2)
    assert fallen is not None
    assert fallen.accepted
    assert len(fallen.excluded) <= 0.1 * len(nodes)
    assert fallen.judged.drop.drop <= 0.5 * lost
    assert [layer.node for layer in fallen.layers if layer.excluded] == ["layer3"]
    assert any(left.node == "layer3" for left in fallen.form.left)


@pytest.mark.parametrize("bits", [30.0, 60.0])
def test_noise_is_told_in_decibels(bits: float) -> None:
    signal = np.ones((4, 8), np.float32)
    noisy = {"y": (signal + 10 ** (-bits / 20)).astype(np.float32)}
    found = sensitivity.layers({"a": "Gemm"}, form_of, lambda _: [noisy], [{"y": signal}], us={})
    assert found[0].sqnr_db == pytest.approx(bits, abs=0.01)
