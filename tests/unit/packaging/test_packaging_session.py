"""packaging/build.py, session.py, verify.py, golden.py: from a draft to a model that proves what it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from windlass import errors, plugins
from windlass.packaging import archive, build, draft, golden, onnx_bytes, session, verify
from windlass.runtimes import base
from windlass.storage import blobs
from windlass.types import manifest, signature, tensor, tensor_codec

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(4, 3)).astype(np.float32)
SIGNATURE = signature.Signature(
    (signature.TensorSpec("x", "FP32", ("batch", 4)),), (signature.TensorSpec("y", "FP32", ("batch", 3)),)
)


def value(name: str, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, 1, shape)


def model_file(weight: Any = WEIGHT, *, outside: bool = False) -> dict[str, bytes]:
    """x @ w, as an exporter writes it: with its name, stack traces and notes."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], doc_string="File /home/me/train.py, line 3")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File /home/me/train.py, line 3")
    initializer = numpy_helper.from_array(weight, "w")
    if outside:
        initializer.ClearField("raw_data")
        initializer.data_location = onnx.TensorProto.EXTERNAL
        for key, text in (("location", "weights/w.bin"), ("offset", "4"), ("length", str(weight.nbytes))):
            initializer.external_data.add(key=key, value=text)
    shape = ("batch", weight.shape[0]), ("batch", weight.shape[1])
    graph = helper.make_graph([node], "g", [value("x", *shape[0])], [value("y", *shape[1])], [initializer])
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="me", producer_version="today"
    )
    made.metadata_props.add(key="built", value="today")
    files = {"model.onnx": made.SerializeToString()}
    return {**files, "weights/w.bin": b"head" + weight.tobytes()} if outside else files


def trial(name: str, rows: int, *, wrong: float = 0.0) -> draft.Trial:
    x = RANDOM.normal(size=(rows, 4)).astype(np.float32)
    return draft.Trial(name, {"x": x}, {"y": x @ WEIGHT + np.float32(wrong)})


REAL = trial("real rows", 20)


def make_draft(**changes: Any) -> draft.Draft:
    made = draft.Draft(
        files=model_file(), signature=SIGNATURE, trials=(REAL, trial("one row", 1)), framework="numpy 2", max_batch=64
    )
    return msgspec.structs.replace(made, **changes)


def package(**changes: Any) -> archive.Package:
    return build.build(make_draft(**changes), name="toy")


def changed(change: Callable[[manifest.Manifest], manifest.Manifest], extra: tuple[bytes, ...] = ()) -> archive.Package:
    """The good package with another manifest: what a hostile or careless author could write."""
    good = package()
    data = {blobs.digest_of(bytes(d)): d for _, d in good.entries()}
    data |= {blobs.digest_of(d): d for d in extra}
    return archive.in_memory(change(good.manifest), data)


def ref(data: bytes) -> manifest.BlobRef:
    return manifest.BlobRef(blobs.digest_of(data), len(data))


def with_golden(inputs: tensor.Tensors, outputs: tensor.Tensors, rtol: float = 1e-3) -> archive.Package:
    packed = tensor_codec.pack(inputs), tensor_codec.pack(outputs)
    stored = manifest.Golden(ref(packed[0]), ref(packed[1]), rtol, 1e-5)
    return changed(lambda m: msgspec.structs.replace(m, golden=stored), packed)


