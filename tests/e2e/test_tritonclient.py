"""Triton's own Python client, unmodified, against a server process: what it sends we take, what we send it reads."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient import utils

from windlass.packaging import archive, build, draft
from windlass.security import keys
from windlass.serving import launch
from windlass.types import signature, spec, tensor

PEPPER = bytes(range(32))
NUMBERS = ("x", "FP32", ("batch", 4))
EVERY = tuple((f"in_{name.lower()}", name, ("batch", 3)) for name in sorted(tensor.DTYPES))


def echo(folder: Path, name: str, inputs: tuple[Any, ...], **behaviour: Any) -> spec.Endpoint:
    """An endpoint of a package that answers `out_...` with `in_...`."""
    given = tuple(signature.TensorSpec(*one) for one in inputs)
    back = tuple(msgspec.structs.replace(one, name=one.name.replace("in_", "out_")) for one in given)
    if given[0].name == "x":
        back = (msgspec.structs.replace(given[0], name="y"),)
    rows: tensor.Tensors = {}
    for one in given:
        shape = tuple(size if isinstance(size, int) else 2 for size in one.shape)
        rows[one.name] = (
            np.full(shape, b"a", object) if one.datatype == "BYTES" else np.ones(shape, tensor.dtype(one.datatype))
        )
    answers = {out.name: rows[one.name] for one, out in zip(given, back, strict=True)}
    drafted = draft.Draft(
        files={"echo.json": msgspec.json.encode({"inputs": given, "outputs": back, **behaviour})},
        signature=signature.Signature(given, back),
        trials=(draft.Trial("ones", rows, answers),),
        framework="echo",
        runtime="echo",
        labels=("cat", "dog", "eel", "fox") if name == "numbers" else (),
        max_batch=64,
    )
    package = build.build(drafted, name=name)
    path = folder / f"{name}.windlass"
    archive.write_zip(package, path)
    return spec.Endpoint(name, (spec.Arm(package.digest, "3", str(path)),))


def run(folder: Path, **settings: Any) -> launch.Server:
    wanted = spec.Spec(listen="127.0.0.1:0", admin="127.0.0.1:0", **settings)
    return launch.Server(wanted, folder)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    folder = tmp_path_factory.mktemp("triton")
    endpoints = (
        echo(folder, "numbers", (NUMBERS,)),
        echo(folder, "every", EVERY),
        echo(folder, "slow", (NUMBERS,), run_ms=200),
        echo(folder, "long", (("x", "FP32", ("batch", "n")),)),
    )
    with run(folder, endpoints=endpoints) as server:
        found = triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8)
        yield found
        found.close()


def numbers(rows: int = 2) -> tensor.Array:
    return (np.arange(rows * 4, dtype=np.float32) / 7).reshape(rows, 4)


def given(array: tensor.Array, *, binary: bool = True, name: str = "x") -> triton.InferInput:
    found = triton.InferInput(name, list(array.shape), utils.np_to_triton_dtype(array.dtype))
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("numbers")
    assert client.is_model_ready("numbers", "3")
    assert not client.is_model_ready("numbers", "4")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("numbers")
    assert metadata["versions"] == ["3"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    config = client.get_model_config("numbers", "3")
    assert config["max_batch_size"] == 64
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
    index = {one["name"]: one for one in client.get_model_repository_index()}
    assert index["numbers"]["state"] == "READY"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_numbers_in_and_out(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    result = client.infer(
        "numbers",
        [given(numbers(), binary=binary_in)],
        outputs=[triton.InferRequestedOutput("y", binary_data=binary_out)],
        request_id="ä-1",
        model_version="3",
    )
    np.testing.assert_array_equal(result.as_numpy("y"), numbers())
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("ä-1", "numbers", "3")


@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype(client: triton.InferenceServerClient, binary: bool) -> None:
    sent: dict[str, tensor.Array] = {}
    for name, datatype, _ in EVERY:
        if datatype == "BYTES":
            sent[name] = np.array([[b"", "ü:\n".encode(), b"\xff\0" if binary else b"z"]], object)
        elif datatype == "BOOL":
            sent[name] = np.array([[True, False, True]])
        elif datatype.startswith("FP"):
            info = np.finfo(tensor.dtype(datatype))
            sent[name] = np.array([[info.min, info.max, info.tiny]], tensor.dtype(datatype))
        else:
            whole = np.iinfo(tensor.dtype(datatype))
            sent[name] = np.array([[whole.min, whole.max, 1]], tensor.dtype(datatype))
    outputs = [triton.InferRequestedOutput(name.replace("in_", "out_"), binary_data=binary) for name in sent]
    result = client.infer("every", [given(a, binary=binary, name=n) for n, a in sent.items()], outputs=outputs)
    for name, array in sent.items():
        found = result.as_numpy(name.replace("in_", "out_"))
        if array.dtype == object and not binary:
            array = np.vectorize(bytes.decode, otypes=[object])(array)
        assert found.shape == array.shape
        np.testing.assert_array_equal(found, array)


def test_no_outputs_named_means_all_as_bytes(client: triton.InferenceServerClient) -> None:
    result = client.infer("numbers", [given(numbers())])
    np.testing.assert_array_equal(result.as_numpy("y"), numbers())
    assert result.get_output("y")["parameters"] == {"binary_data_size": 32}


@pytest.mark.parametrize("binary", [True, False])
def test_classes(client: triton.InferenceServerClient, binary: bool) -> None:
    array = np.array([[0.5, 4, 1, 2], [9, 8, 7, 6]], np.float32)
    output = triton.InferRequestedOutput("y", binary_data=binary, class_count=2)
    found = client.infer("numbers", [given(array)], outputs=[output]).as_numpy("y")
    texts = [[v.decode() if isinstance(v, bytes) else v for v in row] for row in found]
    assert texts == [["4.0:1:dog", "2.0:3:fox"], ["9.0:0:cat", "8.0:1:dog"]]


@pytest.mark.parametrize("request_encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression_both_ways(
    client: triton.InferenceServerClient, request_encoding: str | None, response_encoding: str | None, binary: bool
) -> None:
    array = np.linspace(0, 1, 20_000, dtype=np.float32).reshape(2, 10_000)
    result = client.infer(
        "long",
        [given(array, binary=binary)],
        outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
        request_compression_algorithm=request_encoding,
        response_compression_algorithm=response_encoding,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_a_body_may_be_made_apart_from_the_call(client: triton.InferenceServerClient) -> None:
    body, length = triton.InferenceServerClient.generate_request_body([given(numbers())])
    response = client._post(
        "v2/models/numbers/infer", body, {"Inference-Header-Content-Length": length}, query_params=None
    )
    headers = {name.lower(): value for name, value in response.items()}
    result = triton.InferenceServerClient.parse_response_body(
        response.read(), header_length=int(headers["inference-header-content-length"])
    )
    np.testing.assert_array_equal(result.as_numpy("y"), numbers())


def test_a_raw_body_is_the_one_input(client: triton.InferenceServerClient) -> None:
    response = client._post(
        "v2/models/numbers/infer", numbers().tobytes(), {"Inference-Header-Content-Length": 0}, query_params=None
    )
    assert response.status_code == 200
    result = triton.InferenceServerClient.parse_response_body(response.read())
    np.testing.assert_array_equal(result.as_numpy("y"), numbers())


def test_statistics_count_what_was_asked(client: triton.InferenceServerClient) -> None:
    def counts() -> tuple[int, int]:
        (one,) = client.get_inference_statistics("numbers")["model_stats"]
        return one["inference_count"], one["inference_stats"]["success"]["count"]

    before = counts()
    client.infer("numbers", [given(numbers(5))])
    after = counts()
    assert (after[0] - before[0], after[1] - before[1]) == (5, 1)
    assert {one["name"] for one in client.get_inference_statistics()["model_stats"]} >= {"numbers", "every"}


@pytest.mark.promise("P-36c")
def test_errors_are_told(client: triton.InferenceServerClient) -> None:
    wrong: list[tuple[str, triton.InferInput, dict[str, Any], str, str]] = [
        ("nobody", given(numbers()), {}, "404", "Request for unknown model: 'nobody' is not found"),
        ("numbers", given(numbers()), {"model_version": "9"}, "404", "numbers"),
        ("numbers", given(numbers()[:, :3]), {}, "400", "input 'x' has shape"),
        ("numbers", given(numbers().astype(np.float64)), {}, "400", "FP64"),
        ("numbers", given(numbers(), name="z"), {}, "400", "unexpected input 'z'"),
        ("numbers", given(numbers(65)), {}, "400", "65 rows"),
        ("numbers", given(numbers()), {"sequence_id": 7, "sequence_start": True}, "501", "not supported"),
        ("numbers", given(numbers()), {"outputs": [triton.InferRequestedOutput("q")]}, "400", "unexpected output 'q'"),
    ]
    for model, sent, keywords, status, text in wrong:
        with pytest.raises(utils.InferenceServerException) as caught:
            client.infer(model, [sent], **keywords)
        assert caught.value.status() == status
        assert text in caught.value.message()
    shared = triton.InferInput("x", [1, 4], "FP32").set_shared_memory("region", 16)
    with pytest.raises(utils.InferenceServerException, match="shared memory regions are not supported"):
        client.infer("numbers", [shared])
    with pytest.raises(utils.InferenceServerException, match="shared memory regions are not supported"):
        client.register_system_shared_memory("region", "/key", 16)
    client.unregister_system_shared_memory()
    assert client.get_system_shared_memory_status() == []


@pytest.mark.promise("P-33")
def test_a_timeout_is_kept(client: triton.InferenceServerClient) -> None:
    with pytest.raises(utils.InferenceServerException) as caught:
        client.infer("slow", [given(numbers())], timeout=20_000)
    assert caught.value.status() == "503"


def test_settings_are_read_and_not_changed(client: triton.InferenceServerClient) -> None:
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.get_trace_settings("numbers")["trace_level"] == ["OFF"]
    assert client.get_log_settings()["log_error"] is True
    with pytest.raises(utils.InferenceServerException):
        client.update_log_settings({"log_file": "/tmp/x"})


def test_many_at_once_get_their_own_answers(client: triton.InferenceServerClient) -> None:
    arrays = [np.full((1 + i % 3, 4), i, np.float32) for i in range(200)]
    asked = [client.async_infer("numbers", [given(array, binary=i % 2 == 0)]) for i, array in enumerate(arrays)]
    for array, one in zip(arrays, asked, strict=True):
        np.testing.assert_array_equal(one.get_result().as_numpy("y"), array)


def test_clients_in_threads(client: triton.InferenceServerClient) -> None:
    address = client._parsed_url.host, client._parsed_url.port

    def work(number: int) -> int:
        own = triton.InferenceServerClient(f"{address[0]}:{address[1]}")
        try:
            array = np.full((1, 4), number, np.float32)
            for _ in range(20):
                np.testing.assert_array_equal(own.infer("numbers", [given(array)]).as_numpy("y"), array)
        finally:
            own.close()
        return 20

    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        assert sum(executor.map(work, range(4))) == 80


def test_the_repository_is_for_who_has_a_key(tmp_path: Path) -> None:
    identity, text = keys.generate()
    scopes = ("model:read", "model:predict", "model:load")
    key = spec.Key(identity, keys.hmac_of(text, PEPPER), scopes)
    repository = (echo(tmp_path, "later", (NUMBERS,)),)
    with run(tmp_path, endpoints=(), repository=repository, keys=(key,), key_pepper=PEPPER.hex()) as server:
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        headers = {"Authorization": f"Bearer {text}"}
        try:
            with pytest.raises(utils.InferenceServerException, match="key"):
                client.load_model("later")
            assert client.is_server_live()
            (one,) = client.get_model_repository_index(headers=headers)
            assert (one["name"], one["state"]) == ("later", "UNAVAILABLE")
            client.load_model("later", headers=headers)
            result = client.infer("later", [given(numbers())], headers=headers)
            np.testing.assert_array_equal(result.as_numpy("y"), numbers())
            client.unload_model("later", headers=headers)
            assert not client.is_model_ready("later", headers=headers)
            with pytest.raises(utils.InferenceServerException, match="failed to load 'nobody'"):
                client.load_model("nobody", headers=headers)
            with pytest.raises(utils.InferenceServerException, match="cannot be given"):
                client.load_model("later", headers=headers, config="{}")
        finally:
            client.close()
