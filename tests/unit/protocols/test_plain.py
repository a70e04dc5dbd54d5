"""protocols/plain.py: documents, tables, texts and images to tensors and refusals, answers to rows."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.protocols import base, plain
from windlass.types import directory, fields, inference, manifest, tensor

View = Callable[..., directory.ModelView]
MakeHead = Callable[..., base.Head]
PLAIN = (("x", "FP32", ("batch", 2)),)


class Table:
    """Fields of a table to `x` [age, 0 or 1 for `sex`]; a missing age is refused, a missing sex is 0."""

    fields: tuple[fields.Field, ...] = (
        fields.Field("age", "number"),
        fields.Field("sex", "category", required=False, categories=("f", "m")),
    )
    media: tuple[str, ...] = ()
    inline_bytes = 200

    def prepare(self, columns: fields.Columns) -> tensor.Tensors:
        age = columns["age"]
        if np.isnan(age).any():
            raise errors.InvalidInput(f"column 'age', row {int(np.isnan(age).argmax())}: is missing")
        sex = columns.get("sex", np.full(len(age), None, object))
        return {"x": np.stack([age, [1.0 if s == "m" else 0.0 for s in sex]], axis=1).astype(np.float32)}

    def finish(self, outputs: tensor.Tensors, inputs: tensor.Tensors) -> fields.Columns:
        y = outputs["y"]
        ranked = np.empty(len(y), object)
        ranked[:] = [{"old": row[0], "young": row[1]} for row in y.tolist()]
        return {"label": np.array(["old"] * len(y), object), "score": y[:, 0], "scores": ranked}


class Whole(Table):
    """One field, whose value may be the whole body: how many bytes or characters it has."""

    def __init__(self, kind: Any, *media: str) -> None:
        self.fields = (fields.Field("it", kind), fields.Field("note", "number", required=False))
        self.media = media

    def prepare(self, columns: fields.Columns) -> tensor.Tensors:
        if any(v is None for v in columns["it"]):
            raise errors.InvalidInput("field 'it', row 0: is missing")
        return {"x": np.array([[len(v), ord(v[:1]) if v else 0] for v in columns["it"].tolist()], np.float32)}


def ask(head: base.Head, view: directory.ModelView, body: Any, *, later: bool | None = None) -> inference.InferRequest:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = plain.decode(head, {"model": "mlp"}, data, view)
    if later is not None:
        assert isinstance(found, base.Later) is later
    return found.work() if isinstance(found, base.Later) else found


@pytest.fixture
def as_json(make_head: MakeHead) -> base.Head:
    return make_head(content_type="application/json; charset=utf-8")


@pytest.fixture
def as_csv(make_head: MakeHead) -> base.Head:
    return make_head(content_type="text/csv")


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": {"x": [[1, 2], [3, 4]]}},
        {"x": [[1, 2], [3, 4]]},
        [[1, 2], [3, 4]],
        [{"x": [1, 2]}, {"x": [3, 4]}],
    ],
)
def test_tensors_by_name_or_alone(make_view: View, as_json: base.Head, document: Any) -> None:
    assert ask(as_json, make_view(PLAIN), document, later=False).inputs["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ({"age": 30, "sex": "m"}, [[30, 1]]),
        ({"age": [30, 40]}, [[30, 0], [40, 0]]),
        ({"age": [30, 40.5], "sex": [None, "m"]}, [[30, 0], [40.5, 1]]),
        ([{"age": 30, "sex": "m"}, {"age": 40}], [[30, 1], [40, 0]]),
        ({"inputs": {"x": [[1, 2]]}}, [[1, 2]]),
        ([[1, 2]], [[1, 2]]),
    ],
)
def test_fields_go_through_the_transforms(make_view: View, as_json: base.Head, document: Any, wanted: Any) -> None:
    assert ask(as_json, make_view(PLAIN, transformer=Table()), document).inputs["x"].tolist() == wanted


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ("age,sex\n30,m\n40,f\n", [[30, 1], [40, 0]]),
        ('\ufeffsex,age\r\n"m","3e1"\r\n,4\r\n', [[30, 1], [4, 0]]),
        ("age\n1\n\n2", [[1, 0], [2, 0]]),
    ],
)
def test_a_table_is_rows(make_view: View, as_csv: base.Head, table: str, wanted: Any) -> None:
    assert ask(as_csv, make_view(PLAIN, transformer=Table()), table.encode()).inputs["x"].tolist() == wanted


def test_a_table_is_a_matrix_where_there_are_no_fields(make_view: View, as_csv: base.Head) -> None:
    request = ask(as_csv, make_view(PLAIN), b"a,b\n1,2\n3,\n")
    np.testing.assert_array_equal(request.inputs["x"], np.array([[1, 2], [3, np.nan]], np.float32))
    whole = make_view((("x", "INT8", ("batch", 2)),))
    assert ask(as_csv, whole, b"a,b\n1,-128\n").inputs["x"].tolist() == [[1, -128]]
    for cell in (b"1.5", b"128", b""):
        with pytest.raises(errors.InvalidInput, match="column 'b', row 0"):
            ask(as_csv, whole, b"a,b\n1," + cell + b"\n")
    with pytest.raises(errors.InvalidInput, match="FP32 cannot hold"):
        ask(as_csv, make_view(PLAIN), b"a,b\n1,1e39\n")


REFUSED_TABLES = [
    (b"", "empty"),
    (b"age,sex\n", "empty"),
    (b"age,age\n1,2\n", "twice"),
    (b"age,size\n1,2\n", "unexpected field 'size'"),
    (b"sex\nm\n", "missing field 'age'"),
    (b"age,sex\n1\n", "line 2"),
    (b"age,sex\n1,m,2\n", "line 2"),
    (b"age\nforty\n", "'forty' is not a number"),
    (b"age\nnan\n", "'nan' is not a number"),
    (b"age\ninf\n", "'inf' is not a number"),
    (b"age\n1e999\n", "is not a number"),
    (b"age\n1_000\n", "is not a number"),
    ("age\n\u0661\n".encode(), "is not a number"),
    (b"age,sex\n,m\n", "row 0: is missing"),
    (b'age,sex\n1,"m\n', "line"),
    (b'age,sex\n1,"m"x\n', "line 2"),
    (b"age\n\xff\n", "UTF-8"),
    (b"age\n" + b"1\n" * 129, "128 rows"),
    (b"age\n" + b"1" * 200_000 + b"\n", "line 2"),
]


@pytest.mark.promise("P-36c")
@pytest.mark.parametrize(("table", "told"), REFUSED_TABLES)
def test_what_is_wrong_in_a_table_is_named(make_view: View, as_csv: base.Head, table: bytes, told: str) -> None:
    with pytest.raises(errors.InvalidInput, match=told):
        ask(as_csv, make_view(PLAIN, transformer=Table()), table)


REFUSED: list[tuple[Any, str]] = [
    ({"age": "30"}, "field 'age' takes a number"),
    ({"age": True}, "field 'age' takes a number"),
    ({"age": [[30]]}, "field 'age' takes a number"),
    ({"age": {}}, "field 'age' takes a number"),
    ({"age": 30, "sex": 1.5}, "field 'sex' takes a text"),
    ({"age": [1, 2], "sex": ["m"]}, "field 'sex' has 1 values"),
    ({"age": []}, "no rows"),
    ({}, "missing field 'age'"),
    ([], "levels|shape|no rows"),
    ([{}], "missing field 'age'"),
    ([{"age": 1}, {"old": 2}], "unexpected field 'old'"),
    ({"age": None}, "row 0: is missing"),
    ({"age": [1] * 129}, "129 rows"),
    ([{"age": 1}] * 129, "129 rows"),
    (b'{"age": 1, "age": 2}', "twice"),
    (b'[{"age": 1, "age": 2}]', "twice"),
    (b'{"age": NaN}', "as expected"),
    (b"", "no body"),
    (b"7", "as expected"),
    (b'{"age": ' + b"[" * 5000 + b"]" * 5000 + b"}", "too deep|as expected|field 'age'"),
]


@pytest.mark.promise("P-36c")
@pytest.mark.threat("F9")
@pytest.mark.parametrize(("document", "told"), REFUSED)
def test_what_is_wrong_in_a_document_is_named(make_view: View, as_json: base.Head, document: Any, told: str) -> None:
    with pytest.raises(errors.InvalidInput, match=told):
        ask(as_json, make_view(PLAIN, transformer=Table()), document)


def test_a_text_or_an_image_is_a_whole_body(make_view: View, make_head: MakeHead, as_json: base.Head) -> None:
    text = make_view(PLAIN, transformer=Whole("text", "text/plain"))
    assert ask(make_head(content_type="text/plain"), text, "tée".encode()).inputs["x"].tolist() == [[3, ord("t")]]
    assert ask(as_json, text, {"it": ["a", "bb"]}).rows == 2
    with pytest.raises(errors.InvalidInput, match="UTF-8"):
        ask(make_head(content_type="text/plain"), text, b"\xff")
    image = make_view(PLAIN, transformer=Whole("image", "image/png"))
    assert ask(make_head(content_type="image/png"), image, b"\x89PNG").inputs["x"].tolist() == [[4, 0x89]]
    assert ask(as_json, image, {"it": {"b64": base64.b64encode(b"\x89P").decode()}}).inputs["x"].tolist() == [[2, 0x89]]
    with pytest.raises(errors.InvalidInput, match="not base64"):
        ask(as_json, image, {"it": {"b64": "?"}})


@pytest.mark.threat("V15")
@pytest.mark.parametrize("value", ["http://169.254.169.254/", "file:///etc/passwd", {"url": "http://x/"}])
def test_an_image_is_never_fetched(make_view: View, as_json: base.Head, value: Any) -> None:
    view = make_view(PLAIN, transformer=Whole("image", "image/png"))
    with pytest.raises(errors.InvalidInput, match="takes an image as"):
        ask(as_json, view, {"it": value})


@pytest.mark.threat("V14")
@pytest.mark.parametrize(
    ("media", "transformer", "accepted"),
    [
        ("", None, "application/json, text/csv"),
        ("application/x-www-form-urlencoded", Table(), "application/json, text/csv"),
        ("application/vnd.bentoml+pickle", Table(), "application/json, text/csv"),
        ("image/gif", Whole("image", "image/png"), "application/json, image/png"),
        ("text/csv", Whole("image", "image/png"), "application/json, image/png"),
        ("text/plain", Table(), "application/json, text/csv"),
        ("text/csv; charset=latin-1", Table(), ""),
    ],
)
def test_an_unknown_media_type_is_answered_with_the_known_ones(
    make_view: View, make_head: MakeHead, media: str, transformer: Any, accepted: str
) -> None:
    head = make_head(content_type=media) if media else make_head()
    with pytest.raises(errors.UnsupportedMedia) as caught:
        ask(head, make_view(PLAIN, transformer=transformer), b"{}")
    assert caught.value.message.endswith(f"takes {accepted}" if accepted else "UTF-8 only")
    assert plain.Plain().encode_error(caught.value, "r").status == 415


def test_what_is_long_to_prepare_is_not_done_on_the_loop(make_view: View, as_json: base.Head) -> None:
    view = make_view(PLAIN, transformer=Table())
    ask(as_json, view, {"age": [1] * 10}, later=False)
    assert ask(as_json, view, {"age": [1] * 100}, later=True).rows == 100


def answer(head: base.Head, view: directory.ModelView, request: inference.InferRequest, **outputs: Any) -> base.Answer:
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    return plain.encode(head, request, inference.InferResponse(arrays, "3"), view)


def test_answers_are_rows_of_columns(make_view: View, as_json: base.Head) -> None:
    view = make_view(PLAIN, transformer=Table())
    request = ask(as_json, view, {"age": [30, 40]})
    found = answer(as_json, view, request, y=np.array([[0.75, 0.25], [1, 0]], np.float32))
    assert json.loads(found.body) == {
        "model": "mlp",
        "version": "3",
        "predictions": [
            {"label": "old", "score": 0.75, "scores": {"old": 0.75, "young": 0.25}},
            {"label": "old", "score": 1.0, "scores": {"old": 1.0, "young": 0.0}},
        ],
    }


def test_without_transforms_the_outputs_are_the_columns(make_view: View, as_json: base.Head) -> None:
    view = make_view(PLAIN, (("y", "FP32", ("batch", 2)), ("t", "BYTES", ("batch",))))
    request = ask(as_json, view, [[1, 2], [3, 4]])
    texts = np.array([b"a", b"\xff"], object)
    found = answer(as_json, view, request, y=np.array([[1, np.nan], [3, 4]], np.float32), t=texts)
    assert json.loads(found.body)["predictions"] == [{"y": [1, None], "t": "a"}, {"y": [3, 4], "t": {"b64": "/w=="}}]
    single = make_view((("x", "FP32", (2,)),), (("y", "FP32", (3,)),))
    request = ask(as_json, single, {"x": [1, 2]})
    assert json.loads(answer(as_json, single, request, y=[1, 2, 3]).body)["predictions"] == [{"y": [1, 2, 3]}]


def test_a_table_for_who_accepts_only_that(make_view: View, make_head: MakeHead) -> None:
    view = make_view(PLAIN, transformer=Table())
    head = make_head(content_type="text/csv", accept="text/csv")
    request = ask(head, view, b"age\n30\n40\n")
    found = answer(head, view, request, y=np.array([[0.75, 0.25], [1, 0]], np.float32))
    assert found.content_type == b"text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(found.body.decode(), newline="")))
    assert [row["label"] for row in rows] == ["old", "old"]
    assert json.loads(rows[0]["scores"]) == {"old": 0.75, "young": 0.25}
    both = make_head(content_type="text/csv", accept="text/csv, application/json")
    assert answer(both, view, ask(both, view, b"age\n30\n"), y=[[1, 0]]).content_type == b"application/json"


@pytest.mark.parametrize(
    "transformer",
    [None, Table(), Whole("text", "text/plain"), Whole("image", "image/png")],
    ids=["bare", "table", "text", "image"],
)
def test_the_guide_shows_a_line_that_works(
    make_view: View, make_head: MakeHead, make_models: Any, get_page: Any, transformer: Any
) -> None:
    view = make_view(PLAIN, transformer=transformer, labels=("no", "yes"), limits=manifest.Limits(max_batch=4))
    _, guide = get_page(make_head(method="GET"), "/predict/{model}", make_models(view), model="mlp")
    assert guide["labels"] == ["no", "yes"]
    assert guide["limits"]["rows"] == 4
    assert guide["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["batch", 2]}]
    line = guide["example"]
    assert line.endswith(" http://localhost:8000/predict/mlp")
    media = line.split("Content-Type: ")[1].split("'")[0]
    assert media in guide["accepts"]
    if "@picture" in line:
        body: bytes = b"\x89PNG"
    else:
        body = line.split("-d '" if "-d '" in line else "--data-binary '")[1].rpartition("' ")[0].encode()
    ask(make_head(content_type=media), view, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just({"b64": "AA=="}),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "age", "sex", "it", "inputs"]), inner, max_size=3)
    ),
    max_leaves=10,
)
TRANSFORMERS = [None, Table(), Whole("text", "text/plain"), Whole("image", "image/png")]


@pytest.mark.promise("P-36c")
@settings(deadline=None, max_examples=250)
@given(document=JSON, transformer=st.sampled_from(TRANSFORMERS))
def test_any_document_is_answered_or_refused(document: Any, transformer: Any) -> None:
    view = VIEWS(PLAIN, transformer=transformer)
    try:
        request = ask(HEADS(content_type="application/json"), view, document)
    except errors.InvalidInput:
        return
    view.contract.check(request.inputs)


@pytest.mark.promise("P-36c")
@settings(deadline=None, max_examples=250)
@given(
    body=st.binary(max_size=60) | st.text("age,sex\n\"1.'m\r-e", max_size=60).map(str.encode),
    media=st.sampled_from(["text/csv", "text/plain", "image/png", "application/json"]),
    transformer=st.sampled_from(TRANSFORMERS),
)
def test_any_body_is_answered_or_refused(body: bytes, media: str, transformer: Any) -> None:
    view = VIEWS(PLAIN, transformer=transformer)
    try:
        request = ask(HEADS(content_type=media), view, body)
    except errors.InvalidInput:
        return
    rows = view.contract.check(request.inputs)[0]
    outputs = {"y": np.zeros((rows, 2), np.float32)}
    found = plain.encode(HEADS(), request, inference.InferResponse(outputs, "1"), view)
    assert len(json.loads(found.body)["predictions"]) == rows
    assert not any(math.isinf(value) for value in request.inputs["x"].ravel().tolist())


VIEWS: View
HEADS: MakeHead


@pytest.fixture(autouse=True)
def _known(make_view: View, make_head: MakeHead) -> None:
    global VIEWS, HEADS
    VIEWS, HEADS = make_view, make_head
