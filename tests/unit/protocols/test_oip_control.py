from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from windlass import errors
from windlass.protocols import base, oip_control, oip_rest
from windlass.types import directory

View = Callable[..., directory.ModelView]
Ask = Callable[..., Any]
MODEL = {"model": "mlp"}


@pytest.fixture
def models(make_view: View, make_models: Any) -> Any:
    return make_models(make_view((("x", "FP32", ("batch", 30)), ("t", "BYTES", ("batch", "n")))))


@pytest.fixture
def ask(make_head: Callable[..., base.Head], models: Any) -> Ask:
    table = {(route.method, route.path): route.action for route in oip_rest.OpenInference().routes()}

    def answer(method: str, path: str, body: Any = b"", **parameters: str) -> tuple[int | None, Any]:
        action = table[method, path]
        assert isinstance(action, base.QueryRoute)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        found = action.answer(make_head(path, method), parameters, data, models)
        if isinstance(found, base.Pending):
            outcomes: list[Any] = []
            found.start(outcomes.append)
            (found,) = outcomes
            if isinstance(found, errors.WindlassError):
                raise found
        return found.status, json.loads(found.body) if found.body else None

    return answer


def test_the_server_names_only_what_it_does(ask: Ask) -> None:
    _, body = ask("GET", "/v2")
    assert body["name"] == "windlass"
    assert body["version"]
    assert set(body["extensions"]) == {
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "parameters",
        "schedule_policy",
        "statistics",
    }


def test_health_is_json_with_a_status(ask: Ask, models: Any) -> None:
    assert ask("GET", "/v2/health/live") == (200, {"live": True})
    assert ask("GET", "/v2/health/ready") == (200, {"ready": True})
    models.is_live = models.is_ready = False
    assert ask("GET", "/v2/health/live") == (503, {"live": False})
    assert ask("GET", "/v2/health/ready") == (503, {"ready": False})


def test_a_model_is_ready_or_not_or_unknown(ask: Ask, models: Any) -> None:
    path = "/v2/models/{model}/ready"
    assert ask("GET", path, **MODEL) == (None, {"name": "mlp", "ready": True})
    models.loading.add("mlp")
    assert ask("GET", path, **MODEL) == (503, {"name": "mlp", "ready": False})
    with pytest.raises(errors.NotFound):
        ask("GET", path, model="other")


def test_metadata_and_config(ask: Ask) -> None:
    _, body = ask("GET", "/v2/models/{model}", **MODEL)
    assert body == {
        "name": "mlp",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 30]},
            {"name": "t", "datatype": "BYTES", "shape": [-1, -1]},
        ],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert ask("GET", "/v2/models/{model}/versions/{version}", model="mlp", version="1")[1] == body
    _, body = ask("GET", "/v2/models/{model}/config", **MODEL)
    assert body["max_batch_size"] == 128
    assert body["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [30]},
        {"name": "t", "data_type": "TYPE_STRING", "dims": [-1]},
    ]
    assert body["parameters"] == {"placement": {"string_value": "inline"}, "max_queue": {"string_value": "100"}}
    with pytest.raises(errors.NotFound):
        ask("GET", "/v2/models/{model}/versions/{version}", model="mlp", version="9")


def test_statistics_have_tritons_names(ask: Ask) -> None:
    _, body = ask("GET", "/v2/models/{model}/stats", **MODEL)
    (one,) = body["model_stats"]
    assert (one["name"], one["version"], one["inference_count"], one["execution_count"]) == ("mlp", "1", 10, 4)
    assert one["inference_stats"]["success"] == {"count": 8, "ns": 800}
    assert one["inference_stats"]["fail"] == {"count": 1, "ns": 50}
    assert one["inference_stats"]["queue"] == {"count": 8, "ns": 200}
    assert one["inference_stats"]["compute_infer"] == {"count": 4, "ns": 400}
    assert [(b["batch_size"], b["compute_infer"]) for b in one["batch_stats"]] == [
        (1, {"count": 2, "ns": 100}),
        (4, {"count": 2, "ns": 300}),
    ]
    assert ask("GET", "/v2/models/stats")[1] == body
    with pytest.raises(errors.NotFound):
        ask("GET", "/v2/models/{model}/stats", model="other")


