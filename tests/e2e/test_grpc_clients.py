"""gRPC clients of three makes, unmodified, against a server process: Triton's, gRPC's own for Python, and Node's."""

from __future__ import annotations

import asyncio
import base64
import json
import queue
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import proto_reflection_descriptor_database as reflection
from tritonclient.grpc import service_pb2, service_pb2_grpc

from windlass.security import keys
from windlass.types import spec

ROOT = Path(__file__).parents[2]
NODE = ROOT / "build" / "node" / "node_modules"
PEPPER = bytes(range(32))
SLOW_MS = 400


@pytest.fixture(scope="module")
def server(packages: Any, start_server: Callable[..., Any]) -> Any:
    return start_server(packages.echo("echo"), packages.echo("slow", run_ms=SLOW_MS), packages.mlp("mlp"))


@pytest.fixture(scope="module")
def address(server: Any) -> str:
    return f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def stub(address: str) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def given(array: np.ndarray[Any, Any]) -> list[triton.InferInput]:
    one = triton.InferInput("x", array.shape, "FP32")
    one.set_data_from_numpy(array)
    return [one]


def rows(value: float = 1.0, count: int = 1) -> np.ndarray[Any, Any]:
    return np.full((count, 4), value, np.float32)


def message(model: str, array: np.ndarray[Any, Any], **fields: Any) -> service_pb2.ModelInferRequest:
    asked = service_pb2.ModelInferRequest(model_name=model, **fields)
    asked.inputs.add(name="x", datatype="FP32", shape=array.shape)
    asked.raw_input_contents.append(array.tobytes())
    return asked


