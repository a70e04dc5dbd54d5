"""TensorFlow Serving's REST protocol: predict by rows or columns, classify, regress, status and metadata.

Found through the catalogue; `tfserving_status` answers the questions about models. A model's tensors are asked by
their names; `classify` and `regress` also take the fields of a model that has transforms.
Must never know of another signature than the model's one.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Literal

import msgspec
import orjson

from windlass import errors
from windlass.protocols import answers, base, columns, json_documents, json_rows, json_tensors, tfserving_status
from windlass.protocols import errors as statuses
from windlass.types import directory, inference, tensor

_SIGNATURES = ("", "serving_default", "predict", "classify", "regress")
Kind = Literal["rows", "columns", "classify", "regress"]


class PredictDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request: rows (`instances`) or whole tensors (`inputs`)."""

    instances: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    signature_name: str | msgspec.UnsetType = msgspec.UNSET


class ExamplesDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request of classify and regress; `context` holds what all examples share."""

    examples: list[json_rows.RawObject]
    context: json_rows.RawObject | msgspec.UnsetType = msgspec.UNSET
    signature_name: str | msgspec.UnsetType = msgspec.UNSET


_PREDICT = msgspec.json.Decoder(PredictDocument)
_EXAMPLES = msgspec.json.Decoder(ExamplesDocument)


class TensorFlowServing:
    """The plugin."""

    name: ClassVar[str] = "tfserving"

    def routes(self) -> tuple[base.Route, ...]:
        model = "/v1/models/{model}"
        paths = (model, f"{model}/versions/{{version}}", f"{model}/labels/{{label}}")
        actions = {
            "predict": base.InferRoute(predict, encode),
            "classify": base.InferRoute(functools.partial(examples, "classify"), encode),
            "regress": base.InferRoute(functools.partial(examples, "regress"), encode),
        }
        asked = [
            base.Route("POST", f"{path}:{verb}", "model:predict", action)
            for path in paths
            for verb, action in actions.items()
        ]
        return (*asked, *tfserving_status.routes())

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        """`{"error": sentence}`; the request id is in the answer's header, as for every answer."""
        del request_id
        return answers.document({"error": statuses.sentence(error)}, statuses.status(error))


def predict(
    _head: base.Head, parameters: base.Parameters, body: bytes, view: directory.ModelView
) -> inference.InferRequest:
    """Rows or columns to a request."""
    tfserving_status.refuse_label(parameters)
    document = json_documents.decode(_PREDICT, body)
    _check_signature(document.signature_name)
    keys = 1 + (document.signature_name is not msgspec.UNSET)
    kind: Kind
    if document.instances is not msgspec.UNSET and document.inputs is msgspec.UNSET:
        kind = "rows"
        inputs, more = _from_instances(bytes(document.instances), view)
    elif document.inputs is not msgspec.UNSET and document.instances is msgspec.UNSET:
        kind = "columns"
        inputs, more = _from_inputs(bytes(document.inputs), view)
    else:
        raise errors.InvalidInput("the request needs either 'instances' (rows) or 'inputs' (columns)")
    json_documents.refuse_repeated(body, keys + more)
    rows, key = view.contract.check(inputs)
    return inference.InferRequest(view.name, inputs, rows, key, context=kind)


def examples(
    kind: Kind, _head: base.Head, parameters: base.Parameters, body: bytes, view: directory.ModelView
) -> inference.InferRequest | base.Later:
    """Examples (rows of features) to a request, through the transforms if the model has them."""
    tfserving_status.refuse_label(parameters)
    document = json_documents.decode(_EXAMPLES, body)
    _check_signature(document.signature_name)
    json_rows.check_rows(len(document.examples), view)
    shared = document.context if document.context is not msgspec.UNSET else {}
    keys = 1 + (document.signature_name is not msgspec.UNSET) + (document.context is not msgspec.UNSET) + len(shared)
    json_documents.refuse_repeated(body, keys + sum(map(len, document.examples)))
    rows = [{**shared, **row} for row in document.examples]
    known = view.transformer.fields
    if not known:
        return _checked({name: _feature(name, rows, view) for name in _names(rows)}, view, kind)

    def work() -> inference.InferRequest:
        return _checked(view.transformer.prepare(columns.from_rows(rows, known)), view, kind)

    return base.Later(work) if len(body) > view.transformer.inline_bytes else work()


def encode(
    _head: base.Head, request: inference.InferRequest, response: inference.InferResponse, view: directory.ModelView
) -> base.Answer:
    """The answer in the form that the request's kind has."""
    kind: Kind = request.context
    names = view.contract.output_names
    outputs = response.outputs
    if kind == "rows":
        return base.Answer(b'{"predictions":%b}' % _predictions(outputs, names))
    if kind == "columns":
        return base.Answer(b'{"outputs":%b}' % _outputs(outputs, names))
    results = _classified(request, response, view) if kind == "classify" else _regressed(request, response, view)
    return answers.document({"results": results})


