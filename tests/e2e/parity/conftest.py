"""A model of every capture source, packaged and behind one server, and what its framework answers.

Used by the test that compares the two over HTTP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import lightgbm
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
from windlass.types import tensor

torch.set_num_threads(1)

Arrays = dict[str, np.ndarray[Any, Any]]

MAX_BATCH = 24
RNG = np.random.default_rng(0)
X = RNG.standard_normal((1200, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(np.int64)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "plot", "the", "a", "was", "very"]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model: what is packaged, rows to ask it with, and what its framework answers for such rows."""

    source: Any
    example: Any
    draw: Callable[[np.random.Generator, int], Arrays]
    answer: Callable[[Arrays], Arrays]
    plain: Callable[[Arrays], Any] = lambda inputs: {"inputs": lists(inputs)}


def lists(inputs: Arrays) -> dict[str, Any]:
    return {name: array.tolist() for name, array in inputs.items()}


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
    """All models behind one server: how many rows a request for any of them may hold, and which numbers are tried."""

    max_batch = MAX_BATCH
    sizes = (1, 2, 3, 17, MAX_BATCH)

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


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    """Each model by its name."""
    return str(request.param)
