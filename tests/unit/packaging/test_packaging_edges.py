"""Unusual requests to models that behave and misbehave: what is a failure of the package, and what is only noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from windlass import errors
from windlass.packaging import archive, budget, edges, session
from windlass.transforms import chain, tabular
from windlass.types import fields, signature, tensor

ROWS = {"x": np.linspace(-1, 1, 4, dtype=np.float32)}


class Model:
    """Computes `of`; stands for a loaded model."""

    inputs: tuple[signature.TensorSpec, ...] = ()
    outputs: tuple[signature.TensorSpec, ...] = ()

    def __init__(self, of: Callable[[tensor.Array], tensor.Array]) -> None:
        self.of = of

    def run(self, inputs: tensor.Tensors, outputs: Sequence[str] | None = None) -> tensor.Tensors:
        return {"y": np.asarray(self.of(inputs["x"]))}

    def unload(self) -> None: ...


@pytest.fixture
def probe(toy_package: archive.Package) -> Callable[..., dict[str, edges.Case]]:
    """The cases of a model by their names; `more` changes the spec of its input."""

    def run(of: Callable[[tensor.Array], tensor.Array], **more: Any) -> dict[str, edges.Case]:
        loaded = opened(toy_package, of, **more)
        return {case.name: case for case in edges.probe(loaded, ROWS, {})}

    return run


def opened(
    package: archive.Package, of: Callable[[tensor.Array], tensor.Array], transformer: Any = None, **more: Any
) -> session.Session:
    known = package.manifest.signature
    changed = msgspec.structs.replace(known, inputs=(msgspec.structs.replace(known.inputs[0], **more),))
    value = msgspec.structs.replace(package.manifest, signature=changed)
    return session.Session(archive.in_memory(value, {}), Model(of), transformer or chain.Chain([]))


def test_a_model_that_takes_all_numbers_passes(probe: Callable[..., dict[str, edges.Case]]) -> None:
    cases = probe(np.tanh)
    assert {case.verdict for name, case in cases.items() if "missing (NaN)" not in name} == {"passed"}
    assert cases["'x' missing (NaN)"].verdict == "noted"
    refused = {name for name, case in cases.items() if case.outcome == "refused"}
    assert refused == {
        "'x' missing",
        "an input too many",
        "'x' of another datatype",
        "'x' with an axis too many",
        "no rows",
        "a row too many",
    }
    assert cases["128 rows, the most there may be"].outcome == "answered"


def test_a_declared_range_must_be_refused_beyond(probe: Callable[..., dict[str, edges.Case]]) -> None:
    cases = probe(np.tanh, minimum=-1.0, maximum=1.0, missing="refuse")
    for name in ("at the least of FP32", "at the largest of FP32", "missing (NaN)", "infinite"):
        assert (cases[f"'x' {name}"].outcome, cases[f"'x' {name}"].verdict) == ("refused", "passed")
    assert "'x' 10 spans above what was seen" not in cases


def test_outliers_must_be_answered_with_numbers(probe: Callable[..., dict[str, edges.Case]]) -> None:
    cases = probe(lambda x: np.where(x > 3, np.nan, x).astype(np.float32))
    assert cases["'x' 10 spans above what was seen"].verdict == "failed"
    assert cases["'x' 10 spans below what was seen"].verdict == "passed"
    assert cases["'x' at the largest of FP32"].verdict == "noted"


def test_a_failure_is_no_refusal(probe: Callable[..., dict[str, edges.Case]]) -> None:
    def fails(x: tensor.Array) -> tensor.Array:
        if not x.any():
            raise errors.InternalError("the run failed")
        if len(x) == 1:
            raise errors.InvalidInput("one row is none")
        if (x < -2).any():
            raise ZeroDivisionError("oh")
        return x

    cases = probe(fails)
    assert (cases["'x' all zeros"].outcome, cases["'x' all zeros"].verdict) == ("failed", "failed")
    assert (cases["one row"].outcome, cases["one row"].verdict) == ("refused", "failed")
    below = cases["'x' 10 spans below what was seen"]
    assert (below.outcome, below.verdict, below.words) == ("failed", "failed", "ZeroDivisionError: oh")


def test_fields_are_left_out_missing_and_unknown(toy_package: archive.Package) -> None:
    def columns(**more: Any) -> chain.Chain:
        known = [{"name": "size"}, {"name": "kind", "kind": "category", "categories": ["a", "b"], **more}]
        made = {"columns": known, "input": "x", "datatype": "FP32"}
        return chain.Chain([tabular.Tabular.load(made, {})])

    wide = ("batch", 2)
    people: fields.Columns = {"size": np.array([1.0, 2.0]), "kind": np.array(["a", "b"], object)}
    inputs = {"x": np.ones((2, 2), np.float32)}

    def run(transformer: chain.Chain) -> dict[str, edges.Case]:
        loaded = opened(toy_package, lambda x: x.sum(axis=1), transformer, shape=wide)
        return {case.name: case for case in edges.probe(loaded, inputs, people)}

    cases = run(columns())
    for name in ("'size' left out", "'size' missing in each row", "'kind' missing in each row", "'kind' unknown"):
        assert (cases[f"field {name}"].outcome, cases[f"field {name}"].verdict) == ("refused", "passed"), name
    # A model that takes gaps is asked with gaps.
    assert run(columns(missing="nan"))["field 'kind' left out"].outcome == "not finite"


def test_a_p99_is_stated_of_enough_runs_alone(toy_package: archive.Package) -> None:
    loaded = opened(toy_package, np.tanh)
    now = 0.0

    def clock() -> float:
        """Each run takes 2 ms, every fiftieth 50."""
        nonlocal now
        calls.append(1)
        now += (0.05 if len(calls) % 100 == 0 else 0.002) if len(calls) % 2 == 0 else 0.0
        return now

    calls: list[int] = [0]
    found = budget.measure(loaded, ROWS, 4, clock=clock)
    assert (found.samples, found.rows) == (budget.SAMPLES, 4)
    assert found.p50_ms == pytest.approx(2.0)
    assert found.p99_ms == pytest.approx(50.0)
    with pytest.raises(errors.GateRefused, match="a p99 needs 200"):
        budget.measure(loaded, ROWS, 4, clock=clock, most_s=0.1)
