"""What the techniques that train are for, on a network that has learned something: accuracy comes back, bytes go."""

from __future__ import annotations

import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from windlass.optimization import calibration, graphs, pairs
from windlass.optimization import form as forms
from windlass.optimization.techniques import base, prune_unstructured, quantize_aware
from windlass.optimization.training import export, networks, rounding
from windlass.packaging import session
from windlass.runtimes import base as runtimes
from windlass.types import signature


@pytest.fixture(scope="module")
def trainable() -> ModuleType:
    """The small networks of the suite of techniques."""
    path = Path(__file__).parents[1] / "conformance" / "trainable.py"
    made = importlib.util.spec_from_file_location("windlass_trainable", path)
    if made is None or made.loader is None:
        raise RuntimeError("the networks to train are missing")
    module = importlib.util.module_from_spec(made)
    sys.modules["windlass_trainable"] = module
    made.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(trainable: ModuleType) -> Any:
    """A network that has learned its lesson."""
    return trainable.trained()


def answers(form: forms.Form, images: Any, *, optimize: bool = True) -> Any:
    model = session.load_model(form.runtime, form.files, runtimes.Options(optimize=optimize))
    try:
        return model.run({"image": images})["logits"]
    finally:
        model.unload()


def accuracy(form: forms.Form, trainable: ModuleType) -> float:
    images, labels = trainable.rows(2000, 9)
    return float((answers(form, images).argmax(axis=1) == labels).mean())


def deflated(form: forms.Form) -> int:
    return sum(len(zlib.compress(data)) for data in form.files.values())


def static(form: forms.Form, materials: Any) -> forms.Form:
    model = graphs.prepared(form)
    plan = pairs.plan(model)
    ranges = calibration.ranges(model, plan.ranges, materials.calibration, "minmax", key=form.digest)
    made = pairs.quantize(model, plan, ranges, pairs.Settings())
    return graphs.made(form, made, forms.Step("static"), expected=materials.signature, precision="int8")


def test_training_for_integers_wins_back_what_rounding_loses(
    trained: Any, trainable: ModuleType, tmp_path: Path
) -> None:
    materials = trainable.materials(tmp_path)
    original = trainable.form(trainable.unbalanced(trained, 3.0), tmp_path)
    rounded = static(original, materials)
    tuned = quantize_aware.QuantizationAware.apply(original, {}, materials)
    best, lost, back = (accuracy(form, trainable) for form in (original, rounded, tuned))
    assert best - lost > 0.02
    assert back - lost > 0.5 * (best - lost)
    assert tuned.size < 0.4 * original.size
    assert (tuned.precision, tuned.network, tuned.left) == ("int8", None, ())
    assert tuned.notes[-1].startswith("4 of 4 products were trained with rounding. Training: its")
    model = graphs.read(tuned)
    assert {node.op_type for node in model.graph.node} >= {"QuantizeLinear", "DequantizeLinear", "Conv", "Gemm"}


def test_the_form_answers_as_the_network_that_was_trained_with_rounding(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((64, 12)).astype(np.float32)
    told = signature.Signature(
        (signature.TensorSpec("input", "FP32", ("batch", 12)),), (signature.TensorSpec("output", "FP32", ("batch", 5)),)
    )
    materials = base.Materials(told, ({"input": rows},), tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.ReLU(), torch.nn.Linear(24, 5)).eval()
    original = export.to_form(network, forms.Form({}), forms.Step("packaged"), materials)
    layers, spared = quantize_aware._layers(original, ())
    assert (layers, spared) == (["0", "2"], set())
    rounded = quantize_aware._rounded(network, layers, ("input",), materials.calibration)
    trained_answers = networks.answers(rounded, ("input",), {"input": rows})
    # Ranges that no calibration would give.
    rounded.get_submodule("0.rounded_input").high.fill_(1.0)
    clipped = networks.answers(rounded, ("input",), {"input": rows})
    made = quantize_aware._integers(original, original, rounding.remove(rounded, layers), set(), materials, "now")
    model = session.load_model(made.runtime, made.files, runtimes.Options(optimize=False))
    found = model.run({"input": rows})["output"]
    model.unload()
    assert np.abs(found - clipped).max() < 0.02
    assert np.abs(found - trained_answers).max() > 0.2
    last = quantize_aware.QuantizationAware.nodes(original)[-1]
    assert quantize_aware._layers(original, (last,)) == (["0"], {"2"})
    without = quantize_aware._integers(original, original, {"0": (-1.0, 1.0)}, {"2"}, materials, "now")
    assert [left.node for left in without.left] == [last]
    assert "1 of 1 products" in without.notes[-1]


def test_sparse_and_integer_weights_travel_as_a_fifth(trained: Any, trainable: ModuleType, tmp_path: Path) -> None:
    materials = trainable.materials(tmp_path)
    original = trainable.form(trained, tmp_path)
    sparse = prune_unstructured.UnstructuredPruning.apply(original, {"sparsity": 0.9}, materials)
    weights = [p for p in sparse.network.parameters() if p.numel() >= prune_unstructured.LEAST_WEIGHTS]
    assert [round(float((weight == 0).float().mean()), 2) for weight in weights] == [0.9, 0.9]
    assert sparse.size == pytest.approx(original.size, rel=0.02)
    assert deflated(sparse) < 0.45 * deflated(original)
    both = quantize_aware.QuantizationAware.apply(sparse, {}, materials)
    assert both.name == "prune_unstructured + quantize_aware"
    assert deflated(both) < 0.2 * deflated(original)
    assert accuracy(original, trainable) - accuracy(both, trainable) < 0.02
