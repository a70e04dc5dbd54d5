"""Tensors as JSON arrays: strict numbers in, flat or nested, and numbers out.

Called by every protocol that speaks JSON. The declared datatype chooses a typed decoder and the declared (or the
contract's) rank its depth, so that nothing is ever guessed: "3" is no number, true is no 1, 1.5 is no INT64.
Must never allocate for what a shape only claims: counts are checked against limits and against the bytes at hand.
"""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
import orjson
import simdjson

from windlass import errors
from windlass.types import tensor

Json: TypeAlias = bytes | msgspec.Raw
MAX_RANK = 32
UNPACKED = (struct.error, OverflowError)
MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# The struct module packs a list of Python numbers faster than numpy converts it, and refuses what is out of range.
_CODES = {
    "BOOL": "b",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
# What simdjson reads into one buffer: long arrays of numbers take half the time, and a tenth of the memory.
_BUFFERS: dict[str, tuple[Literal["d", "i", "u"], type[Any]]] = {
    **dict.fromkeys(("FP16", "FP32", "FP64"), ("d", np.float64)),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32", "INT8", "INT16", "INT32", "INT64"), ("i", np.int64)),
    "UINT64": ("u", np.uint64),
}
_COMMA = ord(",")
_OF_NUMBERS = b"0123456789+-.eE \t\r\n"
_LONG = 256
# Above this many elements or bytes, what will be refused is refused before it is read as Python objects.
HUGE = 65_536


class _Plan(NamedTuple):
    """How to read one datatype and shape."""

    size: int
    dtype: np.dtype[Any]
    decode: Callable[[Json], Any]
    pack: Callable[..., bytes] | None
    long: bool


def value_type(datatype: str, depth: int) -> Any:
    """The type of a datatype's JSON array, at most `depth` lists deep, as msgspec takes it."""
    leaf: Any = float if datatype.startswith("FP") else int
    leaf = {"BOOL": bool, "BYTES": str}.get(datatype, leaf)
    kind: Any = list[leaf]
    for _ in range(depth - 1):
        kind = list[leaf | kind]
    return kind


@functools.lru_cache(maxsize=512)
def _decoder(datatype: str, depth: int) -> Callable[[Json], Any]:
    return msgspec.json.Decoder(value_type(datatype, depth)).decode


@functools.lru_cache(maxsize=1024)
def _plan(datatype: str, shape: tuple[int, ...]) -> _Plan:
    dtype = tensor.dtype(datatype)
    if len(shape) > MAX_RANK:
        raise errors.InvalidInput(f"a shape has {len(shape)} dimensions: at most {MAX_RANK} are read")
    count = tensor.element_count(shape, 1 << 40)
    code = _CODES.get(datatype, "")
    return _Plan(
        count,
        dtype,
        _decoder(datatype, max(len(shape), 1)),
        struct.Struct(f"={count}{code}").pack if code else None,
        count >= _LONG and datatype in _BUFFERS,
    )


def decode(data: Json, datatype: str, shape: tuple[int, ...], name: str, max_elements: int) -> tensor.Array:
    """The tensor `name` of a declared shape from its JSON array, flat or nested. `InvalidInput` names the tensor."""
    plan = _plan(datatype, shape)
    if plan.size > max_elements:
        raise _too_many(name, max_elements)
    text = bytes(data)
    if len(text) > HUGE and _commas_exceed(text, datatype, plan.size):
        raise errors.InvalidInput(f"tensor '{name[:64]}' has more values than its shape {list(shape)} holds")
    if plan.long:
        array = _decode_long(text, datatype, shape, name, plan)
        if array is not None:
            return array
    try:
        values = plan.decode(text)
    except MALFORMED as e:
        raise _malformed(name, datatype, e) from None
    return pack(values, datatype, shape, name, max_elements)


def pack(values: list[Any], datatype: str, shape: tuple[int, ...], name: str, max_elements: int) -> tensor.Array:
    """The tensor `name` of a declared shape from Python values, flat or nested, that are of the datatype's type."""
    # Unpacked at once: this runs for every tensor of every short request.
    size, dtype, _, packed, _ = _plan(datatype, shape)
    if size > max_elements:
        raise _too_many(name, max_elements)
    if values and type(values[0]) is list:
        values = _flatten(values, shape, name)
    if packed is None:
        return _texts(values, shape, name, size)
    try:
        return np.ndarray(shape, dtype, packed(*values))
    except UNPACKED:
        raise _unpacked(values, datatype, shape, name, size) from None


def flat_reader(datatype: str, shape: tuple[int, ...]) -> Callable[[bytes], tensor.Array]:
    """A reader of flat JSON arrays of numbers, for one shape again and again.

    It raises what msgspec and struct raise: who calls it has the careful reading to turn to.
    """
    decode_flat = _decoder(datatype, 1)
    _, dtype, _, packed, _ = _plan(datatype, shape)
    if packed is None:
        raise errors.InvalidInput(f"{datatype} is no number")

    def read(data: bytes) -> tensor.Array:
        return np.ndarray(shape, dtype, packed(*decode_flat(data)))

    return read


def decode_rank(data: Json, datatype: str, rank: int, name: str, max_elements: int) -> tensor.Array:
    """The tensor `name` from a nested JSON array of `rank` levels; its shape is what the nesting shows."""
    if rank < 1 or rank > MAX_RANK:
        raise errors.InvalidInput(f"tensor '{name[:64]}' of rank {rank} cannot be read from nested arrays")
    text = bytes(data)
    if len(text) > HUGE:
        if _commas_exceed(text, datatype, max_elements):
            raise _too_many(name, max_elements)
        if datatype in _BUFFERS:
            return _decode_huge(text, datatype, rank, name, max_elements)
    try:
        values = _decoder(datatype, rank)(text)
    except MALFORMED as e:
        raise _malformed(name, datatype, e) from None
    return pack_rank(values, datatype, rank, name, max_elements)


def pack_rank(values: list[Any], datatype: str, rank: int, name: str, max_elements: int) -> tensor.Array:
    """The tensor `name` from Python values nested `rank` levels deep."""
    return pack(values, datatype, _shape(values, rank, name, max_elements), name, max_elements)


def encode(array: tensor.Array, name: str) -> bytes:
    """A tensor as a JSON array nested as its shape. NaN and infinities, which JSON does not have, become null."""
    try:
        return orjson.dumps(array, None, orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        # Text, or an array that does not lie in one piece.
        return orjson.dumps(_strings(array, name).tolist() if array.dtype.kind in "OSU" else array.tolist())


def encode_flat(array: tensor.Array, name: str) -> bytes:
    """A tensor as one flat JSON array, row by row."""
    return encode(array.ravel(), name)


def _strings(array: tensor.Array, name: str) -> tensor.Array:
    result = np.empty(array.shape, dtype=object)
    try:
        result.reshape(-1)[:] = [v if isinstance(v, str) else bytes(v).decode() for v in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise errors.InvalidInput(
            f"the output '{name}' holds bytes that are not UTF-8 text, which JSON cannot carry",
            hint="Ask for it as binary data.",
        ) from None
    return result


def _texts(values: list[Any], shape: tuple[int, ...], name: str, count: int) -> tensor.Array:
    if len(values) != count:
        raise _miscounted(name, shape, len(values), count)
    array = np.empty(count, dtype=object)
    try:
        array[:] = [value if type(value) is bytes else value.encode() for value in values]
    except AttributeError:
        raise _irregular(name, shape) from None
    return array.reshape(shape)


def _shape(values: Any, rank: int, name: str, max_elements: int) -> tuple[int, ...]:
    """The shape that the first elements of each level show; the others are compared with it later."""
    shape: list[int] = []
    for _ in range(rank):
        if type(values) is not list:
            raise errors.InvalidInput(f"tensor '{name[:64]}' nests {len(shape)} levels deep: {rank} are expected")
        shape.append(len(values))
        if not values:
            break
        values = values[0]
    shape += [0] * (rank - len(shape))
    if math.prod(shape) > max_elements:
        raise _too_many(name, max_elements)
    return tuple(shape)


def _flatten(values: list[Any], shape: tuple[int, ...], name: str) -> list[Any]:
    """The leaves of a nested list whose every level is as long as the shape says."""
    if not shape or len(values) != shape[0]:
        raise _irregular(name, shape)
    for size in shape[1:]:
        try:
            if any(type(row) is not list or len(row) != size for row in values):
                raise _irregular(name, shape)
        except TypeError:
            raise _irregular(name, shape) from None
        values = list(itertools.chain.from_iterable(values))
    return values


def _decode_long(data: bytes, datatype: str, shape: tuple[int, ...], name: str, plan: _Plan) -> tensor.Array | None:
    """Many numbers through one buffer; None where the careful reading must decide (or explain)."""
    if len(data) < 2 * plan.size + 1:
        raise errors.InvalidInput(
            f"tensor '{name[:64]}' claims {plan.size} elements: its data of {len(data)} bytes cannot hold them"
        )
    try:
        flat = _read_buffer(simdjson.Parser().parse(data), datatype, shape, data)
    except (ValueError, TypeError, RuntimeError):
        if plan.size >= HUGE:
            raise _unreadable(name, datatype, shape) from None
        return None
    if flat.size != plan.size:
        raise _miscounted(name, shape, flat.size, plan.size)
    return _narrow(flat, datatype, plan.dtype, name).reshape(shape)


def _decode_huge(data: bytes, datatype: str, rank: int, name: str, max_elements: int) -> tensor.Array:
    """As `decode_rank`, for so many numbers that a list of Python objects would cost too much memory."""
    shape: list[int] = []
    try:
        document = level = simdjson.Parser().parse(data)
        for _ in range(rank):
            if not isinstance(level, simdjson.Array):
                raise TypeError
            shape.append(len(level))
            level = level[0]
        if math.prod(shape) > max_elements:
            raise _too_many(name, max_elements)
        flat = _read_buffer(document, datatype, tuple(shape), data)
    except (ValueError, TypeError, RuntimeError, IndexError):
        raise _unreadable(name, datatype, tuple(shape)) from None
    return _narrow(flat, datatype, tensor.dtype(datatype), name).reshape(shape)


def _read_buffer(document: Any, datatype: str, shape: tuple[int, ...], data: bytes) -> tensor.Array:
    """All numbers in one buffer. It forgets the nesting, so that is compared with what the shape asks for."""
    if not isinstance(document, simdjson.Array):
        raise TypeError
    if data.find(b"[", 1) >= 0:
        skeleton = b""
        for size in reversed(shape):
            # Not joined: that takes eighty bytes for each part.
            skeleton = b"[" + ((skeleton + b",") * size)[:-1] + b"]"
        if data.translate(None, _OF_NUMBERS) != skeleton:
            raise ValueError
    kind, dtype = _BUFFERS[datatype]
    return np.frombuffer(document.as_buffer(of_type=kind), dtype)


def _narrow(flat: tensor.Array, datatype: str, dtype: np.dtype[Any], name: str) -> tensor.Array:
    """float64 or int64 to the datatype; a value that it cannot hold is refused."""
    if flat.dtype == dtype:
        return flat
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            narrowed = flat.astype(dtype)
        # JSON has no infinity, so one that is here now was a number too large.
        if np.isfinite(narrowed).all():
            return narrowed
    else:
        info = np.iinfo(dtype)
        if flat.size == 0 or (flat.min() >= info.min and flat.max() <= info.max):
            return flat.astype(dtype)
    raise errors.InvalidInput(f"tensor '{name[:64]}' has a value that {datatype} cannot hold")


def _commas_exceed(data: bytes, datatype: str, count: int) -> bool:
    """Whether there are more commas than `count` numbers need, flat or nested. Texts may hold commas of their own."""
    # numpy counts six times faster than bytes.count where there is much to count.
    if datatype == "BYTES":
        return False
    commas = int(np.count_nonzero(np.frombuffer(data, np.uint8) == _COMMA))
    return commas > max(count - 1, 0)


def _too_many(name: str, max_elements: int) -> errors.InvalidInput:
    return errors.InvalidInput(f"tensor '{name[:64]}' holds more than the {max_elements} elements allowed in a request")


def _malformed(name: str, datatype: str, error: Exception) -> errors.InvalidInput:
    if isinstance(error, RecursionError):
        return errors.InvalidInput(f"tensor '{name[:64]}' nests too deep")
    if isinstance(error, UnicodeDecodeError):
        return errors.InvalidInput(f"tensor '{name[:64]}' has text that is not UTF-8")
    return errors.InvalidInput(f"tensor '{name[:64]}' is not an array of {datatype} values: {error}")


def _unreadable(name: str, datatype: str, shape: tuple[int, ...]) -> errors.InvalidInput:
    return errors.InvalidInput(
        f"tensor '{name[:64]}' is not an array of {datatype} values, flat or of {len(shape)} even levels"
    )


def _irregular(name: str, shape: tuple[int, ...]) -> errors.InvalidInput:
    return errors.InvalidInput(f"tensor '{name[:64]}' has nested data that is not of shape {list(shape)}")


def _miscounted(name: str, shape: tuple[int, ...], found: int, count: int) -> errors.InvalidInput:
    return errors.InvalidInput(f"tensor '{name[:64]}' has {found} values: shape {list(shape)} needs {count}")


def _unpacked(values: list[Any], datatype: str, shape: tuple[int, ...], name: str, count: int) -> errors.InvalidInput:
    """Why values could not be packed; found out only after it happened."""
    if len(values) != count:
        return _miscounted(name, shape, len(values), count)
    if any(type(value) is list for value in values):
        return _irregular(name, shape)
    one = struct.Struct(f"={_CODES[datatype]}").pack
    for index, value in enumerate(values):
        try:
            one(value)
        except UNPACKED:
            return errors.InvalidInput(
                f"tensor '{name[:64]}' has a value at position {index} that {datatype} cannot hold"
            )
    return _irregular(name, shape)
