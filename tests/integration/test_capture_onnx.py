"""ONNX files captured and packaged: versions, external data, sizes burned in, names, and inputs that are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from windlass import errors
from windlass.packaging import build, package, session
from windlass.packaging.capture import base, onnx_file

X = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)


def model(
    batch: Any = "N", *, opset: int = 20, ir_version: int = 10, nodes: list[Any] | None = None
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes or [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"], axis=-1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [onnx.numpy_helper.from_array(W, "w")],
    )
    return helper.make_model(made, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)])


def saved(folder: Path, made: onnx.ModelProto, **more: Any) -> Path:
    path = folder / "m.onnx"
    onnx.save(made, path, **more)
    return path


def capture(path: Path, **more: Any) -> Any:
    return onnx_file.OnnxFile.capture(path, base.Options(**more))


def softmax(x: Any) -> Any:
    scores = np.exp(x @ W)
    return scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.promise("P-28")
def test_a_file_is_packaged_and_computes_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path, model())
    options = base.Options(example={"": X}, labels=("a", "b", "c"))
    found = package.package(str(path), name="m", options=options)
    manifest = found.package.manifest
    assert manifest.signature.inputs[0].shape == ("batch", 4)
    assert manifest.signature.outputs[0].shape == ("batch", 3)
    # The outputs sum to one, so they are probabilities already.
    assert manifest.transforms[0].parameters["activation"] == "none"
    ours = session.open(found.package).run({"x": X})["y"]
    np.testing.assert_allclose(ours, softmax(X), rtol=1e-3, atol=1e-5)
    assert [(e.kind, e.verdict) for e in found.evidence] == [("parity", "passed"), ("verify", "passed")]


def test_without_an_example_inputs_are_made_and_the_evidence_says_so(tmp_path: Path) -> None:
    found = package.package(saved(tmp_path, model()), name="m")
    assert found.evidence[0].statistics["synthetic"] is True
    assert found.evidence[0].statistics["rows"] >= 32
    assert any("no example was given" in note for note in found.notes)


@pytest.mark.parametrize("dimension", [4, 1])
def test_a_burned_in_batch_is_refused(tmp_path: Path, dimension: int) -> None:
    path = saved(tmp_path, model(dimension))
    with pytest.raises(
        errors.CaptureFailed, match=rf"axis 0 \('batch'\) of 'x' is burned into the graph \({dimension}\)"
    ):
        capture(path)
    alone = capture(path, batched=False)
    assert alone.signature.inputs[0].shape == (dimension, 4)
    assert len(alone.trials) >= 32


def test_a_constant_of_the_examples_size_inside_the_graph_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Constant", [], ["shape"], value_ints=[4, 3]),
        helper.make_node("Reshape", ["h", "shape"], ["y"]),
    ]
    with pytest.raises(errors.CaptureFailed, match="the original model itself fails"):
        capture(saved(tmp_path, model(nodes=nodes)), example={"": X[:4]})


def test_the_libraries_own_default_versions_are_seen(tmp_path: Path) -> None:
    lowered = capture(saved(tmp_path, model(ir_version=14)), example={"": X})
    assert onnx.ModelProto.FromString(lowered.files["model.onnx"]).ir_version == 10
    assert any("14 was lowered to 10" in note for note in lowered.notes)
    with pytest.raises(errors.CaptureFailed, match="opset 28") as caught:
        capture(saved(tmp_path, model(opset=28, ir_version=14)))
    assert "opset_version=20" in caught.value.hint


def external(folder: Path) -> Path:
    return saved(folder, model(), save_as_external_data=True, location="weights.bin", size_threshold=0)


def test_external_data_is_read_from_beside_the_file(tmp_path: Path) -> None:
    found = capture(external(tmp_path), example={"": X})
    assert sorted(found.files) == ["model.onnx", "weights.bin"]
    made = build.build(found, name="m")
    # Small weights are kept inside the package's model.
    assert list(made.manifest.model.blobs) == ["model.onnx"]
    np.testing.assert_allclose(session.open(made).run({"x": X})["y"], softmax(X), rtol=1e-3, atol=1e-5)


@pytest.mark.threat("F6")
@pytest.mark.parametrize("kind", ["symlink", "hard link", "missing", "outside"])
def test_external_data_that_is_no_file_of_its_own_is_refused(tmp_path: Path, kind: str) -> None:
    path = external(tmp_path)
    data = tmp_path / "weights.bin"
    elsewhere = tmp_path / "elsewhere"
    data.rename(elsewhere)
    if kind == "symlink":
        data.symlink_to(elsewhere)
    elif kind == "hard link":
        data.hardlink_to(elsewhere)
    elif kind == "outside":
        made = onnx.load(path, load_external_data=False)
        made.graph.initializer[0].external_data[0].value = "../elsewhere"
        path.write_bytes(made.SerializeToString())
    with pytest.raises(errors.CorruptPackage):
        capture(path, example={"": X})


def test_names_can_be_given(tmp_path: Path) -> None:
    # `h` is a name inside the graph: it gives way.
    found = capture(saved(tmp_path, model()), example={"": X}, input_names=("w",), output_names=("h",))
    assert [found.signature.inputs[0].name, found.signature.outputs[0].name] == ["w", "h"]
    ours = session.open(build.build(found, name="m")).run({"w": X})["h"]
    np.testing.assert_allclose(ours, softmax(X), rtol=1e-3, atol=1e-5)
    with pytest.raises(errors.UsageError, match="give as many names"):
        capture(saved(tmp_path, model()), output_names=("a", "b"))


def test_a_name_defined_twice_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Softmax", ["y"], ["y"])]
    with pytest.raises(errors.CaptureFailed, match="'y' is defined twice"):
        capture(saved(tmp_path, model(nodes=nodes)))


def test_an_operator_that_onnxruntime_does_not_ship_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Custom", ["x", "w"], ["y"], domain="my.company")]
    made = model(nodes=nodes)
    made.opset_import.append(helper.make_opsetid("my.company", 1))
    with pytest.raises(errors.Unsupported, match=r"my\.company"):
        capture(saved(tmp_path, made))


@pytest.mark.parametrize(
    "example",
    [{"z": X}, {"x": X, "z": X}, {"": X.astype(np.int64)}, {"": X[:, :2]}],
    ids=["name", "too many", "integers", "width"],
)
def test_an_example_that_does_not_fit_is_refused(tmp_path: Path, example: Any) -> None:
    with pytest.raises(errors.InvalidInput):
        capture(saved(tmp_path, model()), example=example)


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(errors.InvalidInput):
        package.package(path, name="m")
