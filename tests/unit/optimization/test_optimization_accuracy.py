"""Forms judged: by labels and without, what is refused, how many rows are needed, and how often a bad one passes."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from windlass import errors
from windlass.optimization import accuracy, data, findings, likeness, reading
from windlass.packaging import dataset, session
from windlass.statistics import paired
from windlass.types import manifest, signature

COUNT = 1200


class Case:
    """A parent, its rows with labels, and what a form answers that is off on some rows."""

    def __init__(self, layered: ModuleType, outputs: int, labels: tuple[str, ...] = ()) -> None:
        self.net = layered.Net(outputs=outputs)
        self.parent: session.Session = self.net.opened(labels)
        self.x = layered.rows(COUNT)

    def rows(self, truth: Any = None, **columns: Any) -> data.Rows:
        given = {"x": self.x} | columns | ({} if truth is None else {"truth": truth})
        found = data.split(
            self.parent, dataset.Dataset(given, "sha256:x"), None if truth is None else "truth", slices=tuple(columns)
        )
        return found.search

    def run(self, inputs: Any, by: float = 0.0) -> Any:
        """The answers, with a noise of this size on rows whose first number is high."""
        y = self.net.answer(inputs["x"])
        noise = by * np.random.default_rng(0).normal(size=y.shape)
        return {"y": np.where(inputs["x"][:, :1] > 0.5, y + noise, y).astype(np.float32)}


@pytest.fixture(scope="module")
def classes(layered: ModuleType) -> Case:
    return Case(layered, 6)


@pytest.fixture(scope="module")
def values(layered: ModuleType) -> Case:
    return Case(layered, 1)


def test_labels_say_what_is_lost(classes: Case) -> None:
    truth = classes.net.answer(classes.x).argmax(axis=1)
    truth[::10] = (truth[::10] + 1) % 6
    side = np.where(classes.x[:, 0] > 0.5, "high", "low").astype(object)
    judge = accuracy.Judge(classes.parent, classes.rows(truth, side=side), slices=("side",))
    assert (judge.metric, judge.labelled, judge.higher, judge.notes) == ("accuracy", True, True, ())
    assert judge.baseline.value == pytest.approx(0.9, abs=0.03)
    same = judge.judge(classes.run)
    assert same.drop.drop == 0
    assert same.drop.high == pytest.approx(3 / same.drop.rows, rel=0.05)
    assert accuracy.accepts(same, 0.01)
    assert judge.why_not(same, 0.01) == ""
    worse = judge.judge(functools.partial(classes.run, by=3.0))
    assert 0 < worse.drop.low < worse.drop.drop < worse.drop.high
    assert worse.drop.candidate == pytest.approx(worse.drop.baseline - worse.drop.drop)
    assert [one.name for one in worse.slices] == ["side = high", "side = low"]
    assert worse.slices[0].drop > worse.drop.drop
    assert worse.slices[1].drop == 0
    assert "more than 0.001" in judge.why_not(worse, 0.001)
    assert judge.why_not(worse, None) == ""
    assert worse.likeness.agreement == pytest.approx(1 - worse.slices[0].rows / COUNT, abs=0.3)


def test_names_numbers_and_text_are_the_same_labels(layered: ModuleType) -> None:
    names = ("nought", "one", "two", "three", "four", "five")
    named = Case(layered, 6, names)
    truth = named.net.answer(named.x).argmax(axis=1)
    for given in (truth, np.array([names[at] for at in truth], object), np.array([str(at) for at in truth], object)):
        rows = named.rows(given)
        assert accuracy.Judge(named.parent, rows).baseline.value == 1.0
        numbers = accuracy.truth(named.parent, rows)
        assert numbers is not None
        assert numbers.dtype == np.int64
        assert set(numbers.tolist()) <= set(range(6))
    with pytest.raises(errors.UsageError, match="'six' is none of the model's"):
        accuracy.Judge(named.parent, named.rows(np.array(["six"] * COUNT, object)))


def test_class_numbers_to_train_on_are_never_guessed(classes: Case) -> None:
    assert accuracy.truth(classes.parent, classes.rows()) is None
    rows = classes.rows(np.array(["cat", "dog"] * (COUNT // 2), object))
    with pytest.raises(errors.UsageError, match="is no class number"):
        accuracy.truth(classes.parent, rows)


def test_without_labels_the_original_is_right(classes: Case, values: Case) -> None:
    judge = accuracy.Judge(classes.parent, classes.rows())
    assert (judge.metric, judge.labelled, judge.baseline.value) == ("agreement", False, 1.0)
    assert "cosine" in judge.notes[0]
    worse = judge.judge(functools.partial(classes.run, by=3.0))
    assert worse.likeness.agreement == pytest.approx(1 - worse.drop.drop)
    judge = accuracy.Judge(values.parent, values.rows())
    assert (judge.metric, judge.higher) == ("r2", True)
    near = judge.judge(functools.partial(values.run, by=0.01))
    assert near.likeness.agreement is None
    assert 0 < near.drop.drop < 0.001
    cosine = accuracy.Judge(classes.parent, classes.rows(), "cosine")
    assert (cosine.metric, cosine.judge(classes.run).drop.drop) == ("cosine", pytest.approx(0, abs=1e-6))
    worse = cosine.judge(functools.partial(classes.run, by=1.0))
    assert worse.drop.drop == pytest.approx(1 - worse.likeness.cosine)
    assert worse.drop.high > worse.drop.drop > 0.01


def test_values_have_an_error_of_their_own(values: Case) -> None:
    truth = values.net.answer(values.x)[:, 0] + 0.1 * np.random.default_rng(4).normal(size=COUNT)
    judge = accuracy.Judge(values.parent, values.rows(truth))
    assert (judge.metric, judge.higher) == ("rmse", False)
    assert judge.baseline.value == pytest.approx(0.1, abs=0.01)
    found = judge.judge(functools.partial(values.run, by=0.3))
    assert 0 < found.drop.low < found.drop.drop < found.drop.high
    assert found.drop.candidate == pytest.approx(found.drop.baseline + found.drop.drop)
    assert accuracy.Judge(values.parent, values.rows(truth), "r2").judge(values.run).drop.drop == pytest.approx(
        0, abs=1e-7
    )


@pytest.mark.parametrize("metric", ["accuracy", "cosine", "acuracy"])
def test_a_metric_that_does_not_fit_is_refused(values: Case, metric: str) -> None:
    with pytest.raises(errors.UsageError):
        accuracy.Judge(values.parent, values.rows(np.zeros(COUNT)), metric)


def test_answers_that_are_not_finite_are_refused(classes: Case) -> None:
    judge = accuracy.Judge(classes.parent, classes.rows())

    def broken(inputs: Any) -> Any:
        return {"y": classes.run(inputs)["y"] * np.float32("nan")}

    with pytest.raises(errors.GateRefused, match="'y' is not finite"):
        judge.judge(broken)
    with pytest.raises(errors.GateRefused, match="not finite"):
        judge.likeness(broken)


def test_the_rows_that_are_needed_are_told(classes: Case) -> None:
    truth = classes.net.answer(classes.x).argmax(axis=1)
    judge = accuracy.Judge(classes.parent, classes.rows(truth))
    needed = judge.rows_needed(0.005)
    # Three over the budget: the rule of three.
    assert needed == pytest.approx(598, rel=0.05)
    with pytest.raises(errors.UsageError, match=r"480 rows cannot show that accuracy drops by 0.005.*needed") as raised:
        judge.require(0.005)
    assert "times as many" in raised.value.hint
    judge.require(0.05)
    with pytest.raises(errors.UsageError, match="no number of rows"):
        judge.require(0.0)
    worse = judge.judge(functools.partial(classes.run, by=0.2))
    close = worse.drop.drop + 0.002
    assert worse.drop.high > close
    assert "rows like these would decide" in judge.why_not(worse, close)
    assert judge.rows_needed(close, judged=worse) > 480
    assert judge.rows_needed(worse.drop.drop, judged=worse) == 0


def test_without_data_only_nearly_the_same_passes(classes: Case) -> None:
    judge = accuracy.Judge(classes.parent, data.synthetic(classes.parent).search)
    judge.require(0.0001)
    assert judge.why_not(judge.judge(classes.run), 0.005) == ""

    def off(inputs: Any) -> Any:
        return {"y": classes.run(inputs)["y"] * np.array([1.1, 1, 1, 1, 1, 1], np.float32)}

    assert "without data" in judge.why_not(judge.judge(off), 0.9)
    assert not accuracy.accepts(judge.judge(off), 0.9)
    assert accuracy.accepts(judge.judge(classes.run), 0.005)
    assert judge.why_not(judge.judge(off), None) == ""


def test_attacked_rows_are_harder(classes: Case) -> None:
    truth = classes.net.answer(classes.x).argmax(axis=1)
    judge = accuracy.Judge(classes.parent, classes.rows(truth))
    assert judge.judge(classes.run).attacked is None
    judge.attack(size=0.05)
    attacked = judge.judge(classes.run).attacked
    assert attacked is not None
    assert attacked.drop == 0
    assert attacked.baseline < judge.baseline.value - 0.02


def test_levels_of_all_tries_spend_one_alpha() -> None:
    assert accuracy.level(1) == pytest.approx(0.96)
    spent = sum(1 - accuracy.level(attempt) for attempt in range(1, 30))
    assert spent == pytest.approx(accuracy.ALPHA)


def test_a_form_beyond_the_budget_seldom_passes(classes: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of forms that lose just what is allowed, about one in twenty is accepted, over rows drawn anew."""
    monkeypatch.setattr(paired, "LEAST_DRAWS", 1000)
    monkeypatch.setattr(paired, "_MOST_DRAWS", 1000)
    most, passed = 0.02, 0
    rows = classes.rows(classes.net.answer(classes.x).argmax(axis=1))
    judge = accuracy.Judge(classes.parent, rows)
    for seed in range(200):
        given = judge._base.copy()
        lost = np.random.default_rng(seed).random(len(given)) < most
        given[lost] = "another"
        passed += judge._bounds(given, np.arange(len(given)), 0.95)[2] <= most
    assert passed <= 200 * 0.05 + 3 * np.sqrt(200 * 0.05 * 0.95)


