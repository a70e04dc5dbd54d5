"""Parameters are read strictly: every mistake is named, and the nearest known key with it."""

from __future__ import annotations

import msgspec
import pytest

from windlass import errors
from windlass.transforms import parameters


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    categories: tuple[str, ...] = ()


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    width: int
    parts: tuple[Part, ...] = ()


def test_known_parameters_are_read() -> None:
    known = parameters.decode(Whole, {"width": 3, "parts": [{"categories": ["a"]}]}, transform="t", parts=(Part,))
    assert known == Whole(3, (Part(("a",)),))


@pytest.mark.parametrize(
    ("given", "nearest"),
    [({"widht": 3}, "width"), ({"width": 3, "parts": [{"categoris": []}]}, "categories")],
)
def test_an_unknown_key_names_the_nearest(given: dict[str, object], nearest: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        parameters.decode(Whole, given, transform="t", parts=(Part,))
    assert f"'{nearest}'" in caught.value.hint
    assert "'t'" in caught.value.message


@pytest.mark.parametrize("given", [{}, {"width": "3"}, {"width": 3.5}, {"width": None}])
def test_a_missing_or_mistyped_parameter_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidInput, match=r"width|object"):
        parameters.decode(Whole, given, transform="t")


@pytest.mark.parametrize("files", [{}, {"a": b"", "b": b""}, {"b": b""}])
def test_files_must_be_the_expected_ones(files: dict[str, bytes]) -> None:
    with pytest.raises(errors.InvalidInput, match="'a'"):
        parameters.require_files(files, ("a",), transform="t")
