"""The Open Inference Protocol's questions about the server: health, metadata, config, statistics, the repository.

Called by `oip_rest` for its routes. Field names are those of the protocol and of Triton's extensions, so that their
clients work unmodified. Must never say that something is done which is not: settings that cannot change are refused.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from windlass import errors
from windlass.protocols import answers, base, json_documents
from windlass.protocols import errors as statuses
from windlass.types import directory, signature

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
LOGGING = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
_Directory = directory.ModelDirectory
_Answer = Callable[[base.Head, base.Parameters, bytes, _Directory], base.Answer | base.Pending]


class _IndexDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ready: bool = False
    repository_name: str = ""


class _LoadDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    parameters: dict[str, Any] = {}


_INDEX = msgspec.json.Decoder(_IndexDocument)
_LOAD = msgspec.json.Decoder(_LoadDocument)
_SETTINGS = msgspec.json.Decoder(dict[str, Any])


def routes() -> tuple[base.Route, ...]:
    """Every route of the protocol but inference."""
    model = "/v2/models/{model}"
    version = "/v2/models/{model}/versions/{version}"
    table: list[tuple[str, str, base.Permission, _Answer]] = [
        ("GET", "/v2", "model:read", _server),
        ("GET", "/v2/health/live", "health", _live),
        ("GET", "/v2/health/ready", "health", _ready),
        ("GET", "/v2/models/stats", "model:read", _statistics),
        ("POST", "/v2/repository/index", "model:read", _index),
        ("POST", "/v2/repository/models/{model}/load", "model:load", _load),
        ("POST", "/v2/repository/models/{model}/unload", "model:load", _unload),
        ("GET", "/v2/logging", "model:read", functools.partial(_settings, LOGGING)),
        ("POST", "/v2/logging", "admin", functools.partial(_change_settings, LOGGING)),
    ]
    for path in (model, version):
        table += [
            ("GET", path, "model:read", _metadata),
            ("GET", f"{path}/ready", "model:read", _model_ready),
            ("GET", f"{path}/config", "model:read", _config),
            ("GET", f"{path}/stats", "model:read", _statistics),
        ]
    for path in ("/v2/trace/setting", f"{model}/trace/setting"):
        table.append(("GET", path, "model:read", functools.partial(_settings, TRACE)))
        table.append(("POST", path, "admin", functools.partial(_change_settings, TRACE)))
    for kind in ("systemsharedmemory", "cudasharedmemory"):
        region = f"/v2/{kind}/region/{{region}}"
        table += [
            ("GET", f"/v2/{kind}/status", "model:read", _no_regions),
            ("GET", f"{region}/status", "model:read", _no_region),
            ("POST", f"{region}/register", "model:predict", _no_shared_memory),
            ("POST", f"{region}/unregister", "model:read", _nothing_to_do),
            ("POST", f"/v2/{kind}/unregister", "model:read", _nothing_to_do),
        ]
    return tuple(base.Route(method, path, who, base.QueryRoute(answer)) for method, path, who, answer in table)


def _server(_head: base.Head, _parameters: base.Parameters, _body: bytes, _models: _Directory) -> base.Answer:
    return answers.document({"name": "windlass", "version": _own_version(), "extensions": EXTENSIONS})


def _live(_head: base.Head, _parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    live = models.live()
    return answers.document({"live": live}, statuses.OK if live else statuses.NOT_READY)


def _ready(_head: base.Head, _parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    ready = models.ready()
    return answers.document({"ready": ready}, statuses.OK if ready else statuses.NOT_READY)


def _model_ready(_head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    name = parameters["model"]
    try:
        models.find(name, parameters.get("version", ""))
    except errors.Unavailable:
        return answers.document({"name": name, "ready": False}, statuses.NOT_READY)
    return answers.document({"name": name, "ready": True})


def _metadata(_head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    view = models.find(parameters["model"], parameters.get("version", ""))
    return answers.document(
        {
            "name": view.name,
            "versions": view.versions,
            "platform": view.platform,
            "inputs": [_tensor(spec) for spec in view.signature.inputs],
            "outputs": [_tensor(spec) for spec in view.signature.outputs],
        }
    )


def _config(_head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    """Triton's ModelConfig as far as it applies here; what is ours besides is under `parameters`."""
    version = parameters.get("version", "")
    view = models.find(parameters["model"], version)
    batched = view.signature.batched
    ours = models.config(view.name, version)
    return answers.document(
        {
            "name": view.name,
            "platform": view.platform,
            "backend": view.platform.partition("_")[0],
            "version_policy": {"specific": {"versions": [int(v) for v in view.versions if v.isdigit()]}},
            "max_batch_size": view.limits.max_batch if batched else 0,
            "input": [_config_tensor(spec, batched=batched) for spec in view.signature.inputs],
            "output": [_config_tensor(spec, batched=batched) for spec in view.signature.outputs],
            "parameters": {name: {"string_value": _plain_text(value)} for name, value in ours.items()},
        }
    )


