"""The protocol buffer messages of the gRPC services, made from their compiled descriptors.

Used by the gRPC protocols; `scripts/protobuf.py` compiles the .proto files beside this one. The descriptors live in a
pool of their own: a program that also loads a client's copy of these messages has no conflict, and no generated code
ties the server to one version of protobuf. Must never import gRPC.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor, descriptor_pb2, descriptor_pool, json_format, message, message_factory

from windlass import errors

MALFORMED = message.DecodeError
INFERENCE = "inference.GRPCInferenceService"
HEALTH_PACKAGE = "grpc.health.v1"
HEALTH = f"{HEALTH_PACKAGE}.Health"
REFLECTION_PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


def _load() -> tuple[descriptor_pool.DescriptorPool, dict[str, bytes]]:
    pool = descriptor_pool.DescriptorPool()
    files: dict[str, bytes] = {}
    found = descriptor_pb2.FileDescriptorSet.FromString(Path(__file__).with_name("descriptors.binpb").read_bytes())
    for file in found.file:
        files[file.name] = file.SerializeToString()
        pool.AddSerializedFile(files[file.name])
    return pool, files


POOL, FILES = _load()


def message_class(name: str) -> Any:
    """The class of a message by its full name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


def service(name: str) -> descriptor.ServiceDescriptor:
    """A service's descriptor by its full name."""
    return POOL.FindServiceByName(name)


def parse(kind: Any, data: bytes) -> Any:
    """A message of class `kind`; `InvalidInput` if the bytes are none."""
    try:
        return kind.FromString(data)
    except MALFORMED:
        raise errors.InvalidInput(f"the message is not a valid {kind.DESCRIPTOR.full_name}") from None


def filled(kind: Any, fields: Any) -> bytes:
    """A message of class `kind` from plain data, its names those of the .proto file."""
    data: bytes = json_format.ParseDict(fields, kind()).SerializeToString()
    return data