def _from_instances(data: bytes, view: directory.ModelView) -> tuple[tensor.Tensors, int]:
    """Tensors, and how many keys were read."""
    if json_rows.first_item(data) != b"{":
        spec = json_rows.only_input(view)
        return {spec.name: json_rows.read_tensor(data, spec, view)}, 0
    rows = json_documents.decode(json_rows.ROWS, data)
    json_rows.check_rows(len(rows), view)
    keys = sum(len(row) for row in rows)
    if _is_binary(view) and all(row.keys() == {"b64"} for row in rows):
        spec = view.signature.inputs[0]
        return {spec.name: json_rows.read_tensor(data, spec, view)}, keys
    return json_rows.by_row(rows, view), keys


def _from_inputs(data: bytes, view: directory.ModelView) -> tuple[tensor.Tensors, int]:
    if json_rows.first(data) != b"{":
        spec = json_rows.only_input(view)
        return {spec.name: json_rows.read_tensor(data, spec, view)}, 0
    document = json_documents.decode(json_rows.OBJECT, data)
    return json_rows.by_name(document, view), len(document)


def _is_binary(view: directory.ModelView) -> bool:
    """Whether an instance `{"b64": ...}` is a value: the model's one input takes bytes and is not itself called so."""
    inputs = view.signature.inputs
    return len(inputs) == 1 and inputs[0].datatype == "BYTES" and inputs[0].name != "b64"


def _checked(inputs: tensor.Tensors, view: directory.ModelView, kind: Kind) -> inference.InferRequest:
    rows, key = view.contract.check(inputs)
    return inference.InferRequest(view.name, inputs, rows, key, context=kind)


def _check_signature(name: str | msgspec.UnsetType) -> None:
    if name is not msgspec.UNSET and name not in _SIGNATURES:
        raise errors.InvalidInput(
            f"Serving signature name: '{name[:64]}' is not found: a model here has the one 'serving_default'"
        )


def _names(rows: list[json_rows.RawObject]) -> list[str]:
    if not rows:
        raise errors.InvalidInput("the request has no examples")
    return list(rows[0])


def _feature(name: str, rows: list[json_rows.RawObject], view: directory.ModelView) -> tensor.Array:
    """One input from examples, whose features may be a value or a list of them."""
    spec = view.contract.spec(name)
    parts: list[msgspec.Raw] = []
    for index, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise errors.InvalidInput(f"example {index} does not have the same features as example 0")
        part = bytes(row[name])
        is_list = json_rows.first(part) == b"["
        if not is_list and len(spec.shape) == 2:
            part = b"[%b]" % part
        elif is_list and len(spec.shape) == 1:
            part = part.strip()[1:-1]
        parts.append(msgspec.Raw(part))
    array = json_rows.read_tensor(json_rows.join(parts), spec, view)
    if array.shape[0] != len(rows):
        raise errors.InvalidInput(f"feature '{name[:64]}' has {array.shape[0]} values for {len(rows)} examples")
    return array


def _predictions(outputs: tensor.Tensors, names: tuple[str, ...]) -> bytes:
    if len(names) == 1:
        return _json(outputs[names[0]])
    sizes = {outputs[name].shape[:1] for name in names}
    if len(sizes) != 1 or () in sizes:
        raise errors.InvalidInput("the outputs do not have a row for each instance: ask by 'inputs' instead")
    rows = zip(*(_items(outputs[name]) for name in names), strict=True)
    return orjson.dumps([dict(zip(names, row, strict=True)) for row in rows])


def _outputs(outputs: tensor.Tensors, names: tuple[str, ...]) -> bytes:
    if len(names) == 1:
        return _json(outputs[names[0]])
    return orjson.dumps({name: orjson.Fragment(_json(outputs[name])) for name in names})


def _json(array: tensor.Array) -> bytes:
    return orjson.dumps(_items(array)) if array.dtype.kind in "OSU" else json_tensors.encode(array, "")


def _items(array: tensor.Array) -> list[Any]:
    """Nested lists; bytes become text where they are UTF-8, and `{"b64": ...}` where they are not."""
    items: list[Any] = array.tolist()
    return [columns.to_json(item) for item in items] if array.dtype.kind in "OSU" else items


def _classified(
    request: inference.InferRequest, response: inference.InferResponse, view: directory.ModelView
) -> list[list[list[Any]]]:
    """For each example its classes, `[label, score]`."""
    answer = view.transformer.finish(response.outputs, request.inputs)
    scores = answer.get("scores")
    if scores is not None and scores.dtype == object and all(isinstance(row, dict) for row in scores):
        return [[[label, score] for label, score in row.items()] for row in scores]
    numeric = [array for array in response.outputs.values() if array.ndim == 2 and array.dtype.kind in "fiu"]
    if len(numeric) != 1:
        raise errors.InvalidInput("the model has no single output of scores [rows, classes]: ask it by :predict")
    labels = view.labels or tuple(str(index) for index in range(numeric[0].shape[1]))
    return [[list(pair) for pair in zip(labels, row, strict=False)] for row in numeric[0].tolist()]


def _regressed(
    request: inference.InferRequest, response: inference.InferResponse, view: directory.ModelView
) -> list[float]:
    """For each example its value."""
    answer = view.transformer.finish(response.outputs, request.inputs)
    numeric = [
        array
        for array in answer.values()
        if array.dtype.kind in "fiu" and array.shape[:1] == (request.rows,) and array.size == request.rows
    ]
    if len(numeric) != 1:
        raise errors.InvalidInput("the model has no single output of one value for each row: ask it by :predict")
    values: list[float] = numeric[0].ravel().tolist()
    return values