def _statistics(_head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    name, version = parameters.get("model", ""), parameters.get("version", "")
    if name:
        models.find(name, version)
    return answers.document({"model_stats": [_statistic(one) for one in models.statistics(name, version)]})


def _index(_head: base.Head, _parameters: base.Parameters, body: bytes, models: _Directory) -> base.Answer:
    asked = json_documents.decode(_INDEX, body) if body else _IndexDocument()
    return answers.document(
        [
            {"name": one.name, "version": one.version, "state": one.state, "reason": one.reason}
            for one in models.states()
            if one.state == "READY" or not asked.ready
        ]
    )


def _load(_head: base.Head, parameters: base.Parameters, body: bytes, models: _Directory) -> base.Pending:
    if body and json_documents.decode(_LOAD, body).parameters:
        raise errors.Unsupported(
            "a model is loaded as it was registered: its config and its files cannot be given in the request",
            hint="Leave out the parameters.",
        )
    name = parameters["model"]
    return base.Pending(lambda finish: models.load(name, _finished(finish, f"failed to load '{name}'")))


def _unload(_head: base.Head, parameters: base.Parameters, body: bytes, models: _Directory) -> base.Pending:
    # The only parameter that clients send, unload_dependents, changes nothing: no model here depends on another.
    if body:
        json_documents.decode(_LOAD, body)
    name = parameters["model"]
    return base.Pending(lambda finish: models.unload(name, _finished(finish, f"failed to unload '{name}'")))


def _finished(finish: base.Finish, what: str) -> Callable[[errors.WindlassError | None], None]:
    """Answer once it is done: an empty body, or the reason behind the words that clients look for."""

    def done(error: errors.WindlassError | None) -> None:
        if error is None:
            finish(base.Answer(b""))
            return
        told = error
        if not error.message.startswith(what):
            told = type(error)(f"{what}, {statuses.sentence(error)}")
        if isinstance(error, errors.Unavailable) and isinstance(told, errors.Unavailable):
            told.retry_after_s = error.retry_after_s
        finish(told)

    return done


def _settings(
    values: Mapping[str, Any], _head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory
) -> base.Answer:
    if "model" in parameters:
        models.find(parameters["model"])
    return answers.document(values)


def _change_settings(
    values: Mapping[str, Any], _head: base.Head, _parameters: base.Parameters, body: bytes, _models: _Directory
) -> base.Answer:
    """Accept what is so already (or null, which asks for the default); refuse any change."""
    for name, value in json_documents.decode(_SETTINGS, body or b"{}").items():
        if name not in values:
            raise errors.InvalidInput(f"there is no setting '{name[:64]}': there are {', '.join(values)}")
        if value is not None and value != values[name]:
            raise errors.Unsupported(f"the setting '{name}' cannot be changed over the network")
    return answers.document(values)


def _no_regions(_head: base.Head, _parameters: base.Parameters, _body: bytes, _models: _Directory) -> base.Answer:
    return answers.document([])


def _no_region(_head: base.Head, _parameters: base.Parameters, _body: bytes, _models: _Directory) -> base.Answer:
    raise errors.NotFound("there is no such shared memory region: none can be registered here")


def _no_shared_memory(_head: base.Head, _parameters: base.Parameters, _body: bytes, _models: _Directory) -> base.Answer:
    raise errors.Unsupported(
        "shared memory regions are not supported: callers cannot name memory of the server",
        hint="Send the tensors in the request, as JSON or as binary data.",
    )


def _nothing_to_do(_head: base.Head, _parameters: base.Parameters, _body: bytes, _models: _Directory) -> base.Answer:
    """Clients unregister regions before they begin; there are none, so that is done already."""
    return base.Answer(b"")


@functools.cache
def _own_version() -> str:
    return importlib.metadata.version("windlass")


def _tensor(spec: signature.TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": _sizes(spec.shape)}


def _config_tensor(spec: signature.TensorSpec, *, batched: bool) -> dict[str, Any]:
    datatype = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": datatype, "dims": _sizes(spec.shape[1:] if batched else spec.shape)}


def _sizes(shape: tuple[int | str, ...]) -> list[int]:
    """Sizes as the protocol writes them: -1 is any."""
    return [size if isinstance(size, int) else -1 for size in shape]


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _statistic(one: directory.ModelStatistics) -> dict[str, Any]:
    executed = sum(count for count, _ in one.batches.values())
    none = {"count": 0, "ns": 0}
    return {
        "name": one.name,
        "version": one.version,
        "last_inference": one.last_inference_ms,
        "inference_count": one.inference_count,
        "execution_count": one.execution_count,
        "inference_stats": {
            "success": {"count": one.success_count, "ns": one.success_ns},
            "fail": {"count": one.fail_count, "ns": one.fail_ns},
            "queue": {"count": one.success_count, "ns": one.queue_ns},
            "compute_input": none,
            "compute_infer": {"count": executed, "ns": one.compute_infer_ns},
            "compute_output": none,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": none,
                "compute_infer": {"count": count, "ns": ns},
                "compute_output": none,
            }
            for size, (count, ns) in sorted(one.batches.items())
        ],
        "memory_usage": [],
    }
