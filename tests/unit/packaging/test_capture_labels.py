"""Which output labels belong to, and how its numbers are read."""

from __future__ import annotations

import numpy as np
import pytest

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, labels
from windlass.types import signature


def spec(*outputs: tuple[str, str, tuple[int | str, ...]]) -> signature.Signature:
    made = tuple(signature.TensorSpec(*output) for output in outputs)
    return signature.Signature((signature.TensorSpec("x", "FP32", ("batch", 1)),), made)


def answered(**outputs: object) -> list[draft.Trial]:
    return [draft.Trial("t", {}, {name: np.asarray(value, np.float32) for name, value in outputs.items()})]


THREE = ("a", "b", "c")


def test_scores_that_are_no_probabilities_are_logits() -> None:
    made, note = labels.classify(THREE, spec(("y", "FP32", ("batch", 3))), answered(y=[[1, 2, 3]]))
    assert made == draft.TransformDraft("classify", {"output": "y", "activation": "softmax", "labels": ["a", "b", "c"]})
    assert "logits (softmax)" in note


def test_scores_that_sum_to_one_are_probabilities() -> None:
    made, note = labels.classify(THREE, spec(("y", "FP32", ("batch", 3))), answered(y=[[0.2, 0.3, 0.5]]))
    assert made.parameters["activation"] == "none"
    assert "probabilities" in note


@pytest.mark.parametrize("shape", [("batch",), ("batch", 1)])
def test_two_labels_fit_one_column(shape: tuple[int | str, ...]) -> None:
    score = [0.4] if len(shape) == 1 else [[0.4]]
    logit = [-4.0] if len(shape) == 1 else [[-4.0]]
    signed = spec(("y", "FP32", shape))
    assert labels.classify(("no", "yes"), signed, answered(y=score))[0].parameters["activation"] == "none"
    assert labels.classify(("no", "yes"), signed, answered(y=logit))[0].parameters["activation"] == "sigmoid"


def test_the_one_output_that_fits_is_taken() -> None:
    signed = spec(("hidden", "FP32", ("batch", 8)), ("y", "FP32", ("batch", 3)), ("id", "INT64", ("batch", 3)))
    made, _ = labels.classify(THREE, signed, answered(hidden=np.ones((1, 8)), y=[[1, 2, 3]]))
    assert made.parameters["output"] == "y"


@pytest.mark.parametrize(
    "outputs",
    [
        [("y", "FP32", ("batch", 4))],
        [("y", "FP32", ("batch", 3)), ("z", "FP32", ("batch", 3))],
        [("y", "INT64", ("batch", 3))],
    ],
)
def test_labels_that_fit_no_output_or_several_are_refused(
    outputs: list[tuple[str, str, tuple[int | str, ...]]],
) -> None:
    with pytest.raises(errors.UsageError, match="3 labels"):
        labels.classify(THREE, spec(*outputs), answered())


def test_the_users_own_classify_is_left_alone() -> None:
    own = draft.TransformDraft("classify", {"output": "y", "activation": "none"})
    options = base.Options(labels=THREE, transforms=(own,))
    assert labels.transforms(options, spec(("y", "FP32", ("batch", 3))), answered(y=[[1, 2, 3]])) == ((own,), ())
    assert labels.transforms(base.Options(), spec(("y", "FP32", ("batch", 3))), ()) == ((), ())
