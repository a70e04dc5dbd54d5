"""What an answer says in one word: the class that it gives a row, as a label would name it.

Used by `shadow.py` on its own thread. Must never guess: where a version has several outputs that could be meant, its
answers have no class.
"""

from __future__ import annotations

import msgspec
import numpy as np

from windlass.types import manifest, signature, tensor

_EXACT = ("BOOL", "BYTES", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_FLOATS = ("FP16", "FP32", "FP64")


class Reader(msgspec.Struct, frozen=True):
    """Where a version's answers have their class: in `output`, `[rows]` of classes or `[rows, classes]` of scores.

    `labels` name the classes of scores, by their places (none: "0", "1", ...). One column of scores is that of the
    second of two classes, which is meant above `above`.
    """

    output: str
    scores: bool
    labels: tuple[str, ...] = ()
    above: float = 0.5

    def read(self, outputs: tensor.Tensors, rows: int) -> list[str] | None:
        """One text a row; None where the output is not as it was said to be."""
        array = outputs.get(self.output)
        if array is None or array.ndim not in (1, 2) or not rows or len(array) != rows or not array.size:
            return None
        table = array.reshape(rows, -1)
        if not self.scores:
            return [_text(value) for value in table[:, 0].tolist()] if table.shape[1] == 1 else None
        places = (table[:, 0] > self.above).astype(np.int64) if table.shape[1] == 1 else table.argmax(axis=1)
        if not self.labels:
            return [str(place) for place in places.tolist()]
        if len(self.labels) != max(2, table.shape[1]):
            return None
        return [self.labels[place] for place in places.tolist()]


def reader(known: manifest.Manifest) -> Reader | None:
    """How to read a version's answers; None if they have no class.

    The `classify` transform says it; else an output that is the only one with one exact value a row (a number without
    fraction, a text); else the only output with several floats a row.
    """
    for transform in known.transforms:
        if transform.kind == "classify":
            said = transform.parameters
            sigmoid = said.get("activation", "softmax") == "sigmoid"
            return Reader(
                str(said["output"]), scores=True, labels=tuple(said.get("labels", ())), above=0.0 if sigmoid else 0.5
            )
    outputs = known.signature.outputs
    single = [one.name for one in outputs if one.datatype in _EXACT and _columns(one) == 1]
    if single:
        return Reader(single[0], scores=False) if len(single) == 1 else None
    several = [one.name for one in outputs if one.datatype in _FLOATS and len(one.shape) == 2 and _columns(one) != 1]
    return Reader(several[0], scores=True) if len(several) == 1 else None


def _columns(output: signature.TensorSpec) -> int:
    """How many a row has; 0: it is not known, or they are no row."""
    if len(output.shape) == 1:
        return 1
    width = output.shape[1] if len(output.shape) == 2 else 0
    return width if isinstance(width, int) else 0


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).lower() if isinstance(value, bool) else str(value)
