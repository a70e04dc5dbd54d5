"""protocols/oip_rest.py: requests in JSON to tensors and refusals, answers to JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from windlass import errors
from windlass.protocols import base, oip_rest
from windlass.types import directory, inference, manifest

View = Callable[..., directory.ModelView]
MakeHead = Callable[..., base.Head]
Respond = Callable[..., inference.InferResponse]
X = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2.5, -3]}


@pytest.fixture
def small(make_view: View) -> directory.ModelView:
    return make_view((("x", "FP32", ("batch", 3)),))


@pytest.fixture
def ask(make_head: MakeHead, small: directory.ModelView) -> Callable[..., inference.InferRequest]:
    """Decode a document (or bytes); the header's length is given for binary ones."""

    def decode(document: Any, view: directory.ModelView = small, length: int | None = None) -> inference.InferRequest:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        head = make_head() if length is None else make_head(inference_header_content_length=str(length))
        return oip_rest.decode(head, {}, body, view)

    return decode


Ask = Callable[..., inference.InferRequest]


def test_the_usual_request(ask: Ask) -> None:
    request = ask({"inputs": [X]})
    assert request.model == "mlp"
    assert (request.rows, request.key, request.outputs, request.id, request.context) == (1, (), None, "", None)
    assert request.inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(request.inputs["x"], [[1, 2.5, -3]])


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_flat_and_nested_are_the_same(ask: Ask, data: Any) -> None:
    request = ask({"inputs": [{**X, "shape": [2, 3], "data": data}]})
    assert request.rows == 2
    np.testing.assert_array_equal(request.inputs["x"], [[1, 2, 3], [4, 5, 6]])


def test_id_outputs_and_parameters(ask: Ask) -> None:
    request = ask(
        {
            "id": "é:1",
            "model_name": "mlp",
            "model_version": "",
            "inputs": [{**X, "parameters": {"content_type": "np"}}],
            "outputs": [{"name": "y"}],
            "parameters": {"timeout": 2_500_000, "priority": 2, "anything": "at all", "sequence_id": 0},
        }
    )
    assert (request.id, request.outputs, request.context) == ("é:1", ("y",), None)
    assert request.timeout_s == 2.5
    assert request.priority == inference.BATCH


@pytest.mark.parametrize(
    ("given", "wanted"), [(0, inference.INTERACTIVE), (1, inference.INTERACTIVE), (7, inference.BATCH)]
)
def test_no_client_is_before_the_probes(ask: Ask, given: int, wanted: int) -> None:
    assert ask({"inputs": [X], "parameters": {"priority": given}}).priority == wanted


def test_several_inputs_of_several_kinds(ask: Ask, make_view: View) -> None:
    view = make_view(
        (("ids", "INT64", ("batch", "length")), ("text", "BYTES", ("batch",)), ("b", "BOOL", ("batch", 2)))
    )
    request = ask(
        {
            "inputs": [
                {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a:b", "ü"]},
                {"name": "ids", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]},
                {"name": "b", "shape": [2, 2], "datatype": "BOOL", "data": [[True, False], [False, True]]},
            ]
        },
        view,
    )
    assert request.rows == 2
    assert request.inputs["text"].tolist() == [b"a:b", "ü".encode()]
    assert request.inputs["b"].tolist() == [[True, False], [False, True]]
    assert request.key == ((2,), (), (2,))


