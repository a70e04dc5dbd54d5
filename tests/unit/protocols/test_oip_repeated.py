from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.protocols import base, oip_repeated, oip_rest
from windlass.types import contract, directory, inference, signature

View = Callable[..., directory.ModelView]
MakeHead = Callable[..., base.Head]
X = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2.5,-3]}]}'


def forget() -> None:
    oip_repeated._known.clear()
    oip_repeated._known_binary.clear()


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture
def small(make_view: View) -> directory.ModelView:
    return make_view((("x", "FP32", ("batch", 3)),))


def known() -> int:
    return len(oip_repeated._known) + len(oip_repeated._known_binary)


def as_values(request: inference.InferRequest) -> Any:
    inputs = {name: (array.dtype.str, array.shape, array.tolist()) for name, array in request.inputs.items()}
    rest = (request.model, request.rows, request.key, request.outputs, request.id, request.timeout_s, request.priority)
    return inputs, rest, request.context


def outcome(head: base.Head, body: bytes, view: directory.ModelView) -> Any:
    try:
        return as_values(oip_rest.decode(head, {}, body, view))
    except (errors.InvalidInput, errors.Unsupported) as e:
        return str(e)


@pytest.mark.parametrize(
    "body",
    [
        X,
        json.dumps(json.loads(X)).encode(),
        b'{"inputs":[{"data":[1,2.5,-3],"name":"x","shape":[1,3],"datatype":"FP32"}]}',
        b' {\n "inputs":[{"shape":[1,3],"data":\t[1,2.5,-3] ,"name":"x","datatype":"FP32"}]}\n',
    ],
)
def test_the_second_is_recognised_with_its_own_numbers(
    make_head: MakeHead, small: directory.ModelView, body: bytes
) -> None:
    first = outcome(make_head(), body, small)
    assert known() == 1
    second = oip_repeated.again(body.replace(b"2.5", b"700"), small)
    assert second is not None
    assert second.inputs["x"].tolist() == [[1, 700, -3]]
    assert outcome(make_head(), body, small) == first


NOT_KEPT = [
    b'{"id":"7","inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}',
    b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[[1,2,3]]}]}',
    b'{"parameters":{"data":"[1,2,3]"},"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}',
    b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data" : [1,2,3]}]}',
    X + b" " * 2000,
]


@pytest.mark.parametrize("body", NOT_KEPT)
def test_what_may_mean_something_else_is_not_kept(make_head: MakeHead, small: directory.ModelView, body: bytes) -> None:
    assert isinstance(outcome(make_head(), body, small), tuple)
    assert known() == 0


def test_texts_and_checked_values_are_not_kept(make_view: View, make_head: MakeHead) -> None:
    text = make_view((("x", "BYTES", ("batch",)),))
    body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["a"]}]}'
    assert isinstance(outcome(make_head(), body, text), tuple)
    spec = signature.TensorSpec("x", "FP32", ("batch", 3), maximum=10)
    ranged = signature.Signature((spec,), (signature.TensorSpec("y", "FP32", ("batch",)),))
    checked = contract.Contract(ranged, max_rows=8, max_elements=64)
    assert checked.bounds_values
    view = make_view((("x", "FP32", ("batch", 3)),))
    values = {name: getattr(view, name) for name in view.__struct_fields__}
    strict = directory.ModelView(**{**values, "signature": ranged, "contract": checked})
    assert isinstance(outcome(make_head(), X, strict), tuple)
    assert known() == 0
    assert "the most allowed is 10" in outcome(make_head(), X.replace(b"2.5", b"99"), strict)


def test_another_contract_reads_for_itself(make_view: View, make_head: MakeHead, small: directory.ModelView) -> None:
    outcome(make_head(), X, small)
    wider = make_view((("x", "FP32", ("batch", 4)),))
    assert "shape" in outcome(make_head(), X, wider)


REPLACEMENTS = [
    b"[1,2]",
    b"[1,2,3,4]",
    b"[true,2,3]",
    b'["1",2,3]',
    b"[1e39,2,3]",
    b"[[1,2,3]]",
    b"[NaN,1,2]",
    b"[",
    b"[]",
]


