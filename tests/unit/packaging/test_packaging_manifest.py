"""packaging/manifest.py: one spelling, one digest, and everything else refused with the field's name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.packaging import manifest as manifests
from windlass.types import manifest, signature, strict_json

REF = manifest.BlobRef("sha256:" + "a" * 64, 10)
OTHER = manifest.BlobRef("sha256:" + "b" * 64, 20)


def make(**changes: Any) -> manifest.Manifest:
    value = manifest.Manifest(
        name="toy",
        kind="model",
        signature=signature.Signature(
            (signature.TensorSpec("x", "FP32", ("batch", "n")), signature.TensorSpec("mask", "INT64", ("batch", "n"))),
            (signature.TensorSpec("y", "FP32", ("batch", 3)),),
            {"n": signature.Dimension(1, 512, mask="mask")},
        ),
        model=manifest.ModelSpec("onnx", {"model.onnx": REF}, ir_version=10, opset=20),
        golden=manifest.Golden(REF, OTHER, 1e-3, 1e-5),
        transforms=(manifest.TransformSpec("classify", {"top": 5}, {"labels.txt": OTHER}),),
        labels=("a", "b", "c"),
    )
    return msgspec.structs.replace(value, **changes)


def spelled(path: str, value: Any) -> bytes:
    """The canonical bytes of a good manifest in which one field was replaced."""
    plain = json.loads(manifests.encode(make()))
    *parents, last = path.split(".")
    at: Any = plain
    for parent in parents:
        at = at[int(parent)] if isinstance(at, list) else at.setdefault(parent, {})
    at[int(last) if isinstance(at, list) else last] = value
    return strict_json.canonical(plain)


def test_a_manifest_is_read_back_and_its_digest_is_that_of_its_bytes() -> None:
    data = manifests.encode(make())
    assert manifests.decode(data) == make()
    assert manifests.digest(make()) == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert b'"format_version":1' in data
    assert b"card" not in data, "defaults are not written"


def test_the_digest_of_the_first_format_stays() -> None:
    """Changing this breaks every package that exists: add optional fields with defaults instead."""
    assert manifests.digest(make()) == "sha256:905d71eda11933205036aeeea370fc1678c1f0e5a82dfcede44ab3df10a09edb"


def test_blobs_are_listed_once() -> None:
    assert make().blobs() == {REF.digest: REF, OTHER.digest: OTHER}


NUMBERS_AT_LIMIT = [
    ("limits.max_batch", 65_536),
    ("limits.max_elements", 1 << 31),
    ("limits.max_body", 1 << 31),
    ("golden.rtol", 1.0),
    ("golden.atol", 1.0),
    ("model.opset", 1000),
    ("signature.dimensions.n.maximum", 1 << 31),
    ("signature.inputs.0.shape.1", 1 << 24),
]


@pytest.mark.threat("V8")
@pytest.mark.parametrize(("path", "limit"), NUMBERS_AT_LIMIT)
def test_numbers_at_their_limits(path: str, limit: float) -> None:
    step = type(limit)(1)
    if path.startswith("signature.inputs"):
        plain = json.loads(spelled(path, limit))
        plain["signature"].pop("dimensions")
        assert manifests.decode(strict_json.canonical(plain))
    else:
        assert manifests.decode(spelled(path, limit))
        assert manifests.decode(spelled(path, limit - step)) if limit > 1 else True
    with pytest.raises(errors.CorruptPackage):
        manifests.decode(spelled(path, limit + step))


@pytest.mark.threat("F9", "V4", "V8")
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "../toy", "is no model name"),
        ("name", "Toy", "is no model name"),
        ("kind", "pipeline", "kind 'pipeline' are not read"),
        ("kind", "script", "Invalid enum value"),
        ("code", "import os", "unknown field `code`"),
        ("signature.inputs", [], "signature.inputs has 0 tensors"),
        ("signature.outputs", [], "signature.outputs has 0 tensors"),
        ("signature.outputs.0.name", "", "not printable"),
        ("signature.outputs.0.name", "a\u202eb", "not printable"),
        ("signature.outputs.0.name", "a" * 257, "too long"),
        ("signature.inputs.1.name", "x", "signature.inputs has 'x' twice"),
        ("signature.inputs.0.datatype", "BF16", "datatype 'BF16' is not one of"),
        ("signature.inputs.0.shape", [1] * 33, "has 33 dimensions: at most 32"),
        ("signature.inputs.0.shape", ["batch", -1], "is -1: 1 to"),
        ("signature.inputs.0.shape", ["batch", 0], "is 0: 1 to"),
        ("signature.inputs.0.shape", ["batch", "n", 1 << 30], "limits.max_elements is 16777216"),
        ("signature.outputs.0.shape", [1 << 30, 1 << 30], "at most 2147483648"),
        ("signature.inputs.0.shape", ["batch", "n", ""], "whose name is empty"),
        ("signature.inputs.0.shape", ["batch", "n", 1.5], "Expected `int | str`"),
        ("signature.outputs.0.minimum", 2, "not in its canonical spelling"),
        ("signature.outputs.0.categories", ["a", "a"], "categories has 'a' twice"),
        ("signature.dimensions.z", {}, "dimensions 'z' is in no tensor's shape"),
        ("signature.dimensions.n.minimum", 513, "maximum is 512: 513 to"),
        ("signature.dimensions.n.mask", "y", "mask names no input"),
        ("model.runtime", "../onnx", "model.runtime is no name"),
        ("model.runtime", "", "model.runtime is no name"),
        ("model.blobs", {}, "model.blobs is empty"),
        ("model.opset", -1, "model.opset is -1"),
        ("golden.rtol", 5.0, "golden.rtol is 5.0"),
        ("golden.atol", -0.1, "golden.atol is -0.1"),
        ("golden.inputs.digest", "sha256:" + "A" * 64, "which is no digest"),
        ("golden.inputs.digest", "md5:abc", "which is no digest"),
        ("golden.inputs.size", -1, "size is -1"),
        ("golden.inputs.size", 11, "gives sha256:a+ two sizes"),
        ("golden.inputs.size", 1.5, "Expected `int`"),
        ("transforms.0.kind", "a/b", r"transforms\[0\].kind is no name"),
        ("limits.max_batch", 0, "limits.max_batch is 0"),
        ("lineage.parent", "toy@3", "lineage.parent has 'toy@3', which is no digest"),
        ("lineage.data", ["x"], "lineage.data has 'x'"),
        ("card.description", "a" * 65_537, "more than 65536 characters"),
        ("labels.0", "a" * 65_537, "more than 65536 characters"),
    ],
)
def test_a_broken_rule_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises((errors.CorruptPackage, errors.Unsupported), match=message):
        manifests.decode(spelled(path, value))


@pytest.mark.threat("V4", "V16")
@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../a", "a/../b", "/a", "a//b", "a/", "a\\b", "a\0", "a\nb", "C:a", "a.", "a ", "a./b", "a /b",
        " a", "CON", "con.txt", "a/Nul", "lpt1.onnx", "COM1 .x", "e\u0301", "a\u200b", "a\u202e", "a*", "a?", "a|b",
        "a" * 256,
    ],
)  # fmt: skip
def test_file_names_that_mean_something_else_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(errors.CorruptPackage):
        manifests.check_file_name(name)
    plain = json.loads(manifests.encode(make()))
    plain["model"]["blobs"] = {name: {"digest": REF.digest, "size": REF.size}}
    with pytest.raises(errors.CorruptPackage):
        manifests.decode(strict_json.canonical(plain))


@pytest.mark.parametrize("name", ["model.onnx", "a/b/c.bin", "é.txt", ".hidden", "console", "a" * 255])
def test_plain_file_names_pass(name: str) -> None:
    manifests.check_file_name(name)


def test_names_that_differ_in_case_only_are_refused() -> None:
    with pytest.raises(errors.CorruptPackage, match=r"model.blobs has 'a.bin' twice"):
        manifests.check(make(model=manifest.ModelSpec("onnx", {"A.bin": REF, "a.bin": OTHER})))


@pytest.mark.threat("V8")
@pytest.mark.parametrize("count", [9_997, 9_998])
def test_blobs_at_their_limit(count: int) -> None:
    value = make(model=manifest.ModelSpec("onnx", {f"{i}": REF for i in range(count)}))
    if count + 3 <= manifests.MAX_BLOBS:
        manifests.check(value)
    else:
        with pytest.raises(errors.CorruptPackage, match="blobs are 10001"):
            manifests.check(value)


@pytest.mark.promise("P-27")
@pytest.mark.parametrize(("version", "hint"), [(2, "Upgrade Windlass"), (0, "Package the model again")])
def test_another_format_version_is_a_sentence(version: int, hint: str) -> None:
    with pytest.raises(errors.Unsupported, match=f"format {version}; this Windlass reads format 1. {hint}"):
        manifests.decode(spelled("format_version", version))


@pytest.mark.threat("F9")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"1",
        b"{}",
        b'{"format_version":true}',
        b'{"format_version":"1"}',
        manifests.encode(make()) + b"\n",
        b" " + manifests.encode(make()),
        manifests.encode(make()).replace(b'"kind":"model",', b'"kind":"model","kind":"model",'),
        manifests.encode(make()).replace(b"0.001", b"1e-3"),
        manifests.encode(make()).replace(b"0.001", b"NaN"),
        manifests.encode(make()).replace(b'"toy"', b'"\\u0074oy"'),
        json.dumps(json.loads(manifests.encode(make())), indent=1).encode(),
        spelled("card", {"description": ""}),
        spelled("transforms.0.parameters", {"a": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}),
    ],
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(errors.CorruptPackage):
        manifests.decode(data)


@pytest.mark.threat("V8")
def test_a_manifest_is_at_most_4_megabytes() -> None:
    with pytest.raises(errors.CorruptPackage, match="at most 4194304 are read"):
        manifests.decode(spelled("transforms.0.parameters", {"a": "x" * 4_194_304}))


GOOD = manifests.encode(make())


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
@settings(max_examples=300, deadline=None)
def test_changed_bytes_never_keep_the_digest_and_never_crash(at: int, byte: int, length: int) -> None:
    for data in (GOOD[:at] + bytes([byte]) + GOOD[at + 1 :], GOOD[:length]):
        try:
            value = manifests.decode(data)
        except (errors.CorruptPackage, errors.Unsupported):
            continue
        assert manifests.encode(value) == data
