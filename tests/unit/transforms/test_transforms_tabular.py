"""Columns to tensors: scaling, categories, gaps, ranges, and the words of every refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.transforms import tabular

AGE = {"name": "age", "mean": 10.0, "scale": 2.0}
PORT = {"name": "port", "kind": "category", "categories": ["S", "C", "Q"]}


def load(*columns: dict[str, Any], **parameters: Any) -> tabular.Tabular:
    return tabular.Tabular.load({"columns": list(columns), **(parameters or {"input": "x"})}, {})


def text(*values: Any) -> Any:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def test_one_matrix_in_the_order_of_the_columns() -> None:
    given_ = {"port": text("Q", "S"), "age": np.array([12.0, 8.0])}
    made = load(AGE, PORT).apply(given_)
    assert made["x"].tolist() == [[1, 2], [-1, 0]]
    assert made["x"].dtype == np.float32
    assert set(given_) == {"port", "age"}


def test_one_hot_columns_stand_side_by_side() -> None:
    made = load({**PORT, "encoding": "onehot"}, AGE).apply({"port": text("C", "Q"), "age": np.array([10.0, 12.0])})
    assert made["x"].tolist() == [[0, 1, 0, 0], [0, 0, 1, 1]]


def test_separate_tensors_keep_their_own_datatype() -> None:
    transform = load(
        {"name": "n", "datatype": "FP64"},
        {"name": "i", "datatype": "INT64"},
        {"name": "t", "kind": "category", "encoding": "text"},
        {"name": "f"},
        separate=True,
    )
    made = transform.apply({"n": np.array([0.1]), "i": np.array([3.0]), "t": text("né"), "f": np.array([1.5])})
    assert {name: (array.dtype, array.shape) for name, array in made.items()} == {
        "n": (np.dtype(np.float64), (1, 1)),
        "i": (np.dtype(np.int64), (1, 1)),
        "t": (np.dtype(object), (1, 1)),
        "f": (np.dtype(np.float32), (1, 1)),
    }
    assert made["t"][0, 0] == "né".encode()


def test_a_double_matrix_keeps_every_digit() -> None:
    assert load({"name": "n"}, input="x", datatype="FP64").apply({"n": np.array([0.1])})["x"][0, 0] == 0.1


def test_gaps_become_what_the_parameters_say() -> None:
    transform = load(
        {"name": "a", "missing": "nan"},
        {"name": "b", "missing": "value", "fill": 4.0, "mean": 2.0},
        {**PORT, "missing": "nan", "unknown": "nan"},
        {"name": "q", "kind": "category", "categories": ["x", "y"], "missing": "value", "fill": "y"},
    )
    made = transform.apply({"a": np.array([np.nan, 1.0]), "port": text("?", None)})["x"]
    np.testing.assert_array_equal(made, [[np.nan, 2, np.nan, 1], [1, 2, np.nan, 1]])
    assert [field.required for field in transform.reads] == [False] * 4


def test_a_gap_in_one_hot_is_all_zeros() -> None:
    made = load({**PORT, "encoding": "onehot", "missing": "nan"}).apply({"port": text(None, "S")})
    assert made["x"].tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        (AGE, np.array([1.0, np.nan]), "column 'age', row 1: nan is missing"),
        (AGE, text("a", "b"), "column 'age' must hold numbers"),
        ({**AGE, "minimum": 0}, np.array([1.0, -1.0]), "row 1: -1.0 is below"),
        ({**AGE, "maximum": 9}, np.array([10.0]), "row 0: 10.0 is above"),
        ({"name": "age"}, np.array([1e39]), "row 0: 1e\\+39 is too large"),
        ({"name": "age"}, np.array([np.inf]), "row 0: inf is too large"),
        ({"name": "age", "scale": 1e-300}, np.array([1e300]), "is too large"),
        (PORT, text("S", None), "column 'port', row 1: the value is missing"),
        (PORT, text("X"), "row 0: 'X' is not one of 'S', 'C', 'Q'"),
        (PORT, text(3), "a text is expected"),
    ],
)
def test_bad_values_are_refused_with_column_and_row(column: dict[str, Any], values: Any, words: str) -> None:
    with pytest.raises(errors.InvalidInput, match=words):
        load(column).apply({column["name"]: values})


@pytest.mark.parametrize("value", [1.5, np.nan, 1e300])
def test_whole_numbers_are_whole(value: float) -> None:
    with pytest.raises(errors.InvalidInput):
        load({"name": "i", "datatype": "INT64", "missing": "nan"}, separate=True).apply({"i": np.array([value])})


def test_rows_must_agree_and_some_column_must_be_there() -> None:
    transform = load({"name": "a", "missing": "nan"}, {"name": "b", "missing": "nan"})
    with pytest.raises(errors.InvalidInput, match="'b' has 1 rows, the others have 2"):
        transform.apply({"a": np.ones(2), "b": np.ones(1)})
    with pytest.raises(errors.InvalidInput, match="no column is given: the model takes a, b"):
        transform.apply({})
    with pytest.raises(errors.InvalidInput, match="missing column 'age'"):
        load(AGE, {"name": "b"}).apply({"b": np.ones(1)})


def test_fields_tell_a_person_what_is_accepted() -> None:
    fields = load(AGE, PORT, {**PORT, "name": "open", "unknown": "nan"}).reads
    assert [(f.name, f.kind, f.categories) for f in fields] == [
        ("age", "number", ()),
        ("port", "category", ("S", "C", "Q")),
        ("open", "category", ()),
    ]


@pytest.mark.parametrize(
    ("columns", "parameters"),
    [
        ([], {"input": "x"}),
        ([AGE], {}),
        ([AGE], {"input": "x", "separate": True}),
        ([AGE, AGE], {"input": "x"}),
        ([{**AGE, "scale": 0}], {"input": "x"}),
        ([{**AGE, "missing": "value"}], {"input": "x"}),
        ([{**AGE, "fill": 1}], {"input": "x"}),
        ([{**AGE, "missing": "value", "fill": "x"}], {"input": "x"}),
        ([{**AGE, "datatype": "INT64"}], {"input": "x"}),
        ([{**AGE, "categories": ["a"]}], {"input": "x"}),
        ([{**PORT, "categories": []}], {"input": "x"}),
        ([{**PORT, "categories": ["a", "a"]}], {"input": "x"}),
        ([{**PORT, "encoding": "text"}], {"input": "x"}),
        ([{**PORT, "missing": "value", "fill": "Z"}], {"input": "x"}),
        ([{**AGE, "skale": 1}], {"input": "x"}),
    ],
)
def test_contradictory_parameters_are_refused(columns: list[dict[str, Any]], parameters: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidInput):
        tabular.Tabular.load({"columns": columns, **parameters}, {})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=8))
def test_any_number_is_taken_as_it_is_or_refused(values: list[float]) -> None:
    column = np.array(values)
    try:
        made = load({"name": "n"}).apply({"n": column})["x"]
    except errors.InvalidInput:
        assert np.isnan(column).any() or np.abs(column).max() > np.finfo(np.float32).max
    else:
        np.testing.assert_array_equal(made[:, 0], column.astype(np.float32))
