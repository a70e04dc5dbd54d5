"""Targets: what each protocol is sent reads as what was meant, and metadata of ours and of TensorFlow is understood."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.client import inputs, load, targets
from windlass.protocols.pb import messages
from windlass.types import tensor, tensor_codec

WANTED = (
    inputs.Wanted("x", "FP32", (-1, 3)),
    inputs.Wanted("ids", "INT64", (-1, -1)),
    inputs.Wanted("attention_mask", "INT64", (-1, -1)),
    inputs.Wanted("flag", "BOOL", (-1,)),
    inputs.Wanted("text", "BYTES", (-1, 1)),
)


def made(seed: int = 0, rows: int = 2, length: int = 5) -> tensor.Tensors:
    return inputs.at_random(WANTED, inputs.Size(rows, length), seed)


@given(st.integers(0, 50), st.integers(1, 4), st.integers(1, 40))
def test_random_tensors_are_what_was_wanted(seed: int, rows: int, length: int) -> None:
    found = made(seed, rows, length)
    assert {name: (tensor.datatype(array), array.shape) for name, array in found.items()} == {
        "x": ("FP32", (rows, 3)),
        "ids": ("INT64", (rows, length)),
        "attention_mask": ("INT64", (rows, length)),
        "flag": ("BOOL", (rows,)),
        "text": ("BYTES", (rows, 1)),
    }
    assert found["attention_mask"].all()
    assert 0 <= found["ids"].min() <= found["ids"].max() < 100


def test_different_seeds_make_different_requests() -> None:
    assert len({targets.ADAPTERS["oip"].body("m", made(seed)).data for seed in range(20)}) == 20  # type: ignore[misc]


def test_json_holds_the_same_numbers() -> None:
    found = made()
    document = msgspec.json.decode(body("oip", found))
    for one in document["inputs"]:
        array = found[one["name"]]
        assert one["shape"] == list(array.shape)
        if one["datatype"] == "BYTES":
            assert one["data"] == [text.decode() for text in array.ravel()]
        else:
            assert np.array_equal(np.array(one["data"], array.dtype).reshape(array.shape), array)
    assert len(str(document["inputs"][0]["data"][0])) < 8, "a float32 as short as it can be"


def test_a_grpc_message_holds_the_same_tensors() -> None:
    found = made()
    data = body("oip-grpc", found)
    assert (data[0], int.from_bytes(data[1:5], "big")) == (0, len(data) - 5)
    parsed = messages.parse(messages.message_class("inference.ModelInferRequest"), data[5:])
    assert parsed.model_name == "m"
    for one, raw in zip(parsed.inputs, parsed.raw_input_contents, strict=True):
        array = tensor_codec.from_raw(one.datatype, tuple(one.shape), raw, name=one.name)
        assert np.array_equal(array, found[one.name])


def test_tensorflow_gets_columns() -> None:
    found = {"x": made()["x"]}
    assert np.array_equal(np.float32(msgspec.json.decode(body("tfserving", found))["inputs"]["x"]), found["x"])


def body(protocol: str, tensors: tensor.Tensors) -> bytes:
    make = targets.ADAPTERS[protocol].body
    assert make is not None
    return make("m", tensors).data


def client(status: int, document: Any) -> httpx.Client:
    return httpx.Client(
        base_url="http://h", transport=httpx.MockTransport(lambda _: httpx.Response(status, json=document))
    )


def test_metadata_of_the_open_inference_protocol() -> None:
    document = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", 4]}]}
    assert targets.metadata(client(200, document), "/v2/models/m") == [inputs.Wanted("x", "FP32", (-1, 4))]


def test_metadata_of_tensorflow_serving() -> None:
    one = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "4"}]}}
    document = {"metadata": {"signature_def": {"signature_def": {"serving_default": {"inputs": {"x": one}}}}}}
    assert targets.metadata(client(200, document), "/v1/models/m/metadata") == [inputs.Wanted("x", "FP32", (-1, 4))]


@pytest.mark.parametrize("document", [{}, {"metadata": {}}, {"inputs": [{"name": "x"}]}])
def test_metadata_that_is_not_understood(document: Any) -> None:
    with pytest.raises(errors.Unsupported, match="--input"):
        targets.metadata(client(200, document), "/v2/models/m")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, errors.NotFound), (401, errors.Unauthenticated), (400, errors.InvalidInput), (503, errors.Unavailable)],
)
def test_refusals_are_told_in_the_server_s_words(status: int, kind: type[errors.WindlassError]) -> None:
    with pytest.raises(kind, match="the server's words"):
        targets.metadata(client(status, {"error": "the server's words"}), "/v2/models/m")


@pytest.mark.parametrize("url", ["localhost:8000/m", "ftp://h/m", "http://h:1", "http:///m"])
def test_an_address_of_no_model_is_refused(url: str) -> None:
    with pytest.raises(errors.UsageError):
        targets.find(url, "oip", targets.Access())


def test_a_protocol_that_tells_no_inputs_needs_a_request() -> None:
    with pytest.raises(errors.UsageError, match="--input"):
        targets.find("http://127.0.0.1:1/m", "torchserve", targets.Access())


def test_lengths_are_mixed() -> None:
    assert inputs.sizes(("16@0.9", "512@0.1"), 2) == (inputs.Size(2, 16, 0.9), inputs.Size(2, 512, 0.1))
    assert inputs.sizes((), 3) == (inputs.Size(3),)
    for wrong in ("x", "0", "16@0", "16@x", "-1"):
        with pytest.raises(errors.UsageError):
            inputs.sizes((wrong,), 1)


def test_an_http_request_is_whole() -> None:
    target = load.http("https://h:8443/p?q=1", [b"a", b"bb"], headers={"x-k": "v"}, weights=[1, 3])
    assert (target.host, target.port, target.tls) == ("h", 8443, True)
    head, _, sent = target.requests[1].data.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /p?q=1 HTTP/1.1",
        b"host: h:8443",
        b"content-type: application/json",
        b"x-k: v",
        b"content-length: 2",
    ]
    assert sent == b"bb"
    assert [request.weight for request in target.requests] == [1, 3]
    for url, bodies, weights in (("ftp://h", [b""], []), ("http://h", [b"a"], [1, 2])):
        with pytest.raises(errors.UsageError):
            load.http(url, bodies, weights=weights)
