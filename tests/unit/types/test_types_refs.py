"""types/refs.py: names that can never be paths, and one parser of references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.types import refs

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("toy", refs.Ref("default", name="toy")),
        ("toy@3", refs.Ref("version", name="toy", version=3)),
        ("toy:production", refs.Ref("alias", name="toy", alias="production")),
        (f"toy@{DIGEST}", refs.Ref("digest", name="toy", digest=DIGEST)),
        ("./toy", refs.Ref("path", path="./toy")),
        ("/srv/toy", refs.Ref("path", path="/srv/toy")),
        ("toy.windlass", refs.Ref("path", path="toy.windlass")),
    ],
)
def test_references(text: str, expected: refs.Ref) -> None:
    assert refs.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "Toy", "toy@0", "toy@01", "toy@-1", "toy@x", "toy@", "toy:", "toy:3", "toy:A", "toy@1:a", "a..b", "toy\n"],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        refs.parse(text)


@pytest.mark.threat("V4")
@pytest.mark.parametrize(
    "name",
    [
        "..", ".", "", "a/b", "../a", "a\\b", "a..b", "-a", "a-", ".a", "a.", "a b", "a\x00", "a\n", "A", "é", "a%2e",
        "a" * 129, "con:", "~", "a;b", "$(a)", "\u2024\u2024",
    ],
)  # fmt: skip
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(errors.UsageError):
        refs.check_name(name)


@pytest.mark.threat("V8")
def test_names_at_their_limit() -> None:
    assert refs.check_name("a" * 128)
    assert refs.check_alias("a" * 64)
    with pytest.raises(errors.UsageError):
        refs.check_alias("a" * 65)


@pytest.mark.threat("V4")
@given(st.text(alphabet="abz019._-/\\ A\0é", max_size=8))
def test_a_name_that_passes_is_one_plain_path_component(name: str) -> None:
    try:
        refs.check_name(name)
    except errors.UsageError:
        return
    assert name.isascii()
    assert name == name.lower()
    assert not set(name) & set("/\\:%~ \0")
    assert name.strip(".") == name
    assert ".." not in name


def test_nearest_helps_with_typing_errors() -> None:
    assert refs.nearest("frad", ["fraud", "toy"]) == "Did you mean 'fraud'?"
    assert refs.nearest("zzz", ["fraud"]) == ""
