"""gRPC's questions about the server: the same answers as over HTTP, health and reflection."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2 as client

from windlass import errors
from windlass.protocols import base, grpc_health, grpc_reflection, oip_control, oip_grpc
from windlass.protocols.pb import messages

Make = Callable[..., Any]
Ask = Callable[..., Any]


@pytest.fixture
def models(make_models: Any, make_view: Make) -> Any:
    return make_models(make_view())


@pytest.fixture
def ask(models: Any) -> Ask:
    """The answer of a method of the inference service, as the client's class of it."""
    actions = {route.path.rpartition("/")[2]: route.action for route in oip_grpc.OpenInference().routes()}

    def send(method: str, **fields: Any) -> Any:
        action = actions[method]
        assert isinstance(action, base.RpcQuery)
        question = json_format.ParseDict(fields, getattr(client, f"{method}Request")())
        answer = action.answer(question.SerializeToString(), models)
        if isinstance(answer, base.Pending):
            outcomes: list[Any] = []
            answer.start(outcomes.append)
            (answer,) = outcomes
        if isinstance(answer, errors.WindlassError):
            raise answer
        return getattr(client, f"{method}Response").FromString(answer.body)

    return send


def test_every_method_of_the_service_is_there() -> None:
    (methods,) = ({m.name for m in messages.service(messages.INFERENCE).methods},)
    assert {route.path.rpartition("/")[2] for route in oip_grpc.OpenInference().routes()} == methods


