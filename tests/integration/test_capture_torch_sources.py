"""PyTorch models as users have them: modules that cannot be exported, examples, a factory, and files of all kinds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from windlass import errors
from windlass.packaging import build, package, session
from windlass.packaging.capture import base, torch_module, torch_original, torchscript

pytestmark = pytest.mark.timeout(300)
torch.set_num_threads(1)
torch.manual_seed(0)

X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
HERE = Path(__file__).name


def capture(module: Any, example: Any = X) -> Any:
    given = example if isinstance(example, dict) else {"": example}
    return torch_module.TorchModule.capture(module, base.Options(example=given))


class Mlp(torch.nn.Module):
    """What a user trained: a layer of each kind that answers differently in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 16)
        self.norm = torch.nn.BatchNorm1d(16)
        self.dropout = torch.nn.Dropout(0.5)
        self.last = torch.nn.Linear(16, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(self.norm(self.first(features).relu())))


# Models that cannot be exported: the operator, the line, what to try.


class Chooses(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x[:, 0].sum() > 0:  # data-dependent
            return x + 1
        return x - 1


class Eigen(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        square = x[:, :3, None] @ x[:, None, :3]
        return torch.linalg.eigvals(square).real  # no such operator


class Leaves(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(np.asarray(x.detach())[0, 0])  # leaves torch


@pytest.mark.parametrize(
    ("module", "says", "line"),
    [
        (Chooses(), "looking at values", "# data-dependent"),
        (Eigen(), "aten.linalg_eig has no ONNX form", "# no such operator"),
        (Leaves(), "torch.export refuses", "# leaves torch"),
    ],
    ids=["branch", "operator", "numpy"],
)
def test_what_cannot_be_exported_is_refused_with_the_line(
    module: Any, says: str, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(errors.CaptureFailed, match=re.escape(says)) as caught:
        capture(module)
    assert HERE in caught.value.message
    assert line in caught.value.message
    assert caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_nothing_of_the_libraries_reaches_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    build.build(capture(Mlp()), name="m")
    assert capfd.readouterr() == ("", "")


# The example.


def test_a_module_without_an_example_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="an example is needed"):
        package.package(Mlp(), name="m")


@pytest.mark.parametrize(
    "example",
    [X[:, :5], {"a": X, "b": X}, np.array([["text"]], object), np.zeros((0, 6), np.float32)],
    ids=["width", "too many", "text", "no rows"],
)
def test_an_example_that_does_not_fit_is_refused(example: Any) -> None:
    with pytest.raises(errors.InvalidInput):
        capture(Mlp(), example)


def test_numpys_float64_is_taken_as_the_modules_float32() -> None:
    found = capture(Mlp(), X.astype(np.float64))
    assert found.signature.inputs[0].datatype == "FP32"
    assert any("float64 and is taken as float32" in note for note in found.notes)


def test_half_precision_weights_are_captured_in_single_precision() -> None:
    module = Mlp().to(torch.bfloat16)
    found = capture(module)
    assert next(module.parameters()).dtype == torch.bfloat16
    assert found.signature.outputs[0].datatype == "FP32"
    assert any("bfloat16 were captured as float32" in note for note in found.notes)


def test_inputs_of_a_forward_with_options_are_matched_by_name() -> None:
    class Optional(torch.nn.Module):
        def forward(self, x: torch.Tensor, scale: float = 2.0, bias: torch.Tensor | None = None) -> torch.Tensor:
            return x * scale + (0 if bias is None else bias)

    found = capture(Optional(), {"bias": X, "x": X})
    assert [item.name for item in found.signature.inputs] == ["bias", "x"]
    np.testing.assert_allclose(found.trials[0].outputs["output"], X * 3, rtol=1e-6)


# From the user's own source.


def test_a_factory_in_the_current_folder_is_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_torch_model.py").write_text(
        "import torch\n\ndef make():\n    return torch.nn.Linear(6, 2)\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    steps: list[str] = []
    found = package.package(
        "my_torch_model:make", name="m", options=base.Options(example={"": X}), progress=steps.append
    )
    assert found.package.manifest.lineage.source.endswith("Linear")
    assert steps[0] == "Capturing with torch_module"
    assert len(steps) == 5


# Files.


def exported() -> Any:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(Mlp().eval(), (torch.from_numpy(X),), dynamic_shapes=({0: batch},))


@pytest.mark.promise("P-04")
def test_a_program_file_is_captured_in_the_sandbox(tmp_path: Path) -> None:
    file = tmp_path / "m.pt2"
    program = exported()
    torch.export.save(program, file)
    found = package.package(file, name="m")
    manifest = found.package.manifest
    assert manifest.signature.inputs[0].shape == ("batch", 6)
    assert manifest.limits.max_batch == 64
    assert found.evidence[0].statistics["synthetic"] is True
    theirs = program.module()(torch.from_numpy(X)).detach().numpy()
    ours = session.open(found.package).run({"features": X})["output"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_program_of_one_batch_size_is_refused() -> None:
    program = torch.export.export(Mlp().eval(), (torch.from_numpy(X),))
    with pytest.raises(errors.CaptureFailed, match="one batch size only") as caught:
        package.package(program, name="m")
    assert "dynamic_shapes" in caught.value.hint


@pytest.mark.promise("P-04")
def test_a_torchscript_file_is_captured_in_the_sandbox(tmp_path: Path) -> None:
    module = Mlp().eval()
    with torch_original.quiet():
        torch.jit.script(module).save(str(tmp_path / "m.pt"))
    options = base.Options(example={"": X}, labels=("a", "b", "c"))
    found = package.package(tmp_path / "m.pt", name="m", options=options)
    ours = session.open(found.package).run({"features": X})["output"]
    theirs = module(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_traced_module_is_captured_as_it_is() -> None:
    with torch_original.quiet():
        traced = torch.jit.trace(Mlp().eval(), torch.from_numpy(X))
    assert package.choose(traced)[0].name == "torchscript"
    found = torchscript.TorchScript.capture(traced, base.Options(example={"": X}))
    assert found.signature.inputs[0].shape == ("batch", 6)


def test_a_checkpoint_is_no_torchscript(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save(Mlp().state_dict(), file)
    with pytest.raises(errors.CaptureFailed, match="not TorchScript") as caught:
        torchscript.TorchScript.capture(file, base.Options(example={"": X}))
    assert "state_dict" in caught.value.hint
