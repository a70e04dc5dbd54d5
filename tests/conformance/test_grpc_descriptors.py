"""The .proto files: compiled as they stand, and wire-compatible with what clients were compiled from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

from windlass.protocols.pb import messages

ROOT = Path(__file__).parents[2]
FILES = [
    ("grpc_service.proto", (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)),
    ("health.proto", (health_pb2.DESCRIPTOR,)),
    ("reflection_v1alpha.proto", (reflection_pb2.DESCRIPTOR,)),
]


def test_the_descriptors_are_those_of_the_proto_files() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "protobuf.py", "--check"], timeout=60, check=False)
    assert done.returncode == 0, "run scripts/protobuf.py"


def every_message(container: Any) -> dict[str, descriptor.Descriptor]:
    """The messages of a file or of a message, nested ones too, by full name."""
    found = {}
    nested = getattr(container, "message_types_by_name", None) or getattr(container, "nested_types_by_name", {})
    for one in nested.values():
        found[one.full_name] = one
        found.update(every_message(one))
    return found


def meaning(field: descriptor.FieldDescriptor) -> tuple[Any, ...]:
    """What decides how a field is written."""
    oneof = field.containing_oneof.name if field.containing_oneof else ""
    kind = field.message_type or field.enum_type
    return field.number, field.type, field.is_repeated, kind.full_name if kind else "", oneof


@pytest.mark.parametrize(("ours", "theirs"), FILES)
def test_every_field_is_written_as_clients_read_it(ours: str, theirs: tuple[Any, ...]) -> None:
    known = {name: one for file in theirs for name, one in every_message(file).items()}
    found = every_message(messages.POOL.FindFileByName(ours))
    for name, message in found.items():
        if name.startswith("grpc.health.v1.HealthList"):
            continue  # This client's copy is older than the method List.
        for field in message.fields:
            assert meaning(field) == meaning(known[name].fields_by_name[field.name]), f"{name}.{field.name}"
    # Of a model's configuration only what applies here; of the service every message, whole.
    for name, message in every_message(theirs[0]).items():
        assert {f.name for f in message.fields} == {f.name for f in found[name].fields}, name


@pytest.mark.parametrize(("ours", "theirs"), FILES)
def test_every_method_and_value_of_an_enum_is_there(ours: str, theirs: tuple[Any, ...]) -> None:
    file = messages.POOL.FindFileByName(ours)
    for name, service in theirs[0].services_by_name.items():
        methods = file.services_by_name[name].methods_by_name
        for method in service.methods:
            own = methods[method.name]
            assert own.input_type.full_name == method.input_type.full_name
            assert own.output_type.full_name == method.output_type.full_name
            assert (own.client_streaming, own.server_streaming) == (method.client_streaming, method.server_streaming)
    for one in theirs:
        for name, enum in one.enum_types_by_name.items():
            numbers = {value.name: value.number for value in file.enum_types_by_name[name].values}
            assert numbers == {value.name: value.number for value in enum.values}


def test_both_versions_of_reflection_are_the_same() -> None:
    first, second = (messages.FILES[f"reflection_{version}.proto"] for version in ("v1", "v1alpha"))
    assert len(first) < len(second)
    assert {name.rpartition(".")[2] for name in every_message(messages.POOL.FindFileByName("reflection_v1.proto"))} == {
        name.rpartition(".")[2] for name in every_message(messages.POOL.FindFileByName("reflection_v1alpha.proto"))
    }