REFUSED: list[tuple[Any, str]] = [
    ({}, "inputs"),
    ({"inputs": []}, "missing input 'x'"),
    ({"inputs": [X], "output": [{"name": "y"}]}, "output"),
    ({"inputs": [{**X, "dat": 1}]}, "dat"),
    ({"inputs": [X, X]}, "twice"),
    ({"inputs": [{**X, "name": "z"}]}, "unexpected input 'z'"),
    ({"inputs": [{**X, "datatype": "FP64"}]}, "'x' has datatype FP64"),
    ({"inputs": [{**X, "datatype": "F32"}]}, "datatype 'F32'"),
    ({"inputs": [{**X, "shape": [3]}]}, "'x' has shape"),
    ({"inputs": [{**X, "shape": [1, 4]}]}, "tensor 'x' has 3 values"),
    ({"inputs": [{**X, "shape": [-1, 3]}]}, "shape"),
    ({"inputs": [{**X, "shape": [1 << 63, 3]}]}, "shape"),
    ({"inputs": [{**X, "shape": [1 << 62, 1 << 62]}]}, "more than"),
    ({"inputs": [{**X, "shape": [0, 3], "data": []}]}, "0 rows"),
    ({"inputs": [{**X, "shape": [1.0, 3]}]}, "shape"),
    ({"inputs": [{**X, "data": ["1", 2, 3]}]}, "tensor 'x'"),
    ({"inputs": [{**X, "data": [True, 2, 3]}]}, "tensor 'x'"),
    ({"inputs": [{**X, "data": [1e39, 2, 3]}]}, "tensor 'x' has a value at position 0 that FP32 cannot hold"),
    ({"inputs": [{**X, "data": [1, 2, None]}]}, "tensor 'x'"),
    ({"inputs": [{k: v for k, v in X.items() if k != "data"}]}, "tensor 'x' has no data"),
    ({"inputs": [{**X, "parameters": {"binary_data_size": 12}}]}, "both data and binary_data_size"),
    ({"inputs": [{**X, "parameters": {"a": {}}}]}, "parameters"),
    ({"inputs": [X], "parameters": {"timeout": -1}}, "'timeout'"),
    ({"inputs": [X], "parameters": {"timeout": 1.5}}, "'timeout'"),
    ({"inputs": [X], "parameters": {"priority": True}}, "'priority'"),
    ({"inputs": [X], "parameters": {"binary_data_output": 1}}, "'binary_data_output'"),
    ({"inputs": [X], "outputs": [{"name": "z"}]}, "unexpected output 'z'"),
    ({"inputs": [X], "outputs": [{"name": "y"}, {"name": "y"}]}, "twice"),
    ({"inputs": [X], "outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]}, "'binary_data'"),
    ({"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, "'classification'"),
    ({"inputs": [X], "id": 7}, "id"),
    ({"inputs": [X], "id": "x" * 2000}, "id"),
    ({"inputs": [X], "model_name": "other"}, "model_name"),
    ({"inputs": [X], "model_version": "9"}, "model_version"),
    ([], "array"),
    (b"", "no body"),
    (b"{", "truncated"),
    (b"\xff", "expected"),
    (b'{"inputs": [], "inputs": []} x', "expected"),
]


@pytest.mark.promise("P-36c")
@pytest.mark.threat("F9")
@pytest.mark.parametrize(("document", "told"), REFUSED)
def test_what_is_wrong_is_refused_and_named(ask: Ask, document: Any, told: str) -> None:
    with pytest.raises(errors.InvalidInput, match=told):
        ask(document)


REPEATED = [
    b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3],"data":[4,5,6]}]}',
    b'{"inputs":[],"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}',
    b'{"id":"a","id":"b","inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}',
    b'{"parameters":{"timeout":1,"timeout":2},"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}',
]


@pytest.mark.promise("P-36c")
@pytest.mark.threat("F9")
@pytest.mark.parametrize("body", REPEATED)
@pytest.mark.parametrize("padding", [0, 5000])
def test_a_repeated_key_is_refused(ask: Ask, body: bytes, padding: int) -> None:
    with pytest.raises(errors.InvalidInput, match="twice"):
        ask(body + b" " * padding)


@pytest.mark.parametrize("padding", [0, 5000])
def test_colons_in_strings_are_no_keys(ask: Ask, padding: int) -> None:
    body = json.dumps({"id": "a:b::c", "inputs": [X], "parameters": {"k:": ":"}}).encode()
    assert ask(body + b" " * padding).id == "a:b::c"


