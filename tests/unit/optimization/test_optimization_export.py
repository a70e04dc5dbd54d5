"""A live network back to a form: the same inputs and outputs as the package, or an error that says which differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization.techniques import base
from windlass.optimization.training import export
from windlass.packaging import session
from windlass.runtimes import base as runtimes
from windlass.types import signature


class Texts(torch.nn.Module):
    """Rows of any length, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 8)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        there = mask[:, :, None].to(torch.float32)
        mean = (self.table(ids) * there).sum(1) / there.sum(1).clamp_min(1)
        return {"vector": mean, "scores": self.head(mean)}


SIGNATURE = signature.Signature(
    (
        signature.TensorSpec("words", "INT64", ("batch", "length")),
        signature.TensorSpec("there", "INT64", ("batch", "length")),
    ),
    (signature.TensorSpec("meaning", "FP32", ("batch", 8)), signature.TensorSpec("kind", "FP32", ("batch", 3))),
)


def batch(length: int) -> dict[str, Any]:
    ids = np.random.default_rng(length).integers(0, 20, (8, length))
    return {"there": np.ones_like(ids), "words": ids}


def test_names_free_sizes_and_history_are_the_parents(tmp_path: Path) -> None:
    parent = forms.Form({}, steps=(forms.Step("graph"),), notes=("before",), left=(forms.Left("a", "Conv", "why."),))
    materials = base.Materials(SIGNATURE, (batch(5), batch(7)), tmp_path)
    network = Texts().train()
    made = export.to_form(network, parent, forms.Step("trained", {"epochs": 2}), materials, notes=("after",))
    assert network.training
    assert made.name == "graph + trained"
    assert (made.notes, made.left, made.network) == (("before", "after"), (), network)
    model = session.load_model(made.runtime, made.files, runtimes.Options())
    for length in (3, 9):
        asked = batch(length)
        found = model.run(asked)
        expected = network.eval()(torch.from_numpy(asked["words"]), torch.from_numpy(asked["there"]))
        assert np.allclose(found["meaning"], expected["vector"].detach(), atol=1e-6)
        assert np.allclose(found["kind"], expected["scores"].detach(), atol=1e-6)
    model.unload()


def changed(index: int, **fields: Any) -> signature.Signature:
    outputs = list(SIGNATURE.outputs)
    outputs[index] = msgspec.structs.replace(outputs[index], **fields)
    return msgspec.structs.replace(SIGNATURE, outputs=tuple(outputs))


BAD: dict[str, tuple[Callable[[], signature.Signature], str]] = {
    "a width": (
        lambda: changed(1, shape=("batch", 4)),
        r"output 'kind' is FP32\[\?, 3\]: the package says FP32\[\?, 4\]",
    ),
    "a datatype": (lambda: changed(0, datatype="FP16"), r"output 'meaning' is FP32.*the package says FP16"),
    "an output": (
        lambda: msgspec.structs.replace(SIGNATURE, outputs=SIGNATURE.outputs[:1]),
        r"1 output names were given: the model has 2 outputs",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_another_signature_is_refused(case: str, tmp_path: Path) -> None:
    make, told = BAD[case]
    with pytest.raises((errors.CaptureFailed, errors.UsageError), match=told):
        export.to_form(Texts(), forms.Form({}), forms.Step("x"), base.Materials(make(), (batch(5),), tmp_path))


def test_rows_are_needed_and_must_have_the_inputs(trainable: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="no rows to try the network on"):
        export.to_form(Texts(), forms.Form({}), forms.Step("x"), base.Materials(SIGNATURE, (), tmp_path))
    other = ({"words": batch(4)["words"]},)
    with pytest.raises(errors.UsageError, match="hold no 'there'"):
        export.to_form(Texts(), forms.Form({}), forms.Step("x"), base.Materials(SIGNATURE, other, tmp_path))
    materials = msgspec.structs.replace(trainable.materials(tmp_path), calibration=())
    made = export.to_form(trainable.network(), forms.Form({}), forms.Step("x"), materials)
    assert made.size > 0
