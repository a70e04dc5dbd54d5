"""Every protocol of the catalogue: routes with permissions, an inference there and back, errors that tell little."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from windlass import errors, plugins
from windlass.protocols import base, oip_grpc
from windlass.protocols import errors as statuses
from windlass.protocols.pb import messages
from windlass.types import contract, directory, fields, inference, manifest, signature, tensor

NAMES = sorted(plugins.catalog()["protocols"])
SEGMENT = re.compile(r"[A-Za-z0-9_.-]*|\{[a-z]+\}(:[a-z]+)?")
# One request in each protocol: the route, the headers, the body. A new protocol adds its line.
REQUESTS: dict[str, tuple[str, dict[bytes, bytes], Any]] = {
    "oip_rest": (
        "/v2/models/{model}/infer",
        {},
        {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]},
    ),
    "tfserving": ("/v1/models/{model}:predict", {}, {"instances": [[1, 2], [3, 4]]}),
    "plain": ("/predict/{model}", {b"content-type": b"application/json"}, {"x": [[1, 2], [3, 4]]}),
}


class Bare:
    """No transforms."""

    fields: tuple[fields.Field, ...] = ()
    media: tuple[str, ...] = ()
    inline_bytes = 1 << 62

    def prepare(self, columns: fields.Columns) -> tensor.Tensors:
        return columns

    def finish(self, outputs: tensor.Tensors, inputs: tensor.Tensors) -> fields.Columns:
        return outputs


def make_view() -> directory.ModelView:
    declared = signature.Signature(
        (signature.TensorSpec("x", "FP32", ("batch", 2)),), (signature.TensorSpec("y", "FP32", ("batch", 2)),)
    )
    return directory.ModelView(
        name="m",
        version="7",
        versions=("7",),
        platform="echo",
        signature=declared,
        contract=contract.Contract(declared, max_rows=8, max_elements=64),
        limits=manifest.Limits(max_batch=8, max_elements=64),
        transformer=Bare(),
        labels=(),
        infer=lambda call: None,
        lease=directory.Lease(),
    )


class Models:
    """One model, `m`."""

    def find(self, name: str, version: str = "") -> directory.ModelView:
        if name != "m" or version not in ("", "7"):
            raise errors.NotFound(f"Request for unknown model: '{name}' is not found")
        return make_view()

    def states(self) -> tuple[directory.ModelState, ...]:
        return (directory.ModelState("m", "7", "READY"),)

    def live(self) -> bool:
        return True

    def ready(self) -> bool:
        return True

    def statistics(self, name: str = "", version: str = "") -> tuple[directory.ModelStatistics, ...]:
        return (directory.ModelStatistics("m", "7", 0, 0, 0, 0, 0, 0, 0, 0, {}),)

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        return {}

    def load(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None:
        done(errors.NotFound("there is no such repository model"))

    def unload(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None:
        done(errors.NotFound("there is no such repository model"))


def head(route: base.Route, headers: dict[bytes, bytes] | None = None) -> base.Head:
    return base.Head(route.method, route.path, "", {b"host": b"localhost", **(headers or {})})


def parameters(route: base.Route) -> dict[str, str]:
    known = {"model": "m", "version": "7"}
    return {name: known.get(name, "other") for name in re.findall(r"\{([a-z]+)\}", route.path)}


@pytest.fixture(params=NAMES)
def protocol(request: pytest.FixtureRequest) -> base.ServerProtocol:
    plugin: base.ServerProtocol = plugins.load("protocols", request.param)()
    return plugin


def test_it_bears_its_name(protocol: base.ServerProtocol) -> None:
    assert plugins.load("protocols", protocol.name) is type(protocol)


@pytest.mark.promise("P-13")
def test_each_route_is_one_and_declares_a_permission(protocol: base.ServerProtocol) -> None:
    routes = protocol.routes()
    assert routes
    assert len({(route.method, route.path) for route in routes}) == len(routes)
    for route in routes:
        assert route.permission in get_args(base.Permission)
        assert route.path.startswith("/")
        assert all(SEGMENT.fullmatch(segment) for segment in route.path[1:].split("/")), route.path
        if isinstance(route.action, base.InferRoute):
            assert route.permission == "model:predict"
            assert "{model}" in route.path
            assert route.method == "POST"
        if isinstance(route.action, base.RpcInfer | base.RpcQuery):
            assert route.method == "POST"
            assert re.fullmatch(r"/[a-z0-9.]+\.[A-Za-z]+/[A-Za-z]+", route.path)
        if isinstance(route.action, base.RpcInfer):
            assert route.permission == "model:predict"


def test_no_two_protocols_share_a_route() -> None:
    every = [(route.method, route.path) for name in NAMES for route in plugins.load("protocols", name)().routes()]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("protocol", sorted(REQUESTS), indirect=True)
def test_an_inference_there_and_back(protocol: base.ServerProtocol) -> None:
    path, headers, document = REQUESTS[protocol.name]
    (route,) = [route for route in protocol.routes() if route.path == path and route.method == "POST"]
    assert isinstance(route.action, base.InferRoute)
    view = make_view()
    asked = head(route, headers)
    found = route.action.decode(asked, parameters(route), json.dumps(document).encode(), view)
    request = found.work() if isinstance(found, base.Later) else found
    assert (request.model, request.rows) == ("m", 2)
    np.testing.assert_array_equal(request.inputs["x"], np.array([[1, 2], [3, 4]], np.float32))
    outputs = {"y": np.array([[0.5, 0.25], [8, 9]], np.float32)}
    answer = route.action.encode(asked, request, inference.InferResponse(outputs, "7"), view)
    assert answer.status in (None, statuses.OK)
    assert answer.content_type == b"application/json"
    numbers = re.findall(r"(?<![\w\".])[0-9.]+(?=[,\]])", answer.body.decode())
    assert [float(n) for n in numbers][-4:] == [0.5, 0.25, 8, 9]


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_a_message_there_and_back(method: str) -> None:
    (route,) = [one for one in oip_grpc.OpenInference().routes() if one.path.endswith(f"/{method}")]
    assert isinstance(route.action, base.RpcInfer)
    message = oip_grpc.REQUEST(model_name="m", model_version="7")
    message.inputs.add(name="x", datatype="FP32", shape=[2, 2])
    message.raw_input_contents.append(np.array([1, 2, 3, 4], "<f4").tobytes())
    body, view = message.SerializeToString(), make_view()
    assert route.action.peek(body) == ("m", "7")
    request = route.action.infer.decode(head(route), {}, body, view)
    assert isinstance(request, inference.InferRequest)
    np.testing.assert_array_equal(request.inputs["x"], np.array([[1, 2], [3, 4]], np.float32))
    outputs = {"y": np.array([[0.5, 0.25], [8, 9]], np.float32)}
    answer = route.action.infer.encode(head(route), request, inference.InferResponse(outputs, "7"), view).body
    if method == "ModelStreamInfer":
        streamed = messages.parse(messages.message_class("inference.ModelStreamInferResponse"), answer)
        assert streamed.infer_response.parameters["triton_final_response"].bool_param
        answer = streamed.infer_response.SerializeToString()
    told = messages.parse(messages.message_class("inference.ModelInferResponse"), answer)
    assert (told.model_name, told.model_version, told.outputs[0].name) == ("m", "7", "y")
    np.testing.assert_array_equal(np.frombuffer(told.raw_output_contents[0], "<f4"), [0.5, 0.25, 8, 9])


@pytest.mark.promise("P-36c")
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":1,"a":1}', b"[" * 100_000, b"0" * 10_000, b'"\\ud800"', b"{}"],
)
def test_no_body_is_a_fault_of_ours(protocol: base.ServerProtocol, body: bytes) -> None:
    for route in protocol.routes():
        outcome = attempt(route, body)
        if isinstance(outcome, errors.WindlassError):
            assert statuses.status(outcome) < 500 or isinstance(outcome, errors.Unsupported)
        else:
            assert isinstance(outcome, base.Answer), f"{route.path} took {body[:20]!r}"


def attempt(route: base.Route, body: bytes) -> base.Answer | inference.InferRequest | errors.WindlassError:
    asked = head(route, {b"content-type": b"application/json"})
    action = route.action
    try:
        if isinstance(action, base.RpcInfer):
            action.peek(body)
            action = action.infer
        if isinstance(action, base.InferRoute):
            found = action.decode(asked, parameters(route), body, make_view())
            return found.work() if isinstance(found, base.Later) else found
        if isinstance(action, base.RpcQuery):
            answer = action.answer(body, Models())
        else:
            answer = action.answer(asked, parameters(route), body, Models())
    except errors.WindlassError as e:
        return e
    if isinstance(answer, base.Answer):
        return answer
    outcomes: list[base.Answer | errors.WindlassError] = []
    answer.start(outcomes.append)
    (outcome,) = outcomes
    return outcome


def test_queries_answer_json(protocol: base.ServerProtocol) -> None:
    for route in protocol.routes():
        if (
            not isinstance(route.action, base.QueryRoute)
            or route.method != "GET"
            or set(parameters(route).values()) - {"m", "7"}
        ):
            continue
        answer = route.action.answer(head(route), parameters(route), b"", Models())
        assert isinstance(answer, base.Answer)
        json.loads(answer.body)


@pytest.mark.promise("P-36c")
def test_an_unknown_model_is_not_found(protocol: base.ServerProtocol) -> None:
    for route in protocol.routes():
        if isinstance(route.action, base.QueryRoute) and route.method == "GET" and "{model}" in route.path:
            with pytest.raises(errors.NotFound):
                route.action.answer(head(route), {**parameters(route), "model": "nobody"}, b"", Models())


def kinds(root: type[errors.WindlassError] = errors.WindlassError) -> list[type[errors.WindlassError]]:
    return [root, *(found for kind in root.__subclasses__() for found in kinds(kind))]


INTERNAL = re.compile(rb"/(home|srv|tmp|proc|dev)/|Traceback|File \"|0x[0-9a-f]{6,}|SELECT |shm")


@pytest.mark.promise("P-08")
@pytest.mark.threat("V7")
@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.code)
def test_errors_have_their_status_and_tell_nothing_internal(
    protocol: base.ServerProtocol, kind: type[errors.WindlassError]
) -> None:
    answer = protocol.encode_error(kind("a sentence", hint="a hint"), "req-1")
    assert answer.status == statuses.status(kind(""))
    assert json.loads(answer.body)
    internal = kind('File "/home/secret/x.py" Traceback 0x7f00aa SELECT 1 /dev/shm/a', hint="/tmp/key")
    if statuses.status(internal) == 500:
        assert not INTERNAL.search(protocol.encode_error(internal, "req-1").body)
    else:
        assert b"a sentence" in answer.body
