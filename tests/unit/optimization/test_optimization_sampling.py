"""optimization/sampling.py: which rows a released form carries, and what must hold of them elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.optimization import sampling
from windlass.packaging import samples
from windlass.types import manifest, signature, tensor

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.normal(size=(100, 3)).astype(np.float32)
CLASSES = SCORES.argmax(axis=1)
X = {"x": RANDOM.normal(size=(100, 5)).astype(np.float32)}


def parent(*, labels: tuple[str, ...] = (), output: str = "") -> manifest.Manifest:
    ref = manifest.BlobRef("sha256:" + "a" * 64, 1)
    given_ = (manifest.TransformSpec("classify", {"output": output}),) if output else ()
    spec = signature.TensorSpec("x", "FP32", ("batch",))
    return manifest.Manifest(
        name="toy",
        kind="model",
        signature=signature.Signature((spec,), (spec,)),
        model=manifest.ModelSpec("onnx", {"model.onnx": ref}),
        golden=manifest.Golden(ref, ref, 0.0, 0.0),
        transforms=given_,
        labels=labels,
    )


def asked(ours: tensor.Array = SCORES, truth: Any = None, name: str = "y") -> sampling.Asked:
    return sampling.Asked(X, {name: SCORES}, {name: ours}, truth)


def flipped(count: int) -> tensor.Array:
    """The same scores, but another highest one in so many rows."""
    made = SCORES.copy()
    made[np.arange(count), (CLASSES[:count] + 1) % 3] = 9.0
    return made


def test_with_labels_accuracy_may_fall_by_the_budget_again() -> None:
    names = np.array(["a", "b", "c"], object)[CLASSES]
    drawn = sampling.draw(asked(flipped(5), names), parent(labels=("a", "b", "c")), most_drop=0.1, decides=True)
    assert drawn is not None
    assert drawn.measure == "accuracy"
    assert drawn.least == pytest.approx(0.95 - 0.1)
    np.testing.assert_array_equal(drawn.answers["y"], CLASSES)
    assert drawn.answers["y"].dtype == np.int64


@pytest.mark.parametrize("truth", [CLASSES, CLASSES.astype(str), CLASSES.astype(object)])
def test_labels_may_be_numbers(truth: tensor.Array) -> None:
    drawn = sampling.draw(asked(truth=truth), parent(), most_drop=0.0, decides=True)
    assert drawn is not None
    assert (drawn.measure, drawn.least) == ("accuracy", 1 - 2 / 100)


@pytest.mark.parametrize("truth", [None, np.full(100, "z", object), np.full(100, 7)])
def test_without_labels_of_its_classes_it_is_compared_with_its_parent(truth: Any) -> None:
    drawn = sampling.draw(asked(flipped(5), truth), parent(labels=("a", "b", "c")), most_drop=0.0, decides=True)
    assert drawn is not None
    assert drawn.measure == "agreement"
    assert drawn.least == pytest.approx(0.95 - 2 / 100), "two rows, where the budget is less"
    np.testing.assert_array_equal(drawn.answers["y"], CLASSES)


def test_of_values_the_noise_may_double() -> None:
    noisy = SCORES + RANDOM.normal(scale=0.01, size=SCORES.shape).astype(np.float32)
    drawn = sampling.draw(asked(noisy), parent(), most_drop=0.5, decides=False)
    assert drawn is not None
    assert drawn.measure == "sqnr_db"
    assert drawn.least == pytest.approx(samples.likeness(noisy, SCORES, "sqnr_db") - 3)
    louder = SCORES + (noisy - SCORES) * np.float32(2**0.5 * 1.01)
    assert samples.likeness(louder, SCORES, "sqnr_db") < drawn.least


def test_too_few_rows_are_compared_as_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_BYTES", 31 * 28)
    drawn = sampling.draw(asked(truth=CLASSES), parent(), most_drop=0.0, decides=True)
    assert drawn is not None
    assert (drawn.measure, len(drawn.inputs["x"])) == ("sqnr_db", 31)


def test_the_output_that_counts() -> None:
    texts = np.array([b"a"] * 100, object)
    answers = {"text": texts, "value": SCORES[:, :1], "other": SCORES * 2, "y": SCORES}
    for output, expected in (("y", "y"), ("", "other")):
        found = sampling.draw(sampling.Asked(X, answers, answers), parent(output=output), most_drop=0.0, decides=True)
        assert found is not None
        assert list(found.answers) == [expected]
    numbers = {"text": texts, "label": CLASSES}
    found = sampling.draw(sampling.Asked(X, numbers, numbers), parent(), most_drop=0.0, decides=False)
    assert found is not None
    assert (found.measure, list(found.answers)) == ("agreement", ["label"])
    assert sampling.draw(sampling.Asked(X, {"t": texts}, {"t": texts}), parent(), most_drop=0.0, decides=True) is None


@given(st.integers(1, 400), st.integers(1, 4000))
def test_a_sample_is_small_and_never_empty(rows: int, width: int) -> None:
    x = np.zeros((rows, width), np.float32)
    y = np.ones((rows, 2), np.float32)
    drawn = sampling.draw(sampling.Asked({"x": x}, {"y": y}, {"y": y}), parent(), most_drop=0.0, decides=False)
    assert drawn is not None
    kept = len(drawn.inputs["x"])
    assert kept == len(drawn.answers["y"])
    assert 1 <= kept <= min(rows, samples.MOST_ROWS)
    assert kept == 1 or kept * (4 * width + 8) <= sampling.MOST_BYTES


@given(st.integers(0, 100), st.floats(0, 0.5))
def test_what_was_reached_here_is_always_enough_here(wrong: int, most: float) -> None:
    ours = flipped(wrong)
    drawn = sampling.draw(asked(ours), parent(), most_drop=most, decides=True)
    assert drawn is not None
    assert samples.likeness(ours, drawn.answers["y"], drawn.measure) >= drawn.least
