"""The Open Inference Protocol's questions about the server, as JSON: health, metadata, statistics, the repository.

Called by `oip_rest` for its routes; what is said is in `oip_documents`. Must never do anything but read the question
and write the answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from windlass import errors
from windlass.protocols import answers, base, json_documents, oip_documents
from windlass.protocols import errors as statuses
from windlass.types import directory

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
        ("GET", "/v2/logging", "model:read", functools.partial(_settings, oip_documents.LOGGING)),
        ("POST", "/v2/logging", "admin", functools.partial(_change_settings, oip_documents.LOGGING)),
    ]
    for path in (model, version):
        table += [
            ("GET", path, "model:read", _metadata),
            ("GET", f"{path}/ready", "model:read", _model_ready),
            ("GET", f"{path}/config", "model:read", _config),
            ("GET", f"{path}/stats", "model:read", _statistics),
            ("POST", f"{path}/generate", "model:predict", _generate),
            ("POST", f"{path}/generate_stream", "model:predict", _generate),
        ]
    for path in ("/v2/trace/setting", f"{model}/trace/setting"):
        table.append(("GET", path, "model:read", functools.partial(_settings, oip_documents.TRACE)))
        table.append(("POST", path, "admin", functools.partial(_change_settings, oip_documents.TRACE)))
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


def _generate(_head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    """The protocol's extension for models that answer in parts."""
    view = models.find(parameters["model"], parameters.get("version", ""))
    raise errors.Unsupported(f"model '{view.name}' gives its answer whole: ask it by /v2/models/{view.name}/infer")


def _server(_head: base.Head, _parameters: base.Parameters, _body: bytes, _models: _Directory) -> base.Answer:
    return answers.document(oip_documents.server())


def _live(_head: base.Head, _parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    live = models.live()
    return answers.document({"live": live}, statuses.OK if live else statuses.NOT_READY)


def _ready(_head: base.Head, _parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    ready = models.ready()
    return answers.document({"ready": ready}, statuses.OK if ready else statuses.NOT_READY)


def _model_ready(_head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    name = parameters["model"]
    ready = oip_documents.model_ready(models, name, parameters.get("version", ""))
    return answers.document({"name": name, "ready": ready}, None if ready else statuses.NOT_READY)


def _metadata(_head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    view = models.find(parameters["model"], parameters.get("version", ""))
    return answers.document(oip_documents.metadata(view))


def _config(_head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    return answers.document(oip_documents.config(models, parameters["model"], parameters.get("version", "")))


def _statistics(_head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory) -> base.Answer:
    name, version = parameters.get("model", ""), parameters.get("version", "")
    return answers.document(oip_documents.statistics(models, name, version))


def _index(_head: base.Head, _parameters: base.Parameters, body: bytes, models: _Directory) -> base.Answer:
    asked = json_documents.decode(_INDEX, body) if body else _IndexDocument()
    return answers.document(oip_documents.index(models, only_ready=asked.ready))


def _load(_head: base.Head, parameters: base.Parameters, body: bytes, models: _Directory) -> base.Pending:
    given = json_documents.decode(_LOAD, body).parameters if body else {}
    return oip_documents.load(models, parameters["model"], given)


def _unload(_head: base.Head, parameters: base.Parameters, body: bytes, models: _Directory) -> base.Pending:
    # The only parameter that clients send, unload_dependents, changes nothing: no model here depends on another.
    if body:
        json_documents.decode(_LOAD, body)
    return oip_documents.unload(models, parameters["model"])


def _settings(
    values: dict[str, Any], _head: base.Head, parameters: base.Parameters, _body: bytes, models: _Directory
) -> base.Answer:
    if "model" in parameters:
        models.find(parameters["model"])
    return answers.document(values)


def _change_settings(
    values: dict[str, Any], _head: base.Head, _parameters: base.Parameters, body: bytes, _models: _Directory
) -> base.Answer:
    wanted = json_documents.decode(_SETTINGS, body or b"{}")
    oip_documents.change_settings(values, wanted)
    return answers.document(values)


def _no_regions(_head: base.Head, _parameters: base.Parameters, _body: bytes, _models: _Directory) -> base.Answer:
    return answers.document([])


def _no_region(_head: base.Head, _parameters: base.Parameters, _body: bytes, _models: _Directory) -> base.Answer:
    raise oip_documents.no_region()


def _no_shared_memory(_head: base.Head, _parameters: base.Parameters, _body: bytes, _models: _Directory) -> base.Answer:
    raise oip_documents.no_shared_memory()


def _nothing_to_do(_head: base.Head, _parameters: base.Parameters, _body: bytes, _models: _Directory) -> base.Answer:
    """Clients unregister regions before they begin; there are none, so that is done already."""
    return base.Answer(b"")
