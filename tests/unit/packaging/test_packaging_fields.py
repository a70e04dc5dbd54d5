"""The fields of a manifest: what people send, as the transforms say, written when a package is built."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from windlass import errors
from windlass.packaging import archive, build, draft, session
from windlass.packaging import manifest as manifests
from windlass.registry import compatibility
from windlass.storage import blobs
from windlass.types import manifest, signature

COLOURS = ("red", "green")


def make(*columns: str) -> archive.Package:
    """A model that gives back a matrix made of number columns and a category."""
    width = len(columns) + 1
    sides = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", width)) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", sides[:1], sides[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = np.zeros((2, width), np.float32)
    table = [{"name": column} for column in columns]
    table.append({"name": "colour", "kind": "category", "categories": list(COLOURS), "missing": "nan"})
    source = draft.Draft(
        files={"model.onnx": made.SerializeToString()},
        signature=signature.Signature(
            (signature.TensorSpec("x", "FP32", ("batch", width)),),
            (signature.TensorSpec("y", "FP32", ("batch", width)),),
        ),
        trials=(draft.Trial("two rows", {"x": x}, {"y": x}),),
        framework="none",
        transforms=(draft.TransformDraft("tabular", {"columns": table, "input": "x"}),) if columns else (),
    )
    return build.build(source, name="toy")


def test_a_manifest_says_what_people_send() -> None:
    package = make("age", "height")
    assert package.manifest.fields == (
        manifest.Field("age", "number"),
        manifest.Field("height", "number"),
        manifest.Field("colour", "category", required=False, categories=COLOURS),
    )
    assert manifests.decode(manifests.encode(package.manifest)) == package.manifest
    session.open(package).close()


def test_without_transforms_nothing_is_written() -> None:
    assert b'"fields"' not in manifests.encode(make().manifest)
    assert b'"media"' not in manifests.encode(make().manifest)


def test_a_renamed_column_is_noticed_although_the_tensors_stay() -> None:
    new, old = make("Age").manifest, make("age").manifest
    assert new.signature == old.signature
    assert compatibility.breaks(new, old) == (
        "the field 'Age' is new and required, and callers do not send it",
        "the field 'age' is no longer taken",
    )


@pytest.mark.parametrize("fields", [(), (manifest.Field("Age", "number"),)], ids=["left out", "others"])
def test_a_manifest_that_says_something_else_than_its_transforms_is_refused(
    fields: tuple[manifest.Field, ...],
) -> None:
    good = make("age")
    data = {blobs.digest_of(bytes(d)): d for _, d in good.entries()}
    for change in ({"fields": fields}, {"media": ("text/csv",)}):
        bad = archive.in_memory(msgspec.structs.replace(good.manifest, **change), data)
        with pytest.raises(errors.CorruptPackage, match="not those that its transforms read"):
            session.open(bad)


def test_a_field_twice_is_refused() -> None:
    good = make("age").manifest
    for change, where in (
        ({"fields": good.fields * 2}, "fields has 'age' twice"),
        ({"fields": (manifest.Field("c", "category", categories=("a", "a")),)}, "categories has 'a' twice"),
        ({"media": ("image/png", "image/png")}, "media has 'image/png' twice"),
    ):
        with pytest.raises(errors.CorruptPackage, match=where):
            manifests.check(msgspec.structs.replace(good, **change))
