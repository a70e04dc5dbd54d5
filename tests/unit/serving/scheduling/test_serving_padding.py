"""Calls of different lengths in one batch: padded to a bucket, and answered as each would be alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.serving.scheduling import ragged
from windlass.types import inference, signature, tensor

MAX_ROWS = 8


def spec(name: str, *shape: int | str, datatype: str = "FP32") -> signature.TensorSpec:
    return signature.TensorSpec(name, datatype, ("batch", *shape))


RAGGED = signature.Signature(
    (spec("ids", "tokens", datatype="INT64"), spec("mask", "tokens", datatype="INT64")),
    (spec("sum"), spec("each", "tokens", datatype="INT64")),
    dimensions={"tokens": signature.Dimension(mask="mask")},
)


def masked(inputs: tensor.Tensors) -> tensor.Tensors:
    ids, mask = inputs["ids"], inputs["mask"]
    return {"sum": (ids * mask).sum(axis=1).astype(np.float32), "each": ids * 10}


def _ragged(lengths: list[int], seed: int) -> tensor.Tensors:
    random = np.random.default_rng(seed)
    ids = random.integers(1, 100, size=(len(lengths), max(lengths)))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return {"ids": ids * mask, "mask": mask}


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=3), min_size=1, max_size=10),
    inline=st.booleans(),
)
def test_padded_answers_equal_unpadded_ones(
    make_bench: Callable[..., Any], groups: list[list[int]], inline: bool
) -> None:
    bench = make_bench(RAGGED, masked, max_rows=MAX_ROWS, inline=inline)
    asked = [bench.ask(_ragged(lengths, seed)) for seed, lengths in enumerate(groups)]
    bench.settle()
    for one in asked:
        outcome = one.outcome
        assert isinstance(outcome, inference.InferResponse)
        alone = masked(one.call.request.inputs)
        for name, array in alone.items():
            np.testing.assert_array_equal(outcome.outputs[name], array)
    for inputs in bench.instance.batches:
        # Padding less than doubles the work, from sixteen on.
        longest = inputs["ids"].shape[1]
        shortest = int(inputs["mask"].sum(axis=1).min())
        assert len(inputs["ids"]) <= MAX_ROWS
        assert longest <= 70
        assert shortest >= 1


@given(st.integers(1, 1 << 20))
def test_a_bucket_holds_its_sizes_and_less_than_doubles_them(size: int) -> None:
    bucket = ragged.bucket_of(size)
    assert size <= bucket
    assert bucket == 16 or bucket < 2 * size
