"""Whether a version may stand in for another: what the rule allows must hold for every request."""

from __future__ import annotations

import hypothesis
import msgspec
import numpy as np
import pytest
from hypothesis import strategies as st

from windlass import errors
from windlass.registry import compatibility
from windlass.types import contract, manifest, signature, tensor

NAMES = ("x", "y")
DATATYPES = ("FP32", "INT64")
SYMBOLS = ("batch", "n", "m")
SIZES = (1, 2, 3)


def tensors(names: tuple[str, ...]) -> st.SearchStrategy[tuple[signature.TensorSpec, ...]]:
    def spec(name: str) -> st.SearchStrategy[signature.TensorSpec]:
        bound = st.sampled_from((None, None, 0.0, 1.0))
        return st.builds(
            signature.TensorSpec,
            name=st.just(name),
            datatype=st.sampled_from(DATATYPES),
            shape=st.lists(st.sampled_from((*SYMBOLS, *SIZES)), min_size=1, max_size=2).map(tuple),
            minimum=bound.map(lambda low: low),
            maximum=bound.map(lambda high: None if high is None else high + 1),
            missing=st.sampled_from(("allow", "refuse")),
        )

    return st.lists(st.sampled_from(names), min_size=1, unique=True).flatmap(lambda ns: st.tuples(*map(spec, ns)))


dimension = st.builds(signature.Dimension, minimum=st.sampled_from((1, 2)), maximum=st.sampled_from((None, 2, 3)))
signatures = st.builds(
    signature.Signature,
    inputs=tensors(NAMES),
    outputs=tensors(("out",)),
    dimensions=st.dictionaries(st.sampled_from(("n", "m")), dimension),
)


@st.composite
def alike(draw: st.DrawFn) -> tuple[signature.Signature, signature.Signature]:
    """Two signatures, often so close that the answer hangs on a detail."""
    old = draw(signatures)
    if draw(st.integers(0, 3)) == 0:
        return old, draw(signatures)
    inputs = []
    for spec in old.inputs:
        axis = draw(st.integers(0, len(spec.shape) - 1))
        shape = list(spec.shape)
        shape[axis] = draw(st.sampled_from((*SYMBOLS, *SIZES, shape[axis], shape[axis])))
        low = draw(st.sampled_from((None, spec.minimum, 0.0)))
        inputs.append(msgspec.structs.replace(spec, shape=tuple(shape), minimum=low))
    dimensions = {**old.dimensions, **draw(st.dictionaries(st.sampled_from(("n", "m")), dimension, max_size=1))}
    return old, msgspec.structs.replace(old, inputs=tuple(inputs), dimensions=dimensions)


def requests(sig: signature.Signature) -> list[tensor.Tensors]:
    """Every request with sizes 1 to 3 and one of a few values that a signature accepts."""
    check = contract.Contract(sig, max_rows=8, max_elements=10_000)
    symbols = sorted({d for spec in sig.inputs for d in spec.shape if isinstance(d, str)})
    found = []
    for sizes in np.ndindex(*(3,) * len(symbols)):
        bound = {symbol: size + 1 for symbol, size in zip(symbols, sizes, strict=True)}
        for value in (-1.0, 0.0, 1.0, 3.0, np.nan):
            inputs = {}
            for spec in sig.inputs:
                shape = tuple(bound.get(d, d) if isinstance(d, str) else d for d in spec.shape)
                fill = 0.0 if np.isnan(value) and spec.datatype == "INT64" else value
                inputs[spec.name] = np.full(shape, fill, tensor.dtype(spec.datatype))
            if np.isnan(value) and any(spec.minimum is not None or spec.maximum is not None for spec in sig.inputs):
                continue
            try:
                check.check(inputs)
            except errors.InvalidInput:
                continue
            found.append(inputs)
    return found