def test_tritons_client(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("echo", "1")
        assert not client.is_model_ready("none")
        assert client.get_server_metadata().name == "windlass"
        assert client.get_model_metadata("mlp").inputs[0].shape == [-1, 30]
        assert client.get_model_config("mlp").config.input[0].dims == [30]
        assert {m.name for m in client.get_model_repository_index().models} == {"echo", "slow", "mlp"}
        for options in ({}, {"request_id": "r"}, {"compression_algorithm": "gzip"}, {"client_timeout": 5.0}):
            for count in (1, 7, 64):
                sent = rows(count, count)
                found = client.infer("echo", given(sent), outputs=[triton.InferRequestedOutput("y")], **options)
                np.testing.assert_array_equal(found.as_numpy("y"), sent)
                assert found.get_response().id == options.get("request_id", "")
        assert client.infer("mlp", given(np.zeros((2, 30), np.float32))).as_numpy("y").shape == (2, 2)
        assert client.get_inference_statistics("echo").model_stats[0].inference_count
        with pytest.raises(triton.InferenceServerException, match=r"NOT_FOUND.*unknown model: 'none'"):
            client.infer("none", given(rows()))
        with pytest.raises(triton.InferenceServerException, match="PERMISSION_DENIED"):
            client.load_model("echo")


def test_a_stream_of_tritons_client(address: str) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(100):
            client.async_stream_infer("echo", given(rows(number)), request_id=str(number))
        client.async_stream_infer("none", given(rows()))
        client.async_stream_infer("slow", given(rows(5)), enable_empty_final_response=True)
        for number in range(100):
            result, error = answers.get(timeout=10)
            assert error is None
            assert (result.get_response().id, result.as_numpy("y")[0, 0]) == (str(number), number)
        assert "unknown model" in str(answers.get(timeout=10)[1])
        assert answers.get(timeout=10)[0].get_response().parameters["triton_final_response"].bool_param
        client.stop_stream()


def test_tritons_asyncio_client(address: str) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            found = await asyncio.gather(*(client.infer("echo", given(rows(n))) for n in range(200)))
            assert [result.as_numpy("y")[0, 0] for result in found] == list(range(200))

            async def questions() -> Any:
                for number in range(50):
                    yield {"model_name": "echo", "inputs": given(rows(number))}

            stream = client.stream_infer(questions())
            assert [result.as_numpy("y")[0, 0] async for result, _ in stream] == list(range(50))

    asyncio.run(ask())


@pytest.mark.promise("P-33")
@pytest.mark.promise("P-35")
def test_deadlines_and_cancelled_calls(server: Any, stub: Any) -> None:
    before = server.metrics()
    with pytest.raises(grpc.RpcError) as late:
        stub.ModelInfer(message("slow", rows()), timeout=0.1)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    calls = [stub.ModelInfer.future(message("slow", rows())) for _ in range(3)]
    time.sleep(0.05)
    assert all(call.cancel() for call in calls)
    # What is asked now runs behind what still runs, and not behind the cancelled calls: they left the queue.
    assert stub.ModelInfer(message("slow", rows(2))).raw_output_contents[0] == rows(2).tobytes()
    gone = {name: value - before.get(name, 0) for name, value in server.metrics().items() if "slow" in name}
    assert sum(v for name, v in gone.items() if name[0] == "windlass_requests_total" and "ok" in name) == 1


@pytest.mark.promise("P-36c")
def test_what_grpc_asks_of_a_server(address: str, stub: Any) -> None:
    def code(call: Callable[[], Any]) -> Any:
        with pytest.raises(grpc.RpcError) as refused:
            call()
        return refused.value.code()

    packed = stub.ModelInfer(message("echo", rows(3, 64)), compression=grpc.Compression.Gzip)
    assert packed.raw_output_contents[0] == rows(3, 64).tobytes()
    _, call = stub.ModelInfer.with_call(message("echo", rows()), metadata=[("x-request-id", "mine")])
    assert dict(call.initial_metadata())["x-request-id"] == "mine"
    large = message("echo", rows(), id="i" * (65 << 20))
    assert code(lambda: stub.ModelInfer(large)) == grpc.StatusCode.RESOURCE_EXHAUSTED
    typed = service_pb2.ModelInferRequest(model_name="echo")
    typed.inputs.add(name="x", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
    assert np.frombuffer(stub.ModelInfer(typed).raw_output_contents[0], "<f4").tolist() == [1, 2, 3, 4]
    with grpc.insecure_channel(address) as channel:
        one = message("echo", rows()).SerializeToString()
        path = "/inference.GRPCInferenceService/ModelInfer"
        assert code(lambda: channel.unary_unary("/no.Such/Method")(one)) == grpc.StatusCode.UNIMPLEMENTED
        assert code(lambda: channel.unary_unary("/v2")(one)) == grpc.StatusCode.UNIMPLEMENTED
        assert code(lambda: channel.stream_unary(path)(iter([one, one]))) == grpc.StatusCode.UNIMPLEMENTED
        assert code(lambda: channel.stream_unary(path)(iter([]))) == grpc.StatusCode.UNIMPLEMENTED
        assert code(lambda: channel.unary_unary(path)(b"\xff\xff")) == grpc.StatusCode.INVALID_ARGUMENT

    def without_end() -> Iterator[Any]:
        yield message("echo", rows(), id="1")
        time.sleep(1)

    answers = stub.ModelStreamInfer(without_end(), timeout=0.3)
    assert next(answers).infer_response.id == "1"
    assert code(lambda: next(answers)) == grpc.StatusCode.DEADLINE_EXCEEDED


def test_health_and_reflection(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert health.Check(health_pb2.HealthCheckRequest()).status == serving
        watched = health.Watch(health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService"))
        assert next(watched).status == serving
        watched.cancel()
        described = reflection.ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in described.get_services()
        service = descriptor_pool.DescriptorPool(described).FindServiceByName("inference.GRPCInferenceService")
        assert len(service.methods) == len(service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods)


@pytest.mark.promise("P-13")
@pytest.mark.threat("V10")
def test_every_method_but_health_asks_for_a_key(packages: Any, start_server: Callable[..., Any]) -> None:
    identity, secret = keys.generate()
    reader = spec.Key(identity, keys.hmac_of(secret, PEPPER), models=("echo",))
    guarded = start_server(packages.echo("echo"), packages.echo("other"), keys=(reader,), key_pepper=PEPPER.hex())
    with grpc.insecure_channel(f"127.0.0.1:{guarded.port}") as channel:
        services = [*service_pb2.DESCRIPTOR.services_by_name.values()]
        for method in (method for service in services for method in service.methods):
            path = f"/{method.containing_service.full_name}/{method.name}"
            call = channel.stream_stream(path)(iter([b""]))
            if method.name in ("ServerLive", "ServerReady"):
                assert list(call)
                continue
            with pytest.raises(grpc.RpcError) as refused:
                list(call)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, path
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for metadata in ([("authorization", f"Bearer {secret}")], [("x-api-key", secret)]):
            assert stub.ModelInfer(message("echo", rows()), metadata=metadata).model_name == "echo"
            with pytest.raises(grpc.RpcError) as hidden:
                stub.ModelInfer(message("other", rows()), metadata=metadata)
            assert hidden.value.code() == grpc.StatusCode.NOT_FOUND
            with pytest.raises(grpc.RpcError) as lacking:
                stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="echo"), metadata=metadata)
            assert lacking.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_nodes_client(address: str) -> None:
    node = shutil.which("node")
    assert node, "scripts/setup test installs node"
    texts = [
        base64.b64encode(message(model, rows(7), id="n").SerializeToString()).decode() for model in ("echo", "slow")
    ]
    script = Path(__file__).with_name("grpc_client.js")
    done = subprocess.run(
        [node, str(script), address, *texts],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"NODE_MODULES": str(NODE), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for one in (found["unary"], found["packed"], *found["many"]):
        assert one["id"] == "from-node"
        told = service_pb2.ModelInferResponse.FromString(base64.b64decode(one["answer"]))
        assert (told.id, told.raw_output_contents[0]) == ("n", rows(7).tobytes())
    codes = {name: found[name]["code"] for name in ("late", "cancelled", "unknown", "stream")}
    assert codes == {"late": 4, "cancelled": 1, "unknown": 12, "stream": 0}
    assert len(found["stream"]["answers"]) == 20
