"""packaging/external_data.py: every reference of an ONNX file to another file is found, and held to the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from windlass import errors
from windlass.packaging import external_data, onnx_bytes
from windlass.runtimes import base as runtimes
from windlass.runtimes import onnx as onnx_runtime

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
DATA = WEIGHT.tobytes()
REFUSED = (errors.CorruptPackage, errors.Unsupported)


def external(location: str = "w.bin", *, name: str = "w", **entries: str) -> Any:
    tensor = onnx.TensorProto(name=name, data_type=1, dims=[4, 3], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def value(name: str, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, 1, shape)


def model(weight: Any = None, *, nodes: tuple[Any, ...] = (), opset: int = 20, ir: int = 10, **parts: Any) -> Any:
    weights = [numpy_helper.from_array(WEIGHT, "w") if weight is None else weight]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), *nodes],
        "g",
        [value("x", "batch", 4)],
        [value("y", "batch", 3)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, **parts)


def check(made: Any, **files: bytes) -> external_data.Contents:
    data = made if isinstance(made, bytes) else made.SerializeToString()
    return external_data.check({"model.onnx": data, **files})


def test_an_inline_model_has_nothing_outside() -> None:
    assert check(model()) == external_data.Contents(10, 20, ())


def test_an_external_tensor_is_found_with_its_range() -> None:
    found = check(model(external(offset="4", length="48")), **{"w.bin": b"head" + DATA})
    assert found.externals == (external_data.External("w", "w.bin", 4, 48),)
    assert check(model(external()), **{"w.bin": DATA}).externals[0].length == 48
    assert check(model(external("sub/w.bin")), **{"sub/w.bin": DATA}).externals[0].location == "sub/w.bin"


def constant(tensor: Any) -> Any:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def in_subgraph(tensor: Any) -> Any:
    branch = helper.make_graph([], "b", [], [value("w", 4, 3)], [tensor])
    return helper.make_node("If", ["cond"], ["z"], then_branch=branch, else_branch=branch)


def in_sparse(tensor: Any) -> Any:
    made = model()
    made.graph.sparse_initializer.add(values=tensor, indices=tensor, dims=[4, 3])
    return made


def in_function(tensor: Any) -> Any:
    made = model(nodes=(helper.make_node("F", ["x"], ["z"], domain="own"),))
    made.functions.append(
        helper.make_function("own", "F", ["x"], ["z"], [constant(tensor)], [helper.make_opsetid("", 20)])
    )
    return made


def in_function_attribute(tensor: Any) -> Any:
    made = in_function(numpy_helper.from_array(WEIGHT, "c"))
    made.functions[0].attribute_proto.append(helper.make_attribute("a", tensor))
    return made


def in_training(tensor: Any) -> Any:
    made = model()
    made.training_info.add().algorithm.initializer.append(tensor)
    return made


def in_attribute_list(tensor: Any) -> Any:
    return model(nodes=(helper.make_node("Constant", [], ["c"], values=[tensor, tensor]),))


def in_graph_list(tensor: Any) -> Any:
    branch = helper.make_graph([constant(tensor)], "b", [], [])
    return model(nodes=(helper.make_node("If", [], [], branches=[branch, branch]),))


def in_sparse_attribute(tensor: Any) -> Any:
    sparse = onnx.SparseTensorProto(values=tensor, indices=tensor, dims=[4, 3])
    return model(nodes=(helper.make_node("Constant", [], ["c"], sparse_value=sparse),))


PLACES: dict[str, Callable[[Any], Any]] = {
    "initializer": model,
    "attribute": lambda t: model(nodes=(constant(t),)),
    "attribute-list": in_attribute_list,
    "subgraph": lambda t: model(nodes=(in_subgraph(t),)),
    "nested-subgraph": lambda t: model(
        nodes=(helper.make_node("If", [], [], then_branch=helper.make_graph([in_subgraph(t)], "b", [], [])),)
    ),
    "graph-list": in_graph_list,
    "sparse": in_sparse,
    "sparse-attribute": in_sparse_attribute,
    "function": in_function,
    "function-attribute": in_function_attribute,
    "training": in_training,
}


@pytest.mark.promise("P-22")
@pytest.mark.threat("F5")
@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_may_be(place: str) -> None:
    made = PLACES[place](external("/etc/passwd", length="48"))
    with pytest.raises(errors.CorruptPackage, match="not a plain relative path"):
        check(made)
    found = external_data.inspect(PLACES[place](external("w.bin")).SerializeToString())
    assert {item.location for item in found.externals} == {"w.bin"}


@pytest.mark.promise("P-22")
@pytest.mark.threat("F5")
@pytest.mark.parametrize("place", PLACES)
def test_in_a_package_only_constants_of_the_main_graph_lie_outside(place: str) -> None:
    made = PLACES[place](external("w.bin")).SerializeToString()
    files = {"model.onnx": made, "w.bin": DATA}
    if place == "initializer":
        assert external_data.check(files, packaged=True).externals
        return
    with pytest.raises(errors.CorruptPackage, match=r"is inside a node"):
        external_data.check(files, packaged=True)


def test_onnxruntime_reads_nothing_from_the_folder_it_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why: what lies inside a node it opens by its name, wherever the process is."""
    branches = {
        "then_branch": helper.make_graph(
            [helper.make_node("MatMul", ["x", "v"], ["t"])], "t", [], [value("t", "batch", 3)], [external(name="v")]
        ),
        "else_branch": helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["e"])], "e", [], [value("e", "batch", 3)]
        ),
    }
    made = model()
    made.graph.node[0].CopyFrom(helper.make_node("If", ["c"], ["y"], **branches))
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    files = {"model.onnx": made.SerializeToString(), "w.bin": DATA}
    (tmp_path / "w.bin").write_bytes(bytes(len(DATA)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.CorruptPackage, match="is inside a node"):
        external_data.check(files, packaged=True)
    whole = onnx_bytes.canonical(files)
    assert not external_data.check(whole, packaged=True).externals
    found = onnx_runtime.OnnxRuntime.load(whole, runtimes.Options()).run({"x": np.ones((1, 4), np.float32)})
    assert np.allclose(found["y"], np.ones((1, 4), np.float32) @ WEIGHT)


@pytest.mark.promise("P-22")
@pytest.mark.threat("F5", "V4")
@pytest.mark.parametrize(
    "location",
    [
        "", ".", "..", "../w.bin", "a/../../w.bin", "/etc/passwd", "/proc/self/mem", "a\\b", "C:w.bin", "w.bin\0",
        "w.bin.", "w.bin ", "CON", "//host/share", "\\\\host\\share", "file:///etc/passwd", "a//b", "./w.bin",
        "*/_ORT_MEM_ADDR_/*", "w\u0301.bin\u202e",
    ],
)  # fmt: skip
def test_places_outside_the_package_are_refused(location: str) -> None:
    with pytest.raises(errors.CorruptPackage, match=r"not a plain relative path|not one of the package's files"):
        check(model(external(location)), **{"w.bin": DATA})


@pytest.mark.promise("P-22")
@pytest.mark.threat("F5", "V8")
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "1"}, "reaches beyond the end of 'w.bin'"),
        ({"offset": str(2**62)}, "offset or length that is no number"),
        ({"offset": "9" * 18}, "reaches beyond the end"),
        ({"offset": "-1"}, "is no number"),
        ({"offset": "0x10"}, "is no number"),
        ({"offset": "1e3"}, "is no number"),
        ({"offset": " 1"}, "is no number"),
        ({"offset": "\u0661"}, "is no number"),
        ({"offset": ""}, "is no number"),
        ({"length": "47"}, "not the size of its shape"),
        ({"length": "49"}, "not the size of its shape"),
        ({"length": str(2**64 - 48)}, "is no number"),
        ({"length": "0"}, "not the size of its shape"),
        ({"basepath": "/"}, "unknown key 'basepath'"),
        ({"__class__": "x"}, "unknown key '__class__'"),
    ],
)
def test_ranges_and_keys_that_lie_are_refused(entries: dict[str, str], message: str) -> None:
    with pytest.raises(errors.CorruptPackage, match=message):
        check(model(external(**entries)), **{"w.bin": DATA})


