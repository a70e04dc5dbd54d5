"""The plain protocol, for people: `POST /predict/{model}` with JSON, CSV, a text or an image; readable answers.

Found through the catalogue; `plain_guide` tells a person what a model takes. Where the model has transforms, fields go
through them and answers come out of them; where it has none, tensors are given and answered by name.
Must never guess a media type: what does not say what it is, is refused with what may be said.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import numpy as np

from windlass import errors
from windlass.protocols import answers, base, columns, json_documents, json_rows, plain_guide
from windlass.protocols import errors as statuses
from windlass.types import directory, fields, inference, tensor

JSON = "application/json"
CSV = "text/csv"


class _Tensors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: json_rows.RawObject


_TENSORS = msgspec.json.Decoder(_Tensors)
_Prepare = Callable[[], tensor.Tensors]


class Plain:
    """The plugin."""

    name: ClassVar[str] = "plain"

    def routes(self) -> tuple[base.Route, ...]:
        infer = base.InferRoute(decode, encode)
        return (
            base.Route("POST", "/predict/{model}", "model:predict", infer),
            base.Route("POST", "/predict/{model}/{version}", "model:predict", infer),
            *plain_guide.routes(),
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        """`{"error": {code, message, hint, request_id}}`; of a fault of ours only the general sentence."""
        status = statuses.status(error)
        told = statuses.sentence(error)
        known = told == str(error)
        document = {
            "code": error.code,
            "message": error.message if known else told,
            "hint": error.hint if known else "",
            "request_id": request_id,
        }
        return answers.document({"error": document}, status)


def decode(
    head: base.Head, _parameters: base.Parameters, body: bytes, view: directory.ModelView
) -> inference.InferRequest | base.Later:
    """The request. Preparation that is long for the event loop is handed back as `Later`."""
    prepare = _reader(head, body, view)
    csv_wanted = _accepts_csv(head)

    def work() -> inference.InferRequest:
        inputs = prepare()
        rows, key = view.contract.check(inputs)
        return inference.InferRequest(view.name, inputs, rows, key, context=csv_wanted)

    transformer = view.transformer
    return base.Later(work) if transformer.fields and len(body) > transformer.inline_bytes else work()


def encode(
    _head: base.Head, request: inference.InferRequest, response: inference.InferResponse, view: directory.ModelView
) -> base.Answer:
    """One object of answer columns for each row, as JSON or, for who accepts only that, CSV."""
    answer = view.transformer.finish(response.outputs, request.inputs)
    rows = columns.to_rows(answer, request.rows, batched=view.signature.batched)
    if request.context:
        return base.Answer(columns.to_csv(rows), b"text/csv; charset=utf-8")
    return answers.document({"model": view.name, "version": response.version or view.version, "predictions": rows})


def _reader(head: base.Head, body: bytes, view: directory.ModelView) -> _Prepare:
    """How to read this body, by its media type."""
    media, parameters = _media_type(head)
    transformer = view.transformer
    if "charset=" in parameters and "charset=utf-8" not in parameters:
        raise errors.UnsupportedMedia("text is read as UTF-8 only", hint="Leave out the charset, or send UTF-8.")
    if media == JSON:
        return functools.partial(_from_json, body, view)
    if media == CSV and plain_guide.takes_csv(view):
        return functools.partial(_from_csv, body, view)
    if media in plain_guide.accepted(view):
        return functools.partial(transformer.prepare, _from_whole(body, media, transformer.fields))
    wanted = ", ".join(plain_guide.accepted(view))
    problem = f"the media type '{media[:64]}' is not read here" if media else "the request has no content type"
    raise errors.UnsupportedMedia(
        f"{problem}: the model '{view.name}' takes {wanted}",
        hint=f"Set the header, such as: Content-Type: {JSON}",
    )


def _media_type(head: base.Head) -> tuple[str, str]:
    media, _, parameters = head.headers.get(b"content-type", b"").decode("latin-1").lower().partition(";")
    return media.strip(), parameters.replace(" ", "").replace('"', "")


def _accepts_csv(head: base.Head) -> bool:
    accepted = head.headers.get(b"accept", b"").lower()
    return b"text/csv" in accepted and b"json" not in accepted


def _from_json(body: bytes, view: directory.ModelView) -> tensor.Tensors:
    """`{field: value}`, `{field: [values]}`, `[{row}, ...]`, `{"inputs": {name: tensor}}` or a bare nested array."""
    known = view.transformer.fields
    if json_rows.first(body) == b"[":
        if json_rows.first_item(body) != b"{":
            spec = json_rows.only_input(view)
            return {spec.name: json_rows.read_tensor(body, spec, view)}
        rows = json_documents.decode(json_rows.ROWS, body)
        json_rows.check_rows(len(rows), view)
        json_documents.refuse_repeated(body, sum(map(len, rows)))
        return view.transformer.prepare(columns.from_rows(rows, known)) if known else json_rows.by_row(rows, view)
    document = json_documents.decode(json_rows.OBJECT, body)
    if document.keys() == {"inputs"} and json_rows.first(bytes(document["inputs"])) == b"{":
        tensors = json_documents.decode(_TENSORS, body).inputs
        json_documents.refuse_repeated(body, 1 + len(tensors))
        return json_rows.by_name(tensors, view)
    json_documents.refuse_repeated(body, len(document))
    if not known:
        return json_rows.by_name(document, view)
    given = columns.from_columns(document, known)
    json_rows.check_rows(len(next(iter(given.values()))), view)
    return view.transformer.prepare(given)


def _from_csv(body: bytes, view: directory.ModelView) -> tensor.Tensors:
    header, rows = columns.read_table(body, view.contract.max_rows)
    known = view.transformer.fields
    if known:
        return view.transformer.prepare(columns.from_table(header, rows, known))
    spec = json_rows.only_input(view)
    numbers = columns.numbers(rows)
    dtype = tensor.dtype(spec.datatype)
    with np.errstate(over="ignore", invalid="ignore"):
        array = numbers.astype(dtype)
        # Missing stays missing; any other number must be the same, or for floats the nearest that there is.
        lost = (array != numbers) if dtype.kind in "iu" else (np.isinf(array) & ~np.isinf(numbers))
    if lost.any():
        row, column = np.argwhere(lost)[0].tolist()
        raise errors.InvalidInput(f"column '{header[column][:64]}', row {row}: {spec.datatype} cannot hold this number")
    return {spec.name: array}


def _from_whole(body: bytes, media: str, known: tuple[fields.Field, ...]) -> dict[str, Any]:
    """One row: the body is the value of the one field of its kind."""
    kind = "text" if media.startswith("text/") else "image"
    field = next(field for field in known if field.kind == kind)
    if kind == "image":
        return columns.from_value(body, field)
    try:
        return columns.from_value(body.decode(), field)
    except UnicodeDecodeError:
        raise errors.InvalidInput("the text is not UTF-8") from None
