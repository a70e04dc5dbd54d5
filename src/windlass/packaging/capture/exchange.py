"""Capture's question and answer as data in a folder: how a confined child is told the options and hands back a draft.

Written and read by `sandboxed.py` (the parent, which trusts nothing it reads) and `sandboxed_child.py`. A JSON file
holds the structure and names every other file by number and size; those hold model files as they are and tensors in
the form of `types/tensor_codec.py`. Must never unpickle, follow a link, or believe a size.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base
from windlass.security import sandbox
from windlass.types import manifest, signature, strict_json, tensor, tensor_codec

_INDEX = "index.json"
_MAX_FILES = 5000
_MAX_NAME = 255
T = TypeVar("T")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int
    size: int


class _Transform(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    parameters: dict[str, Any]
    files: dict[str, _File]


class _Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    inputs: _File
    outputs: _File


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    example: _File | None
    text: tuple[str, ...]
    labels: tuple[str, ...]
    transforms: tuple[_Transform, ...]
    dynamic: dict[str, dict[str, str]]
    batched: bool
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    max_batch: int
    seed: int
    runtime: str


class _Draft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: dict[str, _File]
    signature: signature.Signature
    trials: tuple[_Trial, ...]
    framework: str
    runtime: str
    transforms: tuple[_Transform, ...]
    labels: tuple[str, ...]
    max_batch: int
    synthetic: bool
    trees: bool
    rtol: float
    atol: float
    precision: str
    lineage: manifest.Lineage
    notes: tuple[str, ...]


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error of the tree in `errors.py`, as data."""

    code: str
    message: str
    hint: str = ""


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    draft: _Draft | None = None
    failure: Failure | None = None


class _Writer:
    """Puts bytes into numbered files of a fresh folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._next = 0

    def put(self, data: bytes) -> _File:
        entry = _File(self._next, len(data))
        (self._folder / str(entry.number)).write_bytes(data)
        self._next += 1
        return entry

    def transforms(self, transforms: tuple[draft.TransformDraft, ...]) -> tuple[_Transform, ...]:
        return tuple(
            _Transform(t.kind, dict(t.parameters), {name: self.put(data) for name, data in t.files.items()})
            for t in transforms
        )

    def finish(self, index: msgspec.Struct) -> None:
        # Renamed last: an index that is there is whole.
        partial = self._folder / f"{_INDEX}.partial"
        partial.write_bytes(strict_json.canonical(index))
        partial.rename(self._folder / _INDEX)


class _Reader:
    """Takes bytes out of numbered files, each a plain file of the size that the index says, `max_bytes` in all."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        try:
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            raise errors.CorruptPackage("the child left no answer") from None
        self._left = max_bytes
        self._files_left = _MAX_FILES

    def close(self) -> None:
        os.close(self._folder)

    def index(self, kind: type[T]) -> T:
        try:
            return strict_json.decode(self._read(_INDEX, None), kind, what="the child's answer")
        except errors.InvalidInput as e:
            raise errors.CorruptPackage(sandbox.plain_text(e.message)) from None

    def get(self, entry: _File) -> bytes:
        self._files_left -= 1
        if entry.number < 0 or self._files_left < 0:
            raise errors.CorruptPackage("the child's answer names too many files")
        return self._read(str(entry.number), entry.size)

    def tensors(self, entry: _File) -> tensor.Tensors:
        return tensor_codec.unpack(self.get(entry))

    def named(self, files: Mapping[str, _File]) -> dict[str, bytes]:
        for name in files:
            if not plain_name(name):
                raise errors.CorruptPackage("the child's answer names a file that is no plain file name")
        return {name: self.get(entry) for name, entry in files.items()}

    def transforms(self, transforms: tuple[_Transform, ...]) -> tuple[draft.TransformDraft, ...]:
        return tuple(draft.TransformDraft(t.kind, t.parameters, self.named(t.files)) for t in transforms)

    def _read(self, name: str, size: int | None) -> bytes:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(name, flags, dir_fd=self._folder)
        except OSError:
            raise errors.CorruptPackage("the child's answer lacks a file") from None
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            os.close(handle)
            raise errors.CorruptPackage("the child's answer holds something that is no plain file")
        self._left -= facts.st_size
        with os.fdopen(handle, "rb") as file:
            if self._left < 0:
                raise errors.CorruptPackage("the child's answer is larger than allowed")
            data = file.read(facts.st_size)
        if len(data) != (facts.st_size if size is None else size):
            raise errors.CorruptPackage("a file of the child's answer has another size than it says")
        return data


def plain_name(name: str) -> bool:
    """Whether a model file's name is just a name: it will lie beside the others, never elsewhere."""
    return 0 < len(name.encode()) <= _MAX_NAME and name not in (".", "..") and name.isprintable() and "/" not in name


def write_options(folder: Path, options: base.Options) -> None:
    """The question. Text in the example stays text: a scikit-learn encoder knows `"a"` but not `b"a"`."""
    example = options.example
    texts = tuple(name for name, array in (example or {}).items() if _is_text(name, array))
    writer = _Writer(folder)
    writer.finish(
        _Options(
            example=None if example is None else writer.put(tensor_codec.pack(example)),
            text=texts,
            labels=options.labels,
            transforms=writer.transforms(options.transforms),
            dynamic={name: {str(axis): d for axis, d in axes.items()} for name, axes in options.dynamic.items()},
            batched=options.batched,
            input_names=options.input_names,
            output_names=options.output_names,
            max_batch=options.max_batch,
            seed=options.seed,
            runtime=options.runtime,
        )
    )


def read_options(folder: Path, max_bytes: int) -> base.Options:
    """The question, in the child."""
    reader = _Reader(folder, max_bytes)
    try:
        asked = reader.index(_Options)
        example = None if asked.example is None else reader.tensors(asked.example)
        for name in asked.text:
            if example is not None:
                example[name] = np.asarray(np.frompyfunc(bytes.decode, 1, 1)(example[name]), dtype=object)
        return base.Options(
            example=example,
            labels=asked.labels,
            transforms=reader.transforms(asked.transforms),
            dynamic={name: {int(axis): d for axis, d in axes.items()} for name, axes in asked.dynamic.items()},
            batched=asked.batched,
            input_names=asked.input_names,
            output_names=asked.output_names,
            max_batch=asked.max_batch,
            seed=asked.seed,
            runtime=asked.runtime,
        )
    finally:
        reader.close()


def write_answer(folder: Path, answer: draft.Draft | Failure) -> None:
    """The answer, in the child."""
    writer = _Writer(folder)
    if isinstance(answer, Failure):
        writer.finish(_Answer(failure=answer))
        return
    trials = tuple(
        _Trial(t.name, writer.put(tensor_codec.pack(t.inputs)), writer.put(tensor_codec.pack(t.outputs)))
        for t in answer.trials
    )
    files = {name: writer.put(bytes(data)) for name, data in answer.files.items()}
    transforms = writer.transforms(answer.transforms)
    same = {name: getattr(answer, name) for name in _Draft.__struct_fields__ if name not in _OWN}
    writer.finish(_Answer(draft=_Draft(files=files, trials=trials, transforms=transforms, **same)))


# What is written as files; everything else goes into the index as it is.
_OWN = ("files", "trials", "transforms")


def read_answer(folder: Path, max_bytes: int) -> draft.Draft | Failure:
    """The answer, in the parent. `CorruptPackage` on anything that is not exactly as it should be."""
    reader = _Reader(folder, max_bytes)
    try:
        answer = reader.index(_Answer)
        if answer.failure is not None:
            return answer.failure
        if answer.draft is None:
            raise errors.CorruptPackage("the child's answer is empty")
        said = answer.draft
        trials = tuple(draft.Trial(t.name, reader.tensors(t.inputs), reader.tensors(t.outputs)) for t in said.trials)
        files = reader.named(said.files)
        transforms = reader.transforms(said.transforms)
        same = {name: getattr(said, name) for name in _Draft.__struct_fields__ if name not in _OWN}
        return draft.Draft(files=files, trials=trials, transforms=transforms, **same)
    finally:
        reader.close()


def _is_text(name: str, array: tensor.Array) -> bool:
    """True for text, False for numbers and bytes; `InvalidInput` for a mixture, which has no raw form."""
    if array.dtype.kind != "O":
        return array.dtype.kind == "U"
    kinds = {type(item) for item in array.flat}
    if not kinds <= {str, bytes} or len(kinds) > 1:
        raise errors.InvalidInput(
            f"example '{name}' mixes {', '.join(sorted(kind.__name__ for kind in kinds))}.",
            hint="Give each column of one type as an input of its own.",
        )
    return kinds == {str}
