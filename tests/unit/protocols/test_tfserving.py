from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.protocols import base, tfserving
from windlass.types import directory, fields, inference, tensor

View = Callable[..., directory.ModelView]
MakeHead = Callable[..., base.Head]
Respond = Callable[..., inference.InferResponse]
PLAIN = (("x", "FP32", ("batch", 2)),)
TWO = (("a", "FP32", ("batch", 2)), ("b", "INT64", ("batch",)))


def ask(
    head: base.Head, view: directory.ModelView, document: Any, verb: str = "predict", **parameters: str
) -> inference.InferRequest:
    routes = {route.path.rpartition(":")[2]: route.action for route in tfserving.TensorFlowServing().routes()}
    action = routes[verb]
    assert isinstance(action, base.InferRoute)
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    found = action.decode(head, {"model": "mlp", **parameters}, body, view)
    return found.work() if isinstance(found, base.Later) else found


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [[1, 2], [3, 4]]},
        {"instances": [{"x": [1, 2]}, {"x": [3, 4]}]},
        {"inputs": [[1, 2], [3, 4]]},
        {"inputs": {"x": [[1, 2], [3, 4]]}},
        {"signature_name": "serving_default", "instances": [[1, 2], [3, 4]]},
    ],
)
def test_rows_and_columns_are_the_same_tensor(make_view: View, make_head: MakeHead, document: Any) -> None:
    request = ask(make_head(), make_view(PLAIN), document)
    assert request.rows == 2
    assert request.inputs["x"].dtype == np.float32
    assert request.inputs["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [{"a": [1, 2], "b": 5}, {"b": 6, "a": [3, 4]}]},
        {"inputs": {"b": [5, 6], "a": [[1, 2], [3, 4]]}},
    ],
)
def test_named_inputs(make_view: View, make_head: MakeHead, document: Any) -> None:
    request = ask(make_head(), make_view(TWO), document)
    assert request.inputs["a"].tolist() == [[1, 2], [3, 4]]
    assert request.inputs["b"].tolist() == [5, 6]


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [b64(b"\xff\0"), b64(b"a:b")]},
        {"instances": [{"t": b64(b"\xff\0")}, {"t": b64(b"a:b")}]},
        {"instances": [{"t": b64(b"\xff\0")}, {"t": "a:b"}]},
        {"inputs": [b64(b"\xff\0"), "a:b"]},
        {"inputs": {"t": [b64(b"\xff\0"), "a:b"]}},
    ],
)
def test_bytes_are_text_or_base64(make_view: View, make_head: MakeHead, document: Any) -> None:
    request = ask(make_head(), make_view((("t", "BYTES", ("batch",)),)), document)
    assert request.inputs["t"].tolist() == [b"\xff\0", b"a:b"]


REFUSED: list[tuple[Any, str]] = [
    ({}, "either"),
    ({"instances": [[1, 2]], "inputs": [[1, 2]]}, "either"),
    ({"instances": [[1, 2]], "rows": 1}, "rows"),
    ({"instances": []}, "shape"),
    ({"instances": [{"x": [1, 2]}, {"y": [1, 2]}]}, "row 1"),
    ({"instances": [{"z": [1, 2]}]}, "unexpected input 'z'"),
    ({"instances": [[1, 2], [3]]}, "not of shape"),
    ({"instances": [1, 2]}, "levels"),
    ({"instances": [["1", 2]]}, "not an array of FP32"),
    ({"instances": [[[1, 2]]]}, "not an array of FP32"),
    ({"instances": 7}, "not an array"),
    ({"instances": [[1, 2, 3]]}, "shape"),
    ({"instances": [[1, 2]] * 129}, "129 rows"),
    ({"instances": [{"x": [1, 2]}] * 129}, "129 rows"),
    ({"inputs": {"x": [[1, 2]], "z": 1}}, "unexpected input 'z'"),
    ({"inputs": {}}, "missing input 'x'"),
    ({"signature_name": "other", "instances": [[1, 2]]}, "signature name: 'other' is not found"),
    (b'{"instances": [[1, 2]], "instances": [[1, 2]]}', "twice"),
    (b'{"instances": [{"x": [1, 2], "x": [3, 4]}]}', "twice"),
    (b"", "no body"),
    (b"{", "truncated"),
]


