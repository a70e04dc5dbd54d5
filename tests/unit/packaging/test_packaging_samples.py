"""packaging/samples.py, session.py, verdicts.py: what a package says where other instructions compute it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from windlass import errors
from windlass.packaging import archive, build, draft, gate, samples, session, verdicts, verify
from windlass.packaging import manifest as manifests
from windlass.storage import blobs
from windlass.types import manifest, signature, tensor, tensor_codec

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(4, 3)).astype(np.float32)
X = RANDOM.normal(size=(40, 4)).astype(np.float32)
Y = X @ WEIGHT
ELSEWHERE = "x86_64 avx2"


def model() -> bytes:
    def value(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, 1, ["batch", width])

    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [value("x", 4)], [value("y", 3)], [numpy_helper.from_array(WEIGHT, "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(made.SerializeToString())


def package(
    sample: draft.Sample | None, *, made_on: str | None = ELSEWHERE, golden: tensor.Array | None = None
) -> archive.Package:
    """y = x @ w, as if made on other instruction sets (None: here), which computed the `golden` outputs."""
    made = build.build(
        draft.Draft(
            files={"model.onnx": model()},
            signature=signature.Signature(
                (signature.TensorSpec("x", "FP32", ("batch", 4)),), (signature.TensorSpec("y", "FP32", ("batch", 3)),)
            ),
            trials=(draft.Trial("rows", {"x": X[:8]}, {"y": Y[:8]}),),
            framework="numpy",
            max_batch=16,
            sample=sample,
        ),
        name="toy",
    )
    data = {ref.digest: bytes(made.read(ref)) for ref in made.manifest.blobs().values()}
    value = made.manifest
    if value.sample is not None and made_on is not None:
        value = msgspec.structs.replace(value, sample=msgspec.structs.replace(value.sample, isa=made_on))
    if golden is not None:
        packed = tensor_codec.pack({"y": golden})
        ref = manifest.BlobRef(blobs.digest_of(packed), len(packed))
        data[ref.digest] = packed
        value = msgspec.structs.replace(value, golden=msgspec.structs.replace(value.golden, outputs=ref))
    return archive.in_memory(value, data)


def drawn(least: float = 0.9, *, wrong: int = 0) -> draft.Sample:
    """The classes that the model gives to 40 rows, `wrong` of them changed."""
    classes = Y.argmax(axis=1)
    classes[:wrong] = (classes[:wrong] + 1) % 3
    return draft.Sample({"x": X}, {"y": classes}, "agreement", least)


# Beyond the tolerance, and no other class.
OFF = Y[:8] + np.float32(0.01)


class TestSession:
    def test_where_it_was_made_the_goldens_decide_alone(self) -> None:
        loaded = session.open(package(drawn(wrong=40), made_on=None))
        assert (loaded.golden_excess, loaded.resemblance) == (0, None)
        with pytest.raises(errors.GateRefused, match="does not compute its golden outputs here"):
            session.open(package(drawn(), made_on=None, golden=OFF))

    def test_elsewhere_the_sample_decides(self) -> None:
        found = session.open(package(drawn(wrong=2), golden=OFF))
        assert found.golden_excess is not None
        assert found.golden_excess > 1
        seen = found.resemblance
        assert seen is not None
        assert (seen.measure, seen.value, seen.rows) == ("agreement", 0.95, 40)
        assert (seen.made_on, seen.here, seen.golden_excess) == (ELSEWHERE, verdicts.isa(), found.golden_excess)
        assert seen.words == "0.95 of the answers are its parent's on a sample of 40 rows, 0.9 is asked"

    @pytest.mark.parametrize("golden", [None, OFF])
    def test_a_package_that_no_longer_resembles_its_parent_is_refused(self, golden: tensor.Array | None) -> None:
        """Also where the few golden rows are as they were: they need not be those that saturate."""
        with pytest.raises(errors.GateRefused, match=r"on this processor: 0\.75 of") as caught:
            session.open(package(drawn(wrong=10), golden=golden))
        assert ELSEWHERE in caught.value.message
        assert verdicts.isa() in caught.value.message
        assert "optimize its parent again here" in caught.value.message, "probation hands on no hint"
        assert "use its parent" in caught.value.hint

    def test_goldens_that_are_not_finite_are_no_matter_of_the_sample(self) -> None:
        broken = OFF.copy()
        broken[0, 0] = np.nan
        with pytest.raises(errors.GateRefused, match="does not compute its golden outputs here"):
            session.open(package(drawn(), golden=broken))

    @pytest.mark.parametrize(
        ("sample", "message"),
        [
            (draft.Sample({"x": X}, {}, "agreement", 0.5), "more or less than one output"),
            (draft.Sample({"x": X}, {"z": Y.argmax(axis=1)}, "agreement", 0.5), "no output of its signature"),
            (draft.Sample({"x": X}, {"y": Y.argmax(axis=1)[:7]}, "agreement", 0.5), "one answer for each row"),
            (draft.Sample({"q": X}, {"y": Y.argmax(axis=1)}, "agreement", 0.5), "breaks its own signature"),
            (draft.Sample({"x": X[:, 0]}, {"y": Y.argmax(axis=1)}, "agreement", 0.5), "breaks its own signature"),
            (draft.Sample({"x": X}, {"y": Y}, "accuracy", 0.5), "other answers than classes"),
            (draft.Sample({"x": X}, {"y": Y[:, :2]}, "sqnr_db", 10.0), "answers of another shape"),
            (
                draft.Sample(
                    {"x": np.resize(X, (257, *X.shape[1:]))}, {"y": np.zeros(257, np.int64)}, "agreement", 0.0
                ),
                "257 rows",
            ),
        ],
    )
    def test_a_sample_that_does_not_fit_is_corrupt(self, sample: draft.Sample, message: str) -> None:
        with pytest.raises(errors.CorruptPackage, match=message):
            session.open(package(sample))

    def test_verify_and_the_gate_say_what_was_found(self) -> None:
        made = package(drawn(wrong=2), golden=OFF)
        found = verify.verify(made)
        assert found.verdict == "passed"
        assert found.statistics["sample"]["value"] == 0.95
        assert found.statistics["golden_excess"] > 1
        loaded = session.open(made)
        assert gate._golden(loaded).words.startswith("it was made on another processor, and resembles its parent here")
        assert verify.verify(package(drawn(wrong=10))).statistics["code"] == "gate_refused"


class TestLikeness:
    def test_decibels_are_of_signal_to_noise(self) -> None:
        power = float(np.square(Y).sum() / np.square(np.full_like(Y, 0.1)).sum())
        assert samples.likeness(Y + np.float32(0.1), Y, "sqnr_db") == pytest.approx(10 * np.log10(power), abs=1e-3)
        assert samples.likeness(Y, Y, "sqnr_db") == samples.MOST_DB
        assert samples.likeness(np.ones((9, 1)), np.zeros((9, 1)), "sqnr_db") == -samples.MOST_DB

    @pytest.mark.parametrize(("measure", "worst"), [("accuracy", 0.0), ("agreement", 0.0), ("sqnr_db", -60.0)])
    def test_what_is_not_finite_is_as_bad_as_can_be(self, measure: str, worst: float) -> None:
        broken = Y.copy()
        broken[3, 1] = np.inf
        expected = Y if measure == "sqnr_db" else broken.argmax(axis=1)
        assert samples.likeness(broken, expected, measure) == worst

    def test_classes_are_the_highest_score_or_the_answer_itself(self) -> None:
        assert samples.classes(np.array([[0.1, 0.9], [2.0, 1.0]])).tolist() == [1, 0]
        assert samples.classes(np.array([[4], [7]])).tolist() == [4, 7]
        assert samples.classes(np.array([4, 7])).tolist() == [4, 7]

    @given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(0, 40))
    def test_the_share_of_equal_classes(self, given_: list[int], changed: int) -> None:
        truth = np.array(given_)
        other = truth.copy()
        other[:changed] += 1
        same = max(len(given_) - changed, 0) / len(given_)
        assert samples.likeness(truth, other, "accuracy") == pytest.approx(same)


class TestManifest:
    def test_a_sample_is_read_back_and_its_blobs_are_the_packages(self) -> None:
        made = package(drawn())
        assert manifests.decode(manifests.encode(made.manifest)) == made.manifest
        sample = made.manifest.sample
        assert sample is not None
        assert {sample.inputs.digest, sample.answers.digest} <= set(made.manifest.blobs())
        assert tensor_codec.unpack(made.read(sample.answers))["y"].tolist() == Y.argmax(axis=1).tolist()
        assert package(None).manifest.sample is None

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"least": 1e6}, "sample.least is"),
            ({"isa": "x" * 100_000}, "a text has more than"),
            ({"inputs": manifest.BlobRef("sha256:short", 1)}, "is no digest"),
        ],
    )
    def test_a_hostile_sample_is_refused(self, change: dict[str, Any], message: str) -> None:
        value = package(drawn()).manifest
        assert value.sample is not None
        hostile = msgspec.structs.replace(value, sample=msgspec.structs.replace(value.sample, **change))
        with pytest.raises(errors.CorruptPackage, match=message):
            manifests.check(hostile)


class TestInstructionSets:
    def test_the_processor_is_believed_before_the_list(self) -> None:
        """An emulator lists the host's instruction sets, and has its own."""
        listed = {"sse4_2", "avx", "avx2", "avx512f", "avx512_vnni", "amx_tile", "avx_vnni", "asimd", "i8mm"}
        emulated = {"SSE42": True, "AVX": True, "AVX2": False, "AVX512F": False, "AVX512VNNI": False, "ASIMD": False}
        assert verdicts._present(listed, emulated) == ["sse4_2", "avx"]

    def test_what_numpy_does_not_ask_for_is_as_listed(self) -> None:
        asked = {"AVX2": True, "AVX512F": True}
        assert verdicts._present({"amx_tile", "avx_vnni"}, asked) == ["avx2", "avx_vnni", "avx512f", "amx_tile"]
        assert verdicts._present({"asimd", "i8mm"}, {}) == ["asimd", "i8mm"]
        assert verdicts._present({"i8mm"}, {}) == []

    def test_this_machine_has_those_that_it_lists(self) -> None:
        machine, *features = verdicts.isa().split()
        assert machine
        assert set(features) <= set(verdicts._ISA)
