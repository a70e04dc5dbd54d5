"""Runs the original model on real rows, every batch size that matters and the edge cases, and writes down the answers.

Called by the capture sources with a function that runs the framework's own model; what it records becomes the draft's
trials, which `packaging/parity.py` replays through the package. Must never look at the exported model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import msgspec
import numpy as np

from windlass import errors
from windlass.packaging import draft, golden
from windlass.packaging.capture import synthetic
from windlass.types import manifest, signature, tensor

Run: TypeAlias = Callable[[tensor.Tensors], tensor.Tensors]

# The rows that parity asks for at least, and the most that are taken from a large example.
LEAST_ROWS = 32
MOST_ROWS = 256
# An odd size, beside 1, 2, 3 and the maximum: shapes folded for powers of two show up here.
ODD_BATCH = 17
_CHUNK = 64
_LARGE = 100.0
_PADDING = 5
# How many sizes above the least one are tried for a dimension that cannot be so small.
_SEARCHED = 64
_NUDGE = 1e-5


class Recorded(msgspec.Struct, frozen=True):
    """The trials; the signature with what running taught of it; the batch that the limits allow; notes for a person."""

    trials: tuple[draft.Trial, ...]
    signature: signature.Signature
    max_batch: int
    notes: tuple[str, ...]


def record(
    run: Run,
    spec: signature.Signature,
    example: tensor.Tensors,
    *,
    max_batch: int,
    seed: int,
    edges: Mapping[str, tensor.Tensors] = MappingProxyType({}),
) -> Recorded:
    """Try the original on `example` (axis 0 is the row when `spec` batches) and all that is made from it.

    `edges` are further edge cases that the source knows, by name.
    `CaptureFailed` if two runs differ, if a row's answer depends on the rows beside it, or if a batch size fails.
    An edge case that the original itself refuses is left out, with a note.
    """
    if not spec.inputs:
        raise errors.CaptureFailed("the model has no inputs, so nothing could be asked of it.")
    recorder = _Recorder(run, spec, np.random.default_rng(seed), max_batch)
    some = {name: array[:_CHUNK] for name, array in example.items()} if spec.batched else example
    require_repeatable(run, some)
    if spec.batched:
        recorder.bound(example)
        recorder.batches(example)
    else:
        recorder.variations(example)
    recorder.edges(example, edges)
    return Recorded(tuple(recorder.trials), recorder.spec, recorder.max_batch, tuple(recorder.notes))


def require_repeatable(run: Run, inputs: tensor.Tensors) -> None:
    """`CaptureFailed` unless two runs on the same inputs agree to the last bit."""
    first, second = run(inputs), run(inputs)
    for name, array in first.items():
        if not _same(array, second[name]):
            raise errors.CaptureFailed(
                f"the model answers the same input differently each time (output '{name}'): "
                "something random is at work in its forward pass.",
                hint="Is a dropout called with training=True, or a random number drawn? Make the answer deterministic.",
            )


def _same(a: tensor.Array, b: tensor.Array) -> bool:
    if a.shape != b.shape:
        return False
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _near(ours: tensor.Tensors, theirs: tensor.Tensors) -> bool:
    return golden.worst(ours, theirs, draft.RTOL, draft.ATOL).excess <= 1


class _Recorder:
    """Gathers trials of one model; each method tries one family of inputs."""

    def __init__(self, run: Run, spec: signature.Signature, rng: np.random.Generator, max_batch: int) -> None:
        self.run = run
        self.max_batch = max_batch
        self.spec = spec
        self.rng = rng
        self.trials: list[draft.Trial] = []
        self.notes: list[str] = []
        self._masks = {d.mask for d in spec.dimensions.values() if d.mask}

    def bound(self, example: tensor.Tensors) -> None:
        """Lower the largest batch to the rows that the limit on elements leaves."""
        per_row = max(1, sum(array.size for array in example.values()) // _count(example))
        allowed = max(1, min(self.max_batch, manifest.Limits().max_elements // per_row))
        if allowed < self.max_batch:
            self.notes.append(f"at {per_row} elements a row, a request may hold {allowed} rows, not {self.max_batch}.")
        self.max_batch = allowed

    def batches(self, example: tensor.Tensors) -> None:
        """Real rows first, then batches of 1, 2, 3, 17 and the maximum, then rows alone against rows together."""
        real = min(_count(example), MOST_ROWS)
        pool = {name: array[:real] for name, array in example.items()}
        chunk = min(_CHUNK, self.max_batch)
        for start in range(0, real, chunk):
            end = min(start + chunk, real)
            self._try(f"example rows {start}-{end - 1}", _rows(pool, range(start, end)))
        if real < LEAST_ROWS:
            more = self._resample(pool, LEAST_ROWS - real)
            pool = {name: np.concatenate([pool[name], more[name]]) for name in pool}
            for start in range(real, LEAST_ROWS, chunk):
                self._try("rows near the example", _rows(pool, range(start, min(start + chunk, LEAST_ROWS))))
            self.notes.append(f"{real} rows were given: {LEAST_ROWS - real} more were drawn near them.")
        size = _count(pool)
        start = 0
        for batch in sorted({min(b, self.max_batch) for b in (1, 2, 3, ODD_BATCH, self.max_batch)}):
            self._try(f"batch {batch}", _rows(pool, (np.arange(batch) + start) % size))
            start += batch
        if self.max_batch > 1:
            self._rows_alone(_rows(pool, (np.arange(3) * 7 + 1) % size))
            self._padded(_rows(pool, np.arange(2) % size))

    def variations(self, example: tensor.Tensors) -> None:
        """For a model that does not batch: the example, and others near it."""
        self._try("example", example)
        for index in range(1, LEAST_ROWS):
            self._try(f"near the example {index}", {n: self._perturb(n, a, a) for n, a in example.items()})
        self.notes.append(f"the model does not batch: {LEAST_ROWS - 1} inputs were drawn near the example.")

    def edges(self, example: tensor.Tensors, known: Mapping[str, tensor.Tensors]) -> None:
        """What the source knows, zeros, large values, the least and most of every dimension, and missing values."""
        few = _rows(example, np.arange(min(2, self.max_batch)) % _count(example)) if self.spec.batched else example
        specs = {item.name: item for item in self.spec.inputs}
        for name, inputs in known.items():
            self._edge(name, inputs)
        zeros = {n: self._keep_mask(n, a, synthetic.clip(specs[n], _zeros(a))) for n, a in few.items()}
        large = {
            n: self._keep_mask(n, few[n], synthetic.clip(specs[n], _large(a, few[n].shape))) for n, a in example.items()
        }
        for name, inputs in (("zeros", zeros), ("large", large)):
            if self._tied(inputs):
                self.notes.append(
                    f"the edge case '{name}' was left out: its answer is a tie, which anything may break."
                )
            else:
                self._edge(name, inputs)
        for name in sorted({d for item in self.spec.inputs for d in item.shape if isinstance(d, str)}):
            if name != signature.BATCH:
                self._lengths(name, few)
        self._missing(few)

    def _lengths(self, name: str, few: tensor.Tensors) -> None:
        """The least and the most of a free dimension; the signature learns a least that the original needs."""
        sizes, length = self.spec.dimension(name), self._length(few, name)
        candidates = range(sizes.minimum, max(sizes.minimum, min(length, sizes.minimum + _SEARCHED)) + 1)
        least = next((size for size in candidates if self._quietly(self._resize(few, name, size)) is not None), length)
        if least != sizes.minimum:
            self.notes.append(f"'{name}' is {least} at least: the original model refuses less.")
            dimensions = {**self.spec.dimensions, name: msgspec.structs.replace(sizes, minimum=least)}
            self.spec = msgspec.structs.replace(self.spec, dimensions=dimensions)
        self._edge(f"{name} {least}", self._resize(few, name, least))
        longest = sizes.maximum or 2 * length + 1
        one = _rows(few, range(1)) if self.spec.batched else few
        self._edge(f"{name} {longest}", self._resize(one, name, longest))

    def _tied(self, inputs: tensor.Tensors) -> bool:
        """Whether whole-number answers change when the inputs hardly do: then they say how a tie was broken."""
        nudged = {
            n: a + _NUDGE * self.rng.standard_normal(a.shape) if a.dtype.kind == "f" else a for n, a in inputs.items()
        }
        one = self._quietly(inputs)
        other = self._quietly({n: a.astype(inputs[n].dtype) for n, a in nudged.items()})
        if one is None or other is None:
            return False
        return any(not np.array_equal(a, other[n]) for n, a in one.items() if a.dtype.kind in "iub")

    def _missing(self, few: tensor.Tensors) -> None:
        """NaN in: where no finite number comes out, missing values are not taken, and the signature will say so."""
        floats = [n for n, a in few.items() if a.dtype.kind == "f" and a.size]
        for name in floats:
            holed = few[name].copy()
            holed.reshape(len(holed) if holed.ndim else 1, -1)[0, 0] = np.nan
            inputs = {**few, name: holed}
            answer = self._quietly(inputs)
            scores = [a for a in (answer or {}).values() if a.dtype.kind == "f"]
            if answer is not None and scores and all(np.isfinite(a).all() for a in scores):
                self.trials.append(draft.Trial(f"missing value in {name}", inputs, answer))
                continue
            kept = tuple(
                msgspec.structs.replace(s, missing="refuse") if s.name == name else s for s in self.spec.inputs
            )
            self.spec = msgspec.structs.replace(self.spec, inputs=kept)

    def _rows_alone(self, few: tensor.Tensors) -> None:
        together = self.run(few)
        each = [self.run(_rows(few, range(row, row + 1))) for row in range(_count(few))]
        alone = {name: np.concatenate([answer[name] for answer in each]) for name in together}
        worst = golden.worst(alone, together, draft.RTOL, draft.ATOL)
        if not worst.excess <= 1:
            raise errors.CaptureFailed(
                f"the answer for a row (output '{worst.output}') changes with the rows beside it in the batch: "
                "requests of different callers could not share a run.",
                hint="Does the forward pass normalize or pool over axis 0? Or capture it as a model that does "
                "not batch (batched=False).",
            )

    def _padded(self, few: tensor.Tensors) -> None:
        """A dimension stays ragged only if padding changes nothing; otherwise only equal lengths will share a run."""
        for name, known in list(self.spec.dimensions.items()):
            if not known.mask or known.mask not in few:
                continue
            length = self._length(few, name)
            longer = min(length + _PADDING, known.maximum or length + _PADDING)
            padded = {
                item.name: _pad(few[item.name], item.shape.index(name), longer - length)
                if name in item.shape
                else few[item.name]
                for item in self.spec.inputs
            }
            alone, beside = self.run(few), self.run(padded)
            crop = {o.name: (o.shape.index(name) if name in o.shape else None) for o in self.spec.outputs}
            if _near({o: _crop(beside[o], axis, length) for o, axis in crop.items()}, alone):
                continue
            dimensions = {**self.spec.dimensions, name: msgspec.structs.replace(known, mask="")}
            self.spec = msgspec.structs.replace(self.spec, dimensions=dimensions)
            self.notes.append(f"padding along '{name}' changes the answer: only requests of equal length share a run.")

    def _try(self, name: str, inputs: tensor.Tensors) -> None:
        try:
            outputs = self.run(inputs)
        except errors.InvalidInput as e:
            raise errors.CaptureFailed(
                f"the original model itself fails on '{name}': {e.message}",
                hint="A model that takes one fixed batch only is captured with batched=False.",
            ) from None
        if self.spec.batched:
            rows = _count(inputs)
            for output, array in outputs.items():
                if not array.ndim or len(array) != rows:
                    raise errors.CaptureFailed(
                        f"output '{output}' has shape {list(array.shape)} for {rows} rows: axis 0 is not the batch.",
                        hint="Return one entry a row, or capture it as a model that does not batch (batched=False).",
                    )
        self.trials.append(draft.Trial(name, inputs, outputs))

    def _edge(self, name: str, inputs: tensor.Tensors) -> None:
        outputs = self._quietly(inputs)
        if outputs is None:
            self.notes.append(f"the edge case '{name}' was left out: the original model refuses it.")
        else:
            self.trials.append(draft.Trial(name, inputs, outputs))

    def _quietly(self, inputs: tensor.Tensors) -> tensor.Tensors | None:
        try:
            return self.run(inputs)
        except errors.InvalidInput:
            return None

    def _resample(self, pool: tensor.Tensors, rows: int) -> tensor.Tensors:
        picked = self.rng.integers(0, _count(pool), rows)
        return {name: self._perturb(name, array[picked], array) for name, array in pool.items()}

    def _perturb(self, name: str, array: tensor.Array, seen: tensor.Array) -> tensor.Array:
        """Values near `array`, within what was `seen`; masks, text and categories are taken as they are."""
        item = next(i for i in self.spec.inputs if i.name == name)
        if name in self._masks or item.categories or array.dtype.kind not in "fiu" or not array.size:
            return array
        if array.dtype.kind in "iu":
            drawn = self.rng.integers(int(seen.min()), int(seen.max()), array.shape, endpoint=True)
            return drawn.astype(array.dtype)
        spread = 0.1 * np.abs(array) + 0.01 * float(np.nanstd(seen) or 1.0)
        return synthetic.clip(item, (array + spread * self.rng.standard_normal(array.shape)).astype(array.dtype))

    def _keep_mask(self, name: str, array: tensor.Array, made: tensor.Array) -> tensor.Array:
        return array if name in self._masks or array.dtype == object else made

    def _length(self, inputs: tensor.Tensors, name: str) -> int:
        return next(int(inputs[i.name].shape[i.shape.index(name)]) for i in self.spec.inputs if name in i.shape)

    def _resize(self, inputs: tensor.Tensors, name: str, length: int) -> tensor.Tensors:
        """The same inputs with the dimension `name` repeated or cut to `length`; a mask is all ones."""
        made = dict(inputs)
        for item in self.spec.inputs:
            for axis, dimension in enumerate(item.shape):
                if dimension == name:
                    array = made[item.name]
                    array = np.take(array, np.arange(length) % array.shape[axis], axis=axis)
                    made[item.name] = np.ones_like(array) if item.name in self._masks else array
        return made


def _count(tensors: tensor.Tensors) -> int:
    return len(next(iter(tensors.values())))


def _rows(tensors: tensor.Tensors, indices: range | tensor.Array) -> tensor.Tensors:
    picked = np.asarray(indices)
    return {name: array[picked] for name, array in tensors.items()}


def _zeros(array: tensor.Array) -> tensor.Array:
    return array if array.dtype == object else np.zeros_like(array)


def _large(array: tensor.Array, shape: tuple[int, ...]) -> tensor.Array:
    """Floats a hundred times the largest seen, of both signs; integers as large as any seen."""
    if array.dtype.kind not in "fiu" or not array.size:
        return np.resize(array, shape)
    if array.dtype.kind in "iu":
        return np.full(shape, array.max(), array.dtype)
    top = _LARGE * float(np.nanmax(np.abs(array)) or 1.0)
    signs = np.where(np.arange(np.prod(shape)).reshape(shape) % 2, -1.0, 1.0)
    return (top * signs).astype(array.dtype)


def _pad(array: tensor.Array, axis: int, count: int) -> tensor.Array:
    return np.pad(array, [(0, count if a == axis else 0) for a in range(array.ndim)])


def _crop(array: tensor.Array, axis: int | None, length: int) -> tensor.Array:
    return array if axis is None else np.take(array, np.arange(length), axis=axis)