@pytest.mark.promise("P-36c")
@pytest.mark.threat("F9")
@pytest.mark.parametrize(("document", "told"), REFUSED)
def test_what_is_wrong_is_refused_and_named(make_view: View, make_head: MakeHead, document: Any, told: str) -> None:
    with pytest.raises(errors.InvalidInput, match=told):
        ask(make_head(), make_view(PLAIN), document)


def test_rows_without_names_need_one_input(make_view: View, make_head: MakeHead) -> None:
    with pytest.raises(errors.InvalidInput, match="'a', 'b'"):
        ask(make_head(), make_view(TWO), {"instances": [[1, 2]]})
    with pytest.raises(errors.InvalidInput, match="not base64"):
        ask(make_head(), make_view((("t", "BYTES", ("batch",)),)), {"instances": [{"b64": "*"}]})


def test_a_label_is_not_found(make_view: View, make_head: MakeHead) -> None:
    for verb, document in (("predict", {"instances": [[1, 2]]}), ("classify", {"examples": [{"x": [1, 2]}]})):
        with pytest.raises(errors.NotFound, match="no version label 'stable'"):
            ask(make_head(), make_view(PLAIN), document, verb, label="stable")


def answered(
    head: base.Head, view: directory.ModelView, document: Any, outputs: tensor.Tensors, verb: str = "predict"
) -> Any:
    request = ask(head, view, document, verb)
    return json.loads(tfserving.encode(head, request, inference.InferResponse(outputs, "1"), view).body)


def test_answers_have_the_form_of_the_question(make_view: View, make_head: MakeHead) -> None:
    one = make_view(PLAIN)
    y = np.array([[1, 2], [3, np.nan]], np.float32)
    assert answered(make_head(), one, {"instances": [[1, 2]] * 2}, {"y": y}) == {"predictions": [[1, 2], [3, None]]}
    assert answered(make_head(), one, {"inputs": [[1, 2]] * 2}, {"y": y}) == {"outputs": [[1, 2], [3, None]]}
    two = make_view(PLAIN, (("y", "FP32", ("batch", 2)), ("t", "BYTES", ("batch",))))
    outputs = {"y": y, "t": np.array([b"a", b"\xff"], object)}
    assert answered(make_head(), two, {"instances": [[1, 2]] * 2}, outputs) == {
        "predictions": [{"y": [1, 2], "t": "a"}, {"y": [3, None], "t": {"b64": "/w=="}}]
    }
    assert answered(make_head(), two, {"inputs": [[1, 2]] * 2}, outputs) == {
        "outputs": {"y": [[1, 2], [3, None]], "t": ["a", {"b64": "/w=="}]}
    }


def test_classify_gives_labels_and_scores(make_view: View, make_head: MakeHead) -> None:
    y = np.array([[0.25, 0.75]], np.float32)
    document = {"examples": [{"x": [1, 2]}]}
    labelled = make_view(PLAIN, labels=("no", "yes"))
    assert answered(make_head(), labelled, document, {"y": y}, "classify") == {
        "results": [[["no", 0.25], ["yes", 0.75]]]
    }
    assert answered(make_head(), make_view(PLAIN), document, {"y": y}, "classify") == {
        "results": [[["0", 0.25], ["1", 0.75]]]
    }
    with pytest.raises(errors.InvalidInput, match="no single output"):
        answered(make_head(), labelled, document, {"y": y[0]}, "classify")


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_regress_gives_a_value_for_each_example(make_view: View, make_head: MakeHead, shape: tuple[int, ...]) -> None:
    view = make_view(TWO, (("y", "FP32", ("batch", *shape[1:])),))
    document = {"context": {"b": 5}, "examples": [{"a": [1, 2]}, {"a": [3, 4], "b": [6]}]}
    request = ask(make_head(), view, document, "regress")
    assert request.inputs["b"].tolist() == [5, 6]
    y = np.array([1.5, 2.5], np.float32).reshape(shape)
    assert answered(make_head(), view, document, {"y": y}, "regress") == {"results": [1.5, 2.5]}


class Doubling:
    """Takes the number `n`, gives `x` of [n, 2n]; answers with `scores`."""

    fields = (fields.Field("n", "number"),)
    media = ()
    inline_bytes = 40

    def prepare(self, columns: fields.Columns) -> tensor.Tensors:
        return {"x": np.stack([columns["n"], columns["n"] * 2], axis=1).astype(np.float32)}

    def finish(self, outputs: tensor.Tensors, inputs: tensor.Tensors) -> fields.Columns:
        scores = np.empty(len(outputs["y"]), object)
        scores[:] = [dict(zip("ab", row, strict=True)) for row in outputs["y"].tolist()]
        return {"scores": scores}


