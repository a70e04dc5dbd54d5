"""Every capture source, packaged and served by one server: over HTTP, alone and in shared batches, it answers as its
framework does."""

from __future__ import annotations

import dataclasses
import http.client
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

import windlass as wl
from windlass.types import tensor, tensor_codec

pytestmark = pytest.mark.timeout(400)
torch.set_num_threads(1)

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request: its body in one protocol, and what its answer must be."""

    path: str
    headers: dict[str, str]
    body: bytes
    check: Callable[[http.client.HTTPResponse, bytes], None]
    rows: int


def rows_of(inputs: Arrays) -> int:
    return len(next(iter(inputs.values())))


# One function a protocol: a request for these inputs.


def oip_binary(models: Any, name: str, inputs: Arrays) -> Asked:
    parts = {n: tensor_codec.to_raw(a) for n, a in inputs.items()}
    described = [
        {"name": n, "shape": a.shape, "datatype": tensor.datatype(a), "parameters": {"binary_data_size": len(parts[n])}}
        for n, a in inputs.items()
    ]
    head = msgspec.json.encode({"inputs": described, "parameters": {"binary_data_output": True}})

    def check(answer: http.client.HTTPResponse, body: bytes) -> None:
        length = int(answer.headers["inference-header-content-length"])
        rest, outputs = body[length:], {}
        for output in json.loads(body[:length])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            raw, rest = rest[:size], rest[size:]
            shape = tuple(output["shape"])
            outputs[output["name"]] = tensor_codec.from_raw(output["datatype"], shape, raw, name=output["name"])
        assert rest == b""
        models.agree(name, outputs, inputs)

    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    return Asked(f"/v2/models/{name}/infer", headers, head + b"".join(parts.values()), check, rows_of(inputs))


def oip_json(models: Any, name: str, inputs: Arrays) -> Asked:
    described = [
        {"name": n, "shape": a.shape, "datatype": tensor.datatype(a), "data": a.ravel().tolist()}
        for n, a in inputs.items()
    ]

    def check(_: http.client.HTTPResponse, body: bytes) -> None:
        told = json.loads(body)["outputs"]
        models.agree(name, models.shape(name, {o["name"]: np.reshape(o["data"], o["shape"]) for o in told}), inputs)

    return Asked(f"/v2/models/{name}/infer", JSON, msgspec.json.encode({"inputs": described}), check, rows_of(inputs))


def tfserving(models: Any, name: str, inputs: Arrays) -> Asked:
    def check(_: http.client.HTTPResponse, body: bytes) -> None:
        told = json.loads(body)["outputs"]
        names = [spec.name for spec in models.manifests[name].signature.outputs]
        models.agree(name, models.shape(name, told if len(names) > 1 else {names[0]: told}), inputs)

    body = msgspec.json.encode({"inputs": {n: a.tolist() for n, a in inputs.items()}})
    return Asked(f"/v1/models/{name}:predict", JSON, body, check, rows_of(inputs))


def plain(models: Any, name: str, inputs: Arrays) -> Asked:
    """What people see: tensors by name, or labels with the scores of each, checked against the framework's scores."""

    def check(_: http.client.HTTPResponse, body: bytes) -> None:
        rows = json.loads(body)["predictions"]
        classify = next((t.parameters for t in models.manifests[name].transforms if t.kind == "classify"), None)
        if classify is None:
            names = [spec.name for spec in models.manifests[name].signature.outputs]
            models.agree(name, models.shape(name, {n: [row[n] for row in rows] for n in names}), inputs)
            return
        theirs = models.subjects[name].answer(inputs)[classify["output"]]
        if classify["activation"] == "softmax":
            theirs = torch.softmax(torch.from_numpy(theirs), 1).numpy()
        ours = np.array([[row["scores"][label] for label in classify["labels"]] for row in rows])
        assert ours == pytest.approx(theirs, rel=models.manifests[name].golden.rtol, abs=1e-5)
        for row, scores in zip(rows, theirs, strict=True):
            assert row["label"] == classify["labels"][int(scores.argmax())] or np.ptp(scores) < 1e-4

    body = msgspec.json.encode(models.subjects[name].plain(inputs))
    return Asked(f"/predict/{name}", JSON, body, check, rows_of(inputs))


JSON = {"content-type": "application/json"}
PROTOCOLS = {"oip-binary": oip_binary, "oip-json": oip_json, "tfserving": tfserving, "plain": plain}


def together(models: Any, asked: list[Asked]) -> list[int]:
    """Send each request on a connection of its own before any answer is read; check all; the rows of their runs."""
    connections = [http.client.HTTPConnection(models.address, timeout=60) for _ in asked]
    try:
        for connection in connections:
            connection.connect()
        for connection, one in zip(connections, asked, strict=True):
            connection.request("POST", one.path, one.body, {**one.headers, "x-server-timing": "1"})
        shared = []
        for connection, one in zip(connections, asked, strict=True):
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, (one.path, body)
            one.check(answer, body)
            shared.append(int(re.search(r"batch;desc=(\d+)", answer.headers["server-timing"])[1]))
        return shared
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.promise("P-28")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_answers_alone_as_its_framework_does(models: Any, name: str, protocol: str) -> None:
    rng = np.random.default_rng(1)
    for rows in models.sizes:
        asked = PROTOCOLS[protocol](models, name, models.subjects[name].draw(rng, rows))
        assert together(models, [asked]) == [rows]


@pytest.mark.promise("P-28")
@pytest.mark.promise("P-36e")
def test_rows_that_share_a_run_with_others_get_their_own_answers(models: Any, name: str) -> None:
    rng = np.random.default_rng(2)
    shared = 0
    for _ in range(4):
        pairs = [*itertools.product(PROTOCOLS.values(), models.sizes), *((p, 1) for p in PROTOCOLS.values())] * 2
        rng.shuffle(pairs)
        asked = [protocol(models, name, models.subjects[name].draw(rng, rows)) for protocol, rows in pairs]
        ran = together(models, asked)
        assert all(one.rows <= rows for one, rows in zip(asked, ran, strict=True))
        shared += sum(one.rows < rows for one, rows in zip(asked, ran, strict=True))
    assert shared > 0, "no two requests ever shared a run: nothing was tried"


@pytest.mark.promise("P-28")
def test_all_models_asked_at_once_answer_as_their_frameworks_do(models: Any) -> None:
    rng = np.random.default_rng(3)
    trials = [
        (name, protocol, rows) for name in models.subjects for protocol in PROTOCOLS.values() for rows in (1, 2, 5)
    ]
    rng.shuffle(trials)
    together(models, [protocol(models, name, models.subjects[name].draw(rng, rows)) for name, protocol, rows in trials])


def test_one_row_more_than_a_request_may_hold_is_refused(models: Any) -> None:
    rows = models.subjects["onnx"].draw(np.random.default_rng(4), models.max_batch + 1)
    with wl.Client(models.server.url) as client, pytest.raises(wl.WindlassError, match=str(models.max_batch)):
        client.infer("onnx", rows)