def test_likeness_of_answers() -> None:
    theirs = {"y": np.array([[3.0, 4.0], [0.0, 0.0]])}
    same = likeness.compare([(theirs, theirs)], "y")
    assert same == findings.Likeness(2, 1.0, likeness.MOST_DB, 1.0, 0.0)
    ours = {"y": np.array([[4.0, 3.0], [0.0, 0.0]])}
    found = likeness.compare([(ours, theirs)], "y")
    assert (found.agreement, found.worst) == (0.5, 0.25)
    assert found.sqnr_db == pytest.approx(10 * np.log10(25 / 2))
    assert found.cosine == pytest.approx((24 / 25 + 1) / 2)
    texts = {"t": np.array([b"a", b"b"], object)}
    assert likeness.compare([(texts, texts)]).agreement == 1.0
    other = likeness.compare([({"t": np.array([b"a", b"c"], object)}, texts)])
    assert (other.agreement, other.sqnr_db, other.worst) == (0.5, 0.0, 1.0)
    infinite = {"y": np.array([[np.inf, 1.0]])}
    assert likeness.compare([(infinite, infinite)]).sqnr_db == likeness.MOST_DB
    with pytest.raises(errors.GateRefused, match=r"is \[1, 2\], not \[2, 2\]"):
        likeness.compare([({"y": ours["y"][:1]}, theirs)])


