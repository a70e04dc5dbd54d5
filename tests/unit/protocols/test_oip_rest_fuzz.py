"""protocols/oip_rest.py against any tensor of the client that others use, near documents, and damaged bodies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.http import _utils as triton_body

from windlass import errors
from windlass.protocols import base, oip_rest
from windlass.types import directory, inference, tensor

View = Callable[..., directory.ModelView]
MakeHead = Callable[..., base.Head]
X = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2.5, -3]}
VIEWS: View
HEADS: MakeHead


@pytest.fixture(autouse=True)
def _known(make_view: View, make_head: MakeHead) -> None:
    # Hypothesis calls a test many times with one fixture; plain names keep these tests readable.
    global VIEWS, HEADS
    VIEWS, HEADS = make_view, make_head


# Against the client that others use


def client_body(
    inputs: list[triton.InferInput], outputs: list[triton.InferRequestedOutput] | None, **parameters: Any
) -> tuple[bytes, int | None]:
    asked: dict[str, Any] = {
        "request_id": "",
        "sequence_id": 0,
        "sequence_start": False,
        "sequence_end": False,
        "priority": 0,
        "timeout": None,
        "custom_parameters": None,
        **parameters,
    }
    return triton_body._get_inference_request(inputs=inputs, outputs=outputs, **asked)


def client_arrays() -> st.SearchStrategy[tuple[str, tensor.Array]]:
    def of(datatype: str) -> st.SearchStrategy[tuple[str, tensor.Array]]:
        shapes = arrays.array_shapes(min_dims=2, max_dims=3, max_side=6)
        if datatype == "BYTES":
            found = shapes.flatmap(
                lambda shape: arrays.arrays(
                    object, shape, elements=st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)
                )
            )
        else:
            keywords = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
            found = arrays.arrays(tensor.dtype(datatype), shapes, elements=keywords or None)
        return found.map(lambda array: (datatype, array))

    return st.sampled_from(sorted(tensor.DTYPES)).flatmap(of)


@settings(deadline=None, max_examples=100)
@given(one=client_arrays(), binary_in=st.booleans(), binary_out=st.booleans(), with_id=st.booleans())
def test_any_tensor_goes_there_and_back(
    one: tuple[str, tensor.Array], binary_in: bool, binary_out: bool, with_id: bool
) -> None:
    datatype, array = one
    view = VIEWS((("x", datatype, ("batch", *array.shape[1:])),), (("y", datatype, ("batch", *array.shape[1:])),))
    sent = triton.InferInput("x", list(array.shape), datatype)
    sent.set_data_from_numpy(array, binary_data=binary_in)
    body, length = client_body(
        [sent], [triton.InferRequestedOutput("y", binary_data=binary_out)], request_id="7" if with_id else ""
    )
    head = HEADS() if length is None else HEADS(inference_header_content_length=str(length))
    request = oip_rest.decode(head, {}, body, view)
    np.testing.assert_array_equal(request.inputs["x"], array)
    answer = oip_rest.encode(head, request, inference.InferResponse({"y": array}, "1"), view)
    names = dict(answer.headers)
    result = triton.InferResult.from_response_body(
        answer.body, header_length=int(names[b"inference-header-content-length"]) if binary_out else None
    )
    assert (b"inference-header-content-length" in names) is binary_out
    assert answer.content_type == (b"application/octet-stream" if binary_out else b"application/json")
    found = result.as_numpy("y")
    if datatype == "BYTES" and not binary_out:
        found = np.vectorize(lambda text: text if isinstance(text, bytes) else str(text).encode(), otypes=[object])(
            found
        )
    np.testing.assert_array_equal(found, array)
    assert result.get_response().get("id") == ("7" if with_id else None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
VALUE = (
    st.sampled_from([0, 1, -1, 1.5, 1e39, 2**63, 2**64, True, None, "3", "x", [], {}, [[1, 2, 3]], [1, 2, 3]]) | JSON
)


@st.composite
def near_documents(draw: st.DrawFn) -> Any:
    """A valid request with a few places changed."""
    document: dict[str, Any] = {
        "id": "a",
        "inputs": [dict(X, parameters={"binary_data_size": 12}) if draw(st.booleans()) else dict(X)],
        "outputs": [{"name": "y", "parameters": {"classification": 2, "binary_data": True}}],
        "parameters": {"timeout": 1, "priority": 1, "binary_data_output": False},
    }
    for _ in range(draw(st.integers(1, 3))):
        place = draw(
            st.sampled_from([document, *document["inputs"][:1], *document["outputs"][:1], document["parameters"]])
        )
        if isinstance(place, dict):
            key = draw(st.sampled_from([*sorted(place), "extra", "shared_memory_region", "sequence_id"]))
            if draw(st.booleans()) and place is not document:
                place.pop(key, None)
            elif place is not document or key not in ("inputs", "outputs", "parameters"):
                place[key] = draw(VALUE)
    return document


def decodes_or_refuses(body: bytes, length: int | None, view: directory.ModelView) -> bool:
    head = HEADS() if length is None else HEADS(inference_header_content_length=str(length))
    try:
        request = oip_rest.decode(head, {}, body, view)
    except (errors.InvalidInput, errors.Unsupported):
        return False
    view.contract.check(request.inputs)
    return True


@pytest.mark.promise("P-36c")
@pytest.mark.threat("V8")
@settings(deadline=None, max_examples=200)
@given(near_documents() | JSON, st.sampled_from([None, 0, 12]))
def test_near_documents_are_answered_or_refused(document: Any, extra: int | None) -> None:
    view = VIEWS((("x", "FP32", ("batch", 3)),))
    text = json.dumps(document).encode()
    if extra is None:
        decodes_or_refuses(text, None, view)
    else:
        decodes_or_refuses(text + b"\0" * extra, len(text), view)


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    data = bytearray(body)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["flip", "cut", "repeat", "drop"])):
            case "flip":
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                data = data[: place + 1]
            case "repeat":
                data[place:place] = data[place : place + 8]
            case _:
                del data[place]
                data = data or bytearray(b" ")
    return bytes(data)


@pytest.mark.promise("P-36c")
@settings(deadline=None, max_examples=200)
@given(st.data(), st.integers(-3, 3))
def test_damaged_bodies_are_answered_or_refused(data: st.DataObject, off: int) -> None:
    view = VIEWS((("x", "FP32", ("batch", 3)), ("t", "BYTES", ("batch",))))
    first = triton.InferInput("x", [2, 3], "FP32").set_data_from_numpy(np.ones((2, 3), np.float32))
    second = triton.InferInput("t", [2], "BYTES").set_data_from_numpy(np.array([b"ab", b""], object))
    body, length = client_body([first, second], None)
    assert length is not None
    assert decodes_or_refuses(body, length, view)
    decodes_or_refuses(data.draw(damaged(body)), max(length + off, 0), view)


@pytest.mark.soak
@pytest.mark.promise("P-36c")
@settings(max_examples=200_000, deadline=None)
@given(near_documents() | JSON, st.sampled_from([None, 0, 12]))
def test_near_documents_at_length(document: Any, extra: int | None) -> None:
    test_near_documents_are_answered_or_refused.hypothesis.inner_test(document, extra)  # type: ignore[attr-defined]
