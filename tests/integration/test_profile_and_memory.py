"""Real nets, profiled and weighed: by the profiler of onnxruntime, a confined child, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import click.testing
import numpy as np
import onnx
import pytest
from onnx import helper

import windlass as wl
from windlass import errors, settings
from windlass.cli import output
from windlass.cli import profile as command
from windlass.optimization import eager, measure, profile
from windlass.optimization import form as forms

WIDTH = 512


def model(layers: int) -> bytes:
    rng = np.random.default_rng(0)
    names = ["x", *(f"r{n}" for n in range(layers - 1)), "y"]
    nodes, weights = [], []
    for n in range(layers):
        values = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / WIDTH
        weights.append(onnx.numpy_helper.from_array(values, f"w{n}"))
        nodes.append(helper.make_node("MatMul", [names[n], f"w{n}"], [f"m{n}"], name=f"product{n}"))
        nodes.append(helper.make_node("Relu", [f"m{n}"], [names[n + 1]], name=f"relu{n}"))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", WIDTH]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.fixture(scope="module")
def form() -> forms.Form:
    return forms.Form({"model.onnx": model(8)})


INPUTS = {"x": np.ones((2, WIDTH), np.float32)}


def test_a_net_of_products_is_profiled_as_such(form: forms.Form) -> None:
    found = profile.profile(form, INPUTS, rows=2, techniques=(), seconds=0.4)
    assert found.operators[0].kind == "MatMul"
    assert found.operators[0].calls == 8
    assert sum(one.share for one in found.operators) == pytest.approx(1)
    assert sum(one.us for one in found.operators) + found.outside_us == pytest.approx(found.us)
    assert len(found.slowest) == 10
    assert found.slowest[0].kind == "MatMul"
    assert found.worth
    named = profile.nodes(form, INPUTS, level="none")
    assert {node.name for node in named} == {f"{kind}{n}" for kind in ("product", "relu") for n in range(8)}
    assert named[0].kind == "MatMul"


def test_memory_is_that_of_the_weights_and_more(form: forms.Form) -> None:
    found = measure.footprint(form, INPUTS)
    assert found.files == form.size
    assert 0.5 * form.size < found.deflated <= 1.01 * form.size
    assert form.size < found.peak < 10 * form.size
    assert found.peak - measure.footprint(forms.Form({"model.onnx": model(1)}), INPUTS).peak > form.size / 2


def test_a_form_that_does_not_load_says_why_in_the_child() -> None:
    with pytest.raises(errors.InternalError, match="onnxruntime refuses the model"):
        measure.footprint(forms.Form({"model.onnx": b"\x08nothing"}), INPUTS)


@pytest.fixture(scope="module")
def home(form: forms.Form, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("profile")
    (made / "net.onnx").write_bytes(form.files["model.onnx"])
    wl.package(made / "net.onnx", name="net", max_batch=4, home=made / "home")
    np.savez(made / "rows.npz", x=np.ones((3, WIDTH), np.float32))
    return made


def run(home: Path, *arguments: str, as_json: bool = False) -> click.testing.Result:
    context = output.Context(settings.load({"home": home / "home"}, environ={}), json=as_json, quiet=True)
    return click.testing.CliRunner().invoke(command.profile, ["net@1", *arguments], obj=context)


def test_the_command_draws_and_writes_a_page(home: Path) -> None:
    page = home / "profile.html"
    found = run(home, "--batch", "4", "--data", str(home / "rows.npz"), "--html", str(page))
    assert found.exit_code == 0
    assert found.output.startswith("A run of 4 rows takes ")
    assert "MatMul             ########" in found.output
    assert "SLOWEST NODES" in found.output
    assert "quantize_static" in found.output
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text
    assert "MatMul (8)" in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    again = run(home, "--html", str(page))
    assert isinstance(again.exception, errors.Conflict)


def test_the_command_needs_no_data_and_speaks_json(home: Path) -> None:
    found = run(home, as_json=True)
    assert found.exit_code == 0
    told = json.loads(found.output)
    assert told["profile"]["rows"] == 1
    assert told["profile"]["operators"][0]["kind"] == "MatMul"


def test_more_rows_than_the_package_takes_are_refused(home: Path) -> None:
    assert "takes 4 rows at once, not 5" in str(run(home, "--batch", "5").exception)


def test_a_live_module_is_profiled_as_pytorch_runs_it(capfd: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Dropout(0.5), torch.nn.Linear(WIDTH, 4))
    before = torch.get_num_threads()
    found = eager.profiled(network.train(), INPUTS, rows=2, seconds=0.3)
    assert (found.runtime, found.rows, found.threads) == ("torch", 2, 1)
    calls = {one.kind: one.calls for one in found.operators}
    assert calls["aten::addmm"] == 2
    assert "aten::bernoulli_" not in calls
    assert sum(one.us for one in found.operators) + found.outside_us == pytest.approx(found.us)
    assert (network.training, torch.get_num_threads()) == (True, before)
    assert capfd.readouterr() == ("", "")


def test_a_module_that_does_not_take_the_inputs_is_named() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(errors.UsageError, match="does not take the version's inputs"):
        eager.profiled(torch.nn.Linear(3, 3), INPUTS, rows=2)
