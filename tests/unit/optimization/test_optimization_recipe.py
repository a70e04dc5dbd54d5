"""Recipes: written, read, and refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.optimization import form, recipe

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
STEPS = st.builds(form.Step, technique=TEXTS, parameters=st.dictionaries(TEXTS, VALUES, max_size=4))
RECIPES = st.builds(
    recipe.Recipe,
    parent=TEXTS,
    seed=st.integers(0, 2**31 - 1),
    steps=st.lists(STEPS, min_size=1, max_size=4).map(tuple),
    result=TEXTS,
    data=st.dictionaries(TEXTS, TEXTS, max_size=3),
    software=TEXTS,
    isa=TEXTS,
    trains=st.booleans(),
)
GOOD = recipe.write(recipe.Recipe("sha256:aa", 3, (form.Step("quantize_static", {"per_channel": True, "bits": 8}),)))


@given(RECIPES)
def test_what_is_written_is_read_as_the_same(value: recipe.Recipe) -> None:
    assert recipe.read(recipe.write(value)) == value


def test_it_is_for_people() -> None:
    assert GOOD.splitlines()[:3] == ["format = 1", 'parent = "sha256:aa"', "seed = 3"]
    assert '[[steps]]\ntechnique = "quantize_static"\n[steps.parameters]\nper_channel = true\nbits = 8\n' in GOOD


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "format = 2", "format 2"),
        ("format = 1\n", "", "format None"),
        ("format = 1", "format = true", "format True"),
        ("seed = 3", "seed = '3'", "'seed'"),
        ("seed = 3", "seed = -5", "'seed'"),
        ("seed = 3", "seed = 2147483648", "'seed'"),
        ("seed = 3", "seed = 3\nsede = 4", "sede"),
        ("technique = ", "technic = ", "'steps[0]'"),
        ("technique = ", "fast = true\ntechnique = ", "fast"),
        ("bits = 8", "bits = 2026-11-20", "step 1"),
        ("bits = 8", "bits = nan", "step 1"),
        ("bits = 8", "bits = [inf]", "step 1"),
        ("bits = 8", f"bits = {'[' * 12}{']' * 12}", "step 1"),
        ("bits = 8", "bits =", "TOML"),
        ("parent = ", "parents = ", "parents"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, said: str) -> None:
    with pytest.raises(errors.UsageError) as raised:
        recipe.read(GOOD.replace(old, new))
    assert said in raised.value.message


def test_no_steps_and_too_many_are_refused() -> None:
    head = GOOD[: GOOD.index("[[steps]]")]
    for text in (f"{head}", f"steps = []\n{head}"):
        with pytest.raises(errors.UsageError):
            recipe.read(text)
    with pytest.raises(errors.UsageError, match="33 steps"):
        recipe.read(head + '[[steps]]\ntechnique = "graph"\n' * 33)


def test_deep_nesting_and_huge_files_are_refused() -> None:
    for text in (f"format = 1\na = {'[' * 5000}", "#" * (recipe.MAX_BYTES + 1)):
        with pytest.raises(errors.UsageError):
            recipe.read(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        recipe.read(text)
    except errors.UsageError:
        return
    raise AssertionError("a text without steps was read")


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), {"a": None}, b"x", "\ud800"])
def test_what_toml_cannot_hold_is_not_written(value: Any) -> None:
    with pytest.raises(errors.UsageError):
        recipe.write(recipe.Recipe("p", 0, (form.Step("graph", {"x": value}),)))