def test_a_key_given_twice_is_refused() -> None:
    tensor = external()
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(errors.CorruptPackage, match="has a key twice"):
        check(model(tensor), **{"w.bin": DATA})


@pytest.mark.threat("V8")
@pytest.mark.parametrize("dims", [[-1, -12], [2**40, 2**40], [2**63 - 1], [-4, 3], [0, 2**63 - 1]])
def test_shapes_that_overflow_are_refused(dims: list[int]) -> None:
    tensor = external()
    tensor.dims[:] = dims
    with pytest.raises(errors.CorruptPackage, match="not the size of its shape"):
        check(model(tensor), **{"w.bin": DATA})


@pytest.mark.parametrize("kind", [0, 8, 99])
def test_element_types_without_a_size_are_refused(kind: int) -> None:
    tensor = external()
    tensor.data_type = kind
    with pytest.raises(errors.CorruptPackage, match=r"no external form|neither inline nor external"):
        check(model(tensor), **{"w.bin": DATA})


def test_tensors_that_overlap_are_refused() -> None:
    for offset, good in (("48", True), ("47", False), ("0", False)):
        made = model(external())
        made.graph.initializer.append(external(name="v", offset=offset))
        if good:
            assert len(check(made, **{"w.bin": DATA * 2}).externals) == 2
        else:
            with pytest.raises(errors.CorruptPackage, match="overlaps another one"):
                check(made, **{"w.bin": DATA * 2})


def test_a_tensor_is_inline_or_external() -> None:
    both = external()
    both.raw_data = DATA
    unplaced = onnx.TensorProto(name="w", data_type=1, dims=[4, 3], data_location=onnx.TensorProto.EXTERNAL)
    undeclared = external()
    undeclared.data_location = onnx.TensorProto.DEFAULT
    for tensor in (both, undeclared):
        with pytest.raises(errors.CorruptPackage, match="neither inline nor external"):
            check(model(tensor), **{"w.bin": DATA})
    with pytest.raises(errors.CorruptPackage):
        check(model(unplaced))


def test_a_file_that_the_model_does_not_use_is_refused() -> None:
    with pytest.raises(errors.CorruptPackage, match=r"has the file 'w.bin', which the model does not use"):
        check(model(), **{"w.bin": DATA})
    with pytest.raises(errors.CorruptPackage, match=r"has no 'model.onnx'"):
        external_data.check({"w.bin": DATA})


@pytest.mark.threat("V8")
@pytest.mark.parametrize(
    ("ir", "opset", "good"), [(12, 25, True), (13, 26, True), (14, 20, False), (10, 27, False), (10, 20, True)]
)
def test_versions_at_their_limits(ir: int, opset: int, good: bool) -> None:
    made = model(ir=ir, opset=opset)
    if good:
        assert check(made)[:2] == (ir, opset)
    else:
        with pytest.raises(errors.Unsupported, match=f"IR version {ir} and opset {opset}: at most 13 and 26"):
            check(made)


@pytest.mark.threat("F6")
def test_operators_that_onnxruntime_does_not_ship_are_refused() -> None:
    foreign = helper.make_node("Run", ["x"], ["z"], domain="com.evil")
    with pytest.raises(errors.Unsupported, match=r"operators of 'com.evil'"):
        check(model(nodes=(foreign,)))
    inside = helper.make_node("If", [], [], then_branch=helper.make_graph([foreign], "b", [], []))
    with pytest.raises(errors.Unsupported, match=r"operators of 'com.evil'"):
        check(model(nodes=(inside,)))
    shipped = [helper.make_node("Gelu", ["x"], ["z"], domain=d) for d in ("com.microsoft", "ai.onnx.ml", "ai.onnx")]
    assert check(model(nodes=tuple(shipped)))
    assert check(in_function(numpy_helper.from_array(WEIGHT, "c"))), "a model's own functions are no foreign code"


def field(number: int, data: bytes) -> bytes:
    """A field that holds bytes, with a length of two 7-bit digits."""
    assert len(data) < 1 << 14
    return bytes([number << 3 | 2, len(data) & 127 | 128, len(data) >> 7]) + data


@pytest.mark.threat("V8")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"\x08", "cut off"),
        (b"\x08\x0a\x3a\x05a", "cut off"),
        (b"\x08" + b"\xff" * 11, "cut off"),
        (b"\x00\x00", "no protobuf"),
        (b"\x08\x0a\x0b\x0c", "no protobuf"),
        (b"<html>", "no protobuf|cut off"),
        (b"\x08\x0a\x08\x0a", "does not say its IR version once"),
        (b"\xba\x80\x80\x80\x10\x00", "no protobuf"),
        (b"\x38\x01", "a field of a Model is malformed"),
        (b"\x08\x0a\x3a\x00\x3a\x00", "part twice"),
        (b"\x0a\x01a", "IR version is malformed"),
        (b"\x12\x00", "does not say its IR version"),
        (b"\x08\x0a" + field(8, b"\x0a\x01\xff"), "not UTF-8"),
        (b"\x08\x0a" + field(8, b"\x12\x00"), "an opset is malformed"),
        (b"\x08\x0a" + field(7, field(5, field(13, b"\x0a\x01a"))), "one key and one value"),
        (b"\x08\x0a" + field(7, field(5, field(13, b"\x0a\x01a\x12\x01b\x0a\x01c"))), "one key and one value"),
        (b"\x08\x0a" + field(7, field(5, b"\x70\x01\x70\x00")), "neither inline nor external"),
    ],
)
def test_broken_protobuf_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(errors.CorruptPackage, match=message):
        external_data.inspect(data)


@pytest.mark.threat("V8")
def test_nesting_and_fields_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = b""
    for _ in range(40):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(errors.CorruptPackage, match="nests deeper than 100 levels"):
        external_data.inspect(b"\x08\x0a" + field(7, graph))
    monkeypatch.setattr(external_data, "_MAX_FIELDS", 10)
    with pytest.raises(errors.CorruptPackage, match="more than 10 fields"):
        external_data.inspect(model().SerializeToString())


GOOD = model(external(offset="0", length="48")).SerializeToString()


@pytest.mark.promise("P-22")
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_a_changed_file_is_refused_or_names_only_the_packages_files(changes: list[tuple[int, int]]) -> None:
    """Whatever the onnx library would still parse from it has no location but the package's."""
    data = bytearray(GOOD)
    for at, byte in changes:
        data[at] = byte
    try:
        check(bytes(data), **{"w.bin": DATA})
    except REFUSED:
        return
    try:
        parsed = onnx.ModelProto.FromString(bytes(data))
    except DecodeError:
        return
    for tensor in parsed.graph.initializer:
        locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
        assert locations in ([], ["w.bin"])


@pytest.mark.promise("P-22")
@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        external_data.inspect(b"\x08\x0a" + data)
    except REFUSED:
        return