@hypothesis.given(alike())
@hypothesis.settings(max_examples=120, deadline=None)
def test_what_may_stand_in_accepts_every_request(pair: tuple[signature.Signature, signature.Signature]) -> None:
    old, new = pair
    if compatibility.signature_breaks(new, old):
        return
    check = contract.Contract(new, max_rows=8, max_elements=10_000)
    for inputs in requests(old):
        check.check(inputs)


@hypothesis.given(signatures)
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_signature_stands_in_for_itself(sig: signature.Signature) -> None:
    assert compatibility.signature_breaks(sig, sig) == ()


X = signature.TensorSpec("x", "FP32", ("batch", 4))
Y = signature.TensorSpec("y", "FP32", ("batch", 2))
OLD = signature.Signature(inputs=(X,), outputs=(Y,))


def change(spec: signature.TensorSpec, **fields: object) -> signature.TensorSpec:
    return msgspec.structs.replace(spec, **fields)


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (signature.Signature((X, change(X, name="z")), (Y,)), "input 'z' is new"),
        (signature.Signature((change(X, name="z"),), (Y,)), "input 'x' is no longer taken"),
        (signature.Signature((change(X, datatype="FP64"),), (Y,)), "input 'x' changes from FP32 to FP64"),
        (signature.Signature((change(X, shape=("batch", 5)),), (Y,)), "axis 1 of input 'x' takes 5, and was 4"),
        (signature.Signature((change(X, shape=("batch", 4, 1)),), (Y,)), "from 2 dimensions to 3"),
        (signature.Signature((change(X, minimum=0.0),), (Y,)), "least value of input 'x' rises to 0.0"),
        (signature.Signature((change(X, maximum=9.0),), (Y,)), "greatest value of input 'x' falls to 9.0"),
        (signature.Signature((change(X, missing="refuse"),), (Y,)), "no missing values any more"),
        (signature.Signature((change(X, categories=("1",)),), (Y,)), "takes fewer categories"),
        (signature.Signature((X,), (change(Y, name="z"),)), "output 'y' is no longer given"),
        (signature.Signature((X,), (change(Y, datatype="FP16"),)), "output 'y' changes from FP32 to FP16"),
        (signature.Signature((X,), (change(Y, shape=("batch", 3)),)), "axis 1 of output 'y'"),
        (signature.Signature((X,), (change(Y, shape=("n", 2)),)), "no longer has a row for each row"),
        (signature.Signature((X,), (change(Y, categories=("cat", "dog")),)), "categories of output 'y' change"),
    ],
)
def test_each_break_is_named(new: signature.Signature, sentence: str) -> None:
    assert sentence in "; ".join(compatibility.signature_breaks(new, OLD))


def test_units_are_kept() -> None:
    metres = signature.Signature((change(X, unit="m"),), (Y,))
    feet = signature.Signature((change(X, unit="ft"),), (Y,))
    assert "from 'm' to 'ft'" in "; ".join(compatibility.signature_breaks(feet, metres))
    assert compatibility.signature_breaks(metres, OLD) == ()


@pytest.mark.parametrize(
    "new",
    [
        signature.Signature((change(X, shape=("batch", "n")),), (Y,)),
        signature.Signature((X,), (Y, change(Y, name="extra"))),
        signature.Signature((change(X, meaning="pixels"),), (Y,)),
    ],
)
def test_what_takes_and_gives_more_may_stand_in(new: signature.Signature) -> None:
    assert compatibility.signature_breaks(new, OLD) == ()
    assert compatibility.signature_breaks(OLD, new) != () or new.outputs == OLD.outputs


def test_two_axes_that_were_free_may_not_be_tied() -> None:
    free = signature.Signature((change(X, shape=("batch", "n")), change(X, name="z", shape=("batch", "m"))), (Y,))
    tied = signature.Signature((change(X, shape=("batch", "n")), change(X, name="z", shape=("batch", "n"))), (Y,))
    assert "dimension 'n' must now be the same" in "; ".join(compatibility.signature_breaks(tied, free))
    assert compatibility.signature_breaks(free, tied) == ()


