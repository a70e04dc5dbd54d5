from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from windlass import errors
from windlass.protocols import json_tensors
from windlass.types import tensor

LIMIT = 1 << 20
NUMERIC = [name for name in tensor.DTYPES if name != "BYTES"]


def read(text: str | bytes, datatype: str, shape: tuple[int, ...], limit: int = LIMIT) -> tensor.Array:
    data = text.encode() if isinstance(text, str) else text
    return json_tensors.decode(data, datatype, shape, "x", limit)


def tensors_of(datatype: str) -> st.SearchStrategy[tensor.Array]:
    shapes = arrays.array_shapes(min_dims=1, max_dims=3, max_side=9)
    elements: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    return arrays.arrays(tensor.dtype(datatype), shapes, elements=elements or None)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), datatype=st.sampled_from(NUMERIC), flat=st.booleans())
def test_numbers_come_back_as_they_went(data: st.DataObject, datatype: str, flat: bool) -> None:
    array = data.draw(tensors_of(datatype))
    text = json.dumps((array.ravel() if flat else array).tolist())
    for found in (
        read(text, datatype, array.shape),
        json_tensors.decode_rank(json.dumps(array.tolist()).encode(), datatype, array.ndim, "x", LIMIT),
    ):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), datatype=st.sampled_from(NUMERIC))
def test_what_is_encoded_is_read_back(data: st.DataObject, datatype: str) -> None:
    array = data.draw(tensors_of(datatype))
    np.testing.assert_array_equal(read(json_tensors.encode(array, "y"), datatype, array.shape), array)
    np.testing.assert_array_equal(read(json_tensors.encode_flat(array, "y"), datatype, array.shape), array)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(), min_size=1, max_size=20))
def test_texts_come_back_as_they_went(texts: list[str]) -> None:
    try:
        wanted = [text.encode() for text in texts]
    except UnicodeEncodeError:
        return
    found = read(json.dumps(texts), "BYTES", (len(texts),))
    assert found.tolist() == wanted
    assert json.loads(json_tensors.encode(found, "y")) == texts


@pytest.mark.parametrize("datatype", [d for d in NUMERIC if d != "BOOL"])
@pytest.mark.parametrize("shape", [(70_000,), (35_000, 2), (300,), (3, 100), (10, 10, 10)])
def test_long_arrays_are_read_the_same(datatype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(math.prod(shape)) % 100).astype(tensor.dtype(datatype)).reshape(shape)
    nested = json.dumps(array.tolist())
    for found in (
        read(nested, datatype, shape),
        read(json.dumps(array.ravel().tolist()), datatype, shape),
        json_tensors.decode_rank(nested.encode(), datatype, len(shape), "x", LIMIT),
    ):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


EXTREMES = [
    ("UINT64", str(2**64 - 1)),
    ("INT64", str(-(2**63))),
    ("INT64", str(2**63 - 1)),
    ("UINT8", "255"),
    ("INT8", "-128"),
    ("FP16", "65504"),
    ("FP32", "3.4028234663852886e38"),
    ("FP64", "1.7976931348623157e308"),
    ("FP64", "1180591620717411303424"),
    ("FP32", "-0.0"),
]


@pytest.mark.parametrize("count", [1, 300])
@pytest.mark.parametrize(("datatype", "text"), EXTREMES)
def test_extremes_are_held(datatype: str, text: str, count: int) -> None:
    found = read("[" + ",".join([text] * count) + "]", datatype, (count,))
    assert found.tolist() == [tensor.dtype(datatype).type(json.loads(text))] * count


BAD = [
    ("FP32", '["3"]'),
    ("FP32", "[true]"),
    ("FP32", "[null]"),
    ("FP32", "[NaN]"),
    ("FP32", "[Infinity]"),
    ("FP32", "[1e400]"),
    ("FP32", "[1e39]"),
    ("FP32", "[{}]"),
    ("FP32", "[01]"),
    ("FP32", "[1,]"),
    ("FP32", "[1]]"),
    ("FP32", "1"),
    ("FP32", "null"),
    ("FP32", ""),
    ("FP16", "[65520]"),
    ("INT64", "[1.5]"),
    ("INT64", "[1.0]"),
    ("INT64", "[9223372036854775808]"),
    ("INT64", "[" + "9" * 5000 + "]"),
    ("INT8", "[128]"),
    ("UINT8", "[-1]"),
    ("UINT64", "[-1]"),
    ("UINT64", "[18446744073709551616]"),
    ("BOOL", "[1]"),
    ("BOOL", '["true"]'),
    ("BYTES", "[1]"),
    ("BYTES", '["\\ud800"]'),
    ("BYTES", b'["\xff"]'),
]


@pytest.mark.promise("P-36c")
@pytest.mark.parametrize("count", [1, 300, 70_000])
@pytest.mark.parametrize(("datatype", "text"), BAD)
def test_what_is_not_of_the_type_is_refused_by_name(datatype: str, text: str | bytes, count: int) -> None:
    data = text.encode() if isinstance(text, str) else text
    if count > 1 and data.startswith(b"["):
        if len(data) > 1000:
            return
        good = {"BOOL": b"true,", "BYTES": b'"a",'}.get(datatype, b"1,")
        data = b"[" + good * (count - 1) + data[1:]
    with pytest.raises(errors.InvalidInput, match="tensor 'x'"):
        read(data, datatype, (count,))