@pytest.mark.parametrize("count", [1, 20])
def test_examples_go_through_the_transforms(make_view: View, make_head: MakeHead, count: int) -> None:
    view = make_view(PLAIN, transformer=Doubling())
    document = {"examples": [{"n": i} for i in range(count)]}
    request = ask(make_head(), view, document, "classify")
    assert request.inputs["x"].tolist() == [[i, 2 * i] for i in range(count)]
    found = answered(make_head(), view, document, {"y": request.inputs["x"]}, "classify")
    assert found["results"][0] == [["a", 0.0], ["b", 0.0]]
    with pytest.raises(errors.InvalidInput, match="field 'n'"):
        ask(make_head(), view, {"examples": [{"n": "1"}]}, "classify")


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"examples": []}, "no examples"),
        ({"examples": [{"x": [1, 2]}, {}]}, "example 1"),
        ({"examples": [{"x": [1, 2]}] * 129}, "129 rows"),
        ({"examples": [{"z": 1}]}, "unexpected input 'z'"),
        ({"examples": [7]}, "examples"),
    ],
)
def test_wrong_examples_are_refused(make_view: View, make_head: MakeHead, document: Any, told: str) -> None:
    for verb in ("classify", "regress"):
        with pytest.raises(errors.InvalidInput, match=told):
            ask(make_head(), make_view(PLAIN), document, verb)


def test_a_feature_gives_one_value_an_example(make_view: View, make_head: MakeHead) -> None:
    view = make_view((("b", "INT64", ("batch",)),))
    for values in ([5, 6], []):
        with pytest.raises(errors.InvalidInput):
            ask(make_head(), view, {"examples": [{"b": values}, {"b": 1}]}, "classify")


def test_status_and_metadata(make_view: View, make_head: MakeHead, make_models: Any) -> None:
    models = make_models(make_view(PLAIN))
    table = {route.path: route.action for route in tfserving.TensorFlowServing().routes() if route.method == "GET"}

    def get(path: str, **parameters: str) -> Any:
        action = table[path]
        assert isinstance(action, base.QueryRoute)
        found = action.answer(make_head(method="GET"), parameters, b"", models)
        assert isinstance(found, base.Answer)
        return json.loads(found.body)

    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert get("/v1/models/{model}", model="mlp") == {"model_version_status": [available]}
    assert get("/v1/models/{model}/versions/{version}", model="mlp", version="1") == {
        "model_version_status": [available]
    }
    assert get("/v1/models/{model}", model="sleeper")["model_version_status"][0]["state"] == "END"
    body = get("/v1/models/{model}/metadata", model="mlp")
    assert body["model_spec"] == {"name": "mlp", "signature_name": "", "version": "1"}
    declared = body["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert declared["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert declared["inputs"]["x"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}, {"size": "2", "name": ""}]
    for path in ("/v1/models/{model}", "/v1/models/{model}/metadata"):
        with pytest.raises(errors.NotFound):
            get(path, model="other")
        with pytest.raises(errors.NotFound):
            get(path.replace("{model}", "{model}/labels/{label}"), model="mlp", label="canary")


def test_errors_are_a_sentence() -> None:
    answer = tfserving.TensorFlowServing().encode_error(errors.InvalidInput("bad.", hint="Do this."), "r")
    assert (answer.status, json.loads(answer.body)) == (400, {"error": "bad. Do this."})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just({"b64": "AA=="}),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "a", "b", "b64", "z"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@pytest.mark.promise("P-36c")
@settings(deadline=None, max_examples=250)
@given(
    key=st.sampled_from(["instances", "inputs", "examples"]),
    value=JSON,
    verb=st.sampled_from(["predict", "classify", "regress"]),
    inputs=st.sampled_from([PLAIN, TWO, (("x", "BYTES", ("batch",)),), (("x", "BOOL", ("batch", 1, 1)),)]),
)
def test_any_document_is_answered_or_refused(key: str, value: Any, verb: str, inputs: Any) -> None:
    view = VIEWS(inputs)
    try:
        request = ask(HEADS(), view, {key: value}, verb)
    except errors.InvalidInput:
        return
    view.contract.check(request.inputs)


VIEWS: View
HEADS: MakeHead


@pytest.fixture(autouse=True)
def _known(make_view: View, make_head: MakeHead) -> None:
    global VIEWS, HEADS
    VIEWS, HEADS = make_view, make_head
