"""Every capture source, packaged and served by one server: over HTTP, alone and in shared batches, it answers as its
framework does."""

from __future__ import annotations

import dataclasses
import http.client
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import msgspec
import numpy as np
import onnx
import onnx.reference
import pandas as pd
import pytest
import sklearn.compose
import sklearn.ensemble
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing
import tokenizers
import torch
import transformers
import xgboost
from onnx import TensorProto, helper

import windlass as wl
from windlass.packaging import archive
from windlass.packaging.capture import torch_original
from windlass.storage import blobs
from windlass.types import tensor, tensor_codec

pytestmark = pytest.mark.timeout(400)
torch.set_num_threads(1)

MAX_BATCH = 24
SIZES = (1, 2, 3, 17, MAX_BATCH)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((1200, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(np.int64)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "plot", "the", "a", "was", "very"]

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model: what is packaged, rows to ask it with, and what its framework answers for such rows."""

    source: Any
    example: Any
    draw: Callable[[np.random.Generator, int], Arrays]
    answer: Callable[[Arrays], Arrays]
    plain: Callable[[Arrays], Any] = lambda inputs: {"inputs": lists(inputs)}


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request: its body in one protocol, and what its answer must be."""

    path: str
    headers: dict[str, str]
    body: bytes
    check: Callable[[http.client.HTTPResponse, bytes], None]
    rows: int


def lists(inputs: Arrays) -> dict[str, Any]:
    return {name: array.tolist() for name, array in inputs.items()}


def rows_of(inputs: Arrays) -> int:
    return len(next(iter(inputs.values())))


def some_rows(rng: np.random.Generator, rows: int) -> Arrays:
    return {"x": X[rng.integers(0, len(X), rows)]}


def named(name: str) -> Callable[[np.random.Generator, int], Arrays]:
    return lambda rng, rows: {name: some_rows(rng, rows)["x"]}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).eval()


def by_torch(module: Callable[..., torch.Tensor], name: str) -> Callable[[Arrays], Arrays]:
    def answer(inputs: Arrays) -> Arrays:
        with torch.inference_mode(), torch_original.quiet():
            return {"output": module(torch.from_numpy(inputs[name])).numpy()}

    return answer


def by_estimator(model: Any) -> Callable[[Arrays], Arrays]:
    return lambda inputs: {
        "label": model.predict(inputs["input"]),
        "probabilities": model.predict_proba(inputs["input"]),
    }


# One function a source. What users have as files is packaged from a file.


def torch_module(folder: Path) -> Subject:
    module = network()
    return Subject(module, X[:40], named("input"), by_torch(module, "input"))


def torch_export(folder: Path) -> Subject:
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(network(), (torch.from_numpy(X[:8]),), dynamic_shapes=shapes)
    path = folder / "net.pt2"
    with torch_original.quiet():
        torch.export.save(program, path)
    return Subject(path, X[:40], named("input"), by_torch(program.module(), "input"))


def torchscript(folder: Path) -> Subject:
    path = folder / "net.pt"
    with torch_original.quiet():
        scripted = torch.jit.script(network())
        scripted.save(str(path))
    return Subject(path, X[:40], named("input"), by_torch(scripted, "input"))


def onnx_file(folder: Path) -> Subject:
    weights = {"w": X[:4, :3].copy(), "b": X[5, :3].copy()}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
            helper.make_node("Softmax", ["h"], ["y"], axis=1),
            helper.make_node("ArgMax", ["h"], ["best"], axis=1, keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("best", TensorProto.INT64, ["n"]),
        ],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = folder / "m.onnx"
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, path)
    reference = onnx.reference.ReferenceEvaluator(model)
    return Subject(
        path, X[:40], some_rows, lambda inputs: dict(zip(("y", "best"), reference.run(None, inputs), strict=True))
    )


