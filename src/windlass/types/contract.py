"""A signature compiled into the check that every request passes before it may reach a model.

Built once per endpoint by serving and by `packaging/session.py`; run once per request on the hot path.
Must never change a tensor: what is wrong is refused, with the tensor's name, what came and what was expected.
"""

from __future__ import annotations

import numpy as np

from windlass import errors
from windlass.types import signature as signatures
from windlass.types import tensor

ShapeKey = tuple[tuple[int, ...], ...]
NO_KEY: ShapeKey = ()


class _Check:
    """One input's expectations, unpacked for speed."""

    __slots__ = ("bounded", "dtype", "rank", "refuses_nan", "spec", "symbols", "tail")

    def __init__(self, spec: signatures.TensorSpec) -> None:
        self.spec = spec
        self.dtype = tensor.dtype(spec.datatype)
        self.rank = len(spec.shape)
        self.symbols = tuple((axis, d) for axis, d in enumerate(spec.shape) if isinstance(d, str))
        # The usual case, [batch, fixed...], is one tuple comparison.
        only_batch = bool(spec.shape) and all(axis == 0 for axis, _ in self.symbols) and len(self.symbols) == 1
        self.tail = spec.shape[1:] if only_batch and spec.shape[0] == signatures.BATCH else None
        self.bounded = bool(spec.categories) or spec.minimum is not None or spec.maximum is not None
        self.refuses_nan = spec.missing == "refuse" and self.dtype.kind == "f"


