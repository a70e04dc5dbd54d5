"""gRPC server reflection, v1 and v1alpha: which services there are, and the files that describe them.

Found through the catalogue; tools such as grpcurl ask it. Must never describe anything but the services' own files.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from windlass import errors
from windlass.protocols import answers, base
from windlass.protocols import errors as statuses
from windlass.protocols.pb import messages
from windlass.types import directory

_SERVICES = (
    messages.INFERENCE,
    messages.HEALTH,
    *(f"{package}.ServerReflection" for package in messages.REFLECTION_PACKAGES),
)


class Reflection:
    """The plugin."""

    name: ClassVar[str] = "grpc_reflection"

    def routes(self) -> tuple[base.Route, ...]:
        return tuple(
            base.Route(
                "POST",
                f"/{package}.ServerReflection/ServerReflectionInfo",
                "model:read",
                base.RpcQuery(functools.partial(_answer, package), "each"),
            )
            for package in messages.REFLECTION_PACKAGES
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        """For callers that do not speak gRPC: `{"error": sentence}`."""
        del request_id
        return answers.document({"error": statuses.sentence(error)}, statuses.status(error))


def _answer(package: str, message: bytes, _models: directory.ModelDirectory) -> base.Answer:
    asked = messages.parse(messages.message_class(f"{package}.ServerReflectionRequest"), message)
    told = messages.message_class(f"{package}.ServerReflectionResponse")()
    told.valid_host = asked.host
    told.original_request.CopyFrom(asked)
    try:
        _tell(asked, told)
    except (KeyError, errors.WindlassError) as e:
        error = e if isinstance(e, errors.WindlassError) else errors.NotFound("there is nothing of this name here")
        told.error_response.error_code = statuses.grpc_status(error)
        told.error_response.error_message = statuses.sentence(error)
    return base.Answer(told.SerializeToString())


def _tell(asked: Any, told: Any) -> None:
    kind = asked.WhichOneof("message_request")
    pool = messages.POOL
    if kind == "list_services":
        for name in _SERVICES:
            told.list_services_response.service.add(name=name)
    elif kind == "file_by_filename":
        _tell_file(pool.FindFileByName(asked.file_by_filename), told)
    elif kind == "file_containing_symbol":
        _tell_file(pool.FindFileContainingSymbol(asked.file_containing_symbol), told)
    elif kind == "all_extension_numbers_of_type":
        # There are no extensions, so of a message that there is the list is empty.
        pool.FindMessageTypeByName(asked.all_extension_numbers_of_type)
        told.all_extension_numbers_response.base_type_name = asked.all_extension_numbers_of_type
    elif kind == "file_containing_extension":
        raise errors.NotFound("there are no extensions here")
    else:
        raise errors.InvalidInput("the request asks for nothing")


def _tell_file(file: Any, told: Any) -> None:
    """The file alone: none of these files imports another."""
    told.file_descriptor_response.file_descriptor_proto.append(messages.FILES[file.name])
