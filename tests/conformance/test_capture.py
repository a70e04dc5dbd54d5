"""Every capture source of the catalogue against one suite: data only, the same each time, right at every batch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import onnx
import pytest
import tokenizers
import torch
import transformers
import xgboost
from onnx import TensorProto, helper
from sklearn import linear_model

from windlass import errors, plugins
from windlass.packaging import build, draft, package, parity, session
from windlass.packaging.capture import base, exchange, torch_original
from windlass.runtimes import base as runtimes

pytestmark = pytest.mark.timeout(300)
torch.set_num_threads(1)

MAX_BATCH = 20
BATCHES = {1, 2, 3, 17, MAX_BATCH}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((1200, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A model, what the user says of it, and the same with an example that must be refused."""

    source: Any
    options: base.Options
    bad: base.Options


def arrays(array: Any) -> base.Options:
    return base.Options(example={"": array}, max_batch=MAX_BATCH)


WRONG = arrays(X[:, :3])


def linear() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()


# One function a source: it makes a small model, in `folder` if it is a file.


def torch_module(folder: Path) -> Sample:
    return Sample(linear(), arrays(X[:40]), WRONG)


def torch_export(folder: Path) -> Sample:
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    return Sample(
        torch.export.export(linear(), (torch.from_numpy(X[:8]),), dynamic_shapes=shapes), arrays(X[:40]), WRONG
    )


def torchscript(folder: Path) -> Sample:
    with torch_original.quiet():
        return Sample(torch.jit.script(linear()), arrays(X[:40]), WRONG)


def onnx_file(folder: Path) -> Sample:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(X[:4, :2].copy(), "w")],
    )
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)
    return Sample(path, arrays(X[:40]), WRONG)


def huggingface(folder: Path) -> Sample:
    words = ["[PAD]", "[UNK]", "good", "bad"]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=12,
    )
    with torch_original.quiet():
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    texts = np.array(["good good bad", "bad"] * 16, object)
    return Sample(
        folder, base.Options(example={"text": texts}, max_batch=MAX_BATCH), base.Options(example={"input_ids": X})
    )


def sklearn(folder: Path) -> Sample:
    return Sample(linear_model.LogisticRegression().fit(X, Y), arrays(X), WRONG)


def xgboost_model(folder: Path) -> Sample:
    return Sample(xgboost.XGBClassifier(n_estimators=5, max_depth=3, n_jobs=1).fit(X, Y), arrays(X), WRONG)


def lightgbm_model(folder: Path) -> Sample:
    made = lightgbm.LGBMClassifier(n_estimators=5, num_leaves=7, n_jobs=1, verbose=-1).fit(X, Y)
    return Sample(made, arrays(X), WRONG)


def python_class(folder: Path) -> Sample:
    code = "class Model:\n    def predict(self, inputs):\n        return {'y': inputs['x'] * 2 + 1}\n"
    (folder / "model.py").write_text(code)
    tensors = [{"name": name, "datatype": "FP32", "shape": ["batch", 4]} for name in "xy"]
    declares = {"entry": "model:Model", "inputs": tensors[:1], "outputs": tensors[1:]}
    (folder / "tensors.json").write_text(json.dumps(declares))
    asked = [msgspec.structs.replace(options, runtime="python") for options in (arrays(X), WRONG)]
    return Sample(folder, *asked)


SOURCES: dict[str, Callable[[Path], Sample]] = {
    "torch_module": torch_module,
    "torch_export": torch_export,
    "torchscript": torchscript,
    "onnx": onnx_file,
    "huggingface": huggingface,
    "sklearn": sklearn,
    "xgboost": xgboost_model,
    "lightgbm": lightgbm_model,
    "python_class": python_class,
}


@pytest.fixture(scope="module", params=list(SOURCES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def sample(name: str, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return SOURCES[name](tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def plugin(name: str) -> type[base.CaptureSource]:
    found: type[base.CaptureSource] = plugins.load("capture", name)
    return found


@pytest.fixture(scope="module")
def drafted(plugin: type[base.CaptureSource], sample: Sample) -> draft.Draft:
    return plugin.capture(sample.source, sample.options)


def test_the_suite_knows_every_source_of_the_catalogue() -> None:
    assert set(SOURCES) == set(plugins.catalog()["capture"])


def test_it_is_the_one_that_is_chosen(name: str, plugin: type[base.CaptureSource], sample: Sample) -> None:
    assert plugin.name == name
    assert plugin.accepts(sample.source)
    others = [plugins.load("capture", other) for other in SOURCES if other != name]
    assert [other.name for other in others if other.accepts(sample.source)] == []
    assert package.choose(sample.source)[0].name == name


@pytest.mark.parametrize("source", [None, 3, "text", {}, object(), Path("no-such.file"), Path()])
def test_it_says_no_to_what_is_not_its_own(plugin: type[base.CaptureSource], source: Any) -> None:
    assert not plugin.accepts(source)


@pytest.mark.promise("P-28")
def test_it_agrees_with_the_framework_at_every_batch(drafted: draft.Draft) -> None:
    package.check_structure(drafted)
    assert drafted.signature.batched
    model = session.load_model(drafted.runtime, drafted.files, runtimes.Options())
    found = parity.check(model, drafted)
    model.unload()
    assert set(found["batch_sizes"]) >= BATCHES
    assert found["rows"] >= 32
    assert max(found["batch_sizes"]) == drafted.max_batch == MAX_BATCH
    assert not drafted.synthetic
    assert drafted.framework.split()[0] in ("torch", "onnx", "scikit-learn", "sklearn", "xgboost", "lightgbm", "python")


def test_it_makes_a_package_that_opens(drafted: draft.Draft) -> None:
    made = build.build(drafted, name="m")
    ready = session.open(made, where="apart" if session.carries_code(drafted.runtime) else "here")
    trial = drafted.trials[0]
    answer = ready.run(trial.inputs)
    assert set(answer) == set(trial.outputs)
    assert {array.shape[0] for array in answer.values()} == {len(next(iter(trial.inputs.values())))}
    ready.close()


def test_its_draft_is_data_that_passes_the_wall_of_the_sandbox(drafted: draft.Draft, tmp_path: Path) -> None:
    exchange.write_answer(tmp_path / "answer", drafted)
    back = exchange.read_answer(tmp_path / "answer", 1 << 30)
    assert isinstance(back, draft.Draft)
    assert build.build(back, name="m").digest == build.build(drafted, name="m").digest


@pytest.mark.promise("P-26")
def test_the_same_model_gives_the_same_package(
    plugin: type[base.CaptureSource], sample: Sample, drafted: draft.Draft
) -> None:
    again = plugin.capture(sample.source, sample.options)
    assert build.build(again, name="m").digest == build.build(drafted, name="m").digest


def test_an_example_that_does_not_fit_is_the_callers_mistake(plugin: type[base.CaptureSource], sample: Sample) -> None:
    with pytest.raises(errors.InvalidInput):
        plugin.capture(sample.source, sample.bad)


def test_saying_no_imports_no_framework() -> None:
    program = """
import json, sys
from windlass import plugins
for name in plugins.catalog()["capture"]:
    plugins.load("capture", name).accepts(object())
heavy = ["torch", "transformers", "sklearn", "skl2onnx", "xgboost", "lightgbm", "pandas"]
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == []
