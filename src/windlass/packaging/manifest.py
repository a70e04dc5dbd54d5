"""The manifest as bytes: its one spelling, its digest, and the strict reading of one that somebody else wrote.

Called by build (to write), archive and the registry (to read). Must never repair or guess: a manifest that breaks a
rule, or is spelled in any other way than `encode` spells it, is refused whole.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import msgspec

from windlass import errors
from windlass.types import manifest, refs, signature, strict_json, tensor

MAX_BYTES = 4_194_304
MAX_BLOBS = 10_000
MAX_TENSORS = 1_024
MAX_FIELDS = 65_536
MAX_TEXT = 65_536
MAX_BLOB_BYTES = 1 << 44
MAX_BATCH = 65_536
MAX_REQUEST = 1 << 31
MAX_DECIBELS = 1_000
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_RESERVED = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{n}" for n in range(1, 10)), *(f"lpt{n}" for n in range(1, 10))]
)


def encode(value: manifest.Manifest) -> bytes:
    """The canonical bytes of a manifest: sorted keys, no spaces, defaults left out but for `format_version`."""
    plain = strict_json.plain(value)
    plain["format_version"] = value.format_version
    return strict_json.canonical(plain)


def digest(value: manifest.Manifest) -> str:
    """The identity of a package: `sha256:` and the SHA-256 of its canonical manifest."""
    return f"sha256:{hashlib.sha256(encode(value)).hexdigest()}"


def decode(data: bytes | memoryview) -> manifest.Manifest:
    """Read a manifest strictly. `Unsupported` for another format version, `CorruptPackage` for anything else wrong."""
    raw = bytes(data)
    try:
        plain = strict_json.loads(raw, what="the manifest", max_bytes=MAX_BYTES)
        _check_version(plain)
        value = strict_json.convert(plain, manifest.Manifest, what="the manifest")
        check(value)
        if encode(value) != raw:
            raise errors.CorruptPackage("the manifest is not in its canonical spelling, so its digest means nothing")
        return value
    except errors.InvalidInput as e:
        raise errors.CorruptPackage(e.message) from None


def check(value: manifest.Manifest) -> None:
    """The rules that types cannot say; `CorruptPackage` or `InvalidInput` names the field that breaks one."""
    refs.check_name(value.name)
    if value.kind != "model":
        raise errors.Unsupported(f"packages of the kind '{value.kind}' are not read by this version of Windlass")
    if value.format_version != manifest.FORMAT_VERSION:
        _refuse("format_version", f"is {value.format_version}, this Windlass writes {manifest.FORMAT_VERSION}")
    _check_signature(value.signature, value.limits)
    _check_blobs(value)
    _check_model(value.model)
    for position, transform in enumerate(value.transforms):
        if not _KIND.fullmatch(transform.kind):
            _refuse(f"transforms[{position}].kind", "is no name of a transform")
    _check_fields(value)
    _check_number("golden.rtol", value.golden.rtol, 0, 1)
    _check_number("golden.atol", value.golden.atol, 0, 1)
    if value.sample is not None:
        _check_number("sample.least", value.sample.least, -MAX_DECIBELS, MAX_DECIBELS)
    _check_number("limits.max_batch", value.limits.max_batch, 1, MAX_BATCH)
    _check_number("limits.max_elements", value.limits.max_elements, 1, MAX_REQUEST)
    _check_number("limits.max_body", value.limits.max_body, 1, MAX_REQUEST)
    _check_texts(value)


def check_file_name(name: str) -> None:
    """`CorruptPackage` unless this is a plain relative POSIX path that means the same on every system."""
    parts = name.split("/")
    wrong = (
        not 0 < len(name) <= 255
        or unicodedata.normalize("NFC", name) != name
        or any(unicodedata.category(c)[0] == "C" or c in '\\:*?"<>|' for c in name)
        or any(part in ("", ".", "..") or part[-1] in ". " or part[0] == " " for part in parts)
        or any(part.split(".")[0].rstrip(" ").casefold() in _RESERVED for part in parts)
    )
    if wrong:
        raise errors.CorruptPackage(f"the file name {name[:80]!r} is not a plain relative path")


def _check_version(plain: Any) -> None:
    version = plain.get("format_version") if isinstance(plain, dict) else None
    if type(version) is not int:
        raise errors.CorruptPackage("the manifest has no format_version: it is no Windlass manifest")
    if version != manifest.FORMAT_VERSION:
        raise errors.Unsupported(
            f"This package is written in format {version}; this Windlass reads format {manifest.FORMAT_VERSION}.",
            hint="Upgrade Windlass to read it." if version > manifest.FORMAT_VERSION else "Package the model again.",
        )


def _check_signature(value: signature.Signature, limits: manifest.Limits) -> None:
    for side, specs in (("inputs", value.inputs), ("outputs", value.outputs)):
        if not 1 <= len(specs) <= MAX_TENSORS:
            _refuse(f"signature.{side}", f"has {len(specs)} tensors: 1 to {MAX_TENSORS} are allowed")
        _check_unique(f"signature.{side}", [spec.name for spec in specs])
        for spec in specs:
            _check_tensor(f"signature.{side} {spec.name[:64]!r}", spec, limits)
    names = {spec.name for spec in value.inputs}
    used = {d for spec in value.inputs + value.outputs for d in spec.shape if isinstance(d, str)}
    for name, dimension in value.dimensions.items():
        where = f"signature.dimensions {name[:64]!r}"
        if name not in used:
            _refuse(where, "is in no tensor's shape")
        _check_number(f"{where}.minimum", dimension.minimum, 0, MAX_REQUEST)
        if dimension.maximum is not None:
            _check_number(f"{where}.maximum", dimension.maximum, dimension.minimum, MAX_REQUEST)
        if dimension.mask and dimension.mask not in names:
            _refuse(f"{where}.mask", "names no input")


def _check_tensor(where: str, spec: signature.TensorSpec, limits: manifest.Limits) -> None:
    if not 0 < len(spec.name) <= 256 or not spec.name.isprintable():
        _refuse(where, "has a name that is empty, too long or not printable")
    tensor.dtype(spec.datatype)
    if len(spec.shape) > tensor.MAX_RANK:
        _refuse(where, f"has {len(spec.shape)} dimensions: at most {tensor.MAX_RANK} are allowed")
    for size in spec.shape:
        if isinstance(size, str):
            if not 0 < len(size) <= 128 or not size.isprintable():
                _refuse(where, "has a dimension whose name is empty, too long or not printable")
        else:
            _check_number(f"{where}.shape", size, 1, MAX_REQUEST)
    fixed = math.prod(size for size in spec.shape if isinstance(size, int))
    if fixed > max(limits.max_elements, 1) and where.startswith("signature.inputs"):
        _refuse(where, f"holds {fixed} elements: limits.max_elements is {limits.max_elements}")
    if fixed > MAX_REQUEST:
        _refuse(where, f"holds {fixed} elements: at most {MAX_REQUEST} are allowed")
    low, high = spec.minimum, spec.maximum
    if low is not None and high is not None and low > high:
        _refuse(where, f"has the minimum {low} above its maximum {high}")
    _check_unique(f"{where}.categories", spec.categories)


def _check_blobs(value: manifest.Manifest) -> None:
    every: list[manifest.BlobRef] = [value.golden.inputs, value.golden.outputs]
    if value.sample is not None:
        every += [value.sample.inputs, value.sample.answers]
    groups: list[tuple[str, Mapping[str, manifest.BlobRef]]] = [("model.blobs", value.model.blobs)]
    groups += [(f"transforms[{i}].blobs", t.blobs) for i, t in enumerate(value.transforms)]
    for where, blobs in groups:
        for name in blobs:
            check_file_name(name)
        _check_unique(where, [name.casefold() for name in blobs])
        every.extend(blobs.values())
    if len(every) > MAX_BLOBS:
        _refuse("blobs", f"are {len(every)}: at most {MAX_BLOBS} are allowed")
    sizes: dict[str, int] = {}
    for ref in every:
        if not refs.DIGEST.fullmatch(ref.digest):
            _refuse("blobs", f"has {ref.digest[:80]!r}, which is no digest")
        _check_number(f"blobs {ref.digest}.size", ref.size, 0, MAX_BLOB_BYTES)
        if sizes.setdefault(ref.digest, ref.size) != ref.size:
            _refuse("blobs", f"gives {ref.digest} two sizes")


def _check_model(value: manifest.ModelSpec) -> None:
    if not _KIND.fullmatch(value.runtime):
        _refuse("model.runtime", "is no name of a runtime")
    if not value.blobs:
        _refuse("model.blobs", "is empty: a model has at least one file")
    _check_number("model.ir_version", value.ir_version, 0, 1_000)
    _check_number("model.opset", value.opset, 0, 1_000)


def _check_fields(value: manifest.Manifest) -> None:
    if len(value.fields) > MAX_FIELDS:
        _refuse("fields", f"are {len(value.fields)}: at most {MAX_FIELDS} are allowed")
    _check_unique("fields", [field.name for field in value.fields])
    for field in value.fields:
        _check_unique(f"fields {field.name[:64]!r}.categories", field.categories)
    _check_unique("media", value.media)


def _check_texts(value: manifest.Manifest) -> None:
    for where, digests in (("lineage.data", value.lineage.data), ("lineage.parent", (value.lineage.parent,))):
        for text in digests:
            if text and not refs.DIGEST.fullmatch(text):
                _refuse(where, f"has {text[:80]!r}, which is no digest")
    texts = [*msgspec.structs.astuple(value.card), value.model.precision, value.model.needs_isa, *value.labels]
    texts += [value.lineage.recipe, "" if value.sample is None else value.sample.isa]
    if any(len(text) > MAX_TEXT for text in texts):
        _refuse("a text", f"has more than {MAX_TEXT} characters")


def _check_unique(where: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _refuse(where, f"has {name[:64]!r} twice")
        seen.add(name)


def _check_number(where: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        _refuse(where, f"is {value}: {low} to {high} is allowed")


def _refuse(where: str, what: str) -> NoReturn:
    raise errors.CorruptPackage(f"the manifest's {where} {what}")
