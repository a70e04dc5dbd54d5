"""A person's rows in three parts that share none: to calibrate on, to compare candidates on, to confirm one on.

Called by `study.py` before anything is tried. Must never let copies of one row fall into two parts, nor guess a value
that is not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from windlass import errors
from windlass.packaging import dataset, evaluation, metrics, session
from windlass.types import fields, signature, tensor, tensor_codec

# Ranges settle with far fewer rows than accuracy.
MOST_CALIBRATION = 512
# Of the rows, where that is fewer.
_CALIBRATION_SHARE = 0.2
_BATCH = 64
_TEXT_BATCH = 16
_BATCH_BYTES = 1 << 26
# Labels with fewer rows each are numbers, whose strata are tenths.
_CLASS_ROWS = 20
_SYNTHETIC = 256


class Rows(msgspec.Struct, frozen=True):
    """Rows as the model takes them, in `batches`; `truth` and `columns` (of slices) hold theirs in the same order.

    `truth` are labels as the data set has them, `[rows]`, or None. `digest` is `sha256:<hex>` over which rows of which
    data set they are. `synthetic`: nobody sent them.
    """

    batches: tuple[tensor.Tensors, ...]
    truth: tensor.Array | None
    columns: fields.Columns
    digest: str
    rows: int
    synthetic: bool = False


class Split(msgspec.Struct, frozen=True):
    """Disjoint parts. Candidates are compared on `search`; the chosen one is confirmed once on `final`.

    `notes` say in sentences what a reader of the report should know of them.
    """

    calibration: Rows
    search: Rows
    final: Rows
    seed: int
    notes: tuple[str, ...] = ()


def split(
    parent: session.Session,
    data: dataset.Dataset,
    labels: str | None = None,
    *,
    slices: tuple[str, ...] = (),
    seed: int = 0,
) -> Split:
    """The parts of a data set, by a seeded shuffle stratified by label; rows of equal inputs stay together.

    `labels` and `slices` name columns. `UsageError` names the first column and row that the model does not take, or
    says how many rows are too few.
    """
    truth, columns = _apart(parent, data, labels)
    cut = {name: dataset.taken(data.columns, name) for name in slices}
    names = evaluation.takes(parent, columns)
    groups = _alike([columns[name] for name in names])
    parts = _dealt(groups, _strata(truth, data.rows), seed)
    least = min(len(np.unique(groups[part])) for part in parts[1:])
    if least < metrics.LEAST_ROWS:
        needed = int(np.ceil(2 * metrics.LEAST_ROWS / (1 - _CALIBRATION_SHARE)))
        raise errors.UsageError(
            f"{data.rows} rows ({int(groups.max()) + 1} of them different) are too few to compare forms on some and "
            f"confirm one on others: {needed} different rows are needed at the least.",
            hint="Give more rows; an accuracy budget of half a percent takes over a thousand.",
        )
    calibration, search, final = (_rows(parent, columns, truth, cut, part, data.digest) for part in parts)
    copies = data.rows - int(groups.max()) - 1
    notes = [f"{copies} rows have the inputs of another: copies stay in one part."] if copies else []
    return Split(calibration, search, final, seed, tuple(notes))


def rows(parent: session.Session, data: dataset.Dataset, labels: str | None = None) -> Rows:
    """All rows of a data set in their order, such as those to train on; `UsageError` as `split`."""
    truth, columns = _apart(parent, data, labels)
    return _rows(parent, columns, truth, {}, np.arange(data.rows), data.digest, ordered=False)


def unseen(train: Rows, split: Split) -> tensor.Array:
    """The numbers of the rows to train on that no part of the split holds, as the model takes them (int64 `[rows]`).

    `UsageError` if there is none: every form would look better than it is.
    """
    judged = {one for part in (split.calibration, split.search, split.final) for one in _marks(part)}
    left = np.array([row for row, one in enumerate(_marks(train)) if one not in judged], np.int64)
    if not left.size:
        raise errors.UsageError(
            "the rows to train on are those to judge on: every form would look better than it is.",
            hint="Keep rows apart for --data that no training has seen.",
        )
    return left


def _marks(rows: Rows) -> Iterator[bytes]:
    """Of each row a mark that equal rows share. Zeros at the end may be what fills a row up to its batch's longest."""
    for batch in rows.batches:
        named = sorted(batch.items())
        for row in range(len(named[0][1])):
            parts = (hashlib.sha256(values[row].tobytes().rstrip(b"\0")).digest() for _, values in named)
            yield b"".join(parts)