class Contract:
    """Checks the inputs of a request against a signature.

    `max_rows` bounds the batch of one request, `max_elements` the elements of all its inputs together.
    """

    def __init__(self, signature: signatures.Signature, *, max_rows: int, max_elements: int) -> None:
        self.signature = signature
        self.max_rows = max_rows
        self.max_elements = max_elements
        self.names = tuple(spec.name for spec in signature.inputs)
        self.output_names = tuple(spec.name for spec in signature.outputs)
        self._checks = tuple(_Check(spec) for spec in signature.inputs)
        self._batched = signature.batched
        self._keyed = any(d != signatures.BATCH for c in self._checks for _, d in c.symbols)
        self._input_specs = {spec.name: spec for spec in signature.inputs}

        # Whether values count: against ranges and categories, or for being NaN (which JSON cannot say).
        self.bounds_values = any(check.bounded for check in self._checks)
        self.refuses_nan = any(check.refuses_nan for check in self._checks)

    def spec(self, name: str) -> signatures.TensorSpec:
        """The spec of the input `name`; `InvalidInput` naming the inputs there are."""
        try:
            return self._input_specs[name]
        except KeyError:
            expected = ", ".join(f"'{n}'" for n in self.names)
            raise errors.InvalidInput(f"unexpected input '{name[:64]}': the model's inputs are {expected}") from None

    def check(self, inputs: tensor.Tensors) -> tuple[int, ShapeKey]:
        """The rows of a request (1 if the model does not batch) and the key of those it may share a run with.

        Raises `InvalidInput` with the tensor's name, what came and what was expected.
        """
        if len(inputs) != len(self._checks):
            self._refuse_names(inputs)
        rows = -1
        elements = 0
        sizes: dict[str, int] | None = None
        for check in self._checks:
            name = check.spec.name
            array = inputs.get(name)
            if array is None:
                self._refuse_names(inputs)
                raise AssertionError("unreachable")
            if array.dtype != check.dtype:
                raise errors.InvalidInput(
                    f"input '{name}' has datatype {tensor.datatype(array)}: the model expects {check.spec.datatype}"
                )
            shape = array.shape
            if check.tail is not None and shape[1:] == check.tail and shape:
                if rows < 0:
                    rows = shape[0]
                    if sizes is not None:
                        sizes[signatures.BATCH] = rows
                elif shape[0] != rows:
                    raise errors.InvalidInput(f"input '{name}' has {shape[0]} rows: the inputs before it have {rows}")
            else:
                if sizes is None:
                    sizes = {} if rows < 0 else {signatures.BATCH: rows}
                self._check_shape(check, shape, sizes)
                rows = sizes.get(signatures.BATCH, rows)
            elements += array.size
            if check.refuses_nan and _has_nan(array):
                raise errors.InvalidInput(f"input '{name}' has missing values (NaN): the model takes none")
            if check.bounded:
                _check_values(check.spec, array)
        if not self._batched:
            rows = 1
        if rows < 1 or rows > self.max_rows:
            raise errors.InvalidInput(f"the request has {rows} rows: the model takes 1 to {self.max_rows}")
        if elements > self.max_elements:
            raise errors.InvalidInput(f"the request holds {elements} elements: at most {self.max_elements} are allowed")
        if not self._keyed:
            return rows, NO_KEY
        return rows, tuple(inputs[name].shape[1:] for name in self.names)

    def check_outputs(self, names: tuple[str, ...]) -> None:
        """Refuse requested outputs that the model does not have, or that are asked for twice."""
        for name in names:
            if name not in self.output_names:
                expected = ", ".join(f"'{n}'" for n in self.output_names)
                raise errors.InvalidInput(f"unexpected output '{name[:64]}': the model's outputs are {expected}")
        if len(set(names)) != len(names):
            raise errors.InvalidInput("an output is requested twice")

    def _check_shape(self, check: _Check, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        spec = check.spec
        expected = "[" + ", ".join(str(d) for d in spec.shape) + "]"
        if len(shape) != check.rank:
            raise errors.InvalidInput(f"input '{spec.name}' has shape {list(shape)}: the model expects {expected}")
        for axis, wanted in enumerate(spec.shape):
            size = shape[axis]
            if isinstance(wanted, int):
                if size != wanted:
                    raise errors.InvalidInput(
                        f"input '{spec.name}' has shape {list(shape)}: the model expects {expected}"
                    )
                continue
            if sizes.setdefault(wanted, size) != size:
                raise errors.InvalidInput(
                    f"input '{spec.name}' has {size} for dimension '{wanted}', "
                    f"another input has {sizes[wanted]}: they must agree"
                )
            if wanted == signatures.BATCH:
                continue
            known = self.signature.dimension(wanted)
            if size < known.minimum or (known.maximum is not None and size > known.maximum):
                upper = "any size" if known.maximum is None else str(known.maximum)
                raise errors.InvalidInput(
                    f"input '{spec.name}' has {size} for dimension '{wanted}': it may be {known.minimum} to {upper}"
                )

    def _refuse_names(self, inputs: tensor.Tensors) -> None:
        for name in inputs:
            self.spec(name)
        missing = ", ".join(f"'{name}'" for name in self.names if name not in inputs)
        raise errors.InvalidInput(f"missing input {missing}")


def _check_values(spec: signatures.TensorSpec, array: tensor.Array) -> None:
    if spec.categories:
        allowed = {c.encode() for c in spec.categories} if spec.datatype == "BYTES" else set(spec.categories)
        for value in array.ravel():
            seen = value if spec.datatype == "BYTES" else str(value)
            if seen not in allowed:
                raise errors.InvalidInput(f"input '{spec.name}' has a value outside its {len(allowed)} categories")
        return
    if array.dtype.kind not in "fiu" or array.size == 0:
        return
    # These two pass over NaN, and say nothing when there is nothing else.
    low, high = np.fmin.reduce(array, axis=None), np.fmax.reduce(array, axis=None)
    if spec.minimum is not None and low < spec.minimum:
        raise errors.InvalidInput(f"input '{spec.name}' has the value {low}: the least allowed is {spec.minimum}")
    if spec.maximum is not None and high > spec.maximum:
        raise errors.InvalidInput(f"input '{spec.name}' has the value {high}: the most allowed is {spec.maximum}")


def _has_nan(array: tensor.Array) -> bool:
    """Whether any element is NaN. A sum of squares is NaN only then, and takes a third of the time of a scan."""
    if array.dtype.itemsize < 4:
        return bool(np.isnan(array).any())
    flat = array.ravel()
    total = flat.dot(flat)
    return bool(total != total)