@pytest.mark.parametrize(
    "parameters",
    [
        {"shared_memory_region": "a", "shared_memory_byte_size": 12},
        {"sequence_id": 5},
        {"sequence_id": "s"},
    ],
)
def test_what_is_not_done_here_is_said_so(ask: Ask, parameters: dict[str, Any]) -> None:
    if "sequence_id" in parameters:
        document: Any = {"inputs": [X], "parameters": parameters}
    else:
        document = {"inputs": [{**X, "parameters": parameters}]}
        with pytest.raises(errors.Unsupported, match="shared memory"):
            ask({"inputs": [X], "outputs": [{"name": "y", "parameters": parameters}]})
    with pytest.raises(errors.Unsupported, match="not supported"):
        ask(document)


@pytest.mark.threat("V8")
@pytest.mark.promise("P-36c")
def test_elements_are_limited_to_the_last_one(ask: Ask, make_view: View) -> None:
    view = make_view((("x", "FP32", ("batch", "n")),), limits=manifest.Limits(max_elements=100, max_batch=100))
    for count, fits in ((99, True), (100, True), (101, False)):
        document = {"inputs": [{"name": "x", "shape": [1, count], "datatype": "FP32", "data": [1.0] * count}]}
        if fits:
            assert ask(document, view).inputs["x"].size == count
        else:
            with pytest.raises(errors.InvalidInput, match="more than the 100 elements"):
                ask(document, view)


# Answers


def test_the_usual_answer(ask: Ask, make_head: MakeHead, small: directory.ModelView) -> None:
    request = ask({"inputs": [X]})
    answer = oip_rest.encode(
        make_head(), request, inference.InferResponse({"y": np.array([[0.25, 0.75]], np.float32)}, "3"), small
    )
    assert answer == base.Answer(
        b'{"model_name":"mlp","model_version":"3","outputs":'
        b'[{"name":"y","datatype":"FP32","shape":[1,2],"data":[0.25,0.75]}]}'
    )


def test_the_id_comes_back_as_it_was(
    ask: Ask, make_head: MakeHead, respond: Respond, small: directory.ModelView
) -> None:
    name = 'a"b\\c ü \n'
    request = ask({"inputs": [X], "id": name})
    assert json.loads(oip_rest.encode(make_head(), request, respond(request, small), small).body)["id"] == name


def test_only_the_outputs_asked_for_come(ask: Ask, make_view: View, make_head: MakeHead, respond: Respond) -> None:
    view = make_view((("x", "FP32", ("batch", 3)),), (("a", "FP32", ("batch", 2)), ("b", "BYTES", ("batch",))))
    every = ask({"inputs": [X], "outputs": []}, view)
    body = json.loads(oip_rest.encode(make_head(), every, respond(every, view), view).body)
    assert [one["name"] for one in body["outputs"]] == ["a", "b"]
    assert body["outputs"][1] == {"name": "b", "datatype": "BYTES", "shape": [1], "data": ["t0"]}
    one = ask({"inputs": [X], "outputs": [{"name": "b"}]}, view)
    body = json.loads(oip_rest.encode(make_head(), one, respond(one, view), view).body)
    assert [one["name"] for one in body["outputs"]] == ["b"]


def test_classes_are_value_index_label(ask: Ask, make_view: View, make_head: MakeHead) -> None:
    view = make_view((("x", "FP32", ("batch", 3)),), (("y", "FP32", ("batch", 3)),), labels=("cat", "dog"))
    request = ask({"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 9}}]}, view)
    response = inference.InferResponse({"y": np.array([[0.1, 0.9, 0.5]], np.float32)}, "1")
    output = json.loads(oip_rest.encode(make_head(), request, response, view).body)["outputs"][0]
    assert output == {"name": "y", "datatype": "BYTES", "shape": [1, 3], "data": ["0.9:1:dog", "0.5:2", "0.1:0:cat"]}


def test_errors_are_a_sentence() -> None:
    plugin = oip_rest.OpenInference()
    answer = plugin.encode_error(errors.NotFound("Request for unknown model: 'm' is not found"), "r")
    assert (answer.status, json.loads(answer.body)) == (404, {"error": "Request for unknown model: 'm' is not found"})
    answer = plugin.encode_error(errors.InternalError("/secret/path"), "r")
    assert answer.status == 500
    assert b"secret" not in answer.body