def synthetic(parent: session.Session, *, seed: int = 0) -> Split:
    """Parts without any data: rows drawn around the golden ones. Their limits are said in `notes`.

    Numbers are mixtures of two golden rows and a little noise, within what the signature allows; all else, which may
    hang together (tokens and their mask), is a golden row's own.
    """
    stored = tensor_codec.unpack(parent.package.read(parent.package.manifest.golden.inputs))
    if not parent.contract.signature.batched:
        raise errors.Unsupported("a model that takes no batches is not optimized.")
    random = np.random.default_rng(seed)
    calibration, search, final = (_drawn(parent, stored, random) for _ in range(3))
    note = (
        f"No data was given: answers were compared on {_SYNTHETIC} rows drawn around the package's golden rows. "
        "That they agree there says little of real rows, so only a form whose outputs stay nearly the same can "
        "be chosen. Give --data, and --labels where there are any."
    )
    return Split(calibration, search, final, seed, (note,))


def _apart(
    parent: session.Session, data: dataset.Dataset, labels: str | None
) -> tuple[tensor.Array | None, fields.Columns]:
    """The labels, and the other columns."""
    if not parent.contract.signature.batched:
        raise errors.Unsupported("a model that takes no batches is not judged on rows.")
    truth = None if labels is None else dataset.taken(data.columns, labels)
    return truth, {name: values for name, values in data.columns.items() if name != labels}


def _alike(columns: list[tensor.Array]) -> tensor.Array:
    """A number for each row, the same for rows whose values are all the same."""
    found = np.zeros(len(columns[0]), np.int64)
    for values in columns:
        if values.dtype == object:
            known: dict[Any, int] = {}
            each = np.array([known.setdefault(_told(one), len(known)) for one in values.tolist()])
        else:
            flat = np.ascontiguousarray(values.reshape(len(values), -1))
            whole = flat.view(np.dtype((np.void, max(1, flat.dtype.itemsize * flat.shape[1])))).ravel()
            each = np.unique(whole, return_inverse=True)[1].astype(np.int64)
        found = np.unique(found * (int(each.max()) + 1) + each, return_inverse=True)[1].astype(np.int64)
    return found


def _told(value: Any) -> Any:
    """A cell as what it is compared by; NaN is itself."""
    return value if value.__hash__ and value == value else repr(value)


def _strata(truth: tensor.Array | None, count: int) -> tensor.Array:
    """Rows by their label: of many numbers by tenths."""
    if truth is None:
        return np.zeros(count, np.int64)
    texts = ["" if one is None else one for one in dataset.texts(truth).tolist()]
    known, found = np.unique(texts, return_inverse=True)
    if len(known) * _CLASS_ROWS > count:
        try:
            values = dataset.numbers(truth, "labels")
        except errors.UsageError:
            return found
        if not np.isnan(values).any():
            return np.argsort(np.argsort(values, kind="stable")) * 10 // count
    return found