@pytest.mark.promise("P-36c")
@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("[[1,2],[3]]", (2, 2)),
        ("[[1,2],3]", (2, 2)),
        ("[1,[2]]", (2,)),
        ("[1,[2]]", (1, 2)),
        ("[[1,2,3,4]]", (2, 2)),
        ("[[[1]],[[2]]]", (2, 1)),
        ("[1,2,3]", (2,)),
        ("[]", (2,)),
        ("[[]]", (1, 1)),
        ("[1]", (0,)),
        ("[[1],[2]]", (1, 2)),
    ],
)
@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BOOL", "BYTES"])
def test_uneven_nesting_is_refused(text: str, shape: tuple[int, ...], datatype: str) -> None:
    for digit in "1234":
        text = text.replace(digit, {"BOOL": "true", "BYTES": f'"{digit}"'}.get(datatype, digit))
    with pytest.raises(errors.InvalidInput, match="tensor 'x'"):
        read(text, datatype, shape)


@pytest.mark.parametrize("rows", [3, 700])
def test_uneven_long_rows_are_refused(rows: int) -> None:
    good = [[1.0] * 100 for _ in range(rows)]
    read(json.dumps(good), "FP32", (rows, 100))
    for bad in (
        [*good[:-1], [1.0] * 99],
        [*good[:-2], [1.0] * 99, [1.0] * 101],
        [*good[:-1], [[1.0] * 100]],
        [*good[:-1], 1.0],
        [good],
    ):
        text = json.dumps(bad).encode()
        with pytest.raises(errors.InvalidInput, match="tensor 'x'"):
            json_tensors.decode(text, "FP32", (rows, 100), "x", LIMIT)
        with pytest.raises(errors.InvalidInput, match="tensor 'x'"):
            json_tensors.decode_rank(text, "FP32", 2, "x", LIMIT)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
@pytest.mark.parametrize("datatype", tensor.DTYPES)
def test_empty_tensors_are_tensors(datatype: str, shape: tuple[int, ...]) -> None:
    for text in ("[]", json.dumps(np.zeros(shape).tolist())):
        found = read(text, datatype, shape)
        assert found.shape == shape
        assert found.dtype == tensor.dtype(datatype)


@pytest.mark.promise("P-36c")
@pytest.mark.threat("V8")
@pytest.mark.parametrize(
    "shape",
    [(1_000_001,), (1 << 40, 1 << 40), (-1,), (1,) * 33, (1000, 1001), (1 << 62, 1 << 62, 1 << 62)],
)
def test_claims_are_refused_before_anything_is_read(shape: tuple[int, ...]) -> None:
    with pytest.raises(errors.InvalidInput):
        read("[1]", "FP32", shape, 1_000_000)
    with pytest.raises(errors.InvalidInput):
        read("[1]", "BYTES", shape, 1_000_000)


@pytest.mark.threat("V8")
def test_a_million_claimed_elements_cost_nothing() -> None:
    with pytest.raises(errors.InvalidInput, match="cannot hold"):
        read("[1,2,3]", "FP32", (1_000_000,))
    with pytest.raises(errors.InvalidInput, match="more than"):
        json_tensors.decode_rank(b"[" + b"1," * 99 + b"1]", "FP32", 1, "x", 99)
    with pytest.raises(errors.InvalidInput, match="more than"):
        json_tensors.decode_rank(b"[" + b"1," * 99_999 + b"1]", "FP32", 1, "x", 99_999)


@pytest.mark.promise("P-36c")
@pytest.mark.threat("F9")
@pytest.mark.parametrize("depth", [3, 33, 1_000, 200_000])
def test_depth_is_bounded(depth: int) -> None:
    bomb = b"[" * depth + b"1" + b"]" * depth
    for datatype in ("FP32", "BYTES"):
        with pytest.raises(errors.InvalidInput):
            json_tensors.decode(bomb, datatype, (1, 1), "x", LIMIT)
        with pytest.raises(errors.InvalidInput):
            json_tensors.decode_rank(bomb, datatype, 2, "x", LIMIT)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=40) | st.text('[]{},.0123456789eE+-"truefalsn \n', max_size=40).map(str.encode))
def test_any_bytes_are_a_tensor_or_invalid(data: bytes) -> None:
    for datatype in ("FP32", "INT8", "BOOL", "BYTES"):
        for rank in (1, 2):
            try:
                found = json_tensors.decode_rank(data, datatype, rank, "x", 100)
            except errors.InvalidInput:
                continue
            assert found.ndim == rank


def test_answers_hold_what_json_can() -> None:
    assert json_tensors.encode(np.array([np.nan, np.inf, 1.5], np.float32), "y") == b"[null,null,1.5]"
    assert json_tensors.encode(np.array([[1, 2], [3, 4]], np.float32).T, "y") == b"[[1.0,3.0],[2.0,4.0]]"
    assert json_tensors.encode(np.array([1, 2], ">i4"), "y") == b"[1,2]"
    assert json_tensors.encode(np.array(["ä", "b"]), "y") == '["ä","b"]'.encode()
    assert json_tensors.encode(np.array(2.5, np.float32), "y") == b"2.5"
    with pytest.raises(errors.InvalidInput, match="'y' holds bytes that are not UTF-8"):
        json_tensors.encode(np.array([b"\xff"], dtype=object), "y")
