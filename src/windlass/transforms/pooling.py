"""Token vectors to one vector a text: mean, first token or maximum, optionally of length one.

Loaded through the catalogue. Must never count padding: tokens whose mask is zero have no say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from windlass import errors
from windlass.transforms import parameters as params
from windlass.types import fields, tensor


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`output` is the model's `[rows, tokens, width]`; `mask` the model input that is zero on padding."""

    output: Annotated[str, msgspec.Meta(min_length=1)] = "last_hidden_state"
    mask: Annotated[str, msgspec.Meta(min_length=1)] = "attention_mask"
    mode: Literal["mean", "cls", "max"] = "mean"
    normalize: bool = True
    into: Annotated[str, msgspec.Meta(min_length=1)] = "embedding"


class Pooling:
    """Takes `output` FP32 `[rows, tokens, width]` and `mask` `[rows, tokens]`, gives `into` FP32 `[rows, width]`.

    The method is sentence-transformers' `Pooling` and `Normalize` (Reimers and Gurevych, 2019).
    """

    name: ClassVar[str] = "pooling"
    stage: Literal["pre", "post"] = "post"
    reads: tuple[fields.Field, ...] = ()
    media: tuple[str, ...] = ()
    inline_bytes = 1 << 20

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self.needs: tuple[str, ...] = (parameters.mask,)

    @classmethod
    def load(cls, parameters: Mapping[str, Any], files: Mapping[str, bytes]) -> Pooling:
        """The transform; `InvalidInput` on wrong parameters or any file."""
        params.require_files(files, (), transform=cls.name)
        return cls(params.decode(Parameters, parameters, transform=cls.name))

    def apply(self, columns: fields.Columns) -> fields.Columns:
        """Columns with the vectors of tokens and the mask replaced by the pooled vectors."""
        known = self._parameters
        hidden = columns.get(known.output)
        mask = columns.get(known.mask)
        if hidden is None or mask is None or hidden.ndim != 3 or mask.ndim != 2:
            raise errors.InvalidInput(
                f"pooling needs output '{known.output}' [rows, tokens, width] and input '{known.mask}' [rows, tokens]"
            )
        # A batch that was padded to another request's length is longer than this request's own mask.
        pooled = _pool(hidden[:, : mask.shape[1]], mask != 0, known.mode)
        if known.normalize:
            length = np.sqrt(np.einsum("rw,rw->r", pooled, pooled))
            pooled = pooled / np.maximum(length, 1e-12)[:, None]
        answer = {name: column for name, column in columns.items() if name not in (known.output, known.mask)}
        answer[known.into] = pooled.astype(hidden.dtype, copy=False)
        return answer


def _pool(hidden: tensor.Array, real: tensor.Array, mode: str) -> tensor.Array:
    """`[rows, tokens, width]` to `[rows, width]` over the tokens where `real` is True."""
    if mode == "cls":
        return hidden[:, 0]
    if mode == "max":
        return np.asarray(np.where(real[:, :, None], hidden, np.finfo(hidden.dtype).min).max(axis=1))
    weights = real.astype(hidden.dtype)
    total = np.matmul(weights[:, None, :], hidden)[:, 0]
    return np.asarray(total / np.maximum(weights.sum(axis=1), 1e-9)[:, None])
