"""What the server tells people who come with curl: its models, what each takes, and whether it is well.

Called by `plain` for its routes. Must never show an address of the server but the one that the caller used.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from windlass.protocols import answers, base
from windlass.protocols import errors as statuses
from windlass.types import directory, fields, signature

_HOST = re.compile(r"[A-Za-z0-9.\-\[\]:]{1,255}")
_EXAMPLES = {"number": 1.5, "text": "some text", "category": "a", "image": {"b64": "<base64 of the image>"}}
_LARGEST_EXAMPLE = 64


def routes() -> tuple[base.Route, ...]:
    """The list of models, the guide to one, and health."""
    return (
        base.Route("GET", "/", "model:read", base.QueryRoute(_models)),
        base.Route("GET", "/predict/{model}", "model:read", base.QueryRoute(_guide)),
        base.Route("GET", "/predict/{model}/{version}", "model:read", base.QueryRoute(_guide)),
        base.Route("GET", "/health", "health", base.QueryRoute(_health)),
    )


def takes_csv(view: directory.ModelView) -> bool:
    """Whether a table of numbers and texts can be the model's input."""
    known = view.transformer.fields
    if known:
        return all(field.kind != "image" for field in known)
    inputs = view.signature.inputs
    return len(inputs) == 1 and len(inputs[0].shape) == 2 and inputs[0].datatype not in ("BYTES", "BOOL")


def accepted(view: directory.ModelView) -> tuple[str, ...]:
    """The media types of a body for this model, JSON first."""
    whole = tuple(m for m in view.transformer.media if _is_whole(m, view.transformer.fields))
    return ("application/json", *(("text/csv",) if takes_csv(view) else ()), *whole)


def _is_whole(media: str, known: tuple[fields.Field, ...]) -> bool:
    """Whether a body of this type is enough: it is the value of one field, and no other one is needed."""
    kind = "text" if media.startswith("text/") else "image"
    return sum(field.kind == kind for field in known) == 1 and all(f.kind == kind or not f.required for f in known)


def _models(
    head: base.Head, _parameters: base.Parameters, _body: bytes, models: directory.ModelDirectory
) -> base.Answer:
    url = _url(head)
    listed = [
        {
            "name": one.name,
            "version": one.version,
            "state": one.state,
            "predict": f"POST {url}/predict/{one.name}",
            "guide": f"GET {url}/predict/{one.name}",
        }
        for one in models.states()
    ]
    protocols = {
        "plain": f"{url}/predict/{{model}}",
        "Open Inference Protocol v2": f"{url}/v2/models/{{model}}/infer",
        "TensorFlow Serving": f"{url}/v1/models/{{model}}:predict",
    }
    return answers.document({"server": "windlass", "models": listed, "protocols": protocols})


def _guide(head: base.Head, parameters: base.Parameters, _body: bytes, models: directory.ModelDirectory) -> base.Answer:
    view = models.find(parameters["model"], parameters.get("version", ""))
    media = accepted(view)
    guide: dict[str, Any] = {
        "model": view.name,
        "version": view.version,
        "accepts": media,
        "example": _curl(f"{_url(head)}{_path(parameters)}", media, view),
    }
    if view.transformer.fields:
        guide["fields"] = [_field(field) for field in view.transformer.fields]
    guide["inputs"] = [_tensor(spec) for spec in view.signature.inputs]
    guide["outputs"] = [_tensor(spec) for spec in view.signature.outputs]
    if view.labels:
        guide["labels"] = view.labels
    guide["limits"] = {
        "rows": view.contract.max_rows,
        "elements": view.limits.max_elements,
        "bytes": view.limits.max_body,
    }
    return answers.document(guide)


def _health(
    _head: base.Head, _parameters: base.Parameters, _body: bytes, models: directory.ModelDirectory
) -> base.Answer:
    live, ready = models.live(), models.ready()
    return answers.document({"live": live, "ready": ready}, statuses.OK if live and ready else statuses.NOT_READY)


def _url(head: base.Head) -> str:
    """The address as the caller wrote it."""
    host = head.headers.get(b"host", b"").decode("latin-1")
    return f"http://{host if _HOST.fullmatch(host) else 'localhost'}"


def _path(parameters: base.Parameters) -> str:
    version = parameters.get("version")
    return f"/predict/{parameters['model']}" + (f"/{version}" if version else "")


def _field(field: fields.Field) -> dict[str, Any]:
    described: dict[str, Any] = {"name": field.name, "kind": field.kind, "required": field.required}
    if field.categories:
        described["categories"] = field.categories
    if field.meaning:
        described["meaning"] = field.meaning
    return described


def _tensor(spec: signature.TensorSpec) -> dict[str, Any]:
    described: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
    if spec.meaning:
        described["meaning"] = spec.meaning
    return described


def _curl(url: str, media: tuple[str, ...], view: directory.ModelView) -> str:
    """A line that works as it is, but for the file or the values in it."""
    kind = next((m for m in media if m not in ("application/json", "text/csv")), "")
    if kind.startswith("image/"):
        return f"curl -H 'Content-Type: {kind}' --data-binary @picture.{kind.partition('/')[2]} {url}"
    if kind:
        return f"curl -H 'Content-Type: {kind}' --data-binary 'some text' {url}"
    known = view.transformer.fields
    document: Any
    if known:
        document = [{f.name: f.categories[0] if f.categories else _EXAMPLES[f.kind] for f in known}]
    else:
        document = {"inputs": {spec.name: _zeros(spec) for spec in view.signature.inputs}}
    data = orjson.dumps(document).decode().replace("'", "'\\''")
    return f"curl -H 'Content-Type: application/json' -d '{data}' {url}"


def _zeros(spec: signature.TensorSpec) -> Any:
    """Nested lists of the tensor's shape; where that would be long, the words for it."""
    value: Any = {"BOOL": False, "BYTES": "some text"}.get(spec.datatype, 0)
    count = 1
    for size in reversed(spec.shape):
        length = size if isinstance(size, int) else 1
        count *= length
        if count > _LARGEST_EXAMPLE:
            return f"<{spec.datatype} of shape {list(spec.shape)}>"
        value = [value] * length
    return value