def test_the_task_is_told_from_the_answers() -> None:
    ref = manifest.BlobRef("sha256:0", 1)
    spec = (signature.TensorSpec("x", "FP32", ("batch",)),)
    value = manifest.Manifest(
        name="m",
        kind="model",
        signature=signature.Signature(spec, spec),
        model=manifest.ModelSpec("onnx", {"m": ref}),
        golden=manifest.Golden(ref, ref, 0.0, 0.0),
    )
    wide = np.array([[0.6, 0.8], [0.8, -0.6]], np.float32)
    cases = {
        "accuracy": {"label": np.array(["a", "b"], object), "score": wide[:, 0]},
        "cosine": {"sentence_embedding": wide * 7},
        "r2": {"y": wide[:, :1]},
    }
    assert {name: reading.task(value, one, None, labelled=False).of for name, one in cases.items()} == {
        name: name for name in cases
    }
    assert reading.task(value, {"unit": wide}, None, labelled=False).of == "cosine"
    assert reading.task(value, {"logits": wide * 5}, None, labelled=False).name == "agreement"
    assert reading.task(value, {"p": np.array([[1.0, 0.0]])}, None, labelled=False).name == "agreement"
    assert reading.task(value, {"n": np.array([1, 2])}, None, labelled=True).of == "accuracy"
    tokens = {"tokens": np.zeros((2, 3, 4), np.float32)}
    assert reading.task(value, tokens, None, labelled=False).of == "cosine"
    with pytest.raises(errors.UsageError, match="neither a class nor a number"):
        reading.task(value, tokens, None, labelled=True)
    with pytest.raises(errors.UsageError, match="without labels"):
        reading.task(value, cases["cosine"], "cosine", labelled=True)
