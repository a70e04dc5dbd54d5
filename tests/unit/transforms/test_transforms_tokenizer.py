"""Text to token ids: padding, truncation, bounds, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from windlass import errors
from windlass.transforms import tokenizer
from windlass.types import fields

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c"]


def make(special: bool = True) -> bytes:
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    made.enable_padding(length=64)
    return made.to_str().encode()


FILE = make()


def load(**parameters: Any) -> tokenizer.Tokenizer:
    return tokenizer.Tokenizer.load({"max_length": 6, **parameters}, {"tokenizer.json": FILE})


def texts(*rows: Any) -> fields.Columns:
    column = np.empty(len(rows), object)
    column[:] = rows
    return {"text": column}


def test_texts_are_padded_to_the_longest_and_nothing_more() -> None:
    made = load(inputs=["input_ids", "attention_mask", "token_type_ids"]).apply(texts("a", "a b c"))
    assert made["input_ids"].tolist() == [[1, 4, 2, 0, 0], [1, 4, 5, 6, 2]]
    assert made["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert made["token_type_ids"].tolist() == [[0] * 5, [0] * 5]
    assert {array.dtype for array in made.values()} == {np.dtype(np.int64)}


def test_the_datatype_and_the_padding_are_the_models() -> None:
    made = load(datatype="INT32", pad_id=3).apply(texts("a", "b c"))
    assert made["input_ids"].dtype == np.int32
    assert made["input_ids"][0].tolist() == [1, 4, 2, 3]


def test_a_long_text_is_cut_and_the_field_says_so() -> None:
    transform = load()
    assert transform.apply(texts("a b c a b c a"))["input_ids"].tolist() == [[1, 4, 5, 6, 4, 2]]
    assert "6 tokens" in transform.reads[0].meaning


def test_many_texts_are_as_few() -> None:
    transform = load()
    rows = ["a b", "c", "a a a a a a a", "x"] * 5
    together = transform.apply(texts(*rows))
    for row, text in enumerate(rows):
        alone = transform.apply(texts(text))["input_ids"][0]
        assert together["input_ids"][row, : len(alone)].tolist() == alone.tolist()
        assert together["attention_mask"][row].sum() == len(alone)


def test_other_columns_pass_and_the_given_ones_stay() -> None:
    columns = {**texts("a"), "other": np.array([1.0])}
    made = load().apply(columns)
    assert set(made) == {"other", "input_ids", "attention_mask"}
    assert set(columns) == {"text", "other"}


@pytest.mark.parametrize("value", [None, 3, b"a", float("nan")])
def test_what_is_no_text_is_refused_with_its_row(value: object) -> None:
    with pytest.raises(errors.InvalidInput, match="row 1"):
        load().apply(texts("a", value))


def test_a_missing_field_is_named() -> None:
    with pytest.raises(errors.InvalidInput, match="'text'"):
        load().apply({})


def test_a_text_is_bounded_before_it_is_tokenized() -> None:
    with pytest.raises(errors.InvalidInput, match="at most 5"):
        load(max_chars=5).apply(texts("aaaaaa"))
    assert load().apply(texts("a " * 30_000))["input_ids"].shape == (1, 6)


def test_half_a_surrogate_pair_is_refused() -> None:
    for rows in (["\ud800"], ["\ud800"] * 20):
        with pytest.raises(errors.InvalidInput, match="surrogate"):
            load().apply(texts(*rows))


def test_a_text_without_tokens_is_refused() -> None:
    transform = tokenizer.Tokenizer.load({"max_length": 6}, {"tokenizer.json": make(special=False)})
    with pytest.raises(errors.InvalidInput, match=r"row 1.*no tokens"):
        transform.apply(texts("a", " "))


@pytest.mark.parametrize(
    "parameters",
    [{"max_length": 2}, {"max_length": 0}, {"inputs": ["attention_mask"]}, {"inputs": ["input_ids"] * 2}, {"pad": 1}],
)
def test_wrong_parameters_are_refused(parameters: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidInput):
        load(**parameters)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[1]", FILE[:-9]])
def test_a_file_that_is_no_tokenizer_is_corrupt(data: bytes) -> None:
    with pytest.raises(errors.CorruptPackage):
        tokenizer.Tokenizer.load({"max_length": 6}, {"tokenizer.json": data})


SHARED = load()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=12))
def test_any_text_gives_tensors_that_agree(rows: list[str]) -> None:
    made = SHARED.apply(texts(*rows))
    ids, mask = made["input_ids"], made["attention_mask"]
    assert ids.shape == mask.shape
    assert ids.shape[0] == len(rows)
    assert 2 <= ids.shape[1] <= 6
    # Padding is on the right, and the longest row has none.
    assert (np.diff(mask, axis=1) <= 0).all()
    assert mask.sum(axis=1).max() == ids.shape[1]
    assert (ids[mask == 0] == 0).all()