def test_limits_may_grow_and_not_shrink() -> None:
    blob = manifest.BlobRef("sha256:" + "0" * 64, 1)
    small, large = (
        manifest.Manifest(
            name="m",
            kind="model",
            signature=OLD,
            model=manifest.ModelSpec(runtime="echo", blobs={"a": blob}),
            golden=manifest.Golden(blob, blob, 0.0, 0.0),
            limits=manifest.Limits(max_batch=rows),
        )
        for rows in (8, 16)
    )
    assert compatibility.breaks(large, small) == ()
    assert compatibility.breaks(small, large) == ("the limit max_batch falls from 16 to 8",)


def test_labels_are_kept() -> None:
    blob = manifest.BlobRef("sha256:" + "0" * 64, 1)
    old = manifest.Manifest(
        name="m",
        kind="model",
        signature=OLD,
        model=manifest.ModelSpec(runtime="echo", blobs={"a": blob}),
        golden=manifest.Golden(blob, blob, 0.0, 0.0),
        labels=("no", "yes"),
    )
    for labels, told in ((("yes", "no"), "'yes', 'no'"), ((), "none")):
        new = msgspec.structs.replace(old, labels=labels)
        assert compatibility.breaks(new, old) == (f"the labels change from 'no', 'yes' to {told}",)
    assert compatibility.breaks(old, old) == ()


def sends(*fields: manifest.Field, media: tuple[str, ...] = ()) -> manifest.Manifest:
    blob = manifest.BlobRef("sha256:" + "0" * 64, 1)
    return manifest.Manifest(
        name="m",
        kind="model",
        signature=OLD,
        model=manifest.ModelSpec(runtime="echo", blobs={"a": blob}),
        golden=manifest.Golden(blob, blob, 0.0, 0.0),
        fields=fields,
        media=media,
    )


AGE = manifest.Field("age", "number")
SEX = manifest.Field("sex", "category", categories=("f", "m"))


@pytest.mark.parametrize(
    ("new", "old", "told"),
    [
        (sends(change(AGE, name="Age")), sends(AGE), ("'Age' is new and required", "'age' is no longer taken")),
        (sends(AGE, SEX), sends(AGE), ("'sex' is new and required",)),
        (sends(AGE, change(SEX, required=False)), sends(AGE), ()),
        (sends(AGE), sends(AGE, change(SEX, required=False)), ("'sex' is no longer taken",)),
        (sends(change(AGE, kind="text")), sends(AGE), ("'age' changes from number to text",)),
        (sends(AGE), sends(change(AGE, required=False)), ("'age' is now required",)),
        (sends(change(AGE, required=False)), sends(AGE), ()),
        (sends(change(SEX, categories=("f",))), sends(SEX), ("'sex' takes fewer categories",)),
        (sends(SEX), sends(change(SEX, categories=())), ("'sex' takes fewer categories",)),
        (sends(change(SEX, categories=("x", "m", "f"))), sends(SEX), ()),
        (sends(change(SEX, categories=())), sends(SEX), ()),
        (sends(AGE), sends(AGE, media=("image/png",)), ("a body of image/png is no longer taken",)),
        (sends(AGE, media=("image/png",)), sends(AGE), ()),
        (sends(), sends(AGE), ("'age' is no longer taken",)),
        (sends(change(AGE, required=False)), sends(), ("people must now send fields, and sent tensors",)),
        (sends(SEX, AGE), sends(AGE, SEX), ()),
    ],
)
def test_what_people_sent_is_still_taken(new: manifest.Manifest, old: manifest.Manifest, told: tuple[str, ...]) -> None:
    found = compatibility.breaks(new, old)
    assert len(found) == len(told)
    assert all(part in sentence for part, sentence in zip(told, found, strict=True))
