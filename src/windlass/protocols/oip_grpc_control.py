"""The Open Inference Protocol's questions about the server, over gRPC: health, metadata, statistics, the repository.

Called by `oip_grpc` for its routes; what is said is in `oip_documents`. Must never do anything but read the question
and write the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from windlass import errors
from windlass.protocols import base, oip_documents
from windlass.protocols.pb import messages
from windlass.types import directory

_Directory = directory.ModelDirectory


class _Method(NamedTuple):
    permission: base.Permission
    # The answer's fields, or what gives an empty answer later.
    answer: Callable[[Any, _Directory], dict[str, Any] | base.Pending]


def routes() -> tuple[base.Route, ...]:
    """Every method of the service but inference."""
    methods = {method.name: method for method in messages.service(messages.INFERENCE).methods}
    return tuple(
        base.Route(
            "POST",
            f"/{messages.INFERENCE}/{name}",
            permission,
            base.RpcQuery(_answering(methods[name].input_type, methods[name].output_type, answer)),
        )
        for name, (permission, answer) in _METHODS.items()
    )


def _answering(
    asked: Any, told: Any, answer: Callable[[Any, _Directory], dict[str, Any] | base.Pending]
) -> Callable[[bytes, _Directory], base.Answer | base.Pending]:
    """From the bytes of one message to those of the other."""
    question, response = messages.message_class(asked.full_name), messages.message_class(told.full_name)

    def answer_message(message: bytes, models: _Directory) -> base.Answer | base.Pending:
        found = answer(messages.parse(question, message), models)
        return found if isinstance(found, base.Pending) else base.Answer(messages.filled(response, found))

    return answer_message


def _live(_asked: Any, models: _Directory) -> dict[str, Any]:
    return {"live": models.live()}


def _ready(_asked: Any, models: _Directory) -> dict[str, Any]:
    return {"ready": models.ready()}


def _model_ready(asked: Any, models: _Directory) -> dict[str, Any]:
    """A model that there is not is not ready: clients of this method expect no error."""
    try:
        return {"ready": oip_documents.model_ready(models, asked.name, asked.version)}
    except errors.NotFound:
        return {"ready": False}


def _server(_asked: Any, _models: _Directory) -> dict[str, Any]:
    return oip_documents.server()


def _metadata(asked: Any, models: _Directory) -> dict[str, Any]:
    return oip_documents.metadata(models.find(asked.name, asked.version))


def _config(asked: Any, models: _Directory) -> dict[str, Any]:
    return {"config": oip_documents.config(models, asked.name, asked.version)}


def _statistics(asked: Any, models: _Directory) -> dict[str, Any]:
    return oip_documents.statistics(models, asked.name, asked.version)


def _index(asked: Any, models: _Directory) -> dict[str, Any]:
    return {"models": oip_documents.index(models, only_ready=asked.ready)}


def _load(asked: Any, models: _Directory) -> base.Pending:
    return oip_documents.load(models, asked.model_name, asked.parameters)


def _unload(asked: Any, models: _Directory) -> base.Pending:
    return oip_documents.unload(models, asked.model_name)


def _trace(asked: Any, models: _Directory) -> dict[str, Any]:
    """Ask for the settings by sending none; a setting without a value asks for its default."""
    if asked.model_name:
        models.find(asked.model_name)
    known = {name: value if isinstance(value, list) else [value] for name, value in oip_documents.TRACE.items()}
    oip_documents.change_settings(known, {name: list(one.value) or None for name, one in asked.settings.items()})
    return {"settings": {name: {"value": value} for name, value in known.items()}}


def _logging(asked: Any, _models: _Directory) -> dict[str, Any]:
    wanted = {}
    for name, one in asked.settings.items():
        kind = one.WhichOneof("parameter_choice")
        wanted[name] = None if kind is None else getattr(one, kind)
    oip_documents.change_settings(oip_documents.LOGGING, wanted)
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    return {"settings": {name: {kinds[type(value)]: value} for name, value in oip_documents.LOGGING.items()}}


def _regions(asked: Any, _models: _Directory) -> dict[str, Any]:
    if asked.name:
        raise oip_documents.no_region()
    return {}


def _no_shared_memory(_asked: Any, _models: _Directory) -> dict[str, Any]:
    raise oip_documents.no_shared_memory()


def _nothing_to_do(_asked: Any, _models: _Directory) -> dict[str, Any]:
    """Clients unregister regions before they begin; there are none, so that is done already."""
    return {}


_METHODS = {
    "ServerLive": _Method("health", _live),
    "ServerReady": _Method("health", _ready),
    "ModelReady": _Method("model:read", _model_ready),
    "ServerMetadata": _Method("model:read", _server),
    "ModelMetadata": _Method("model:read", _metadata),
    "ModelConfig": _Method("model:read", _config),
    "ModelStatistics": _Method("model:read", _statistics),
    "RepositoryIndex": _Method("model:read", _index),
    "RepositoryModelLoad": _Method("model:load", _load),
    "RepositoryModelUnload": _Method("model:load", _unload),
    "TraceSetting": _Method("model:read", _trace),
    "LogSettings": _Method("model:read", _logging),
    "SystemSharedMemoryStatus": _Method("model:read", _regions),
    "SystemSharedMemoryRegister": _Method("model:predict", _no_shared_memory),
    "SystemSharedMemoryUnregister": _Method("model:read", _nothing_to_do),
    "CudaSharedMemoryStatus": _Method("model:read", _regions),
    "CudaSharedMemoryRegister": _Method("model:predict", _no_shared_memory),
    "CudaSharedMemoryUnregister": _Method("model:read", _nothing_to_do),
}