def test_the_index_lists_what_may_be_loaded(ask: Ask) -> None:
    _, every = ask("POST", "/v2/repository/index")
    assert [(one["name"], one["state"]) for one in every] == [("mlp", "READY"), ("sleeper", "UNAVAILABLE")]
    assert ask("POST", "/v2/repository/index", {"ready": True})[1] == every[:1]
    with pytest.raises(errors.InvalidInput):
        ask("POST", "/v2/repository/index", {"ready": "yes"})


def test_load_and_unload(ask: Ask, models: Any) -> None:
    assert ask("POST", "/v2/repository/models/{model}/load", **MODEL) == (None, None)
    unload = {"parameters": {"unload_dependents": False}}
    assert ask("POST", "/v2/repository/models/{model}/unload", unload, **MODEL) == (None, None)
    assert models.loads == [("load", "mlp"), ("unload", "mlp")]
    models.load_error = errors.Unavailable("there is no room", retry_after_s=9)
    with pytest.raises(errors.Unavailable, match="failed to load 'mlp', there is no room") as caught:
        ask("POST", "/v2/repository/models/{model}/load", **MODEL)
    assert caught.value.retry_after_s == 9
    models.load_error = errors.CorruptPackage("/home/secret is torn")
    with pytest.raises(errors.CorruptPackage) as broken:
        ask("POST", "/v2/repository/models/{model}/load", **MODEL)
    assert "secret" not in str(broken.value)


@pytest.mark.threat("V4")
@pytest.mark.threat("V5")
@pytest.mark.parametrize("parameters", [{"config": "{}"}, {"file:1/model.onnx": "AAAA"}])
def test_a_client_cannot_give_config_or_files(ask: Ask, models: Any, parameters: dict[str, str]) -> None:
    with pytest.raises(errors.Unsupported):
        ask("POST", "/v2/repository/models/{model}/load", {"parameters": parameters}, **MODEL)
    assert models.loads == []


@pytest.mark.threat("V5")
@pytest.mark.parametrize("path", ["/v2/trace/setting", "/v2/logging"])
def test_settings_are_told_and_do_not_change(ask: Ask, path: str) -> None:
    _, values = ask("GET", path)
    assert ask("POST", path, values)[1] == values
    assert ask("POST", path, dict.fromkeys(values))[1] == values
    for name in values:
        with pytest.raises(errors.Unsupported, match=name):
            ask("POST", path, {name: "/etc/passwd"})
    with pytest.raises(errors.InvalidInput, match="there is no setting"):
        ask("POST", path, {"other": 1})
    with pytest.raises(errors.InvalidInput):
        ask("POST", path, [])


@pytest.mark.threat("V7")
@pytest.mark.parametrize("kind", ["systemsharedmemory", "cudasharedmemory"])
def test_no_caller_registers_memory(ask: Ask, kind: str) -> None:
    assert ask("GET", f"/v2/{kind}/status") == (None, [])
    assert ask("POST", f"/v2/{kind}/unregister") == (None, None)
    with pytest.raises(errors.Unsupported):
        ask("POST", f"/v2/{kind}/region/{{region}}/register", {"key": "/dev/shm/x"}, region="r")
    with pytest.raises(errors.NotFound):
        ask("GET", f"/v2/{kind}/region/{{region}}/status", region="r")


def test_only_health_is_open() -> None:
    for route in oip_control.routes():
        assert (route.permission == "health") == route.path.startswith("/v2/health/")
        if route.method == "POST" and "repository/models" in route.path:
            assert route.permission == "model:load"


def test_generating_is_not_done_here_and_says_what_is(ask: Ask) -> None:
    for path in ("generate", "generate_stream", "versions/{version}/generate"):
        with pytest.raises(errors.Unsupported, match="/v2/models/mlp/infer"):
            ask("POST", f"/v2/models/{{model}}/{path}", **MODEL)
        with pytest.raises(errors.NotFound):
            ask("POST", f"/v2/models/{{model}}/{path}", model="other")