@pytest.mark.promise("P-36c")
@pytest.mark.parametrize("data", REPLACEMENTS)
def test_what_was_refused_before_is_refused_again(make_head: MakeHead, small: directory.ModelView, data: bytes) -> None:
    body = X.replace(b"[1,2.5,-3]", data)
    alone = outcome(make_head(), body, small)
    outcome(make_head(), X, small)
    assert known() == 1
    assert outcome(make_head(), body, small) == alone


TEXTS = [X, *NOT_KEPT, X.replace(b"[1,3]", b"[2,3]"), X.replace(b"data", b"dada"), X.replace(b"FP32", b"FP64")]


@pytest.mark.promise("P-36c")
@settings(deadline=None, max_examples=300)
@example(X, 0, 0, b"")
@given(
    st.sampled_from(TEXTS),
    st.integers(0, 90),
    st.integers(0, 12),
    st.sampled_from(
        [b"", b"]", b"[", b'"', b":", b'"data":', b'"data":[', b"[1,2,3]", b",", b"9", b" ", b"}", b"{", b"\\"]
    ),
)
def test_memory_changes_no_outcome(body: bytes, at: int, cut: int, put: bytes) -> None:
    """Any edit of a request is answered with a memory full of its relatives as it is without."""
    edited = body[:at] + put + body[at + cut :]
    forget()
    alone = outcome(HEAD, edited, VIEW)
    forget()
    for text in TEXTS:
        outcome(HEAD, text, VIEW)
    assert outcome(HEAD, edited, VIEW) == alone
    assert outcome(HEAD, edited, VIEW) == alone


def test_the_memory_is_bounded(make_view: View, make_head: MakeHead, small: directory.ModelView) -> None:
    for size in range(2000):
        outcome(make_head(), X.replace(b'"inputs"', b" " * (size % 700) + b'"inputs"' + b" " * (size // 700)), small)
    assert known() <= 512


def binary(document: Any, tail: bytes) -> tuple[base.Head, bytes]:
    text = json.dumps(document).encode()
    return HEADS(inference_header_content_length=str(len(text))), text + tail


def one(size: int, **more: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": size}}],
        **more,
    }


def test_a_binary_document_is_recognised(small: directory.ModelView) -> None:
    more = {
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        "parameters": {"timeout": 5000, "priority": 3},
    }
    rows = np.array([[1, 2, 3]], np.float32)
    head, body = binary(one(12, **more), rows.tobytes())
    first = outcome(head, body, small)
    assert known() == 1
    head, body = binary(one(12, **more), (rows * 2).tobytes())
    found = oip_rest.decode(head, {}, body, small)
    assert found.inputs["x"].tolist() == [[2, 4, 6]]
    assert np.shares_memory(found.inputs["x"], np.frombuffer(body, np.uint8))
    head, body = binary(one(12, **more), rows.tobytes())
    assert outcome(head, body, small) == first
    for wrong in (rows.tobytes() + b"\0", rows.tobytes()[:-1], b""):
        head, body = binary(one(12, **more), wrong)
        assert isinstance(outcome(head, body, small), str)


def test_binary_documents_that_are_not_kept(make_view: View, small: directory.ModelView) -> None:
    zeros = b"\0" * 12
    outcome(*binary(one(12, id="7"), zeros), small)
    outcome(*binary({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}, b""), small)
    truth = make_view((("x", "BOOL", ("batch", 3)),))
    document = one(3)
    document["inputs"][0]["datatype"] = "BOOL"
    assert isinstance(outcome(*binary(document, b"\0\1\0"), truth), tuple)
    assert known() == 0
    assert "neither 0 nor 1" in outcome(*binary(document, b"\0\2\0"), truth)


HEADS: MakeHead
HEAD: base.Head
VIEW: directory.ModelView


@pytest.fixture(autouse=True)
def _names(make_view: View, make_head: MakeHead) -> None:
    global HEADS, HEAD, VIEW
    HEADS, HEAD, VIEW = make_head, make_head(), make_view((("x", "FP32", ("batch", 3)),))
