"""types/contract.py: what may reach a model, and how a refusal reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.types import contract, signature, tensor

Spec = signature.TensorSpec


def make(
    *inputs: Spec, dimensions: dict[str, signature.Dimension] | None = None, rows: int = 8, elements: int = 100
) -> contract.Contract:
    outputs = (Spec("out", "FP32", ("batch",)), Spec("label", "BYTES", ("batch",)))
    declared = signature.Signature(tuple(inputs), outputs, dimensions or {})
    return contract.Contract(declared, max_rows=rows, max_elements=elements)


def zeros(*shape: int, dtype: Any = np.float32) -> tensor.Array:
    return np.zeros(shape, dtype=dtype)


TABLE = make(Spec("x", "FP32", ("batch", 4)), Spec("n", "INT64", ("batch",)))
RAGGED = make(
    Spec("ids", "INT64", ("batch", "length")),
    Spec("mask", "INT64", ("batch", "length")),
    dimensions={"length": signature.Dimension(minimum=2, maximum=5, mask="mask")},
)


def test_rows_are_counted_and_one_shape_needs_no_key() -> None:
    assert TABLE.check({"x": zeros(3, 4), "n": zeros(3, dtype=np.int64)}) == (3, contract.NO_KEY)


def test_requests_of_other_lengths_have_other_keys() -> None:
    two, five = ({n: zeros(2, size, dtype=np.int64) for n in ("ids", "mask")} for size in (2, 5))
    assert RAGGED.check(two) == (2, ((2,), (2,)))
    assert RAGGED.check(five)[1] != RAGGED.check(two)[1]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": zeros(3, 4)}, "missing input 'n'"),
        ({"x": zeros(3, 4), "m": zeros(3)}, "unexpected input 'm': the model's inputs are 'x', 'n'"),
        ({"x": zeros(3, 4), "n": zeros(3, dtype=np.int64), "z": zeros(1)}, "unexpected input 'z'"),
        ({"x": zeros(3, 4, dtype=np.float64), "n": zeros(3, dtype=np.int64)}, "'x' has datatype FP64.*expects FP32"),
        ({"x": zeros(3, 5), "n": zeros(3, dtype=np.int64)}, r"'x' has shape \[3, 5\].*expects \[batch, 4\]"),
        ({"x": zeros(3), "n": zeros(3, dtype=np.int64)}, r"'x' has shape \[3\]"),
        ({"x": np.float32(1).reshape(()), "n": zeros(3, dtype=np.int64)}, r"'x' has shape \[\]"),
        ({"x": zeros(3, 4), "n": zeros(2, dtype=np.int64)}, "'n' has 2 rows: the inputs before it have 3"),
        ({"x": zeros(0, 4), "n": zeros(0, dtype=np.int64)}, "0 rows: the model takes 1 to 8"),
        ({"x": zeros(9, 4), "n": zeros(9, dtype=np.int64)}, "9 rows: the model takes 1 to 8"),
    ],
)
def test_what_breaks_the_signature_is_named(inputs: tensor.Tensors, message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=message):
        TABLE.check(inputs)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ((2, 3), (2, 4), "'mask' has 4 for dimension 'length', another input has 3"),
        ((2, 3), (3, 3), "'mask' has 3 for dimension 'batch', another input has 2"),
        ((2, 1), (2, 1), "'ids' has 1 for dimension 'length': it may be 2 to 5"),
        ((2, 6), (2, 6), "'ids' has 6 for dimension 'length': it may be 2 to 5"),
    ],
)
def test_symbolic_dimensions_agree_and_keep_their_range(
    ids: tuple[int, int], mask: tuple[int, int], message: str
) -> None:
    with pytest.raises(errors.InvalidInput, match=message):
        RAGGED.check({"ids": zeros(*ids, dtype=np.int64), "mask": zeros(*mask, dtype=np.int64)})


@pytest.mark.threat("V8")
@pytest.mark.parametrize("rows", [7, 8, 9])
def test_rows_at_their_limit(rows: int) -> None:
    inputs = {"x": zeros(rows, 4), "n": zeros(rows, dtype=np.int64)}
    if rows <= 8:
        assert TABLE.check(inputs)[0] == rows
    else:
        with pytest.raises(errors.InvalidInput, match="9 rows"):
            TABLE.check(inputs)


@pytest.mark.threat("V8")
@pytest.mark.parametrize("length", [24, 25, 26])
def test_elements_of_all_inputs_at_their_limit(length: int) -> None:
    checked = make(Spec("a", "UINT8", ("batch", "n")), Spec("b", "UINT8", ("batch", "n")), elements=100)
    inputs = {name: zeros(2, length, dtype=np.uint8) for name in "ab"}
    if length <= 25:
        assert checked.check(inputs)[0] == 2
    else:
        with pytest.raises(errors.InvalidInput, match="104 elements: at most 100"):
            checked.check(inputs)


def test_rows_agree_when_the_batch_is_seen_late() -> None:
    """An input without a batch, then one of the usual form, then a symbolic one: all three were compared in turn."""
    mixed = make(Spec("w", "FP32", ("m",)), Spec("x", "FP32", ("batch", 4)), Spec("y", "FP32", ("batch", "m")))
    assert mixed.check({"w": zeros(2), "x": zeros(3, 4), "y": zeros(3, 2)})[0] == 1
    with pytest.raises(errors.InvalidInput, match="'y' has 5 for dimension 'batch', another input has 3"):
        mixed.check({"w": zeros(2), "x": zeros(3, 4), "y": zeros(5, 2)})


def test_a_model_without_batch_is_one_row() -> None:
    single = make(Spec("image", "UINT8", (2, 3)))
    assert single.check({"image": zeros(2, 3, dtype=np.uint8)}) == (1, contract.NO_KEY)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-0.5, "the value -0.5: the least allowed is 0"),
        (1.5, "the value 1.5: the most allowed is 1"),
        (np.inf, "the most allowed is 1"),
    ],
)
def test_values_keep_their_range(value: float, message: str) -> None:
    ranged = make(Spec("p", "FP32", ("batch",), minimum=0, maximum=1))
    assert ranged.check({"p": np.array([0.0, 1.0, np.nan], dtype=np.float32)})[0] == 3
    assert ranged.check({"p": np.array([np.nan], dtype=np.float32)})[0] == 1
    with pytest.raises(errors.InvalidInput, match=message):
        ranged.check({"p": np.array([0.5, value, np.nan], dtype=np.float32)})


def test_missing_values_are_refused_where_the_signature_says_so() -> None:
    strict = make(Spec("p", "FP32", ("batch",), missing="refuse"))
    with pytest.raises(errors.InvalidInput, match="'p' has missing values"):
        strict.check({"p": np.array([0.5, np.nan], dtype=np.float32)})


def test_categories_are_the_only_values() -> None:
    text = make(Spec("c", "BYTES", ("batch",), categories=("a", "é")))
    assert text.check({"c": np.array([b"a", "é".encode()], dtype=object)})[0] == 2
    with pytest.raises(errors.InvalidInput, match="'c' has a value outside its 2 categories"):
        text.check({"c": np.array([b"b"], dtype=object)})
    number = make(Spec("c", "INT64", ("batch",), categories=("1", "2")))
    assert number.check({"c": np.array([1, 2])})[0] == 2
    with pytest.raises(errors.InvalidInput, match="outside its 2 categories"):
        number.check({"c": np.array([3])})


def test_outputs_are_known_and_asked_for_once() -> None:
    TABLE.check_outputs(("label", "out"))
    with pytest.raises(errors.InvalidInput, match="unexpected output 'z': the model's outputs are 'out', 'label'"):
        TABLE.check_outputs(("z",))
    with pytest.raises(errors.InvalidInput, match="requested twice"):
        TABLE.check_outputs(("out", "out"))


DIMENSION = st.one_of(st.integers(1, 3), st.sampled_from(["batch", "m", "n"]))


@given(
    st.lists(st.lists(DIMENSION, max_size=3), min_size=1, max_size=3),
    st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=3),
)
def test_shapes_pass_only_if_one_size_for_each_name_explains_them(
    declared: list[list[int | str]], given_shapes: list[list[int]]
) -> None:
    """Against a second, plainer definition: there must be one assignment of sizes to names."""
    names = [f"t{i}" for i in range(len(declared))]
    checked = make(*(Spec(n, "UINT8", tuple(s)) for n, s in zip(names, declared, strict=True)), rows=4, elements=10_000)
    shapes = [given_shapes[i % len(given_shapes)] for i in range(len(names))]
    sizes: dict[str, int] = {}
    fits = True
    for spec, shape in zip(declared, shapes, strict=True):
        fits &= len(spec) == len(shape)
        for wanted, size in zip(spec, shape, strict=False):
            fits &= (sizes.setdefault(wanted, size) == size) if isinstance(wanted, str) else wanted == size
            fits &= wanted == "batch" or not isinstance(wanted, str) or size >= 1
    if checked.signature.batched:
        fits &= 1 <= sizes.get("batch", 1) <= 4
    inputs = {n: zeros(*s, dtype=np.uint8) for n, s in zip(names, shapes, strict=True)}
    if fits:
        assert checked.check(inputs)[0] == (sizes["batch"] if checked.signature.batched else 1)
    else:
        with pytest.raises(errors.InvalidInput):
            checked.check(inputs)
