"""Real models in formats that carry code, captured behind the walls: the draft is what the plugin gives bare."""

from __future__ import annotations

import pickle
from pathlib import Path

import joblib
import numpy as np
import onnxruntime
import pytest
import torch
from sklearn import datasets, ensemble, linear_model, pipeline, preprocessing

from windlass import errors, plugins
from windlass.packaging import draft
from windlass.packaging.capture import base, sandboxed
from windlass.security import sandbox

LIMITS = sandbox.Limits(memory=4 * sandbox.GIB, wall_s=110.0, cpu_s=200, disk=256 << 20)


def reproduces(found: draft.Draft) -> None:
    """The captured ONNX answers every trial as the framework did."""
    session = onnxruntime.InferenceSession(found.files["model.onnx"], providers=["CPUExecutionProvider"])
    assert found.trials
    for trial in found.trials:
        answers = dict(zip([o.name for o in session.get_outputs()], session.run(None, trial.inputs), strict=True))
        for name, expected in trial.outputs.items():
            if expected.dtype == object:
                assert [str(v) for v in answers[name].ravel()] == [v.decode() for v in expected.ravel()]
            else:
                np.testing.assert_allclose(answers[name], expected, rtol=1e-3, atol=1e-4, err_msg=trial.name)


@pytest.mark.promise("P-25")
@pytest.mark.threat("F1")
@pytest.mark.parametrize("suffix", [".pkl", ".joblib"])
def test_a_pickled_pipeline_is_captured(tmp_path: Path, suffix: str) -> None:
    rows, classes = datasets.load_iris(return_X_y=True)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression()).fit(rows, classes)
    source = tmp_path / f"iris{suffix}"
    if suffix == ".pkl":
        source.write_bytes(pickle.dumps(model))
    else:
        joblib.dump(model, source, compress=3)
    options = base.Options(example={"": rows[:40].astype(np.float32)})
    found = sandboxed.capture(source, "sklearn", options, limits=LIMITS)
    reproduces(found)
    assert "walls" not in " ".join(found.notes)
    bare = plugins.load("capture", "sklearn").capture(source, options)
    assert found.files == bare.files
    assert found.signature == bare.signature
    assert [trial.name for trial in found.trials] == [trial.name for trial in bare.trials]


@pytest.mark.threat("F1")
def test_a_pickled_forest_is_captured(tmp_path: Path) -> None:
    """Its `n_jobs` asks for processes, which the walls refuse: it must work with threads or one by one."""
    rows, classes = datasets.load_iris(return_X_y=True)
    model = ensemble.RandomForestClassifier(5, n_jobs=2, random_state=0).fit(rows.astype(np.float32), classes)
    source = tmp_path / "forest.pkl"
    source.write_bytes(pickle.dumps(model))
    found = sandboxed.capture(source, "sklearn", base.Options(example={"": rows.astype(np.float32)}), limits=LIMITS)
    assert found.trees
    assert found.files["model.onnx"]


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.layer(x), -1)


@pytest.mark.promise("P-25")
@pytest.mark.threat("F2")
@pytest.mark.parametrize("kind", ["torchscript", "torch_export"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torch_file_is_captured(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module, rows = Small().eval(), torch.randn(8, 4)
    if kind == "torchscript":
        source = tmp_path / "small.pt"
        torch.jit.trace(module, (rows,)).save(str(source))
    else:
        source = tmp_path / "small.pt2"
        batch = torch.export.Dim("batch", min=1, max=256)
        torch.export.save(torch.export.export(module, (rows,), dynamic_shapes=({0: batch},)), source)
    found = sandboxed.capture(source, kind, base.Options(example={"": rows.numpy()}), limits=LIMITS)
    reproduces(found)


@pytest.mark.promise("P-23")
@pytest.mark.threat("F2", "F3")
@pytest.mark.parametrize("kind", ["torchscript", "torch_export"])
def test_a_checkpoint_that_is_a_pickle_gets_no_second_loader(tmp_path: Path, kind: str) -> None:
    """`torch.save` writes a program in a pickle: the plugins say no, and the marker of its code is not there."""
    marker = tmp_path / "marker"
    source = tmp_path / ("model.pt" if kind == "torchscript" else "model.pt2")

    class Mark:
        def __reduce__(self):
            return (eval, (f"open({str(marker)!r}, 'w').close() or print('the pickle ran')",))

    torch.save({"weights": Mark()}, source)
    options = base.Options(example={"": np.zeros((2, 4), np.float32)})
    with pytest.raises(errors.WindlassError) as caught:
        sandboxed.capture(source, kind, options, limits=LIMITS)
    assert not isinstance(caught.value, errors.InternalError)
    assert not marker.exists()
    # The weak loader would run it where nothing stops it.
    torch.load(source, weights_only=False)
    assert marker.exists()


def test_the_plugins_own_error_comes_back_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "small.pt"
    source.write_bytes(b"nothing")
    with pytest.raises(errors.UsageError) as caught:
        sandboxed.capture(source, "torchscript", base.Options(), limits=LIMITS)
    assert "example is needed" in caught.value.message
    assert "--example" in caught.value.hint


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        sandboxed.capture(tmp_path / "nothing.pkl", "sklearn", base.Options())