def test_health(ask: Ask, models: Any) -> None:
    assert ask("ServerLive").live
    assert ask("ServerReady").ready
    assert ask("ModelReady", name="mlp").ready
    assert not ask("ModelReady", name="none").ready
    models.loading.add("mlp")
    models.is_ready = models.is_live = False
    assert not ask("ModelReady", name="mlp").ready
    assert not ask("ServerReady").ready
    assert not ask("ServerLive").live


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("ServerMetadata", "/v2", {}),
        ("ModelMetadata", "/v2/models/{model}", {"name": "mlp"}),
        ("ModelConfig", "/v2/models/{model}/config", {"name": "mlp", "version": "1"}),
        ("ModelStatistics", "/v2/models/{model}/stats", {"name": "mlp"}),
        ("ModelStatistics", "/v2/models/stats", {}),
    ],
)
def test_what_is_said_is_what_is_said_over_http(
    ask: Ask, models: Any, make_head: Make, method: str, path: str, fields: dict[str, str]
) -> None:
    told = json_format.MessageToDict(
        ask(method, **fields), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    (action,) = [r.action for r in oip_control.routes() if (r.method, r.path) == ("GET", path)]
    assert isinstance(action, base.QueryRoute)
    answer = action.answer(make_head(), {"model": "mlp", **fields}, b"", models)
    assert isinstance(answer, base.Answer)
    message = getattr(client, f"{method}Response")()
    document = json.loads(answer.body)
    if method == "ModelConfig":
        document = {"config": document}
    assert told == json_format.MessageToDict(
        json_format.ParseDict(document, message),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def test_the_repository(ask: Ask, models: Any) -> None:
    assert [m.name for m in ask("RepositoryIndex").models] == ["mlp", "sleeper"]
    assert [m.name for m in ask("RepositoryIndex", ready=True).models] == ["mlp"]
    ask("RepositoryModelLoad", model_name="a")
    ask("RepositoryModelUnload", model_name="a", parameters={"unload_dependents": {"bool_param": True}})
    assert models.loads == [("load", "a"), ("unload", "a")]
    models.load_error = errors.NotFound("there is no such model")
    with pytest.raises(errors.NotFound, match="failed to load 'b', there is no such model"):
        ask("RepositoryModelLoad", model_name="b")
    with pytest.raises(errors.Unsupported, match="cannot be given in the request"):
        ask("RepositoryModelLoad", model_name="b", parameters={"config": {"string_param": "{}"}})


@pytest.mark.threat("V5")
def test_settings_are_told_and_cannot_be_changed(ask: Ask) -> None:
    assert ask("TraceSetting").settings["trace_level"].value == ["OFF"]
    assert ask("TraceSetting", model_name="mlp", settings={"trace_rate": {"value": ["1000"]}, "trace_file": {}})
    assert ask("LogSettings").settings["log_info"].bool_param
    assert ask("LogSettings", settings={"log_verbose_level": {"uint32_param": 0}})
    with pytest.raises(errors.Unsupported):
        ask("TraceSetting", settings={"trace_file": {"value": ["/etc/passwd"]}})
    with pytest.raises(errors.Unsupported):
        ask("LogSettings", settings={"log_file": {"string_param": "/etc/passwd"}})
    with pytest.raises(errors.InvalidInput, match="there is no setting 'x'"):
        ask("LogSettings", settings={"x": {"bool_param": True}})
    with pytest.raises(errors.NotFound):
        ask("TraceSetting", model_name="none")


@pytest.mark.threat("V5")
@pytest.mark.parametrize("kind", ["System", "Cuda"])
def test_no_memory_can_be_named(ask: Ask, kind: str) -> None:
    assert not ask(f"{kind}SharedMemoryStatus").regions
    ask(f"{kind}SharedMemoryUnregister", name="a")
    with pytest.raises(errors.Unsupported):
        ask(f"{kind}SharedMemoryRegister", name="a")
    with pytest.raises(errors.NotFound):
        ask(f"{kind}SharedMemoryStatus", name="a")


def test_an_unknown_model_is_not_found(ask: Ask) -> None:
    for method in ("ModelMetadata", "ModelConfig", "ModelStatistics"):
        with pytest.raises(errors.NotFound):
            ask(method, name="none")


def test_the_health_service(models: Any) -> None:
    def check(answer: Callable[..., base.Answer], service: str = "") -> int:
        message = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        return int(health_pb2.HealthCheckResponse.FromString(answer(message, models).body).status)

    serving = health_pb2.HealthCheckResponse.SERVING
    assert check(grpc_health.check) == check(grpc_health.check, messages.INFERENCE) == serving
    assert check(grpc_health.watch, "none") == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    # A model's name is none of a service: without a key nobody is told which models there are.
    for service in ("none", "mlp"):
        with pytest.raises(errors.NotFound, match="there is no gRPC service"):
            check(grpc_health.check, service)
    models.is_ready = False
    assert check(grpc_health.check) == check(grpc_health.watch) == health_pb2.HealthCheckResponse.NOT_SERVING
    told = messages.parse(
        messages.message_class("grpc.health.v1.HealthListResponse"), grpc_health.list_all(b"", models).body
    )
    assert {name: one.status for name, one in told.statuses.items()} == dict.fromkeys(
        ("", messages.INFERENCE, messages.HEALTH), health_pb2.HealthCheckResponse.NOT_SERVING
    )


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(models: Any, version: str) -> None:
    (action,) = [r.action for r in grpc_reflection.Reflection().routes() if f".{version}." in r.path]
    assert isinstance(action, base.RpcQuery)

    def ask(**fields: Any) -> Any:
        message = json_format.ParseDict(fields, reflection_pb2.ServerReflectionRequest())
        answer = action.answer(message.SerializeToString(), models)
        assert isinstance(answer, base.Answer)
        told = reflection_pb2.ServerReflectionResponse.FromString(answer.body)
        assert told.original_request == message
        return told

    names = [service.name for service in ask(list_services="").list_services_response.service]
    assert messages.INFERENCE in names
    for name in names:
        (file,) = ask(file_containing_symbol=name).file_descriptor_response.file_descriptor_proto
        assert name.rpartition(".")[2].encode() in file
    assert ask(file_by_filename="health.proto").file_descriptor_response.file_descriptor_proto
    assert ask(all_extension_numbers_of_type=f"grpc.reflection.{version}.ErrorResponse").HasField(
        "all_extension_numbers_response"
    )
    for fields, code in (
        ({"file_containing_symbol": "no.such"}, 5),
        ({"file_by_filename": "../../etc/passwd"}, 5),
        ({"all_extension_numbers_of_type": "no.such"}, 5),
        ({"file_containing_extension": {"containing_type": "a"}}, 5),
        ({}, 3),
    ):
        assert ask(**fields).error_response.error_code == code
