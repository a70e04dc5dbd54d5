"""PyTorch models captured and packaged: each trap that has bitten people, reproduced."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from windlass import errors
from windlass.packaging import build, package, parity, session
from windlass.packaging.capture import base, torch_export, torch_module, torch_onnx, torch_original
from windlass.runtimes import base as runtimes
from windlass.runtimes import onnx as onnx_runtime
from windlass.types import tensor

pytestmark = pytest.mark.timeout(300)
torch.set_num_threads(1)
torch.manual_seed(0)

X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)


def capture(module: Any, example: Any = X, **more: Any) -> Any:
    given = example if isinstance(example, dict) else {"": example}
    return torch_module.TorchModule.capture(module, base.Options(example=given, **more))


def packaged(module: Any, example: Any = X, **more: Any) -> package.Packaged:
    given = example if isinstance(example, dict) else {"": example}
    return package.package(module, name="m", options=base.Options(example=given, **more))


def eager(module: torch.nn.Module, *arrays: tensor.Array) -> tensor.Array:
    module.eval()
    with torch.inference_mode():
        answer = module(*(torch.from_numpy(a) for a in arrays))
    return np.asarray(answer.numpy())


class Mlp(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 16)
        self.norm = torch.nn.BatchNorm1d(16)
        self.dropout = torch.nn.Dropout(0.5)
        self.last = torch.nn.Linear(16, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(self.norm(self.first(features).relu())))


class Tokens(torch.nn.Module):
    """A text encoder in small: its graph has a value called `embedding` inside."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(50, 8)
        self.last = torch.nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.words(ids) * mask.unsqueeze(-1)
        return {"embedding": self.last(hidden.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))}


def tokens(rows: int = 40, length: int = 7) -> dict[str, tensor.Array]:
    rng = np.random.default_rng(1)
    return {"ids": rng.integers(0, 50, (rows, length)), "mask": np.ones((rows, length), np.int64)}


SEQUENCE = {"ids": {1: "sequence"}, "mask": {1: "sequence"}}


# Trap 1: eval mode, two runs, constants frozen into the graph.


@pytest.fixture(scope="module")
def trained() -> tuple[Mlp, dict[str, torch.Tensor], package.Packaged]:
    """A module in train mode, its weights before, and the package that was made of it."""
    module = Mlp().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    return module, before, packaged(module, labels=("a", "b", "c"))


@pytest.mark.promise("P-28")
def test_a_module_in_train_mode_is_captured_in_eval_mode_and_left_as_it_was(trained: Any) -> None:
    module, before, found = trained
    assert module.training
    assert module.dropout.training
    for name, value in module.state_dict().items():
        assert torch.equal(before[name], value), name
    assert any("captured in eval() mode" in note for note in found.notes)
    ready = session.open(found.package)
    theirs = eager(copy.deepcopy(module), X[:5])
    np.testing.assert_allclose(ready.run({"features": X[:5]})["output"], theirs, rtol=1e-3, atol=1e-5)
    assert set(ready.predict({"features": X[:5]})) == {"label", "score", "scores"}


class AlwaysDrops(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x, 0.5, training=True)


class Remembers(torch.nn.Module):
    """Keeps the mean of the first batch it sees: a graph made after a run would hold it for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.seen is None:
            self.seen = x.mean()
        return x * self.seen


class Counts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (AlwaysDrops(), "differently each time"),
        (Counts(), "differently each time"),
        (Remembers(), "depends on what the model was asked before"),
    ],
    ids=["dropout", "counter", "cache"],
)
def test_a_model_that_is_random_or_remembers_is_refused(module: Any, says: str) -> None:
    with pytest.raises(errors.CaptureFailed, match=says) as caught:
        capture(module)
    assert caught.value.hint
    assert caught.value.exit_code == 4


# Trap 2: the batch.


class Burned(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(40, -1) * 2


class BurnedByNumpy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_numpy(np.zeros(x.shape[0], np.float32))[:, None]


class MixesRows(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(dim=0)


@pytest.mark.parametrize("module", [Burned(), BurnedByNumpy()])
def test_a_burned_in_batch_is_refused(module: Any) -> None:
    with pytest.raises(errors.CaptureFailed, match="'batch' is burned into the model as 40") as caught:
        capture(module)
    assert "x.shape[0]" in caught.value.hint


def test_rows_that_mix_are_refused() -> None:
    with pytest.raises(errors.CaptureFailed, match="rows beside it"):
        capture(MixesRows())


def test_a_model_that_does_not_batch_is_captured_as_such() -> None:
    signed = capture(MixesRows(), X, batched=False).signature
    assert not signed.batched
    assert signed.inputs[0].shape == (40, 6)


class Total(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean()


def test_an_output_without_a_batch_is_refused_and_is_taken_where_it_is_said() -> None:
    with pytest.raises(errors.CaptureFailed, match=r"shape \[\]: axis 0 is not the batch"):
        capture(Total())
    assert capture(Total(), batched=False).signature.outputs[0].shape == ()


class Reads(torch.nn.Module):
    """A recurrent layer: torch writes it for one length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.GRU(2, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0][:, -1]


def test_a_recurrent_layer_is_captured_at_one_length_only() -> None:
    x = X[:, :4].reshape(40, 2, 2)
    with pytest.raises(errors.CaptureFailed, match="'time' is burned into the model as 2") as caught:
        capture(Reads(), x, dynamic={"x": {1: "time"}})
    assert "recurrent" in caught.value.hint
    assert packaged(Reads(), x, max_batch=17).package.manifest.signature.inputs[0].shape == ("batch", 2, 2)


