from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from windlass import errors
from windlass.protocols import base, oip_rest
from windlass.types import directory, inference

View = Callable[..., directory.ModelView]
MakeHead = Callable[..., base.Head]


def binary(
    make_head: MakeHead, view: directory.ModelView, document: Any, tail: bytes, length: int | str | None = None
) -> inference.InferRequest:
    text = b"" if document is None else json.dumps(document).encode()
    size = len(text) if length is None else length
    return oip_rest.decode(make_head(inference_header_content_length=str(size)), {}, text + tail, view)


def one(size: int, **changes: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": parameters, **changes}]}


@pytest.fixture
def small(make_view: View) -> directory.ModelView:
    return make_view((("x", "FP32", ("batch", 3)),))


def test_numbers_are_a_view_on_the_body(make_head: MakeHead, small: directory.ModelView) -> None:
    text = json.dumps(one(12)).encode()
    body = text + np.array([1, 2, 3], np.float32).tobytes()
    head = make_head(inference_header_content_length=str(len(text)))
    array = oip_rest.decode(head, {}, body, small).inputs["x"]
    np.testing.assert_array_equal(array, [[1, 2, 3]])
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert not array.flags.writeable


def test_json_and_binary_inputs_together(make_head: MakeHead, make_view: View) -> None:
    view = make_view((("a", "FP32", ("batch", 2)), ("b", "INT8", ("batch", 2)), ("c", "BYTES", ("batch",))))
    document = {
        "inputs": [
            {"name": "c", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 7}},
            {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
            {"name": "b", "shape": [1, 2], "datatype": "INT8", "parameters": {"binary_data_size": 2}},
        ]
    }
    request = binary(make_head, view, document, struct.pack("<I", 3) + b"\xff\0a" + b"\x01\xff")
    assert request.inputs["c"].tolist() == [b"\xff\0a"]
    assert request.inputs["b"].tolist() == [[1, -1]]
    assert request.inputs["a"].tolist() == [[1, 2]]


@pytest.mark.promise("P-36c")
@pytest.mark.threat("V8")
@pytest.mark.parametrize(
    ("document", "tail", "length", "told"),
    [
        (one(12), b"\0" * 11, None, "11 left"),
        (one(12), b"\0" * 13, None, "1 bytes after its last tensor"),
        (one(8), b"\0" * 8, None, "needs 12"),
        (one(12), b"\0" * 12, 10_000, "says 10000 bytes"),
        (one(12), b"\0" * 12, "-1", "not a number"),
        (one(12), b"\0" * 12, "1e2", "not a number"),
        (one(12), b"\0" * 12, "9" * 5000, "not a number"),
        (one(12), b"\0" * 12, 5, "not as expected"),
        (one(-1), b"", None, "binary_data_size"),
        (one(1.5), b"", None, "binary_data_size"),
        (one(12, data=[1, 2, 3]), b"\0" * 12, None, "both data"),
        (one(12, parameters={}), b"\0" * 12, None, "no data"),
        (one(12, shape=[1 << 40, 3]), b"\0" * 12, None, "more than"),
        (one(12, shape=[0, 3]), b"\0" * 12, None, "needs 0"),
        (one(12, datatype="BOOL"), b"\0" * 12, None, "needs 3"),
        (one(3, datatype="BOOL"), b"\0\1\2", None, "neither 0 nor 1"),
        (one(12, datatype="BYTES"), b"\xff\xff\xff\xff" + b"\0" * 8, None, "ends inside element 0"),
        ({"inputs": one(12)["inputs"] * 2}, b"\0" * 24, None, "twice"),
    ],
)
def test_what_does_not_add_up_is_refused(
    make_head: MakeHead, small: directory.ModelView, document: Any, tail: bytes, length: Any, told: str
) -> None:
    with pytest.raises(errors.InvalidInput, match=told):
        binary(make_head, small, document, tail, length)


def test_a_size_without_the_header_is_refused(make_head: MakeHead, small: directory.ModelView) -> None:
    document = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}]}
    with pytest.raises(errors.InvalidInput, match="no binary part"):
        oip_rest.decode(make_head(), {}, json.dumps(document).encode(), small)
    with pytest.raises(errors.InvalidInput, match="not as expected"):
        oip_rest.decode(make_head(), {}, json.dumps(document).encode() + b"\0" * 12, small)


def test_the_whole_body_as_one_tensor(make_head: MakeHead, make_view: View, small: directory.ModelView) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    request = binary(make_head, small, None, rows.tobytes(), 0)
    assert request.rows == 2
    np.testing.assert_array_equal(request.inputs["x"], rows)
    ragged = make_view((("x", "INT64", ("batch", "length")),))
    assert binary(make_head, ragged, None, np.arange(5).tobytes(), 0).inputs["x"].shape == (1, 5)
    text = make_view((("x", "BYTES", ("batch", 1)),))
    assert binary(make_head, text, None, b"any \xff bytes", 0).inputs["x"].tolist() == [[b"any \xff bytes"]]


@pytest.mark.parametrize(
    ("inputs", "body"),
    [
        ((("x", "FP32", ("batch", 3)),), b"\0" * 13),
        ((("x", "FP32", ("batch", 3)),), b""),
        ((("x", "FP32", ("batch", "a", "b")),), b"\0" * 24),
        ((("x", "FP32", ("batch",)), ("z", "FP32", ("batch",))), b"\0" * 4),
    ],
)
def test_a_raw_body_that_has_no_one_shape_is_refused(
    make_head: MakeHead, make_view: View, inputs: Any, body: bytes
) -> None:
    with pytest.raises(errors.InvalidInput):
        binary(make_head, make_view(inputs), None, body, 0)


def test_outputs_as_bytes_and_as_json_together(make_head: MakeHead, make_view: View) -> None:
    view = make_view(
        (("x", "FP32", ("batch", 3)),),
        (("a", "FP32", ("batch", 2)), ("b", "INT64", ("batch",)), ("c", "BYTES", ("batch",))),
    )
    document = {
        **one(12),
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "c"}, {"name": "b", "parameters": {"binary_data": False}}, {"name": "a"}],
    }
    request = binary(make_head, view, document, b"\0" * 12)
    a, b, c = np.array([[1, 2]], np.float32), np.array([7]), np.array([b"\xff\xfe"], object)
    answer = oip_rest.encode(make_head(), request, inference.InferResponse({"a": a, "b": b, "c": c}, "1"), view)
    assert answer.content_type == b"application/octet-stream"
    length = int(dict(answer.headers)[b"inference-header-content-length"])
    outputs = json.loads(answer.body[:length])["outputs"]
    assert outputs == [
        {"name": "c", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}},
        {"name": "b", "datatype": "INT64", "shape": [1], "data": [7]},
        {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
    ]
    assert answer.body[length:] == b"\x02\0\0\0\xff\xfe" + a.tobytes()