class TestBuild:
    def test_the_manifest_says_what_the_draft_knew(self) -> None:
        found = package(labels=("a", "b", "c")).manifest
        assert (found.name, found.kind, found.signature) == ("toy", "model", SIGNATURE)
        assert (found.model.runtime, found.model.ir_version, found.model.opset) == ("onnx", 10, 20)
        assert (found.labels, found.limits.max_batch) == (("a", "b", "c"), 64)
        assert (found.golden.rtol, found.golden.atol) == (draft.RTOL, draft.ATOL)
        card, limits = manifest.Card(owner="me"), manifest.Limits(max_batch=3)
        given = build.build(make_draft(), name="toy", card=card, limits=limits).manifest
        assert (given.card, given.limits) == (card, limits)

    @pytest.mark.promise("P-26")
    def test_the_same_draft_gives_the_same_package(self) -> None:
        assert package().digest == package().digest
        reordered = make_draft(files=dict(reversed(model_file(outside=True).items())))
        assert build.build(reordered, name="toy").digest == package().digest

    @pytest.mark.promise("P-26")
    def test_traces_of_the_export_are_gone_and_the_model_is_the_same(self) -> None:
        data = bytes(package().model_files()["model.onnx"])
        assert not [word for word in (b"train.py", b"today", b"stack_trace", b"me\x12") if word in data]
        assert onnx.ModelProto.FromString(data).graph.node[0].op_type == "MatMul"

    @pytest.mark.promise("P-26")
    def test_weights_inside_and_outside_give_the_same_package(self) -> None:
        inside, outside = package(), package(files=model_file(outside=True))
        assert inside.digest == outside.digest
        assert list(outside.manifest.model.blobs) == ["model.onnx"]

    def test_large_weights_are_kept_apart_and_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        big = RANDOM.normal(size=(4, 300)).astype(np.float32)
        shapes = signature.Signature(
            (signature.TensorSpec("x", "FP32", ("batch", 4)),), (signature.TensorSpec("y", "FP32", ("batch", 300)),)
        )
        x = REAL.inputs["x"]
        tries = (draft.Trial("real", {"x": x}, {"y": x @ big}),)
        monkeypatch.setattr(onnx_bytes, "INLINE_BELOW", 4000)
        made = package(files=model_file(big), signature=shapes, trials=tries)
        assert sorted(made.manifest.model.blobs) == ["model.onnx", "model.onnx.data"]
        assert bytes(made.model_files()["model.onnx.data"]) == big.tobytes()
        again = package(files={n: bytes(d) for n, d in made.model_files().items()}, signature=shapes, trials=tries)
        assert again.digest == made.digest
        loaded = session.open(made)
        np.testing.assert_allclose(loaded.run({"x": x})["y"], x @ big, rtol=1e-4, atol=1e-5)

    def test_golden_rows_are_real_and_few(self) -> None:
        made = package()
        stored = tensor_codec.unpack(made.read(made.manifest.golden.inputs))
        np.testing.assert_array_equal(stored["x"], REAL.inputs["x"][: build.GOLDEN_ROWS])

    def test_golden_rows_are_small_where_any_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        large, small = trial("large", 8), trial("small", 2)
        monkeypatch.setattr(build, "GOLDEN_BYTES", 100)
        assert build.choose(make_draft(trials=(large, small))).name == "small"
        assert build.choose(make_draft(trials=(large, trial("larger", 8)))).name == "large"

    @pytest.mark.promise("P-28")
    def test_a_model_that_does_not_reproduce_the_original_is_not_built(self) -> None:
        with pytest.raises(errors.GateRefused, match="does not reproduce the original on 'off': the output 'y' has"):
            package(trials=(trial("off", 3, wrong=0.5),))
        with pytest.raises(errors.GateRefused, match="without a single trial"):
            package(trials=())

    @pytest.mark.threat("V4")
    def test_a_bad_name_or_file_is_refused(self) -> None:
        with pytest.raises(errors.CorruptPackage, match="is no model name"):
            build.build(make_draft(), name="../toy")
        with pytest.raises(errors.CorruptPackage, match="model does not use"):
            package(files={**model_file(), "setup.py": b"evil"})