class Saturates(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x.sum(1, keepdim=True) - 4)


@pytest.mark.parametrize("max_batch", [1, 20])
def test_a_saturated_probability_is_no_difference(max_batch: int) -> None:
    drafted = capture(Saturates(), max_batch=max_batch)
    found = parity.check(onnx_runtime.OnnxRuntime.load(drafted.files, runtimes.Options()), drafted)
    assert max(found["batch_sizes"]) == max_batch


def test_one_example_row_is_enough_for_a_free_batch() -> None:
    found = capture(Mlp(), X[:1])
    assert found.signature.inputs[0].shape == ("batch", 6)
    assert found.signature.outputs[0].shape == ("batch", 3)
    assert {1, 2, 3, 17, 128} <= {len(trial.inputs["features"]) for trial in found.trials}
    tried = [trial for trial in found.trials if "example" in trial.name]
    assert sum(len(trial.inputs["features"]) for trial in tried) >= 32


# Trap 3: a public name that the graph has inside.


def test_an_output_named_as_a_value_inside_the_graph_keeps_its_name() -> None:
    module = Tokens().eval()
    given = tokens()
    original = torch_original.Original(module, ("ids", "mask"), ("ids", "mask"))
    program, model, _ = torch_onnx.export(original, given, dynamic={}, max_batch=8)
    inside = [value.name for node in model.graph for value in node.outputs]
    assert "embedding" in inside[:-1]
    # What the exporter's own naming would give is refused by onnxruntime.
    with torch_original.quiet():
        naive = torch.onnx.export(program, (), dynamo=True, output_names=["embedding"], verbose=False)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="Duplicate definition"):
        onnxruntime.InferenceSession(naive.model_proto.SerializeToString())
    found = capture(module, given, dynamic=SEQUENCE)
    assert found.signature.outputs[0].name == "embedding"
    ready = session.open(build.build(found, name="m"))
    # The free dimension of the sequence is free at every length, also those that were not tried.
    for length in (1, 2, 30):
        fresh = tokens(3, length)
        theirs = original.run(fresh)["embedding"]
        np.testing.assert_allclose(ready.run(fresh)["embedding"], theirs, rtol=1e-3, atol=1e-6)


def test_a_program_keeps_its_free_dimensions() -> None:
    given = tokens()
    batch, sequence = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("sequence", min=1, max=20)
    shape = {0: batch, 1: sequence}
    program = torch.export.export(
        Tokens().eval(),
        (),
        kwargs={name: torch.from_numpy(array) for name, array in given.items()},
        dynamic_shapes={"ids": shape, "mask": shape},
    )
    signed = torch_export.TorchExport.capture(program, base.Options(dynamic=SEQUENCE)).signature
    assert [item.shape for item in signed.inputs] == [("batch", "sequence")] * 2
    assert signed.dimensions["sequence"].maximum == 20
    assert signed.outputs[0].name == "embedding"


class HandsThrough(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return x, {"twice": x * 2, "again": x * 2}


def test_outputs_of_any_shape_have_names() -> None:
    found = capture(HandsThrough())
    assert [item.name for item in found.signature.outputs] == ["output_0", "output_1_twice", "output_1_again"]
    named = capture(HandsThrough(), input_names=("a",), output_names=("b", "c", "d"))
    assert [item.name for item in named.signature.inputs] == ["a"]
    assert [item.name for item in named.signature.outputs] == ["b", "c", "d"]


# Trap 4: versions.


def test_the_graph_is_written_in_versions_that_onnxruntime_loads(trained: Any) -> None:
    made = trained[2].package
    model = onnx.ModelProto.FromString(bytes(made.model_files()["model.onnx"]))
    assert model.ir_version == made.manifest.model.ir_version == 10
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == made.manifest.model.opset == 20


# Trap 5: parity.


def test_a_graph_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch_onnx.export

    def wrong(*arguments: Any, **more: Any) -> Any:
        program, model, warned = right(*arguments, **more)
        name, weight = next((n, w) for n, w in model.graph.initializers.items() if n.endswith("last.bias"))
        import onnx_ir

        model.graph.initializers[name].const_value = onnx_ir.tensor(weight.const_value.numpy() + np.float32(0.5))
        return program, model, warned

    monkeypatch.setattr(torch_onnx, "export", wrong)
    with pytest.raises(errors.GateRefused, match=r"parity: output 'output' .*row \d+ of 'example rows 0-39'") as caught:
        packaged(Mlp())
    assert "0.001 relative + 1e-05" in caught.value.message
    assert caught.value.exit_code == 4


def test_evidence_says_what_was_tried(trained: Any) -> None:
    found = trained[2]
    agreed, probation = found.evidence
    assert (agreed.kind, agreed.verdict, agreed.digest) == ("parity", "passed", found.package.digest)
    statistics = agreed.statistics
    assert {1, 2, 3, 17, 128} <= set(statistics["batch_sizes"])
    assert {"zeros", "large"} <= set(statistics["trials"])
    assert statistics["rows"] >= 32
    assert statistics["synthetic"] is False
    assert statistics["worst_difference"]["output"]["relative"] < 1e-4
    assert re.match(r"torch \d", statistics["framework"])
    assert (probation.kind, probation.verdict) == ("verify", "passed")


@pytest.mark.promise("P-26")
def test_the_same_module_gives_the_same_digest(trained: Any) -> None:
    module, _, found = trained
    again = capture(module, labels=("a", "b", "c"))
    assert build.build(again, name="m").digest == found.package.digest
