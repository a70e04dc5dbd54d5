"""The plain protocol and TensorFlow Serving's over HTTP, as curl and any HTTP client would ask them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from windlass.packaging import archive, build, draft
from windlass.serving import launch
from windlass.types import signature, spec


def packaged(folder: Path, name: str, transforms: tuple[draft.TransformDraft, ...]) -> spec.Endpoint:
    """An endpoint that answers `y` with its input `x` [rows, 2]."""
    given = (signature.TensorSpec("x", "FP32", ("batch", 2)),)
    back = (signature.TensorSpec("y", "FP32", ("batch", 2)),)
    rows = np.ones((2, 2), np.float32)
    drafted = draft.Draft(
        files={"echo.json": msgspec.json.encode({"inputs": given, "outputs": back})},
        signature=signature.Signature(given, back),
        trials=(draft.Trial("ones", {"x": rows}, {"y": rows}),),
        framework="echo",
        runtime="echo",
        transforms=transforms,
        labels=("no", "yes"),
    )
    package = build.build(drafted, name=name)
    path = folder / f"{name}.windlass"
    archive.write_zip(package, path)
    return spec.Endpoint(name, (spec.Arm(package.digest, "1", str(path)),))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("plain")
    table = draft.TransformDraft("tabular", {"input": "x", "columns": [{"name": "age"}, {"name": "height"}]})
    classes = draft.TransformDraft("classify", {"output": "y", "activation": "none", "labels": ["no", "yes"]})
    wanted = spec.Spec(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        endpoints=(packaged(folder, "bare", ()), packaged(folder, "table", (table, classes))),
    )
    with launch.Server(wanted, folder) as server, httpx.Client(base_url=server.url) as found:
        yield found


def test_the_guide_leads_from_the_front_page_to_an_answer(client: httpx.Client) -> None:
    page = client.get("/").json()
    assert [one["name"] for one in page["models"]] == ["bare", "table"]
    for model in page["models"]:
        guide = client.get(model["guide"].removeprefix("GET ")).json()
        words = shlex.split(guide["example"])
        header, data, url = words[words.index("-H") + 1], words[words.index("-d") + 1], words[-1]
        name, _, value = header.partition(": ")
        answer = client.post(url, content=data, headers={name: value})
        assert answer.status_code == 200
        assert len(answer.json()["predictions"]) == 1


def test_rows_come_back_with_labels_and_scores(client: httpx.Client) -> None:
    answer = client.post("/predict/table/1", json=[{"age": 0.25, "height": 0.75}, {"age": 0.5, "height": 0.25}])
    assert answer.json() == {
        "model": "table",
        "version": "1",
        "predictions": [
            {"label": "yes", "score": 0.75, "scores": {"yes": 0.75, "no": 0.25}},
            {"label": "no", "score": 0.5, "scores": {"no": 0.5, "yes": 0.25}},
        ],
    }


def test_a_table_there_and_back(client: httpx.Client) -> None:
    headers = {"content-type": "text/csv", "accept": "text/csv"}
    answer = client.post("/predict/table", content="height,age\n0.75,0.25\n0,1\n", headers=headers)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert [line.split(",")[0] for line in answer.text.splitlines()] == ["label", "yes", "no"]
    many = "height,age\n" + "0.75,0.25\n" * 128
    answer = client.post("/predict/table", content=many, headers=headers)
    assert answer.status_code == 200
    assert len(answer.text.splitlines()) == 129


@pytest.mark.promise("P-08")
@pytest.mark.parametrize(
    ("path", "body", "media", "status", "code"),
    [
        ("/predict/nobody", "{}", "application/json", 404, "not_found"),
        ("/predict/bare/9", "{}", "application/json", 404, "not_found"),
        ("/predict/bare", "{", "application/json", 400, "invalid_input"),
        ("/predict/table", '{"age": "1"}', "application/json", 400, "invalid_input"),
        ("/predict/table", "x", "image/png", 415, "unsupported_media_type"),
        ("/predict/table", "age,height\n,1\n", "text/csv", 400, "invalid_input"),
    ],
)
def test_errors_say_what_and_bear_the_request_id(
    client: httpx.Client, path: str, body: str, media: str, status: int, code: str
) -> None:
    answer = client.post(path, content=body, headers={"content-type": media})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "hint", "request_id"}
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]


def test_health_and_methods(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"live": True, "ready": True}
    assert client.put("/predict/bare", json={}).status_code == 405
    assert client.head("/").status_code == 200


def test_tensorflow_serving(client: httpx.Client) -> None:
    rows = [[1.0, 2.0], [3.0, 4.0]]
    path = "/v1/models/bare"
    assert client.post(f"{path}:predict", json={"instances": rows}).json() == {"predictions": rows}
    assert client.post(f"{path}/versions/1:predict", json={"inputs": rows}).json() == {"outputs": rows}
    assert client.post(f"{path}:classify", json={"examples": [{"x": rows[0]}]}).json() == {
        "results": [[["no", 1.0], ["yes", 2.0]]]
    }
    labels = client.post("/v1/models/table:classify", json={"examples": [{"age": 0.25, "height": 0.75}]}).json()
    assert labels == {"results": [[["yes", 0.75], ["no", 0.25]]]}
    assert client.get(path).json()["model_version_status"][0]["state"] == "AVAILABLE"
    assert "serving_default" in json.dumps(client.get(f"{path}/metadata").json())
    for wrong, status in (
        (":predict", 400),
        ("/labels/stable:predict", 404),
        ("/versions/9:predict", 404),
        (":other", 404),
    ):
        answer = client.post(f"{path}{wrong}", json={"rows": rows})
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}
