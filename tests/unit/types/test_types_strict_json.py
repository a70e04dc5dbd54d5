"""types/strict_json.py: one reading of a document, and one spelling of a value."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.types import strict_json

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    x: int
    y: float = 0.0


def depth_byte_by_byte(data: bytes) -> int:
    """The plain definition, against which the fast one is compared."""
    depth = deepest = 0
    inside = escaped = False
    for byte in data:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


@given(st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"a", b"\n", b"\xc3\xa9"]), max_size=60))
def test_depth_is_that_of_the_plain_definition(parts: list[bytes]) -> None:
    data = b"".join(parts)
    deepest = depth_byte_by_byte(data)
    assert strict_json.depth_within(data, deepest)
    assert deepest == 0 or not strict_json.depth_within(data, deepest - 1)


@pytest.mark.threat("V8")
@pytest.mark.parametrize("levels", [31, 32, 33])
def test_depth_at_its_limit(levels: int) -> None:
    data = b"[" * levels + b"]" * levels
    if levels <= strict_json.MAX_DEPTH:
        assert strict_json.loads(data, what="it") is not None
    else:
        with pytest.raises(errors.InvalidInput, match="it nests deeper than 32 levels"):
            strict_json.loads(data, what="it")


@pytest.mark.threat("V8")
@pytest.mark.parametrize("size", [9, 10, 11])
def test_size_at_its_limit(size: int) -> None:
    data = b'"' + b"x" * (size - 2) + b'"'
    if size <= 10:
        assert len(strict_json.loads(data, what="it", max_bytes=10)) == size - 2
    else:
        with pytest.raises(errors.InvalidInput, match="it has 11 bytes: at most 10 are read"):
            strict_json.loads(data, what="it", max_bytes=10)


@pytest.mark.threat("F9")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":1,"a":1}', "same key twice"),
        (b'{"a":{"b":1,"\\u0062":2}}', "same key twice"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"1e999", "1e999 is larger than any number here"),
        (b"\xff", "is not UTF-8"),
        (b'"\\ud800"', "is not UTF-8"),
        (b'{"\\udc00":1}', "is not UTF-8"),
        (b"\xef\xbb\xbf1", "not valid JSON"),
        (b"1 2", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b"'a'", "not valid JSON"),
        (b'"\x00"', "not valid JSON"),
        (b"9" * 5000, "not valid JSON"),
    ],
)
def test_what_has_two_meanings_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=message):
        strict_json.loads(data, what="it")


def test_a_whole_surrogate_pair_is_one_character() -> None:
    assert strict_json.loads(b'"\\ud83d\\ude00"', what="it") == "\U0001f600"


@given(JSON_VALUES)
def test_canonical_is_read_back_and_stays(value: Any) -> None:
    data = strict_json.canonical(value)
    assert strict_json.loads(data, what="it") == value
    assert strict_json.canonical(strict_json.loads(data, what="it")) == data


@given(st.binary(max_size=200))
def test_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = strict_json.loads(data, what="it")
    except errors.InvalidInput:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, "\ud800"])
def test_canonical_writes_only_what_can_be_read(value: Any) -> None:
    with pytest.raises(errors.InvalidInput):
        strict_json.canonical(value)


def test_canonical_does_not_depend_on_order() -> None:
    assert strict_json.canonical({"b": 1, "a": [1, 2]}) == b'{"a":[1,2],"b":1}'
    assert strict_json.canonical({"a": [1, 2], "b": 1}) == b'{"a":[1,2],"b":1}'


@pytest.mark.threat("F9")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"x":1,"z":2}', "unknown field `z`"),
        (b"{}", "missing required field `x`"),
        (b'{"x":"1"}', "Expected `int`"),
        (b"[]", "Expected `object`"),
        (b'{"x":1,"\\u001b[2J":2}', r"unknown field `\\x1b\[2J`"),
    ],
)
def test_decode_takes_exactly_the_struct(data: bytes, message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=message):
        strict_json.decode(data, Point, what="the point")


def test_decode_makes_the_struct() -> None:
    assert strict_json.decode(b'{"x":1,"y":2}', Point, what="the point") == Point(1, 2.0)


class Spelled(msgspec.Struct, frozen=True, omit_defaults=True):
    text: str = "fp32"
    count: int = 16_777_216
    share: float = 0.5
    names: tuple[str, ...] = ()
    more: dict[str, int] = {}


def test_equal_values_are_spelled_the_same_whichever_object_they_are() -> None:
    # Made anew, so that none of them is the very object that the default is.
    made = Spelled("".join(["fp", "32"]), int("16777216"), float("0.5"))
    assert made.text is not Spelled().text
    assert strict_json.canonical(made) == strict_json.canonical(Spelled()) == b"{}"
    assert strict_json.canonical({"a": [made, Spelled("fp16")]}) == b'{"a":[{},{"text":"fp16"}]}'
    assert strict_json.canonical(Spelled(count=True)) == b'{"count":true}'