def _dealt(groups: tensor.Array, strata: tensor.Array, seed: int) -> tuple[tensor.Array, tensor.Array, tensor.Array]:
    """Row numbers of the three parts: groups in a shuffled order, by stratum, dealt in proportion."""
    count = int(groups.max()) + 1
    shuffled = np.random.default_rng(seed).permutation(count)
    # A group belongs to the stratum of its first row.
    first = np.unique(groups, return_index=True)[1]
    order = shuffled[np.argsort(strata[first][shuffled], kind="stable")]
    share = min(_CALIBRATION_SHARE, MOST_CALIBRATION / len(groups))
    at = np.arange(count)
    calibration = np.floor((at + 1) * share + 1e-9) > np.floor(at * share + 1e-9)
    part = np.empty(count, np.int64)
    part[order[calibration]] = 0
    part[order[~calibration]] = 1 + np.arange(int((~calibration).sum())) % 2
    of = part[groups]
    calibrating, searching, confirming = (np.flatnonzero(of == one) for one in range(3))
    return calibrating[:MOST_CALIBRATION], searching, confirming


def _rows(
    parent: session.Session,
    columns: fields.Columns,
    truth: tensor.Array | None,
    cut: fields.Columns,
    part: tensor.Array,
    source: str,
    *,
    ordered: bool = True,
) -> Rows:
    """Some rows, prepared in batches; texts from short to long, so that little of a batch is padding."""
    texts = [field.name for field in parent.transformer.fields if field.kind == "text" and field.name in columns]
    if texts and ordered:
        lengths = [sum(len(str(columns[name][row])) for name in texts) for row in part.tolist()]
        part = part[np.argsort(lengths, kind="stable")]
    first = evaluation.prepare(parent, columns, part[:1])
    step = _step(first, parent.contract.max_rows, _TEXT_BATCH if texts else _BATCH)
    batches = tuple(evaluation.prepare(parent, columns, part[at : at + step]) for at in range(0, len(part), step))
    told = hashlib.sha256(source.encode() + np.ascontiguousarray(part, np.int64).tobytes()).hexdigest()
    return Rows(
        batches,
        None if truth is None else truth[part],
        {name: values[part] for name, values in cut.items()},
        f"sha256:{told}",
        len(part),
    )


def _step(inputs: tensor.Tensors, most: int, wanted: int) -> int:
    """The rows of a batch: what the package takes, and no more than fit in a few megabytes."""
    one = sum(values.nbytes // max(1, len(values)) for values in inputs.values())
    return max(1, min(most, wanted, _BATCH_BYTES // max(1, one)))


def _drawn(parent: session.Session, stored: tensor.Tensors, random: np.random.Generator) -> Rows:
    first, second = random.integers(len(next(iter(stored.values()))), size=(2, _SYNTHETIC))
    share = random.random(_SYNTHETIC)
    inputs = parent.contract.signature.inputs
    found = {spec.name: _around(stored[spec.name], spec, first, second, share, random) for spec in inputs}
    step = _step(found, parent.contract.max_rows, _BATCH)
    batches = tuple(
        {name: values[at : at + step] for name, values in found.items()} for at in range(0, _SYNTHETIC, step)
    )
    told = hashlib.sha256(b"".join(tensor_codec.to_raw(values) for values in found.values())).hexdigest()
    return Rows(batches, None, {}, f"sha256:{told}", _SYNTHETIC, synthetic=True)


def _around(
    golden: tensor.Array,
    spec: signature.TensorSpec,
    first: tensor.Array,
    second: tensor.Array,
    share: tensor.Array,
    random: np.random.Generator,
) -> tensor.Array:
    if golden.dtype.kind != "f" or spec.categories:
        return golden[first]
    wide = golden.astype(np.float64)
    share = share.reshape(-1, *(1,) * (golden.ndim - 1))
    mixed = share * wide[first] + (1 - share) * wide[second]
    usual = wide[np.isfinite(wide)]
    noise = 0.02 * float(usual.std()) if usual.size else 0.0
    mixed = mixed + noise * random.standard_normal(mixed.shape)
    low = -np.inf if spec.minimum is None else spec.minimum
    high = np.inf if spec.maximum is None else spec.maximum
    return np.clip(mixed, low, high).astype(golden.dtype)
