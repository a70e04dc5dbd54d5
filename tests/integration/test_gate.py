"""The gate on real models and real data: passed, refused and undecided, each with its reason, and kept as evidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
from sklearn import datasets, linear_model, model_selection, pipeline, preprocessing, tree

import windlass
from windlass import errors, references, settings
from windlass.cli import check, output
from windlass.packaging import archive, dataset, gate
from windlass.types import refs

NAMES = ("malignant", "benign")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cancer@1` is good, `cancer@2` a stump; `digits@1` takes 64 columns. Their held-out rows lie beside them."""
    folder = tmp_path_factory.mktemp("gate")
    data = datasets.load_breast_cancer(as_frame=True)
    rows, later, classes, truth = model_selection.train_test_split(data.data, data.target, random_state=0)
    good = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    for model in (good, tree.DecisionTreeClassifier(max_depth=1, max_features=1, random_state=2)):
        windlass.package(model.fit(rows, classes), rows[:200], name="cancer", labels=NAMES, home=folder)
    later = later.assign(label=[NAMES[one] for one in truth])
    later.to_csv(folder / "cancer.csv", index=False)
    later.assign(label=[NAMES[1 - one] for one in truth]).to_csv(folder / "wrong.csv", index=False)
    later[:40].to_csv(folder / "few.csv", index=False)
    images, digits = datasets.load_digits(return_X_y=True)
    model = linear_model.LogisticRegression(max_iter=1000).fit(images[:1200] / 16, digits[:1200])
    windlass.package(model, images[:200] / 16, name="digits", home=folder)
    np.savez(folder / "digits.npz", input=images[1200:] / 16, digit=digits[1200:])
    return folder


def configured(home: Path) -> settings.Settings:
    return settings.load({"home": home}, environ={})


@pytest.fixture
def judge(home: Path) -> Callable[..., gate.Report]:
    def run(ref: str, file: str, *, label: str = "label", against: str = "", **asked: Any) -> gate.Report:
        data = dataset.read((home / file).read_bytes(), Path(file).suffix)
        other = opened(home, against) if against else None
        return gate.check(opened(home, ref), data, gate.Asked(label, **asked), against=other)

    return run


def opened(home: Path, ref: str) -> archive.Package:
    registry = references.open_registry(configured(home))
    try:
        return archive.open_store(registry.store, registry.resolve(refs.parse(ref)).digest)
    finally:
        registry.close()


def named(report: gate.Report, name: str) -> gate.Check:
    return next(one for one in report.checks if one.name == name)


def test_a_good_version_passes(judge: Callable[..., gate.Report]) -> None:
    report = judge("cancer@1", "cancer.csv", least=0.9, slices=("mean radius",), max_latency_ms=2000.0, batch=16)
    assert report.verdict == "passed"
    found = named(report, "accuracy").numbers
    assert 0.93 < found["value"] <= 1.0
    assert found["low"] >= 0.9
    assert found["rows"] == report.rows == 143
    worst = named(report, "slices of mean radius")
    assert worst.verdict == "noted"
    assert len(worst.numbers) == 4
    assert "the worst slice is mean radius from" in worst.words
    assert [one.numbers["rows"] for one in report.checks if one.name == "latency"] == [1, 16]
    assert report.data.startswith("sha256:")
    assert report.machine["cores"] >= 1


def test_too_little_accuracy_is_refused_with_its_interval(judge: Callable[..., gate.Report]) -> None:
    report = judge("cancer@1", "wrong.csv", least=0.9)
    assert report.verdict == "failed"
    assert "at least 0.9 is asked" in named(report, "accuracy").words
    found = gate.evidence_of(report, gate.Asked("label", least=0.9))
    assert (found.kind, found.verdict) == ("evaluation", "failed")
    assert found.statistics["reason"].startswith("accuracy is 0.0")


def test_too_few_rows_decide_nothing_and_the_number_needed_is_said(judge: Callable[..., gate.Report]) -> None:
    report = judge("cancer@1", "few.csv", least=0.93)
    assert report.verdict == "undecided"
    found = named(report, "accuracy")
    assert "too few rows" in found.words
    assert found.numbers["rows_needed"] > 40
    with pytest.raises(errors.GateRefused, match="nothing was decided"):
        gate.evidence_of(report, gate.Asked("label"))