def huggingface(folder: Path) -> Subject:
    """A small BERT classifier; texts of one request are of one length, those of different requests are not."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    model = transformers.BertForSequenceClassification(config).eval()
    with torch_original.quiet():
        model.save_pretrained(folder)
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(folder / "tokenizer.json"))

    def draw(rng: np.random.Generator, rows: int) -> Arrays:
        """Texts of 1 to 38 words as tokens: requests differ in their longest text, and the texts of each do too."""
        texts = [rng.integers(4, len(WORDS), rng.integers(1, 39)) for _ in range(rows)]
        ids = np.zeros((rows, 2 + max(map(len, texts))), np.int64)
        for row, words in enumerate(texts):
            ids[row, : len(words) + 2] = [2, *words, 3]
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": np.zeros_like(ids)}

    def answer(inputs: Arrays) -> Arrays:
        with torch.inference_mode(), torch_original.quiet():
            return {"logits": model(**{n: torch.from_numpy(a) for n, a in inputs.items()}).logits.numpy()}

    texts = ["the film was very good", "bad", "a plot", "the the the unknown"] * 8

    def text(inputs: Arrays) -> Any:
        return {"text": [" ".join(WORDS[token] for token in row if token > 3) for row in inputs["input_ids"]]}

    return Subject(folder, {"text": texts}, draw, answer, text)


def sklearn_classifier(folder: Path) -> Subject:
    model = sklearn.ensemble.RandomForestClassifier(n_estimators=8, max_depth=5, random_state=0, n_jobs=1).fit(X, Y)
    return Subject(model, X, named("input"), by_estimator(model))


def sklearn_pipeline(folder: Path) -> Subject:
    """Numbers and words in a data frame, from a file that is unpickled in the sandbox."""
    colours = np.array(["red", "green", "blue"], object)
    table = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "colour": colours[RNG.integers(0, 3, len(X))]})
    columns = sklearn.compose.ColumnTransformer(
        [
            ("numbers", sklearn.preprocessing.StandardScaler(), ["a", "b"]),
            ("words", sklearn.preprocessing.OneHotEncoder(handle_unknown="ignore"), ["colour"]),
        ]
    )
    model = sklearn.pipeline.make_pipeline(columns, sklearn.linear_model.LogisticRegression()).fit(table, Y)
    path = folder / "pipeline.joblib"
    joblib.dump(model, path)

    def draw(rng: np.random.Generator, rows: int) -> Arrays:
        picked = X[rng.integers(0, len(X), rows)].astype(np.float64)
        return {"a": picked[:, :1], "b": picked[:, 1:2], "colour": colours[rng.integers(0, 3, (rows, 1))]}

    def answer(inputs: Arrays) -> Arrays:
        given = pd.DataFrame({name: array[:, 0] for name, array in inputs.items()})
        return {"label": model.predict(given), "probabilities": model.predict_proba(given)}

    return Subject(path, table, draw, answer)


def xgboost_file(folder: Path) -> Subject:
    model = xgboost.XGBClassifier(n_estimators=6, max_depth=3, n_jobs=1).fit(X, Y)
    path = folder / "trees.ubj"
    model.save_model(path)
    return Subject(path, X, named("input"), by_estimator(model))


def lightgbm_file(folder: Path) -> Subject:
    model = lightgbm.LGBMClassifier(n_estimators=6, num_leaves=7, n_jobs=1, verbose=-1).fit(X, Y)
    path = folder / "trees.lgb"
    model.booster_.save_model(path)
    return Subject(path, X, named("input"), by_estimator(model))


MAKERS: dict[str, Callable[[Path], Subject]] = {
    "torch-module": torch_module,
    "torch-export": torch_export,
    "torchscript": torchscript,
    "onnx": onnx_file,
    "huggingface": huggingface,
    "sklearn-classifier": sklearn_classifier,
    "sklearn-pipeline": sklearn_pipeline,
    "xgboost": xgboost_file,
    "lightgbm": lightgbm_file,
}


class Models:
    """All models behind one server."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.subjects: dict[str, Subject] = {}
        self.manifests: dict[str, Any] = {}
        for name, make in MAKERS.items():
            (folder / name).mkdir()
            subject = self.subjects[name] = make(folder / name)
            version = wl.package(subject.source, subject.example, name=name, home=self.home, max_batch=MAX_BATCH)
            package = archive.open_store(blobs.BlobStore(str(self.home / "blobs")), version.digest)
            self.manifests[name] = package.manifest
        self.server = wl.serve(*MAKERS, home=self.home)
        self.address = self.server.url.removeprefix("http://")

    def agree(self, name: str, ours: Arrays, inputs: Arrays) -> None:
        """The package's own tolerance: rtol * |theirs| + atol * max|theirs| for floats, equality for all else."""
        stated = self.manifests[name].golden
        theirs = self.subjects[name].answer(inputs)
        assert set(ours) == set(theirs)
        for output, expected in theirs.items():
            assert ours[output].shape == expected.shape, (name, output)
            if expected.dtype.kind == "f":
                allowed = stated.rtol * np.abs(expected) + stated.atol * np.abs(expected).max()
                assert (np.abs(ours[output] - expected) <= allowed).all(), (name, output)
            else:
                assert ours[output].tolist() == expected.tolist(), (name, output)

    def shape(self, name: str, outputs: dict[str, Any]) -> Arrays:
        """JSON's lists as arrays of the signature's datatypes."""
        specs = self.manifests[name].signature.outputs
        return {s.name: np.asarray(outputs[s.name], tensor.dtype(s.datatype)) for s in specs}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    made = Models(tmp_path_factory.mktemp("parity"))
    with made.server:
        yield made


