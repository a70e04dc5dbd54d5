"""types/tensor_codec.py and types/tensor.py: tensors to bytes and back, and no length believed."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from windlass import errors
from windlass.types import strict_json, tensor, tensor_codec

NUMBERS = [name for name in tensor.DTYPES if name != "BYTES"]


def bytes_array(shape: tuple[int, ...]) -> st.SearchStrategy[tensor.Array]:
    return hnp.arrays(np.object_, shape, elements=st.binary(max_size=8))


SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.one_of(
    st.sampled_from(NUMBERS).flatmap(lambda name: SHAPES.flatmap(lambda shape: hnp.arrays(tensor.DTYPES[name], shape))),
    SHAPES.flatmap(bytes_array),
)


def same(a: tensor.Array, b: tensor.Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and tensor_codec.to_raw(a) == tensor_codec.to_raw(b)


@given(ARRAYS)
def test_raw_form_is_read_back(array: tensor.Array) -> None:
    raw = tensor_codec.to_raw(array)
    assert same(tensor_codec.from_raw(tensor.datatype(array), array.shape, raw, name="x"), array)


@given(ARRAYS, st.binary(min_size=1, max_size=9))
def test_raw_form_with_bytes_left_over_is_refused(array: tensor.Array, more: bytes) -> None:
    raw = tensor_codec.to_raw(array) + more
    with pytest.raises(errors.InvalidInput, match="tensor 'x'"):
        tensor_codec.from_raw(tensor.datatype(array), array.shape, raw, name="x")


@given(ARRAYS.filter(lambda a: a.size > 0))
def test_raw_form_cut_short_is_refused(array: tensor.Array) -> None:
    with pytest.raises(errors.InvalidInput, match="tensor 'x'"):
        tensor_codec.from_raw(tensor.datatype(array), array.shape, tensor_codec.to_raw(array)[:-1], name="x")


def test_text_is_sent_as_utf8_whatever_its_dtype() -> None:
    expected = struct.pack("<I", 3) + b"\xc3\xa9a"
    assert tensor_codec.to_raw(np.array(["éa"])) == expected
    assert tensor_codec.to_raw(np.array(["éa"], dtype=object)) == expected
    assert tensor_codec.to_raw(np.array(["éa".encode()])) == expected


def test_raw_form_is_little_endian_and_row_major() -> None:
    array = np.array([[1, 2], [3, 4]], dtype=">u2").T
    assert tensor_codec.to_raw(array) == struct.pack("<4H", 1, 3, 2, 4)


def test_numbers_are_a_view_on_the_bytes() -> None:
    raw = bytes(8)
    array = tensor_codec.from_raw("FP32", (2,), raw, name="x")
    assert not array.flags.writeable
    assert np.shares_memory(array, np.frombuffer(raw, dtype=np.uint8))


def test_a_bool_is_0_or_1() -> None:
    with pytest.raises(errors.InvalidInput, match="neither 0 nor 1"):
        tensor_codec.from_raw("BOOL", (2,), b"\x01\x02", name="x")


@pytest.mark.threat("V8")
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((-1,), "negative dimension"),
        ((0, 10**30), "holds more than"),
        ((0, 2**39, 2**39), "holds more than"),
        ((2**20, 2**21), "holds more than"),
        ((2**62, 2**62, 2**62), "holds more than"),
        ((1,) * 33, "33 dimensions"),
    ],
)
def test_shapes_that_no_tensor_has_are_refused(shape: tuple[int, ...], message: str) -> None:
    for datatype in ("FP32", "BYTES"):
        with pytest.raises(errors.InvalidInput, match=message):
            tensor_codec.from_raw(datatype, shape, b"", name="x")


@pytest.mark.threat("V8")
@pytest.mark.parametrize("elements", [9, 10, 11])
def test_elements_at_their_limit(elements: int) -> None:
    raw = bytes(elements)
    if elements <= 10:
        assert tensor_codec.from_raw("UINT8", (elements,), raw, name="x", max_elements=10).size == elements
    else:
        with pytest.raises(errors.InvalidInput, match="more than the 10 elements"):
            tensor_codec.from_raw("UINT8", (elements,), raw, name="x", max_elements=10)


def test_an_unknown_datatype_names_those_there_are() -> None:
    with pytest.raises(errors.InvalidInput, match="'BF16' is not one of BOOL, UINT8"):
        tensor.dtype("BF16")
    with pytest.raises(errors.InvalidInput, match="complex64"):
        tensor.datatype(np.zeros(1, dtype=np.complex64))


@given(st.dictionaries(st.text(min_size=1, max_size=5), ARRAYS, max_size=4))
def test_a_tensor_file_is_read_back(tensors: tensor.Tensors) -> None:
    data = tensor_codec.pack(tensors)
    found = tensor_codec.unpack(data)
    assert set(found) == set(tensors)
    assert all(same(found[name], tensors[name]) for name in tensors)
    assert tensor_codec.pack(dict(reversed(tensors.items()))) == data


@given(st.dictionaries(st.text(min_size=1, max_size=3), ARRAYS, min_size=1, max_size=3), st.data())
def test_a_tensor_file_that_was_changed_is_read_or_refused(tensors: tensor.Tensors, data: st.DataObject) -> None:
    whole = bytearray(tensor_codec.pack(tensors))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for changed in (bytes(whole), cut):
        try:
            tensor_codec.unpack(changed)
        except errors.CorruptPackage:
            continue


def tensor_file(header: object, body: bytes) -> bytes:
    head = strict_json.canonical(header)
    return struct.pack("<Q", len(head)) + head + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends inside its header"),
        (struct.pack("<Q", 2**63), "ends inside its header"),
        (tensor_file({"a": {"datatype": "UINT8", "shape": [2], "offset": 0, "size": 3}}, bytes(3)), "needs 2"),
        (tensor_file({"a": {"datatype": "UINT8", "shape": [2], "offset": 1, "size": 2}}, bytes(3)), "leaves a gap"),
        (tensor_file({"a": {"datatype": "UINT8", "shape": [2], "offset": 0, "size": 2}}, bytes(3)), "left over"),
        (tensor_file({"a": {"datatype": "UINT8", "shape": [-2], "offset": 0, "size": 2}}, bytes(2)), "negative"),
        (tensor_file({"a": {"datatype": "UINT8", "shape": [0], "offset": 0, "size": -1}}, b""), "overlaps"),
        (tensor_file({"a": {"datatype": "X", "shape": [0], "offset": 0, "size": 0}}, b""), "datatype 'X'"),
        (tensor_file({"a": {"datatype": "UINT8", "shape": [0], "offset": 0, "size": 0, "q": 1}}, b""), "unknown field"),
        (tensor_file([], b""), "Expected `object`"),
    ],
)
def test_a_tensor_file_that_lies_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(errors.CorruptPackage, match=message):
        tensor_codec.unpack(data)


@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=8), st.integers(0, 3), max_size=4))
def test_the_header_is_spelled_canonically(sizes: dict[str, int]) -> None:
    packed = tensor_codec.pack({name: np.zeros(size, np.float32) for name, size in sizes.items()})
    head = packed[8 : 8 + int.from_bytes(packed[:8], "little")]
    assert head == strict_json.canonical(json.loads(head))
