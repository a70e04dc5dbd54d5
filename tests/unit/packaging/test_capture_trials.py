"""What is asked of an original model, and what its answers teach, on models that are plain functions of numpy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.packaging.capture import synthetic, trials
from windlass.types import contract, manifest, signature, tensor

RNG = np.random.default_rng(0)


def spec(*inputs: signature.TensorSpec, outputs: Any = (), **more: Any) -> signature.Signature:
    outs = outputs or (signature.TensorSpec("y", "FP32", ("batch", 3)),)
    return signature.Signature(inputs or (signature.TensorSpec("x", "FP32", ("batch", 3)),), outs, **more)


def double(inputs: tensor.Tensors) -> tensor.Tensors:
    return {"y": inputs["x"] * 2}


def rows(count: int) -> tensor.Tensors:
    return {"x": RNG.standard_normal((count, 3)).astype(np.float32)}


def record(run: trials.Run, signed: signature.Signature, example: tensor.Tensors, **more: Any) -> trials.Recorded:
    return trials.record(run, signed, example, **{"max_batch": 128, "seed": 0, **more})


def test_every_batch_size_that_matters_is_tried() -> None:
    found = record(double, spec(), rows(40))
    names = {trial.name: len(trial.inputs["x"]) for trial in found.trials}
    assert names == {
        "example rows 0-39": 40,
        **{f"batch {n}": n for n in (1, 2, 3, 17, 128)},
        "zeros": 2,
        "large": 2,
    }
    assert found.max_batch == 128


def test_every_row_of_the_example_is_tried_as_it_is() -> None:
    example = rows(100)
    found = record(double, spec(), example)
    tried = [trial for trial in found.trials if trial.name.startswith("example")]
    np.testing.assert_array_equal(np.concatenate([t.inputs["x"] for t in tried]), example["x"])


def test_few_rows_are_filled_up_to_32_near_them_and_it_is_said() -> None:
    found = record(double, spec(), rows(3))
    near = [trial for trial in found.trials if trial.name == "rows near the example"]
    assert sum(len(t.inputs["x"]) for t in near) == 29
    assert len(np.unique(near[0].inputs["x"], axis=0)) == 29
    assert any("3 rows were given" in note for note in found.notes)


def test_the_answers_are_the_originals() -> None:
    for trial in record(double, spec(), rows(4)).trials:
        np.testing.assert_array_equal(trial.outputs["y"], trial.inputs["x"] * 2)


def test_the_same_seed_gives_the_same_trials() -> None:
    example = rows(4)
    first, second = record(double, spec(), example, seed=7), record(double, spec(), example, seed=7)
    for a, b in zip(first.trials, second.trials, strict=True):
        np.testing.assert_array_equal(a.inputs["x"], b.inputs["x"])


def test_a_model_that_answers_differently_each_time_is_refused() -> None:
    noise = np.random.default_rng(1)
    with pytest.raises(errors.CaptureFailed, match="differently each time"):
        record(lambda i: {"y": i["x"] + noise.standard_normal(3).astype(np.float32)}, spec(), rows(4))


def test_a_row_that_depends_on_its_neighbours_is_refused() -> None:
    with pytest.raises(errors.CaptureFailed, match="rows beside it") as caught:
        record(lambda i: {"y": i["x"] - i["x"].mean(axis=0)}, spec(), rows(4))
    assert "batched=False" in caught.value.hint


def test_a_model_of_one_fixed_batch_is_refused() -> None:
    def fixed(inputs: tensor.Tensors) -> tensor.Tensors:
        if len(inputs["x"]) != 4:
            raise errors.InvalidInput("four rows only")
        return double(inputs)

    with pytest.raises(errors.CaptureFailed, match="'rows near the example': four rows only"):
        record(fixed, spec(), rows(4))


def test_an_output_without_a_row_for_each_row_is_refused() -> None:
    with pytest.raises(errors.CaptureFailed, match="axis 0 is not the batch"):
        record(lambda i: {"y": i["x"].sum(axis=0)}, spec(), rows(5))


def test_a_model_without_inputs_is_refused() -> None:
    with pytest.raises(errors.CaptureFailed, match="no inputs"):
        record(double, signature.Signature((), ()), {})


def test_a_model_that_answers_nan_takes_no_missing_values() -> None:
    found = record(double, spec(), rows(4))
    assert found.signature.inputs[0].missing == "refuse"
    assert not any("missing" in trial.name for trial in found.trials)


def test_a_model_that_knows_missing_values_is_tried_with_them() -> None:
    found = record(lambda i: {"y": np.nan_to_num(i["x"], nan=-1.0)}, spec(), rows(4))
    assert found.signature.inputs[0].missing == "allow"
    (tried,) = [trial for trial in found.trials if trial.name.startswith("missing")]
    assert np.isnan(tried.inputs["x"]).sum() == 1


def test_an_edge_case_that_the_original_refuses_is_left_out_with_a_note() -> None:
    def picky(inputs: tensor.Tensors) -> tensor.Tensors:
        if not inputs["x"].any():
            raise errors.InvalidInput("division by zero")
        return double(inputs)

    found = record(picky, spec(), rows(4))
    assert "zeros" not in {trial.name for trial in found.trials}
    assert any("'zeros' was left out" in note for note in found.notes)


def test_edge_cases_stay_within_the_range_that_the_signature_declares() -> None:
    ranged = signature.TensorSpec("x", "FP32", ("batch", 3), minimum=0.5, maximum=2.0)
    example = {"x": RNG.uniform(0.5, 2.0, (4, 3)).astype(np.float32)}
    found = record(double, spec(ranged), example)
    check = contract.Contract(found.signature, max_rows=128, max_elements=1 << 24)
    for trial in found.trials:
        check.check(trial.inputs)


def test_known_edge_cases_of_the_source_are_tried() -> None:
    found = trials.record(double, spec(), rows(4), max_batch=8, seed=0, edges={"empty": {"x": np.ones((1, 3), "f4")}})
    assert "empty" in {trial.name for trial in found.trials}


def test_the_largest_batch_is_bounded_by_the_elements_a_request_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    width = 16
    monkeypatch.setattr(manifest, "Limits", functools.partial(manifest.Limits, max_elements=4 * width))
    wide = signature.TensorSpec("x", "UINT8", ("batch", width))
    seen: list[int] = []

    def count(inputs: tensor.Tensors) -> tensor.Tensors:
        seen.append(len(inputs["x"]))
        return {"y": np.repeat(inputs["x"][:, :1], 3, axis=1).astype(np.float32)}

    found = record(count, spec(wide), {"x": np.ones((2, width), np.uint8)})
    assert found.max_batch == 4
    assert max(seen) == 4
    assert any("may hold 4 rows" in note for note in found.notes)


def test_a_largest_batch_of_one_is_never_exceeded() -> None:
    found = record(double, spec(), rows(4), max_batch=1)
    assert {len(trial.inputs["x"]) for trial in found.trials} == {1}


def test_an_answer_that_only_says_how_a_tie_was_broken_is_left_out() -> None:
    outputs = (signature.TensorSpec("y", "INT64", ("batch",)),)
    found = record(lambda i: {"y": i["x"].argmax(axis=1)}, spec(outputs=outputs), rows(4))
    assert "zeros" not in {trial.name for trial in found.trials}
    assert any("a tie" in note for note in found.notes)
    biased = np.array([0.0, 1.0, 0.0])
    decided = record(lambda i: {"y": (i["x"] + biased).argmax(axis=1)}, spec(outputs=outputs), rows(4))
    assert "zeros" in {trial.name for trial in decided.trials}


def test_a_dimension_that_cannot_be_small_gets_the_least_that_works() -> None:
    def pooled(inputs: tensor.Tensors) -> tensor.Tensors:
        if inputs["x"].shape[1] < 3:
            raise errors.InvalidInput("a kernel of 3 needs 3")
        return {"y": inputs["x"].mean(axis=1, keepdims=True).repeat(3, axis=1)}

    found = record(pooled, spec(signature.TensorSpec("x", "FP32", ("batch", "width"))), {"x": np.ones((4, 9), "f4")})
    assert found.signature.dimensions["width"].minimum == 3
    assert {"width 3", "width 19"} <= {trial.name for trial in found.trials}
    assert any("'width' is 3 at least" in note for note in found.notes)


# A ragged model: the mean of the tokens that the mask keeps.
def ragged_spec(maximum: int | None = 12) -> signature.Signature:
    tokens = signature.TensorSpec("ids", "INT64", ("batch", "sequence"))
    mask = signature.TensorSpec("mask", "INT64", ("batch", "sequence"))
    return signature.Signature(
        (tokens, mask),
        (signature.TensorSpec("y", "FP32", ("batch",)),),
        {"sequence": signature.Dimension(1, maximum, "mask")},
    )


def masked_mean(inputs: tensor.Tensors) -> tensor.Tensors:
    kept = inputs["mask"].sum(axis=1)
    return {"y": ((inputs["ids"] * inputs["mask"]).sum(axis=1) / kept).astype(np.float32)}


def tokens(count: int, length: int) -> tensor.Tensors:
    return {"ids": RNG.integers(0, 99, (count, length)), "mask": np.ones((count, length), np.int64)}


def test_shortest_and_longest_of_a_free_dimension_are_tried_with_a_full_mask() -> None:
    found = record(masked_mean, ragged_spec(), tokens(4, 5))
    shapes = {trial.name: trial.inputs["ids"].shape for trial in found.trials}
    assert shapes["sequence 1"] == (2, 1)
    assert shapes["sequence 12"] == (1, 12)
    for trial in found.trials:
        assert trial.inputs["mask"].all()


def test_a_free_dimension_without_a_maximum_is_tried_beyond_the_example() -> None:
    found = record(masked_mean, ragged_spec(None), tokens(4, 5))
    assert "sequence 11" in {trial.name for trial in found.trials}


def test_a_model_that_ignores_padding_stays_ragged() -> None:
    assert record(masked_mean, ragged_spec(), tokens(4, 5)).signature.dimensions["sequence"].mask == "mask"


def test_a_model_that_sees_padding_is_not_ragged_and_it_is_said() -> None:
    found = record(lambda i: {"y": i["ids"].mean(axis=1).astype(np.float32)}, ragged_spec(), tokens(4, 5))
    assert found.signature.dimensions["sequence"].mask == ""
    assert any("equal length" in note for note in found.notes)


def test_a_model_that_does_not_batch_is_tried_on_32_inputs() -> None:
    single = signature.Signature((signature.TensorSpec("x", "FP32", (3,)),), (signature.TensorSpec("y", "FP32", (3,)),))
    found = record(double, single, {"x": np.ones(3, np.float32)})
    assert len([t for t in found.trials if "example" in t.name]) == 32
    assert {"zeros", "large"} <= {t.name for t in found.trials}


DATATYPES = sorted(tensor.DTYPES)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(DATATYPES), st.lists(st.sampled_from([1, 3, "free"]), max_size=2)),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 9),
    st.integers(0, 2**32),
)
def test_synthesized_inputs_pass_the_contract(kinds: list[Any], count: int, seed: int) -> None:
    inputs = tuple(
        signature.TensorSpec(f"i{n}", datatype, ("batch", *shape)) for n, (datatype, shape) in enumerate(kinds)
    )
    signed = spec(*inputs, dimensions={"free": signature.Dimension(2, 5)})
    made = synthetic.inputs(signed, count, np.random.default_rng(seed))
    assert contract.Contract(signed, max_rows=9, max_elements=1 << 20).check(made)[0] == count


def test_synthesized_inputs_keep_to_ranges_and_categories() -> None:
    signed = spec(
        signature.TensorSpec("level", "INT64", ("batch",), minimum=3, maximum=5),
        signature.TensorSpec("share", "FP32", ("batch",), minimum=0.0, maximum=1.0),
        signature.TensorSpec("colour", "BYTES", ("batch",), categories=("red", "blue")),
    )
    made = synthetic.inputs(signed, 200, np.random.default_rng(0))
    contract.Contract(signed, max_rows=200, max_elements=1 << 20).check(made)
    assert set(made["level"].tolist()) == {3, 4, 5}
    assert set(made["colour"].tolist()) == {b"red", b"blue"}
