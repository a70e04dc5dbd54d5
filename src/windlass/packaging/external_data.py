"""What an ONNX file really holds, read without the onnx library: external data, versions, operator domains.

Called before any ONNX file reaches onnxruntime: by build, session and verify (bytes of a package) and by the capture of
ONNX files (a file on disk). It walks the protobuf itself, so that nothing a parser might skip stays unseen. Must never
open a file by a name that the model gives without having checked it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeAlias

from windlass import errors
from windlass.packaging import manifest

MODEL_FILE = "model.onnx"
MAX_IR = 13
MAX_OPSET = 26
MAX_MODEL_BYTES = (1 << 31) - 1
# Domains whose operators onnxruntime ships; a model may define more as functions of its own.
DOMAINS = frozenset(
    (
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.training",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
    )
)
Buffer: TypeAlias = bytes | memoryview
_MAX_DEPTH = 100
_MAIN_DEPTH = 2
_MAX_FIELDS = 2_000_000
_KEYS = frozenset(("location", "offset", "length", "checksum"))
_NUMBER = re.compile(r"[0-9]{1,18}")
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128}
_BITS |= {16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
_EXTERNAL = 1

# Which fields of each ONNX message hold messages that lead to tensors, operators or versions (onnx.proto).
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 9: "OperatorSet", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
}
# Fields that protobuf would merge when they come twice: a second meaning, so refused.
_ONCE = {("Model", 7), ("Training", 1), ("Training", 2), ("Attribute", 5), ("Attribute", 6), ("Attribute", 22)}
_ONCE |= {("Sparse", 1), ("Sparse", 2)}


class External(NamedTuple):
    """A tensor whose bytes lie in another file: [offset, offset + length). `inner`: no constant of the main graph."""

    tensor: str
    location: str
    offset: int
    length: int
    inner: bool = False


class Contents(NamedTuple):
    """What an ONNX file declares. `opset` is that of the default domain (0: none is named)."""

    ir_version: int
    opset: int
    externals: tuple[External, ...]


class _Walk:
    """What the walk has gathered so far."""

    def __init__(self) -> None:
        self.ir_versions: list[int] = []
        self.opsets: list[tuple[str, int]] = []
        self.used: set[str] = set()
        self.defined: set[str] = set()
        self.externals: list[External] = []
        self.fields = 0


def inspect(data: Buffer) -> Contents:
    """Walk a whole ONNX file; `CorruptPackage` or `Unsupported` says which rule it breaks."""
    view = memoryview(data)
    if not 0 < len(view) <= MAX_MODEL_BYTES:
        _refuse(f"it has {len(view)} bytes: 1 to {MAX_MODEL_BYTES} can be read")
    walk = _Walk()
    stack: list[tuple[str, memoryview, int]] = [("Model", view, 0)]
    while stack:
        kind, message, depth = stack.pop()
        if depth > _MAX_DEPTH:
            _refuse(f"it nests deeper than {_MAX_DEPTH} levels")
        if kind == "Tensor":
            # Model, Graph, Tensor: what lies deeper is in a node's attribute, a function, or sparse.
            _read_tensor(message, walk, inner=depth != _MAIN_DEPTH)
        elif kind == "OperatorSet":
            _read_opset(message, walk)
        else:
            children = _MESSAGES[kind]
            seen: set[int] = set()
            for field, value in _fields(message, walk):
                child = children.get(field)
                if child is not None:
                    if not isinstance(value, memoryview):
                        _refuse(f"a field of a {kind} is malformed")
                    if field in seen and (kind, field) in _ONCE:
                        _refuse(f"a {kind} has a part twice that may be there once")
                    seen.add(field)
                    stack.append((child, value, depth + 1))
                else:
                    _note(kind, field, value, walk)
    return _conclude(walk)


def check(files: Mapping[str, Buffer], main: str = MODEL_FILE, *, packaged: bool = False) -> Contents:
    """Check a package's ONNX file against the package's other files; nothing may be named that is not among them.

    `packaged`: nor may a tensor inside a node or function be external. onnxruntime is given the files in memory, but
    those it opens by name, in whatever folder the process is. Building a package brings them inside.
    """
    if main not in files:
        _refuse(f"the package has no '{main}'")
    contents = inspect(files[main])
    inner = next((one for one in contents.externals if one.inner and packaged), None)
    if inner is not None:
        _refuse(f"its external tensor {inner.tensor[:64]!r} is inside a node: only a constant of the graph may be")
    _check_ranges(contents.externals, {name: memoryview(data).nbytes for name, data in files.items() if name != main})
    unused = set(files) - {main} - {external.location for external in contents.externals}
    if unused:
        _refuse(f"the package has the file {sorted(unused)[0]!r}, which the model does not use")
    return contents


def read_files(path: Path) -> dict[str, bytes]:
    """An ONNX file from disk as `model.onnx`, with the external data beside it under the names that it uses.

    Each is opened below the file's folder without following a link, and must be a regular file with a single name.
    """
    files = {MODEL_FILE: path.read_bytes()}
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for location in sorted({external.location for external in inspect(files[MODEL_FILE]).externals}):
            if location in (MODEL_FILE, path.name):
                _refuse("it names a model file as its external data")
            files[location] = _read_beside(folder, location)
    finally:
        os.close(folder)
    check(files)
    return files


def _read_beside(folder: int, location: str) -> bytes:
    *parents, last = location.split("/")
    opened: list[int] = []
    try:
        at = folder
        for parent in parents:
            at = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            opened.append(at)
        fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=at)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                _refuse(f"its external data {location!r} is no regular file")
            if status.st_nlink != 1:
                _refuse(f"its external data {location!r} is a hard link: it has another name elsewhere")
            return file.read()
    except FileNotFoundError:
        _refuse(f"its external data {location!r} is not beside it")
    except OSError:
        _refuse(f"its external data {location!r} is a link or cannot be read")
    finally:
        for fd in opened:
            os.close(fd)


def _note(kind: str, field: int, value: int | memoryview, walk: _Walk) -> None:
    """Keep the few plain fields that matter: the IR version, operator domains, the domains of functions."""
    if kind == "Model" and field == 1:
        if not isinstance(value, int):
            _refuse("its IR version is malformed")
        walk.ir_versions.append(value)
    elif (kind, field) in (("Node", 7), ("Function", 10)):
        (walk.used if kind == "Node" else walk.defined).add(_text(value))


def _conclude(walk: _Walk) -> Contents:
    if len(walk.ir_versions) != 1:
        _refuse("it does not say its IR version once: it is no ONNX file")
    ir_version = walk.ir_versions[0]
    opsets = [version for domain, version in walk.opsets if domain in ("", "ai.onnx")]
    opset = max(opsets, default=0)
    if ir_version > MAX_IR or opset > MAX_OPSET:
        raise errors.Unsupported(
            f"The ONNX file is of IR version {ir_version} and opset {opset}: "
            f"at most {MAX_IR} and {MAX_OPSET} can be run.",
            hint="Export it again with opset 20.",
        )
    foreign = sorted((walk.used | {domain for domain, _ in walk.opsets}) - DOMAINS - walk.defined)
    # A domain that is only declared and never used does no harm, and exporters leave such lines behind.
    foreign = [domain for domain in foreign if domain in walk.used]
    if foreign:
        raise errors.Unsupported(
            f"The ONNX file uses operators of {foreign[0][:80]!r}, which onnxruntime does not ship.",
            hint="Custom operators are native code and are not loaded: export the model without them.",
        )
    return Contents(ir_version, opset, tuple(walk.externals))


def _read_opset(message: memoryview, walk: _Walk) -> None:
    domain, version = "", 0
    for field, value in _fields(message, walk):
        if field == 1:
            domain = _text(value)
        elif field == 2:
            if not isinstance(value, int):
                _refuse("an opset is malformed")
            version = value
    walk.opsets.append((domain, version))


def _read_tensor(message: memoryview, walk: _Walk, *, inner: bool) -> None:
    name, inline = "", False
    dims: list[int] = []
    kinds: list[int] = []
    locations: list[int | memoryview] = []
    entries: list[tuple[str, str]] = []
    for field, value in _fields(message, walk):
        if field == 1:
            dims.extend([value] if isinstance(value, int) else _varints(value))
        elif field == 2 and isinstance(value, int):
            kinds.append(value)
        elif field == 8:
            name = _text(value)
        elif field == 13:
            entries.append(_entry(value, walk))
        elif field == 14:
            locations.append(value)
        elif field in (4, 5, 6, 7, 9, 10, 11):
            inline = True
    if not entries and locations in ([], [0]):
        return
    if locations != [_EXTERNAL] or len(kinds) != 1 or inline:
        _refuse(f"its tensor {name[:64]!r} is neither inline nor external")
    walk.externals.append(_external(name, entries, kinds[0], dims)._replace(inner=inner))


def _external(name: str, entries: list[tuple[str, str]], kind: int, dims: list[int]) -> External:
    where = f"its external tensor {name[:64]!r}"
    values = dict(entries)
    if len(values) != len(entries):
        _refuse(f"{where} has a key twice")
    unknown = sorted(set(values) - _KEYS)
    if unknown:
        _refuse(f"{where} has the unknown key {unknown[0][:64]!r}")
    location = values.get("location", "")
    try:
        manifest.check_file_name(location)
    except errors.CorruptPackage:
        _refuse(f"{where} is in {location[:80]!r}, which is not a plain relative path")
    if kind not in _BITS:
        _refuse(f"{where} has the element type {kind}, which has no external form")
    size = size_of(dims, kind)
    offset = _number(where, values.get("offset", "0"))
    if size < 0 or _number(where, values.get("length", str(size))) != size:
        _refuse(f"{where} has a length that is not the size of its shape")
    return External(name, location, offset, size)


def size_of(dims: list[int], kind: int) -> int:
    """Bytes of a tensor; -1 if a dimension is negative or they are more than any file holds."""
    count = 1
    for dim in dims:
        count *= dim
        # A negative dimension is a huge one here: varints are read without a sign.
        if not 0 <= dim < 1 << 62 or count >= 1 << 62:
            return -1
    return (count * _BITS[kind] + 7) // 8


def _number(where: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        _refuse(f"{where} has an offset or length that is no number")
    return int(text)


def _check_ranges(externals: tuple[External, ...], sizes: Mapping[str, int]) -> None:
    ends: dict[str, int] = {}
    for external in sorted(externals, key=lambda e: (e.location, e.offset, e.length)):
        where = f"its external tensor {external.tensor[:64]!r}"
        if external.location not in sizes:
            _refuse(f"{where} is in {external.location[:80]!r}, which is not one of the package's files")
        if external.offset + external.length > sizes[external.location]:
            _refuse(f"{where} reaches beyond the end of {external.location!r}")
        if external.length and external.offset < ends.get(external.location, 0):
            _refuse(f"{where} overlaps another one")
        ends[external.location] = max(ends.get(external.location, 0), external.offset + external.length)


def _entry(value: int | memoryview, walk: _Walk) -> tuple[str, str]:
    if not isinstance(value, memoryview):
        _refuse("an entry of external data is malformed")
    fields = [(field, _text(text)) for field, text in _fields(value, walk)]
    if [field for field, _ in fields] != [1, 2]:
        _refuse("an entry of external data is not one key and one value")
    return fields[0][1], fields[1][1]


def _text(value: int | memoryview) -> str:
    if not isinstance(value, memoryview):
        _refuse("a text is malformed")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        _refuse("a text is not UTF-8")


def _fields(message: memoryview, walk: _Walk) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message but its floats: the number, and an integer or the bytes."""
    position, end = 0, len(message)
    while position < end:
        walk.fields += 1
        if walk.fields > _MAX_FIELDS:
            _refuse(f"it has more than {_MAX_FIELDS} fields")
        key, position = _varint(message, position)
        field, wire = key >> 3, key & 7
        value: int | memoryview | None
        if wire == 0:
            value, position = _varint(message, position)
        elif wire == 2:
            length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        elif wire in (1, 5):
            # Floats: no field that is read here is one, and a parser takes such a twin of it for an unknown field.
            value, position = None, position + (8 if wire == 1 else 4)
        else:
            _refuse("it is no protobuf")
        # A parser may keep only 32 bits of the key, and so see another field.
        if field == 0 or key >= 1 << 32 or position > end:
            _refuse("it is no protobuf, or it is cut off")
        if value is not None:
            yield field, value


def _varints(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            _refuse("it is no protobuf, or it is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7


def _refuse(why: str) -> NoReturn:
    raise errors.CorruptPackage(f"The ONNX file is refused: {why}.")
