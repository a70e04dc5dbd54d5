"""TensorFlow Serving's questions about models: which versions are there, and what they take.

Called by `tfserving` for its routes. Must never name a label: versions are asked by number.
"""

from __future__ import annotations

from typing import Any

from windlass import errors
from windlass.protocols import answers, base
from windlass.types import directory, signature

_TYPES = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BYTES": "DT_STRING",
}
_STATES = {
    "READY": ("AVAILABLE", "OK"),
    "LOADING": ("LOADING", "OK"),
    "UNAVAILABLE": ("END", "UNKNOWN"),
}


def routes() -> tuple[base.Route, ...]:
    """Status and metadata of a model and of its versions."""
    model = "/v1/models/{model}"
    found = []
    for path in (model, f"{model}/versions/{{version}}", f"{model}/labels/{{label}}"):
        found.append(base.Route("GET", path, "model:read", base.QueryRoute(_status)))
        found.append(base.Route("GET", f"{path}/metadata", "model:read", base.QueryRoute(_metadata)))
    return tuple(found)


def refuse_label(parameters: base.Parameters) -> None:
    """`NotFound` for a path with a label: an endpoint has versions, and aliases are followed before it is served."""
    label = parameters.get("label")
    if label is not None:
        raise errors.NotFound(
            f"the model '{parameters['model'][:128]}' has no version label '{label[:64]}'",
            hint="Ask without a label, or by version.",
        )


def _status(
    _head: base.Head, parameters: base.Parameters, _body: bytes, models: directory.ModelDirectory
) -> base.Answer:
    refuse_label(parameters)
    name, version = parameters["model"], parameters.get("version", "")
    known = [one for one in models.states() if one.name == name and version in ("", one.version)]
    if not known:
        # The directory says what there is instead.
        view = models.find(name, version)
        known = [directory.ModelState(view.name, view.version, "READY")]
    return answers.document({"model_version_status": [_state(one) for one in known]})


def _state(one: directory.ModelState) -> dict[str, Any]:
    state, code = _STATES[one.state]
    return {"version": one.version, "state": state, "status": {"error_code": code, "error_message": one.reason}}


def _metadata(
    _head: base.Head, parameters: base.Parameters, _body: bytes, models: directory.ModelDirectory
) -> base.Answer:
    refuse_label(parameters)
    view = models.find(parameters["model"], parameters.get("version", ""))
    one = {
        "inputs": {spec.name: _tensor(spec) for spec in view.signature.inputs},
        "outputs": {spec.name: _tensor(spec) for spec in view.signature.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return answers.document(
        {
            "model_spec": {"name": view.name, "signature_name": "", "version": view.version},
            "metadata": {"signature_def": {"signature_def": {"serving_default": one}}},
        }
    )


def _tensor(spec: signature.TensorSpec) -> dict[str, Any]:
    sizes = [{"size": str(size if isinstance(size, int) else -1), "name": ""} for size in spec.shape]
    return {
        "dtype": _TYPES[spec.datatype],
        "tensor_shape": {"dim": sizes, "unknown_rank": False},
        "name": spec.name,
    }
