"""What a package does with what is unusual: extremes, outliers, text that is long or empty, gaps, and broken requests.

Used by `gate.py`. What breaks the contract must be refused with a sentence; all else must be answered with numbers or
refused with a sentence. Must never count a failure as an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from windlass import errors
from windlass.packaging import session
from windlass.types import fields, signature, tensor

_LONG = 20_000
_SPANS = 10
Expected: TypeAlias = Literal["answer", "refusal", "either"]


class Case(msgspec.Struct, frozen=True):
    """One unusual request. `noted`: what came of it is worth knowing, and breaks no promise of the package."""

    name: str
    expected: Expected
    outcome: Literal["answered", "refused", "not finite", "failed"]
    verdict: Literal["passed", "failed", "noted"]
    words: str = ""


class _Try(msgspec.Struct, frozen=True):
    """`finite`: whether answers must be finite. `strict`: whether a failure is the package's fault."""

    name: str
    ask: Callable[[], tensor.Tensors]
    expected: Expected = "either"
    finite: bool = True
    strict: bool = True


def probe(loaded: session.Session, inputs: tensor.Tensors, columns: fields.Columns) -> tuple[Case, ...]:
    """Every unusual request that follows from the signature and the fields, made from rows that are usual.

    `inputs` are real rows as tensors; `columns` the same as a person sends them, empty where people send tensors.
    """
    tries = [*_structure(loaded, inputs), *_values(loaded, inputs), *_rows(loaded, inputs)]
    if columns:
        tries += _fields(loaded, columns)
    return tuple(_run(one) for one in tries)