class TestSession:
    def test_it_runs_and_checks_the_contract(self) -> None:
        loaded = session.open(package())
        x = REAL.inputs["x"]
        np.testing.assert_allclose(loaded.run({"x": x})["y"], x @ WEIGHT, rtol=1e-5)
        assert loaded.golden_excess == 0
        for wrong, message in (({"z": x}, "unexpected input 'z'"), ({"x": x[:, :3]}, r"shape \[20, 3\]")):
            with pytest.raises(errors.InvalidInput, match=message):
                loaded.run(wrong)
        loaded.close()

    def test_predict_goes_through_the_transforms(self) -> None:
        top = draft.TransformDraft("classify", {"output": "y", "labels": ["a", "b", "c"], "top_k": 1})
        loaded = session.open(package(transforms=(top,), labels=("a", "b", "c")))
        x = REAL.inputs["x"]
        expected = [["a", "b", "c"][i] for i in (x @ WEIGHT).argmax(axis=1)]
        assert loaded.predict({"x": x})["label"].tolist() == expected

    @pytest.mark.promise("P-28")
    def test_golden_outputs_that_do_not_come_are_refused_with_the_worst(self) -> None:
        x = REAL.inputs["x"][:2]
        good = x @ WEIGHT
        wrong = good.copy()
        wrong[1, 2] += 0.5
        with pytest.raises(errors.GateRefused, match="does not compute its golden outputs here: 'y' has"):
            session.open(with_golden({"x": x}, {"y": wrong}))
        assert session.open(with_golden({"x": x}, {"y": wrong}), check_golden=False).golden_excess is None
        assert session.open(with_golden({"x": x}, {"y": good})).golden_excess is not None

    @pytest.mark.parametrize(
        ("inputs", "outputs", "message"),
        [
            ({"z": np.zeros((1, 4), np.float32)}, {"y": np.zeros((1, 3), np.float32)}, "break its own signature"),
            ({"x": np.zeros((65, 4), np.float32)}, {"y": np.zeros((65, 3), np.float32)}, "65 rows"),
            ({"x": np.zeros((1, 4), np.float32)}, {"z": np.zeros((1, 3), np.float32)}, "not its signature's outputs"),
            ({"x": np.zeros((1, 4), np.float32)}, {}, "not its signature's outputs"),
        ],
    )
    def test_golden_files_that_do_not_fit_are_corrupt(
        self, inputs: tensor.Tensors, outputs: tensor.Tensors, message: str
    ) -> None:
        with pytest.raises(errors.CorruptPackage, match=message):
            session.open(with_golden(inputs, outputs))

    @pytest.mark.parametrize(
        ("inputs", "outputs", "message"),
        [
            ([("q", "FP32", ("batch", 4))], [("y", "FP32", ("batch", 3))], r"inputs are \['x'\]"),
            ([("x", "FP64", ("batch", 4))], [("y", "FP32", ("batch", 3))], "input 'x' is FP32"),
            ([("x", "FP32", ("batch", 5))], [("y", "FP32", ("batch", 3))], "input 'x' is FP32"),
            ([("x", "FP32", ("batch",))], [("y", "FP32", ("batch", 3))], "input 'x' is FP32"),
            ([("x", "FP32", ("batch", 4))], [("y", "INT64", ("batch", 3))], "output 'y' is FP32"),
            ([("x", "FP32", ("batch", 4))], [("y", "FP32", ("batch", 7))], "output 'y' is FP32"),
        ],
    )
    def test_a_signature_that_is_not_the_models_is_refused(self, inputs: Any, outputs: Any, message: str) -> None:
        declared = signature.Signature(
            tuple(signature.TensorSpec(*spec) for spec in inputs), tuple(signature.TensorSpec(*s) for s in outputs)
        )
        with pytest.raises(errors.CorruptPackage, match=message):
            session.open(changed(lambda m: msgspec.structs.replace(m, signature=declared)))

    @pytest.mark.promise("P-22")
    @pytest.mark.threat("F5")
    def test_external_data_is_checked_before_the_runtime_sees_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = model_file(outside=True)["model.onnx"].replace(b"weights/w.bin", b"/etc/password")
        files = manifest.ModelSpec("onnx", {"model.onnx": ref(data)}, ir_version=10, opset=20)
        made = changed(lambda m: msgspec.structs.replace(m, model=files), (data,))
        loads: list[Any] = []
        monkeypatch.setattr("windlass.runtimes.onnx.OnnxRuntime.load", lambda *args: loads.append(args))
        with pytest.raises(errors.CorruptPackage, match="not a plain relative path"):
            session.open(made)
        assert not loads

    def test_versions_are_those_that_the_manifest_says(self) -> None:
        other = msgspec.structs.replace(package().manifest.model, opset=19)
        with pytest.raises(errors.CorruptPackage, match="opset 20: the manifest says 10 and 19"):
            session.open(changed(lambda m: msgspec.structs.replace(m, model=other)))

    def test_a_runtime_that_carries_code_is_not_loaded_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = changed(lambda m: m)
        monkeypatch.setattr("windlass.runtimes.onnx.OnnxRuntime.carries_code", True)
        with pytest.raises(errors.Unsupported, match="carry code"):
            session.open(made)

    def test_an_unknown_runtime_or_transform_is_named(self) -> None:
        other = manifest.ModelSpec("onx", package().manifest.model.blobs)
        with pytest.raises(errors.NotFound, match="no 'onx' among the runtimes"):
            session.open(changed(lambda m: msgspec.structs.replace(m, model=other)))
        bad = (manifest.TransformSpec("classify", {"no such parameter": 1}),)
        with pytest.raises(errors.CorruptPackage, match="transform 'classify' of the package is refused"):
            session.open(changed(lambda m: msgspec.structs.replace(m, transforms=bad)))

    def test_a_model_that_is_not_kept_is_given_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        unloaded: list[bool] = []
        x = REAL.inputs["x"][:1]
        made = with_golden({"x": x}, {"y": x @ WEIGHT + 1})
        monkeypatch.setattr("windlass.runtimes.onnx.OnnxModel.unload", lambda self: unloaded.append(True))
        with pytest.raises(errors.GateRefused):
            session.open(made)
        assert unloaded == [True]

    def test_options_reach_the_runtime(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = package()
        seen: list[base.Options] = []
        runtime = "windlass.runtimes.onnx.OnnxRuntime"
        load = plugins.load("runtimes", "onnx").load
        monkeypatch.setattr(f"{runtime}.load", lambda files, options: seen.append(options) or load(files, options))
        session.open(made, options=base.Options(threads=2))
        assert seen == [base.Options(threads=2)]


class TestVerify:
    def test_a_good_package_passes_with_numbers(self) -> None:
        made = package()
        found = verify.verify(made)
        assert (found.digest, found.kind, found.verdict) == (made.digest, "verify", "passed")
        assert found.statistics == {
            "blobs": 3,
            "bytes": sum(r.size for r in made.manifest.blobs().values()),
            "golden_excess": 0.0,
        }

    @pytest.mark.promise("P-60")
    def test_each_broken_blob_is_a_finding(self) -> None:
        made = package()
        for digest in made.manifest.blobs():
            data = {r.digest: bytes(made.read(r)) for r in made.manifest.blobs().values()}
            data[digest] = bytes([data[digest][0] ^ 1]) + data[digest][1:]
            found = verify.verify(archive.in_memory(made.manifest, data))
            assert (found.verdict, found.statistics["code"]) == ("failed", "corrupt_package")

    def test_another_computation_is_a_finding(self) -> None:
        x = REAL.inputs["x"][:1]
        found = verify.verify(with_golden({"x": x}, {"y": x @ WEIGHT + 1}))
        assert (found.verdict, found.statistics["code"]) == ("failed", "gate_refused")
        assert "'y'" in found.statistics["reason"]

    def test_a_missing_library_is_no_verdict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = package()

        def absent(*_: Any) -> Any:
            raise errors.Unsupported("needs a library")

        monkeypatch.setattr("windlass.runtimes.onnx.OnnxRuntime.load", absent)
        with pytest.raises(errors.Unsupported):
            verify.verify(made)


@pytest.mark.promise("P-27")
def test_a_package_of_the_first_format_still_loads_and_computes() -> None:
    """Written by the first release that could, and never written again."""
    kept = archive.open_path(Path(__file__).with_name("format_1.windlass"))
    assert kept.digest == "sha256:25b6a71c6ee54f75c5682123a0f8dcd642cd19eaaf4a0fea68cf073d2286ffca"
    loaded = session.open(kept)
    x = np.arange(8, dtype=np.float32).reshape(2, 4) / 4
    assert loaded.predict({"x": x})["label"].tolist() == ["c", "c"]
    assert loaded.golden_excess is not None


class TestStore:
    @pytest.mark.promise("P-60")
    @pytest.mark.parametrize("damage", ["flip", "cut", "swap"])
    def test_no_broken_byte_of_a_stored_package_is_served_and_others_are(self, tmp_path: Path, damage: str) -> None:
        """Any blob, the manifest included, at any tenth of its bytes: found at load, and by a scrub."""
        store = blobs.BlobStore(tmp_path)
        made, other = package(), package(labels=("a", "b", "c"))
        for _, data in [*made.entries(), *other.entries()]:
            store.put(data)
        spared = set(other.manifest.blobs()) | {other.digest}
        for digest in [*made.manifest.blobs(), made.digest]:
            good = bytes(store.read(digest))
            name = digest.removeprefix("sha256:")
            path = tmp_path / "sha256" / name[:2] / name
            for at in range(0, len(good), len(good) // 10):
                broken = {
                    "flip": good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :],
                    "cut": good[:at],
                    "swap": bytes(store.read(made.digest if digest != made.digest else other.digest)),
                }[damage]
                for found_by_scrub in (False, True):
                    path.chmod(0o600)
                    path.write_bytes(broken)
                    if found_by_scrub:
                        assert [finding.digest for finding in store.scrub()] == [digest]
                    else:
                        with pytest.raises(errors.CorruptPackage):
                            session.open(archive.open_store(store, made.digest))
                    assert [finding.digest for finding in store.quarantined()] == [digest]
                    if digest not in spared:
                        assert session.open(archive.open_store(store, other.digest))
                    store.delete(digest)
                    store.put(good)
        assert session.open(archive.open_store(store, made.digest))


def array(*values: Any, dtype: Any = np.float32) -> tensor.Array:
    return np.array(values, dtype=dtype)


class TestGolden:
    @pytest.mark.parametrize(
        ("ours", "theirs", "agree"),
        [
            (array(1.0, 2.0), array(1.0, 2.0), True),
            (array(1.0005), array(1.0), True),
            (array(1.002), array(1.0), False),
            (array(0.0, 1000.0), array(0.009, 1000.0), True),
            (array(0.0, 1000.0), array(0.02, 1000.0), False),
            (array(np.nan, 1.0), array(np.nan, 1.0), True),
            (array(np.nan, 1.0), array(1.0, np.nan), False),
            (array(np.nan), array(1.0), False),
            (array(np.inf, -np.inf), array(np.inf, -np.inf), True),
            (array(np.inf), array(-np.inf), False),
            (array(np.inf), array(1.0), False),
            (array(1.0), array(np.inf), False),
            (array(0.0), array(0.0), True),
            (array(1e-30), array(0.0), False),
            (array(65504, dtype=np.float16), array(65504, dtype=np.float16), True),
            (array(1, 2, dtype=np.int64), array(1, 2, dtype=np.int64), True),
            (array(1, 3, dtype=np.int64), array(1, 2, dtype=np.int64), False),
            (array(b"a", dtype=object), array(b"a", dtype=object), True),
            (array(b"a", dtype=object), array(b"b", dtype=object), False),
            (array(True, dtype=bool), array(False, dtype=bool), False),
            (array(1.0, dtype=np.float64), array(1.0), False),
            (array(1.0, 1.0), array(1.0), False),
            (array(), array(), True),
        ],
    )
    def test_agreement(self, ours: tensor.Array, theirs: tensor.Array, agree: bool) -> None:
        found = golden.worst({"y": ours}, {"y": theirs}, 1e-3, 1e-5)
        assert (found.excess <= 1) == agree
        assert found.output == "y"

    def test_the_worst_output_is_named(self) -> None:
        theirs = {"a": array(1.0), "b": array(1.0), "c": array(1.0)}
        ours = {"a": array(1.01), "b": array(1.5), "c": array(1.0)}
        found = golden.worst(ours, theirs, 1e-3, 1e-5)
        assert found.output == "b"
        assert found.detail == "has 1.5 where 1 is expected"
        assert golden.worst({}, theirs, 1e-3, 1e-5).detail == "is missing"
