"""A chosen form as a package: built, probed, registered with its study, shown; and asked by another processor.

The model is a wide layer whose weights lie near their extremes, so that two products of an unsigned and a signed byte
leave what 16 bits hold: a processor without VNNI computes it otherwise.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime import quantization

from windlass import errors, references, sdk, settings
from windlass.cli import main
from windlass.optimization import data, findings, form, record, release
from windlass.packaging import archive, build, draft, session, verdicts
from windlass.packaging import package as packages
from windlass.packaging import verify as verification
from windlass.types import manifest, refs, signature, tensor_codec

WIDTH, CLASSES, ROWS = 96, 6, 300


def network() -> bytes:
    random = np.random.default_rng(0)
    sign = np.sign(random.normal(size=(WIDTH, WIDTH)))
    first = (sign * random.uniform(0.7, 1, (WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
    second = (random.normal(size=(WIDTH, CLASSES)) / WIDTH**0.5).astype(np.float32)

    def value(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, 1, ["batch", width])

    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "second"], ["y"], name="second"),
    ]
    weights = [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")]
    graph = helper.make_graph(nodes, "g", [value("x", WIDTH)], [value("y", CLASSES)], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(made.SerializeToString())


def inputs() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).uniform(0, 1, (ROWS, WIDTH)).astype(np.float32)


def answers() -> np.ndarray[Any, Any]:
    first, second = (numpy_helper.to_array(each) for each in _graph().initializer)
    return np.maximum(inputs() @ first, 0) @ second


def _graph() -> Any:
    return onnx.ModelProto.FromString(network()).graph


class _Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._batches = iter([{"x": inputs()}])

    def get_next(self) -> Any:
        return next(self._batches, None)


def quantized(folder: Path, weights: Any = quantization.QuantType.QInt8) -> form.Form:
    """Unsigned activations, and weights of bytes."""
    source, target = folder / "f.onnx", folder / "q.onnx"
    source.write_bytes(network())
    logging.disable(logging.WARNING)
    try:
        quantization.quantize_static(
            source,
            target,
            _Calibration(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=weights,
        )
    finally:
        logging.disable(logging.NOTSET)
    step = form.Step("quantize_static", {"weights": str(weights)})
    return form.Form({"model.onnx": target.read_bytes()}, precision="int8", steps=(step,), notes=("of the form",))


def parent() -> archive.Package:
    found = answers()
    shape = (
        (signature.TensorSpec("x", "FP32", ("batch", WIDTH)),),
        (signature.TensorSpec("y", "FP32", ("batch", CLASSES)),),
    )
    names = tuple("abcdef")
    return build.build(
        draft.Draft(
            files={"model.onnx": network()},
            signature=signature.Signature(*shape),
            trials=(draft.Trial("rows", {"x": inputs()[:8]}, {"y": found[:8]}),),
            framework="numpy 2",
            transforms=(draft.TransformDraft("classify", {"output": "y", "labels": list(names)}),),
            labels=names,
            max_batch=64,
            lineage=manifest.Lineage(framework="numpy 2", source="here"),
        ),
        name="letters",
        card=manifest.Card(owner="me"),
    )


def rows(*, labelled: bool) -> data.Rows:
    x = inputs()
    truth = np.array([*"abcdef"], object)[answers().argmax(axis=1)] if labelled else None
    batches = tuple({"x": x[at : at + 64]} for at in range(0, ROWS, 64))
    return data.Rows(batches, truth, {}, "sha256:" + "c" * 64, ROWS)


def report(of: archive.Package, chosen: form.Form) -> findings.Report:
    """The study that chose a form; its figures are no matter here."""
    drop = findings.Drop("accuracy", ROWS, 1.0, 0.99, 0.01, 0.0, float("inf"))
    likeness = findings.Likeness(ROWS, 0.99, 36.0, 0.999, 0.02)
    timing = findings.Timing(1, 1, 1.0, 0.5, 2.0, 1.9, 2.1, 30)
    one = findings.Candidate(
        digest=chosen.digest,
        name=chosen.name,
        steps=chosen.steps,
        verdict="chosen",
        why="it is the quickest",
        timings=(timing,),
        footprint=findings.Footprint(chosen.size, chosen.size),
        judged=findings.Judged(True, drop, likeness),
    )
    files = {name: bytes(data) for name, data in of.model_files().items()}
    baseline = msgspec.structs.replace(one, digest=form.Form(files).digest, name="original", steps=(), verdict="kept")
    return findings.Report(
        parent=of.digest,
        reference="characters@1",
        verdict="optimized",
        sentence="quantize_static is twice as fast.",
        chosen=chosen.digest,
        nearest="",
        asked={"max_drop": 0.02},
        baseline=baseline,
        candidates=(one,),
        pareto=(chosen.digest,),
        profile=None,
        layers=(),
        parity=(),
        settings=(),
        cost={},
        recipe='parent = "..."\n',
        machine={},
        data={"digests": {"final": "sha256:" + "c" * 64, "none": "not a digest"}},
        seconds=1.0,
    )


@pytest.fixture(scope="module")
def original() -> archive.Package:
    return parent()


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> form.Form:
    return quantized(tmp_path_factory.mktemp("int8"))


@pytest.fixture(scope="module")
def released(original: archive.Package, int8: form.Form) -> packages.Packaged:
    return release.release(original, int8, report(original, int8), rows(labelled=True))


class TestRelease:
    def test_it_says_what_its_parent_says_and_where_it_comes_from(
        self, released: packages.Packaged, original: archive.Package, int8: form.Form
    ) -> None:
        found, before = released.package.manifest, original.manifest
        assert found.name == "characters", "as the registry calls it"
        for field in ("signature", "transforms", "fields", "labels", "limits", "card"):
            assert getattr(found, field) == getattr(before, field)
        assert found.model.precision == "int8"
        assert found.lineage == manifest.Lineage(
            framework="numpy 2",
            source="here",
            parent=original.digest,
            recipe='parent = "..."\n',
            data=("sha256:" + "c" * 64,),
        )
        assert released.notes == ("of the form",)
        assert sum(ref.size for ref in found.model.blobs.values()) < 0.5 * len(network())

    def test_it_answers_as_the_form_did(self, released: packages.Packaged, int8: form.Form) -> None:
        loaded = session.open(released.package)
        bare = session.load_model("onnx", int8.files, int8.options)
        try:
            np.testing.assert_array_equal(loaded.run({"x": inputs()[:64]})["y"], bare.run({"x": inputs()[:64]})["y"])
            assert loaded.golden_excess == 0
            assert set(loaded.predict({"x": inputs()[:5]})["label"]) <= set("abcdef")
        finally:
            loaded.close()
            bare.unload()

    def test_the_study_is_its_evidence(self, released: packages.Packaged, original: archive.Package) -> None:
        by_kind = {each.kind: each for each in released.evidence}
        assert set(by_kind) == {"parity", "verify", "optimization"}
        assert {each.verdict for each in released.evidence} == {"passed"}
        assert by_kind["verify"].statistics["check"] == "probation"
        parity = by_kind["parity"].statistics
        assert (parity["parent"], parity["likeness"]["agreement"]) == (original.digest, 0.99)
        assert parity["batch_sizes"] == [1, 2, 3, 8, 17, 32]
        (study,) = record.reports(released.evidence)
        assert study.sentence == by_kind["optimization"].statistics["sentence"]
        assert by_kind["optimization"].statistics["isa"] == verdicts.isa()
        drop = study.candidates[0].judged.drop if study.candidates[0].judged else None
        assert drop is not None
        assert drop.high == sys.float_info.max, "JSON has no infinity"

    def test_the_sample_holds_labelled_rows_and_what_was_reached_here(self, released: packages.Packaged) -> None:
        sample = released.package.manifest.sample
        assert sample is not None
        kept = tensor_codec.unpack(released.package.read(sample.inputs))["x"]
        truth = tensor_codec.unpack(released.package.read(sample.answers))["y"]
        np.testing.assert_array_equal(kept, inputs()[:256])
        np.testing.assert_array_equal(truth, answers()[:256].argmax(axis=1))
        assert (sample.measure, sample.isa) == ("accuracy", verdicts.isa())
        assert 0.95 <= sample.least <= 0.98, "what it reached, less the budget of 0.02"

    def test_a_form_with_another_signature_is_not_released(self, original: archive.Package, tmp_path: Path) -> None:
        model = onnx.ModelProto.FromString(network())
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8
        other = form.Form({"model.onnx": model.SerializeToString()})
        with pytest.raises(errors.GateRefused, match="burned into the graph"):
            release.release(original, other, report(original, other), rows(labelled=False))

    def test_without_rows_nothing_is_released(self, original: archive.Package, int8: form.Form) -> None:
        with pytest.raises(errors.GateRefused, match="no rows"):
            release.release(original, int8, report(original, int8), data.Rows((), None, {}, "", 0))


Cli = Callable[..., tuple[int, str, str]]


class TestShow:
    @pytest.fixture
    def cli(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
        def run(*arguments: str) -> tuple[int, str, str]:
            code = main.run(["--home", str(tmp_path / "home"), *arguments])
            said = capsys.readouterr()
            return code, said.out, said.err

        return run

    @pytest.fixture
    def registered(self, tmp_path: Path, original: archive.Package, released: packages.Packaged) -> None:
        """The parent as @1, what was made of it as @2, and a study that left @2 as it is."""
        configuration = settings.load({"home": tmp_path / "home"})
        registry = references.open_registry(configuration)
        try:
            registry.push(original, name="characters", actor="me", evidence=[verification.verify(original)])
            assert str(sdk.push(registry, configuration, released)) == "characters@2"
            study = report(released.package, form.Form({"a": b""}))
            again = msgspec.structs.replace(study, verdict="kept", chosen="", sentence="Keep it.")
            registry.add_evidence(record.kept(again), actor="you")
            status = registry.show(refs.parse("characters@2")).version.status
        finally:
            registry.close()
        assert status == "READY"

    @pytest.mark.usefixtures("registered")
    def test_both_kinds_of_study_are_shown(self, cli: Cli) -> None:
        code, out, _ = cli("show", "characters@2")
        assert code == 0
        assert [line for line in out.splitlines() if line.startswith("characters@2: study of")]
        assert "quantize_static is twice as fast." in out
        assert "2.00x (1.90 to 2.10)" in out
        assert out.index("twice as fast") < out.index("Keep it.")
        code, out, _ = cli("show", "characters@2", "--json")
        told = json.loads(out)
        assert [each["actor"] for each in told] == [references.actor(), "you"]
        assert msgspec.convert(told[0]["report"], findings.Report).sentence == "quantize_static is twice as fast."
        code, out, _ = cli("models", "show", "characters@2")
        assert "quantize_static is twice as fast." in out
        assert "candidates" not in out

    @pytest.mark.usefixtures("registered")
    def test_the_newest_is_written_as_a_page(self, cli: Cli, tmp_path: Path) -> None:
        file = tmp_path / "study.html"
        assert cli("show", "characters@2", "--html", str(file))[0] == 0
        root = ET.fromstring(file.read_text().removeprefix("<!doctype html>\n"))
        assert [each.text for each in root.iter("h1")] == ["Keep it."]
        code, _, said = cli("show", "characters@2", "--html", str(file))
        assert code == errors.Conflict.exit_code
        assert "exists already" in said

    @pytest.mark.usefixtures("registered")
    def test_a_version_that_was_never_optimized_leads_to_what_was_made_of_it(self, cli: Cli) -> None:
        code, _, said = cli("show", "characters@1")
        assert code == errors.NotFound.exit_code
        assert "windlass show characters@2" in said
        assert cli("show", "nothing@1")[0] == errors.NotFound.exit_code
        assert cli("show", "./file.windlass")[0] == errors.UsageError.exit_code


HASWELL = "x86_64 sse4_2 avx avx2 fma f16c"
ASK = """
import sys
from pathlib import Path
from windlass.packaging import archive, verify
from windlass.types import strict_json
found = [verify.verify(archive.open_path(Path(path))) for path in sys.argv[1:]]
sys.stdout.write(strict_json.canonical(found).decode())
"""


@pytest.fixture(scope="module")
def on_haswell(
    released: packages.Packaged, original: archive.Package, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What a processor without VNNI, which qemu plays, says of weights of signed and of unsigned bytes."""
    folder = tmp_path_factory.mktemp("haswell")
    safe = quantized(folder, quantization.QuantType.QUInt8)
    other = release.release(original, safe, report(original, safe), rows(labelled=False))
    places = [folder / "signed", folder / "unsigned"]
    for where, package in zip(places, (released.package, other.package), strict=True):
        archive.write_folder(package, where)
    done = subprocess.run(
        ["qemu-x86_64", "-cpu", "Haswell", os.path.realpath(sys.executable), "-c", ASK, *map(str, places)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="no qemu-x86_64: apt-get install qemu-user")
class TestAnotherProcessor:
    def test_what_saturates_there_is_refused_with_both_processors(self, on_haswell: list[dict[str, Any]]) -> None:
        found = on_haswell[0]
        if not {"avx512_vnni", "avx_vnni"} & set(verdicts.isa().split()):
            # What saturates here as well was as far from its parent when it was released.
            assert found["verdict"] == "passed"
            return
        assert (found["verdict"], found["statistics"]["code"]) == ("failed", "gate_refused")
        reason = found["statistics"]["reason"]
        assert "answers differently on this processor: the accuracy is 0." in reason
        assert verdicts.isa() in reason
        assert f"this is '{HASWELL}'" in reason

    def test_what_does_not_saturate_is_loaded_and_said(self, on_haswell: list[dict[str, Any]]) -> None:
        found = on_haswell[1]
        assert found["verdict"] == "passed"
        if verdicts.isa() == HASWELL:
            assert "sample" not in found["statistics"]
            return
        sample = found["statistics"]["sample"]
        assert (sample["measure"], sample["made_on"]) == ("agreement", verdicts.isa())
        assert sample["value"] >= sample["least"] > 0.9