def _run(tried: _Try) -> Case:
    try:
        # Extremes overflow on the way, which is what is looked for.
        with np.errstate(all="ignore"):
            answered = tried.ask()
    except errors.InvalidInput as e:
        verdict: Literal["passed", "failed"] = "failed" if tried.expected == "answer" else "passed"
        return Case(tried.name, tried.expected, "refused", verdict, e.message)
    except errors.WindlassError as e:
        return Case(tried.name, tried.expected, "failed", "failed" if tried.strict else "noted", e.message)
    except Exception as e:  # noqa: BLE001 - a transform that does not say what is wrong is what is looked for
        words = f"{type(e).__name__}: {e}"[:300]
        return Case(tried.name, tried.expected, "failed", "failed", words)
    if tried.expected == "refusal":
        return Case(tried.name, tried.expected, "answered", "failed", "it was answered, and breaks the contract")
    wrong = [name for name, a in answered.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
    if wrong:
        words = f"output '{wrong[0]}' holds NaN or an infinity"
        return Case(tried.name, tried.expected, "not finite", "failed" if tried.finite else "noted", words)
    return Case(tried.name, tried.expected, "answered", "passed")


def _structure(loaded: session.Session, inputs: tensor.Tensors) -> Iterator[_Try]:
    """Requests that are no requests."""

    def ask(name: str, made: tensor.Tensors) -> _Try:
        return _Try(name, lambda: loaded.run(made), "refusal")

    first = next(iter(inputs))
    one = inputs[first]
    yield ask(f"'{first}' missing", {name: a for name, a in inputs.items() if name != first})
    yield ask("an input too many", {**inputs, "windlass-unknown": one})
    other = np.float16 if one.dtype != np.float16 else np.float64
    yield ask(f"'{first}' of another datatype", {**inputs, first: np.zeros(one.shape, other)})
    yield ask(f"'{first}' with an axis too many", {**inputs, first: one[..., None]})
    if loaded.contract.signature.batched:
        yield ask("no rows", {name: a[:0] for name, a in inputs.items()})
        yield ask("a row too many", _repeated(inputs, loaded.contract.max_rows + 1))


def _rows(loaded: session.Session, inputs: tensor.Tensors) -> Iterator[_Try]:
    yield _Try("one row", lambda: loaded.run({name: a[:1] for name, a in inputs.items()}), "answer")
    many = _repeated(inputs, loaded.contract.max_rows)
    if sum(a.size for a in many.values()) <= min(loaded.contract.max_elements, 1 << 22):
        yield _Try(f"{loaded.contract.max_rows} rows, the most there may be", lambda: loaded.run(many), "answer")


def _values(loaded: session.Session, inputs: tensor.Tensors) -> Iterator[_Try]:
    for spec in loaded.contract.signature.inputs:
        for name, array, options in _unusual(spec, inputs[spec.name]):
            made = {**inputs, spec.name: array}
            yield _Try(f"'{spec.name}' {name}", _asked(loaded, made), **options)


def _asked(loaded: session.Session, made: tensor.Tensors) -> Callable[[], tensor.Tensors]:
    return lambda: loaded.run(made)


def _unusual(spec: signature.TensorSpec, usual: tensor.Array) -> Iterator[tuple[str, tensor.Array, dict[str, Any]]]:
    """What one input could hold, and what must come of it."""
    if usual.dtype == object:
        for name, text in (("empty", b""), ("very long", b"a " * (_LONG // 2)), ("not ASCII", "é漢\u0301🙂".encode())):
            yield name, _filled(usual, text), {}
        if spec.categories:
            yield "of an unknown category", _filled(usual, b"windlass-unknown"), {"expected": "refusal"}
        return
    if usual.dtype.kind == "b" or not usual.size:
        return
    kind = usual.dtype.kind
    finite = usual[np.isfinite(usual)] if kind == "f" else usual
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    # An index beyond its table fails in the run: the signature could say the range, and need not.
    loose = {"strict": False} if kind in "iu" else {}
    yield "all zeros", _filled(usual, 0), dict(loose)
    yield "at its least seen", _filled(usual, low), {}
    yield "at its most seen", _filled(usual, high), {}
    if spec.minimum is None and kind == "f":
        yield f"{_SPANS} spans below what was seen", _filled(usual, low - _SPANS * (high - low or 1)), {}
    if spec.maximum is None and kind == "f":
        yield f"{_SPANS} spans above what was seen", _filled(usual, high + _SPANS * (high - low or 1)), {}
    limits = np.finfo(usual.dtype) if kind == "f" else np.iinfo(usual.dtype)
    bounded = spec.minimum is not None, spec.maximum is not None
    for name, value, declared in (("least", limits.min, bounded[0]), ("largest", limits.max, bounded[1])):
        expected = {"expected": "refusal"} if declared else {"finite": False, "strict": False}
        yield f"at the {name} of {spec.datatype}", _filled(usual, value), expected
    if kind == "f":
        refused = spec.missing == "refuse"
        gaps = {"expected": "refusal"} if refused else {"finite": False}
        yield "missing (NaN)", _filled(usual, np.nan), gaps
        yield "infinite", _filled(usual, np.inf), {"expected": "refusal"} if bounded[1] else {"finite": False}


def _fields(loaded: session.Session, columns: fields.Columns) -> Iterator[_Try]:
    for field in loaded.transformer.fields:
        if field.name not in columns:
            continue
        usual = columns[field.name]
        without = {name: values for name, values in columns.items() if name != field.name}
        expected: Expected = "refusal" if field.required else "answer"
        if without:
            # A gap that is allowed may still come out as NaN, where the model has no answer for it.
            yield _Try(f"field '{field.name}' left out", _predicted(loaded, without), expected, finite=False)
        gaps = np.full(len(usual), np.nan) if field.kind == "number" else np.full(len(usual), None, object)
        asked = _predicted(loaded, {**columns, field.name: gaps})
        yield _Try(f"field '{field.name}' missing in each row", asked, expected, finite=False)
        if field.kind in ("text", "category"):
            for name, text in (("empty", ""), ("very long", "a " * (_LONG // 2)), ("unknown", "windlass-unknown")):
                closed = field.kind == "category" and bool(field.categories)
                made = _predicted(loaded, {**columns, field.name: np.full(len(usual), text, object)})
                must: Expected = "refusal" if closed else "either"
                yield _Try(f"field '{field.name}' {name}", made, must, finite=False)


def _predicted(loaded: session.Session, columns: fields.Columns) -> Callable[[], tensor.Tensors]:
    return lambda: loaded.predict(columns)


def _filled(usual: tensor.Array, value: Any) -> tensor.Array:
    with np.errstate(over="ignore"):
        return np.full(usual.shape, value, usual.dtype)


def _repeated(inputs: tensor.Tensors, rows: int) -> tensor.Tensors:
    return {name: np.resize(a, (rows, *a.shape[1:])) for name, a in inputs.items()}
