"""The tensors of a model whose own file does not name them: `tensors.json`, beside the model in its package.

Read by the runtimes whose formats say too little (`torchscript`, `torch_export`, `aoti`, `python`), written by capture.
Must never guess a shape: what is not declared is not served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from windlass import errors
from windlass.runtimes import base
from windlass.types import signature, strict_json, tensor

FILE = "tensors.json"


class Tensors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Inputs in the order of the model's arguments, outputs in the order of its results.

    `keywords` calls the model with its inputs by name; `entry` is the `module:Class` of a python model.
    """

    inputs: tuple[signature.TensorSpec, ...]
    outputs: tuple[signature.TensorSpec, ...]
    keywords: bool = False
    entry: str = ""


def read(files: base.Files, runtime: str) -> Tensors:
    """What the package declares; `CorruptPackage` if it does not."""
    if FILE not in files:
        raise errors.CorruptPackage(f"the package has no '{FILE}' for the {runtime} runtime")
    try:
        return strict_json.decode(bytes(files[FILE]), Tensors, what=FILE)
    except errors.InvalidInput as e:
        raise errors.CorruptPackage(e.message) from None


def named(results: Any, specs: Sequence[signature.TensorSpec]) -> tensor.Tensors:
    """A model's results (one array, a sequence or a mapping of arrays) by the declared names; each must be an array.

    `InternalError` if there are more or fewer than declared, or one has another datatype or rank.
    """
    if isinstance(results, Mapping):
        found = [results.get(spec.name) for spec in specs]
    else:
        found = list(results) if isinstance(results, (tuple, list)) else [results]
    if len(found) != len(specs):
        raise errors.InternalError(f"the model gave {len(found)} results where {len(specs)} are declared")
    answer: tensor.Tensors = {}
    for spec, array in zip(specs, found, strict=True):
        if not isinstance(array, np.ndarray):
            raise errors.InternalError(f"the model gave no array for '{spec.name}'")
        if tensor.datatype(array) != spec.datatype or array.ndim != len(spec.shape):
            raise errors.InternalError(
                f"the model gave {tensor.datatype(array)} of rank {array.ndim} for '{spec.name}': "
                f"{spec.datatype} of rank {len(spec.shape)} is declared"
            )
        answer[spec.name] = array
    return answer