# One function a protocol: a request for these inputs.


def oip_binary(models: Models, name: str, inputs: Arrays) -> Asked:
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


def oip_json(models: Models, name: str, inputs: Arrays) -> Asked:
    described = [
        {"name": n, "shape": a.shape, "datatype": tensor.datatype(a), "data": a.ravel().tolist()}
        for n, a in inputs.items()
    ]

    def check(_: http.client.HTTPResponse, body: bytes) -> None:
        told = json.loads(body)["outputs"]
        models.agree(name, models.shape(name, {o["name"]: np.reshape(o["data"], o["shape"]) for o in told}), inputs)

    return Asked(f"/v2/models/{name}/infer", JSON, msgspec.json.encode({"inputs": described}), check, rows_of(inputs))


def tfserving(models: Models, name: str, inputs: Arrays) -> Asked:
    def check(_: http.client.HTTPResponse, body: bytes) -> None:
        told = json.loads(body)["outputs"]
        names = [spec.name for spec in models.manifests[name].signature.outputs]
        models.agree(name, models.shape(name, told if len(names) > 1 else {names[0]: told}), inputs)

    body = msgspec.json.encode({"inputs": lists(inputs)})
    return Asked(f"/v1/models/{name}:predict", JSON, body, check, rows_of(inputs))


def plain(models: Models, name: str, inputs: Arrays) -> Asked:
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


def together(models: Models, asked: list[Asked]) -> list[int]:
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
@pytest.mark.parametrize("name", MAKERS)
def test_each_answers_alone_as_its_framework_does(models: Models, name: str, protocol: str) -> None:
    rng = np.random.default_rng(1)
    for rows in SIZES:
        asked = PROTOCOLS[protocol](models, name, models.subjects[name].draw(rng, rows))
        assert together(models, [asked]) == [rows]


@pytest.mark.promise("P-28")
@pytest.mark.promise("P-36e")
@pytest.mark.parametrize("name", MAKERS)
def test_rows_that_share_a_run_with_others_get_their_own_answers(models: Models, name: str) -> None:
    rng = np.random.default_rng(2)
    shared = 0
    for _ in range(4):
        pairs = [*itertools.product(PROTOCOLS.values(), SIZES), *((p, 1) for p in PROTOCOLS.values())] * 2
        rng.shuffle(pairs)
        asked = [protocol(models, name, models.subjects[name].draw(rng, rows)) for protocol, rows in pairs]
        ran = together(models, asked)
        assert all(one.rows <= rows for one, rows in zip(asked, ran, strict=True))
        shared += sum(one.rows < rows for one, rows in zip(asked, ran, strict=True))
    assert shared > 0, "no two requests ever shared a run: nothing was tried"


@pytest.mark.promise("P-28")
def test_all_models_asked_at_once_answer_as_their_frameworks_do(models: Models) -> None:
    rng = np.random.default_rng(3)
    trials = [(name, protocol, rows) for name in MAKERS for protocol in PROTOCOLS.values() for rows in (1, 2, 5)]
    rng.shuffle(trials)
    together(models, [protocol(models, name, models.subjects[name].draw(rng, rows)) for name, protocol, rows in trials])


def test_one_row_more_than_a_request_may_hold_is_refused(models: Models) -> None:
    rows = models.subjects["onnx"].draw(np.random.default_rng(4), MAX_BATCH + 1)
    with wl.Client(models.server.url) as client, pytest.raises(wl.WindlassError, match=str(MAX_BATCH)):
        client.infer("onnx", rows)