def test_a_slice_that_is_too_bad_is_refused(judge: Callable[..., gate.Report]) -> None:
    report = judge("cancer@1", "wrong.csv", slices=("mean texture",), least_slice=0.6)
    assert named(report, "slices of mean texture").verdict == "failed"


def test_a_version_that_is_worse_than_another_is_refused(judge: Callable[..., gate.Report]) -> None:
    assert named(judge("cancer@2", "cancer.csv", against="cancer@1"), "comparison").verdict == "failed"
    assert named(judge("cancer@1", "cancer.csv", against="cancer@2"), "comparison").verdict == "passed"
    same = named(judge("cancer@1", "cancer.csv", against="cancer@1"), "comparison")
    assert (same.verdict, same.numbers["value"]) == ("passed", 0.0)


def test_a_latency_that_no_machine_keeps_is_refused(judge: Callable[..., gate.Report]) -> None:
    report = judge("cancer@1", "cancer.csv", max_latency_ms=1e-6)
    assert named(report, "latency").verdict == "failed"
    with pytest.raises(errors.UsageError, match="at once"):
        judge("cancer@1", "cancer.csv", max_latency_ms=5.0, batch=100_000)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1"])
def test_tensors_are_judged_by_their_own_numbers(judge: Callable[..., gate.Report], metric: str) -> None:
    report = judge("digits@1", "digits.npz", label="digit", metric=metric, least=0.8)
    assert report.verdict == "passed"
    assert 0.85 < named(report, metric).numbers["value"] < 1.0


def test_what_is_no_label_or_column_is_said(judge: Callable[..., gate.Report], home: Path) -> None:
    with pytest.raises(errors.UsageError, match="no column 'lable'"):
        judge("cancer@1", "cancer.csv", label="lable")
    text = (home / "few.csv").read_text()
    (home / "odd.csv").write_text(text.replace("malignant", "unknown", 1))
    with pytest.raises(errors.UsageError, match="'unknown' is none of the model's: 'malignant', 'benign'"):
        judge("cancer@1", "odd.csv")
    (home / "gap.csv").write_text(text.replace("mean radius", "radius", 1))
    with pytest.raises(errors.UsageError, match="no column 'mean radius'"):
        judge("cancer@1", "gap.csv")


def run(home: Path, *arguments: str, as_json: bool = False) -> click.testing.Result:
    context = output.Context(configured(home), json=as_json, quiet=True)
    return click.testing.CliRunner().invoke(check.check, arguments, obj=context)


def test_the_command_keeps_the_finding_and_refuses(home: Path) -> None:
    data = str(home / "cancer.csv")
    passed = run(home, "cancer@1", "--data", data, "--labels", "label", "--min", "0.9", as_json=True)
    assert passed.exit_code == 0
    assert json.loads(passed.output)["verdict"] == "passed"
    refused = run(home, "cancer@2", "--data", data, "--labels", "label", "--min", "0.95")
    assert isinstance(refused.exception, errors.GateRefused)
    assert refused.exception.exit_code == 4
    assert "FAILED" in refused.output
    few = run(home, "cancer@1", "--data", str(home / "few.csv"), "--labels", "label", "--min", "0.94")
    assert isinstance(few.exception, errors.GateRefused)
    registry = references.open_registry(configured(home))
    try:
        verdicts = {
            number: [
                one.evidence.verdict
                for one in registry.show(refs.parse(f"cancer@{number}")).evidence
                if one.evidence.kind == "evaluation"
            ]
            for number in (1, 2)
        }
    finally:
        registry.close()
    assert verdicts == {1: ["passed"], 2: ["failed"]}, "what was not decided is not on record"


def test_labels_may_lie_in_another_file(home: Path) -> None:
    lines = (home / "cancer.csv").read_text().splitlines()
    (home / "rows.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    (home / "labels.txt").write_text("\n".join(line.rpartition(",")[2] for line in lines[1:]))
    found = run(home, "cancer@1", "--data", str(home / "rows.csv"), "--labels", str(home / "labels.txt"), as_json=True)
    assert found.exit_code == 0
    assert json.loads(found.output)["rows"] == 143
